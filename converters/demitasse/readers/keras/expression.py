"""Read the small arithmetic expressions that stand for the code of Lambda layers.

`x` is the layer's input; `x0`, `x1`, ... are its inputs where it has several. There are numbers, lists of numbers (one
a channel), `+ - * / **`, `abs exp log sqrt square sigmoid tanh relu`, and `min` and `max` of two. The text is parsed
with Python's own grammar, checked node by node against that list, and turned into operations of the graph: it is never
evaluated as Python.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from demitasse.errors import UsageError
from demitasse.ir.ops import BinaryFunction, UnaryFunction

__all__ = ["BINARY_OPERATORS", "CALLS", "Expression"]

BINARY_OPERATORS: Mapping[type[ast.operator], BinaryFunction] = {
    ast.Add: BinaryFunction.ADD,
    ast.Sub: BinaryFunction.SUB,
    ast.Mult: BinaryFunction.MUL,
    ast.Div: BinaryFunction.DIV,
    ast.Pow: BinaryFunction.POW,
}

CALLS: Mapping[str, UnaryFunction | BinaryFunction | None] = {
    "abs": UnaryFunction.ABS,
    "exp": UnaryFunction.EXP,
    "log": UnaryFunction.LOG,
    "sqrt": UnaryFunction.SQRT,
    "square": UnaryFunction.SQUARE,
    "sigmoid": UnaryFunction.SIGMOID,
    "tanh": UnaryFunction.TANH,
    "relu": None,  # an operation of its own
    "min": BinaryFunction.MIN,
    "max": BinaryFunction.MAX,
}
"""The functions of the language; a `BinaryFunction` takes two arguments."""

_INPUT = re.compile(r"x\d{0,2}")
_LONGEST = 2000


@dataclass(frozen=True, eq=False)
class Expression:
    """A checked expression: its text and its syntax tree, which holds nothing outside the language."""

    text: str
    tree: ast.expr

    @classmethod
    def parse(cls, text: str, layer: str) -> Expression:
        """Parse and check an expression.

        Raises:
            UsageError: it is none, or uses what the language hasn't; the message names the layer that it is for.
        """
        where = f"the expression for {layer!r}"
        if len(text) > _LONGEST:
            raise UsageError(f"{where} is longer than {_LONGEST} characters")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise UsageError(f"{where} is no expression: {reason}: {text!r}") from error
        faults = [_fault(node) for node in ast.walk(tree)]
        wrong = [fault for fault in faults if fault]
        if wrong:
            raise UsageError(
                f"{where} uses {', '.join(dict.fromkeys(wrong))}; there are x, numbers, + - * / ** "
                f"and {', '.join(CALLS)}: {text!r}"
            )
        return cls(text, tree)


def _fault(node: ast.AST) -> str | None:
    """Say what the language hasn't in one node of the tree; None where it is fine."""
    match node:
        case ast.BinOp(op=operator):
            return None if type(operator) in BINARY_OPERATORS else f"the operator {type(operator).__name__}"
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()) | ast.Load() | ast.operator() | ast.USub() | ast.UAdd():
            return None
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return None if _is_finite(value) else "a number that is too large"
        case ast.List(elts=entries) | ast.Tuple(elts=entries):
            return None if entries and all(map(_is_number, entries)) else "a list of something else than numbers"
        case ast.Name(id=name):
            return None if _INPUT.fullmatch(name) or name in CALLS else f"the name {name!r}"
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in CALLS:
            count = 2 if isinstance(CALLS[name], BinaryFunction) else 1
            return None if len(args) == count else f"{name} of {len(args)}"
        case _:
            return type(node).__name__


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _is_number(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=int() | float()):
            return True
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float())):
            return True
        case _:
            return False
