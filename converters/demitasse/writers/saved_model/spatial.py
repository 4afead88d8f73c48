"""Spell the operations on images in TensorFlow's operators; all of them channels last.

What has one spatial axis is computed as an image of one row. Where TensorFlow's kernels for processors lack groups,
dilation or uneven padding, operators around them make up for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from demitasse.ir.ops import (
    AveragePool,
    Conv,
    ConvTranspose,
    Coordinates,
    Interpolation,
    Lrn,
    MaxPool,
    MaxUnpool,
    Op,
    Padding,
    Resize,
)
from demitasse.ir.weights import Array
from demitasse.writers.saved_model.elementwise import activated
from demitasse.writers.saved_model.kernels import is_depthwise
from demitasse.writers.saved_model.site import Emitter, Site, Step, Tensor, call, raw

__all__ = ["EMITTERS"]

UNPADDED = {"padding": "VALID"}
NO_PAD = Padding(0, 0)


def _rowed(sizes: Sequence[int]) -> list[int]:
    """Give strides, windows, dilations or dimensions of one spatial axis another one before it."""
    return [1, *sizes] if len(sizes) == 1 else list(sizes)


def _rowed_pads(pads: Sequence[Padding]) -> list[Padding]:
    return [NO_PAD, *pads] if len(pads) == 1 else list(pads)


def _as_row(site: Site) -> list[Step]:
    return [call("ExpandDims", "input", axis=1)] if site.spatial_rank == 1 else []


def _as_line(site: Site) -> list[Step]:
    return [call("Squeeze", "input", axis=[1])] if site.spatial_rank == 1 else []


def _row_kernel(site: Site, kernel: Tensor) -> Tensor:
    if site.spatial_rank != 1:
        return kernel
    return raw("ExpandDims", input=kernel, axis=0, name=site.inner("kernel/row"))


def _with_ends(sizes: Sequence[int]) -> list[int]:
    """List strides, windows or dilations with those of the batch and the channels, which are 1."""
    return [1, *_rowed(sizes), 1]


def _padding(pads: Sequence[Padding]) -> dict[str, Any]:
    """Spell the pads of an image as attributes."""
    if not any(map(any, pads)):
        return UNPADDED
    return {"padding": "EXPLICIT", "explicit_paddings": [0, 0, *chain(*_rowed_pads(pads)), 0, 0]}


def _padded(pads: Sequence[Padding], value: float = 0.0) -> list[Step]:
    """Pad the spatial axes, where there is anything to pad."""
    if not any(map(any, pads)):
        return []
    paddings = [[0, 0], *map(list, _rowed_pads(pads)), [0, 0]]
    if value == 0:
        return [call("Pad", "input", paddings=paddings)]
    return [call("PadV2", "input", paddings=paddings, constant_values=np.float32(value))]


def _biased(bias: Sequence[Tensor]) -> list[Step]:
    return [call("BiasAdd", "value", bias=bias[0])] if bias else []


# --- convolutions -------------------------------------------------------------------------------------------


def _dilated(site: Site, kernel: Tensor, dilation: Sequence[int]) -> Tensor:
    """Put zeros between the elements of a kernel `[*spatial, ., .]`, for operators that know no dilation."""
    if all(step == 1 for step in dilation):
        return kernel
    *window, inner, outer = kernel.shape
    zeros = [pair for step in dilation for pair in ([0, 0], [0, step - 1])]
    spread = [size * step for size, step in zip(window, dilation, strict=True)]
    extents = [step * (size - 1) + 1 for size, step in zip(window, dilation, strict=True)]
    apart = [*chain(*((size, 1) for size in window)), inner, outer]
    kernel = raw("Reshape", tensor=kernel, shape=apart, name=site.inner("kernel/apart"))
    kernel = raw("Pad", input=kernel, paddings=[*zeros, [0, 0], [0, 0]], name=site.inner("kernel/zeros"))
    kernel = raw("Reshape", tensor=kernel, shape=[*spread, inner, outer], name=site.inner("kernel/spread"))
    size = [*extents, inner, outer]
    return raw("Slice", input=kernel, begin=[0] * len(size), size=size, name=site.inner("kernel/dilated"))


def _in_groups(groups: int, operator: str, kernel: Tensor, one: Callable[[Tensor, Tensor, str], Tensor]) -> Step:
    """Apply `one(x, kernel, name)` to each group of the channels with its share of the kernel's last axis."""
    if groups == 1:
        return Step(operator, lambda x, name: one(x, kernel, name))

    def split(x: Tensor, name: str) -> Tensor:
        axis = len(x.shape) - 1
        parts = raw("Split", axis=axis, value=x, num_split=groups, name=f"{name}/inputs")
        kernels = raw("Split", axis=axis, value=kernel, num_split=groups, name=f"{name}/kernels")
        pairs = enumerate(zip(parts, kernels, strict=True))
        results = [one(part, own, f"{name}/group_{index}") for index, (part, own) in pairs]
        return raw("ConcatV2", values=results, axis=axis, name=name)

    return Step(operator, split)


def _conv(site: Site, op: Conv) -> Tensor:
    x, kernel, *bias = site.operands
    convolve = _convolve_volume if site.spatial_rank == 3 else _convolve
    steps = [*convolve(site, op, kernel), *_biased(bias), *activated(op.activation)]
    return site.chain(x, [*_as_row(site), *steps, *_as_line(site)])


def _convolve(site: Site, op: Conv, kernel: Tensor) -> list[Step]:
    depthwise = is_depthwise(op, site.weight_shape(1))
    operator = "DepthwiseConv2dNative" if depthwise else "Conv2D"
    attributes = {
        "filter": _row_kernel(site, kernel),
        "strides": _with_ends(op.stride),
        "dilations": _with_ends(op.dilation),
        **_padding(op.pads),
    }
    if depthwise and _is_same(site, op.stride, _reached(site, site.weight_shape(1)[2:], op.stride, op.pads)):
        attributes = {**attributes, "explicit_paddings": [], "padding": "SAME"}
    convolution = call(operator, "input", **attributes)
    if not attributes.get("explicit_paddings") if depthwise else op.groups == 1:
        return [convolution]
    # TensorFlow 2.21 fuses a convolution with the bias behind it into kernels that know no explicit padding if they
    # are depthwise (with oneDNN: the process aborts), and no groups (without oneDNN: an error). It doesn't fuse across
    # an EnsureShape, which takes no time.
    batch, *spatial, out = site.shape
    image = [batch, 1, *spatial, out] if site.spatial_rank == 1 else [*site.shape]
    return [convolution, call("EnsureShape", "input", shape=image)]


def _convolve_volume(site: Site, op: Conv, kernel: Tensor) -> list[Step]:
    """Convolve over three axes, where TensorFlow knows no groups, no dilation and no uneven padding."""

    def one(x: Tensor, own: Tensor, name: str) -> Tensor:
        return raw("Conv3D", input=x, filter=own, strides=_with_ends(op.stride), name=name, **UNPADDED)

    kernel = _dilated(site, kernel, op.dilation)
    return [*_padded(op.pads), _in_groups(op.groups, "Conv3D", kernel, one)]


def _conv_transpose(site: Site, op: ConvTranspose) -> Tensor:
    """Compute a convolution's gradient, as TensorFlow has its transpose."""
    x, kernel, *bias = site.operands
    ends = list(zip(op.pads, op.output_padding, strict=True))
    # The padding of the output first takes back what was cropped; only what goes beyond is new.
    crops = [Padding(pad.before, max(0, pad.after - extra)) for pad, extra in ends]
    beyond = [Padding(0, max(0, extra - pad.after)) for pad, extra in ends]
    sizes = [_known(size) - extra.after for size, extra in zip(site.shape[1:-1], beyond, strict=True)]
    spread = _spread_volume if site.spatial_rank == 3 else _spread
    kernel = _dilated(site, kernel, op.dilation)
    steps = [*spread(site, op, kernel, sizes, crops), *_padded(beyond), *_biased(bias), *activated(op.activation)]
    return site.chain(x, [*_as_row(site), *steps, *_as_line(site)])


def _known(size: int | None) -> int:
    """Return a dimension that can't be free, as a spatial one or the channels."""
    assert size is not None
    return size


def _batch(x: Tensor, name: str) -> Any:
    """Return the batch of a tensor: a number, or a tensor where it is free."""
    if x.shape[0] is not None:
        return np.int32(x.shape[0])
    shape = raw("Shape", input=x, name=f"{name}/input_shape")
    first = {"begin": [0], "end": [1], "strides": [1], "shrink_axis_mask": 1}
    return raw("StridedSlice", input=shape, name=f"{name}/batch", **first)


def _with_batch(x: Tensor, sizes: Sequence[int], name: str) -> Any:
    """Return a shape whose batch is that of a tensor: a list, or a tensor where the batch is free."""
    batch = _batch(x, name)
    if x.shape[0] is not None:
        return [batch, *sizes]
    return raw("Pack", values=[batch, *sizes], name=f"{name}/sizes")


def _spread(
    site: Site, op: ConvTranspose, kernel: Tensor, sizes: Sequence[int], crops: Sequence[Padding]
) -> list[Step]:
    depthwise = is_depthwise(op, site.weight_shape(1))
    operator = "DepthwiseConv2dNativeBackpropInput" if depthwise else "Conv2DBackpropInput"
    groups = 1 if depthwise else op.groups
    image = [*_rowed(sizes), _known(site.shape[-1]) // groups]
    attributes = {"strides": _with_ends(op.stride), **_padding(crops)}

    def one(x: Tensor, own: Tensor, name: str) -> Tensor:
        shape = _with_batch(x, image, name)
        return raw(operator, input_sizes=shape, filter=own, out_backprop=x, name=name, **attributes)

    return [_in_groups(groups, operator, _row_kernel(site, kernel), one)]


def _spread_volume(
    site: Site, op: ConvTranspose, kernel: Tensor, sizes: Sequence[int], crops: Sequence[Padding]
) -> list[Step]:
    """Spread over three axes, then crop: the operator knows no groups and crops evenly alone."""
    volume = [size + sum(crop) for size, crop in zip(sizes, crops, strict=True)]
    volume.append(_known(site.shape[-1]) // op.groups)
    attributes = {"strides": _with_ends(op.stride), **UNPADDED}

    def one(x: Tensor, own: Tensor, name: str) -> Tensor:
        shape = _with_batch(x, volume, name)
        return raw("Conv3DBackpropInputV2", input_sizes=shape, filter=own, out_backprop=x, name=name, **attributes)

    spread = _in_groups(op.groups, "Conv3DBackpropInputV2", kernel, one)
    if not any(map(any, crops)):
        return [spread]
    return [spread, call("Slice", "input", begin=[0, *(crop.before for crop in crops), 0], size=[-1, *sizes, -1])]


# --- pooling ------------------------------------------------------------------------------------------------


def _reached(site: Site, windows: Sequence[int], strides: Sequence[int], pads: Sequence[Padding]) -> list[Padding]:
    """Return the pads that some window reaches: poolings refuse any into which a whole window fits."""
    sizes, counts = site.weight_shape(0)[1:-1], site.shape[1:-1]
    axes = zip(sizes, counts, windows, strides, pads, strict=True)
    return [
        Padding(pad.before, max(0, (_known(count) - 1) * stride + window - size - pad.before))
        for size, count, window, stride, pad in axes
    ]


def _is_same(site: Site, strides: Sequence[int], reached: Sequence[Padding]) -> bool:
    """Tell whether TensorFlow's SAME would pad like this: as little as gives `ceil(size / stride)`, more at the end."""
    sizes, counts = site.weight_shape(0)[1:-1], site.shape[1:-1]
    return all(
        count == math.ceil(size / stride) and pad.before == sum(pad) // 2
        for size, count, stride, pad in zip(sizes, counts, strides, reached, strict=True)
    )


def _windows(op: MaxPool | AveragePool) -> dict[str, list[int]]:
    return {"ksize": _with_ends(op.kernel), "strides": _with_ends(op.stride)}


def _max_pool(site: Site, op: MaxPool) -> Any:
    if op.with_indices:
        return _max_pool_with_indices(site, op)
    pads = _reached(site, op.kernel, op.stride, op.pads)
    operator = "MaxPool3D" if site.spatial_rank == 3 else "MaxPool"
    # Explicit paddings would do for a MaxPool in TensorFlow itself, but neither XLA nor TFLiteConverter takes them.
    if any(map(any, pads)) and _is_same(site, op.stride, pads):
        pool = [call(operator, "input", **_windows(op), padding="SAME")]
    else:
        pool = [*_padded(pads, -math.inf), call(operator, "input", **_windows(op), **UNPADDED)]
    return site.chain(site.operands[0], [*_as_row(site), *pool, *activated(op.activation), *_as_line(site)])


def _max_pool_with_indices(site: Site, op: MaxPool) -> tuple[Tensor, Tensor]:
    """Pool the padded image; TensorFlow counts places over that and its channels, a graph over the image alone."""
    pads = _reached(site, op.kernel, op.stride, op.pads)
    image = site.apply(site.operands[0], [*_as_row(site), *_padded(pads, -math.inf)])
    found = raw(
        "MaxPoolWithArgmax",
        input=image,
        Targmax=np.int64,
        include_batch_in_index=False,
        name=site.inner("MaxPoolWithArgmax"),
        **_windows(op),
        **UNPADDED,
    )
    places = [call("FloorDiv", "x", y=np.int64(_known(site.shape[-1]))), *_unpadded_places(site, pads)]
    return (
        site.chain(found.output, [*activated(op.activation), *_as_line(site)]),
        site.chain(found.argmax, [*places, *_as_line(site), call("Cast", "x", DstT=np.int32)], output=1),
    )


def _unpadded_places(site: Site, pads: Sequence[Padding]) -> list[Step]:
    """Turn row-major places in a padded image into those in the image itself."""
    if not any(map(any, pads)):
        return []
    top, left = _rowed_pads(pads)
    width = site.weight_shape(0)[-2]
    wider = width + sum(left)

    def move(places: Tensor, name: str) -> Tensor:
        row = raw("FloorDiv", x=places, y=np.int64(wider), name=f"{name}/row")
        added = raw("Mul", x=row, y=np.int64(wider - width), name=f"{name}/added")
        narrow = raw("Sub", x=places, y=added, name=f"{name}/narrow")
        return raw("Sub", x=narrow, y=np.int64(top.before * width + left.before), name=name)

    return [Step("places", move)]


def _average_pool(site: Site, op: AveragePool) -> Tensor:
    """Pool without counting padding, as TensorFlow does where the padding is what it calls SAME.

    Elsewhere zeros are added, and counted, and then each mean is scaled by what it should have been divided by.
    """
    pads = _reached(site, op.kernel, op.stride, op.pads)
    operator = "AvgPool3D" if site.spatial_rank == 3 else "AvgPool"
    operand = "input" if site.spatial_rank == 3 else "value"
    if not any(map(any, pads)):
        pool = [call(operator, operand, **_windows(op), **UNPADDED)]
    elif _is_same(site, op.stride, pads):
        pool = [call(operator, operand, **_windows(op), padding="SAME")]
    else:
        mean = call(operator, operand, **_windows(op), **UNPADDED)
        pool = [*_padded(pads), mean, call("Mul", "x", y=_rescaling(site, op, pads))]
    return site.chain(site.operands[0], [*_as_row(site), *pool, *activated(op.activation), *_as_line(site)])


def _rescaling(site: Site, op: AveragePool, pads: Sequence[Padding]) -> Array:
    """Return, for every window, how many elements it has a counted one: `[1, *counts, 1]`."""
    scale = np.ones((), np.float64)
    sizes, counts = site.weight_shape(0)[1:-1], site.shape[1:-1]
    for size, count, window, stride, pad in zip(sizes, counts, op.kernel, op.stride, pads, strict=True):
        start = np.arange(_known(count)) * stride - pad.before
        inside = np.minimum(start + window, size) - np.maximum(start, 0)
        scale = scale[..., None] * (window / inside)
    return scale.reshape(1, *_rowed(scale.shape), 1).astype(np.float32)


def _max_unpool(site: Site, op: MaxUnpool) -> Tensor:
    """Write each element to its place in one long row of zeros: sample, then place in the plane, then channel."""
    x, places = site.operands
    channels = _known(site.shape[-1])
    sample = math.prod(op.size) * channels
    total = raw("Mul", x=_batch(x, site.name), y=np.int32(sample), name=site.inner("total"))
    starts = raw("Range", start=0, limit=total, delta=sample, name=site.inner("starts"))
    column = [-1, *(1,) * (len(site.shape) - 1)]
    steps = [
        call("Mul", "x", y=np.int32(channels)),
        call("AddV2", "x", y=np.arange(channels, dtype=np.int32)),
        call("AddV2", "x", y=raw("Reshape", tensor=starts, shape=column, name=site.inner("column"))),
        call("Reshape", "tensor", shape=[-1, 1]),
    ]
    size = raw("Reshape", tensor=total, shape=[1], name=site.inner("size"))
    scatter = raw(
        "TensorScatterUpdate",
        tensor=raw("Fill", dims=size, value=np.zeros((), x.dtype.as_numpy_dtype), name=site.inner("zeros")),
        indices=site.apply(places, steps),
        updates=raw("Reshape", tensor=x, shape=[-1], name=site.inner("values")),
        name=site.inner("TensorScatterUpdate"),
    )
    return site.chain(scatter, [call("Reshape", "tensor", shape=[-1, *op.size, channels])])


# --- normalizing and resampling -----------------------------------------------------------------------------


def _lrn(site: Site, op: Lrn) -> Tensor:
    """Normalize; TensorFlow's alpha is for each element, and its window reaches `depth_radius` to both sides."""
    attributes = {"depth_radius": op.size // 2, "bias": op.k, "alpha": op.alpha / op.size, "beta": op.beta}
    normalize = call("LRN", "input", **attributes)
    if len(site.shape) == 4:
        return site.chain(site.operands[0], [normalize])
    # The operator is for images alone; it looks along the channels only, so the space may take any shape.
    *leading, channels = site.shape
    pixels = call("Reshape", "tensor", shape=[-1, 1, 1, channels])
    back = call("Reshape", "tensor", shape=[-1, *leading[1:], channels])
    return site.chain(site.operands[0], [pixels, normalize, back])


def _resize(site: Site, op: Resize) -> Tensor:
    sizes = site.weight_shape(0)[1:-1]
    if tuple(sizes) == tuple(op.size):
        return site.chain(site.operands[0], [])
    if op.interpolation is Interpolation.LINEAR:
        steps = _interpolated(site, op, sizes)
    elif len(sizes) < 3 and _is_enlarged_wholly(op, sizes):
        # All rules but that of aligned corners then repeat each element. In the middle between two places, as half
        # pixels have it, float32 can't err.
        nearest = call("ResizeNearestNeighbor", "images", size=_rowed(op.size), half_pixel_centers=True)
        steps = [*_as_row(site), nearest, *_as_line(site)]
    else:
        # By number: a place computed in float32 may fall on the wrong side of a boundary.
        steps = [
            call("GatherV2", "params", indices=_nearest(size, out, op.coordinates), axis=axis)
            for axis, (size, out) in enumerate(zip(sizes, op.size, strict=True), start=1)
            if size != out
        ]
    return site.chain(site.operands[0], steps)


def _is_enlarged_wholly(op: Resize, sizes: Sequence[int]) -> bool:
    return op.coordinates is not Coordinates.ALIGN_CORNERS and all(
        out % size == 0 for out, size in zip(op.size, sizes, strict=True)
    )


def _nearest(size: int, out: int, coordinates: Coordinates) -> Array:
    """List which element each place of an axis takes, in exact arithmetic."""
    place = np.arange(out, dtype=np.int32)
    match coordinates:
        case Coordinates.ASYMMETRIC:
            return place * size // out
        case Coordinates.HALF_PIXEL:
            return (2 * place + 1) * size // (2 * out)
        case Coordinates.ALIGN_CORNERS:
            steps = max(out - 1, 1)
            return (2 * place * (size - 1) + steps) // (2 * steps)


def _interpolated(site: Site, op: Resize, sizes: Sequence[int]) -> list[Step]:
    rule = {
        "align_corners": op.coordinates is Coordinates.ALIGN_CORNERS,
        "half_pixel_centers": op.coordinates is Coordinates.HALF_PIXEL,
    }

    def bilinear(size: Sequence[int]) -> Step:
        return call("ResizeBilinear", "images", size=size, **rule)

    if len(sizes) < 3:
        return [*_as_row(site), bilinear(_rowed(op.size)), *_as_line(site)]
    # Interpolation is separable: each slice as an image of its own, then the depth, all of a slice being one row.
    depth, height, width = op.size
    channels = site.shape[-1]
    return [
        call("Reshape", "tensor", shape=[-1, *sizes[1:], channels]),
        bilinear([height, width]),
        call("Reshape", "tensor", shape=[-1, sizes[0], height * width, channels]),
        bilinear([depth, height * width]),
        call("Reshape", "tensor", shape=[-1, depth, height, width, channels]),
    ]


EMITTERS: dict[type[Op], Emitter] = {
    Conv: _conv,
    ConvTranspose: _conv_transpose,
    MaxPool: _max_pool,
    AveragePool: _average_pool,
    MaxUnpool: _max_unpool,
    Lrn: _lrn,
    Resize: _resize,
}
