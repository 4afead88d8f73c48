"""The closed set of operations that a graph is made of.

Each operation is a frozen dataclass that says everything about itself: its docstring is its meaning, its fields are its
attributes, and `infer` is its shape rule. Nothing here knows a file format, a framework or a target. A node applies an
operation to named inputs; the signature in each docstring gives them in order, an optional one in brackets.

Conventions, valid for every operation:

* Axes are non-negative and count from the left; readers resolve negative ones.
* Convolution kernels are stored `[out, in / groups, *spatial]`, transposed convolution kernels `[in, out / groups,
  *spatial]`, dense kernels `[out, in]`, whatever the layout of the data they meet.
* Operations that tell channels from space carry a `Layout` tag; the tensor itself carries none.
* Padding is explicit: one `Padding(before, after)` a spatial axis.
* Elementwise operations broadcast as numpy does.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, TypeVar, get_args

__all__ = [
    "OPS",
    "Activation",
    "AnyOp",
    "ArgMax",
    "AveragePool",
    "Binary",
    "BinaryFunction",
    "Cast",
    "Clip",
    "Compare",
    "CompareFunction",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Coordinates",
    "Curve",
    "CurveFunction",
    "DType",
    "Dense",
    "Elu",
    "Gather",
    "Identity",
    "Interpolation",
    "Layout",
    "LeakyRelu",
    "Lrn",
    "MatMul",
    "MaxPool",
    "MaxUnpool",
    "NonMaxSuppression",
    "Op",
    "PRelu",
    "Pad",
    "Padding",
    "Recurrent",
    "RecurrentCell",
    "Reduce",
    "ReduceFunction",
    "Relu",
    "Reshape",
    "Resize",
    "RoiMaxPool",
    "Shape",
    "ShapeError",
    "Size",
    "Slice",
    "Softmax",
    "SpatialOp",
    "TensorType",
    "Tile",
    "TopK",
    "Transpose",
    "Unary",
    "UnaryFunction",
    "Where",
]

Shape: TypeAlias = tuple[int, ...]
_T = TypeVar("_T")


class ShapeError(ValueError):
    """Says that an operation can't take inputs of these types, or has impossible attributes; the graph adds where."""


class DType(enum.Enum):
    """Names the element type of a tensor; the value is numpy's name for it."""

    FLOAT32 = "float32"
    INT32 = "int32"
    INT64 = "int64"
    UINT8 = "uint8"
    BOOL = "bool"

    @property
    def is_float(self) -> bool:
        return self is DType.FLOAT32


class TensorType(NamedTuple):
    """The shape and element type of a tensor."""

    shape: Shape
    dtype: DType = DType.FLOAT32

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype.value}[{', '.join(map(str, self.shape))}]"


class Layout(enum.Enum):
    """Says where a spatial operation finds the channels: `N, C, *spatial` or `N, *spatial, C`."""

    CHANNELS_FIRST = "channels_first"
    CHANNELS_LAST = "channels_last"

    def channel_axis(self, rank: int) -> int:
        return 1 if self is Layout.CHANNELS_FIRST else rank - 1

    def spatial_axes(self, rank: int) -> tuple[int, ...]:
        start = 2 if self is Layout.CHANNELS_FIRST else 1
        return tuple(range(start, start + rank - 2))

    def shape(self, batch: int, channels: int, spatial: Sequence[int]) -> Shape:
        """Assemble a shape of this layout."""
        if self is Layout.CHANNELS_FIRST:
            return (batch, channels, *spatial)
        return (batch, *spatial, channels)


class Size(NamedTuple):
    """A pair of numbers for the two axes of an image (a kernel, a stride, a dilation, an image)."""

    height: int
    width: int


class Padding(NamedTuple):
    """The number of elements added before the first and after the last one along an axis."""

    before: int
    after: int


class Activation(enum.Enum):
    """Names the activation that an operation applies to its own result."""

    NONE = "none"
    RELU = "relu"
    RELU6 = "relu6"


def _positive(source: str, shape: Sequence[int]) -> Shape:
    """Return `shape` as a tuple, or raise ShapeError where a dimension isn't positive."""
    if any(dim < 1 for dim in shape):
        raise ShapeError(f"{source} would give the shape {tuple(shape)}, which has an empty dimension")
    return tuple(shape)


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    """Return the shape that numpy's broadcasting rule gives for `shapes`."""
    rank = max(len(shape) for shape in shapes)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    result = []
    for dims in zip(*padded, strict=True):
        wide = {dim for dim in dims if dim != 1}
        if len(wide) > 1:
            raise ShapeError(f"shapes {', '.join(map(str, shapes))} can't be broadcast together")
        result.append(wide.pop() if wide else 1)
    return tuple(result)


def _check_axis(axis: int, rank: int) -> None:
    if not 0 <= axis < rank:
        raise ShapeError(f"axis {axis} is out of range for an input of rank {rank}")


def _check_indices(indices: TensorType) -> None:
    if indices.dtype not in (DType.INT32, DType.INT64):
        raise ShapeError(f"indices must be integers, got {indices.dtype.value}")


def _check_arity(inputs: Sequence[TensorType], least: int, most: int) -> None:
    if not least <= len(inputs) <= most:
        expected = str(least) if least == most else f"{least} to {most}"
        raise ShapeError(f"expected {expected} inputs, got {len(inputs)}")


def _check_float(*inputs: TensorType) -> None:
    """Raise ShapeError where an element type isn't the one that real numbers are computed in."""
    wrong = [str(value) for value in inputs if not value.dtype.is_float]
    if wrong:
        raise ShapeError(f"real numbers are needed, got {', '.join(wrong)}")


def _check_same_dtype(left: TensorType, right: TensorType) -> None:
    if left.dtype is not right.dtype:
        raise ShapeError(f"element types {left.dtype.value} and {right.dtype.value} differ")


@dataclass(frozen=True, slots=True)
class Op:
    """Base of all operations: one shape rule, no state."""

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the types of the results for inputs of the given types.

        Raises:
            ShapeError: the inputs don't fit the operation, or its attributes have no meaning.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _Elementwise(Op):
    """One input, one result of the same type."""

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 1, 1)
        return (inputs[0],)


@dataclass(frozen=True, slots=True)
class _RealElementwise(_Elementwise):
    """One input of real numbers, one result of the same type."""

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_float(*inputs)
        return _Elementwise.infer(self, inputs)


# --- spatial operations ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpatialOp(Op):
    """Base of the operations that tell channels from space and so carry a layout tag."""

    layout: Layout = field(default=Layout.CHANNELS_FIRST, kw_only=True)

    def _split(self, shape: Shape) -> tuple[int, int, tuple[int, ...]]:
        """Return batch, channels and the spatial dimensions of a tensor of this layout."""
        if len(shape) < 3:
            raise ShapeError(f"a spatial operation needs an input of rank 3 or more, got the shape {shape}")
        spatial = tuple(shape[axis] for axis in self.layout.spatial_axes(len(shape)))
        return shape[0], shape[self.layout.channel_axis(len(shape))], spatial


def _check_per_axis(spatial: Shape, **attributes: Sequence[int] | Sequence[Padding]) -> None:
    """Check that each attribute has an entry a spatial axis: pads none below 0, all others none below 1."""
    for name, value in attributes.items():
        if len(value) != len(spatial):
            raise ShapeError(f"{name} has {len(value)} entries for {len(spatial)} spatial axes")
        numbers = [number for entry in value for number in (entry if isinstance(entry, Padding) else (entry,))]
        least = 0 if name in ("pads", "output_padding") else 1
        if min(numbers) < least:
            raise ShapeError(f"{name} {tuple(value)} has an entry below {least}")


def _check_kernel(kernel: TensorType, rank: int, groups: int) -> None:
    if kernel.rank != rank:
        raise ShapeError(f"a kernel of shape {kernel.shape} doesn't fit an input of rank {rank}")
    if groups < 1:
        raise ShapeError(f"{groups} groups")


def _window_count(size: int, window: int, stride: int, padding: Padding) -> int:
    """Count the places of a window that lies wholly inside the padded axis."""
    return (size + padding.before + padding.after - window) // stride + 1


@dataclass(frozen=True, slots=True)
class Conv(SpatialOp):
    """Cross-correlate: `Conv(x, kernel[, bias])`.

    `kernel` is `[out, in / groups, *spatial]`, `bias` `[out]`. Any number of spatial axes. Zeros are padded.
    Depthwise convolution is `groups == in`.
    """

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[Padding, ...]
    groups: int = 1
    activation: Activation = Activation.NONE

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 2, 3)
        _check_float(*inputs)
        batch, channels, spatial = self._split(inputs[0].shape)
        _check_kernel(inputs[1], inputs[0].rank, self.groups)
        out, in_per_group, *window = inputs[1].shape
        _check_per_axis(spatial, kernel=window, stride=self.stride, dilation=self.dilation, pads=self.pads)
        if channels != in_per_group * self.groups or out % self.groups:
            raise ShapeError(
                f"a kernel of shape {inputs[1].shape} in {self.groups} group(s) doesn't fit {channels} input channels"
            )
        _check_bias(inputs[2:], out)
        extents = [dilation * (size - 1) + 1 for size, dilation in zip(window, self.dilation, strict=True)]
        result = map(_window_count, spatial, extents, self.stride, self.pads)
        return (TensorType(self.layout.shape(batch, out, _positive("the window", tuple(result))), inputs[0].dtype),)


def _check_bias(bias: Sequence[TensorType], out: int) -> None:
    if bias and bias[0].shape != (out,):
        raise ShapeError(f"a bias of shape {bias[0].shape} doesn't fit {out} output channels")


@dataclass(frozen=True, slots=True)
class ConvTranspose(SpatialOp):
    """Apply the transpose of a convolution: `ConvTranspose(x, kernel[, bias])`.

    `kernel` is `[in, out / groups, *spatial]`. Each axis gives `stride * (size - 1) + dilation * (window - 1) + 1 -
    before - after + output_padding` elements: `pads` crops the full result, `output_padding` crops that much less at
    its end (and gives zeros, plus the bias, where there is nothing left to uncover).
    """

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[Padding, ...]
    output_padding: tuple[int, ...]
    groups: int = 1
    activation: Activation = Activation.NONE

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 2, 3)
        _check_float(*inputs)
        batch, channels, spatial = self._split(inputs[0].shape)
        _check_kernel(inputs[1], inputs[0].rank, self.groups)
        kernel_in, out_per_group, *window = inputs[1].shape
        _check_per_axis(
            spatial,
            kernel=window,
            stride=self.stride,
            dilation=self.dilation,
            pads=self.pads,
            output_padding=self.output_padding,
        )
        if channels != kernel_in or channels % self.groups:
            raise ShapeError(
                f"a kernel of shape {inputs[1].shape} in {self.groups} group(s) doesn't fit {channels} input channels"
            )
        out = out_per_group * self.groups
        _check_bias(inputs[2:], out)
        result = [
            stride * (size - 1) + dilation * (extent - 1) + 1 - pad.before - pad.after + extra
            for size, extent, stride, dilation, pad, extra in zip(
                spatial, window, self.stride, self.dilation, self.pads, self.output_padding, strict=True
            )
        ]
        return (TensorType(self.layout.shape(batch, out, _positive("cropping", result)), inputs[0].dtype),)


@dataclass(frozen=True, slots=True)
class _Pool(SpatialOp):
    """Slide a window over the spatial axes; `pads` may differ at the two ends, but no window lies wholly in them."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[Padding, ...]
    activation: Activation = Activation.NONE

    def _pooled(self, inputs: Sequence[TensorType]) -> TensorType:
        _check_arity(inputs, 1, 1)
        batch, channels, spatial = self._split(inputs[0].shape)
        _check_per_axis(spatial, kernel=self.kernel, stride=self.stride, pads=self.pads)
        result = tuple(map(_window_count, spatial, self.kernel, self.stride, self.pads))
        for size, window, stride, pad, count in zip(spatial, self.kernel, self.stride, self.pads, result, strict=True):
            last = (count - 1) * stride - pad.before
            if pad.before >= window or last >= size:
                raise ShapeError(f"a window of {window} would lie wholly in the padding {pad} of {size} elements")
        return TensorType(self.layout.shape(batch, channels, _positive("pooling", result)), inputs[0].dtype)

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (self._pooled(inputs),)


@dataclass(frozen=True, slots=True)
class MaxPool(_Pool):
    """Take the maximum of each window: `MaxPool(x)`. Padding never wins.

    With `with_indices` there is a second result of type int32: the place of each maximum, counted row-major over the
    spatial axes of its own channel (the first place in a tie).
    """

    with_indices: bool = False

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        pooled = self._pooled(inputs)
        return (pooled, TensorType(pooled.shape, DType.INT32)) if self.with_indices else (pooled,)


@dataclass(frozen=True, slots=True)
class AveragePool(_Pool):
    """Take the mean of each window's elements: `AveragePool(x)`. Padding is not counted.

    Where padding has to count, a `Pad` stands before it.
    """

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_float(*inputs)
        return (self._pooled(inputs),)


@dataclass(frozen=True, slots=True)
class MaxUnpool(SpatialOp):
    """Put each element where its maximum was, zeros elsewhere: `MaxUnpool(x, indices)`.

    `indices` counts as the second result of `MaxPool` does, over a plane of `size`. Of elements with the same place the
    last one, row-major, stays.
    """

    size: tuple[int, ...]

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 2, 2)
        if inputs[0].shape != inputs[1].shape:
            raise ShapeError(f"values {inputs[0].shape} and indices {inputs[1].shape} differ in shape")
        _check_indices(inputs[1])
        batch, channels, spatial = self._split(inputs[0].shape)
        _check_per_axis(spatial, size=self.size)
        return (TensorType(self.layout.shape(batch, channels, self.size), inputs[0].dtype),)


@dataclass(frozen=True, slots=True)
class Lrn(SpatialOp):
    """Normalize over neighbouring channels: `Lrn(x)`.

    `x / (k + alpha / size * sum(x ** 2 over size channels)) ** beta`, the window centred on the channel and clipped at
    the ends (Krizhevsky et al. 2012, section 3.3, with Caffe's `alpha / size`). `size` is odd.
    """

    size: int
    alpha: float
    beta: float
    k: float

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 1, 1)
        _check_float(*inputs)
        self._split(inputs[0].shape)
        if self.size < 1 or self.size % 2 == 0:
            raise ShapeError(f"the window of a local response normalization must be odd, got {self.size}")
        return (inputs[0],)


class Interpolation(enum.Enum):
    """Names how `Resize` makes new elements."""

    NEAREST = "nearest"
    LINEAR = "linear"


class Coordinates(enum.Enum):
    """Names how `Resize` maps a place `o` of the result to a place of the input.

    * `ALIGN_CORNERS`: `o * (in - 1) / (out - 1)` (0 where `out` is 1);
    * `HALF_PIXEL`: `(o + 0.5) * in / out - 0.5`;
    * `ASYMMETRIC`: `o * in / out`.
    """

    ALIGN_CORNERS = "align_corners"
    HALF_PIXEL = "half_pixel"
    ASYMMETRIC = "asymmetric"


@dataclass(frozen=True, slots=True)
class Resize(SpatialOp):
    """Resample the spatial axes to `size`: `Resize(x)`.

    `LINEAR` interpolates between the two neighbours of each place along each axis, places clipped to the image, also
    where the result is smaller (no antialiasing).
    `NEAREST` takes element `floor(place)` for `ASYMMETRIC`, `floor(place + 0.5)` for `HALF_PIXEL` and `ALIGN_CORNERS`,
    clipped to the image (so `HALF_PIXEL` is `floor((o + 0.5) * in / out)`, as TensorFlow 2 does it).
    """

    size: tuple[int, ...]
    interpolation: Interpolation
    coordinates: Coordinates

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 1, 1)
        if self.interpolation is Interpolation.LINEAR:
            _check_float(*inputs)
        batch, channels, spatial = self._split(inputs[0].shape)
        _check_per_axis(spatial, size=self.size)
        return (TensorType(self.layout.shape(batch, channels, self.size), inputs[0].dtype),)


# --- products -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dense(Op):
    """Multiply the last axis by a matrix: `Dense(x, kernel[, bias])`, `kernel` `[out, in]`, `bias` `[out]`."""

    activation: Activation = Activation.NONE

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 2, 3)
        _check_float(*inputs)
        x, kernel = inputs[:2]
        if kernel.rank != 2 or x.rank < 1 or x.shape[-1] != kernel.shape[1]:
            raise ShapeError(f"a kernel of shape {kernel.shape} doesn't fit an input of shape {x.shape}")
        _check_bias(inputs[2:], kernel.shape[0])
        return (TensorType((*x.shape[:-1], kernel.shape[0]), x.dtype),)


@dataclass(frozen=True, slots=True)
class MatMul(Op):
    """Multiply matrices in the last two axes, broadcasting the others: `MatMul(left, right)`."""

    transpose_left: bool = False
    transpose_right: bool = False

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 2, 2)
        _check_float(*inputs)
        left, right = (value.shape for value in inputs)
        if min(len(left), len(right)) < 2:
            raise ShapeError(f"matrices of shapes {left} and {right} need two axes at least")
        rows, inner = left[-2:] if not self.transpose_left else left[:-3:-1]
        inner_right, columns = right[-2:] if not self.transpose_right else right[:-3:-1]
        if inner != inner_right:
            raise ShapeError(f"matrices of shapes {left} and {right} can't be multiplied")
        return (TensorType((*_broadcast([left[:-2], right[:-2]]), rows, columns), inputs[0].dtype),)


# --- elementwise ----------------------------------------------------------------------------------------------


class UnaryFunction(enum.Enum):
    """Names a function of one real number.

    `ROUND` takes the even one of two integers that are as near. `SOFTPLUS` is `log(1 + exp(x))`; `SOFTSIGN` is
    `x / (1 + |x|)`; `GELU` is `x * Phi(x)` with the normal distribution's exact `Phi`, `GELU_TANH` its tanh
    approximation (Hendrycks and Gimpel 2016); `HARD_SWISH` is `x * clip(x + 3, 0, 6) / 6` (Howard et al. 2019).
    """

    ABS = "abs"
    NEG = "neg"
    EXP = "exp"
    LOG = "log"
    SQRT = "sqrt"
    RSQRT = "rsqrt"
    SQUARE = "square"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    SOFTPLUS = "softplus"
    SOFTSIGN = "softsign"
    SIGN = "sign"
    FLOOR = "floor"
    CEIL = "ceil"
    ROUND = "round"
    SIN = "sin"
    COS = "cos"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    HARD_SWISH = "hard_swish"


_OF_INTEGERS = (UnaryFunction.ABS, UnaryFunction.NEG, UnaryFunction.SQUARE, UnaryFunction.SIGN)


@dataclass(frozen=True, slots=True)
class Unary(_Elementwise):
    """Apply a function to each element: `Unary(x)`; integers have ABS, NEG, SQUARE and SIGN alone."""

    function: UnaryFunction

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        if self.function not in _OF_INTEGERS:
            _check_float(*inputs)
        return _Elementwise.infer(self, inputs)


@dataclass(frozen=True, slots=True)
class Relu(_Elementwise):
    """Take `max(x, 0)`: `Relu(x)`."""


@dataclass(frozen=True, slots=True)
class LeakyRelu(_RealElementwise):
    """Take `x` where positive, `slope * x` elsewhere: `LeakyRelu(x)`. `slope` may be negative or above 1."""

    slope: float


@dataclass(frozen=True, slots=True)
class Elu(_RealElementwise):
    """Take `x` where positive, `alpha * (exp(x) - 1)` elsewhere: `Elu(x)`."""

    alpha: float = 1.0


@dataclass(frozen=True, slots=True)
class Clip(_Elementwise):
    """Limit to `low <= x <= high`: `Clip(x)`; either may be infinite."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PRelu(Op):
    """Take `x` where positive, `slope * x` elsewhere: `PRelu(x, slope)`; `slope` broadcasts to `x`."""

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 2, 2)
        _check_float(*inputs)
        if _broadcast([inputs[0].shape, inputs[1].shape]) != inputs[0].shape:
            raise ShapeError(f"slopes of shape {inputs[1].shape} don't broadcast to {inputs[0].shape}")
        return (inputs[0],)


class BinaryFunction(enum.Enum):
    """Names a function of two numbers; `DIV` of integers cuts the quotient towards zero."""

    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    MAX = "max"
    MIN = "min"
    POW = "pow"


@dataclass(frozen=True, slots=True)
class Binary(Op):
    """Combine two tensors element by element: `Binary(left, right)`."""

    function: BinaryFunction
    activation: Activation = Activation.NONE

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 2, 2)
        left, right = inputs
        _check_same_dtype(left, right)
        return (TensorType(_broadcast([left.shape, right.shape]), left.dtype),)


class CompareFunction(enum.Enum):
    """Names a comparison of two numbers."""

    GREATER = "greater"
    GREATER_EQUAL = "greater_equal"
    LESS = "less"
    LESS_EQUAL = "less_equal"
    EQUAL = "equal"


@dataclass(frozen=True, slots=True)
class Compare(Op):
    """Compare two tensors element by element: `Compare(left, right)` gives bool."""

    function: CompareFunction

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 2, 2)
        _check_same_dtype(inputs[0], inputs[1])
        return (TensorType(_broadcast([inputs[0].shape, inputs[1].shape]), DType.BOOL),)


@dataclass(frozen=True, slots=True)
class Where(Op):
    """Choose by a condition: `Where(condition, left, right)` takes `left` where the condition holds."""

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 3, 3)
        if inputs[0].dtype is not DType.BOOL:
            raise ShapeError(f"the condition must be bool, got {inputs[0].dtype.value}")
        _check_same_dtype(inputs[1], inputs[2])
        return (TensorType(_broadcast([value.shape for value in inputs]), inputs[1].dtype),)


@dataclass(frozen=True, slots=True)
class Cast(Op):
    """Change the element type: `Cast(x)`; a float is cut towards zero, a bool gives 0 or 1."""

    dtype: DType

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 1, 1)
        return (TensorType(inputs[0].shape, self.dtype),)


# --- along axes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Softmax(Op):
    """Take `exp(x) / sum(exp(x))` along an axis: `Softmax(x)`."""

    axis: int

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 1, 1)
        _check_float(*inputs)
        _check_axis(self.axis, inputs[0].rank)
        return (inputs[0],)


class ReduceFunction(enum.Enum):
    """Names how `Reduce` combines elements; `L1` sums absolute values, `SUM_SQUARE` sums squares."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"
    MIN = "min"
    PROD = "prod"
    L1 = "l1"
    SUM_SQUARE = "sum_square"


@dataclass(frozen=True, slots=True)
class Reduce(Op):
    """Combine all elements along some axes: `Reduce(x)`. Global pooling is a `Reduce` over the spatial axes."""

    function: ReduceFunction
    axes: tuple[int, ...]
    keepdims: bool

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 1, 1)
        return (TensorType(_reduced(inputs[0].shape, self.axes, self.keepdims), inputs[0].dtype),)


def _reduced(shape: Shape, axes: Sequence[int], keepdims: bool) -> Shape:
    if not axes or len(set(axes)) != len(axes):
        raise ShapeError(f"the axes {tuple(axes)} must be one at least, and each one once")
    for axis in axes:
        _check_axis(axis, len(shape))
    kept = [1 if axis in axes else dim for axis, dim in enumerate(shape)]
    return tuple(kept if keepdims else [dim for axis, dim in enumerate(kept) if axis not in axes])


@dataclass(frozen=True, slots=True)
class ArgMax(Op):
    """Find the place of the maximum along an axis: `ArgMax(x)` gives int32, the first place in a tie."""

    axis: int
    keepdims: bool

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 1, 1)
        return (TensorType(_reduced(inputs[0].shape, (self.axis,), self.keepdims), DType.INT32),)


@dataclass(frozen=True, slots=True)
class TopK(Op):
    """Find the `k` largest elements along an axis: `TopK(x)` gives values and int32 places.

    The largest comes first; of equal ones the first.
    """

    k: int
    axis: int

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 1, 1)
        x = inputs[0]
        _check_axis(self.axis, x.rank)
        if not 1 <= self.k <= x.shape[self.axis]:
            raise ShapeError(f"can't take the {self.k} largest of {x.shape[self.axis]} elements")
        shape = (*x.shape[: self.axis], self.k, *x.shape[self.axis + 1 :])
        return TensorType(shape, x.dtype), TensorType(shape, DType.INT32)


# --- detection --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RoiMaxPool(Op):
    """Take the maximum of each bin of each region of an image: `RoiMaxPool(x, regions)`.

    `x` is `[N, C, H, W]`, whatever the layout of the rest of the graph; `regions` is `[R, 5]`, rows of the place in the
    batch, left, top, right and bottom; the result is `[R, C, *size]`. The corners, times `scale`, are rounded (halves
    away from zero) and belong to the region, which is one element large at least. Bin `i` of `size` covers what lies
    from `floor(i * length / size)` to `ceil((i + 1) * length / size)` of it, inside the image; an empty bin gives 0
    (Girshick 2015, section 2.1, as Caffe and ONNX have it). The bounds are those of float32.
    """

    size: Size
    scale: float

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 2, 2)
        _check_float(*inputs)
        x, regions = (value.shape for value in inputs)
        if len(x) != 4 or len(regions) != 2 or regions[1] != 5:
            raise ShapeError(
                f"regions of shape {regions} on an image of shape {x}: they have to be [R, 5], [N, C, H, W]"
            )
        return (TensorType((regions[0], x[1], *_positive("pooling regions", self.size)), inputs[0].dtype),)


@dataclass(frozen=True, slots=True)
class NonMaxSuppression(Op):
    """Find the boxes that no better box of their class overlaps: `NonMaxSuppression(boxes, scores)` gives bool.

    `boxes` is `[N, B, 4]`, two opposite corners each; `scores` is `[N, C, B]`, and so is the result. In each class of
    each sample the boxes whose score is above `score_threshold` are gone through from the highest score to the lowest
    (the first in a tie), and a box is kept unless the area that it shares with one kept before it, divided by the area
    of both together, is above `overlap_threshold`. Boxes without an area overlap with nothing.
    """

    overlap_threshold: float
    score_threshold: float

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 2, 2)
        _check_float(*inputs)
        boxes, scores = (value.shape for value in inputs)
        fits = len(boxes) == len(scores) == 3 and boxes[2] == 4 and (boxes[0], boxes[1]) == (scores[0], scores[2])
        if not fits:
            raise ShapeError(
                f"boxes of shape {boxes} and scores of shape {scores}: they have to be [N, B, 4], [N, C, B]"
            )
        return (TensorType(scores, DType.BOOL),)


# --- recurrent ------------------------------------------------------------------------------------------------


class RecurrentCell(enum.Enum):
    """Names what is computed at each step of a sequence; `Recurrent` has the formulas."""

    PLAIN = "plain"
    LSTM = "lstm"
    GRU = "gru"
    GRU_RESET_AFTER = "gru_reset_after"

    @property
    def gates(self) -> int:
        """How many times as wide as the states the kernels are."""
        return {RecurrentCell.PLAIN: 1, RecurrentCell.LSTM: 4}.get(self, 3)

    @property
    def states(self) -> int:
        """How many states go from step to step; the first is the output."""
        return 2 if self is RecurrentCell.LSTM else 1


class CurveFunction(enum.Enum):
    """Names a function of one number that a recurrent cell applies.

    `HARD_SIGMOID` is `clip(alpha x + beta, 0, 1)`; `ELU` and `LEAKY_RELU` take `alpha` as the operations do.
    """

    SIGMOID = "sigmoid"
    TANH = "tanh"
    RELU = "relu"
    LINEAR = "linear"
    HARD_SIGMOID = "hard_sigmoid"
    LEAKY_RELU = "leaky_relu"
    ELU = "elu"
    SOFTSIGN = "softsign"
    SOFTPLUS = "softplus"


class Curve(NamedTuple):
    """A function that a recurrent cell applies, with its constants where it has some."""

    function: CurveFunction
    alpha: float = 0.0
    beta: float = 0.0


_SIGMOID = Curve(CurveFunction.SIGMOID)


@dataclass(frozen=True, slots=True)
class Recurrent(Op):
    """Run a cell over the steps of sequences: `Recurrent(x, kernel, recurrent_kernel[, bias][, hidden[, carry]])`.

    `x` is `[N, T, in]`; the kernels are `[gates * units, in]` and `[gates * units, units]`, `bias` (`is_biased`) is
    `[2, gates * units]`: what is added to the inputs' product, and what to the state's. These three are weights. The
    states before the first step are `[N, units]` each, and zero where none are given. The results are the outputs of
    all steps `[N, T, units]`, in the order of time whichever way they were run (`backwards`: the last step first), and
    the states after the last one that was run.

    With `a = W x + b`, `u = R h + c`, the rows of both split into the gates in the given order, `s` the function `gate`
    and `g` the function `activation` (the formulas and orders of ONNX's RNN, LSTM and GRU):

    * `PLAIN`: `h' = g(a + u)`.
    * `LSTM` (input, output, forget, candidate): `c' = s(a_f + u_f) c + s(a_i + u_i) g(a_c + u_c)`,
      `h' = s(a_o + u_o) g(c')` (Hochreiter and Schmidhuber 1997; with Gers et al. 2000).
    * `GRU` (update, reset, candidate): `h' = z h + (1 - z) g(a_h + R_h (r h) + c_h)`, `z = s(a_z + u_z)`,
      `r = s(a_r + u_r)` (Cho et al. 2014); `GRU_RESET_AFTER` has `r u_h` for the state's share of the candidate.
    """

    cell: RecurrentCell
    activation: Curve
    gate: Curve = _SIGMOID
    backwards: bool = False
    is_biased: bool = True

    def states(self, inputs: Sequence[_T]) -> Sequence[_T]:
        """Return which of the inputs are states."""
        return inputs[4 if self.is_biased else 3 :]

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        least = 4 if self.is_biased else 3
        _check_arity(inputs, least, least + self.cell.states)
        _check_float(*inputs)
        x, kernel, recurrent, *rest = (value.shape for value in inputs)
        if len(x) != 3:
            raise ShapeError(f"a recurrent cell needs samples, steps and channels, got an input of shape {x}")
        if len(recurrent) != 2:
            raise ShapeError(f"a recurrent kernel of shape {recurrent} doesn't multiply states")
        units = recurrent[1]
        state, rows = (x[0], units), self.cell.gates * units
        expected = [(rows, x[2]), (rows, units), *([(2, rows)] if self.is_biased else [])]
        expected += [state] * self.cell.states if len(inputs) > least else []
        if [kernel, recurrent, *rest] != expected:
            raise ShapeError(
                f"weights and states of shapes {kernel}, {recurrent}{''.join(f', {shape}' for shape in rest)} don't fit"
                f" a {self.cell.value} cell and an input of shape {x}: they have to be"
                f" {', '.join(map(str, expected))}"
            )
        dtype = inputs[0].dtype
        return (TensorType((*x[:2], units), dtype), *(TensorType(state, dtype),) * self.cell.states)


# --- structure ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Concat(Op):
    """Join tensors along an axis: `Concat(x0, x1, ...)`."""

    axis: int

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 1, len(inputs) or 1)
        first = inputs[0].shape
        _check_axis(self.axis, len(first))
        for other in inputs[1:]:
            same = len(other.shape) == len(first) and all(
                a == b for axis, (a, b) in enumerate(zip(first, other.shape, strict=True)) if axis != self.axis
            )
            if not same or other.dtype is not inputs[0].dtype:
                raise ShapeError(f"{inputs[0]} and {other} can't be joined along axis {self.axis}")
        total = sum(value.shape[self.axis] for value in inputs)
        return (TensorType((*first[: self.axis], total, *first[self.axis + 1 :]), inputs[0].dtype),)


@dataclass(frozen=True, slots=True)
class Slice(Op):
    """Cut out a range along each of some axes: `Slice(x)`.

    `stops` holds None for "to the end" (or, where the step is negative, "past the first"); `steps` defaults to ones.
    `starts` and integer `stops` may be negative, then they count from the end, as in Python; what lies outside is cut.
    """

    axes: tuple[int, ...]
    starts: tuple[int, ...]
    stops: tuple[int | None, ...]
    steps: tuple[int, ...] = ()

    def slices(self, rank: int) -> tuple[slice, ...]:
        """Return one Python slice an axis of an input of this rank."""
        result = [slice(None)] * rank
        steps = self.steps or (1,) * len(self.axes)
        if {len(self.starts), len(self.stops), len(steps)} != {len(set(self.axes))} or 0 in steps:
            raise ShapeError(f"{self} doesn't give each axis once, with a start, a stop and a step other than 0")
        for axis, start, stop, step in zip(self.axes, self.starts, self.stops, steps, strict=True):
            _check_axis(axis, rank)
            result[axis] = slice(start, stop, step)
        return tuple(result)

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 1, 1)
        cut = self.slices(inputs[0].rank)
        dims = [len(range(*piece.indices(dim))) for piece, dim in zip(cut, inputs[0].shape, strict=True)]
        return (TensorType(_positive("slicing", dims), inputs[0].dtype),)


@dataclass(frozen=True, slots=True)
class Pad(Op):
    """Add elements of a constant value around a tensor: `Pad(x)`; one `Padding` an axis, none negative."""

    pads: tuple[Padding, ...]
    value: float = 0.0

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 1, 1)
        if len(self.pads) != inputs[0].rank or any(min(pad) < 0 for pad in self.pads):
            raise ShapeError(f"pads {self.pads} don't fit an input of rank {inputs[0].rank}")
        dims = [dim + sum(pad) for dim, pad in zip(inputs[0].shape, self.pads, strict=True)]
        return (TensorType(tuple(dims), inputs[0].dtype),)


@dataclass(frozen=True, slots=True)
class Reshape(Op):
    """Give the same elements another shape: `Reshape(x)`.

    In `shape`, 0 copies the input's dimension of the same index and one -1 is inferred from the rest: readers write
    them for whatever depends on the batch, so that a graph can be given another batch.
    """

    shape: tuple[int, ...]

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 1, 1)
        x = inputs[0]
        if self.shape.count(-1) > 1 or any(dim < -1 for dim in self.shape):
            raise ShapeError(f"{self.shape} is no shape to reshape to: one -1 at most, nothing below")
        if any(dim == 0 and axis >= x.rank for axis, dim in enumerate(self.shape)):
            raise ShapeError(f"{self.shape} copies a dimension that the input shape {x.shape} doesn't have")
        dims = [x.shape[axis] if dim == 0 else dim for axis, dim in enumerate(self.shape)]
        known = math.prod(dim for dim in dims if dim != -1)
        if -1 in dims and x.size % known == 0:
            dims[dims.index(-1)] = x.size // known
        if math.prod(dims) != x.size:
            raise ShapeError(f"{x.shape} ({x.size} elements) can't be reshaped to {self.shape}")
        return (TensorType(tuple(dims), x.dtype),)


@dataclass(frozen=True, slots=True)
class Transpose(Op):
    """Reorder the axes: `Transpose(x)`; axis `i` of the result is axis `axes[i]` of the input."""

    axes: tuple[int, ...]

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 1, 1)
        if sorted(self.axes) != list(range(inputs[0].rank)):
            raise ShapeError(f"{self.axes} doesn't permute the axes of an input of rank {inputs[0].rank}")
        return (TensorType(tuple(inputs[0].shape[axis] for axis in self.axes), inputs[0].dtype),)


@dataclass(frozen=True, slots=True)
class Tile(Op):
    """Repeat a tensor along each axis: `Tile(x)`; one count an axis."""

    repeats: tuple[int, ...]

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 1, 1)
        if len(self.repeats) != inputs[0].rank:
            raise ShapeError(f"repeats {self.repeats} don't fit an input of rank {inputs[0].rank}")
        dims = [dim * count for dim, count in zip(inputs[0].shape, self.repeats, strict=True)]
        return (TensorType(_positive("tiling", dims), inputs[0].dtype),)


@dataclass(frozen=True, slots=True)
class Gather(Op):
    """Pick entries along an axis: `Gather(x, indices)`.

    The axis is replaced by the axes of the integer `indices`, which count from 0 and lie inside it.
    """

    axis: int

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _check_arity(inputs, 2, 2)
        x, indices = inputs
        _check_axis(self.axis, x.rank)
        _check_indices(indices)
        return (TensorType((*x.shape[: self.axis], *indices.shape, *x.shape[self.axis + 1 :]), x.dtype),)


@dataclass(frozen=True, slots=True)
class Identity(_Elementwise):
    """Give the input back: `Identity(x)`; it exists to give a value a second name."""


AnyOp: TypeAlias = (
    Conv
    | ConvTranspose
    | MaxPool
    | AveragePool
    | MaxUnpool
    | Lrn
    | Resize
    | Dense
    | MatMul
    | Unary
    | Relu
    | LeakyRelu
    | Elu
    | Clip
    | PRelu
    | Binary
    | Compare
    | Where
    | Cast
    | Softmax
    | Reduce
    | ArgMax
    | TopK
    | RoiMaxPool
    | NonMaxSuppression
    | Recurrent
    | Concat
    | Slice
    | Pad
    | Reshape
    | Transpose
    | Tile
    | Gather
    | Identity
)

OPS: tuple[type[Op], ...] = get_args(AnyOp)
