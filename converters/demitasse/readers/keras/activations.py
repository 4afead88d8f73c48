"""Activation functions, by the names that Keras gives them.

Formulas are those of Keras' backend/tensorflow/nn.py. A name means the same in all generations but for `hard_sigmoid`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from demitasse.ir.ops import (
    Clip,
    Compare,
    CompareFunction,
    Curve,
    CurveFunction,
    Elu,
    LeakyRelu,
    Reduce,
    ReduceFunction,
    Relu,
    Slice,
    Softmax,
    UnaryFunction,
    Where,
)
from demitasse.readers.keras.builder import LayerBuilder, Operand
from demitasse.readers.keras.config import parse_layer

__all__ = ["ACTIVATIONS", "activate", "curve_of", "log_softmax", "rectify", "swish"]

ActivationFunction: TypeAlias = Callable[[LayerBuilder, str], Operand]

# Klambauer et al. 2017, "Self-Normalizing Neural Networks": the fixed point of mean 0 and variance 1.
_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


def activate(layer: LayerBuilder, x: str, activation: Any = None) -> Operand:
    """Apply the activation that the entry `activation` of the layer's configuration asks for, or the given one.

    Raises:
        Unsupported: it is a function of the author's own, or one without a reader.
    """
    spec = layer.params.get("activation") if activation is None else activation
    name = _function_name(spec)
    if name is None:
        inner = parse_layer(dict(spec), layer.origin.where)
        return layer.run(inner, ("activation",), [x])[0]
    if name not in ACTIVATIONS:
        raise layer.unsupported(f"no reader for the activation {spec!r}")
    return ACTIVATIONS[name](layer, x)


def _function_name(spec: Any) -> str | None:
    """Return the name of the function that a configuration asks for; None where it has a layer in its place."""
    if isinstance(spec, Mapping):
        config = spec.get("config")
        if isinstance(config, Mapping):
            return None
        spec = config if isinstance(config, str) else spec.get("class_name")
    return "linear" if spec is None else str(spec).rpartition(">")[2]


def curve_of(layer: LayerBuilder, activation: Any) -> Curve | None:
    """Return an activation as the operation `Recurrent` takes it; None where it takes no such function."""
    name = _function_name(activation)
    if name == "hard_sigmoid":
        _tell_generations_apart(layer)
        alpha = 1 / 6 if layer.generation.major >= 3 else 0.2
        return Curve(CurveFunction.HARD_SIGMOID, alpha, 0.5)
    return None if name is None else _CURVES.get(name)


def _unary(function: UnaryFunction) -> ActivationFunction:
    return lambda layer, x: layer.unary(function, x)


def rectify(layer: LayerBuilder, x: str, *, negative_slope: float, max_value: float, threshold: float) -> Operand:
    """Apply Keras' general rectifier: `x` above a threshold, at most `max_value`; below, a slope from the threshold."""
    if negative_slope and max_value == math.inf and threshold == 0:
        return layer.apply(LeakyRelu(negative_slope), x)
    if threshold != 0:
        above = layer.apply(Compare(CompareFunction.GREATER), x, layer.constant(threshold))
        positive = layer.apply(Where(), above, x, layer.constant(0.0))
        if max_value != math.inf:
            positive = layer.apply(Clip(0.0, max_value), positive)
    else:
        positive = layer.apply(Relu() if max_value == math.inf else Clip(0.0, max_value), x)
    if not negative_slope:
        return positive
    short = layer.apply(Relu(), layer.sub(threshold, x) if threshold else layer.unary(UnaryFunction.NEG, x))
    return layer.sub(positive, layer.mul(short, negative_slope))


def _tell_generations_apart(layer: LayerBuilder) -> None:
    if layer.generation.major >= 3:
        layer.trap("hard_sigmoid is clip(x + 3, 0, 6) / 6 in Keras 3, and was clip(0.2 x + 0.5, 0, 1) before")
    else:
        layer.trap("hard_sigmoid was clip(0.2 x + 0.5, 0, 1) before Keras 3, which has clip(x + 3, 0, 6) / 6")


def _hard_sigmoid(layer: LayerBuilder, x: str) -> Operand:
    _tell_generations_apart(layer)
    if layer.generation.major >= 3:
        return layer.div(layer.apply(Clip(0.0, 6.0), layer.add(x, 3.0)), 6.0)
    return layer.apply(Clip(0.0, 1.0), layer.add(layer.mul(x, 0.2), 0.5))


def swish(layer: LayerBuilder, x: str) -> Operand:
    """Multiply by the sigmoid."""
    return layer.mul(x, layer.unary(UnaryFunction.SIGMOID, x))


def _selu(layer: LayerBuilder, x: str) -> Operand:
    return layer.mul(layer.apply(Elu(_SELU_ALPHA), x), _SELU_SCALE)


def _mish(layer: LayerBuilder, x: str) -> Operand:
    return layer.mul(x, layer.unary(UnaryFunction.TANH, layer.unary(UnaryFunction.SOFTPLUS, x)))


def log_softmax(layer: LayerBuilder, x: str, axis: int) -> Operand:
    """Take the logarithm of the softmax along an axis without taking a softmax, which can be 0."""
    least = layer.sub(x, layer.apply(Reduce(ReduceFunction.MAX, (axis,), keepdims=True), x))
    total = layer.apply(Reduce(ReduceFunction.SUM, (axis,), keepdims=True), layer.unary(UnaryFunction.EXP, least))
    return layer.sub(least, layer.unary(UnaryFunction.LOG, total))


def _log_sigmoid(layer: LayerBuilder, x: str) -> Operand:
    negative = layer.unary(UnaryFunction.NEG, x)
    return layer.unary(UnaryFunction.NEG, layer.unary(UnaryFunction.SOFTPLUS, negative))


def _glu(layer: LayerBuilder, x: str) -> Operand:
    axis = layer.rank(x) - 1
    half, odd = divmod(layer.shape(x)[axis], 2)
    if odd:
        raise layer.malformed("glu needs an even number of channels")
    left = layer.apply(Slice((axis,), (0,), (half,)), x)
    right = layer.apply(Slice((axis,), (half,), (None,)), x)
    return layer.mul(left, layer.unary(UnaryFunction.SIGMOID, right))


def _soft_shrink(layer: LayerBuilder, x: str) -> Operand:
    above = layer.apply(Relu(), layer.sub(x, 0.5))
    below = layer.apply(Relu(), layer.sub(-0.5, x))
    return layer.sub(above, below)


def _hard_shrink(layer: LayerBuilder, x: str) -> Operand:
    far = layer.apply(Compare(CompareFunction.GREATER), layer.unary(UnaryFunction.ABS, x), layer.constant(0.5))
    return layer.apply(Where(), far, x, layer.constant(0.0))


def _squareplus(layer: LayerBuilder, x: str) -> Operand:
    root = layer.unary(UnaryFunction.SQRT, layer.add(layer.unary(UnaryFunction.SQUARE, x), 4.0))
    return layer.mul(layer.add(x, root), 0.5)


def _sparse_plus(layer: LayerBuilder, x: str) -> Operand:
    curve = layer.mul(layer.unary(UnaryFunction.SQUARE, layer.apply(Relu(), layer.add(x, 1.0))), 0.25)
    linear = layer.apply(Compare(CompareFunction.GREATER_EQUAL), x, layer.constant(1.0))
    return layer.apply(Where(), linear, x, curve)


def _celu(layer: LayerBuilder, x: str) -> Operand:
    return layer.apply(Elu(1.0), x)  # with Keras' default of alpha, the only one that a name can ask for


ACTIVATIONS: Mapping[str, ActivationFunction] = {
    "linear": lambda _, x: Operand(x),
    "relu": lambda layer, x: layer.apply(Relu(), x),
    "relu6": lambda layer, x: layer.apply(Clip(0.0, 6.0), x),
    "leaky_relu": lambda layer, x: layer.apply(LeakyRelu(0.2), x),
    "elu": lambda layer, x: layer.apply(Elu(1.0), x),
    "celu": _celu,
    "selu": _selu,
    "softmax": lambda layer, x: layer.apply(Softmax(layer.rank(x) - 1), x),
    "softmax_v2": lambda layer, x: layer.apply(Softmax(layer.rank(x) - 1), x),
    "log_softmax": lambda layer, x: log_softmax(layer, x, layer.rank(x) - 1),
    "sigmoid": _unary(UnaryFunction.SIGMOID),
    "log_sigmoid": _log_sigmoid,
    "hard_sigmoid": _hard_sigmoid,
    "sparse_sigmoid": lambda layer, x: layer.apply(Clip(0.0, 1.0), layer.mul(layer.add(x, 1.0), 0.5)),
    "tanh": _unary(UnaryFunction.TANH),
    "hard_tanh": lambda layer, x: layer.apply(Clip(-1.0, 1.0), x),
    "tanh_shrink": lambda layer, x: layer.sub(x, layer.unary(UnaryFunction.TANH, x)),
    "soft_shrink": _soft_shrink,
    "hard_shrink": _hard_shrink,
    "softplus": _unary(UnaryFunction.SOFTPLUS),
    "sparse_plus": _sparse_plus,
    "squareplus": _squareplus,
    "softsign": _unary(UnaryFunction.SOFTSIGN),
    "exponential": _unary(UnaryFunction.EXP),
    "exp": _unary(UnaryFunction.EXP),
    "swish": swish,
    "silu": swish,
    "hard_swish": _unary(UnaryFunction.HARD_SWISH),
    "hard_silu": _unary(UnaryFunction.HARD_SWISH),
    "gelu": _unary(UnaryFunction.GELU),
    "mish": _mish,
    "glu": _glu,
    "square": _unary(UnaryFunction.SQUARE),
    "abs": _unary(UnaryFunction.ABS),
    "sin": _unary(UnaryFunction.SIN),
    "cos": _unary(UnaryFunction.COS),
}

_CURVES: Mapping[str, Curve] = {
    "linear": Curve(CurveFunction.LINEAR),
    "sigmoid": Curve(CurveFunction.SIGMOID),
    "tanh": Curve(CurveFunction.TANH),
    "relu": Curve(CurveFunction.RELU),
    "leaky_relu": Curve(CurveFunction.LEAKY_RELU, 0.2),
    "elu": Curve(CurveFunction.ELU, 1.0),
    "celu": Curve(CurveFunction.ELU, 1.0),
    "softsign": Curve(CurveFunction.SOFTSIGN),
    "softplus": Curve(CurveFunction.SOFTPLUS),
}
