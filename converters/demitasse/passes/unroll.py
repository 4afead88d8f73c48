"""Write recurrent operations out for targets that have none.

`Recurrent` becomes the operations of each of its steps (ir/steps.py has the derivation); what nobody reads of its
results isn't made. A sequence of more than `MOST_STEPS` steps stays as it is: it is for a target to refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from demitasse.ir import ops
from demitasse.ir.graph import Graph, Node
from demitasse.ir.ops import AnyOp, DType, Shape, TensorType
from demitasse.ir.steps import MOST_STEPS, Cell, Step, apply_curve, run, stacked
from demitasse.ir.weights import Array

__all__ = ["unroll"]


def unroll(graph: Graph) -> Graph:
    """Write every recurrent operation out, step by step; a graph without one is given back itself."""
    if not any(isinstance(node.op, ops.Recurrent) for node in graph.nodes):
        return graph
    result = graph.shell()
    read = {name for node in graph.nodes for name in node.inputs}.union(graph.outputs)
    named = {name for layer in graph.layers for name in layer.outputs}
    known: dict[tuple[str, str], str] = {}
    for node in graph.nodes:
        if isinstance(node.op, ops.Recurrent) and graph.type(node.inputs[0]).shape[1] <= MOST_STEPS:
            _write_out(_Author(graph, result, node, known), node.op, read | named)
        else:
            result.adopt(graph, node)
    result.outputs = list(graph.outputs)
    return result


class _Author:
    """Writes what takes the place of one node; weights are made once for all of them."""

    def __init__(self, old: Graph, new: Graph, node: Node, known: dict[tuple[str, str], str]) -> None:
        self.old, self.new, self.node = old, new, node
        self._known = known
        self._stem = node.outputs[0]

    def apply(self, op: AnyOp, *inputs: str) -> str:
        spoken = str(op.function.value) if isinstance(op, ops.Unary | ops.Binary) else type(op).__name__.lower()
        return self.new.add(op, inputs, self.fresh(f"{self._stem}/{spoken}"), self.node.origin)

    def constant(self, value: float) -> str:
        key = ("constant", repr(value))
        if key not in self._known:
            name = self.fresh(f"{self._stem}/constant")
            self._known[key] = self.new.add_weight(name, np.array(value, np.float32))
        return self._known[key]

    def shape(self, value: str) -> Shape:
        return self.new.type(value).shape

    def part(self, weight: str, role: str, shape: Shape, compute: Callable[[Array], Array]) -> str:
        key = (weight, role)
        if key not in self._known:
            deferred = partial(_computed, self.old, weight, compute)
            self._known[key] = self.new.weights.defer(
                self.fresh(f"{weight}/{role}"), TensorType(shape, DType.FLOAT32), deferred
            )
        return self._known[key]

    def fresh(self, name: str) -> str:
        """Return a name that neither graph has: what the old one calls so may follow."""
        candidate = self.new.fresh(name)
        while candidate in self.old.values or candidate in self.old.weights:
            candidate = self.new.fresh(f"{candidate}@unrolled")
        return candidate


def _computed(graph: Graph, weight: str, compute: Callable[[Array], Array]) -> Array:
    return compute(graph.weights[weight]).astype(np.float32, copy=False)


def _write_out(author: _Author, op: ops.Recurrent, wanted: set[str]) -> None:
    node, graph = author.node, author.new
    x, kernel, recurrent, *rest = node.inputs
    graph.weights.copy_from(author.old.weights, [name for name in node.inputs if name in author.old.weights])
    cell = Cell(
        op.cell,
        kernel,
        recurrent,
        rest[0] if op.is_biased else None,
        partial(apply_curve, author, op.activation),
        partial(apply_curve, author, op.gate),
    )
    places = range(author.shape(x)[1])
    order = list(reversed(places) if op.backwards else places)
    first = len(graph.nodes)
    outputs, states = run(author, cell, x, op.states(node.inputs), [Step(place) for place in order])
    sequence, *last = node.outputs
    names = {value: name for value, name in zip(states, last, strict=True) if name in wanted}
    if sequence in wanted:
        names[stacked(author, outputs[::-1] if op.backwards else outputs)] = sequence
    _rename(graph, first, names)


def _rename(graph: Graph, first: int, names: Mapping[str, str]) -> None:
    """Give values that the nodes from the first one on make other names."""
    for index, node in enumerate(graph.nodes[first:], first):
        inputs, outputs = (tuple(names.get(each, each) for each in side) for side in (node.inputs, node.outputs))
        graph.nodes[index] = Node(node.op, inputs, outputs, node.origin)
    for old, new in names.items():
        graph.values[new] = replace(graph.values.pop(old), name=new)
