"""Convolutions and matrix products (base_conv_layer.cpp, deconv_layer.cpp, inner_product_layer.cpp, ...)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from demitasse.ir.ops import (
    Binary,
    BinaryFunction,
    Conv,
    ConvTranspose,
    Dense,
    Gather,
    Padding,
    Reshape,
    Shape,
)
from demitasse.readers.caffe.builder import MOST_NUMBERS, LayerBuilder
from demitasse.readers.caffe.params import Params
from demitasse.readers.caffe.registry import reads


class Window(NamedTuple):
    """The geometry of a convolution, one number a spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def pads(self) -> tuple[Padding, ...]:
        return tuple(Padding(pad, pad) for pad in self.pad)


def window_of(layer: LayerBuilder, param: Params, spatial: int) -> Window:
    """Read kernel_size, stride, pad and dilation (or DeepLab's `hole`) for a number of spatial axes."""
    if spatial < 1:
        raise layer.malformed("it needs an input of rank 3 or more: samples, channels and a spatial axis")
    kernel = _sizes(layer, param, "kernel_size", "kernel", spatial, default=None)
    stride = _sizes(layer, param, "stride", "stride", spatial, default=1)
    pad = _sizes(layer, param, "pad", "pad", spatial, default=0)
    old_spelling = any(name in param for name in ("hole", "hole_h", "hole_w"))
    dilation = _sizes(
        layer, param, "hole" if old_spelling else "dilation", "hole" if old_spelling else "", spatial, default=1
    )
    if min(*kernel, *stride, *dilation) < 1:
        raise layer.malformed(f"kernel {kernel}, stride {stride} and dilation {dilation} have to be positive")
    return Window(kernel, stride, pad, dilation)


def _sizes(
    layer: LayerBuilder, param: Params, name: str, prefix: str, spatial: int, default: int | None
) -> tuple[int, ...]:
    """Read a size that is given once for all axes, once an axis, or as `prefix_h` and `prefix_w`."""
    values = param.integers(name)
    if prefix and (f"{prefix}_h" in param or f"{prefix}_w" in param):
        if values or spatial != 2:
            raise layer.malformed(f"{prefix}_h and {prefix}_w go with two spatial axes and without {name}")
        fallback = 0 if default is None else default
        return param.integer(f"{prefix}_h", fallback), param.integer(f"{prefix}_w", fallback)
    if not values:
        if default is None:
            raise layer.malformed(f"{name} is missing")
        return (default,) * spatial
    if len(values) not in (1, spatial):
        raise layer.malformed(f"{len(values)} values of {name} for {spatial} spatial axes")
    return values * spatial if len(values) == 1 else values


def _batched(layer: LayerBuilder, x: str, axis: int) -> str:
    """Join the axes before the channels, if there are several, into one."""
    return x if axis == 1 else layer.step("batched", Reshape((-1, *layer.shape(x)[axis:])), x)


@reads("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution")
def convolution(layer: LayerBuilder) -> None:
    """Convolve, over any number of spatial axes, with groups and dilation; several bottoms share one kernel."""
    param = layer.param("convolution_param")
    channels_axis = layer.axis(param.integer("axis"), layer.rank(layer.inputs(1, len(layer.bottoms) or 1)[0]))
    channels, *space = layer.shape(layer.bottoms[0])[channels_axis:]
    window = window_of(layer, param, len(space))
    out, groups = param.integer("num_output", 0), param.integer("group")
    if layer.type in ("ConvolutionDepthwise", "DepthwiseConvolution"):
        groups = _depthwise_groups(layer, channels, groups)
    _check_groups(layer, channels, out, groups)
    kernel = layer.weight(0, "kernel", (out, channels // groups, *window.kernel))
    bias = [layer.weight(1, "bias", (out,))] if param.flag("bias_term") else []
    op = Conv(window.stride, window.dilation, window.pads, groups)
    for x in layer.bottoms:
        _emit_batched(layer, op, x, channels_axis, kernel, *bias)


def _depthwise_groups(layer: LayerBuilder, channels: int, groups: int) -> int:
    """Return the groups of a depthwise layer: one a channel, unless its kernel was stored for another number.

    Forks differ in whether `group` has to say so; the kernel can't lie.
    """
    stored = layer.stored_shape(0)
    if stored is None or len(stored) < 2 or stored[1] < 1 or channels % stored[1]:
        return channels
    if channels // stored[1] not in (groups, channels):
        raise layer.malformed(f"a kernel of shape {stored} is neither depthwise nor in {groups} groups")
    return channels // stored[1]


def _check_groups(layer: LayerBuilder, channels: int, out: int, groups: int) -> None:
    if out < 1:
        raise layer.malformed("num_output is missing, or 0")
    if groups < 1 or channels % groups or out % groups:
        raise layer.malformed(f"{groups} groups don't divide {channels} input and {out} output channels")


def _emit_batched(layer: LayerBuilder, op: Conv | ConvTranspose, x: str, axis: int, *weights: str) -> None:
    """Apply a convolution whose channels stand at `axis`."""
    if axis == 1:
        layer.emit(op, x, *weights)
        return
    lead = layer.shape(x)[:axis]
    flat = layer.step("convolved", op, _batched(layer, x, axis), *weights)
    shape = layer.shape(flat)[1:]
    layer.emit(Reshape((-1, *lead[1:], *shape) if lead else shape), flat)


@reads("Deconvolution", "DeconvolutionDepthwise", "DepthwiseDeconvolution")
def deconvolution(layer: LayerBuilder) -> None:
    """Apply the transpose of a convolution, with groups; the kernel is stored input channels first."""
    param = layer.param("convolution_param")
    axis = layer.axis(param.integer("axis"), layer.rank(layer.inputs(1, len(layer.bottoms) or 1)[0]))
    channels, *space = layer.shape(layer.bottoms[0])[axis:]
    window = window_of(layer, param, len(space))
    out = param.integer("num_output", 0)
    groups = param.integer("group")
    _check_groups(layer, channels, out, groups)
    kernel = layer.weight(0, "kernel", (channels, out // groups, *window.kernel))
    bias = [layer.weight(1, "bias", (out,))] if param.flag("bias_term") else []
    op = ConvTranspose(window.stride, window.dilation, window.pads, (0,) * len(space), groups)
    if groups > 1:
        layer.trap("a transposed convolution in groups, which some runtimes don't have")
    for x in layer.bottoms:
        _emit_batched(layer, op, x, axis, kernel, *bias)


@reads("Convolution3D")
def convolution_3d(layer: LayerBuilder) -> None:
    """Convolve over frames, rows and columns (C3D's fork)."""
    param = layer.param("convolution3d_param" if "convolution3d_param" in layer.params else "convolution_param")
    shape = layer.shape(layer.x)
    if len(shape) != 5:
        raise layer.malformed(f"its input has to be N, C, frames, H, W, and is of shape {shape}")
    side, out, groups = param.integers("kernel_size")[-1:], param.integer("num_output", 0), param.integer("group")
    kernel = (param.integer("kernel_depth", 1), *side, *side)
    stride = (param.integer("temporal_stride", 1), *(param.integers("stride")[-1:] or (1,)) * 2)
    pad = (param.integer("temporal_pad", 0), *(param.integers("pad")[-1:] or (0,)) * 2)
    if not side or min(*kernel, *stride) < 1:
        raise layer.malformed(f"kernel {kernel} and stride {stride} have to be positive")
    _check_groups(layer, shape[1], out, groups)
    weights = [layer.weight(0, "kernel", (out, shape[1] // groups, *kernel))]
    if param.flag("bias_term"):
        weights.append(layer.weight(1, "bias", (out,)))
    layer.emit(Conv(stride, (1, 1, 1), tuple(Padding(edge, edge) for edge in pad), groups), layer.x, *weights)


@reads("InnerProduct")
def inner_product(layer: LayerBuilder) -> None:
    """Flatten from `axis` on, in C, H, W order, and multiply by a matrix."""
    param = layer.param("inner_product_param")
    shape = layer.shape(layer.x)
    axis = layer.axis(param.integer("axis"), len(shape))
    out, features = param.integer("num_output", 0), math.prod(shape[axis:])
    if out < 1:
        raise layer.malformed("num_output is missing, or 0")
    transpose = param.flag("transpose")
    stored: Shape = (features, out) if transpose else (out, features)
    kernel = layer.weight(0, "kernel", stored, transposed=transpose)
    bias = [layer.weight(1, "bias", (out,))] if param.flag("bias_term") else []
    x = layer.x
    if axis != len(shape) - 1:
        x = layer.step("flat", Reshape((*(0,) * axis, -1)), x)
        if any(dim != 1 for dim in shape[axis + 1 :]):
            layer.trap("its columns are in C, H, W order; channels-last targets reorder them")
    layer.emit(Dense(), x, kernel, *bias)


@reads("Im2col")
def im2col(layer: LayerBuilder) -> None:
    """Lay the elements under each place of a window out as channels."""
    param = layer.param("convolution_param")
    axis = layer.axis(param.integer("axis"), layer.rank(layer.x))
    if axis != 1:
        raise layer.unsupported(f"im2col of channels at axis {axis}, not 1")
    channels, *space = layer.shape(layer.x)[1:]
    window = window_of(layer, param, len(space))
    param.ignore("num_output", "bias_term", "group")
    # One convolution with a kernel an element of the window: kernel i is 1 at place i and 0 elsewhere.
    places = math.prod(window.kernel)
    if channels * places**2 > MOST_NUMBERS:
        raise layer.unsupported(f"windows of {places} elements of {channels} channels")
    one_hot = np.eye(places).reshape(places, 1, *window.kernel)
    kernel = layer.constant("kernel", np.tile(one_hot, (channels, 1, *(1,) * len(space))))
    layer.emit(Conv(window.stride, window.dilation, window.pads, channels), layer.x, kernel)


@reads("Embed")
def embed(layer: LayerBuilder) -> None:
    """Look a vector up for each index."""
    param = layer.param("embed_param")
    out, entries = param.integer("num_output"), param.integer("input_dim")
    table = layer.weight(0, "kernel", (entries, out))
    bias = layer.weight(1, "bias", (out,)) if param.flag("bias_term") else None
    indices = layer.whole(layer.x)
    if bias is None:
        layer.emit(Gather(0), table, indices)
    else:
        layer.emit(Binary(BinaryFunction.ADD), layer.step("vectors", Gather(0), table, indices), bias)
