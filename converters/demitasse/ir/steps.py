"""Write a recurrent cell out, step by step, in operations that every target has.

Derivation. `Recurrent` (ops.py) states what is computed. The inputs of all steps are multiplied by the kernel at once,
as one `Dense`. What is added to a state's product joins the bias of that `Dense` wherever nothing stands in between:
everywhere but in the candidate of a GRU whose reset gate is multiplied behind its product. The first step knows where
the state is zero, and leaves out what is multiplied by it; so no step depends on the batch.

Whoever has a graph to write to, and weights to make, is an `Author`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from demitasse.ir.ops import (
    AnyOp,
    Binary,
    BinaryFunction,
    Clip,
    Concat,
    Curve,
    CurveFunction,
    Dense,
    Elu,
    LeakyRelu,
    RecurrentCell,
    Relu,
    Reshape,
    Shape,
    Slice,
    Unary,
    UnaryFunction,
    Where,
)
from demitasse.ir.weights import Array

__all__ = ["MOST_STEPS", "Author", "Cell", "Run", "Step", "apply_curve", "run", "stacked"]

MOST_STEPS = 2048
"""Longer sequences aren't written out: each step is a dozen operations of the graph."""

States: TypeAlias = tuple[str, ...]
Function: TypeAlias = Callable[[str], str]


class Author(Protocol):
    """Writes operations to a graph."""

    def apply(self, op: AnyOp, *inputs: str) -> str:
        """Add an operation, and return the name of its result."""

    def constant(self, value: float) -> str:
        """Return the name of a number."""

    def shape(self, value: str) -> Shape:
        """Return the shape of a value or weight."""

    def part(self, weight: str, role: str, shape: Shape, compute: Callable[[Array], Array]) -> str:
        """Return the name of a weight that is computed from another one, when it is asked for."""


class Cell(NamedTuple):
    """A cell as `Recurrent` takes it, its two functions being whatever the author writes out."""

    kind: RecurrentCell
    kernel: str
    recurrent: str
    bias: str | None
    activation: Function
    gate: Function


class Step(NamedTuple):
    """A step of a sequence: its place there, and the value that is true where it is padding, if it can be."""

    place: int
    absent: str | None = None


class Run(NamedTuple):
    """What running over a sequence gives: the outputs in the order in which they were computed, and the last states."""

    outputs: list[str]
    states: States


def run(
    author: Author, cell: Cell, x: str, initial: Sequence[str], steps: Sequence[Step], *, zeroed: bool = False
) -> Run:
    """Run a cell over `x` `[N, T, in]`.

    Args:
        author: writes the operations.
        cell: what is computed at each step.
        x: the sequence.
        initial: the states before the first step; none where they are zero.
        steps: the steps in the order in which they are run. One that is padding keeps the states.
        zeroed: whether the output of a padded step is zero; else it is the output before.
    """
    written = _Written(author, cell)
    projected = written.projected(x)
    states: States | None = tuple(initial) or None
    outputs: list[str] = []
    for place, absent in steps:
        fresh = written.step(_at(author, projected, place), states)
        output = fresh[0]
        if absent is not None:
            zero = author.constant(0.0)
            before = states or (zero,) * len(fresh)
            fresh = tuple(author.apply(Where(), absent, *pair) for pair in zip(before, fresh, strict=True))
            last = zero if zeroed or not outputs else outputs[-1]
            output = author.apply(Where(), absent, last, output)
        states = fresh
        outputs.append(output)
    return Run(outputs, states or ())


def stacked(author: Author, outputs: Sequence[str]) -> str:
    """Make a sequence `[N, T, units]` of its steps."""
    width = author.shape(outputs[0])[1]
    return author.apply(Concat(1), *(author.apply(Reshape((0, 1, width)), output) for output in outputs))


def apply_curve(author: Author, curve: Curve, x: str) -> str:
    """Write a cell's function out."""
    match curve.function:
        case CurveFunction.LINEAR:
            return x
        case CurveFunction.RELU:
            return author.apply(Relu(), x)
        case CurveFunction.LEAKY_RELU:
            return author.apply(LeakyRelu(curve.alpha), x)
        case CurveFunction.ELU:
            return author.apply(Elu(curve.alpha), x)
        case CurveFunction.HARD_SIGMOID:
            scaled = author.apply(Binary(BinaryFunction.MUL), x, author.constant(curve.alpha))
            shifted = author.apply(Binary(BinaryFunction.ADD), scaled, author.constant(curve.beta))
            return author.apply(Clip(0.0, 1.0), shifted)
        case function:
            return author.apply(Unary(UnaryFunction(function.value)), x)


def _at(author: Author, x: str, index: int) -> str:
    """Take one step out of a sequence."""
    cut = author.apply(Slice((1,), (index,), (index + 1,)), x)
    return author.apply(Reshape((0, author.shape(x)[2])), cut)


class _Written:
    """A cell with the weights that its steps take."""

    def __init__(self, author: Author, cell: Cell) -> None:
        self.author, self.cell = author, cell
        self.units = author.shape(cell.recurrent)[1]

    def projected(self, x: str) -> str:
        """Multiply a whole sequence by the kernel, and add all of the bias that needn't wait for the state."""
        cell, waiting = self.cell, self.units if self._bias_waits else 0
        bias = []
        if cell.bias is not None:
            width = self.author.shape(cell.bias)[1]
            bias = [self.author.part(cell.bias, "input", (width,), lambda rows: _joined(rows, width - waiting))]
        return self.author.apply(Dense(), x, cell.kernel, *bias)

    def step(self, x: str, states: States | None) -> States:
        """Compute the new states from a projected input and the old states, which are None where they are zero."""
        match self.cell.kind:
            case RecurrentCell.PLAIN:
                return (self.cell.activation(self._with_state(x, states, self.cell.recurrent)),)
            case RecurrentCell.LSTM:
                return self._lstm(self._with_state(x, states, self.cell.recurrent), states)
            case RecurrentCell.GRU | RecurrentCell.GRU_RESET_AFTER:
                return self._gru(x, states[0] if states is not None else None)

    def _lstm(self, x: str, states: States | None) -> States:
        gates, activation = self.cell.gate(self._cut(x, 0, 3)), self.cell.activation
        carry = self._mul(self._cut(gates, 0), activation(self._cut(x, 3)))
        if states is not None:
            carry = self._add(self._mul(self._cut(gates, 2), states[1]), carry)
        return self._mul(self._cut(gates, 1), activation(carry)), carry

    def _gru(self, x: str, state: str | None) -> States:
        part, units, weights = self.author.part, self.units, self.cell.recurrent
        gates = self._cut(x, 0, 2)
        if state is not None:
            kernel = part(weights, "gates", (2 * units, units), lambda rows: rows[: 2 * units])
            gates = self._add(gates, self.author.apply(Dense(), state, kernel))
        gates = self.cell.gate(gates)
        update = self._cut(gates, 0)
        share = self._share(state, self._cut(gates, 1))
        candidate = self._cut(x, 2)
        candidate = self.cell.activation(candidate if share is None else self._add(candidate, share))
        one = self.author.constant(1.0)
        fresh = self._mul(self.author.apply(Binary(BinaryFunction.SUB), one, update), candidate)
        return (fresh if state is None else self._add(self._mul(update, state), fresh),)

    def _share(self, state: str | None, reset: str) -> str | None:
        """Compute what a state that may be zero gives to a GRU's candidate; None where nothing comes of it."""
        units, weights, bias = self.units, self.cell.recurrent, self.cell.bias
        offset = []
        if bias is not None and self._bias_waits:
            offset = [self.author.part(bias, "state", (units,), lambda rows: rows[1, 2 * units :])]
        if state is None:
            return self._mul(reset, offset[0]) if offset else None
        kernel = self.author.part(weights, "state", (units, units), lambda rows: rows[2 * units :])
        if self.cell.kind is RecurrentCell.GRU_RESET_AFTER:
            return self._mul(reset, self.author.apply(Dense(), state, kernel, *offset))
        return self.author.apply(Dense(), self._mul(reset, state), kernel)

    @property
    def _bias_waits(self) -> bool:
        return self.cell.kind is RecurrentCell.GRU_RESET_AFTER

    def _with_state(self, x: str, states: States | None, kernel: str) -> str:
        return x if states is None else self._add(x, self.author.apply(Dense(), states[0], kernel))

    def _cut(self, x: str, index: int, count: int = 1) -> str:
        """Cut `count` gates out of the last axis."""
        return self.author.apply(Slice((1,), (index * self.units,), ((index + count) * self.units,)), x)

    def _add(self, left: str, right: str) -> str:
        return self.author.apply(Binary(BinaryFunction.ADD), left, right)

    def _mul(self, left: str, right: str) -> str:
        return self.author.apply(Binary(BinaryFunction.MUL), left, right)


def _joined(rows: Array, width: int) -> Array:
    """Add the first `width` elements of the state's bias to the inputs' bias, in double precision."""
    total: Array = rows[0].astype(np.float64)
    total[:width] += rows[1, :width]
    return total
