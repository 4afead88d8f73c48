"""Spell each operation of a graph in TensorFlow's operators; `EMITTERS` is the table of how.

An operation that TensorFlow lacks, or that its kernels for processors know in part, is composed of several operators.
They are used as https://www.tensorflow.org/api_docs/python/tf/raw_ops defines them: unlike `tf.nn`, that gives exactly
the operators that are named, and padding that differs from side to side. TensorFlow picks kernels by machine; what
stands here runs on processors with and without oneDNN (`TF_ENABLE_ONEDNN_OPTS`), which know different things.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from demitasse.errors import Offence
from demitasse.ir.graph import Graph, Node
from demitasse.ir.ops import (
    ArgMax,
    Concat,
    Dense,
    Gather,
    Identity,
    Layout,
    Lrn,
    MatMul,
    MaxPool,
    MaxUnpool,
    NonMaxSuppression,
    Op,
    Pad,
    Recurrent,
    Reduce,
    ReduceFunction,
    Reshape,
    RoiMaxPool,
    Slice,
    Softmax,
    SpatialOp,
    Tile,
    TopK,
    Transpose,
)
from demitasse.ir.steps import MOST_STEPS
from demitasse.writers.saved_model import elementwise, spatial
from demitasse.writers.saved_model.elementwise import activated
from demitasse.writers.saved_model.site import Emitter, Site, Step, Tensor, call, raw

__all__ = ["EMITTERS", "LIMITS", "offences"]

MOST_SPATIAL_AXES = 3
"""TensorFlow has no convolution and no pooling over more."""

# --- products -----------------------------------------------------------------------------------------------


def _dense(site: Site, op: Dense) -> Tensor:
    x, kernel, *bias = site.operands
    bias_step = [call("BiasAdd", "value", bias=bias[0])] if bias else []
    product = [call("MatMul", "a", b=kernel), *bias_step, *activated(op.activation)]
    if len(site.shape) == 2:
        return site.chain(x, product)
    if site.shape.count(None) > 1:
        return site.chain(x, [call("BatchMatMulV2", "x", y=kernel), *product[1:]])
    # One product of two matrices is faster than a batch of them.
    width = site.weight_shape(0)[-1]
    rows = call("Reshape", "tensor", shape=[-1, width])
    return site.chain(x, [rows, *product, _reshaped(site)])


def _mat_mul(site: Site, op: MatMul) -> Tensor:
    left, right = site.operands
    if len(left.shape) == len(right.shape) == 2:
        flips = {"transpose_a": op.transpose_left, "transpose_b": op.transpose_right}
        return site.chain(left, [call("MatMul", "a", b=right, **flips)])
    flips = {"adj_x": op.transpose_left, "adj_y": op.transpose_right}
    return site.chain(left, [call("BatchMatMulV2", "x", y=right, **flips)])


# --- along axes ---------------------------------------------------------------------------------------------


def _swapped(axis: int, rank: int) -> list[int]:
    """List the axes with one of them and the last one swapped; twice is none at all."""
    axes = list(range(rank))
    axes[axis], axes[-1] = axes[-1], axes[axis]
    return axes


def _along_last(axis: int, rank: int, steps: Sequence[Step]) -> list[Step]:
    """Run steps that work along the last axis on another one."""
    if axis == rank - 1:
        return list(steps)
    swap = call("Transpose", "x", perm=_swapped(axis, rank))
    return [swap, *steps, swap]


def _softmax(site: Site, op: Softmax) -> Tensor:
    steps = [call("Softmax", "logits")]
    return site.chain(site.operands[0], _along_last(op.axis, len(site.shape), steps))


REDUCE_OPERATORS = {
    ReduceFunction.SUM: "Sum",
    ReduceFunction.MEAN: "Mean",
    ReduceFunction.MAX: "Max",
    ReduceFunction.MIN: "Min",
    ReduceFunction.PROD: "Prod",
    ReduceFunction.L1: "Sum",
    ReduceFunction.SUM_SQUARE: "Sum",
}

REDUCE_BEFORE = {ReduceFunction.L1: [call("Abs", "x")], ReduceFunction.SUM_SQUARE: [call("Square", "x")]}


def _reduce(site: Site, op: Reduce) -> Tensor:
    axes = np.array(op.axes, np.int32)
    reduce = call(REDUCE_OPERATORS[op.function], "input", axis=axes, keep_dims=op.keepdims)
    return site.chain(site.operands[0], [*REDUCE_BEFORE.get(op.function, []), reduce])


def _arg_max(site: Site, op: ArgMax) -> Tensor:
    steps = [call("ArgMax", "input", dimension=op.axis, output_type=np.int32)]
    if op.keepdims:
        steps.append(call("ExpandDims", "input", axis=op.axis))
    return site.chain(site.operands[0], steps)


def _top_k(site: Site, op: TopK) -> tuple[Tensor, Tensor]:
    (x,) = site.operands
    rank = len(site.shape)
    if op.axis == rank - 1:
        found = raw("TopKV2", input=x, k=op.k, sorted=True, name=site.name)
        return found.values, found.indices
    swap = call("Transpose", "x", perm=_swapped(op.axis, rank))
    found = raw("TopKV2", input=site.apply(x, [swap]), k=op.k, sorted=True, name=site.inner("TopKV2"))
    return site.chain(found.values, [swap]), site.chain(found.indices, [swap], output=1)


# --- structure ----------------------------------------------------------------------------------------------


def _concat(site: Site, op: Concat) -> Tensor:
    if len(site.operands) == 1:
        return site.chain(site.operands[0], [])
    return raw("ConcatV2", values=list(site.operands), axis=op.axis, name=site.name)


def _slice(site: Site, op: Slice) -> Tensor:
    cuts = op.slices(len(site.dims(0)))
    open_at = {
        "begin_mask": sum(1 << axis for axis, cut in enumerate(cuts) if cut.start is None),
        "end_mask": sum(1 << axis for axis, cut in enumerate(cuts) if cut.stop is None),
    }
    cut = call(
        "StridedSlice",
        "input",
        begin=[cut.start or 0 for cut in cuts],
        end=[cut.stop or 0 for cut in cuts],
        strides=[cut.step or 1 for cut in cuts],
        **open_at,
    )
    return site.chain(site.operands[0], [cut])


def _pad(site: Site, op: Pad) -> Tensor:
    (x,) = site.operands
    paddings = [list(pad) for pad in op.pads]
    if op.value == 0:
        return site.chain(x, [call("Pad", "input", paddings=paddings)])
    value = np.asarray(op.value, x.dtype.as_numpy_dtype)
    return site.chain(x, [call("PadV2", "input", paddings=paddings, constant_values=value)])


def _reshaped(site: Site) -> Step:
    """Give a tensor the shape of the node's result, of which at most one dimension is free."""
    return call("Reshape", "tensor", shape=np.array([-1 if dim is None else dim for dim in site.shape], np.int32))


def _reshape(site: Site, op: Reshape) -> Tensor:
    (x,) = site.operands
    if site.shape.count(None) <= 1:
        return site.chain(x, [_reshaped(site)])
    whole = raw("Shape", input=x, name=site.inner("input_shape"))
    copied = [axis for axis, dim in enumerate(site.shape) if dim is None and op.shape[axis] == 0]
    first = {"strides": [1], "shrink_axis_mask": 1}
    sizes = {
        axis: raw("StridedSlice", input=whole, begin=[axis], end=[axis + 1], name=site.inner("size"), **first)
        for axis in copied
    }
    dims = [sizes.get(axis, -1 if dim is None else dim) for axis, dim in enumerate(site.shape)]
    return site.chain(x, [call("Reshape", "tensor", shape=raw("Pack", values=dims, name=site.inner("shape")))])


def _transpose(site: Site, op: Transpose) -> Tensor:
    return site.chain(site.operands[0], [call("Transpose", "x", perm=list(op.axes))])


def _tile(site: Site, op: Tile) -> Tensor:
    return site.chain(site.operands[0], [call("Tile", "input", multiples=list(op.repeats))])


def _gather(site: Site, op: Gather) -> Tensor:
    x, indices = site.operands
    return site.chain(x, [call("GatherV2", "params", indices=indices, axis=op.axis)])


def _identity(site: Site, _: Identity) -> Tensor:
    return site.chain(site.operands[0], [])


EMITTERS: dict[type[Op], Emitter] = {
    **spatial.EMITTERS,
    **elementwise.EMITTERS,
    Dense: _dense,
    MatMul: _mat_mul,
    Softmax: _softmax,
    Reduce: _reduce,
    ArgMax: _arg_max,
    TopK: _top_k,
    Concat: _concat,
    Slice: _slice,
    Pad: _pad,
    Reshape: _reshape,
    Transpose: _transpose,
    Tile: _tile,
    Gather: _gather,
    Identity: _identity,
}
"""How each operation is spelled."""

LIMITS: dict[type[Op], str] = {
    RoiMaxPool: "TensorFlow has no operator that pools regions: cut the net before it with --outputs",
    NonMaxSuppression: (
        "TensorFlow suppresses boxes of one class of one sample at a time: cut the net before it with --outputs"
    ),
    Recurrent: f"recurrent layers are written out for TensorFlow, sequences of more than {MOST_STEPS} steps aren't",
}
"""Operations that a SavedModel can't carry, with the reason."""


def offences(graph: Graph) -> list[Offence]:
    """List everything that TensorFlow can't carry: some things that few images ask for."""
    found = [Offence(node.origin.where, LIMITS[type(node.op)]) for node in graph.nodes if type(node.op) in LIMITS]
    return found + [
        Offence(node.origin.where, f"{type(node.op).__name__} {reason}")
        for node in graph.nodes
        if isinstance(node.op, SpatialOp)
        for reason in _reasons(graph, node, node.op)
    ]


def _reasons(graph: Graph, node: Node, op: SpatialOp) -> Iterator[str]:
    x = graph.type(node.inputs[0])
    axes = x.rank - 2
    if op.layout is Layout.CHANNELS_FIRST:
        yield "on channels-first data; TensorFlow's kernels for processors know channels-last data alone"
    if axes > MOST_SPATIAL_AXES and not isinstance(op, MaxUnpool | Lrn):
        yield f"over {axes} spatial axes; TensorFlow knows {MOST_SPATIAL_AXES} at most"
    if isinstance(op, MaxPool) and op.with_indices and axes == MOST_SPATIAL_AXES:
        yield "with indices over 3 spatial axes; TensorFlow gives the places of maxima in images alone"
    if isinstance(op, MaxPool) and not x.dtype.is_float:
        yield f"of {x.dtype.value}; TensorFlow's kernels for processors know float32: a Cast before it would help"
