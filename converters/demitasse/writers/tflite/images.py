"""Emit what else is done to images: resampling and normalization across channels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from demitasse.ir import ops
from demitasse.ir.graph import Node
from demitasse.ir.ops import Coordinates, DType, Interpolation, Shape
from demitasse.ir.weights import Array
from demitasse.writers.tflite import elementwise
from demitasse.writers.tflite.lowering import Lowering
from demitasse.writers.tflite.model import Tensor
from demitasse.writers.tflite.padding import VALID

__all__ = ["emit_lrn", "emit_resize"]


# Above this many channels the matrix of `_normalize_by_convolution` takes more than 4 MB.
MOST_CHANNELS = 1024


def emit_lrn(to: Lowering, op: ops.Lrn, node: Node) -> None:
    """Emit a convolution that sums squares over channels, or `LOCAL_RESPONSE_NORMALIZATION` where that doesn't serve.

    `LOCAL_RESPONSE_NORMALIZATION` takes a power of each element on one thread, outside XNNPACK: 7 ms for the first one
    of AlexNet, whose sums and roots take 0.3 ms in XNNPACK (two threads of an x86 server).
    """
    x, y = to.read(node.inputs[0]), to.result(node)
    normalize = (
        _normalize_by_convolution if op.beta in elementwise.ROOTS and x.shape[-1] <= MOST_CHANNELS else _normalize
    )
    if x.rank == 4:
        normalize(to, op, x, y)
        return
    shape = (x.shape[0], 1, math.prod(x.shape[1:-1]), x.shape[-1])
    image = to.reshaped(x, y, "image", shape)
    normal = to.temporary(y, "normal", shape)
    normalize(to, op, image, normal)
    to.reshape(normal, y)


def _normalize(to: Lowering, op: ops.Lrn, x: Tensor, y: Tensor) -> None:
    """Emit `x / (bias + alpha * sum of squares) ** beta` over `2 * radius + 1` channels.

    The operator's `alpha` isn't divided by the size of the window (`LocalResponseNormalization` in
    tflite/kernels/internal/optimized/optimized_ops.h).
    """
    to.model.operator(
        "LOCAL_RESPONSE_NORMALIZATION",
        [x],
        [y],
        options="LocalResponseNormalizationOptions",
        radius=op.size // 2,
        bias=op.k,
        alpha=op.alpha / op.size,
        beta=op.beta,
    )


def _normalize_by_convolution(to: Lowering, op: ops.Lrn, x: Tensor, y: Tensor) -> None:
    """Emit `x * scale ** -beta` with `scale = k + alpha / size * (band matrix) @ x ** 2`, the matrix being a kernel."""
    channel = np.arange(x.shape[-1])
    near = np.abs(np.subtract.outer(channel, channel)) <= op.size // 2
    band = to.small(y, "band", near[:, None, None, :] * (op.alpha / op.size), DType.FLOAT32)
    bias = to.small(y, "k", np.full(x.shape[-1], op.k), DType.FLOAT32)
    squares, scale = (to.temporary(y, what, x.shape) for what in ("squares", "scale"))
    to.model.operator("MUL", [x, x], [squares], options="MulOptions", fusedActivationFunction=0)
    fields = {"padding": VALID, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    to.model.operator("CONV_2D", [squares, band, bias], [scale], options="Conv2DOptions", **fields)
    factor = to.temporary(y, "factor", y.shape)
    elementwise.emit_power(to, scale, -op.beta, factor)
    to.model.operator("MUL", [x, factor], [y], options="MulOptions", fusedActivationFunction=0)


# --- resampling ---------------------------------------------------------------------------------------------------


def emit_resize(to: Lowering, op: ops.Resize, node: Node) -> None:
    """Emit `RESIZE_BILINEAR` or `RESIZE_NEAREST_NEIGHBOR`; along one or three axes by way of two."""
    x, y = to.read(node.inputs[0]), to.result(node)
    batch, channels, sizes = x.shape[0], x.shape[-1], x.shape[1:-1]
    if len(sizes) == 1:
        image = to.reshaped(x, y, "image", (batch, 1, *sizes, channels))
        row = to.temporary(y, "row", (batch, 1, *op.size, channels))
        _resample(to, op, image, row)
        to.reshape(row, y)
    elif len(sizes) == 2:
        _resample(to, op, x, y)
    else:
        depth, plane = sizes[0], math.prod(op.size[1:])
        slices = to.reshaped(x, y, "slices", (batch * depth, *sizes[1:], channels))
        across = to.temporary(y, "across", (batch * depth, *op.size[1:], channels), batched=slices.batched)
        _resample(to, op, slices, across)
        columns = to.reshaped(across, y, "columns", (batch, depth, plane, channels))
        along = to.temporary(y, "along", (batch, op.size[0], plane, channels))
        _resample(to, op, columns, along)
        to.reshape(along, y)


def _resample(to: Lowering, op: ops.Resize, x: Tensor, y: Tensor) -> None:
    """Emit the operator for two axes, or `GATHER` for nearest neighbours where the operator would round otherwise."""
    before, after = x.shape[1:3], y.shape[1:3]
    nearest = op.interpolation is Interpolation.NEAREST
    if nearest and not _rounds_alike(op.coordinates, before, after):
        _pick(to, op.coordinates, x, y)
        return
    half_pixel = op.coordinates is Coordinates.HALF_PIXEL
    corners = op.coordinates is Coordinates.ALIGN_CORNERS
    to.model.operator(
        "RESIZE_NEAREST_NEIGHBOR" if nearest else "RESIZE_BILINEAR",
        [x, to.small(y, "size", list(after))],
        [y],
        version=3 if half_pixel or (nearest and corners) else 1,
        options="ResizeNearestNeighborOptions" if nearest else "ResizeBilinearOptions",
        alignCorners=corners,
        halfPixelCenters=half_pixel,
    )


def _rounds_alike(coordinates: Coordinates, before: Sequence[int], after: Sequence[int]) -> bool:
    return all(
        np.array_equal(_exact_places(coordinates, size, count), _runtime_places(coordinates, size, count))
        for size, count in zip(before, after, strict=True)
    )


def _exact_places(coordinates: Coordinates, size: int, count: int) -> Array:
    """Compute which element each place of a result of `count` takes, in whole numbers."""
    place = np.arange(count)
    match coordinates:
        case Coordinates.ASYMMETRIC:
            place = place * size // count
        case Coordinates.HALF_PIXEL:
            place = (2 * place + 1) * size // (2 * count)
        case Coordinates.ALIGN_CORNERS if count > 1:
            place = (2 * place * (size - 1) + (count - 1)) // (2 * (count - 1))
    return np.minimum(place, size - 1)


def _runtime_places(coordinates: Coordinates, size: int, count: int) -> Array:
    """Compute the same as the operator does, in float32 (`GetNearestNeighbor` in resize_nearest_neighbor.h)."""
    one = np.float32(1)
    corners = coordinates is Coordinates.ALIGN_CORNERS and count > 1
    scale = np.float32(size - 1) / np.float32(count - 1) if corners else np.float32(size) / np.float32(count)
    offset = one / 2 if coordinates is Coordinates.HALF_PIXEL else one * 0
    places = (np.arange(count, dtype=np.float32) + offset) * scale
    rounded = np.floor(places + one / 2) if coordinates is Coordinates.ALIGN_CORNERS else np.floor(places)
    clipped: Array = np.clip(rounded, 0, size - 1).astype(np.int64)
    return clipped


def _pick(to: Lowering, coordinates: Coordinates, x: Tensor, y: Tensor) -> None:
    """Pick rows, then columns."""
    rows, columns = (_exact_places(coordinates, x.shape[axis], y.shape[axis]) for axis in (1, 2))
    shape: Shape = (x.shape[0], y.shape[1], *x.shape[2:])
    picked = to.temporary(y, "rows", shape, batched=x.batched)
    to.model.operator("GATHER", [x, to.small(y, "row_places", rows)], [picked], options="GatherOptions", axis=1)
    to.model.operator("GATHER", [picked, to.small(y, "places", columns)], [y], options="GatherOptions", axis=2)
