"""The order in which the SavedModel holds each weight: TensorFlow's own, so that people can go on training.

Convolution kernels are `[*spatial, in / groups, out]`, depthwise ones `[*spatial, channels, multiplier]`, transposed
ones `[*spatial, out / groups, in]`, dense ones `[in, out]`, as `tf.nn.conv2d`, `tf.nn.depthwise_conv2d`,
`tf.nn.conv2d_transpose` and `tf.linalg.matmul` take them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demitasse.ir.graph import Graph, Node
from demitasse.ir.ops import (
    Binary,
    BinaryFunction,
    Conv,
    ConvTranspose,
    Dense,
    Gather,
    MatMul,
    PRelu,
    Shape,
)
from demitasse.ir.weights import Array

__all__ = ["Order", "is_depthwise", "order_of", "orders", "trained"]

STATISTICS = frozenset({"mean", "variance"})
"""Roles of weights that are measured, not trained."""

LINEAR = frozenset({BinaryFunction.ADD, BinaryFunction.SUB, BinaryFunction.MUL, BinaryFunction.DIV})
"""Functions whose constant operand is a parameter (a scale, a shift) and no exponent or limit."""


@dataclass(frozen=True, slots=True)
class Order:
    """Says how a weight is held: `stored = weight.transpose(axes).reshape(shape)`."""

    axes: tuple[int, ...]
    shape: Shape

    @classmethod
    def transposed(cls, shape: Shape, axes: tuple[int, ...]) -> Order:
        return cls(axes, tuple(shape[axis] for axis in axes))

    def store(self, weight: Array) -> Array:
        return np.ascontiguousarray(weight.transpose(self.axes)).reshape(self.shape)

    def restored(self, shape: Shape) -> tuple[Shape, tuple[int, ...]]:
        """Return the shape to give to the stored weight, and the axes to transpose it by, to have it back."""
        permuted = tuple(shape[axis] for axis in self.axes)
        return permuted, tuple(self.axes.index(axis) for axis in range(len(shape)))


def is_depthwise(op: Conv | ConvTranspose, kernel: Shape) -> bool:
    """Tell whether TensorFlow's depthwise kernels can take an operation; `kernel` is its shape in the graph.

    On processors they know images alone, one stride for both axes, and no dilation.
    """
    plain = len(op.stride) == 2 and op.stride[0] == op.stride[1] and op.dilation == (1, 1)
    return plain and op.groups > 1 and kernel[1] == 1


def order_of(node: Node, position: int, shape: Shape) -> Order:
    """Return how a node wants the weight that it reads at a position of its inputs; `shape` is the graph's."""
    rank = len(shape)
    op = node.op
    if position != 1 or not isinstance(op, Conv | ConvTranspose | Dense):
        return Order.transposed(shape, tuple(range(rank)))
    if isinstance(op, Dense):
        return Order.transposed(shape, (1, 0))
    order = Order.transposed(shape, (*range(2, rank), 1, 0))
    if not is_depthwise(op, shape):
        return order
    # [kh, kw, 1, groups * multiplier] holds its elements as [kh, kw, groups, multiplier] does.
    return Order(order.axes, (*shape[2:], op.groups, shape[0] // op.groups))


def orders(graph: Graph) -> dict[str, Order]:
    """Map every weight that some node reads to how it is held: as its first reader wants it."""
    found: dict[str, Order] = {}
    for node in graph.nodes:
        for position, name in enumerate(node.inputs):
            if name in graph.weights and name not in found:
                found[name] = order_of(node, position, graph.weights.type(name).shape)
    return found


def trained(graph: Graph) -> frozenset[str]:
    """Find the parameters among the weights: floats that some node multiplies or adds, and that are no statistics."""
    found = {
        name
        for node in graph.nodes
        if isinstance(node.op, Conv | ConvTranspose | Dense | MatMul | PRelu | Gather)
        or (isinstance(node.op, Binary) and node.op.function in LINEAR)
        for name in node.inputs
        if name in graph.weights
    }
    return frozenset(
        name for name in found if graph.weights.type(name).dtype.is_float and name.rpartition("/")[2] not in STATISTICS
    )
