"""Spell the operations that work element by element in TensorFlow's operators."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from demitasse.ir.ops import (
    Activation,
    Binary,
    BinaryFunction,
    Cast,
    Clip,
    Compare,
    CompareFunction,
    Elu,
    LeakyRelu,
    Op,
    PRelu,
    Relu,
    Unary,
    UnaryFunction,
    Where,
)
from demitasse.writers.saved_model.site import Emitter, Site, Step, Tensor, call, raw

__all__ = ["EMITTERS", "activated"]

UNARY_OPERATORS = {
    UnaryFunction.ABS: ("Abs", "x"),
    UnaryFunction.NEG: ("Neg", "x"),
    UnaryFunction.EXP: ("Exp", "x"),
    UnaryFunction.LOG: ("Log", "x"),
    UnaryFunction.SQRT: ("Sqrt", "x"),
    UnaryFunction.RSQRT: ("Rsqrt", "x"),
    UnaryFunction.SQUARE: ("Square", "x"),
    UnaryFunction.SIGMOID: ("Sigmoid", "x"),
    UnaryFunction.TANH: ("Tanh", "x"),
    UnaryFunction.SOFTPLUS: ("Softplus", "features"),
    UnaryFunction.SOFTSIGN: ("Softsign", "features"),
    UnaryFunction.SIGN: ("Sign", "x"),
    UnaryFunction.FLOOR: ("Floor", "x"),
    UnaryFunction.CEIL: ("Ceil", "x"),
    UnaryFunction.ROUND: ("Round", "x"),  # halves to even
    UnaryFunction.SIN: ("Sin", "x"),
    UnaryFunction.COS: ("Cos", "x"),
}

BINARY_OPERATORS = {
    BinaryFunction.ADD: "AddV2",
    BinaryFunction.SUB: "Sub",
    BinaryFunction.MUL: "Mul",
    BinaryFunction.DIV: "RealDiv",
    BinaryFunction.MAX: "Maximum",
    BinaryFunction.MIN: "Minimum",
    BinaryFunction.POW: "Pow",
}

COMPARE_OPERATORS = {
    CompareFunction.GREATER: "Greater",
    CompareFunction.GREATER_EQUAL: "GreaterEqual",
    CompareFunction.LESS: "Less",
    CompareFunction.LESS_EQUAL: "LessEqual",
    CompareFunction.EQUAL: "Equal",
}


def activated(activation: Activation) -> list[Step]:
    """Return the steps that apply an activation."""
    match activation:
        case Activation.NONE:
            return []
        case Activation.RELU:
            return [call("Relu", "features")]
        case Activation.RELU6:
            return [call("Relu6", "features")]


def _unary(site: Site, op: Unary) -> Tensor:
    (x,) = site.operands
    match op.function:
        case UnaryFunction.GELU:
            steps = [call("Mul", "x", y=np.float32(math.sqrt(0.5))), call("Erf", "x")]
            return _gate(site, x, site.apply(x, steps))
        case UnaryFunction.GELU_TANH:
            cube = raw("Mul", x=x, y=raw("Square", x=x, name=site.inner("square")), name=site.inner("cube"))
            bent = raw("Mul", x=cube, y=np.float32(0.044715), name=site.inner("bent"))
            curve = raw("AddV2", x=x, y=bent, name=site.inner("curve"))
            return _gate(
                site, x, site.apply(curve, [call("Mul", "x", y=np.float32(math.sqrt(2 / math.pi))), call("Tanh", "x")])
            )
        case UnaryFunction.HARD_SWISH:
            steps = [call("AddV2", "x", y=np.float32(3)), call("Relu6", "features")]
            return site.chain(x, [call("Mul", "x", y=site.apply(x, steps)), call("Mul", "x", y=np.float32(1 / 6))])
        case function:
            return site.chain(x, [call(*UNARY_OPERATORS[function])])


def _gate(site: Site, x: Tensor, odd: Tensor) -> Tensor:
    """Finish a GELU: `0.5 * x * (1 + odd)`."""
    share = site.apply(odd, [call("AddV2", "x", y=np.float32(1))])
    return site.chain(x, [call("Mul", "x", y=np.float32(0.5)), call("Mul", "x", y=share)])


def _relu(site: Site, _: Relu) -> Tensor:
    return site.chain(site.operands[0], activated(Activation.RELU))


def _leaky_relu(site: Site, op: LeakyRelu) -> Tensor:
    return site.chain(site.operands[0], [call("LeakyRelu", "features", alpha=op.slope)])


def _elu(site: Site, op: Elu) -> Tensor:
    (x,) = site.operands
    steps = [call("Elu", "features")]
    if op.alpha == 1:
        return site.chain(x, [*steps, call("Maximum", "x", y=x)] if _is_sum(x) else steps)
    scaled = site.apply(x, [*steps, call("Mul", "x", y=np.float32(op.alpha))])
    return raw("SelectV2", condition=_is_positive(site, x), t=x, e=scaled, name=site.name)


def _is_sum(x: Tensor) -> bool:
    """Tell whether a tensor is a sum: then TensorFlow mustn't see an ELU as its only reader.

    Its optimizer takes `elu((MatMul(a + b) + bias) * scale + shift)` for a normalization, whatever `scale` and `shift`
    are, and multiplies the weights by them: a gate that differs by sample doesn't fit them (the remapper of Grappler,
    with oneDNN). `max(x, elu(x))` is the ELU, which is nowhere below x, and reads the sum twice.
    """
    operator = x.op
    while operator.type == "Identity":
        operator = operator.inputs[0].op
    return bool(operator.type == "AddV2")


def _is_positive(site: Site, x: Tensor) -> Tensor:
    return raw("Greater", x=x, y=np.float32(0), name=site.inner("positive"))


def _prelu(site: Site, _: PRelu) -> Tensor:
    x, slope = site.operands
    scaled = raw("Mul", x=x, y=slope, name=site.inner("scaled"))
    return raw("SelectV2", condition=_is_positive(site, x), t=x, e=scaled, name=site.name)


def _clip(site: Site, op: Clip) -> Tensor:
    (x,) = site.operands
    if (op.low, op.high) == (0, 6):
        return site.chain(x, activated(Activation.RELU6))
    limits = {"Maximum": op.low, "Minimum": op.high}
    return site.chain(
        x,
        [call(operator, "x", y=_scalar(x, limit)) for operator, limit in limits.items() if not math.isinf(limit)],
    )


def _scalar(x: Tensor, value: float) -> Any:
    """Return a number of the element type of a tensor."""
    return np.asarray(value, x.dtype.as_numpy_dtype)


def _binary(site: Site, op: Binary) -> Tensor:
    left, right = site.operands
    operator = BINARY_OPERATORS[op.function]
    if op.function is BinaryFunction.DIV and not left.dtype.is_floating:
        operator = "TruncateDiv"
    return site.chain(left, [call(operator, "x", y=right), *activated(op.activation)])


def _compare(site: Site, op: Compare) -> Tensor:
    left, right = site.operands
    return site.chain(left, [call(COMPARE_OPERATORS[op.function], "x", y=right)])


def _where(site: Site, _: Where) -> Tensor:
    condition, left, right = site.operands
    return site.chain(condition, [call("SelectV2", "condition", t=left, e=right)])


def _cast(site: Site, op: Cast) -> Tensor:
    return site.chain(site.operands[0], [call("Cast", "x", DstT=op.dtype.value)])


EMITTERS: dict[type[Op], Emitter] = {
    Unary: _unary,
    Relu: _relu,
    LeakyRelu: _leaky_relu,
    Elu: _elu,
    Clip: _clip,
    PRelu: _prelu,
    Binary: _binary,
    Compare: _compare,
    Where: _where,
    Cast: _cast,
}
