"""Give a graph another batch, or find out that it can't have one."""

from __future__ import annotations

from collections.abc import Mapping

from demitasse.errors import UsageError
from demitasse.ir.graph import Graph, infer_types
from demitasse.ir.ops import Shape, ShapeError

__all__ = ["batched_shapes", "can_change_batch", "with_batch"]

# One sample, which a layer that cuts the batch can't take; and two batches that no layer's own size is likely to equal:
# a literal batch in a Reshape then can't pass by luck.
PROBES = (1, 61, 127)


def batched_shapes(graph: Graph, batch: int) -> dict[str, Shape]:
    """Return the input shapes for another batch: the leading dimension of every input that has one."""
    shapes = {name: graph.values[name].type.shape for name in graph.inputs}
    return {name: (batch, *shape[1:]) if shape else shape for name, shape in shapes.items()}


def can_change_batch(graph: Graph) -> str | None:
    """Return None where every node takes any batch, else the reason why one doesn't."""
    leading = {name: graph.values[name].type.shape[:1] for name in graph.inputs}
    if not any(leading.values()):
        return "the net has no input with a leading dimension"
    if len(set(leading.values())) > 1:
        # A region of interest a row beside one image, say: their number is no batch.
        spelled = ", ".join(f"{name} {list(dims)}" for name, dims in leading.items())
        return f"the leading dimensions of its inputs differ: {spelled}"
    if not graph.nodes and not graph.batch_is_dynamic:
        return "its layers are known to another runtime alone, and its batch is fixed"
    try:
        for batch in PROBES:
            infer_types(graph, batched_shapes(graph, batch))
    except ShapeError as error:
        return str(error)
    return None


def with_batch(graph: Graph, batch: int, *, dynamic: bool = False) -> Graph:
    """Rebuild a graph for `batch` samples at a time; `dynamic` marks that number as a placeholder.

    Raises:
        UsageError: some layer is written for one batch alone; the message names it.
    """
    shapes: Mapping[str, Shape] = batched_shapes(graph, batch)
    result = Graph(graph.name, layers=graph.layers, merged=dict(graph.merged), notes=list(graph.notes))
    result.unused = set(graph.unused)
    result.preprocessing, result.layout = graph.preprocessing, graph.layout
    try:
        infer_types(graph, shapes)
    except ShapeError as error:
        raise UsageError(f"the net can't take a batch of {batch}: {error}") from error
    for name in graph.inputs:
        value = graph.values[name]
        result.add_input(name, value.type._replace(shape=shapes[name]), value.storage)
    for node in graph.nodes:
        result.adopt(graph, node)
    result.outputs = list(graph.outputs)
    result.batch_is_dynamic = dynamic
    return result
