"""Let the channels of a tensor use the 8 bits that they share alike: cross-layer equalization.

Derivation. A tensor has one step for all of its channels, so a channel that stays below an eighth of the largest one is
stored with three bits less. For a factor `s > 0`, `f(s x) = s f(x)` holds for what is homogeneous: `Relu`, `LeakyRelu`,
`PRelu`, pools, resizes, means, padding with zeros, what moves elements, and sums of terms with one factor. So channel
`c` of `y = K * x + b` may be multiplied by `s[c]` in the kernel and the bias, pass through any of these, and be divided
by `s[c]` in the kernels of all products that read it: the net computes the same, to the rounding of its weights
(Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019, section 4.1).

Cases. Each channel of each value has a variable, and channels that must have one factor share it:

* a product (`Conv`, `ConvTranspose`, `Dense`) takes any factors and gives new ones, where its kernel and bias are
  constants that nothing else reads, and its activation is homogeneous (none, or `Relu`);
* what is homogeneous passes variables on, to other places where it moves channels (`Concat`, `Slice`, `Reshape`, ...);
* terms of a sum, and of a maximum or minimum, share them;
* everything else, graph inputs and graph outputs pin them to one.

Choice. Kernels have a step for each output channel, so what a large factor costs is that the other weights of a row
share the step of its largest: `s = w^(1/4) / p^(3/4)`, with `p` the channel's measured peak as a share of its tensor's,
and `w` how large its weights are beside the largest of their rows; no factor goes beyond `LIMIT`. On the nets of
docs/int8.md this gains half a decibel in the mean; with equal exponents, or activations alone, it gains less.

Factors are powers of the sixteenth root of two, so that a document can record them as small integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from demitasse.errors import UsageError
from demitasse.ir import ops
from demitasse.ir.graph import Graph, Node
from demitasse.ir.ops import Activation, BinaryFunction, ReduceFunction
from demitasse.ir.weights import Array

__all__ = ["Channels", "Exponents", "Factors", "Peaks", "add_peaks", "choose_exponents", "equalize", "factors_of"]

Factors: TypeAlias = dict[str, Array]
Peaks: TypeAlias = dict[str, Array]
Numbers: TypeAlias = npt.NDArray[np.float64]
Exponents: TypeAlias = Mapping[str, tuple[int, ...]]
Ids: TypeAlias = npt.NDArray[np.int64]

PINNED = 0
FINENESS = 16
"""Exponents count sixteenths of an octave."""

LIMIT = 2 * FINENESS
"""The largest exponent: no channel is multiplied or divided by more than four."""

PULL = 0.75
"""How much of the choice is for activations; the rest is for weights."""

TINY = float(np.finfo(np.float32).tiny)
# Tensors with more elements have their channels pinned when a Reshape spreads them.
MOST_SPREAD = 1 << 22

_PRODUCTS = ops.Conv | ops.ConvTranspose | ops.Dense
_LINEAR = (Activation.NONE, Activation.RELU)
_MEANS = (ReduceFunction.MEAN, ReduceFunction.SUM, ReduceFunction.MAX)
_SHARED = (BinaryFunction.ADD, BinaryFunction.SUB, BinaryFunction.MAX, BinaryFunction.MIN)


class Channels:
    """The variables of a graph: for each value the axis of its channels, and a variable for each of them."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.axes: dict[str, int] = {}
        self._ids: dict[str, Ids] = {}
        self._parents: list[int] = [PINNED]
        self._readers = graph.consumers()
        for node in graph.nodes:
            self._follow(node)
        for name in graph.outputs:
            self._pin(name)
        self._roots = np.array([self._find(each) for each in range(len(self._parents))], np.int64)

    @property
    def count(self) -> int:
        """The number of variables, the pinned one among them."""
        return len(self._roots)

    def of(self, name: str) -> Ids:
        """Return the variable of each channel of a value; `PINNED` where its factor is one."""
        return np.asarray(self._roots[self._ids[name]]) if name in self._ids else np.zeros(1, np.int64)

    @cached_property
    def free(self) -> frozenset[str]:
        """The values with a channel whose factor may be chosen."""
        return frozenset(name for name in self._ids if self.of(name).any())

    # --- one operation after the other ------------------------------------------------------------------------

    def _follow(self, node: Node) -> None:
        """Give a node's results their variables, and pin what they can't be equalized with."""
        data = [name for name in node.inputs if name in self.graph.values]
        found = self._result(node, data)
        if found is None:
            for name in data:
                self._pin(name)
            return
        self.axes[node.outputs[0]], self._ids[node.outputs[0]] = found

    def _result(self, node: Node, data: list[str]) -> tuple[int, Ids] | None:
        """Return the axis and the variables of a result; None where nothing passes through."""
        if isinstance(node.op, _PRODUCTS):
            return self._product(node, data)
        tracked = [(self.axes[name], self._ids[name]) for name in data if name in self._ids]
        if len(tracked) != len(data) or len(node.outputs) != 1 or not data:
            return None
        match node.op:
            case ops.Binary():
                return self._binary(node.op, node, tracked)
            case ops.Concat(axis=along):
                return self._concat(along, tracked)
            case ops.Reshape():
                return _spread(self.graph.type(data[0]).shape, *tracked[0], self.graph.type(node.outputs[0]).shape)
            case op:
                return _passed(op, *tracked[0]) if len(data) == 1 else None

    def _product(self, node: Node, data: list[str]) -> tuple[int, Ids] | None:
        op, rank = node.op, self.graph.type(node.outputs[0]).rank
        axis = op.layout.channel_axis(rank) if isinstance(op, ops.SpatialOp) else rank - 1
        alone = all(len(self._readers[name]) == 1 for name in node.inputs[1:])
        if len(data) != 1 or not alone:
            return None
        if data[0] in self._ids and self.axes[data[0]] != axis:
            self._pin(data[0])
        count = self.graph.type(node.outputs[0]).shape[axis]
        if getattr(op, "activation", Activation.NONE) not in _LINEAR:
            return axis, np.zeros(count, np.int64)
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return axis, np.arange(first, first + count)

    def _binary(self, op: ops.Binary, node: Node, tracked: list[tuple[int, Ids]]) -> tuple[int, Ids] | None:
        if op.activation not in _LINEAR:
            return None
        same = self.graph.type(node.inputs[0]).shape == self.graph.type(node.outputs[0]).shape
        if op.function in (BinaryFunction.MUL, BinaryFunction.DIV) and same and len(tracked) == 1:
            return (
                tracked[0] if node.inputs[0] in self.graph.values and node.inputs[1] not in self.graph.values else None
            )
        if op.function not in _SHARED or len(tracked) != 2:
            return None
        (axis, left), (other, right) = tracked
        if (
            axis != other
            or len(left) != len(right)
            or self.graph.type(node.inputs[0]) != self.graph.type(node.inputs[1])
        ):
            return None
        self._join(left, right)
        return axis, left

    def _concat(self, along: int, tracked: list[tuple[int, Ids]]) -> tuple[int, Ids] | None:
        axes = {axis for axis, _ in tracked}
        if axes == {along}:
            return along, np.concatenate([ids for _, ids in tracked])
        if len(axes) != 1:
            return None
        for _, ids in tracked[1:]:
            self._join(tracked[0][1], ids)
        return tracked[0]

    # --- variables that are one -------------------------------------------------------------------------------

    def _pin(self, name: str) -> None:
        if name in self._ids:
            self._join(self._ids[name], np.zeros_like(self._ids[name]))

    def _join(self, left: Ids, right: Ids) -> None:
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            low, high = sorted((self._find(one), self._find(other)))
            self._parents[high] = low

    def _find(self, variable: int) -> int:
        while self._parents[variable] != variable:
            self._parents[variable] = self._parents[self._parents[variable]]
            variable = self._parents[variable]
        return variable


def _passed(op: ops.AnyOp, axis: int, ids: Ids) -> tuple[int, Ids] | None:
    """Carry channels through an operation on one value; None where it isn't homogeneous."""
    match op:
        case ops.MaxPool() | ops.AveragePool():
            return (axis, ids) if op.activation in _LINEAR else None
        case ops.Relu() | ops.LeakyRelu() | ops.PRelu() | ops.Identity() | ops.Resize():
            return axis, ids
        case ops.Pad(pads=pads, value=value):
            return (axis, ids) if value == 0 and not any(pads[axis]) else None
        case ops.Reduce(function=function, axes=axes, keepdims=keepdims):
            if function not in _MEANS or axis in axes:
                return None
            return axis if keepdims else axis - sum(each < axis for each in axes), ids
        case ops.Slice(axes=axes, starts=starts, stops=stops, steps=steps):
            for place, each in enumerate(axes):
                if each == axis:
                    ids = ids[slice(starts[place], stops[place], steps[place] if steps else None)]
            return axis, ids
        case ops.Transpose(axes=axes):
            return axes.index(axis), ids
        case _:
            return None


def _spread(shape: ops.Shape, axis: int, ids: Ids, new: ops.Shape) -> tuple[int, Ids] | None:
    """Carry channels through a `Reshape` that keeps the batch and leaves them along one axis."""
    if shape[0] != new[0] or axis == 0 or int(np.prod(shape[1:])) > MOST_SPREAD:
        return None
    full = np.broadcast_to(ids.reshape([-1 if place == axis else 1 for place in range(1, len(shape))]), shape[1:])
    spread = full.reshape(new[1:])
    for place in range(spread.ndim):
        rows = np.moveaxis(spread, place, 0).reshape(spread.shape[place], -1)
        if (rows == rows[:, :1]).all():
            return place + 1, rows[:, 0].copy()
    return None


def add_peaks(peaks: Peaks, channels: Channels, name: str, array: Array) -> None:
    """Take in a tensor of a run: the largest magnitude in each channel, where some of them are free."""
    if name not in channels.free:
        return
    axis = channels.axes[name]
    others = tuple(place for place in range(array.ndim) if place != axis)
    peak = np.maximum(array.max(others), -array.min(others))
    peaks[name] = np.maximum(peaks[name], peak) if name in peaks else peak


def choose_exponents(channels: Channels, peaks: Peaks) -> Exponents:
    """Choose a factor for each variable, from measured peaks and the kernels that read it.

    Returns:
        The exponents of the channels of each product's result, in sixteenths of an octave; results without any
        change are left out.
    """
    shares, weights = np.zeros(channels.count), np.zeros(channels.count)
    for name, peak in peaks.items():
        np.maximum.at(shares, channels.of(name), peak / max(float(peak.max()), np.finfo(np.float32).tiny))
    graph = channels.graph
    for node in graph.nodes:
        if isinstance(node.op, _PRODUCTS) and node.inputs[1] in graph.weights and channels.of(node.inputs[0]).any():
            np.maximum.at(weights, channels.of(node.inputs[0]), _loads(node, graph.weights[node.inputs[1]]))
    seen = (shares > 0) & (weights > 0)
    exponents = np.zeros(channels.count, np.int64)
    octaves = (1 - PULL) * np.log2(weights[seen]) - PULL * np.log2(shares[seen])
    exponents[seen] = np.clip(np.rint(FINENESS * octaves), -LIMIT, LIMIT)
    exponents[PINNED] = 0
    products = (node.outputs[0] for node in graph.nodes if isinstance(node.op, _PRODUCTS))
    found = {name: exponents[channels.of(name)] for name in products}
    return {name: tuple(map(int, each)) for name, each in found.items() if each.any()}


def _loads(node: Node, kernel: Array) -> Array:
    """Return for each input channel how large its weights are beside the largest of their rows, over all rows."""
    groups = getattr(node.op, "groups", 1)
    flat = np.abs(kernel).reshape(*kernel.shape[:2], -1).max(2)
    if isinstance(node.op, ops.ConvTranspose):  # [in, out / groups, ...]: turned to [out, in / groups]
        flat = np.concatenate([part.T for part in np.split(flat, groups)])
    flat = flat / np.maximum(flat.max(1, keepdims=True), TINY)
    return np.asarray(np.sqrt(np.square(flat).reshape(groups, -1, flat.shape[1]).mean(1)).reshape(-1))


def factors_of(graph: Graph, exponents: Exponents) -> Factors:
    """Return by what each value of a graph is multiplied, of its rank; values that stay as they are are left out.

    Raises:
        UsageError: the exponents aren't those of such a graph.
    """
    channels = Channels(graph)
    factors = _per_variable(channels, exponents)
    result = {}
    for name in channels.free:
        along = factors[channels.of(name)]
        if (along != 1).any():
            shape = [-1 if place == channels.axes[name] else 1 for place in range(graph.type(name).rank)]
            result[name] = along.reshape(shape)
    return result


def _per_variable(channels: Channels, exponents: Exponents) -> Numbers:
    """Return the factor of each variable.

    Raises:
        UsageError: exponents contradict each other or the graph.
    """
    found = np.zeros(channels.count, np.int64)
    for name, each in exponents.items():
        if name not in channels.axes or len(channels.of(name)) != len(each) or max(map(abs, each), default=0) > LIMIT:
            raise UsageError(f"its channels can't have been equalized as it says: {name!r} has no such factors here")
        found[channels.of(name)] = each
    wrong = [name for name, each in exponents.items() if (found[channels.of(name)] != each).any()]
    if wrong or found[PINNED]:
        raise UsageError(f"its channels can't have been equalized as it says: factors of {wrong or list(exponents)}")
    return np.asarray(2.0 ** (found / FINENESS))


def equalize(graph: Graph, exponents: Exponents) -> Graph:
    """Multiply channels in the kernels that give them, and divide by the same in those that read them.

    Raises:
        UsageError: the exponents aren't those of such a graph.
    """
    if not exponents:
        return graph
    channels = Channels(graph)
    factors = _per_variable(channels, exponents)
    changed: dict[str, Callable[[], Array]] = {}
    for node in graph.nodes:
        if not isinstance(node.op, _PRODUCTS) or node.inputs[1] not in graph.weights:
            continue
        before, behind = (factors[channels.of(name)] for name in (node.inputs[0], node.outputs[0]))
        if (before != 1).any() or (behind != 1).any():
            changed[node.inputs[1]] = partial(_scaled_kernel, graph, node, before, behind)
            changed |= {bias: partial(_scaled_bias, graph, bias, behind) for bias in node.inputs[2:]}
    result = graph.shell()
    for name, compute in changed.items():
        result.weights.defer(name, graph.weights.type(name), compute)
    for node in graph.nodes:
        result.adopt(graph, node)
    result.outputs = list(graph.outputs)
    return result


def _scaled_bias(graph: Graph, name: str, behind: Array) -> Array:
    return np.multiply(graph.weights[name], behind).astype(np.float32)


def _scaled_kernel(graph: Graph, node: Node, before: Array, behind: Array) -> Array:
    kernel = graph.weights[node.inputs[1]]
    factors = _kernel_factors(node, kernel.shape, before, behind).astype(np.float32)
    return np.multiply(kernel, factors, dtype=np.float32)


def _kernel_factors(node: Node, shape: ops.Shape, before: Array, behind: Array) -> Array:
    """Return by what each weight is multiplied: `[out, in / groups, ...]`, or `[in, out / groups, ...]` transposed."""
    groups, tail = getattr(node.op, "groups", 1), (1,) * (len(shape) - 2)
    transposed = isinstance(node.op, ops.ConvTranspose)
    rows, columns = (1 / before, behind) if transposed else (behind, 1 / before)
    along = np.broadcast_to(columns, groups * shape[1]).reshape(groups, 1, shape[1])
    columns = np.repeat(along, shape[0] // groups, 1).reshape(shape[0], shape[1], *tail)
    return np.asarray(np.broadcast_to(rows, shape[0]).reshape(shape[0], 1, *tail) * columns)
