"""Operations on tensors that a functional net holds besides layers: Keras 3's `keras.ops`, tf.keras' `tf.*`.

Names of arguments are those of both; where they differ, Keras 3's come first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from demitasse.ir.ops import (
    ArgMax,
    AveragePool,
    BinaryFunction,
    Cast,
    Clip,
    Compare,
    CompareFunction,
    Concat,
    DType,
    Elu,
    Gather,
    Layout,
    LeakyRelu,
    Lrn,
    MatMul,
    MaxPool,
    Pad,
    Padding,
    Reduce,
    ReduceFunction,
    Slice,
    Softmax,
    Tile,
    UnaryFunction,
    Where,
)
from demitasse.readers.keras.activations import ACTIVATIONS, log_softmax, rectify
from demitasse.readers.keras.builder import LayerBuilder, Operand
from demitasse.readers.keras.layers.reshaping import resized
from demitasse.readers.keras.registry import reads
from demitasse.readers.keras.windows import no_pads, same_pads

# --- element by element -----------------------------------------------------------------------------------------------

_UNARY: Mapping[str, UnaryFunction] = {
    "ops.Abs": UnaryFunction.ABS,
    "ops.Absolute": UnaryFunction.ABS,
    "ops.Negative": UnaryFunction.NEG,
    "ops.Exp": UnaryFunction.EXP,
    "ops.Log": UnaryFunction.LOG,
    "ops.Sqrt": UnaryFunction.SQRT,
    "ops.Rsqrt": UnaryFunction.RSQRT,
    "ops.Square": UnaryFunction.SQUARE,
    "ops.Sign": UnaryFunction.SIGN,
    "ops.Floor": UnaryFunction.FLOOR,
    "ops.Ceil": UnaryFunction.CEIL,
    "ops.Round": UnaryFunction.ROUND,
    "ops.Sin": UnaryFunction.SIN,
    "ops.Cos": UnaryFunction.COS,
    "tf.math.abs": UnaryFunction.ABS,
    "tf.math.negative": UnaryFunction.NEG,
    "tf.math.exp": UnaryFunction.EXP,
    "tf.math.log": UnaryFunction.LOG,
    "tf.math.sqrt": UnaryFunction.SQRT,
    "tf.math.rsqrt": UnaryFunction.RSQRT,
    "tf.math.square": UnaryFunction.SQUARE,
    "tf.math.sign": UnaryFunction.SIGN,
    "tf.math.floor": UnaryFunction.FLOOR,
    "tf.math.ceil": UnaryFunction.CEIL,
    "tf.math.round": UnaryFunction.ROUND,
    "tf.math.sin": UnaryFunction.SIN,
    "tf.math.cos": UnaryFunction.COS,
    "tf.__operators__.neg": UnaryFunction.NEG,
}
_OF_INTEGERS = frozenset({UnaryFunction.ABS, UnaryFunction.NEG, UnaryFunction.SQUARE, UnaryFunction.SIGN})


def _value(layer: LayerBuilder, position: int = 0, *names: str) -> Operand:
    """Return an argument that has to be a value of the graph."""
    value = layer.argument(position, *(names or ("x", "input", "input_tensor", "features", "tensor", "logits")))
    if not isinstance(value, Operand):
        raise layer.unsupported(f"argument {position} is a constant")
    return value


@reads(*_UNARY)
def unary(layer: LayerBuilder) -> str:
    """Apply a function to each element."""
    function, x = _UNARY[layer.kind], _value(layer)
    return layer.unary(function, x if function in _OF_INTEGERS else layer.real(x))


_ACTIVATIONS: Mapping[str, str] = {
    "ops.Sigmoid": "sigmoid",
    "ops.Tanh": "tanh",
    "ops.Relu": "relu",
    "ops.Relu6": "relu6",
    "ops.Selu": "selu",
    "ops.Softplus": "softplus",
    "ops.Softsign": "softsign",
    "ops.Silu": "silu",
    "ops.HardSigmoid": "hard_sigmoid",
    "ops.HardSilu": "hard_silu",
    "ops.HardTanh": "hard_tanh",
    "ops.LogSigmoid": "log_sigmoid",
    "ops.TanhShrink": "tanh_shrink",
    "ops.SparsePlus": "sparse_plus",
    "ops.SparseSigmoid": "sparse_sigmoid",
    "ops.Mish": "mish",
    "tf.math.sigmoid": "sigmoid",
    "tf.nn.sigmoid": "sigmoid",
    "tf.math.tanh": "tanh",
    "tf.nn.tanh": "tanh",
    "tf.nn.relu": "relu",
    "tf.nn.relu6": "relu6",
    "tf.nn.elu": "elu",
    "tf.nn.selu": "selu",
    "tf.nn.silu": "silu",
    "tf.nn.swish": "silu",
    "tf.nn.softsign": "softsign",
    "tf.math.softsign": "softsign",
    "tf.math.softplus": "softplus",
    "tf.nn.softplus": "softplus",
    "tf.math.log_sigmoid": "log_sigmoid",
}


@reads(*_ACTIVATIONS)
def named_activation(layer: LayerBuilder) -> str:
    """Apply an activation without parameters."""
    layer.argument(1, "beta")  # of tf.nn.silu, 1 unless someone sets it
    return ACTIVATIONS[_ACTIVATIONS[layer.kind]](layer, layer.real(_value(layer)))


@reads("ops.LeakyRelu", "tf.nn.leaky_relu")
def leaky_relu(layer: LayerBuilder) -> str:
    """Take the input where positive, a fraction of it elsewhere."""
    slope = float(layer.argument(1, "negative_slope", "alpha", default=0.2))
    return layer.apply(LeakyRelu(slope), layer.real(_value(layer)))


@reads("ops.Elu")
def elu(layer: LayerBuilder) -> str:
    """Take the input where positive, `alpha * (exp(x) - 1)` elsewhere."""
    return layer.apply(Elu(float(layer.argument(1, "alpha", default=1.0))), layer.real(_value(layer)))


@reads("ops.Gelu", "tf.nn.gelu")
def gelu(layer: LayerBuilder) -> str:
    """Multiply by the normal distribution's probability of less."""
    rough = bool(layer.argument(1, "approximate", default=layer.kind == "ops.Gelu"))
    return layer.unary(UnaryFunction.GELU_TANH if rough else UnaryFunction.GELU, layer.real(_value(layer)))


@reads("ops.ReLU")
def general_relu(layer: LayerBuilder) -> str:
    """Rectify, with a maximum, a threshold, and a slope below it."""
    highest = layer.argument(2, "max_value")
    return rectify(
        layer,
        layer.real(_value(layer)),
        negative_slope=float(layer.argument(1, "negative_slope", default=0.0)),
        max_value=math.inf if highest is None else float(highest),
        threshold=float(layer.argument(3, "threshold", default=0.0)),
    )


_BINARY: Mapping[str, BinaryFunction] = {
    "ops.Add": BinaryFunction.ADD,
    "ops.Subtract": BinaryFunction.SUB,
    "ops.Multiply": BinaryFunction.MUL,
    "ops.Divide": BinaryFunction.DIV,
    "ops.TrueDivide": BinaryFunction.DIV,
    "ops.Power": BinaryFunction.POW,
    "ops.Maximum": BinaryFunction.MAX,
    "ops.Minimum": BinaryFunction.MIN,
    "tf.math.add": BinaryFunction.ADD,
    "tf.__operators__.add": BinaryFunction.ADD,
    "tf.nn.bias_add": BinaryFunction.ADD,
    "tf.math.subtract": BinaryFunction.SUB,
    "tf.math.multiply": BinaryFunction.MUL,
    "tf.math.divide": BinaryFunction.DIV,
    "tf.math.truediv": BinaryFunction.DIV,
    "tf.math.pow": BinaryFunction.POW,
    "tf.math.maximum": BinaryFunction.MAX,
    "tf.math.minimum": BinaryFunction.MIN,
}


@reads(*_BINARY)
def binary(layer: LayerBuilder) -> str:
    """Combine two values, or a value and numbers, element by element."""
    function = _BINARY[layer.kind]
    if layer.argument(2, "data_format") not in (None, "NHWC"):
        raise layer.unsupported("a bias along another axis than the last")
    left, right = layer.argument(0, "x1", "x", "value"), layer.argument(1, "x2", "y", "bias")
    pair = [side if isinstance(side, Operand) else _numbers(layer, side) for side in (left, right)]
    if function in (BinaryFunction.DIV, BinaryFunction.POW) or not _all_whole(layer, pair):
        pair = [layer.real(side) if isinstance(side, Operand) else side for side in pair]
    if function is BinaryFunction.POW and isinstance(pair[0], Operand) and np.array_equal(pair[1], 2.0):
        return layer.unary(UnaryFunction.SQUARE, pair[0])
    return layer.binary(function, pair[0], pair[1])


def _numbers(layer: LayerBuilder, value: Any) -> Any:
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise layer.unsupported(f"an argument that is no number: {str(value)[:60]}") from error


def _all_whole(layer: LayerBuilder, sides: Sequence[Any]) -> bool:
    """Tell whether all sides are of integers; numbers are where they are whole and a value beside them is."""
    operands = [side for side in sides if isinstance(side, Operand)]
    return not any(layer.type(side).dtype.is_float for side in operands) and all(
        isinstance(side, Operand) or np.array_equal(side, np.round(side)) for side in sides
    )


@reads("ops.FloorDivide", "tf.math.floordiv", "tf.compat.v1.floor_div", "ops.Mod", "tf.math.floormod")
def floor_division(layer: LayerBuilder) -> str:
    """Divide and round down, or give what is left; what is left has the sign of the divisor."""
    left, right = (
        layer.real(side) if isinstance(side, Operand) else layer.constant(_numbers(layer, side))
        for side in (layer.argument(0, "x1", "x"), layer.argument(1, "x2", "y"))
    )
    quotient = layer.unary(UnaryFunction.FLOOR, layer.div(left, right))
    return layer.sub(left, layer.mul(right, quotient)) if layer.kind.lower().endswith("mod") else quotient


@reads("tf.math.squared_difference")
def squared_difference(layer: LayerBuilder) -> str:
    """Take the square of a difference, element by element."""
    left, right = (
        layer.real(side) if isinstance(side, Operand) else layer.constant(_numbers(layer, side))
        for side in (layer.argument(0, "x"), layer.argument(1, "y"))
    )
    return layer.unary(UnaryFunction.SQUARE, layer.sub(left, right))


@reads("ops.Clip", "tf.clip_by_value")
def clip(layer: LayerBuilder) -> str:
    """Limit to a range."""
    low, high = layer.argument(1, "x_min", "clip_value_min"), layer.argument(2, "x_max", "clip_value_max")
    if isinstance(low, Operand) or isinstance(high, Operand):
        raise layer.unsupported("limits that are computed")
    return layer.apply(Clip(float(low), float(high)), layer.real(_value(layer, 0, "x", "t")))


@reads("ops.Cast", "tf.cast")
def cast(layer: LayerBuilder) -> str:
    """Change the element type."""
    name = str(layer.argument(1, "dtype"))
    names = {"float16": "float32", "bfloat16": "float32", "float64": "float32"}
    try:
        dtype = DType(names.get(name, name))
    except ValueError as error:
        raise layer.unsupported(f"the element type {name!r}") from error
    return layer.apply(Cast(dtype), _value(layer, 0, "x"))


_COMPARE: Mapping[str, CompareFunction] = {
    "ops.Greater": CompareFunction.GREATER,
    "ops.GreaterEqual": CompareFunction.GREATER_EQUAL,
    "ops.Less": CompareFunction.LESS,
    "ops.LessEqual": CompareFunction.LESS_EQUAL,
    "ops.Equal": CompareFunction.EQUAL,
    "tf.math.greater": CompareFunction.GREATER,
    "tf.math.greater_equal": CompareFunction.GREATER_EQUAL,
    "tf.math.less": CompareFunction.LESS,
    "tf.math.less_equal": CompareFunction.LESS_EQUAL,
    "tf.math.equal": CompareFunction.EQUAL,
    "tf.__operators__.eq": CompareFunction.EQUAL,
}


@reads(*_COMPARE)
def compare(layer: LayerBuilder) -> str:
    """Compare two values, or a value with numbers, element by element."""
    return _compared(layer, _COMPARE[layer.kind])


def _compared(layer: LayerBuilder, function: CompareFunction) -> Operand:
    left, right = layer.argument(0, "x1", "x", "self"), layer.argument(1, "x2", "y", "other")
    like = left if isinstance(left, Operand) else right
    pair = [
        side if isinstance(side, Operand) else layer.number_like(like, _numbers(layer, side)) for side in (left, right)
    ]
    return layer.apply(Compare(function), *pair)


@reads("ops.NotEqual", "tf.math.not_equal", "tf.__operators__.ne")
def not_equal(layer: LayerBuilder) -> str:
    """Tell where two values, or a value and numbers, differ."""
    return layer.negated(_compared(layer, CompareFunction.EQUAL))


_LOGICAL: Mapping[str, BinaryFunction] = {
    "ops.LogicalAnd": BinaryFunction.MIN,
    "ops.LogicalOr": BinaryFunction.MAX,
    "tf.math.logical_and": BinaryFunction.MIN,
    "tf.math.logical_or": BinaryFunction.MAX,
}


@reads(*_LOGICAL, "ops.LogicalNot", "tf.math.logical_not")
def logical(layer: LayerBuilder) -> str:
    """Combine truth values, or turn them into their contraries."""
    sides = [_value(layer, 0, "x1", "x")]
    if layer.kind in _LOGICAL:
        sides.append(_value(layer, 1, "x2", "y"))
    if any(layer.type(side).dtype is not DType.BOOL for side in sides):
        raise layer.unsupported("the truth of numbers")
    if len(sides) == 1:
        return layer.negated(sides[0])
    numbers = [layer.apply(Cast(DType.FLOAT32), side) for side in sides]
    joined = layer.binary(_LOGICAL[layer.kind], *numbers)
    return layer.apply(Compare(CompareFunction.GREATER), joined, layer.constant(0.5))


@reads("ops.Where", "tf.where")
def where(layer: LayerBuilder) -> str:
    """Choose by a condition."""
    condition = _value(layer, 0, "condition")
    left, right = layer.argument(1, "x1", "x"), layer.argument(2, "x2", "y")
    like = next((side for side in (left, right) if isinstance(side, Operand)), None)
    pair = [
        side
        if isinstance(side, Operand)
        else layer.constant(_numbers(layer, side))
        if like is None
        else layer.number_like(like, _numbers(layer, side))
        for side in (left, right)
    ]
    return layer.apply(Where(), condition, *pair)


@reads(
    "ops.Identity", "tf.identity", "tf.stop_gradient", "ops.StopGradient", "ops.ConvertToTensor", "tf.convert_to_tensor"
)
def identity(layer: LayerBuilder) -> str:
    """Give the value back."""
    return layer.identity(_value(layer, 0, "x", "input", "variable"))


@reads("ops.ZerosLike", "tf.zeros_like", "ops.OnesLike", "tf.ones_like")
def filled(layer: LayerBuilder) -> str:
    """Give a value's shape filled with zeros or ones."""
    x, number = _value(layer, 0, "x", "input"), float("nes" in layer.kind.lower())
    name = str(layer.argument(1, "dtype", default=layer.type(x).dtype.value))
    try:
        dtype = DType(name)
    except ValueError as error:
        raise layer.unsupported(f"the element type {name!r}") from error
    same = layer.apply(Clip(number, number), layer.apply(Cast(DType.FLOAT32), x))
    return same if dtype is DType.FLOAT32 else layer.apply(Cast(dtype), same)


# --- along axes -------------------------------------------------------------------------------------------------------

_REDUCE: Mapping[str, ReduceFunction] = {
    "ops.Mean": ReduceFunction.MEAN,
    "ops.Sum": ReduceFunction.SUM,
    "ops.Max": ReduceFunction.MAX,
    "ops.Min": ReduceFunction.MIN,
    "ops.Prod": ReduceFunction.PROD,
    "tf.math.reduce_mean": ReduceFunction.MEAN,
    "tf.math.reduce_sum": ReduceFunction.SUM,
    "tf.math.reduce_max": ReduceFunction.MAX,
    "tf.math.reduce_min": ReduceFunction.MIN,
    "tf.math.reduce_prod": ReduceFunction.PROD,
}


def _axes(layer: LayerBuilder, stated: Any, rank: int) -> tuple[int, ...]:
    if stated is None:
        return tuple(range(rank))
    each = stated if isinstance(stated, list | tuple) else [stated]
    return tuple(sorted(layer.axis(int(axis), rank) for axis in each))


@reads(*_REDUCE)
def reduce(layer: LayerBuilder) -> str:
    """Combine all elements along axes."""
    x = _value(layer, 0, "x", "input_tensor")
    function = _REDUCE[layer.kind]
    if layer.params.get("initial") is not None:
        raise layer.unsupported("an initial value")
    axes = _axes(layer, layer.argument(1, "axis"), layer.rank(x))
    keepdims = bool(layer.argument(2, "keepdims", "keep_dims", default=False))
    return layer.apply(Reduce(function, axes, keepdims), layer.real(x))


@reads("ops.Any", "tf.math.reduce_any", "ops.All", "tf.math.reduce_all")
def quantified(layer: LayerBuilder) -> str:
    """Tell whether any or all of the truth values along axes hold."""
    x = _value(layer, 0, "x", "input_tensor")
    if layer.type(x).dtype is not DType.BOOL:
        raise layer.unsupported("the truth of numbers")
    axes = _axes(layer, layer.argument(1, "axis"), layer.rank(x))
    function = ReduceFunction.MAX if layer.kind.lower().endswith("any") else ReduceFunction.MIN
    op = Reduce(function, axes, bool(layer.argument(2, "keepdims", default=False)))
    return layer.apply(
        Compare(CompareFunction.GREATER), layer.apply(op, layer.apply(Cast(DType.FLOAT32), x)), layer.constant(0.5)
    )


@reads("ops.Var", "tf.math.reduce_variance", "ops.Std", "tf.math.reduce_std")
def variance(layer: LayerBuilder) -> str:
    """Take the variance or the standard deviation along axes."""
    x = layer.real(_value(layer, 0, "x", "input_tensor"))
    axes = _axes(layer, layer.argument(1, "axis"), layer.rank(x))
    keepdims = bool(layer.argument(2, "keepdims", "keep_dims", default=False))
    centred = layer.sub(x, layer.apply(Reduce(ReduceFunction.MEAN, axes, keepdims=True), x))
    squares = layer.unary(UnaryFunction.SQUARE, centred)
    result = layer.apply(Reduce(ReduceFunction.MEAN, axes, keepdims), squares)
    return layer.unary(UnaryFunction.SQRT, result) if layer.kind.lower().endswith("std") else result


@reads("ops.Normalize", "tf.math.l2_normalize", "tf.linalg.l2_normalize")
def normalize(layer: LayerBuilder) -> str:
    """Divide by the length along axes."""
    x = layer.real(_value(layer))
    if layer.argument(2, "order", default=2) != 2 and layer.kind == "ops.Normalize":
        raise layer.unsupported("another length than the Euclidean one")
    axes = _axes(layer, layer.argument(1, "axis", default=-1), layer.rank(x))
    is_keras3 = layer.kind == "ops.Normalize"
    epsilon = layer.argument(3 if is_keras3 else 2, "epsilon", default=1e-7 if is_keras3 else 1e-12)
    least = float(epsilon) ** 2 if is_keras3 else float(epsilon)
    total = layer.apply(Reduce(ReduceFunction.SUM_SQUARE, axes, keepdims=True), x)
    return layer.mul(x, layer.unary(UnaryFunction.RSQRT, layer.binary(BinaryFunction.MAX, total, least)))


@reads("tf.nn.local_response_normalization", "tf.nn.lrn")
def local_response_normalization(layer: LayerBuilder) -> str:
    """Divide by a power of the sum of squares of neighbouring channels."""
    x = layer.real(_value(layer, 0, "input"))
    if layer.rank(x) != 4:
        raise layer.malformed("its input must have four axes")
    size = 2 * int(layer.argument(1, "depth_radius", default=5)) + 1
    bias, alpha, beta = (
        float(layer.argument(place, name, default=default))
        for place, name, default in ((2, "bias", 1.0), (3, "alpha", 1.0), (4, "beta", 0.5))
    )
    return layer.apply(Lrn(size, alpha * size, beta, bias, layout=Layout.CHANNELS_LAST), x)


@reads("ops.Softmax", "tf.nn.softmax", "ops.LogSoftmax", "tf.nn.log_softmax")
def softmax(layer: LayerBuilder) -> str:
    """Take the softmax along an axis, or its logarithm."""
    x = layer.real(_value(layer))
    axis = layer.axis(int(layer.argument(1, "axis", default=-1)), layer.rank(x))
    return log_softmax(layer, x, axis) if "og" in layer.kind else layer.apply(Softmax(axis), x)


@reads("ops.Argmax", "tf.math.argmax", "tf.compat.v1.argmax")
def argmax(layer: LayerBuilder) -> str:
    """Find the place of the maximum along an axis."""
    x = _value(layer)
    axis = layer.axis(int(layer.argument(1, "axis", default=0)), layer.rank(x))
    layer.argument(9, "output_type", "dimension")
    return layer.apply(ArgMax(axis, bool(layer.argument(2, "keepdims", "keep_dims", default=False))), layer.real(x))


@reads("ops.Matmul", "tf.linalg.matmul")
def matmul(layer: LayerBuilder) -> str:
    """Multiply matrices in the last two axes."""
    left, right = layer.argument(0, "x1", "a"), layer.argument(1, "x2", "b")
    pair = [
        layer.real(side) if isinstance(side, Operand) else layer.constant(_numbers(layer, side))
        for side in (left, right)
    ]
    op = MatMul(
        bool(layer.argument(2, "transpose_a", default=False)), bool(layer.argument(3, "transpose_b", default=False))
    )
    return layer.apply(op, *pair)


# --- structure --------------------------------------------------------------------------------------------------------


def _several(layer: LayerBuilder) -> tuple[Operand, ...]:
    values = layer.inputs(1, 999)
    given = layer.argument(0, "xs", "values", "inputs")
    if isinstance(given, list) and len(given) != len(values):
        raise layer.unsupported("constants among the values")
    return values


@reads("ops.Concatenate", "tf.concat")
def concat(layer: LayerBuilder) -> str:
    """Join along an axis."""
    values = _several(layer)
    axis = layer.axis(int(layer.argument(1, "axis", default=-1)), layer.rank(values[0]))
    return layer.apply(Concat(axis), *values)


@reads("ops.Stack", "tf.stack")
def stack(layer: LayerBuilder) -> str:
    """Join along a new axis."""
    values = _several(layer)
    axis = layer.axis(int(layer.argument(1, "axis", default=0)), layer.rank(values[0]) + 1)
    return layer.apply(Concat(axis), *(_expanded(layer, value, axis) for value in values))


@reads("tf.math.add_n")
def add_n(layer: LayerBuilder) -> str:
    """Add all values."""
    result, *others = _several(layer)
    for value in others:
        result = layer.add(result, value)
    return result


def _expanded(layer: LayerBuilder, x: str, axis: int) -> Operand:
    """Add an axis of one element; the batch stays open."""
    shape = layer.shape(x)
    if axis == 0:
        return layer.reshape(x, 1, *shape) if not shape else layer.reshape(x, 1, -1, *shape[1:])
    return layer.reshape(x, -1, *shape[1:axis], 1, *shape[axis:])


@reads("ops.ExpandDims", "tf.expand_dims")
def expand_dims(layer: LayerBuilder) -> str:
    """Add an axis of one element."""
    x = _value(layer)
    return _expanded(layer, x, layer.axis(int(layer.argument(1, "axis")), layer.rank(x) + 1))


@reads("ops.Squeeze", "tf.squeeze", "tf.compat.v1.squeeze")
def squeeze(layer: LayerBuilder) -> str:
    """Remove axes of one element."""
    x = _value(layer)
    shape, stated = layer.shape(x), layer.argument(1, "axis")
    if stated is None or stated == []:
        axes = tuple(axis for axis, dim in enumerate(shape) if dim == 1 and axis > 0)
    else:
        axes = _axes(layer, stated, len(shape))
    kept = [dim for axis, dim in enumerate(shape) if axis not in axes]
    return layer.reshape(x, *kept) if 0 in axes else layer.reshape(x, -1, *kept[1:])


@reads("ops.Reshape", "tf.reshape")
def reshape(layer: LayerBuilder) -> str:
    """Give the same elements another shape, batch and all."""
    x = _value(layer)
    stated = layer.argument(1, "newshape", "shape")
    dims = [stated] if isinstance(stated, int) else stated
    if not isinstance(dims, list | tuple) or not all(isinstance(dim, int) for dim in dims):
        raise layer.unsupported("a shape that is computed")
    return layer.reshape(x, *dims)


@reads("ops.Transpose", "tf.transpose", "tf.compat.v1.transpose")
def transpose(layer: LayerBuilder) -> str:
    """Reorder the axes."""
    x = _value(layer, 0, "x", "a")
    stated = layer.argument(1, "axes", "perm")
    rank = layer.rank(x)
    axes = range(rank)[::-1] if stated is None else [layer.axis(int(axis), rank) for axis in stated]
    return layer.transpose(x, *axes)


@reads("ops.Swapaxes")
def swapaxes(layer: LayerBuilder) -> str:
    """Swap two axes."""
    x = _value(layer)
    axes = list(range(layer.rank(x)))
    first, second = (layer.axis(int(layer.argument(place, f"axis{place}")), len(axes)) for place in (1, 2))
    axes[first], axes[second] = second, first
    return layer.transpose(x, *axes)


@reads("ops.Tile", "tf.tile")
def tile(layer: LayerBuilder) -> str:
    """Repeat along each axis."""
    return layer.apply(Tile(tuple(map(int, layer.argument(1, "repeats", "multiples")))), _value(layer))


@reads("ops.Flip", "tf.reverse")
def flip(layer: LayerBuilder) -> str:
    """Reverse the order along axes."""
    x = _value(layer)
    axes = _axes(layer, layer.argument(1, "axis"), layer.rank(x))
    count = len(axes)
    return layer.apply(Slice(axes, (-1,) * count, (None,) * count, (-1,) * count), x)


@reads("ops.Pad", "tf.pad", "tf.compat.v1.pad")
def pad(layer: LayerBuilder) -> str:
    """Add elements of a constant value around."""
    x = _value(layer)
    mode = str(layer.argument(2, "mode", default="constant")).lower()
    if mode != "constant":
        raise layer.unsupported(f"padding by {mode}")
    widths = layer.argument(1, "pad_width", "paddings")
    pairs = [[widths, widths]] * layer.rank(x) if isinstance(widths, int) else widths
    value = layer.argument(3, "constant_values", default=None) or 0.0
    return layer.apply(Pad(tuple(Padding(int(before), int(after)) for before, after in pairs), float(value)), x)


@reads("ops.Split", "tf.split")
def split(layer: LayerBuilder) -> Sequence[str]:
    """Cut into parts along an axis."""
    x = _value(layer, 0, "x", "value")
    axis = layer.axis(int(layer.argument(2, "axis", default=0)), layer.rank(x))
    stated = layer.argument(1, "indices_or_sections", "num_or_size_splits")
    layer.argument(3, "num")
    size = layer.shape(x)[axis]
    if isinstance(stated, int):
        if stated < 1 or size % stated:
            raise layer.malformed(f"{size} elements can't be cut into {stated} equal parts")
        edges = list(range(0, size + 1, size // stated))
    elif layer.kind == "tf.split":
        edges = [0, *np.cumsum([int(part) for part in stated]).tolist()]
    else:
        edges = [0, *(int(edge) for edge in stated), size]
    return [layer.apply(Slice((axis,), (start,), (stop,)), x) for start, stop in pairwise(edges)]


@reads("tf.unstack")
def unstack(layer: LayerBuilder) -> Sequence[str]:
    """Take apart along an axis."""
    x = _value(layer, 0, "value")
    axis = layer.axis(int(layer.argument(1, "axis", default=0)), layer.rank(x))
    layer.argument(2, "num")
    return [_indexed(layer, x, [(axis, index)]) for index in range(layer.shape(x)[axis])]


@reads("ops.Take", "tf.gather", "tf.compat.v1.gather")
def take(layer: LayerBuilder) -> str:
    """Pick entries along an axis."""
    x, indices = _value(layer, 0, "x", "params"), layer.argument(1, "indices")
    if layer.argument(4, "batch_dims", default=0) or layer.argument(5, "validate_indices"):
        raise layer.unsupported("another table for each sample")
    axis = layer.argument(2 if layer.kind == "ops.Take" else 3, "axis", default=0)
    if axis is None:
        raise layer.unsupported("entries of the flattened value")
    axis = layer.axis(int(axis), layer.rank(x))
    if isinstance(indices, Operand):
        return layer.apply(Gather(axis), x, indices)
    size = layer.shape(x)[axis]
    places = np.asarray(indices, np.int64)
    if places.size and (places.min() < -size or places.max() >= size):
        raise layer.malformed(f"the indices {indices} lie outside {size} entries")
    return layer.apply(Gather(axis), x, layer.integers(places % size))


def _indexed(layer: LayerBuilder, x: str, places: Sequence[tuple[int, int]]) -> Operand:
    """Take one element along each of some axes, which go."""
    axes = tuple(axis for axis, _ in places)
    starts = tuple(index for _, index in places)
    stops = tuple(None if index == -1 else index + 1 for index in starts)
    cut = layer.apply(Slice(axes, starts, stops), x)
    kept = [dim for axis, dim in enumerate(layer.shape(cut)) if axis not in axes]
    return layer.reshape(cut, *kept) if 0 in axes else layer.reshape(cut, -1, *kept[1:])


@reads("ops.GetItem", "tf.__operators__.getitem")
def getitem(layer: LayerBuilder) -> str:
    """Index as in Python: with numbers, slices, an ellipsis and new axes."""
    x = _value(layer, 0, "x", "tensor", "input")
    key = layer.argument(1, "key", "slice_spec")
    entries = list(key) if isinstance(key, list | tuple) else [key]
    rank = layer.rank(x)
    used = sum(entry is not None and entry is not ... for entry in entries)
    if ... in entries:
        place = entries.index(...)
        entries[place : place + 1] = [slice(None)] * (rank - used)
    axes, starts, stops, steps = [], [], [], []
    shape: list[int | None] = []  # None is a new axis, -1 a dropped one
    axis = 0
    for entry in entries:
        if entry is None:
            shape.append(None)
            continue
        cut = _slice(layer, entry)
        if cut != slice(None):
            axes.append(axis)
            starts.append(cut.start if cut.start is not None else -1 if (cut.step or 1) < 0 else 0)
            stops.append(cut.stop)
            steps.append(cut.step or 1)
        shape.append(-1 if isinstance(entry, int) else axis)
        axis += 1
    if axis > rank:
        raise layer.malformed(f"it indexes {axis} of {rank} axes")
    y = layer.apply(Slice(tuple(axes), tuple(starts), tuple(stops), tuple(steps)), x) if axes else Operand(x)
    kept = [*shape, *range(axis, rank)]
    if all(entry is not None and entry >= 0 for entry in kept):
        return y if axes else layer.identity(x)
    dims = layer.shape(y)
    result = [1 if entry is None else dims[entry] for entry in kept if entry != -1]
    if kept[0] == 0:
        result[0] = -1  # the batch stays open
    return layer.reshape(y, *result)


def _slice(layer: LayerBuilder, entry: Any) -> slice:
    """Read an entry of an index as a slice; a number takes the one element."""
    if isinstance(entry, dict):
        entry = slice(*(entry.get(name) for name in ("start", "stop", "step")))
    if isinstance(entry, int) and not isinstance(entry, bool):
        return slice(entry, None if entry == -1 else entry + 1, None)
    if isinstance(entry, slice) and all(
        part is None or isinstance(part, int) for part in (entry.start, entry.stop, entry.step)
    ):
        return entry
    raise layer.unsupported(f"an index that is computed, or no number: {str(entry)[:60]}")


# --- images -----------------------------------------------------------------------------------------------------------


@reads("ops.Repeat", "tf.repeat")
def repeat(layer: LayerBuilder) -> str:
    """Repeat each element along an axis."""
    x, count = _value(layer, 0, "x", "input"), layer.argument(1, "repeats")
    axis = layer.argument(2, "axis")
    if not isinstance(count, int) or axis is None:
        raise layer.unsupported("other counts than one for all, along an axis")
    shape = layer.shape(x)
    axis = layer.axis(int(axis), len(shape))
    repeats = [count if place == axis + 1 else 1 for place in range(len(shape) + 1)]
    tiled = layer.apply(Tile(tuple(repeats)), _expanded(layer, x, axis + 1))
    result = [dim * count if place == axis else dim for place, dim in enumerate(shape)]
    return layer.reshape(tiled, *(result if axis == 0 else [-1, *result[1:]]))


@reads("ops.DepthToSpace", "tf.nn.depth_to_space")
def depth_to_space(layer: LayerBuilder) -> str:
    """Make blocks of pixels of channels, as super-resolution nets do."""
    x, size = _value(layer), int(layer.argument(1, "block_size"))
    _only_channels_last(layer)
    _, height, width, channels = layer.shape(x)
    blocks = layer.reshape(x, -1, height, width, size, size, channels // size**2)
    rows = layer.transpose(blocks, 0, 1, 3, 2, 4, 5)
    return layer.reshape(rows, -1, height * size, width * size, channels // size**2)


@reads("ops.SpaceToDepth", "tf.nn.space_to_depth")
def space_to_depth(layer: LayerBuilder) -> str:
    """Make channels of blocks of pixels."""
    x, size = _value(layer), int(layer.argument(1, "block_size"))
    _only_channels_last(layer)
    _, height, width, channels = layer.shape(x)
    blocks = layer.reshape(x, -1, height // size, size, width // size, size, channels)
    inside = layer.transpose(blocks, 0, 1, 3, 2, 4, 5)
    return layer.reshape(inside, -1, height // size, width // size, channels * size**2)


def _only_channels_last(layer: LayerBuilder) -> None:
    if layer.argument(9, "data_format") not in (None, "NHWC", "channels_last"):
        raise layer.unsupported("channels first")


@reads("ops.Resize", "tf.image.resize")
def resize(layer: LayerBuilder) -> str:
    """Resize images, bilinear or nearest."""
    x, size = layer.real(_value(layer, 0, "images")), layer.argument(1, "size")
    _only_channels_last(layer)
    if not isinstance(size, list | tuple) or not all(isinstance(side, int) for side in size):
        raise layer.unsupported("a size that is computed")
    sizes = (int(size[0]), int(size[1]))
    shrinks = any(new < old for new, old in zip(sizes, layer.shape(x)[1:3], strict=True))
    refused = [name for name in _RESIZE_FLAGS if layer.argument(9, name) and (name != "antialias" or shrinks)]
    if refused:
        raise layer.unsupported(f"resizing with {', '.join(refused)}")
    layer.argument(9, "fill_mode", "fill_value")
    layer.params.ignore("fill_mode", "fill_value")
    method = str(layer.argument(2, "interpolation", "method", default="bilinear"))
    return resized(layer, x, Layout.CHANNELS_LAST, sizes, method)


_RESIZE_FLAGS = ("antialias", "preserve_aspect_ratio", "crop_to_aspect_ratio", "pad_to_aspect_ratio")


@reads("ops.MaxPool", "ops.AveragePool", "tf.nn.max_pool2d", "tf.nn.avg_pool2d", "tf.nn.max_pool", "tf.nn.avg_pool")
def pool(layer: LayerBuilder) -> str:
    """Take the maximum or the mean of each window."""
    x = layer.real(_value(layer, 0, "inputs", "input", "value"))
    _only_channels_last(layer)
    rank = layer.rank(x) - 2
    window = _sides(layer, layer.argument(1, "pool_size", "ksize"), rank)
    stated = layer.argument(2, "strides")
    stride = window if stated is None else _sides(layer, stated, rank)
    same = str(layer.argument(3, "padding", default="valid")).lower() == "same"
    sizes = layer.shape(x)[1:-1]
    pads = same_pads(sizes, window, stride, (1,) * rank) if same else no_pads(rank)
    kind = MaxPool if "ax" in layer.kind else AveragePool
    return layer.apply(kind(window, stride, pads, layout=Layout.CHANNELS_LAST), x)


def _sides(layer: LayerBuilder, stated: Any, rank: int) -> tuple[int, ...]:
    """Read one number for all spatial axes, one for each, or one for each axis of the tensor."""
    each = list(stated) if isinstance(stated, list | tuple) else [stated]
    each = each * rank if len(each) == 1 else each[1:-1] if len(each) == rank + 2 else each
    if len(each) != rank or not all(isinstance(side, int) and side > 0 for side in each):
        raise layer.malformed(f"{stated} are no sizes for {rank} axes")
    return tuple(each)
