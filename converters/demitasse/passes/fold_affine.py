"""Fold multiplications and additions of constants into the product before them.

Derivation. Let `y = K * x + b` be a convolution, transposed convolution or dense product, and `z = (y * s) + t` with
`s` and `t` constant along everything but the output channel. Then `z = (K * s) * x + (b * s + t)`, each output
channel's kernel scaled by its own `s`. Where no product comes before, a chain of such steps becomes one `Mul` and one
`Add`: `((x * s1 + t1) * s2) + t2 = x * (s1 * s2) + (t1 * s2 + t2)`.

The constants are combined in float64 and rounded once; kernels are deferred, scaled when a writer asks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from demitasse.ir import ops
from demitasse.ir.graph import Graph, Merge, MergeKind, Node
from demitasse.ir.ops import BinaryFunction
from demitasse.ir.weights import Array

__all__ = ["fold_affine"]

_Product = ops.Conv | ops.ConvTranspose | ops.Dense


@dataclass(frozen=True, slots=True)
class _Affine:
    """`x * scale + shift`, each None or of a shape that broadcasts to `x`."""

    scale: Array | None
    shift: Array | None

    def then(self, function: BinaryFunction, constant: Array) -> _Affine:
        match function:
            case BinaryFunction.MUL | BinaryFunction.DIV:
                factor = constant if function is BinaryFunction.MUL else 1.0 / constant
                scale = factor if self.scale is None else self.scale * factor
                return _Affine(scale, None if self.shift is None else self.shift * factor)
            case _:
                term = constant if function is BinaryFunction.ADD else -constant
                return _Affine(self.scale, term if self.shift is None else self.shift + term)


def _step(node: Node, graph: Graph) -> tuple[str, BinaryFunction, str] | None:
    """Match `value * constant`, `/`, `+` or `-`, in either order where it commutes."""
    if not isinstance(node.op, ops.Binary) or node.op.activation is not ops.Activation.NONE:
        return None
    function, (left, right) = node.op.function, node.inputs
    if function not in (BinaryFunction.MUL, BinaryFunction.ADD, BinaryFunction.DIV, BinaryFunction.SUB):
        return None
    if left in graph.weights and function in (BinaryFunction.MUL, BinaryFunction.ADD):
        left, right = right, left
    if left in graph.weights or right not in graph.weights:
        return None
    if graph.type(left) != graph.type(node.outputs[0]) or not graph.type(left).dtype.is_float:
        return None  # the constant widens the value by broadcasting
    return left, function, right


def _chain(start: str, graph: Graph, consumers: dict[str, list[Node]], fits: Callable[[str], bool]) -> list[Node]:
    """Follow the affine steps from a value for as long as each result has one reader."""
    chain: list[Node] = []
    name = start
    while name not in graph.outputs and len(consumers.get(name, [])) == 1:
        reader = consumers[name][0]
        step = _step(reader, graph)
        if step is None or step[0] != name or not fits(step[2]):
            break
        chain.append(reader)
        name = reader.outputs[0]
    return chain


def _channel_axis(op: ops.AnyOp, rank: int) -> int:
    return op.layout.channel_axis(rank) if isinstance(op, ops.SpatialOp) else rank - 1


def _is_per_channel(shape: ops.Shape, axis: int, rank: int) -> bool:
    full = (1,) * (rank - len(shape)) + shape
    return all(dim == 1 for place, dim in enumerate(full) if place != axis)


def _any_constant(_: str) -> bool:
    return True


def _combine(chain: list[Node], graph: Graph) -> _Affine:
    affine = _Affine(None, None)
    for node in chain:
        step = _step(node, graph)
        if step is not None:
            affine = affine.then(step[1], graph.weights[step[2]].astype(np.float64))
    return affine


def fold_affine(graph: Graph) -> Graph:
    """Fold chains of constant multiplications and additions; a chain stops at a value that has a second reader."""
    consumers = graph.consumers()
    result = graph.shell()
    absorbed: set[str] = set()
    for node in graph.nodes:
        if node.outputs[0] in absorbed:
            continue
        rank = graph.type(node.outputs[0]).rank
        if isinstance(node.op, _Product) and node.op.activation is ops.Activation.NONE and _owns_kernel(node, graph):
            axis = _channel_axis(node.op, rank)
            chain = _chain(
                node.outputs[0],
                graph,
                consumers,
                lambda name, axis=axis, rank=rank: _is_per_channel(graph.type(name).shape, axis, rank),  # type: ignore[misc]
            )
            if chain:
                _emit_product(result, graph, node, chain, len(consumers[node.inputs[1]]) == 1)
                absorbed.update(_record(result, [node, *chain]))
                continue
        elif (step := _step(node, graph)) is not None:
            chain = [node, *_chain(node.outputs[0], graph, consumers, _any_constant)]
            if _shortens(chain, graph):
                _emit_affine(result, graph, step[0], chain)
                absorbed.update(_record(result, chain))
                continue
        result.adopt(graph, node)
    result.outputs = list(graph.outputs)
    return result


def _owns_kernel(node: Node, graph: Graph) -> bool:
    """Check that kernel and bias are weights: a computed kernel can't be scaled ahead of time."""
    return all(name in graph.weights for name in node.inputs[1:])


def _record(result: Graph, chain: list[Node]) -> list[str]:
    """Note that all but the last value of a chain went into the last; return the values that need no node."""
    final = chain[-1].outputs[0]
    for node in chain[:-1]:
        result.merged[node.outputs[0]] = Merge(MergeKind.FOLDED, final)
    return [node.outputs[0] for node in chain]


def _scaled_kernel(graph: Graph, name: str, op: ops.AnyOp, scale: Array) -> Array:
    """Multiply each output channel of a kernel by its scale."""
    kernel = graph.weights[name]
    if isinstance(op, ops.ConvTranspose):
        # [in, out / groups, ...]: the output channel is (group of `in`, second axis).
        spatial = kernel.shape[2:]
        grouped = kernel.reshape(op.groups, -1, *kernel.shape[1:])
        factors = scale.reshape(op.groups, 1, kernel.shape[1], *(1 for _ in spatial))
        return _rounded_product(grouped, factors).reshape(kernel.shape)
    return _rounded_product(kernel, scale.reshape(-1, *(1 for _ in kernel.shape[1:])))


def _rounded_product(kernel: Array, factors: Array) -> Array:
    """Multiply in float64 and round to float32, in numpy's own small buffers instead of a wide copy."""
    return np.multiply(kernel, factors, out=np.empty(kernel.shape, np.float32), dtype=np.float64, casting="same_kind")


def _emit_product(result: Graph, graph: Graph, node: Node, chain: list[Node], sole: bool) -> None:
    """Append the product with the chain's scale and shift in its kernel and bias, under the chain's last name."""
    affine = _combine(chain, graph)
    final = chain[-1].outputs[0]
    channels = graph.type(final).shape[_channel_axis(node.op, graph.type(final).rank)]
    kernel, *bias = node.inputs[1:]
    suffix = "" if sole else f"@{chain[-1].origin.layer}"
    inputs = [node.inputs[0], kernel]
    if affine.scale is not None:
        scale = np.broadcast_to(affine.scale.reshape(-1), (channels,))
        inputs[1] = result.fresh(kernel + suffix)
        result.weights.defer(inputs[1], graph.type(kernel), partial(_scaled_kernel, graph, kernel, node.op, scale))
    old = graph.weights[bias[0]].astype(np.float64) if bias else np.zeros(channels)
    if affine.scale is not None:
        old = old * affine.scale.reshape(-1)
    if affine.shift is not None:
        old = old + affine.shift.reshape(-1)
    if bias or affine.shift is not None:
        stem = bias[0] if bias else f"{kernel.rpartition('/')[0] or kernel}/bias"
        name = result.fresh(stem + suffix)
        inputs.append(result.weights.put(name, old.astype(np.float32)))
    result.adopt(graph, node, inputs=inputs, outputs=[final])
    result.values[final] = graph.values[final]


def _shortens(chain: list[Node], graph: Graph) -> bool:
    """Check that one Mul and one Add are fewer steps than the chain has, and no constant larger than it had."""
    if len(chain) < 2:
        return False
    affine = _combine(chain, graph)
    steps = (affine.scale is not None) + (affine.shift is not None)
    given = sum(graph.type(name).size for node in chain for name in node.inputs if name in graph.weights)
    size = sum(part.size for part in (affine.scale, affine.shift) if part is not None)
    return steps < len(chain) and size <= given


def _emit_affine(result: Graph, graph: Graph, start: str, chain: list[Node]) -> None:
    """Append one Mul and one Add, as needed, for a chain that no product precedes."""
    affine = _combine(chain, graph)
    final = chain[-1]
    name = start
    parts = [(BinaryFunction.MUL, "scale", affine.scale), (BinaryFunction.ADD, "shift", affine.shift)]
    used = [part for part in parts if part[2] is not None]
    for place, (function, role, constant) in enumerate(used):
        if constant is None:
            continue
        weight = result.fresh(f"{final.origin.layer}/{role}")
        result.weights.put(weight, constant.astype(np.float32))
        last = place == len(used) - 1
        output = final.outputs[0] if last else result.fresh(f"{final.outputs[0]}/{role}")
        storage = graph.values[final.outputs[0]].storage
        name = result.add(ops.Binary(function), (name, weight), output, final.origin, storage)
