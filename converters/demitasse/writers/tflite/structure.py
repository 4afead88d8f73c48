"""Emit operations along axes, products, and those that only move elements."""

from __future__ import annotations

import numpy as np

from demitasse.ir import ops
from demitasse.ir.graph import Graph, Node
from demitasse.ir.ops import DType, ReduceFunction
from demitasse.writers.tflite.lowering import FUSED, Lowering
from demitasse.writers.tflite.model import TENSOR_TYPES, Tensor

__all__ = [
    "emit_arg_max",
    "emit_concat",
    "emit_dense",
    "emit_gather",
    "emit_mat_mul",
    "emit_pad",
    "emit_reduce",
    "emit_reshape",
    "emit_slice",
    "emit_softmax",
    "emit_tile",
    "emit_top_k",
    "emit_transpose",
    "is_dense",
]

# Function: the operator before the reduction, with its options, and the reduction.
REDUCE: dict[ReduceFunction, tuple[tuple[str, str] | None, str]] = {
    ReduceFunction.SUM: (None, "SUM"),
    ReduceFunction.MEAN: (None, "MEAN"),
    ReduceFunction.MAX: (None, "REDUCE_MAX"),
    ReduceFunction.MIN: (None, "REDUCE_MIN"),
    ReduceFunction.PROD: (None, "REDUCE_PROD"),
    ReduceFunction.L1: (("ABS", "AbsOptions"), "SUM"),
    ReduceFunction.SUM_SQUARE: (("SQUARE", "SquareOptions"), "SUM"),
}


# --- products -----------------------------------------------------------------------------------------------------


def emit_dense(to: Lowering, op: ops.Dense, node: Node) -> None:
    """Emit `FULLY_CONNECTED`, whose kernel is `[out, in]` as ours."""
    x, kernel, y = to.read(node.inputs[0]), to.read(node.inputs[1]), to.result(node)
    bias = to.read(node.inputs[2]) if len(node.inputs) > 2 else None
    _fully_connected(to, x, kernel, bias, y, FUSED[op.activation])


def _fully_connected(to: Lowering, x: Tensor, kernel: Tensor, bias: Tensor | None, y: Tensor, fused: int) -> None:
    """Emit a product with a matrix; runtimes before TensorFlow 2.1 insist on a bias."""
    if bias is None:
        bias = to.small(y, "bias", np.zeros(y.shape[-1], np.float32), DType.FLOAT32)
    keep = x.rank != 2
    to.model.operator(
        "FULLY_CONNECTED",
        [x, kernel, bias],
        [y],
        version=5 if keep else 1,
        options="FullyConnectedOptions",
        fusedActivationFunction=fused,
        keepNumDims=keep,
    )


def is_dense(graph: Graph, node: Node) -> bool:
    """Tell whether a `MatMul` multiplies by one matrix of weights, as `FULLY_CONNECTED` does."""
    name = node.inputs[1]
    plain = isinstance(node.op, ops.MatMul) and not node.op.transpose_left
    return plain and name in graph.weights and graph.type(name).rank == 2


def emit_mat_mul(to: Lowering, op: ops.MatMul, node: Node) -> None:
    """Emit `FULLY_CONNECTED` for a product with one matrix of weights, else `BATCH_MATMUL`."""
    x, y = to.read(node.inputs[0]), to.result(node)
    name = node.inputs[1]
    if is_dense(to.graph, node):
        flipped = to.graph.type(name).shape[::-1]
        kernel = to.read(name) if op.transpose_right else to.weight(name, flipped, lambda array: array.T, "dense")
        _fully_connected(to, x, kernel, None, y, 0)
        return
    fields = {"adjX": op.transpose_left, "adjY": op.transpose_right}
    to.model.operator("BATCH_MATMUL", [x, to.read(name)], [y], options="BatchMatMulOptions", **fields)


# --- along axes ---------------------------------------------------------------------------------------------------


def _swap(rank: int, axis: int) -> tuple[int, ...]:
    """Return the permutation that exchanges an axis with the last one; it is its own inverse."""
    axes = list(range(rank))
    axes[axis], axes[-1] = axes[-1], axes[axis]
    return tuple(axes)


def emit_softmax(to: Lowering, op: ops.Softmax, node: Node) -> None:
    """Emit `SOFTMAX`, which works along the last axis."""
    x, y = to.read(node.inputs[0]), to.result(node)
    if op.axis == x.rank - 1:
        to.model.operator("SOFTMAX", [x], [y], options="SoftmaxOptions", beta=1.0)
        return
    axes = _swap(x.rank, op.axis)
    turned = to.transposed(x, y, "turned", axes)
    soft = to.elementwise("SOFTMAX", turned, y, "soft", options="SoftmaxOptions", beta=1.0)
    to.transpose(soft, axes, y)


def emit_reduce(to: Lowering, op: ops.Reduce, node: Node) -> None:
    """Emit the reduction."""
    x, y = to.read(node.inputs[0]), to.result(node)
    first, code = REDUCE[op.function]
    if first is not None:
        x = to.elementwise(first[0], x, y, "elements", options=first[1])
    axes = to.small(y, "axes", list(op.axes))
    to.model.operator(code, [x, axes], [y], options="ReducerOptions", keepDims=op.keepdims)


def emit_arg_max(to: Lowering, op: ops.ArgMax, node: Node) -> None:
    """Emit `ARG_MAX`, which drops the axis."""
    x, y = to.read(node.inputs[0]), to.result(node)
    place = y
    if op.keepdims:
        shape = [dim for axis, dim in enumerate(x.shape) if axis != op.axis]
        batched = frozenset(axis - (axis > op.axis) for axis in x.batched - {op.axis})
        place = to.temporary(y, "place", shape, batched=batched)
    to.model.operator(
        "ARG_MAX",
        [x, to.small(y, "axis", op.axis)],
        [place],
        options="ArgMaxOptions",
        outputType=TENSOR_TYPES[DType.INT32],
    )
    if op.keepdims:
        to.reshape(place, y)


def emit_top_k(to: Lowering, op: ops.TopK, node: Node) -> None:
    """Emit `TOPK_V2`, which works along the last axis."""
    x, (values, places) = to.read(node.inputs[0]), to.results(node)
    count = to.small(values, "k", op.k)
    if op.axis == x.rank - 1:
        to.model.operator("TOPK_V2", [x, count], [values, places], options="TopKV2Options")
        return
    axes = _swap(x.rank, op.axis)
    turned = to.transposed(x, values, "turned", axes)
    shape = (*turned.shape[:-1], op.k)
    found = [to.temporary(near, "found", shape, batched=turned.batched) for near in (values, places)]
    to.model.operator("TOPK_V2", [turned, count], found, options="TopKV2Options")
    for tensor, result in zip(found, (values, places), strict=True):
        to.transpose(tensor, axes, result)


# --- structure ----------------------------------------------------------------------------------------------------


def emit_concat(to: Lowering, op: ops.Concat, node: Node) -> None:
    """Emit `CONCATENATION`."""
    to.concat([to.read(name) for name in node.inputs], op.axis, to.result(node))


def emit_slice(to: Lowering, op: ops.Slice, node: Node) -> None:
    """Emit `SLICE`, or `STRIDED_SLICE` where there are steps or the batch is cut."""
    x, y = to.read(node.inputs[0]), to.result(node)
    pieces = op.slices(x.rank)
    plain = all(piece.step in (None, 1) for piece in pieces)
    if plain and not x.batched.intersection(op.axes):
        to.sliced(x, [piece.indices(dim)[0] for piece, dim in zip(pieces, x.shape, strict=True)], y)
        return
    begin, end, step = [0] * x.rank, [0] * x.rank, [1] * x.rank
    open_begin, open_end = set(range(x.rank)), set(range(x.rank))
    for axis in op.axes:
        piece = pieces[axis]
        if axis in x.batched:
            start, stop, step[axis] = piece.start, piece.stop, piece.step
        else:
            start, stop, step[axis] = piece.indices(x.shape[axis])
            stop = None if stop < 0 else stop
        open_begin.discard(axis)
        begin[axis] = start
        if stop is not None:
            open_end.discard(axis)
            end[axis] = stop
    to.strided_slice(x, y, begin=begin, end=end, step=step, open_begin=open_begin, open_end=open_end)


def emit_pad(to: Lowering, op: ops.Pad, node: Node) -> None:
    """Emit `PAD` for zeros, `PADV2` for another value."""
    to.pad(to.read(node.inputs[0]), op.pads, to.result(node), op.value)


def emit_reshape(to: Lowering, _op: ops.Reshape, node: Node) -> None:
    """Emit `RESHAPE`; what depends on the batch is -1."""
    to.reshape(to.read(node.inputs[0]), to.result(node))


def emit_transpose(to: Lowering, op: ops.Transpose, node: Node) -> None:
    """Emit `TRANSPOSE`."""
    to.transpose(to.read(node.inputs[0]), op.axes, to.result(node))


def emit_tile(to: Lowering, op: ops.Tile, node: Node) -> None:
    """Emit `TILE`."""
    x, y = to.read(node.inputs[0]), to.result(node)
    to.model.operator("TILE", [x, to.small(y, "repeats", list(op.repeats))], [y], options="TileOptions")


def emit_gather(to: Lowering, op: ops.Gather, node: Node) -> None:
    """Emit `GATHER`."""
    x, indices = map(to.read, node.inputs)
    version = 3 if x.type.dtype is DType.BOOL else 1
    to.model.operator("GATHER", [x, indices], [to.result(node)], version=version, options="GatherOptions", axis=op.axis)
