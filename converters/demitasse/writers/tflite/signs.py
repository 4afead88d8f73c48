"""Prove that values can't be negative, so that zeros may stand for "nothing" in a maximum."""

from __future__ import annotations

from collections.abc import Sequence

from demitasse.ir import ops
from demitasse.ir.graph import Graph, Node

__all__ = ["non_negative"]

_ABOVE_ZERO = frozenset(
    {
        ops.UnaryFunction.ABS,
        ops.UnaryFunction.EXP,
        ops.UnaryFunction.SQRT,
        ops.UnaryFunction.RSQRT,
        ops.UnaryFunction.SQUARE,
        ops.UnaryFunction.SIGMOID,
        ops.UnaryFunction.SOFTPLUS,
    }
)
_KEEPS_SIGN = (
    ops.MaxPool
    | ops.AveragePool
    | ops.Lrn
    | ops.Resize
    | ops.Reshape
    | ops.Transpose
    | ops.Slice
    | ops.Tile
    | ops.Identity
    | ops.Concat
    | ops.Gather
)
_SUMS = frozenset(
    {
        ops.BinaryFunction.ADD,
        ops.BinaryFunction.MUL,
        ops.BinaryFunction.DIV,
        ops.BinaryFunction.MAX,
        ops.BinaryFunction.MIN,
    }
)


def non_negative(graph: Graph) -> frozenset[str]:
    """Collect the values that hold no negative number whatever the inputs are."""
    found: set[str] = set()
    for node in graph.nodes:
        data = node.inputs[:1] if isinstance(node.op, ops.Gather) else node.inputs
        if _result_is_non_negative(node, [name in found for name in data]):
            found.add(node.outputs[0])
    return frozenset(found)


def _result_is_non_negative(node: Node, inputs: Sequence[bool]) -> bool:
    match node.op:
        case ops.Relu() | ops.Softmax():
            return True
        case ops.Clip(low=low, high=high):
            return high >= 0 and (low >= 0 or all(inputs))
        case ops.Unary(function=function):
            return function in _ABOVE_ZERO
        case ops.Reduce(function=ops.ReduceFunction.L1 | ops.ReduceFunction.SUM_SQUARE):
            return True
        case ops.Reduce():
            return all(inputs)
        case ops.Pad(value=value):
            return value >= 0 and all(inputs)
        case (
            ops.Conv(activation=activation)
            | ops.ConvTranspose(activation=activation)
            | ops.Dense(activation=activation)
        ):
            return activation is not ops.Activation.NONE
        case ops.Binary(function=function, activation=activation):
            return activation is not ops.Activation.NONE or (function in _SUMS and all(inputs))
        case op if isinstance(op, _KEEPS_SIGN):
            return all(inputs)
        case _:
            return False
