"""Measures each layer of an artifact alone: what it makes of the inputs that it really had.

The reference computes one layer at a time from the artifact's own tensors, so that what earlier layers got wrong is in
both results and falls out. What is left is the layer's own error. This is the same as running the layer of the artifact
on the reference's inputs, and needs no surgery on the artifact.

Where a format stores weights in fewer bits, the reference rounds its own in the same way: from 8-bit kernels to the
nearest 127th of each channel's largest weight, from float16 to 11 bits. A sound quantized layer is then off by its
output's rounding alone, about half a step, and a kernel that is 1 % too large stands out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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

# A channel whose values are fitted best by a factor other than 1 is wrong if that moves its largest value by more than
# this many steps, and if chance would hardly do so: rounding errors scatter by 0.29 steps.
GAIN_STEPS, GAIN_SIGMAS, ROUNDING = 0.6, 10.0, 0.29


# A calibrated range may be left a little, and now and then. A tensor that can't hold a quarter of its numbers, by a
# good part of its range, is saturated.
OVERSHOOT, MOST_SATURATED = 0.1, 0.25

# By how many decibels an 8-bit artifact may be worse than rounding alone is in the evaluator: twice the noise.
PROPAGATED_DECIBELS = 6.0


@dataclass(frozen=True, slots=True)
class Step:
    """The step of a quantized tensor, and the least and the greatest number that it can hold."""

    size: float
    low: float
    high: float


@dataclass
class LocalError:
    """Sums over what one layer did alone.

    `allowed` is how far the result may be off: steps of a quantized one, shares of its peak for a real one; None where
    nothing can be said, as of what 8 bits compute in several roundings. In steps: `largest` is the largest error; for
    each channel, `gain` sums the products of errors and values, `values` squares of values, and `peak` is the largest
    of them, so that a channel which is a little too large throughout stands out; `saturated` counts what lies far
    outside of what the tensor can hold. `propagated` measures what rounding alone does to the blob in a whole net.
    """

    axis: int
    step: Step | None = None
    allowed: float | None = None
    sums: Sums = field(default_factory=Sums)
    largest: float = 0.0
    saturated: int = 0
    propagated: Sums = field(default_factory=Sums)
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
        if not self.largest <= self.allowed:
            return f"alone it is off by {self.largest:.3g} steps of its 8 bits, rounding explains {self.allowed:.3g}"
        values = np.maximum(self.values, 1e-12)
        factor = np.asarray(self.gain / values)
        wrong = (np.abs(factor * self.peak) > GAIN_STEPS) & (np.abs(factor) * np.sqrt(values) > GAIN_SIGMAS * ROUNDING)
        if not wrong.any():
            return ""
        worst = int(np.abs(np.where(wrong, factor * self.peak, 0)).argmax())
        return f"alone its channel {worst} is {100 * factor.ravel()[worst]:+.2g} % too large throughout"


class Locals:
    """Computes each layer from the tensors that an artifact had, over some samples, and sums its errors.

    `target` is the artifact's; `steps` maps blobs to their steps, for those that are quantized; `axes` maps the blobs
    that the artifact gives to the axis of their channels.
    """

    def __init__(self, graph: Graph, target: str, steps: Mapping[str, Step], axes: Mapping[str, int]) -> None:
        from threadpoolctl import ThreadpoolController

        self.bits = 8 if target.endswith("int8") else 16 if target.endswith("f16") else 32
        self.graph = simplify(graph) if self.bits < 32 else graph
        self.nodes = _subnets(self.graph, axes)
        self.errors = {
            name: LocalError(axes[name], steps.get(name), self._allowed(nodes, steps))
            for name, nodes in self.nodes.items()
        }
        self._steps = steps
        self._last = {name: node for node in self.graph.nodes for name in (*node.inputs, *node.outputs)}
        self._pools = ThreadpoolController()

    def _allowed(self, nodes: Collection[Node], steps: Mapping[str, Step]) -> float | None:
        """Say by how many steps a result may be off, or by which share of its peak; None where nothing can be said."""
        if self.bits > 8:
            sizes = [max(self.graph.type(n.outputs[0]).shape) for n in nodes if isinstance(n.op, Resize)]
            return REAL_LIMIT + COORDINATE * sum(sizes)
        if not all(map(_is_one_kernel, nodes)):
            return None
        anchors = [name for node in nodes for name in node.inputs if name in steps]
        if not anchors:
            return None  # what goes in isn't known in steps
        return sum(STEPS_AN_OP[type(node.op)] for node in nodes) + 0.25

    def add(self, feeds: Mapping[str, Array], given: Mapping[str, Array], reference: Mapping[str, Array]) -> None:
        """Compute one step.

        Args:
            feeds: the source's inputs.
            given: the artifact's tensors, in the source's order.
            reference: what they should be.
        """
        with self._pools.limit(limits=1, user_api="blas"):
            try:
                self._add(feeds, given)
                if self.bits == 8:
                    self._propagate(feeds, reference)
            except UsageError:
                return  # an index that the artifact computed points nowhere: that is reported where it is compared

    def _add(self, feeds: Mapping[str, Array], given: Mapping[str, Array]) -> None:
        values: dict[str, Array] = {name: _real(given.get(name, feeds[name])) for name in self.graph.inputs}
        for node in self.graph.nodes:
            operands = [self._operand(node, name, values) for name in node.inputs]
            for name, result in zip(node.outputs, evaluate_node(node.op, operands), strict=True):
                other = given.get(name) if name in self.errors else None
                if other is None or other.shape != result.shape or other.dtype.kind != result.dtype.kind:
                    values[name] = result
                    continue
                if np.isfinite(result).all():
                    self.errors[name].add(_real(result), _real(other))
                values[name] = _real(other)
            for name in {*node.inputs, *node.outputs}:
                if self._last[name] is node:
                    values.pop(name, None)

    def _propagate(self, feeds: Mapping[str, Array], reference: Mapping[str, Array]) -> None:
        """Run the whole net with every tensor and kernel rounded as the artifact stores it, and nothing else wrong."""
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
        return np.asarray(np.clip(np.rint(array / step.size) * step.size, step.low, step.high))

    def operands(self, blob: str, feeds: Mapping[str, Array], given: Mapping[str, Array]) -> dict[str, Array]:
        """Return what a layer alone computes from: the artifact's tensors, and the weights, by name."""
        nodes = self.nodes[blob]
        made = {name for node in nodes for name in node.outputs}
        known = {name: _real(array) for name, array in {**feeds, **given}.items()}
        return {name: self._operand(node, name, known) for node in nodes for name in node.inputs if name not in made}

    def rule(self, blob: str, rule: Rule) -> Rule:
        """Lower the decibels that a rule demands of a blob where rounding alone, propagated, leaves fewer."""
        error = self.errors.get(blob)
        if error is None or self.bits > 8 or rule.limits.keys() != {"sqnr_db"} or not error.propagated.count:
            return rule
        reached = METRICS["sqnr_db"].of(error.propagated) - PROPAGATED_DECIBELS
        if not reached < rule.limits["sqnr_db"]:
            return rule
        reason = f"rounding to this artifact's 8 bits alone leaves {reached + PROPAGATED_DECIBELS:.1f} dB here"
        return replace(rule, limits=MappingProxyType({"sqnr_db": reached}), reason=reason)

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
