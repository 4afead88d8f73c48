"""Pooling layers (pooling_layer.cpp, spp_layer.cpp)."""

from __future__ import annotations

from typing import NamedTuple

from demitasse.ir.ops import (
    AveragePool,
    Binary,
    BinaryFunction,
    Compare,
    CompareFunction,
    Concat,
    MaxPool,
    Pad,
    Padding,
    Reduce,
    ReduceFunction,
    Reshape,
    Size,
    Unary,
    UnaryFunction,
    Where,
)
from demitasse.readers.caffe.builder import LayerBuilder
from demitasse.readers.caffe.params import Params
from demitasse.readers.caffe.registry import reads


class PoolAxis(NamedTuple):
    """The windows along one axis: `zeros` count in an average, `overhang` never does."""

    kernel: int
    stride: int
    pad: int
    zeros: Padding
    overhang: int


def pool_axis(
    layer: LayerBuilder, size: int, kernel: int, stride: int, pad: int, *, ceil: bool, clip: bool
) -> PoolAxis:
    """Place the windows along an axis of `size` elements as Caffe does.

    There are `ceil((size + 2 * pad - kernel) / stride) + 1` windows (`floor` in that mode); where there is any padding
    (`clip`), one that would start beyond `size + pad` is dropped (pooling_layer.cpp, Reshape). An average divides by
    the window as far as it lies in `size + 2 * pad`.
    """
    if kernel < 1 or stride < 1:
        raise layer.malformed(f"kernel {kernel} and stride {stride} have to be positive")
    if pad >= kernel:
        raise layer.malformed(f"the padding {pad} has to be smaller than the kernel {kernel}")
    room = size + 2 * pad - kernel
    count = (-(-room // stride) if ceil else room // stride) + 1
    if count < 1:
        raise layer.malformed(f"a kernel of {kernel} exceeds {size} elements with a padding of {pad}")
    if clip and (count - 1) * stride >= size + pad:
        count -= 1
    if (count - 1) * stride - pad >= size:
        raise layer.unsupported(
            f"the last of {count} windows lies wholly outside {size} elements, where Caffe divides by nothing"
        )
    beyond = (count - 1) * stride + kernel - pad - size
    return PoolAxis(kernel, stride, pad, Padding(pad, min(pad, max(beyond, 0))), max(beyond - pad, 0))


@reads("Pooling")
def pooling(layer: LayerBuilder) -> None:
    """Pool the maximum or mean of windows, with Caffe's ceil rule and divisor; a second top tells where maxima are."""
    param = layer.param("pooling_param")
    shape = layer.shape(layer.x)
    if len(shape) != 4:
        raise layer.malformed(f"its input has to be N, C, H, W, and is of shape {shape}")
    method = param.enum("pool")
    if param.flag("global_pooling"):
        _global_pool(layer, param, method)
        return
    size, kernel, stride, pad = Size(*shape[2:]), _kernel(layer, param), _stride(param), _pad(param)
    ceil = param.enum("round_mode") == "CEIL" and param.flag("ceil_mode")
    axes = [
        pool_axis(layer, *geometry, ceil=ceil, clip=any(pad))
        for geometry in zip(size, kernel, stride, pad, strict=True)
    ]
    for name, axis in zip(("rows", "columns"), axes, strict=True):
        if axis.overhang:
            layer.trap(f"the ceil rule lets the last window hang over by {axis.overhang} {name}")
    if method == "AVE" and any(pad):
        layer.trap("zeros of the padding count in the mean, the overhang at the end doesn't")
    emit_pool(layer, layer.x, method, axes)


def _kernel(layer: LayerBuilder, param: Params) -> Size:
    if "kernel_size" in param:
        if "kernel_h" in param or "kernel_w" in param:
            raise layer.malformed("it gives kernel_size, and kernel_h or kernel_w too")
        return Size(param.integer("kernel_size"), param.integer("kernel_size"))
    return Size(param.integer("kernel_h"), param.integer("kernel_w"))


def _stride(param: Params) -> Size:
    if "stride_h" in param:
        return Size(param.integer("stride_h"), param.integer("stride_w"))
    return Size(param.integer("stride"), param.integer("stride"))


def _pad(param: Params) -> Size:
    if "pad_h" in param:
        return Size(param.integer("pad_h"), param.integer("pad_w"))
    return Size(param.integer("pad"), param.integer("pad"))


def _global_pool(layer: LayerBuilder, param: Params, method: str) -> None:
    if (_stride(param), _pad(param)) != (Size(1, 1), Size(0, 0)):
        raise layer.malformed("global pooling goes with a stride of 1 and no padding")
    param.ignore("round_mode", "ceil_mode")
    if "kernel_size" in param or "kernel_h" in param or "kernel_w" in param:
        raise layer.malformed("global pooling goes without a kernel size")
    if len(layer.tops) == 1 and method in ("MAX", "AVE"):
        function = ReduceFunction.MAX if method == "MAX" else ReduceFunction.MEAN
        layer.emit(Reduce(function, (2, 3), keepdims=True), layer.x)
        return
    whole = [PoolAxis(size, 1, 0, Padding(0, 0), 0) for size in layer.shape(layer.x)[2:]]
    emit_pool(layer, layer.x, method, whole)


def emit_pool(layer: LayerBuilder, x: str, method: str, axes: list[PoolAxis]) -> str:
    """Emit a pooling with the windows given by axis, and its mask where the layer has a top for one."""
    kernel = tuple(axis.kernel for axis in axes)
    stride = tuple(axis.stride for axis in axes)
    if method == "MAX":
        pads = tuple(Padding(axis.pad, axis.zeros.after + axis.overhang) for axis in axes)
        if len(layer.tops) == 1:
            return layer.emit(MaxPool(kernel, stride, pads), x)
        indices = layer.inner("indices")
        top = layer.add(MaxPool(kernel, stride, pads, with_indices=True), [x], [layer.top(), indices])
        layer.trap("the mask counts places in each channel's own plane")
        layer.emit_whole(indices)
        return top
    pads = tuple(Padding(0, axis.overhang) for axis in axes)
    if method == "AVE":
        return layer.emit(AveragePool(kernel, stride, pads), _padded(layer, x, axes))
    if method == "STOCHASTIC":
        return _emit_stochastic(layer, x, AveragePool(kernel, stride, pads), axes)
    raise layer.unsupported(f"the pooling method {method}")


def _padded(layer: LayerBuilder, x: str, axes: list[PoolAxis]) -> str:
    if not any(sum(axis.zeros) for axis in axes):
        return x
    none = Padding(0, 0)
    return layer.step("padded", Pad((none, none, *(axis.zeros for axis in axes))), x)


def _emit_stochastic(layer: LayerBuilder, x: str, average: AveragePool, axes: list[PoolAxis]) -> str:
    """Emit what stochastic pooling expects at test time: `sum(x ** 2) / sum(x)`, 0 where the sum isn't positive.

    (StoPoolForwardTest in pooling_layer.cu; the layer is meant for inputs that are not negative.)
    """
    if any(axis.pad for axis in axes):
        raise layer.malformed("stochastic pooling goes without padding")
    squares = layer.step("squares", average, layer.step("squared", Unary(UnaryFunction.SQUARE), x))
    sums = layer.step("sums", average, x)
    zero = layer.constant("zero", 0.0)
    positive = layer.step("positive", Compare(CompareFunction.GREATER), sums, zero)
    divisor = layer.step("divisor", Where(), positive, sums, layer.constant("one", 1.0))
    ratio = layer.step("ratio", Binary(BinaryFunction.DIV), squares, divisor)
    return layer.emit(Where(), positive, ratio, zero)


@reads("Pooling3D")
def pooling_3d(layer: LayerBuilder) -> None:
    """Pool the maximum or mean of windows over frames, rows and columns (C3D's fork)."""
    param = layer.param("pooling3d_param" if "pooling3d_param" in layer.params else "pooling_param")
    shape = layer.shape(layer.x)
    if len(shape) != 5:
        raise layer.malformed(f"its input has to be N, C, frames, H, W, and is of shape {shape}")
    frames = (param.integer("kernel_depth", 1), param.integer("temporal_stride", 1), param.integer("temporal_pad", 0))
    image = (param.integer("kernel_size"), param.integer("stride"), param.integer("pad"))
    clip = any(pad for *_, pad in (frames, image))
    axes = [
        pool_axis(layer, size, *geometry, ceil=True, clip=clip)
        for size, geometry in zip(shape[2:], (frames, image, image), strict=True)
    ]
    emit_pool(layer, layer.x, param.enum("pool"), axes)


@reads("SPP")
def spatial_pyramid_pooling(layer: LayerBuilder) -> None:
    """Pool into 1, 2, 4, ... bins an axis, and join all bins into one vector a sample."""
    param = layer.param("spp_param")
    height, method = param.integer("pyramid_height"), param.enum("pool")
    shape = layer.shape(layer.x)
    if len(shape) != 4 or not 1 <= height <= 16:
        raise layer.malformed(f"pyramid_height {height} doesn't go with an input of shape {shape}")
    levels = []
    for level in range(height):
        axes = [_pyramid_axis(layer, size, 2**level) for size in shape[2:]]
        pads = tuple(Padding(axis.pad, axis.zeros.after + axis.overhang) for axis in axes)
        kernel, stride = tuple(axis.kernel for axis in axes), tuple(axis.stride for axis in axes)
        if method == "MAX":
            pooled = layer.step(f"level_{level}", MaxPool(kernel, stride, pads), layer.x)
        elif method == "AVE":
            beyond = tuple(Padding(0, axis.overhang) for axis in axes)
            padded = _padded(layer, layer.x, axes)
            pooled = layer.step(f"level_{level}", AveragePool(kernel, stride, beyond), padded)
        else:
            raise layer.unsupported(f"the pooling method {method}")
        levels.append(pooled)
    if height == 1:
        layer.emit(Reshape((0, -1)), levels[0])
        return
    flat = [layer.step(f"flat_{level}", Reshape((0, -1)), pooled) for level, pooled in enumerate(levels)]
    layer.emit(Concat(1), *flat)


def _pyramid_axis(layer: LayerBuilder, size: int, bins: int) -> PoolAxis:
    """Choose the windows that give a number of bins (SPPLayer::GetPoolingParam)."""
    kernel = -(-size // bins)
    pad = (kernel * bins - size + 1) // 2
    return pool_axis(layer, size, kernel, kernel, pad, ceil=True, clip=pad > 0)
