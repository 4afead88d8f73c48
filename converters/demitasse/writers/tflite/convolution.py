"""Emit convolutions and transposed convolutions.

TFLite stores the kernels of `CONV_2D` as `[out, height, width, in / groups]`, those of `DEPTHWISE_CONV_2D` as
`[1, height, width, out]`, those of `CONV_3D` as `[depth, height, width, in, out]` and those of `TRANSPOSE_CONV` as
`[out, height, width, in]` (tflite/kernels/{conv,depthwise_conv,conv3d,transpose_conv}.cc). An image of one spatial axis
gets a second one of size 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from demitasse.ir import ops
from demitasse.ir.graph import Node
from demitasse.ir.ops import Activation, Padding, Shape
from demitasse.ir.weights import Array
from demitasse.writers.tflite.lowering import FUSED, Lowering
from demitasse.writers.tflite.model import Tensor
from demitasse.writers.tflite.padding import SAME, VALID, Axis, axes_of, rule

__all__ = ["emit_conv", "emit_conv_transpose"]

NO_PAD = Padding(0, 0)


@dataclass(frozen=True, slots=True)
class _Kernel:
    """A kernel `[out, in / groups, *window]` that `derive` makes from the weight `name`; `kind` names the way."""

    name: str
    kind: str
    shape: Shape
    derive: Callable[[Array], Array]

    @property
    def out(self) -> int:
        return self.shape[0]

    @property
    def window(self) -> Shape:
        return self.shape[2:]

    def channels_last(self, array: Array) -> Array:
        """Arrange as `[out, *window, in / groups]`."""
        return np.moveaxis(self.derive(array), 1, -1)

    def depthwise(self, array: Array) -> Array:
        """Arrange as `[1, *window, out]`."""
        return np.moveaxis(self.derive(array), 0, -1)

    def volume(self, array: Array) -> Array:
        """Arrange as `[*window, in, out]`."""
        return np.moveaxis(self.derive(array), (0, 1), (-1, -2))


@dataclass(frozen=True, slots=True)
class _Walk:
    """How the windows of a convolution move, one entry a spatial axis."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[Padding, ...]
    groups: int
    activation: Activation

    def axes(self, sizes: Shape, window: Shape) -> tuple[Axis, ...]:
        extents = [step * (size - 1) + 1 for size, step in zip(window, self.dilation, strict=True)]
        return axes_of(sizes, extents, self.stride, self.pads)

    def flat(self) -> _Walk:
        """Add an axis of size 1 before the only one."""
        return _Walk((1, *self.stride), (1, *self.dilation), (NO_PAD, *self.pads), self.groups, self.activation)


def emit_conv(to: Lowering, op: ops.Conv, node: Node) -> None:
    """Emit `CONV_2D`, `DEPTHWISE_CONV_2D` or `CONV_3D`, after a `PAD` where neither SAME nor VALID fits."""
    x, y = to.read(node.inputs[0]), to.result(node)
    shape = to.graph.weights.type(node.inputs[1]).shape
    walk = _Walk(op.stride, op.dilation, op.pads, op.groups, op.activation)
    bias = to.read(node.inputs[2]) if len(node.inputs) > 2 else _no_bias(to, y)
    if len(shape) > 3:
        _convolve(to, walk, _Kernel(node.inputs[1], "", shape, lambda array: array), bias, x, y)
        return
    flat = (*shape[:2], 1, *shape[2:])
    kernel = _Kernel(node.inputs[1], "flat", flat, lambda array: array.reshape(flat))
    row = to.temporary(y, "row", (y.shape[0], 1, *y.shape[1:]))
    _convolve(to, walk.flat(), kernel, bias, _as_row(to, x, y), row)
    to.reshape(row, y)


def _no_bias(to: Lowering, y: Tensor) -> Tensor:
    """Return zeros; runtimes before TensorFlow 2.1 insist on a bias."""
    return to.small(y, "bias", np.zeros(y.shape[-1], np.float32), ops.DType.FLOAT32)


def _as_row(to: Lowering, x: Tensor, y: Tensor) -> Tensor:
    return to.reshaped(x, y, "image", (x.shape[0], 1, *x.shape[1:]))


def _convolve(to: Lowering, walk: _Walk, kernel: _Kernel, bias: Tensor, x: Tensor, y: Tensor) -> None:
    """Emit a convolution along two or three axes."""
    channels = x.shape[-1]
    axes = walk.axes(x.shape[1:-1], kernel.window)
    padding = rule(axes)
    if padding is None:
        x = to.padded(x, y, [NO_PAD, *(axis.touched for axis in axes), NO_PAD])
        padding = VALID
    fields = {"padding": padding, "fusedActivationFunction": FUSED[walk.activation]}
    for letter, stride, dilation in zip("DHW"[-len(axes) :], walk.stride, walk.dilation, strict=True):
        fields |= {f"stride{letter}": stride, f"dilation{letter}Factor": dilation}
    if len(axes) == 3:
        shape = (*kernel.window, channels, kernel.out)
        weight = to.weight(kernel.name, shape, kernel.volume, f"volume {kernel.kind}")
        to.model.operator("CONV_3D", [x, weight, bias], [y], options="Conv3DOptions", **fields)
    elif walk.groups == channels > 1:
        fields["depthMultiplier"] = kernel.out // channels
        shape = (1, *kernel.window, kernel.out)
        weight = to.weight(kernel.name, shape, kernel.depthwise, f"depthwise {kernel.kind}")
        version = 1 if walk.dilation == (1, 1) else 2
        options = "DepthwiseConv2DOptions"
        to.model.operator("DEPTHWISE_CONV_2D", [x, weight, bias], [y], version=version, options=options, **fields)
    else:
        shape = (kernel.out, *kernel.window, channels // walk.groups)
        weight = to.weight(kernel.name, shape, kernel.channels_last, f"conv {kernel.kind}")
        version = 1 if walk.groups == 1 else 6
        to.model.operator("CONV_2D", [x, weight, bias], [y], version=version, options="Conv2DOptions", **fields)


# --- transposed ---------------------------------------------------------------------------------------------------


def emit_conv_transpose(to: Lowering, op: ops.ConvTranspose, node: Node) -> None:
    """Emit `TRANSPOSE_CONV`, or one convolution for all phases of the result.

    `TRANSPOSE_CONV` has no groups, two spatial axes, and is told its whole result shape, batch included: it serves one
    group and a fixed batch. XNNPACK takes none whose windows leave gaps.
    """
    x, y = to.read(node.inputs[0]), to.result(node)
    window = to.graph.weights.type(node.inputs[1]).shape[2:]
    walk = _Walk(op.stride, op.dilation, op.pads, op.groups, op.activation)
    gaps = any(size < stride for size, stride in zip(window, op.stride, strict=True))
    emit = _scatter if op.groups == 1 and not x.batched and len(window) < 3 and not gaps else _by_phases
    if len(window) > 1:
        emit(to, walk, node, window, x, y)
        return
    row = to.temporary(y, "row", (y.shape[0], 1, *y.shape[1:]))
    emit(to, walk.flat(), node, (1, *window), _as_row(to, x, y), row)
    to.reshape(row, y)


def _spread(array: Array, window: Shape, dilation: Sequence[int]) -> Array:
    """Write a dilated kernel out, with zeros between its elements."""
    array = array.reshape(*array.shape[:2], *window)
    if set(dilation) == {1}:
        return array
    extents = [step * (size - 1) + 1 for size, step in zip(window, dilation, strict=True)]
    result = np.zeros((*array.shape[:2], *extents), array.dtype)
    places: tuple[slice, ...] = tuple(slice(None, None, step) for step in (1, 1, *dilation))
    result[places] = array
    return result


def _scatter(to: Lowering, walk: _Walk, node: Node, window: Shape, x: Tensor, y: Tensor) -> None:
    """Emit `TRANSPOSE_CONV`, and cut its result to size where neither of its padding rules does.

    Its padding is that of the convolution from its result to its input: VALID crops nothing; SAME crops
    `max((size - 1) * stride + extent - result, 0) // 2` elements at the beginning where `size = ceil(result / stride)`.
    A result that goes on behind the last element scattered there holds the bias.
    """
    axes = walk.axes(y.shape[1:-1], window)
    reach = [(size - 1) * axis.stride + axis.extent for size, axis in zip(x.shape[1:-1], axes, strict=True)]
    same = all(
        size == -(-axis.size // axis.stride) and axis.pad.before == max(end - axis.size, 0) // 2
        for size, end, axis in zip(x.shape[1:-1], reach, axes, strict=True)
    )
    full = tuple(max(end, axis.pad.before + axis.size) for end, axis in zip(reach, axes, strict=True))
    fits = same or full == y.shape[1:-1]
    whole = y if fits else to.temporary(y, "whole", (y.shape[0], *full, y.shape[-1]))
    kernel = to.weight(
        node.inputs[1],
        (y.shape[-1], *(axis.extent for axis in axes), x.shape[-1]),
        lambda array: _spread(array, window, walk.dilation).transpose(1, 2, 3, 0),
        f"transposed {walk.dilation}",
    )
    bias = to.read(node.inputs[2]) if len(node.inputs) > 2 else _no_bias(to, y)
    fused = FUSED[walk.activation]
    to.model.operator(
        "TRANSPOSE_CONV",
        [to.small(y, "size", whole.shape), kernel, x, bias],
        [whole],
        version=4 if fused else 3,
        options="TransposeConvOptions",
        padding=SAME if same else VALID,
        strideH=walk.stride[0],
        strideW=walk.stride[1],
        fusedActivationFunction=fused,
    )
    if whole is not y:
        to.sliced(whole, (0, *(axis.pad.before for axis in axes), 0), y)


@dataclass(frozen=True, slots=True)
class _Phases:
    """The phases of a transposed convolution along one axis.

    The full result is `full[t] = sum_i x[i] * w[t - i * stride]`. With `t = u * stride + p`, `0 <= p < stride`, phase
    `p` is `sum_j x[u - j] * w[j * stride + p]` for `j = 0 .. taps - 1`, `taps = ceil(extent / stride)`: an ordinary
    convolution over `x`, its kernel every `stride`-th element of `w` in reverse. The phases that `y = full[before :
    before + result]` needs are `u = first .. last`; each looks at `x[u - taps + 1 .. u]`.
    """

    size: int
    extent: int
    stride: int
    before: int
    result: int

    @property
    def taps(self) -> int:
        return -(-self.extent // self.stride)

    @property
    def first(self) -> int:
        return self.before // self.stride

    @property
    def last(self) -> int:
        return (self.before + self.result - 1) // self.stride

    @property
    def begin(self) -> int:
        """The first element of `x` that some phase looks at."""
        return max(self.first - self.taps + 1, 0)

    @property
    def end(self) -> int:
        """One behind the last element of `x` that some phase looks at."""
        return min(self.last + 1, self.size)

    @property
    def pad(self) -> Padding:
        return Padding(self.begin - (self.first - self.taps + 1), self.last + 1 - self.end)


def _by_phases(to: Lowering, walk: _Walk, node: Node, window: Shape, x: Tensor, y: Tensor) -> None:
    """Emit a convolution that gives all phases of the result as channels, then weave them together."""
    phases = [
        _Phases(size, axis.extent, axis.stride, axis.pad.before, axis.size)
        for size, axis in zip(x.shape[1:-1], walk.axes(y.shape[1:-1], window), strict=True)
    ]
    begins = [phase.begin for phase in phases]
    sizes = [phase.end - phase.begin for phase in phases]
    if tuple(sizes) != x.shape[1:-1]:
        cut = to.temporary(y, "cut", (x.shape[0], *sizes, x.shape[-1]))
        x = to.sliced(x, (0, *begins, 0), cut)
    count = math.prod(walk.stride)
    steps = (1,) * len(phases)
    inner = _Walk(steps, steps, tuple(phase.pad for phase in phases), walk.groups, walk.activation)
    kernel = _Kernel(
        node.inputs[1],
        f"phases {walk.stride} {walk.dilation} {walk.groups}",
        (y.shape[-1] * count, x.shape[-1] // walk.groups, *(phase.taps for phase in phases)),
        lambda array: _phase_kernel(_spread(array, window, walk.dilation), walk.stride, walk.groups),
    )
    counts = [phase.last - phase.first + 1 for phase in phases]
    woven = [n * stride for n, stride in zip(counts, walk.stride, strict=True)]
    whole = y
    if tuple(woven) != y.shape[1:-1]:
        whole = to.temporary(y, "whole", (y.shape[0], *woven, y.shape[-1]))
    if count == 1:
        _convolve(to, inner, kernel, _phase_bias(to, node, y, 1, walk.groups), x, whole)
    else:
        apart = to.temporary(y, "phases", (y.shape[0], *counts, y.shape[-1] * count))
        _convolve(to, inner, kernel, _phase_bias(to, node, y, count, walk.groups), x, apart)
        _weave(to, apart, walk, whole, y)
    if whole is not y:
        offsets = [phase.before - phase.first * phase.stride for phase in phases]
        to.sliced(whole, (0, *offsets, 0), y)


def _phase_kernel(kernel: Array, stride: Sequence[int], groups: int) -> Array:
    """Turn `[in, out / groups, *extent]` into `[out * phases, in / groups, *taps]`.

    The output channels are ordered by phase first for one group, and by channel first for more than one, because the
    channels of a group have to stay together.
    """
    channels, out, *extents = kernel.shape
    taps = [-(-extent // step) for extent, step in zip(extents, stride, strict=True)]
    room = [(0, tap * step - extent) for tap, step, extent in zip(taps, stride, extents, strict=True)]
    kernel = np.pad(kernel, [(0, 0), (0, 0), *room])
    split = [dim for pair in zip(taps, stride, strict=True) for dim in pair]
    kernel = kernel.reshape(groups, channels // groups, out, *split)
    tap_axes, phase_axes = range(3, 3 + len(split), 2), range(4, 4 + len(split), 2)
    kernel = np.flip(kernel, tuple(tap_axes))
    order = (*phase_axes, 0, 2) if groups == 1 else (0, 2, *phase_axes)
    kernel = kernel.transpose(*order, 1, *tap_axes)
    return kernel.reshape(groups * out * math.prod(stride), channels // groups, *taps)


def _phase_bias(to: Lowering, node: Node, y: Tensor, count: int, groups: int) -> Tensor:
    """Repeat the bias for each phase, in the order of the phase kernel's output channels."""
    out = y.shape[-1]
    if len(node.inputs) < 3:
        return to.small(y, "bias", np.zeros(out * count, np.float32), ops.DType.FLOAT32)

    def repeat(bias: Array) -> Array:
        return np.tile(bias, count) if groups == 1 else np.repeat(bias, count)

    return to.weight(node.inputs[2], (out * count,), repeat, f"phases {count} {groups > 1}")


def _weave(to: Lowering, apart: Tensor, walk: _Walk, whole: Tensor, y: Tensor) -> None:
    """Put the phases in their places: `[batch, *counts, phases * out]` becomes `[batch, *(counts * stride), out]`.

    With the channels ordered `(*phase, out)`, the phase of an axis has to move from behind the axes that follow, one
    transposition an axis; that of the last axis stands where it belongs.
    """
    out, count = whole.shape[-1], math.prod(walk.stride)
    batch, *counts = apart.shape[:-1]
    if walk.groups > 1:
        split = to.reshaped(apart, y, "channels", (batch * math.prod(counts), out, count))
        apart = to.transposed(split, y, "ordered", (0, 2, 1))
    lead, rest = batch, count * out
    for place, stride in enumerate(walk.stride[:-1]):
        inner = math.prod(counts[place + 1 :])
        lead, rest = lead * counts[place], rest // stride
        if stride > 1:
            split = to.reshaped(apart, y, "split", (lead, inner, stride, rest))
            apart = to.transposed(split, y, "woven", (0, 2, 1, 3))
        lead *= stride
    to.reshape(apart, whole)
