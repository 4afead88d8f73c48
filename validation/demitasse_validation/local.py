"""Measures each layer of an artifact alone: what it makes of the inputs that it really had.

The reference computes one layer at a time from the artifact's own tensors, so that what earlier layers got wrong is in
both results and falls out. What is left is the layer's own error. This is the same as running the layer of the artifact
on the reference's inputs, and needs no surgery on the artifact.

Where a format stores weights in fewer bits, the reference rounds its own in the same way: from 8-bit kernels to the
nearest 127th of each channel's largest weight, from float16 to 11 bits. A sound quantized layer is then off by its
output's rounding alone, about half a step, and a kernel that is 1 % too large stands out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from demitasse.errors import UsageError
from demitasse.ir.evaluate import evaluate_node
from demitasse.ir.graph import Graph, Node
from demitasse.ir.ops import (
    AveragePool,
    Binary,
    BinaryFunction,
    Clip,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Gather,
    Identity,
    MatMul,
    MaxPool,
    Op,
    Pad,
    Reduce,
    ReduceFunction,
    Relu,
    Reshape,
    Resize,
    Slice,
    Tile,
    Transpose,
)
from demitasse.ir.weights import Array
from demitasse.targets import simplify
from demitasse_validation.metrics import METRICS, Sums
from demitasse_validation.tolerances import Rule

__all__ = ["LocalError", "Locals", "Step"]

# What a float32 layer alone may be off by, in shares of its peak: runtimes that sum thousands of products in different
# orders stay a hundred times below 1e-4, which is for whole nets.
REAL_LIMIT = 2e-5

# A coordinate of a resize is computed in float32 as well: what that adds, for each element of the image's side.
COORDINATE = 4 * 2.0**-23

# How many steps an 8-bit kernel may add to the rounding of its result: half a step for rounding, and as much again for
# the fixed-point arithmetic that rescales sums. Sound artifacts show 0.51 for products, 0.76 for sums and means.
STEPS_AN_OP: Mapping[type[Op], float] = MappingProxyType(
    {Conv: 1.0, ConvTranspose: 1.0, Dense: 1.0, Binary: 1.5, Reduce: 1.5, AveragePool: 1.5, Concat: 1.0, MaxPool: 0.5}
    | dict.fromkeys((Relu, Clip, Gather, Identity, Pad, Reshape, Slice, Tile, Transpose), 0.5)
)

# What at most comes of operations that only move, choose or cut numbers.
MOVES = 0.5

# What several kernels with tensors of their own between them may add up to, in steps of the last one: up to 15 in sound
# artifacts, where the result has a smaller range than its parts.
COMPOSED = 24.0

# A channel whose values are fitted best by a factor other than 1 is wrong if that moves its largest value by more than
# this many steps, and if chance would hardly do so: rounding errors scatter by 0.29 steps.
GAIN_STEPS, GAIN_SIGMAS, ROUNDING = 0.6, 10.0, 0.29

# Where biases were corrected for what rounding kernels shifts in the mean, a channel may be off by a constant: what is
# judged is how errors scatter about it. A slope is told from rounding only in channels that span this many steps.
MOST_SHIFTED, LEAST_SPAN, CORRECTED_SLACK = 24.0, 16.0, 0.75

# A calibrated range may be left a little, and now and then. A tensor that can't hold a quarter of its numbers, by a
# good part of its range, is saturated.
OVERSHOOT, MOST_SATURATED = 0.1, 0.25

# By how much an artifact of few bits may be worse than rounding alone is in the evaluator: in decibels twice the noise,
# at the worst element three times.
PROPAGATED_DECIBELS, PROPAGATED_TIMES = 6.0, 3.0


@dataclass(frozen=True, slots=True)
class Step:
    """The step of a quantized tensor, and the least and the greatest number that it can hold."""

    size: float
    low: float
    high: float


@dataclass
class _Scatter:
    """Sums, a channel each, over the elements that lie inside the tensor's range, in steps: errors about their mean."""

    count: Array | float = 0.0
    error: Array | float = 0.0
    value: Array | float = 0.0
    product: Array | float = 0.0
    square: Array | float = 0.0
    most: Array | float = -np.inf
    least: Array | float = np.inf
    highest: Array | float = -np.inf
    lowest: Array | float = np.inf

    def add(self, error: Array, value: Array, inside: Array) -> None:
        """Add elements `[channels, any]`; those outside don't count, for clipping hides what they are off by."""
        kept_error, kept_value = np.where(inside, error, 0.0), np.where(inside, value, 0.0)
        self.count = self.count + inside.sum(axis=1)
        self.error = self.error + kept_error.sum(axis=1)
        self.value = self.value + kept_value.sum(axis=1)
        self.product = self.product + (kept_error * kept_value).sum(axis=1)
        self.square = self.square + np.square(kept_value).sum(axis=1)
        self.most = np.maximum(self.most, np.where(inside, error, -np.inf).max(axis=1, initial=-np.inf))
        self.least = np.minimum(self.least, np.where(inside, error, np.inf).min(axis=1, initial=np.inf))
        self.highest = np.maximum(self.highest, np.where(inside, value, -np.inf).max(axis=1, initial=-np.inf))
        self.lowest = np.minimum(self.lowest, np.where(inside, value, np.inf).min(axis=1, initial=np.inf))

    def fault(self, allowed: float) -> str:
        """Say what a constant for each channel does not explain."""
        count = np.asarray(self.count, np.float64)
        seen = count >= 2
        if not seen.any():
            return ""
        some = np.maximum(count, 1)
        shift = np.where(seen, self.error / some, 0.0)
        if np.abs(shift).max() > MOST_SHIFTED:
            worst = int(np.abs(shift).argmax())
            return f"alone its channel {worst} is off by {shift[worst]:+.3g} steps, more than biases are corrected by"
        spread = np.where(seen, np.maximum(self.most - shift, shift - self.least), 0.0)
        if spread.max() > allowed + CORRECTED_SLACK:
            worst = int(spread.argmax())
            return (
                f"alone its channel {worst} is off by up to {spread[worst]:.3g} steps, rounding explains {allowed:.3g}"
            )
        variance = np.maximum(self.square - self.value * self.value / some, 1e-12)
        slope = np.where(seen, (self.product - self.error * self.value / some) / variance, 0.0)
        span = np.where(seen, self.highest - self.lowest, 0.0)
        moved = np.abs(slope) * span
        wrong = (span > LEAST_SPAN) & (moved > allowed + CORRECTED_SLACK)
        wrong &= np.abs(slope) * np.sqrt(variance) > GAIN_SIGMAS * ROUNDING
        if not wrong.any():
            return ""
        worst = int(np.where(wrong, moved, 0).argmax())
        return f"alone its channel {worst} is {100 * slope[worst]:+.2g} % too large throughout"


@dataclass
class LocalError:
    """Sums over what one layer did alone.

    `allowed` is how far the result may be off: steps of a quantized one, shares of its peak for a real one; None where
    nothing can be said, as of what 8 bits compute in several roundings. In steps: `largest` is the largest error; for
    each channel, `gain` sums the products of errors and values, `values` squares of values, and `peak` is the largest
    of them, so that a channel which is a little too large throughout stands out; `saturated` counts what lies far
    outside of what the tensor can hold. `propagated` measures what rounding alone does to the blob in a whole net.
    `scatter` takes the place of `largest` and `gain` where the artifact's biases were corrected.
    """

    axis: int
    step: Step | None = None
    allowed: float | None = None
    sums: Sums = field(default_factory=Sums)
    largest: float = 0.0
    saturated: int = 0
    propagated: Sums = field(default_factory=Sums)
    scatter: _Scatter | None = None
    gain: Array | float = 0.0
    values: Array | float = 0.0
    peak: Array | float = 0.0

    def add(self, expected: Array, given: Array) -> None:
        """Measure one result against what the layer should have made of its inputs."""
        if self.step is None:
            self.sums += Sums.of(expected, given)
            return
        slack = OVERSHOOT * (self.step.high - self.step.low)
        self.saturated += int(
            np.count_nonzero((expected > self.step.high + slack) | (expected < self.step.low - slack))
        )
        expected = np.clip(expected, self.step.low, self.step.high)
        self.sums += Sums.of(expected, given)
        rows = (given.shape[self.axis], -1)
        error = np.moveaxis((given - expected) / self.step.size, self.axis, 0).reshape(rows)
        value = np.moveaxis(expected / self.step.size, self.axis, 0).reshape(rows)
        if self.scatter is not None:
            low, high = self.step.low / self.step.size + 0.5, self.step.high / self.step.size - 0.5
            held = value + error
            self.scatter.add(error, value, (value > low) & (value < high) & (held > low) & (held < high))
            return
        self.largest = max(self.largest, float(np.abs(error).max(initial=0)))
        self.gain = self.gain + (error * value).sum(axis=1)
        self.values = self.values + np.square(value).sum(axis=1)
        self.peak = np.maximum(self.peak, np.abs(value).max(axis=1, initial=0))

    @property
    def figures(self) -> Mapping[str, float]:
        """Every metric of the layer's own error."""
        return {name: metric.of(self.sums) for name, metric in METRICS.items()}

    @property
    def fault(self) -> str:
        """What is wrong with the layer alone, in words; empty where rounding explains its error."""
        if self.step is not None:
            return self._fault_in_steps()
        share = METRICS["relative_to_peak"].of(self.sums)
        if self.allowed is None or METRICS["relative_to_peak"].holds(share, self.allowed):
            return ""
        return f"alone it is off by {share:.3g} of its peak, rounding explains {self.allowed:.2g}"

    def _fault_in_steps(self) -> str:
        if self.allowed is None:
            return ""
        if self.saturated > MOST_SATURATED * self.sums.count:
            return f"alone it can't hold {self.saturated} of its {self.sums.count} numbers: its 8 bits end before them"
        if self.scatter is not None:
            return self.scatter.fault(self.allowed)
        if not self.largest <= self.allowed:
            return f"alone it is off by {self.largest:.3g} steps of its 8 bits, rounding explains {self.allowed:.3g}"
        if self.allowed >= COMPOSED:
            return ""
        values = np.maximum(self.values, 1e-12)
        factor = np.asarray(self.gain / values)
        wrong = (np.abs(factor * self.peak) > GAIN_STEPS) & (np.abs(factor) * np.sqrt(values) > GAIN_SIGMAS * ROUNDING)
        if not wrong.any():
            return ""
        worst = int(np.abs(np.where(wrong, factor * self.peak, 0)).argmax())
        return f"alone its channel {worst} is {100 * factor.ravel()[worst]:+.2g} % too large throughout"


class Locals:
    """Computes each layer from the tensors that an artifact had, over some samples, and sums its errors.

    `target` is the artifact's; `steps` maps blobs to their steps, for those that are quantized; `fed` likewise, with
    those that are computed with real numbers and quantized for their readers; `axes` maps the blobs that the artifact
    gives to the axis of their channels. `corrected` says that its biases make up for what rounding
    its kernels shifts in the mean.
    """

    def __init__(
        self,
        graph: Graph,
        target: str,
        steps: Mapping[str, Step],
        fed: Mapping[str, Step],
        axes: Mapping[str, int],
        *,
        corrected: bool = False,
    ) -> None:
        from threadpoolctl import ThreadpoolController

        self.bits = 8 if target.endswith("int8") else 16 if target.endswith("f16") else 32
        self.graph = simplify(graph) if self.bits < 32 else graph
        self.nodes = _subnets(self.graph, axes)
        self.errors = {
            name: LocalError(
                axes[name],
                steps.get(name),
                self._allowed(name, nodes, steps, fed, axes),
                scatter=_Scatter() if corrected and name in steps else None,
            )
            for name, nodes in self.nodes.items()
        }
        self._steps = fed
        self._last = {name: node for node in self.graph.nodes for name in (*node.inputs, *node.outputs)}
        self._pools = ThreadpoolController()

    def _allowed(
        self,
        name: str,
        nodes: Sequence[Node],
        steps: Mapping[str, Step],
        quantized: Mapping[str, Step],
        axes: Mapping[str, int],
    ) -> float | None:
        """Say by how many steps a result may be off, or by which share of its peak; None where nothing can be said."""
        if self.bits > 8:
            sizes = [max(self.graph.type(n.outputs[0]).shape) for n in nodes if isinstance(n.op, Resize)]
            return REAL_LIMIT + COORDINATE * sum(sizes)
        made = {each for node in nodes for each in node.outputs}
        fed = {each for node in nodes for each in node.inputs if each not in made and each in self.graph.values}
        if name not in steps:
            # Real numbers from one operation: a softmax behind 8 bits, a normalization that 8 bits can't hold.
            is_real = len(nodes) == 1 and not isinstance(nodes[0].op, Conv | ConvTranspose | Dense | MatMul)
            return REAL_LIMIT if is_real and fed <= axes.keys() else None
        products = [node for node in nodes if STEPS_AN_OP.get(type(node.op), 1.0) > MOVES]
        if not all(map(_is_one_kernel, nodes)) or len(products) > 1 or not fed or not fed <= quantized.keys():
            return COMPOSED  # it rounds in between, or what goes in isn't known in steps
        return sum(STEPS_AN_OP[type(node.op)] for node in nodes) + 0.25

    def add(
        self,
        feeds: Mapping[str, Array],
        given: Mapping[str, Array],
        read: Mapping[str, Array],
        reference: Mapping[str, Array],
    ) -> None:
        """Compute one step.

        Args:
            feeds: the source's inputs.
            given: what the artifact's layers gave, in the source's order.
            read: what the layers behind them read of it, which may be quantized.
            reference: what they should be.
        """
        with self._pools.limit(limits=1, user_api="blas"):
            try:
                self._add(feeds, given, read)
                if self.bits < 32:
                    self._propagate(feeds, reference)
            except UsageError:
                return  # an index that the artifact computed points nowhere: that is reported where it is compared

    def _add(self, feeds: Mapping[str, Array], given: Mapping[str, Array], read: Mapping[str, Array]) -> None:
        values: dict[str, Array] = {name: _real(read.get(name, feeds[name])) for name in self.graph.inputs}
        for node in self.graph.nodes:
            operands = [self._operand(node, name, values) for name in node.inputs]
            for name, result in zip(node.outputs, evaluate_node(node.op, operands), strict=True):
                other = given.get(name) if name in self.errors else None
                if other is None or other.shape != result.shape or other.dtype.kind != result.dtype.kind:
                    values[name] = result
                    continue
                if np.isfinite(result).all():
                    self.errors[name].add(_real(result), _real(other))
                values[name] = _real(read.get(name, other))
            for name in {*node.inputs, *node.outputs}:
                if self._last[name] is node:
                    values.pop(name, None)

    def _propagate(self, feeds: Mapping[str, Array], reference: Mapping[str, Array]) -> None:
        """Run the whole net with every tensor and weight rounded as the artifact stores it, and nothing else wrong."""
        values: dict[str, Array] = {name: self._stored(name, _real(feeds[name])) for name in self.graph.inputs}
        for node in self.graph.nodes:
            operands = [self._operand(node, name, values) for name in node.inputs]
            for name, result in zip(node.outputs, evaluate_node(node.op, operands), strict=True):
                values[name] = self._stored(name, result)
                if name in self.errors and name in reference and reference[name].shape == result.shape:
                    self.errors[name].propagated += Sums.of(reference[name], values[name])
            for name in {*node.inputs, *node.outputs}:
                if self._last[name] is node:
                    values.pop(name, None)

    def _stored(self, name: str, array: Array) -> Array:
        step = self._steps.get(name)
        if step is None or array.dtype.kind != "f":
            return array
        slack = OVERSHOOT * (step.high - step.low)
        rounded = np.rint(array / step.size) * step.size
        is_near = (rounded >= step.low - slack) & (rounded <= step.high + slack)
        return np.asarray(np.where(is_near, np.clip(rounded, step.low, step.high), rounded))

    def operands(self, blob: str, feeds: Mapping[str, Array], given: Mapping[str, Array]) -> dict[str, Array]:
        """Return what a layer alone computes from: the artifact's tensors, and the weights, by name."""
        nodes = self.nodes[blob]
        made = {name for node in nodes for name in node.outputs}
        known = {name: _real(array) for name, array in {**feeds, **given}.items()}
        return {name: self._operand(node, name, known) for node in nodes for name in node.inputs if name not in made}

    def rule(self, blob: str, rule: Rule) -> Rule:
        """Ease what a rule demands of a blob where rounding alone, propagated, leaves less."""
        error = self.errors.get(blob)
        if error is None or not error.propagated.count:
            return rule
        limits = dict(rule.limits)
        reached = METRICS["sqnr_db"].of(error.propagated)
        largest = METRICS["max_abs"].of(error.propagated)
        share = PROPAGATED_TIMES * METRICS["relative_to_peak"].of(error.propagated)
        if rule.limits.keys() == {"sqnr_db"} and reached - PROPAGATED_DECIBELS < limits["sqnr_db"]:
            limits["sqnr_db"] = reached - PROPAGATED_DECIBELS
        elif rule.limits.keys() == {"relative_to_peak"} and share > limits["relative_to_peak"]:
            limits["relative_to_peak"] = share
        elif rule.limits.keys() == {"max_abs"} and PROPAGATED_TIMES * largest > limits["max_abs"] > 0:
            limits["max_abs"] = PROPAGATED_TIMES * largest
        else:
            return rule
        reason = f"rounding to {self.bits} bits alone leaves {reached:.1f} dB here, and moves it by {largest:.2g}"
        return replace(rule, limits=MappingProxyType(limits), reason=reason)

    def _operand(self, node: Node, name: str, values: Mapping[str, Array]) -> Array:
        if name in values:
            return values[name]
        weight = self.graph.weights[name]
        if self.bits == 32 or weight.dtype.kind != "f":
            return weight
        if self.bits == 16:
            with np.errstate(over="ignore"):
                half = weight.astype(np.float16)
            return half.astype(np.float64) if np.isfinite(half).all() else weight
        return _eight_bits(node, name, weight)


def _real(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _subnets(graph: Graph, anchors: Collection[str]) -> dict[str, list[Node]]:
    """Map each anchor to the nodes that lead to it from other anchors or inputs."""
    between: dict[str, list[Node]] = {}
    found = {}
    for node in graph.nodes:
        nodes = [*dict.fromkeys(each for name in node.inputs for each in between.get(name, ())), node]
        for name in node.outputs:
            if name in anchors:
                found[name] = nodes
            else:
                between[name] = nodes
    return found


def _is_one_kernel(node: Node) -> bool:
    """Whether 8-bit formats compute an operation in one kernel with one rounding."""
    match node.op:
        case AveragePool(pads=pads) if any(map(any, pads)):
            return False  # sums, then a factor for each place
        case Binary(function=function):
            return function in {BinaryFunction.ADD, BinaryFunction.SUB} and node.inputs[0] != node.inputs[1]
        case Reduce(function=function):
            return function is ReduceFunction.MEAN
        case op:
            return type(op) in STEPS_AN_OP


def _eight_bits(node: Node, name: str, weight: Array) -> Array:
    """Round a kernel as 8-bit formats store it: symmetric, a step an output channel."""
    if not isinstance(node.op, Conv | ConvTranspose | Dense) or name != node.inputs[1]:
        return weight
    if not isinstance(node.op, ConvTranspose):
        return _rounded(weight, tuple(range(1, weight.ndim)))
    parts = weight.reshape(node.op.groups, -1, *weight.shape[1:])
    return _rounded(parts, (1, *range(3, parts.ndim))).reshape(weight.shape)


def _rounded(weight: Array, axes: tuple[int, ...]) -> Array:
    """Round to multiples of a 127th of the largest element along some axes."""
    peak = np.abs(weight).max(axis=axes, keepdims=True).astype(np.float64)
    step = np.where(peak > 0, peak, 1) / 127
    return np.asarray(np.rint(weight / step) * step)
