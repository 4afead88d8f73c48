"""Compute what depends on weights alone, once, now."""

from __future__ import annotations

import numpy as np

from demitasse.ir import ops
from demitasse.ir.evaluate import evaluate_node
from demitasse.ir.graph import Graph, Merge, MergeKind, Node
from demitasse.ir.weights import Array

__all__ = ["fold_constants"]

# A result may be this much larger than the weights that it comes from; beyond, a model file would swell (a tiled
# constant, say) for the sake of one cheap operation.
GROWTH = 4
SMALL = 1 << 16


def _foldable(node: Node, inputs: list[str], work: Graph, outputs: list[str]) -> bool:
    """Check that all inputs are weights, that no result is wanted by name, and that the results stay small."""
    if not inputs or not all(name in work.weights for name in inputs):
        return False
    if isinstance(node.op, ops.Identity) or any(name in outputs for name in node.outputs):
        return False
    types = [work.type(name) for name in inputs]
    given = sum(each.size for each in types)
    return sum(each.size for each in node.op.infer(types)) <= max(GROWTH * given, SMALL)


def fold_constants(graph: Graph) -> Graph:
    """Replace operations on weights alone by their results, computed in float64 and rounded once."""
    result = graph.shell()
    constant: dict[str, str] = {}
    standing = {merge.into for merge in result.merged.values()}
    for node in graph.nodes:
        inputs = [constant.get(name, name) for name in node.inputs]
        result.weights.copy_from(graph.weights, [name for name in inputs if name in graph.weights])
        if not _foldable(node, inputs, result, graph.outputs):
            result.adopt(graph, node, inputs=inputs)
            continue
        for name, array in zip(node.outputs, _compute(node, inputs, result), strict=True):
            constant[name] = result.weights.put(
                graph.fresh(f"{name}/constant"), np.asarray(array, graph.type(name).dtype.value)
            )
            result.merged[name] = Merge(MergeKind.FOLDED, constant[name])
            standing.add(constant[name])
        # Constants that stand for a blob may be gone, as they went into this one: say where to.
        for name in standing.intersection(inputs):
            result.merged[name] = Merge(MergeKind.FOLDED, constant[node.outputs[0]])
    result.outputs = list(graph.outputs)
    return result


def _compute(node: Node, inputs: list[str], work: Graph) -> tuple[Array, ...]:
    values = [work.weights[name] for name in inputs]
    return evaluate_node(node.op, [value.astype(np.float64) if value.dtype.kind == "f" else value for value in values])
