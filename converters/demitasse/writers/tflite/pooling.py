"""Emit pools, and the unpooling that puts maxima back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from demitasse.ir import ops
from demitasse.ir.graph import Node
from demitasse.ir.ops import Activation, DType, Padding, Shape
from demitasse.ir.weights import Array
from demitasse.writers.tflite.lowering import FUSED, Lowering
from demitasse.writers.tflite.model import TENSOR_TYPES, Tensor
from demitasse.writers.tflite.padding import VALID, Axis, axes_of, rule

__all__ = [
    "Pool",
    "average_by_convolution",
    "emit_along_axes",
    "emit_average_pool",
    "emit_max_pool",
    "emit_max_unpool",
    "emit_pool",
    "emit_weighted",
]

NO_PAD = Padding(0, 0)
LOWEST = float(np.finfo(np.float32).min)


Average = Callable[[Lowering, "Pool", Tensor, Tensor, int, int], None]


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool along one to three spatial axes."""

    maximum: bool
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[Padding, ...]
    activation: Activation = Activation.NONE

    @classmethod
    def whole(cls, sizes: Shape, *, maximum: bool) -> Pool:
        """Return the pool with one window, which covers an image of these sizes."""
        return cls(maximum, sizes, (1,) * len(sizes), (NO_PAD,) * len(sizes))

    def axes(self, x: Tensor) -> tuple[Axis, ...]:
        return axes_of(x.shape[1:-1], self.kernel, self.stride, self.pads)

    def along(self, axes: slice, *, before: bool = False, last: bool = True) -> Pool:
        """Take the part along some axes, with an idle axis before or behind them where there is only one."""
        kernel, stride, pads = self.kernel[axes], self.stride[axes], self.pads[axes]
        if len(kernel) == 1:
            kernel, stride = ((1, *kernel), (1, *stride)) if before else ((*kernel, 1), (*stride, 1))
            pads = (NO_PAD, *pads) if before else (*pads, NO_PAD)
        return Pool(self.maximum, kernel, stride, pads, self.activation if last else Activation.NONE)


def emit_max_pool(to: Lowering, op: ops.MaxPool, node: Node) -> None:
    """Emit `MAX_POOL_2D`, and the places of the maxima where they are asked for."""
    x, *results = to.read(node.inputs[0]), *to.results(node)
    pool = Pool(True, op.kernel, op.stride, op.pads, op.activation)
    emit_along_axes(to, pool, x, results[0], partial(_maximum, non_negative=node.inputs[0] in to.non_negative))
    if op.with_indices:
        _places(to, op, x, results[1])


def emit_average_pool(to: Lowering, op: ops.AveragePool, node: Node) -> None:
    """Emit `AVERAGE_POOL_2D`."""
    pool = Pool(False, op.kernel, op.stride, op.pads, op.activation)
    emit_along_axes(to, pool, to.read(node.inputs[0]), to.result(node), _average)


def emit_along_axes(
    to: Lowering, pool: Pool, x: Tensor, y: Tensor, emit: Callable[[Lowering, Pool, Tensor, Tensor], None]
) -> None:
    """Emit a pool along one to three axes by pools along two, which `emit` emits.

    A maximum of maxima is the maximum, and a mean over whole rows of means over columns the mean, also at the borders:
    how many columns a window has doesn't depend on the row.
    """
    batch, channels, sizes, results = x.shape[0], x.shape[-1], x.shape[1:-1], y.shape[1:-1]
    if len(sizes) == 1:
        image = to.reshaped(x, y, "image", (batch, 1, *sizes, channels))
        row = to.temporary(y, "row", (batch, 1, *results, channels))
        emit(to, pool.along(slice(None), before=True), image, row)
        to.reshape(row, y)
    elif len(sizes) == 2:
        emit(to, pool, x, y)
    else:
        depth, plane = sizes[0], math.prod(results[1:])
        slices = to.reshaped(x, y, "slices", (batch * depth, *sizes[1:], channels))
        across = to.temporary(y, "across", (batch * depth, *results[1:], channels), batched=slices.batched)
        emit(to, pool.along(slice(1, None), last=False), slices, across)
        columns = to.reshaped(across, y, "columns", (batch, depth, plane, channels))
        along = to.temporary(y, "along", (batch, results[0], plane, channels))
        emit(to, pool.along(slice(0, 1)), columns, along)
        to.reshape(along, y)


def _maximum(to: Lowering, pool: Pool, x: Tensor, y: Tensor, *, non_negative: bool) -> None:
    padding = rule(pool.axes(x))
    if padding is None:
        x, padding = _bordered(to, pool.axes(x), x, y, non_negative), VALID
    emit_pool(to, pool, x, y, padding, FUSED[pool.activation])


def _average(to: Lowering, pool: Pool, x: Tensor, y: Tensor) -> None:
    padding = rule(pool.axes(x))
    if padding is None:
        emit_weighted(to, pool, x, y, emit_pool)
    else:
        emit_pool(to, pool, x, y, padding, FUSED[pool.activation])


def emit_pool(to: Lowering, pool: Pool, x: Tensor, y: Tensor, padding: int = VALID, fused: int = 0) -> None:
    """Emit the operator for a pool along two axes by one of TFLite's padding rules."""
    to.model.operator(
        "MAX_POOL_2D" if pool.maximum else "AVERAGE_POOL_2D",
        [x],
        [y],
        options="Pool2DOptions",
        padding=padding,
        strideH=pool.stride[0],
        strideW=pool.stride[1],
        filterHeight=pool.kernel[0],
        filterWidth=pool.kernel[1],
        fusedActivationFunction=fused,
    )


def _bordered(to: Lowering, axes: Sequence[Axis], x: Tensor, y: Tensor, non_negative: bool) -> Tensor:
    """Put elements around an image that change no maximum.

    Where nothing is below zero those are zeros. Elsewhere the border is repeated: a window that touches an element
    outside holds the border's element next to it anyway. Both run in XNNPACK, which a padding of the lowest number
    doesn't.
    """
    if non_negative:
        return to.padded(x, y, [NO_PAD, *(axis.touched for axis in axes), NO_PAD])
    for place, axis in enumerate(axes, 1):
        first, last = (_border(to, x, y, place, index) if count else x for index, count in _ends(axis))
        parts = [first] * axis.touched.before + [x] + [last] * axis.touched.after
        if len(parts) > 1:
            shape = [dim + (sum(axis.touched) if i == place else 0) for i, dim in enumerate(x.shape)]
            x = to.concat(parts, place, to.temporary(y, "bordered", shape, batched=x.batched))
    return x


def _ends(axis: Axis) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first and the last element of an axis, and how often each is repeated."""
    return (0, axis.touched.before), (axis.size - 1, axis.touched.after)


def _border(to: Lowering, x: Tensor, y: Tensor, axis: int, index: int) -> Tensor:
    """Cut one row or column."""
    begins = [index if place == axis else 0 for place in range(x.rank)]
    shape = [1 if place == axis else dim for place, dim in enumerate(x.shape)]
    return to.sliced(x, begins, to.temporary(y, "border", shape, batched=x.batched))


def emit_weighted(to: Lowering, pool: Pool, x: Tensor, y: Tensor, average: Average) -> None:
    """Average by an operator that counts zeros around the image, then undo that.

    `mean of what is no padding = mean * window size / number of elements that are no padding`.
    """
    axes = pool.axes(x)
    padding, fused = rule(axes), FUSED[pool.activation]
    if padding is None:
        x, padding = to.padded(x, y, [NO_PAD, *(axis.touched for axis in axes), NO_PAD]), VALID
    counts = np.multiply.outer(*map(_counts, axes))
    size = math.prod(pool.kernel)
    if (counts == size).all():
        average(to, pool, x, y, padding, fused)
        return
    mean = to.temporary(y, "mean", y.shape)
    average(to, pool, x, mean, padding, FUSED[Activation.NONE])
    share = to.small(y, "share", (size / counts)[None, :, :, None], DType.FLOAT32)
    to.model.operator("MUL", [mean, share], [y], options="MulOptions", fusedActivationFunction=fused)


def average_by_convolution(to: Lowering, pool: Pool, x: Tensor, y: Tensor, padding: int, fused: int) -> None:
    """Emit a depthwise convolution whose weights are all `1 / window size`."""
    channels = x.shape[-1]
    weights = np.full((1, *pool.kernel, channels), 1 / math.prod(pool.kernel))
    kernel = to.small(y, "equal", weights, DType.FLOAT32)
    bias = to.small(y, "bias", np.zeros(channels), DType.FLOAT32)
    to.model.operator(
        "DEPTHWISE_CONV_2D",
        [x, kernel, bias],
        [y],
        options="DepthwiseConv2DOptions",
        padding=padding,
        strideH=pool.stride[0],
        strideW=pool.stride[1],
        dilationHFactor=1,
        dilationWFactor=1,
        depthMultiplier=1,
        fusedActivationFunction=fused,
    )


def _counts(axis: Axis) -> Array:
    """Count the elements in each window along an axis that are no padding."""
    begins = np.arange(axis.count) * axis.stride - axis.pad.before
    return np.minimum(begins + axis.extent, axis.size) - np.maximum(begins, 0)


# --- places of maxima ---------------------------------------------------------------------------------------------


def _places(to: Lowering, op: ops.MaxPool, x: Tensor, y: Tensor) -> None:
    """Find where each maximum stands, counted over its plane.

    TFLite has no such pool. Every `stride`-th element of the padded image, once for each place `q` in the window, side
    by side: their `ARG_MAX` is the place in the window, and the first one in a tie, as windows are counted row-major
    like the plane. A table turns it into the distance from the window's beginning.
    """
    axes = axes_of(x.shape[1:-1], op.kernel, op.stride, op.pads)
    bordered = x
    if any(sum(axis.touched) for axis in axes):
        # A repeated border would tie with the border itself, and its place would win.
        bordered = to.padded(x, y, [NO_PAD, *(axis.touched for axis in axes), NO_PAD], LOWEST)
    views = [
        _view(to, bordered, y, row, column, axes) for row in range(axes[0].extent) for column in range(axes[1].extent)
    ]
    side = to.temporary(y, "windows", (len(views), *y.shape), dtype=x.type.dtype, batched=_shifted(y.batched))
    to.model.operator("PACK", views, [side], options="PackOptions", valuesCount=len(views), axis=0)
    best = to.temporary(y, "in_window", y.shape)
    to.model.operator(
        "ARG_MAX", [side, to.small(y, "axis", 0)], [best], options="ArgMaxOptions", outputType=TENSOR_TYPES[DType.INT32]
    )
    width = axes[1].size
    within = np.add.outer(np.arange(axes[0].extent) * width, np.arange(axes[1].extent)).reshape(-1)
    offset = to.temporary(y, "offset", y.shape)
    table = to.small(y, "distances", within)
    to.model.operator("GATHER", [table, best], [offset], options="GatherOptions", axis=0)
    rows, columns = (np.arange(axis.count) * axis.stride - axis.pad.before for axis in axes)
    begins = to.small(y, "begins", np.add.outer(rows * width, columns)[None, :, :, None])
    to.model.operator("ADD", [offset, begins], [y], options="AddOptions", fusedActivationFunction=0)


def _shifted(axes: frozenset[int]) -> frozenset[int]:
    return frozenset(axis + 1 for axis in axes)


def _view(to: Lowering, x: Tensor, y: Tensor, row: int, column: int, axes: Sequence[Axis]) -> Tensor:
    """Cut out the elements at one place of every window."""
    view = to.temporary(y, f"at_{row}_{column}", y.shape, dtype=x.type.dtype)
    ends = [offset + (axis.count - 1) * axis.stride + 1 for offset, axis in zip((row, column), axes, strict=True)]
    step = (1, axes[0].stride, axes[1].stride, 1)
    return to.strided_slice(
        x, view, begin=(0, row, column, 0), end=(0, *ends, 0), step=step, open_begin=(0, 3), open_end=(0, 3)
    )


def emit_max_unpool(to: Lowering, op: ops.MaxUnpool, node: Node) -> None:
    """Scatter elements to their places with `SCATTER_ND`, over all samples and channels at once.

    Element `(n, place, c)` goes to `(n * plane + place) * channels + c`. `SCATTER_ND` adds up what goes to one place.
    """
    y = to.result(node)
    batch, channels, plane = y.shape[0], y.shape[-1], math.prod(op.size)
    count = math.prod(to.read(node.inputs[0]).shape[1:-1])
    x, places = (
        to.reshaped(to.read(name), y, what, (batch, count, channels))
        for name, what in zip(node.inputs, ("values", "places"), strict=True)
    )
    rows = _integers(to, "MUL", places, to.small(y, "channels", channels), y, "rows")
    targets = _integers(to, "ADD", rows, to.small(y, "channel", np.arange(channels)), y, "in_sample")
    targets = _integers(to, "ADD", targets, _sample_begins(to, places, plane * channels, y), y, "targets")
    flat = batch * count * channels
    index = to.reshaped(targets, y, "index", (flat, 1))
    updates = to.reshaped(x, y, "updates", (flat,))
    if y.batched:
        shape = to.temporary(y, "batch", (1,), dtype=DType.INT32, batched=frozenset())
        all_dims = to.temporary(y, "shape_now", (3,), dtype=DType.INT32, batched=frozenset())
        to.model.operator("SHAPE", [places], [all_dims], options="ShapeOptions", outType=TENSOR_TYPES[DType.INT32])
        to.sliced(all_dims, (0,), shape)
        size = _integers(to, "MUL", shape, to.small(y, "sample_size", plane * channels), y, "size")
    else:
        size = to.small(y, "size", [batch * plane * channels])
    batched = frozenset({0}) if y.batched else frozenset()
    scattered = to.temporary(y, "scattered", (batch * plane * channels,), batched=batched)
    to.model.operator("SCATTER_ND", [index, updates, size], [scattered], options="ScatterNdOptions")
    to.reshape(scattered, y)


def _integers(to: Lowering, code: str, left: Tensor, right: Tensor, y: Tensor, what: str) -> Tensor:
    """Combine two tensors of integers, the right one broadcast to the left one."""
    result = to.temporary(y, what, left.shape, dtype=DType.INT32, batched=left.batched)
    options = {"MUL": "MulOptions", "ADD": "AddOptions"}[code]
    to.model.operator(code, [left, right], [result], options=options, fusedActivationFunction=0)
    return result


def _sample_begins(to: Lowering, places: Tensor, sample: int, y: Tensor) -> Tensor:
    """Return `n * sample` for each sample `n`, as `[batch, 1, 1]`."""
    if not y.batched:
        return to.small(y, "begins", np.arange(y.shape[0]).reshape(-1, 1, 1) * sample)
    first = to.sliced(places, (0, 0, 0), to.temporary(y, "first", (1, 1, 1), dtype=DType.INT32))
    zeros = _integers(to, "MUL", first, to.small(y, "zero", 0), y, "zeros")
    steps = _integers(to, "ADD", zeros, to.small(y, "step", sample), y, "steps")
    begins = to.temporary(y, "begins", (1, 1, 1), dtype=DType.INT32)
    to.model.operator("CUMSUM", [steps, to.small(y, "axis", 0)], [begins], options="CumsumOptions", exclusive=True)
    return begins
