"""Emit operations on single elements."""

from __future__ import annotations

import math

from demitasse.ir import ops
from demitasse.ir.graph import Node
from demitasse.ir.ops import Activation, BinaryFunction, CompareFunction, DType, UnaryFunction
from demitasse.writers.tflite.lowering import FUSED, Lowering
from demitasse.writers.tflite.model import TENSOR_TYPES, Tensor

__all__ = [
    "ROOTS",
    "emit_binary",
    "emit_cast",
    "emit_clip",
    "emit_compare",
    "emit_elu",
    "emit_identity",
    "emit_leaky_relu",
    "emit_power",
    "emit_prelu",
    "emit_relu",
    "emit_unary",
    "emit_where",
]

# Function: operator and options.
UNARY: dict[UnaryFunction, tuple[str, str | None]] = {
    UnaryFunction.ABS: ("ABS", "AbsOptions"),
    UnaryFunction.NEG: ("NEG", "NegOptions"),
    UnaryFunction.EXP: ("EXP", "ExpOptions"),
    UnaryFunction.LOG: ("LOG", None),
    UnaryFunction.SQRT: ("SQRT", None),
    UnaryFunction.RSQRT: ("RSQRT", None),
    UnaryFunction.SQUARE: ("SQUARE", "SquareOptions"),
    UnaryFunction.SIGMOID: ("LOGISTIC", None),
    UnaryFunction.TANH: ("TANH", None),
    UnaryFunction.SIGN: ("SIGN", None),
    UnaryFunction.FLOOR: ("FLOOR", None),
    UnaryFunction.CEIL: ("CEIL", None),
    UnaryFunction.ROUND: ("ROUND", None),
    UnaryFunction.SIN: ("SIN", None),
    UnaryFunction.COS: ("COS", "CosOptions"),
    UnaryFunction.HARD_SWISH: ("HARD_SWISH", "HardSwishOptions"),
}

# Function: operator, options, and whether the operator applies an activation itself.
BINARY: dict[BinaryFunction, tuple[str, str, bool]] = {
    BinaryFunction.ADD: ("ADD", "AddOptions", True),
    BinaryFunction.SUB: ("SUB", "SubOptions", True),
    BinaryFunction.MUL: ("MUL", "MulOptions", True),
    BinaryFunction.DIV: ("DIV", "DivOptions", True),
    BinaryFunction.MAX: ("MAXIMUM", "MaximumMinimumOptions", False),
    BinaryFunction.MIN: ("MINIMUM", "MaximumMinimumOptions", False),
    BinaryFunction.POW: ("POW", "PowOptions", False),
}
INT64_VERSIONS = {"ADD": 4, "SUB": 4, "MUL": 5}
WIDE_VERSIONS = {"SUB": 3, "DIV": 2, "MAXIMUM": 3, "MINIMUM": 3}

COMPARE: dict[CompareFunction, tuple[str, str]] = {
    CompareFunction.GREATER: ("GREATER", "GreaterOptions"),
    CompareFunction.GREATER_EQUAL: ("GREATER_EQUAL", "GreaterEqualOptions"),
    CompareFunction.LESS: ("LESS", "LessOptions"),
    CompareFunction.LESS_EQUAL: ("LESS_EQUAL", "LessEqualOptions"),
    CompareFunction.EQUAL: ("EQUAL", "EqualOptions"),
}

# Limits that have an operator of their own.
CLIPS = {(0.0, math.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}


def emit_unary(to: Lowering, op: ops.Unary, node: Node) -> None:
    """Emit the operator of the function, or a few that make it up."""
    x, y = to.read(node.inputs[0]), to.result(node)
    match op.function:
        case UnaryFunction.GELU | UnaryFunction.GELU_TANH as function:
            approximate = function is UnaryFunction.GELU_TANH
            to.model.operator("GELU", [x], [y], options="GeluOptions", approximate=approximate)
        case UnaryFunction.SOFTPLUS:
            _softplus(to, x, y)
        case UnaryFunction.SOFTSIGN:
            size = to.elementwise("ABS", x, y, "size", options="AbsOptions")
            divisor = _pair(to, "ADD", size, _number(to, y, "one", 1.0), y, "divisor")
            _pair_into(to, "DIV", x, divisor, y)
        case function:
            code, options = UNARY[function]
            to.model.operator(code, [x], [y], options=options)


def _number(to: Lowering, near: Tensor, what: str, value: float) -> Tensor:
    return to.small(near, what, value, near.type.dtype)


def _pair_into(to: Lowering, code: str, left: Tensor, right: Tensor, y: Tensor) -> None:
    options = next(options for name, options, _ in BINARY.values() if name == code)
    fused = {"fusedActivationFunction": 0} if code in ("ADD", "SUB", "MUL", "DIV") else {}
    to.model.operator(code, [left, right], [y], options=options, **fused)


def _pair(to: Lowering, code: str, left: Tensor, right: Tensor, near: Tensor, what: str) -> Tensor:
    result = to.temporary(near, what, near.shape)
    _pair_into(to, code, left, right, result)
    return result


def _softplus(to: Lowering, x: Tensor, y: Tensor) -> None:
    """Compute `log(1 + exp(x)) = max(x, 0) + log1p(e)` with `e = exp(-|x|)`, which can't overflow.

    `log1p(e) = log(u) - ((u - 1) - e) / u` with `u = 1 + e` rounded: the second term takes back what rounding `u` did,
    to first order, so that small results keep their digits (Higham, Accuracy and Stability of Numerical Algorithms,
    2002, section 1.14.1, treats the same cancellation).
    """
    one = _number(to, y, "one", 1.0)
    size = to.elementwise("ABS", x, y, "size", options="AbsOptions")
    below = to.elementwise("NEG", size, y, "below", options="NegOptions")
    e = to.elementwise("EXP", below, y, "e", options="ExpOptions")
    u = _pair(to, "ADD", e, one, y, "u")
    error = _pair(to, "SUB", _pair(to, "SUB", u, one, y, "rounded"), e, y, "error")
    correction = _pair(to, "DIV", error, u, y, "correction")
    log1p = _pair(to, "SUB", to.elementwise("LOG", u, y, "log"), correction, y, "log1p")
    _pair_into(to, "ADD", to.elementwise("RELU", x, y, "above"), log1p, y)


def emit_relu(to: Lowering, _op: ops.Relu, node: Node) -> None:
    """Emit `RELU`."""
    to.model.operator("RELU", [to.read(node.inputs[0])], [to.result(node)])


def emit_leaky_relu(to: Lowering, op: ops.LeakyRelu, node: Node) -> None:
    """Emit `LEAKY_RELU`."""
    x, y = to.read(node.inputs[0]), to.result(node)
    to.model.operator("LEAKY_RELU", [x], [y], options="LeakyReluOptions", alpha=op.slope)


def emit_elu(to: Lowering, op: ops.Elu, node: Node) -> None:
    """Emit `ELU`, whose `alpha` is 1; another one is the slope of a `LEAKY_RELU` behind it."""
    x, y = to.read(node.inputs[0]), to.result(node)
    if op.alpha == 1:
        to.model.operator("ELU", [x], [y])
        return
    unscaled = to.elementwise("ELU", x, y, "unscaled")
    to.model.operator("LEAKY_RELU", [unscaled], [y], options="LeakyReluOptions", alpha=op.alpha)


def emit_clip(to: Lowering, op: ops.Clip, node: Node) -> None:
    """Emit the operator of these limits, or `MAXIMUM` and `MINIMUM`."""
    x, y = to.read(node.inputs[0]), to.result(node)
    limits = (op.low, op.high)
    if limits in CLIPS and x.type.dtype.is_float:
        to.model.operator(CLIPS[limits], [x], [y])
    elif math.isinf(op.high):
        _pair_into(to, "MAXIMUM", x, _number(to, y, "low", op.low), y)
    else:
        above = x if math.isinf(op.low) else _pair(to, "MAXIMUM", x, _number(to, y, "low", op.low), y, "above")
        _pair_into(to, "MINIMUM", above, _number(to, y, "high", op.high), y)


def emit_prelu(to: Lowering, _op: ops.PRelu, node: Node) -> None:
    """Emit `PRELU`, its slopes of the same rank as the input."""
    x, y = to.read(node.inputs[0]), to.result(node)
    name = node.inputs[1]
    given = to.graph.type(name).shape
    shape = (1,) * (x.rank - len(given)) + given
    if name in to.graph.weights and shape != given:
        slope = to.weight(name, shape, lambda array: array.reshape(shape), f"rank {x.rank}")
    else:
        slope = to.read(name)
    to.model.operator("PRELU", [x, slope], [y])


# Absolute exponents that roots make up, which XNNPACK has; it has no POW.
ROOTS = frozenset({0.25, 0.5, 0.75})


def emit_power(to: Lowering, x: Tensor, exponent: float, y: Tensor) -> None:
    """Emit `x ** exponent` for 2 or for plus or minus one of `ROOTS`, out of square roots and their inverses."""
    if exponent == 2:
        to.model.operator("SQUARE", [x], [y], options="SquareOptions")
        return
    root = "SQRT" if exponent > 0 else "RSQRT"
    if abs(exponent) == 0.5:
        to.model.operator(root, [x], [y])
        return
    half = to.elementwise(root, x, y, "root")
    if abs(exponent) == 0.25:
        to.model.operator("SQRT", [half], [y])
    else:
        _pair_into(to, "MUL", half, to.elementwise("SQRT", half, y, "fourth_root"), y)


def _exponent(to: Lowering, op: ops.Binary, node: Node) -> float | None:
    """Return the exponent of a power where it is one weight of one element."""
    name = node.inputs[1]
    if op.function is not BinaryFunction.POW or name not in to.graph.weights or to.graph.type(name).size != 1:
        return None
    fits = to.graph.type(name).rank <= to.graph.type(node.inputs[0]).rank
    return float(to.graph.weights[name].reshape(())) if fits else None


def emit_binary(to: Lowering, op: ops.Binary, node: Node) -> None:
    """Emit the operator of the function; an activation that it can't apply stands behind it."""
    exponent = _exponent(to, op, node)
    roots = exponent is not None and (exponent == 2 or abs(exponent) in ROOTS)
    if exponent is not None and roots and op.activation is Activation.NONE:
        emit_power(to, to.read(node.inputs[0]), exponent, to.result(node))
        return
    left, right = map(to.read, node.inputs)
    y = to.result(node)
    code, options, fuses = BINARY[op.function]
    version = 1
    if y.type.dtype is DType.INT64:
        version = INT64_VERSIONS.get(code, 1)
    elif y.rank > 4 and left.shape != right.shape:
        version = WIDE_VERSIONS.get(code, 1)
    if fuses:
        fused = FUSED[op.activation]
        to.model.operator(code, [left, right], [y], version=version, options=options, fusedActivationFunction=fused)
        return
    free = y if op.activation is Activation.NONE else to.temporary(y, "free", y.shape)
    to.model.operator(code, [left, right], [free], version=version, options=options)
    if free is not y:
        to.model.operator({Activation.RELU: "RELU", Activation.RELU6: "RELU6"}[op.activation], [free], [y])


def emit_compare(to: Lowering, op: ops.Compare, node: Node) -> None:
    """Emit the comparison."""
    left, right = map(to.read, node.inputs)
    code, options = COMPARE[op.function]
    to.model.operator(code, [left, right], [to.result(node)], options=options)


def emit_where(to: Lowering, _op: ops.Where, node: Node) -> None:
    """Emit `SELECT_V2`, which broadcasts."""
    inputs = [to.read(name) for name in node.inputs]
    to.model.operator("SELECT_V2", inputs, [to.result(node)], options="SelectV2Options")


def emit_cast(to: Lowering, _op: ops.Cast, node: Node) -> None:
    """Emit `CAST`."""
    x, y = to.read(node.inputs[0]), to.result(node)
    types = {
        "inDataType": TENSOR_TYPES[x.type.dtype],
        "outDataType": TENSOR_TYPES[y.type.dtype],
    }
    to.model.operator("CAST", [x], [y], options="CastOptions", **types)


def emit_identity(to: Lowering, _op: ops.Identity, node: Node) -> None:
    """Emit a `RESHAPE` to the same shape: a tensor has one name, so a second name needs a second tensor."""
    to.reshape(to.read(node.inputs[0]), to.result(node))
