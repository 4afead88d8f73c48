"""Functions of one element at a time (the *_layer.cpp of the same names)."""

from __future__ import annotations

import math

import numpy as np

from demitasse.ir.ops import (
    AnyOp,
    Binary,
    BinaryFunction,
    Cast,
    Clip,
    Compare,
    CompareFunction,
    DType,
    Elu,
    Identity,
    LeakyRelu,
    PRelu,
    Relu,
    Unary,
    UnaryFunction,
)
from demitasse.readers.caffe.builder import LayerBuilder
from demitasse.readers.caffe.registry import reads

_ADD = Binary(BinaryFunction.ADD)
_MUL = Binary(BinaryFunction.MUL)


@reads("ReLU")
def relu(layer: LayerBuilder) -> None:
    """Take the positive part; `negative_slope` keeps a share of the rest."""
    slope = layer.param("relu_param").number("negative_slope")
    layer.emit(LeakyRelu(slope) if slope else Relu(), layer.x)


@reads("ReLU6")
def relu6(layer: LayerBuilder) -> None:
    """Limit to 0..6."""
    if layer.param("relu6_param").number("negative_slope") or layer.param("relu_param").number("negative_slope"):
        raise layer.unsupported("a ReLU6 with a negative slope, which forks define differently")
    layer.emit(Clip(0.0, 6.0), layer.x)


@reads("PReLU")
def prelu(layer: LayerBuilder) -> None:
    """Multiply what is negative by a learned slope, one a channel or one for all."""
    shape = layer.shape(layer.x)
    if len(shape) < 2:
        raise layer.malformed(f"its input has the shape {shape}, and no channels")
    if layer.param("prelu_param").flag("channel_shared"):
        layer.emit(LeakyRelu(float(layer.numbers(0, "slope", ()))), layer.x)
        return
    view = (1, shape[1], *(1,) * (len(shape) - 2))
    layer.emit(PRelu(), layer.x, layer.weight(0, "slope", (shape[1],), view=view))


@reads("ELU")
def elu(layer: LayerBuilder) -> None:
    """Bend what is negative: `alpha * (exp(x) - 1)`."""
    layer.emit(Elu(layer.param("elu_param").number("alpha")), layer.x)


@reads("Sigmoid")
def sigmoid(layer: LayerBuilder) -> None:
    """Take `1 / (1 + exp(-x))`."""
    layer.emit(Unary(UnaryFunction.SIGMOID), layer.x)


@reads("TanH")
def tanh(layer: LayerBuilder) -> None:
    """Take the hyperbolic tangent."""
    layer.emit(Unary(UnaryFunction.TANH), layer.x)


@reads("AbsVal")
def absval(layer: LayerBuilder) -> None:
    """Take the absolute value."""
    layer.emit(Unary(UnaryFunction.ABS), layer.x)


@reads("BNLL")
def bnll(layer: LayerBuilder) -> None:
    """Take `log(1 + exp(x))`."""
    layer.emit(Unary(UnaryFunction.SOFTPLUS), layer.x)


@reads("Swish")
def swish(layer: LayerBuilder) -> None:
    """Take `x * sigmoid(beta * x)`."""
    inner = layer.scaled("scaled", layer.x, layer.param("swish_param").number("beta"))
    layer.emit(_MUL, layer.x, layer.step("gate", Unary(UnaryFunction.SIGMOID), inner))


@reads("Mish")
def mish(layer: LayerBuilder) -> None:
    """Take `x * tanh(log(1 + exp(x)))`."""
    soft = layer.step("softplus", Unary(UnaryFunction.SOFTPLUS), layer.x)
    layer.emit(_MUL, layer.x, layer.step("gate", Unary(UnaryFunction.TANH), soft))


@reads("Clip")
def clip(layer: LayerBuilder) -> None:
    """Limit to `min`..`max`."""
    param = layer.param("clip_param")
    layer.emit(Clip(param.number("min"), param.number("max")), layer.x)


@reads("Threshold")
def threshold(layer: LayerBuilder) -> None:
    """Give 1 above the threshold, 0 elsewhere."""
    limit = layer.constant("threshold", layer.param("threshold_param").number("threshold"))
    above = layer.step("above", Compare(CompareFunction.GREATER), layer.x, limit)
    layer.emit(Cast(DType.FLOAT32), above)


def _emit_chain(layer: LayerBuilder, steps: list[tuple[str, AnyOp, float | str | None]]) -> None:
    """Emit the steps of a formula; none at all is the identity."""
    if steps:
        layer.chain(layer.x, *steps)
    else:
        layer.emit(Identity(), layer.x)


def _power(layer: LayerBuilder, base: float, exponent: float) -> float:
    """Compute a constant that has to be a finite number."""
    with np.errstate(all="ignore"):
        value = float(np.power(np.float64(base), np.float64(exponent)))
    if not math.isfinite(value):
        raise layer.malformed(f"{base:g} to the power of {exponent:g} is no finite number")
    return value


@reads("Exp")
def exp(layer: LayerBuilder) -> None:
    """Take `base ** (scale * x + shift)`; a base of -1 stands for e."""
    param = layer.param("exp_param")
    base, scale, shift = param.number("base"), param.number("scale"), param.number("shift")
    if base != -1 and base <= 0:
        raise layer.malformed(f"the base {base} has to be positive, or -1 for e")
    inner = scale if base == -1 else scale * math.log(base)
    outer = _power(layer, math.e if base == -1 else base, shift)
    steps: list[tuple[str, AnyOp, float | str | None]] = [("exp", Unary(UnaryFunction.EXP), None)]
    if inner != 1:
        steps.insert(0, ("scaled", _MUL, inner))
    if outer != 1:
        steps.append(("shifted", _MUL, outer))
    _emit_chain(layer, steps)


@reads("Log")
def log(layer: LayerBuilder) -> None:
    """Take the logarithm of `scale * x + shift` to a base; -1 stands for e."""
    param = layer.param("log_param")
    base, scale, shift = param.number("base"), param.number("scale"), param.number("shift")
    if base != -1 and (base <= 0 or base == 1):
        raise layer.malformed(f"the base {base} has to be positive and not 1, or -1 for e")
    steps: list[tuple[str, AnyOp, float | str | None]] = []
    if scale != 1:
        steps.append(("scaled", _MUL, scale))
    if shift != 0:
        steps.append(("shifted", _ADD, shift))
    steps.append(("log", Unary(UnaryFunction.LOG), None))
    if base != -1:
        steps.append(("based", _MUL, 1 / math.log(base)))
    _emit_chain(layer, steps)


@reads("Power")
def power(layer: LayerBuilder) -> None:
    """Take `(scale * x + shift) ** power`; a constant where scale or power is 0."""
    param = layer.param("power_param")
    exponent, scale, shift = param.number("power"), param.number("scale"), param.number("shift")
    if exponent * scale == 0:
        value = 1.0 if exponent == 0 else _power(layer, shift, exponent)
        layer.trap(f"scale * power is 0, so the result is {value:g} everywhere, for any input")
        layer.emit(Clip(value, value), layer.x)
        return
    steps: list[tuple[str, AnyOp, float | str | None]] = []
    if scale != 1:
        steps.append(("scaled", _MUL, scale))
    if shift != 0:
        steps.append(("shifted", _ADD, shift))
    if exponent == 2:
        steps.append(("power", Unary(UnaryFunction.SQUARE), None))
    elif exponent == 0.5:
        steps.append(("power", Unary(UnaryFunction.SQRT), None))
    elif exponent != 1:
        steps.append(("power", Binary(BinaryFunction.POW), exponent))
    _emit_chain(layer, steps)
