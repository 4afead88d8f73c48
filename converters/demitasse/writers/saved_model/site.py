"""Where a node is spelled in TensorFlow: its operands, its shapes, and the names that its operators get.

The last operator of a node bears the name of the node's result, the others that name with their own behind a slash:
`conv1/Conv2D`, `conv1/BiasAdd`, `conv1`. So a result can be found in the artifact, and costs no operator of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from demitasse.ir.graph import Graph, Node
from demitasse.ir.ops import Shape

__all__ = ["Dims", "Emitter", "Site", "Step", "Tensor", "call", "raw"]

Tensor: TypeAlias = Any  # tf.Tensor: TensorFlow has no types of its own
Dims: TypeAlias = tuple[int | None, ...]


def raw(operator: str, **attributes: Any) -> Tensor:
    """Add one operator of `tf.raw_ops`, and return what it gives."""
    import tensorflow

    return getattr(tensorflow.raw_ops, operator)(**attributes)


class Step(NamedTuple):
    """An operator, or several, on one tensor: `apply(x, name)` gives a result of that name."""

    label: str
    apply: Callable[[Tensor, str], Tensor]


def call(operator: str, operand: str, /, **attributes: Any) -> Step:
    """Make a step of one operator; `operand` is what it calls the tensor that it gets."""
    return Step(operator, lambda x, name: raw(operator, **{operand: x}, **attributes, name=name))


class Site:
    """A node, and what its emitter needs to know of it.

    Attributes:
        operands: its inputs as tensors; weights in the order that TensorFlow's operator wants.
        names: what the operators that give its results are to be called.
        shape: the shape of its first result; a free dimension is None.
    """

    def __init__(
        self,
        graph: Graph,
        node: Node,
        operands: Sequence[Tensor],
        names: Sequence[str],
        shapes: Mapping[str, Dims],
    ) -> None:
        self.node = node
        self.operands = operands
        self.names = names
        self.shape = shapes[node.outputs[0]]
        self._graph = graph
        self._shapes = shapes

    @property
    def name(self) -> str:
        """What the operator that gives the first result is called."""
        return self.names[0]

    @property
    def spatial_rank(self) -> int:
        """The number of spatial axes, where there are any."""
        return len(self.shape) - 2

    def dims(self, position: int) -> Dims:
        """Return the shape of an input; a free dimension is None."""
        name = self.node.inputs[position]
        return self._shapes[name] if name in self._shapes else self.weight_shape(position)

    def weight_shape(self, position: int) -> Shape:
        """Return the shape of an input as the graph has it, whatever the order in which the artifact holds it."""
        return self._graph.type(self.node.inputs[position]).shape

    def inner(self, label: str) -> str:
        """Name an operator that gives no result of the node."""
        return f"{self.name}/{label}"

    def apply(self, x: Tensor, steps: Sequence[Step]) -> Tensor:
        """Run steps whose last one gives no result of the node."""
        for step in steps:
            x = step.apply(x, self.inner(step.label))
        return x

    def chain(self, x: Tensor, steps: Sequence[Step], *, output: int = 0) -> Tensor:
        """Run steps of which the last one gives a result of the node; none at all give it the tensor itself."""
        *first, last = steps or [call("Identity", "input")]
        return last.apply(self.apply(x, first), self.names[output])


Emitter: TypeAlias = Callable[[Site, Any], Any]
"""Spells a node: gives the tensor of its result, or a tuple of tensors where there are several."""
