"""Measures each layer of an artifact alone: what it makes of the inputs that it really had.

The reference computes one layer at a time from the artifact's own tensors, so that what earlier layers got wrong is in
both results and falls out. What is left is the layer's own error. This is the same as running the layer of the artifact
on the reference's inputs, and needs no surgery on the artifact.

Where a format stores weights in fewer bits, the reference rounds its own in the same way: for float16 to 11 bits, for
8-bit kernels to the nearest 127th of each channel's largest weight, or to that beside it which the artifact has. A
sound quantized layer is then off by its output's rounding alone, about half a step, and a kernel that is 1 % too large
stands out. What lies between the operations of one layer is rounded too, by steps that nobody tells: the reference
rounds a copy of it to steps of its own range, and what that changes is what the layer may be off by.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
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
    Elu,
    Gather,
    Identity,
    LeakyRelu,
    MatMul,
    MaxPool,
    NonMaxSuppression,
    Op,
    Pad,
    PRelu,
    Reduce,
    ReduceFunction,
    Relu,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Tile,
    Transpose,
    Unary,
)
from demitasse.ir.weights import Array
from demitasse.quantize.kernels import mean_shift
from demitasse.targets import TARGETS, simplify, written_out
from demitasse_validation.local_error import CLOSE, LOOSE, OVERSHOOT, WIDE, WIDE_RANGE, Chance, LocalError, Step
from demitasse_validation.metrics import METRICS, Sums
from demitasse_validation.precision import Precision, has_dynamic_kernel
from demitasse_validation.stored_kernels import StoredKernels
from demitasse_validation.tolerances import Rule

__all__ = ["LocalError", "Locals", "Step"]

# What a float32 layer alone may be off by, in shares of its peak: runtimes that sum thousands of products in different
# orders stay a hundred times below 1e-4, which is for whole nets.
REAL_LIMIT = 2e-5

# A coordinate of a resize is computed in float32 as well: what that adds, for each element of the image's side.
COORDINATE = 4 * 2.0**-23

# How many steps an 8-bit kernel may add to the rounding of its result: half a step for rounding, and a part of one for
# the fixed-point arithmetic that rescales sums, once or for each operand. Sound artifacts show 0.53 for products, 0.9
# for sums and means.
STEPS_AN_OP: Mapping[type[Op], float] = MappingProxyType(
    {
        Conv: 0.75,
        ConvTranspose: 0.75,
        Dense: 0.75,
        Binary: 1.5,
        Reduce: 1.5,
        AveragePool: 1.5,
        Concat: 1.0,
        MaxPool: 0.5,
    }
    | dict.fromkeys((Relu, Clip, Gather, Identity, Pad, Reshape, Slice, Tile, Transpose), 0.5)
)

# What at most comes of operations that only move, choose or cut numbers.
MOVES = 0.5

# What comes of an operation that takes several kernels: each of two rounds to steps as coarse as the result's or as the
# coarsest operand's. Sound artifacts show 1.6.
STEPS_A_KERNEL = 1.5

# How many times what moving all that lies between operations by a step, this way or that, changes in the reference it
# may change in the artifact, where it falls otherwise.
HIDDEN_TIMES = 4.0

# From which share of its range on an operand may be cut inside of an operation, as ranges there were seen otherwise.
NEAR_END = 0.5

# Operations whose 8-bit kernels round sums twice or towards one side: what they are off by follows no chance.
UNEVEN = (AveragePool, Clip, Reduce)

# What gives each element from one of the same place.
ELEMENTWISE = (Clip, Elu, LeakyRelu, PRelu, Relu, Softmax, Unary)

# What 16-bit activations are off by besides: LiteRT scales their sums by multipliers of 15 bits, which is a step at the
# end of the range (tflite/kernels/internal/common.cc, MultiplyByQuantizedMultiplier of int64).
WIDE_STEPS, WIDE_SHARE = 1.0, 2.0**-14

# How many of its steps a 32-bit bias may be off by: half a step for rounding, and float32's share of a large one.
BIAS_STEPS = 1.5

# How many of the numbers that a dynamic artifact rounds as it runs may come out a step off, being near a half.
FLIPS = 4.0

# What biases were corrected by is known but for the inputs that it was measured on: so many times what it is on these.
CORRECTIONS = 3.0

# By how much an artifact of few bits may be worse than rounding alone is in the evaluator: in decibels twice the noise,
# at the worst element three times.
PROPAGATED_DECIBELS, PROPAGATED_TIMES = 6.0, 3.0


class Locals:
    """Computes each layer from the tensors that an artifact had, over some samples, and sums its errors.

    `target` is the artifact's; `steps` maps blobs to their steps, for those that are quantized; `fed` likewise, with
    those that are computed with real numbers and quantized for their readers, which `copied` names; `axes` maps the
    blobs that the artifact gives to the axis of their channels. `step_of` tells the step of a tensor that has one, and
    `is_there` whether the artifact has it at all. `corrected` says that biases make up for what rounding kernels shifts
    in the mean; `kernels` are the artifact's own, where no rule says how they were rounded.
    """

    def __init__(
        self,
        graph: Graph,
        target: str,
        steps: Mapping[str, Step],
        fed: Mapping[str, Step],
        axes: Mapping[str, int],
        *,
        step_of: Callable[[str], Step | None],
        is_there: Callable[[str], bool],
        copied: frozenset[str] = frozenset(),
        corrected: bool = False,
        kernels: StoredKernels | None = None,
    ) -> None:
        from threadpoolctl import ThreadpoolController

        self._kernels = kernels
        self.precision = Precision.of(target)
        self.graph = written_out(simplify(graph), TARGETS.get(target)) if self.precision.bits < 32 else graph
        self.nodes = _subnets(self.graph, axes)
        self._inner_step, self._is_there = cache(step_of), cache(is_there)
        self.inner = self._inner_tensors(axes)
        axes = {**axes, **dict.fromkeys(self.inner, 1)}
        inner_steps = {name: step for name in self.inner if (step := step_of(name)) is not None}
        steps, fed = {**steps, **inner_steps}, {**fed, **inner_steps}
        nets = _subnets(self.graph, axes)
        self.errors = {
            name: self._error(name, nodes, steps, fed, axes, corrected=corrected) for name, nodes in nets.items()
        }
        copies = [name for name in self.graph.inputs if name in copied and name in fed and name in axes]
        self.errors |= {name: LocalError(axes[name], fed[name], STEPS_AN_OP[Identity] + 0.25) for name in copies}
        self._inner = {each for node in self.graph.nodes for each in node.outputs if each not in self.errors}
        self._hidden = {
            id(node): name in steps or any(map(_is_product, nodes))
            for name, nodes in nets.items()
            if self.errors[name].is_composed
            for node in nodes
        }
        self._corrected = corrected
        self._coarse = frozenset(steps) if self.precision.activations <= 8 else frozenset()
        self._steps = fed
        self._copied = copied
        self._unsure = self._unsure_products(nets, steps)
        reads = {id(node): _reads(nodes, self.graph) for nodes in nets.values() for node in nodes}
        self._coarsest = {
            node: max((fed[name].size for name in names if name in fed), default=0.0) for node, names in reads.items()
        }
        self._last = {name: node for node in self.graph.nodes for name in (*node.inputs, *node.outputs)}
        self._pools = ThreadpoolController()

    def _error(
        self,
        name: str,
        nodes: Sequence[Node],
        steps: Mapping[str, Step],
        fed: Mapping[str, Step],
        axes: Mapping[str, int],
        *,
        corrected: bool,
    ) -> LocalError:
        """Return what sums up a layer's errors, and knows what may explain them."""
        has_product, is_composed = any(map(_is_product, nodes)), self._is_composed(nodes, fed)
        return LocalError(
            axes[name],
            steps.get(name),
            self._allowed(name, nodes, steps, fed, axes),
            imprecise=WIDE_SHARE if self.precision.activations == 16 else 0.0,
            corrected=corrected and name in steps and (has_product or is_composed),
            has_product=has_product,
            chance=self._chance(nodes, fed) if name in steps else None,
            is_composed=is_composed,
        )

    def _allowed(
        self,
        name: str,
        nodes: Sequence[Node],
        steps: Mapping[str, Step],
        fed: Mapping[str, Step],
        axes: Mapping[str, int],
    ) -> float | None:
        """Say by how many steps a result may be off, or by which share of its peak; None where nothing can be said."""
        if not self.precision.has_steps:
            sizes = [max(self.graph.type(n.outputs[0]).shape) for n in nodes if isinstance(n.op, Resize)]
            return REAL_LIMIT + COORDINATE * sum(sizes)
        if any(isinstance(node.op, NonMaxSuppression) for node in nodes):
            return None  # scores that are stored in steps are often the same, and runtimes differ in whom they prefer
        reads = _reads(nodes, self.graph)
        if name not in steps:
            return REAL_LIMIT if reads <= axes.keys() else None
        wide = WIDE_STEPS if self.precision.activations == 16 else 0.0
        coarsest = max((fed[each].size for each in reads if each in fed), default=0.0)
        coarseness = max(1.0, coarsest / steps[name].size)
        last = [node for node in nodes if STEPS_AN_OP.get(type(node.op), 1.0) > MOVES][-1:] or nodes[-1:]
        if self._is_composed(nodes, fed) and self._is_told(nodes, fed) and _is_one_kernel(last[0]):
            behind = sum(STEPS_AN_OP[type(node.op)] for node in nodes[nodes.index(last[0]) :])
            return behind + 0.25 + wide
        if not self._is_composed(nodes, fed):
            # A bound that an operand's integers are cut at is one of them.
            cut = 0.75 * coarseness if any(isinstance(node.op, Clip) for node in nodes) else 0.0
            return sum(STEPS_AN_OP[type(node.op)] for node in nodes) + 0.25 + cut + wide
        return STEPS_A_KERNEL * (1 + coarseness) + 0.25 + wide

    def _inner_tensors(self, axes: Mapping[str, int]) -> tuple[str, ...]:
        """Name the matrices inside of layers, as before a softmax, that the artifact gives in the source's order."""
        readers = self.graph.consumers()
        return tuple(
            name
            for node in self.graph.nodes
            for name in node.outputs
            if self.precision.has_steps
            and name not in axes
            and isinstance(node.op, Dense)
            and self.graph.type(name).rank == 2
            and self._is_there(name)
            and all(isinstance(reader.op, ELEMENTWISE) for reader in readers.get(name, ()))
        )

    def fault(self, blob: str) -> str:
        """Say what is wrong with a blob's layer alone, or with what is inside; empty where rounding explains it."""
        inner = {name for node in self.nodes.get(blob, ()) for name in node.outputs}
        parts = [*(name for name in self.inner if name in inner), blob]
        return next((fault for name in parts if name in self.errors and (fault := self.errors[name].fault)), "")

    def _chance(self, nodes: Sequence[Node], fed: Mapping[str, Step]) -> Chance:
        """Say how closely errors follow chance, where the reference rounds all that the artifact does."""
        if self.precision.activations != 8:
            return WIDE_RANGE
        is_known = all(map(_is_one_kernel, nodes)) and self._is_told(nodes, fed)
        is_known = is_known or not self._is_composed(nodes, fed)
        if not is_known or any(isinstance(node.op, UNEVEN) for node in nodes):
            return LOOSE
        return CLOSE if any(map(_is_product, nodes)) else WIDE

    def _is_composed(self, nodes: Sequence[Node], fed: Mapping[str, Step]) -> bool:
        """Whether a layer rounds in between, or what goes into it isn't known in steps."""
        if not self.precision.has_steps:
            return False
        products = [node for node in nodes if STEPS_AN_OP.get(type(node.op), 1.0) > MOVES]
        reads = _reads(nodes, self.graph)
        return not all(map(_is_one_kernel, nodes)) or len(products) > 1 or not reads or not reads <= fed.keys()

    def _is_told(self, nodes: Sequence[Node], fed: Mapping[str, Step]) -> bool:
        """Whether the steps of all that a layer reads and has inside are known."""
        inner = {name for node in nodes[:-1] for name in node.outputs}
        return _reads(nodes, self.graph) <= fed.keys() and all(map(self._is_there, inner))

    def _unsure_products(self, nets: Mapping[str, Sequence[Node]], steps: Mapping[str, Step]) -> frozenset[int]:
        """Find products that give real numbers, and read none that have steps: they may have a real kernel or not."""
        found: set[int] = set()
        for name, nodes in nets.items():
            inner = [each for node in nodes[:-1] for each in node.outputs]
            is_told = bool(_reads(nodes, self.graph) & self._steps.keys()) or any(map(self._inner_step, inner))
            if self.precision.has_steps and name not in steps and not is_told:
                found.update(id(node) for node in nodes if _is_product(node))
        return frozenset(found)

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
                if self.precision.bits < 32:
                    self._propagate(feeds, reference)
            except UsageError:
                return  # an index that the artifact computed points nowhere: that is reported where it is compared

    def _add(self, feeds: Mapping[str, Array], given: Mapping[str, Array], read: Mapping[str, Array]) -> None:
        values: dict[str, Array] = {name: _real(read.get(name, feeds[name])) for name in self.graph.inputs}
        for name in self.errors.keys() & values.keys() & given.keys():
            self.errors[name].add(_real(given[name]), values[name])  # an input, and the integers that stand beside it
        slacks: dict[str, float] = {}  # by how much what lies inside of layers may be off, beside that
        rough: dict[str, Array] = {}  # what lies inside of layers, rounded to steps of its own
        shifts: dict[str, float] = {}  # by how much corrected biases may shift results
        for node in self.graph.nodes:
            operands = [self._operand(node, name, values) for name in node.inputs]
            made = evaluate_node(node.op, operands)
            slack = self._excused(node, operands) + max((slacks.get(name, 0.0) for name in node.inputs), default=0.0)
            results = [self._held(name, result) for name, result in zip(node.outputs, made, strict=True)]
            shifts |= dict.fromkeys(node.outputs, self._shifted(node, operands, shifts))
            for name, result, rounded in zip(
                node.outputs, results, self._rounded(node, operands, results, rough), strict=True
            ):
                other = given.get(name) if name in self.errors else None
                if other is None or other.shape != result.shape or other.dtype.kind != result.dtype.kind:
                    values[name], slacks[name] = result, slack
                    if rounded is not result:
                        rough[name] = rounded
                    continue
                if np.isfinite(result).all():
                    excused = slack + HIDDEN_TIMES * _distance(result, rounded)
                    shifted = shifts.get(name, 0.0)
                    excused += 0.0 if name in self._coarse else shifted  # many of the steps of 16 bits, few of 8
                    place = node.outputs.index(name)
                    candidates = [(_real(result), excused)] + [
                        (_real(evaluate_node(node.op, changed)[place]), 0.0)
                        for changed in self._otherwise(node, operands, {**feeds, **given})
                    ]
                    distances = [_distance(other, array) - slack for array, slack in candidates]
                    expected, excused = candidates[distances.index(min(distances))]
                    at_ends = self._at_ends(node, name, operands, result)
                    self.errors[name].add(expected, _real(other), excused, at_ends, shifted)
                values[name] = _real(read.get(name, other))
            for name in {*node.inputs, *node.outputs}:
                if self._last[name] is node:
                    values.pop(name, None)
                    rough.pop(name, None)

    def _rounded(
        self, node: Node, operands: Sequence[Array], results: Sequence[Array], rough: Mapping[str, Array]
    ) -> Sequence[Array]:
        """Return a node's results where what lies inside of the layer, and what goes in without a step, is rounded."""
        if id(node) not in self._hidden:
            return results
        replaced = [
            rough.get(name, self._moved(name, array) if self._is_unknown(node, name, array) else array)
            for name, array in zip(node.inputs, operands, strict=True)
        ]
        changed = any(new is not old for new, old in zip(replaced, operands, strict=True))
        made = evaluate_node(node.op, replaced) if changed else results
        if STEPS_AN_OP.get(type(node.op), 1.0) <= MOVES:
            return made
        return [
            self._moved(name, array) if name in self._inner and _is_finite(array) else array
            for name, array in zip(node.outputs, made, strict=True)
        ]

    def _held(self, name: str, array: Array) -> Array:
        """Return what lies inside of a layer as the artifact's integers hold it, where their step is known."""
        step = self._inner_step(name) if name in self._inner and self.precision.has_steps else None
        return array if step is None else _stored(step, array)

    def _moved(self, name: str, array: Array) -> Array:
        """Move what is rounded inside of a layer: in all by a step where it is known, as kernels round otherwise.

        A step that the artifact doesn't name is one of the array's own range, or twice that, as calibration on many
        samples finds a wider one than a single sample has.
        """
        step = self._inner_step(name)
        if step is None and self._is_there(name):
            return array
        if step is not None:
            by = step.size / HIDDEN_TIMES
        else:
            span = max(float(array.max()), 0.0) - min(float(array.min()), 0.0)
            by = 2 * span / (2**self.precision.activations - 1)
        return np.asarray(array + np.random.default_rng(0).choice([-by, by], array.shape))

    def _at_ends(self, node: Node, name: str, operands: Sequence[Array], result: Array) -> Array | None:
        """Tell the elements of a result that are near an end of their range, and so may have been cut inside.

        That is asked of an operation that is computed by several kernels, with tensors of their own in between. Where
        an operand has the result's shape, it is the one that tells.
        """
        error = self.errors[name]
        if not error.is_composed or _is_one_kernel(node) or error.step is None:
            return None
        operand, step = operands[0], self._steps.get(node.inputs[0])
        if step is None or operand.shape != result.shape:
            operand, step = result, error.step
        return np.asarray((operand > NEAR_END * step.high) | (operand < NEAR_END * step.low))

    def _otherwise(
        self, node: Node, operands: Sequence[Array], given: Mapping[str, Array]
    ) -> Iterator[Sequence[Array]]:
        """Yield what a node may have computed from instead, where the artifact doesn't tell.

        A real tensor that stands beside its integers is read by some in one form and by some in the other, products of
        integers aside; a product of real numbers may have a real kernel.
        """
        names = node.inputs
        if self._copied.intersection(names) and not isinstance(node.op, self.precision.products):
            yield [
                _real(given[n]) if n in self._copied and n in given else o for n, o in zip(names, operands, strict=True)
            ]
        if id(node) in self._unsure and names[1] in self.graph.weights:
            yield [operands[0], self.graph.weights[names[1]], *operands[2:]]

    def _is_unknown(self, node: Node, name: str, array: Array) -> bool:
        """Whether an operand is a blob that the layer reads as integers of steps that aren't known."""
        is_blob = name in self.errors or name in self.graph.inputs
        if self._is_there(name) and any(map(self._inner_step, node.outputs)):
            return False  # it is rounded behind this node, to steps that are known
        return self._hidden[id(node)] and is_blob and name not in self._steps and _is_finite(array)

    def _excused(self, node: Node, operands: Sequence[Array]) -> float:
        """Say how far a result may be off as its bias is rounded, or what goes in is while the artifact runs."""
        if not isinstance(node.op, Conv | Dense) or self.precision.kernels != 8:
            return 0.0
        data, kernel = operands[:2]
        largest = float(np.abs(kernel).max(initial=0))
        if self.precision.dynamic:
            spans = float(data.max(initial=0) - data.min(initial=0))
            is_rounded = kernel.size >= self.precision.least and has_dynamic_kernel(node)
            return FLIPS * largest * spans / 255 if is_rounded else 0.0
        step = self._coarsest.get(id(node)) or float(np.abs(data).max(initial=0)) / 127
        return BIAS_STEPS * step * largest / 127

    def _shifted(self, node: Node, operands: Sequence[Array], shifts: Mapping[str, float]) -> float:
        """Say by how much corrected biases may shift a result, from products inside of its layer."""
        if not self._corrected:
            return 0.0
        inside = sum(shifts.get(name, 0.0) for name in node.inputs if name not in self.errors)
        if not isinstance(node.op, Conv | Dense) or node.inputs[1] not in self.graph.weights:
            return inside
        data, kernel = operands[:2]
        axis = node.op.layout.channel_axis(data.ndim) if isinstance(node.op, Conv) else data.ndim - 1
        means = data.mean(axis=tuple(place for place in range(data.ndim) if place != axis))
        groups = node.op.groups if isinstance(node.op, Conv) else 1
        shift = mean_shift(kernel - self.graph.weights[node.inputs[1]], means, groups)
        return inside if shift is None else inside + CORRECTIONS * float(np.abs(shift).max(initial=0))

    def _propagate(self, feeds: Mapping[str, Array], reference: Mapping[str, Array]) -> None:
        """Run the whole net with every tensor and weight rounded as the artifact stores it, and nothing else wrong."""
        values: dict[str, Array] = {
            name: self._rounded_as_stored(name, _real(feeds[name])) for name in self.graph.inputs
        }
        for node in self.graph.nodes:
            operands = [self._operand(node, name, values) for name in node.inputs]
            for name, result in zip(node.outputs, evaluate_node(node.op, operands), strict=True):
                values[name] = self._rounded_as_stored(name, result)
                if name in self.errors and name in reference and reference[name].shape == result.shape:
                    self.errors[name].propagated += Sums.of(reference[name], values[name])
            for name in {*node.inputs, *node.outputs}:
                if self._last[name] is node:
                    values.pop(name, None)

    def _rounded_as_stored(self, name: str, array: Array) -> Array:
        step = self._steps.get(name)
        return array if step is None else _stored(step, array)

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
        reason = (
            f"rounding to {self.precision.bits} bits alone leaves {reached:.1f} dB here, and moves it by {largest:.2g}"
        )
        return replace(rule, limits=MappingProxyType(limits), reason=reason)

    def _operand(self, node: Node, name: str, values: Mapping[str, Array]) -> Array:
        if name in values:
            if not self.precision.dynamic or len(node.inputs) < 2 or node.inputs[1] not in self.graph.weights:
                return values[name]
            return self.precision.fed(node, name, values[name], self.graph.type(node.inputs[1]).size)
        weight = self.graph.weights[name]
        stored = self.precision.stored(node, name, weight)
        return stored if stored is weight or self._kernels is None else self._kernels.rounded(name, weight, stored)


def _is_finite(array: Array) -> bool:
    return array.dtype.kind == "f" and array.size > 0 and bool(np.isfinite(array).all())


def _is_product(node: Node) -> bool:
    return isinstance(node.op, Conv | ConvTranspose | Dense | MatMul)


def _distance(result: Array, rounded: Array) -> float:
    """Return the largest difference; infinity where it can't be told."""
    if rounded is result or result.dtype.kind != "f":
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        distance = float(np.abs(rounded - result).max(initial=0))
    return distance if np.isfinite(distance) else 0.0


def _reads(nodes: Sequence[Node], graph: Graph) -> frozenset[str]:
    """Name the blobs that nodes read and don't make."""
    made = {each for node in nodes for each in node.outputs}
    return frozenset(each for node in nodes for each in node.inputs if each not in made and each in graph.values)


def _stored(step: Step, array: Array) -> Array:
    """Round to a step's multiples, and cut what lies a little outside of what there is; what lies far outside stays."""
    if array.dtype.kind != "f":
        return array
    slack = OVERSHOOT * (step.high - step.low)
    rounded = np.rint(array / step.size) * step.size
    is_near = (rounded >= step.low - slack) & (rounded <= step.high + slack)
    return np.asarray(np.where(is_near, np.clip(rounded, step.low, step.high), rounded))


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
