"""Convolutions (Keras' layers/convolutional)."""

from __future__ import annotations

from typing import NamedTuple

from demitasse.ir.ops import Conv, ConvTranspose, Layout, Padding
from demitasse.readers.keras.activations import activate
from demitasse.readers.keras.builder import LayerBuilder, Operand
from demitasse.readers.keras.registry import reads
from demitasse.readers.keras.weights import Form
from demitasse.readers.keras.windows import causal_pads, no_pads, same_pads, transposed_pads


class Window(NamedTuple):
    """The geometry of a convolution, one number a spatial axis."""

    layout: Layout
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    channels: int
    spatial: tuple[int, ...]


def _window(layer: LayerBuilder, rank: int) -> Window:
    layout = layer.layout(rank + 2)
    shape = layer.shape(layer.x)
    params = layer.params
    return Window(
        layout,
        params.sizes("kernel_size", rank),
        params.sizes("strides", rank, 1),
        params.sizes("dilation_rate", rank, 1),
        shape[layout.channel_axis(rank + 2)],
        tuple(shape[axis] for axis in layout.spatial_axes(rank + 2)),
    )


def _pads(layer: LayerBuilder, window: Window) -> tuple[Padding, ...]:
    match layer.params.choice("padding", ("valid", "same", "causal"), "valid"):
        case "same":
            return same_pads(
                window.spatial, window.kernel, window.stride, window.dilation, theano=layer.generation.is_theano
            )
        case "causal":
            if len(window.kernel) > 1:
                raise layer.malformed("causal padding is for one spatial axis")
            return causal_pads(window.kernel, window.dilation)
        case _:
            return no_pads(len(window.kernel))


def _bias(layer: LayerBuilder, count: int) -> tuple[str, ...]:
    return (layer.weight("bias", (count,)),) if layer.params.flag("use_bias", True) else ()


def _old_forms(layer: LayerBuilder, window: Window, out: int, channels: int) -> tuple[Form, ...]:
    """Return how Keras 1 and Theano's file format store a kernel of `(*window, in, out)`."""
    if layer.generation.major > 2:
        return ()
    rank = len(window.kernel)
    first = Form((out, channels, *window.kernel), (*range(2, rank + 2), 1, 0))
    if rank > 1:
        return (first,)
    # Keras 1 computed a one-dimensional convolution as a two-dimensional one, (length, 1).
    usual = (*window.kernel, channels, out)
    return (
        Form((*window.kernel, 1, channels, out), (), usual),
        Form((out, channels, *window.kernel, 1), (2, 3, 1, 0), usual),
        first,
    )


def _convolve(layer: LayerBuilder, rank: int) -> Operand:
    window = _window(layer, rank)
    params = layer.params
    out, groups = params.integer("filters"), params.integer("groups", 1)
    channels, odd = divmod(window.channels, max(groups, 1))
    if odd or groups < 1:
        raise layer.malformed(f"{groups} groups don't divide {window.channels} input channels")
    kernel = layer.weight(
        "kernel",
        (*window.kernel, channels, out),
        axes=(rank + 1, rank, *range(rank)),
        otherwise=_old_forms(layer, window, out, channels),
        flipped=range(rank),
    )
    op = Conv(window.stride, window.dilation, _pads(layer, window), groups, layout=window.layout)
    return activate(layer, layer.apply(op, layer.real(layer.x), kernel, *_bias(layer, out)))


@reads("Conv1D")
def conv1d(layer: LayerBuilder) -> str:
    """Cross-correlate with kernels along one axis; padding may be causal."""
    return _convolve(layer, 1)


@reads("Conv2D")
def conv2d(layer: LayerBuilder) -> str:
    """Cross-correlate with kernels along two axes."""
    return _convolve(layer, 2)


@reads("Conv3D")
def conv3d(layer: LayerBuilder) -> str:
    """Cross-correlate with kernels along three axes."""
    return _convolve(layer, 3)


# --- depthwise and separable ------------------------------------------------------------------------------------------


def _depthwise_kernel(layer: LayerBuilder, window: Window, role: str) -> tuple[str, int]:
    """Add the kernel `(*window, channels, multiplier)` as `[channels * multiplier, 1, *window]`."""
    if layer.params.integer("groups", 1) != 1:
        raise layer.unsupported("groups besides the channels")
    rank, multiplier = len(window.kernel), layer.params.integer("depth_multiplier", 1)
    out = window.channels * multiplier
    # Keras 1 in Theano's order of axes:
    first = Form((multiplier, window.channels, *window.kernel), (*range(2, rank + 2), 1, 0))
    name = layer.weight(
        role,
        (*window.kernel, window.channels, multiplier),
        axes=(rank, rank + 1, *range(rank)),
        view=(out, 1, *window.kernel),
        otherwise=(first,) if layer.generation.major < 2 else (),
    )
    return name, out


def _depthwise(layer: LayerBuilder, rank: int) -> Operand:
    window = _window(layer, rank)
    kernel, out = _depthwise_kernel(layer, window, "kernel")
    op = Conv(window.stride, window.dilation, _pads(layer, window), window.channels, layout=window.layout)
    return activate(layer, layer.apply(op, layer.real(layer.x), kernel, *_bias(layer, out)))


@reads("DepthwiseConv1D")
def depthwise_conv1d(layer: LayerBuilder) -> str:
    """Cross-correlate each channel with kernels of its own along one axis."""
    return _depthwise(layer, 1)


@reads("DepthwiseConv2D")
def depthwise_conv2d(layer: LayerBuilder) -> str:
    """Cross-correlate each channel with kernels of its own along two axes."""
    return _depthwise(layer, 2)


def _separable(layer: LayerBuilder, rank: int) -> Operand:
    window = _window(layer, rank)
    depthwise, between = _depthwise_kernel(layer, window, "depthwise_kernel")
    out = layer.params.integer("filters")
    ones = (1,) * rank
    pointwise = layer.weight(
        "pointwise_kernel",
        (*ones, between, out),
        axes=(rank + 1, rank, *range(rank)),
        otherwise=(Form((out, between, *ones), (*range(2, rank + 2), 1, 0)),) if layer.generation.major < 2 else (),
    )
    first = Conv(window.stride, window.dilation, _pads(layer, window), window.channels, layout=window.layout)
    second = Conv(ones, ones, no_pads(rank), layout=window.layout)
    x = layer.apply(first, layer.real(layer.x), depthwise)
    return activate(layer, layer.apply(second, x, pointwise, *_bias(layer, out)))


@reads("SeparableConv1D")
def separable_conv1d(layer: LayerBuilder) -> str:
    """Cross-correlate each channel along one axis, then mix the channels."""
    return _separable(layer, 1)


@reads("SeparableConv2D")
def separable_conv2d(layer: LayerBuilder) -> str:
    """Cross-correlate each channel along two axes, then mix the channels."""
    return _separable(layer, 2)


# --- transposed -------------------------------------------------------------------------------------------------------


def _old_transposed_forms(layer: LayerBuilder, window: Window, out: int) -> tuple[Form, ...]:
    """Return how Keras 1 stores a kernel of `(*window, out, in)`: as that of the convolution that it transposes."""
    if layer.generation.major > 1:
        return ()
    rank = len(window.kernel)
    if window.layout is Layout.CHANNELS_FIRST:
        return (Form((out, window.channels, *window.kernel), (*range(2, rank + 2), 0, 1)),)
    return (Form((*window.kernel, window.channels, out), (*range(rank), rank + 1, rank)),)


def _convolve_transposed(layer: LayerBuilder, rank: int) -> Operand:
    window = _window(layer, rank)
    params = layer.params
    out, groups = params.integer("filters"), params.integer("groups", 1)
    if groups != 1:
        raise layer.unsupported(f"a transposed convolution in {groups} groups")
    same = params.choice("padding", ("valid", "same"), "valid") == "same"
    stated = params.get("output_padding")
    extra: tuple[int | None, ...] = (None,) * rank
    if stated is not None:
        extra = params.integers("output_padding")
        extra = extra * rank if len(extra) == 1 else extra
    params.ignore("output_shape")  # Keras 1 stated the whole shape, which is what follows from the rest
    cut = [
        transposed_pads(*sizes[:4], same=same, output_padding=sizes[4], theano=layer.generation.is_theano)
        for sizes in zip(window.spatial, window.kernel, window.stride, window.dilation, extra, strict=True)
    ]
    kernel = layer.weight(
        "kernel",
        (*window.kernel, out, window.channels),
        axes=(rank + 1, rank, *range(rank)),
        otherwise=_old_transposed_forms(layer, window, out),
        flipped=range(rank),
    )
    pads, output_padding = tuple(pad for pad, _ in cut), tuple(extend for _, extend in cut)
    op = ConvTranspose(window.stride, window.dilation, pads, output_padding, layout=window.layout)
    return activate(layer, layer.apply(op, layer.real(layer.x), kernel, *_bias(layer, out)))


@reads("Conv1DTranspose")
def conv1d_transpose(layer: LayerBuilder) -> str:
    """Apply the transpose of a convolution along one axis."""
    return _convolve_transposed(layer, 1)


@reads("Conv2DTranspose")
def conv2d_transpose(layer: LayerBuilder) -> str:
    """Apply the transpose of a convolution along two axes."""
    return _convolve_transposed(layer, 2)


@reads("Conv3DTranspose")
def conv3d_transpose(layer: LayerBuilder) -> str:
    """Apply the transpose of a convolution along three axes."""
    return _convolve_transposed(layer, 3)
