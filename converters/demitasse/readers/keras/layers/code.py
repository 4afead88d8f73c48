"""Lambda layers: an expression that the user gives stands for the code in the file, which is never run."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from demitasse.ir.ops import BinaryFunction, Relu, UnaryFunction
from demitasse.readers.keras.builder import LayerBuilder, Operand
from demitasse.readers.keras.expression import BINARY_OPERATORS, CALLS
from demitasse.readers.keras.registry import reads

Term: TypeAlias = "Operand | NDArray[np.float64]"

_OF_NUMBERS: Mapping[BinaryFunction | UnaryFunction | None, Callable[..., Any]] = {
    BinaryFunction.ADD: np.add,
    BinaryFunction.SUB: np.subtract,
    BinaryFunction.MUL: np.multiply,
    BinaryFunction.DIV: np.divide,
    BinaryFunction.POW: np.power,
    BinaryFunction.MIN: np.minimum,
    BinaryFunction.MAX: np.maximum,
    UnaryFunction.ABS: np.abs,
    UnaryFunction.EXP: np.exp,
    UnaryFunction.LOG: np.log,
    UnaryFunction.SQRT: np.sqrt,
    UnaryFunction.SQUARE: np.square,
    UnaryFunction.SIGMOID: lambda x: 1 / (1 + np.exp(-x)),
    UnaryFunction.TANH: np.tanh,
    None: lambda x: np.maximum(x, 0),
}


@reads("Lambda")
def lambda_layer(layer: LayerBuilder) -> str:
    """Compute the expression that --lambda gives; the code in the file is never run."""
    expression = layer.expression
    if expression is None:
        raise layer.unsupported(
            "it holds Python code, which is never run; say what it computes with "
            f"--lambda {layer.name}='x / 255' (or what it is), or with a --plugin file"
        )
    layer.params.ignore(*[name for name, _ in layer.params.unread()])
    inputs = layer.inputs(1, 99)
    names = {f"x{index}": layer.real(value) for index, value in enumerate(inputs)}
    if len(inputs) == 1:
        names["x"] = names["x0"]
    result = _evaluated(layer, expression.tree, names)
    if not isinstance(result, Operand):
        raise layer.unsupported(f"its expression {expression.text!r} doesn't depend on its input")
    return result


def _evaluated(layer: LayerBuilder, node: ast.expr, names: Mapping[str, Operand]) -> Term:
    """Turn a checked syntax tree into operations; what is made of numbers alone is computed right away."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return np.asarray(value, np.float64)
        case ast.List(elts=entries) | ast.Tuple(elts=entries):
            return np.asarray([_evaluated(layer, entry, names) for entry in entries], np.float64)
        case ast.Name(id=name):
            if name not in names:
                raise layer.unsupported(f"its expression reads {name!r}; its inputs are {', '.join(names)}")
            return names[name]
        case ast.UnaryOp(op=operator, operand=operand):
            term = _evaluated(layer, operand, names)
            return (
                term if isinstance(operator, ast.UAdd) else _combined(layer, BinaryFunction.MUL, term, np.asarray(-1.0))
            )
        case ast.BinOp(left=left, op=operator, right=right):
            sides = (_evaluated(layer, side, names) for side in (left, right))
            return _combined(layer, BINARY_OPERATORS[type(operator)], *sides)
        case ast.Call(func=ast.Name(id=name), args=args):
            return _combined(layer, CALLS[name], *(_evaluated(layer, argument, names) for argument in args))
        case _:
            raise layer.unsupported(f"its expression has a {type(node).__name__}")


def _combined(layer: LayerBuilder, function: UnaryFunction | BinaryFunction | None, *terms: Term) -> Term:
    if not any(isinstance(term, Operand) for term in terms):
        with np.errstate(all="ignore"):
            return np.asarray(_OF_NUMBERS[function](*terms), np.float64)
    if isinstance(function, BinaryFunction):
        return layer.binary(function, terms[0], terms[1])
    x = str(terms[0])
    return layer.apply(Relu(), x) if function is None else layer.unary(function, x)
