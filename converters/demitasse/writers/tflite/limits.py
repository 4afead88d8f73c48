"""State what the TFLite writer can't carry, before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from demitasse.errors import Offence
from demitasse.ir import ops
from demitasse.ir.graph import Graph, Node
from demitasse.ir.steps import MOST_STEPS
from demitasse.writers.tflite.flatbuffer import MAX_BYTES
from demitasse.writers.tflite.lowering import types_and_batched_axes

__all__ = ["LIMITS", "offences"]

# Operations that have no emitter at all, with the reason.
LIMITS: dict[type[ops.AnyOp], str] = {
    ops.RoiMaxPool: "TFLite has no operator that pools regions: cut the net before it with --outputs",
    ops.Recurrent: f"recurrent layers are written out for TFLite, sequences of more than {MOST_STEPS} steps aren't",
}

Check = Callable[[Graph, Node, Any], Iterator[str]]


def offences(graph: Graph) -> list[Offence]:
    """List everything in a lowered graph that TFLite or this writer has no operator for."""
    found = [
        Offence(node.origin.where, reason)
        for node in graph.nodes
        for check in (_CHECKS.get(type(node.op)), _check_rank)
        if check is not None
        for reason in check(graph, node, node.op)
    ]
    found += [Offence(node.origin.where, LIMITS[type(node.op)]) for node in graph.nodes if type(node.op) in LIMITS]
    if graph.batch_is_dynamic:
        found += _check_batch(graph)
    types = map(graph.weights.type, graph.weights)
    size = sum(type_.size * np.dtype(type_.dtype.value).itemsize for type_ in types)
    if size > MAX_BYTES:
        found.append(Offence("", f"{size} bytes of weights don't fit into a TFLite file, which ends at 2 GiB"))
    return found


def _check_batch(graph: Graph) -> Iterator[Offence]:
    """Find results that an operator would have to reshape to along more than one axis of unknown size."""
    _, batched = types_and_batched_axes(graph)
    for node in graph.nodes:
        axes = len(batched[node.outputs[0]])
        if isinstance(node.op, ops.Reshape | ops.Identity) and axes > 1:
            reason = (
                f"RESHAPE infers one axis, and {axes} axes of the result depend on the batch: give --batch a number"
            )
            yield Offence(node.origin.where, reason)


def _check_suppression(graph: Graph, _node: Node, _op: ops.NonMaxSuppression) -> Iterator[str]:
    if graph.batch_is_dynamic:
        yield "TFLite suppresses the boxes of one sample at a time: give --batch a number"


def _check_kernel(graph: Graph, node: Node, what: str) -> Iterator[str]:
    computed = [name for name in node.inputs[1:] if name not in graph.weights]
    if computed:
        yield f"TFLite needs the weights of {what} when the file is written, and the net computes {computed[0]!r}"


def _check_spatial_axes(graph: Graph, node: Node, most: int) -> Iterator[str]:
    axes = graph.type(node.inputs[0]).rank - 2
    if axes > most:
        yield f"TFLite has no {type(node.op).__name__} along {axes} spatial axes; {most} is the most"


def _check_conv(graph: Graph, node: Node, op: ops.Conv) -> Iterator[str]:
    yield from _check_kernel(graph, node, "a convolution")
    yield from _check_spatial_axes(graph, node, 3)
    if graph.type(node.inputs[0]).rank == 5 and op.groups > 1:
        yield f"TFLite's CONV_3D has no groups, and this convolution has {op.groups}"


def _check_conv_transpose(graph: Graph, node: Node, op: ops.ConvTranspose) -> Iterator[str]:
    yield from _check_kernel(graph, node, "a transposed convolution")
    yield from _check_spatial_axes(graph, node, 3)
    if graph.type(node.inputs[0]).rank == 5 and op.groups > 1:
        yield f"TFLite's CONV_3D has no groups, and this transposed convolution has {op.groups}"


def _check_dense(graph: Graph, node: Node, _op: ops.Dense) -> Iterator[str]:
    yield from _check_kernel(graph, node, "a dense layer")


def _check_image(graph: Graph, node: Node, _op: ops.SpatialOp) -> Iterator[str]:
    yield from _check_spatial_axes(graph, node, 3)


def _check_max_pool(graph: Graph, node: Node, op: ops.MaxPool) -> Iterator[str]:
    yield from _check_spatial_axes(graph, node, 3)
    axes = graph.type(node.inputs[0]).rank - 2
    if op.with_indices and axes != 2:
        yield f"the places of the maxima are written for 2 spatial axes, and this pool has {axes}"


def _check_max_unpool(graph: Graph, node: Node, _op: ops.MaxUnpool) -> Iterator[str]:
    pool = graph.producers().get(node.inputs[1])
    if pool is not None and isinstance(pool.op, ops.MaxPool):
        overlaps = any(stride < window for stride, window in zip(pool.op.stride, pool.op.kernel, strict=True))
        if overlaps:
            yield "TFLite adds up elements that are put in one place, and the windows of the pool before overlap"


_CHECKS: dict[type[ops.AnyOp], Check] = {
    ops.Conv: _check_conv,
    ops.ConvTranspose: _check_conv_transpose,
    ops.Dense: _check_dense,
    ops.MaxPool: _check_max_pool,
    ops.AveragePool: _check_image,
    ops.Resize: _check_image,
    ops.MaxUnpool: _check_max_unpool,
    ops.NonMaxSuppression: _check_suppression,
}

# The highest rank that a kernel of LiteRT takes.
_RANKS: dict[type[ops.AnyOp], int] = {
    ops.Transpose: 6,
    ops.Pad: 5,
    ops.Slice: 5,
}


def _check_rank(graph: Graph, node: Node, op: ops.AnyOp) -> Iterator[str]:
    most = _RANKS.get(type(op))
    rank = graph.type(node.inputs[0]).rank
    if most is not None and rank > most:
        yield f"TFLite takes {most} axes at most for {type(op).__name__}, and this one has {rank}"
