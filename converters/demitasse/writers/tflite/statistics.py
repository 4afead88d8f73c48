"""Turn measured ranges into the statistics that the quantizer takes: ranges that the runtime can compute with.

A range says with which step a tensor is stored: `step = (max(high, 0) - min(low, 0)) / 255`. Three things can go wrong
with plain measured ranges, and each of them happens in real nets:

* A tensor that is always zero (behind dead filters, or a unit that never fires) has no step. XNNPACK refuses a whole
  model in which the product of an input's and a weight's step is 256 times that of the result or more.
* A sum of which one side is tiny leaves XNNPACK, which adds steps that differ by less than a factor of 1024.
* A channel of zeros with a bias: its weights have no step, and the bias, which is stored in units of input step times
  weight step, overflows 32 bits and comes out as zero.

Where that happens, ranges are widened just so far; what is so small beside the other operand is lost in its rounding
anyway.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from demitasse.errors import UsageError
from demitasse.ir.weights import Array

__all__ = ["Statistics", "statistics_of"]

Range: TypeAlias = tuple[float, float]
Statistics: TypeAlias = dict[str, dict[str, Array]]

STEPS = 255
LARGEST_WEIGHT = 127
# Half of XNNPACK's limits, so that rounding can't cross them: 256 for steps of products and sums, 1024 for terms.
MOST_BEFORE = 128.0
MOST_BEHIND = 512.0
# Biases use half of what 32 bits hold; sums of products need the rest.
LARGEST_BIAS = 2.0**30
# No channel's weights get a step that is smaller than this part of the largest one.
LEAST_CHANNEL = 2.0**-20

# Operator: the places of its data, kernel and bias, and the kernel's axis of output channels.
PRODUCTS = {
    "CONV_2D": (0, 1, 2, 0),
    "DEPTHWISE_CONV_2D": (0, 1, 2, 3),
    "FULLY_CONNECTED": (0, 1, 2, 0),
    "TRANSPOSE_CONV": (2, 1, 3, 0),
}
# Operators whose result is stored with the step of their first input.
SAME_STEP = frozenset(
    "RESHAPE TRANSPOSE SLICE STRIDED_SLICE PAD MAX_POOL_2D AVERAGE_POOL_2D RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR "
    "GATHER REDUCE_MIN".split()
)
SUMS = frozenset({"ADD", "SUB"})


@dataclass(frozen=True, slots=True)
class _Operator:
    code: str
    inputs: tuple[str, ...]
    result: str

    @property
    def product(self) -> tuple[str, str, str, int]:
        """The names of data, kernel and bias, and the kernel's axis of output channels."""
        data, kernel, bias, axis = PRODUCTS[self.code]
        return self.inputs[data], self.inputs[kernel], self.inputs[bias], axis


def statistics_of(schema: Any, model: Any, ranges: Mapping[str, Range], real: Collection[str]) -> Statistics:
    """Return the range of each tensor of a float model that is computed, and of each channel of its kernels.

    Args:
        schema: the schema module.
        model: the model's root table.
        ranges: the measured range of each real tensor that isn't constant.
        real: the results of operators that aren't quantized.

    Raises:
        UsageError: a tensor has no range.
    """
    net = _Net(schema, model, ranges)
    operators = [operator for operator in net.operators if operator.result not in real]
    for _ in range(2):  # what a sum widens may feed an operator before it
        for operator in operators:
            net.widen(operator)
    activations: Statistics = {name: _statistic(*net.range(name)) for name in net.activations}
    return activations | net.constants | net.channels(operators)


def _statistic(low: float, high: float) -> dict[str, Array]:
    return {"min": np.array(low, np.float32), "max": np.array(high, np.float32)}


class _Net:
    """The operators of a model, with the range of each real tensor."""

    def __init__(self, schema: Any, model: Any, ranges: Mapping[str, Range]) -> None:
        graph = model.Subgraphs(0)
        tensors = [graph.Tensors(place) for place in range(graph.TensorsLength())]
        names = [tensor.Name().decode() for tensor in tensors]
        codes = {number: code for code, number in vars(schema.BuiltinOperator).items() if not code.startswith("_")}
        real = {
            name: tensor
            for name, tensor in zip(names, tensors, strict=True)
            if tensor.Type() == schema.TensorType.FLOAT32
        }
        self._contents = {
            name: _content(model, tensor)
            for name, tensor in real.items()
            if not model.Buffers(tensor.Buffer()).DataIsNone()
        }
        self.activations = [name for name in real if name not in self._contents]
        self.operators = [
            _Operator(
                codes[model.OperatorCodes(entry.OpcodeIndex()).BuiltinCode()],
                tuple(names[place] for place in entry.InputsAsNumpy()),
                names[entry.Outputs(0)],
            )
            for entry in (graph.Operators(place) for place in range(graph.OperatorsLength()))
        ]
        self.constants: Statistics = {}
        self._bounds = {
            kernel: _bounds(self._contents[kernel], axis)
            for _, kernel, _, axis in (operator.product for operator in self.operators if operator.code in PRODUCTS)
        }
        missing = [name for name in self.activations if name not in ranges]
        if missing:
            raise UsageError(f"{len(missing)} tensors have no range, {missing[0]!r} for one: calibrate this net anew")
        self._ranges = {name: ranges[name] for name in self.activations}
        self._roots: dict[str, str] = {}
        for operator in self.operators:
            if operator.code in SAME_STEP and operator.result in self._ranges:
                self._roots[operator.result] = self._root(operator.inputs[0])
        for place in graph.InputsAsNumpy():
            if names[place] in self._ranges and self.step(names[place]) == 0:
                self._raise(names[place], 1 / STEPS)

    def _root(self, name: str) -> str:
        """Return the tensor whose step a tensor has."""
        return self._roots.get(name, name)

    def range(self, name: str) -> Range:
        """Return the range with which a tensor is stored; it contains zero."""
        root = self._root(name)
        if root in self.constants:
            low, high = (float(self.constants[root][word]) for word in ("min", "max"))
        elif root in self._contents:
            low, high = float(self._contents[root].min(initial=0)), float(self._contents[root].max(initial=0))
        else:
            low, high = self._ranges[root]
        return min(low, 0.0), max(high, 0.0)

    def step(self, name: str) -> float:
        low, high = self.range(name)
        return (high - low) / STEPS

    def _raise(self, name: str, least: float) -> None:
        """Widen a tensor's range so that its step is `least` or more."""
        step, root = self.step(name), self._root(name)
        if step >= least:
            return
        low, high = self.range(name)
        widened = (low * least / step, high * least / step) if step > 0 else (0.0, least * STEPS)
        if root in self._contents:
            self.constants[root] = _statistic(*widened)
        else:
            self._ranges[root] = widened

    def widen(self, operator: _Operator) -> None:
        """Widen ranges until XNNPACK takes the operator."""
        data = [name for name in operator.inputs if name in self._ranges or name in self._contents]
        if not data or operator.result not in self._ranges or operator.code in SAME_STEP:
            return
        if operator.code in PRODUCTS:
            x, kernel, _, _ = operator.product
            step = self.step(x) * float(self._bounds[kernel].max()) / LARGEST_WEIGHT
        elif operator.code in ("MUL", "BATCH_MATMUL"):
            step = math.prod(map(self.step, data))
        else:
            step = max(map(self.step, data))
        self._raise(operator.result, step / MOST_BEFORE)
        if self.step(operator.result) == 0:
            self._raise(operator.result, 1 / STEPS)
        if operator.code in SUMS:
            for name in data:
                self._raise(name, self.step(operator.result) / MOST_BEHIND)

    def channels(self, operators: Sequence[_Operator]) -> Statistics:
        """Return a symmetric range for each output channel of each kernel, wide enough for its bias."""
        bounds: dict[str, Array] = {}
        for x, kernel, bias, _ in (operator.product for operator in operators if operator.code in PRODUCTS):
            bound = self._bounds[kernel]
            for_bias = np.abs(self._contents[bias]) * (LARGEST_WEIGHT / (self.step(x) * LARGEST_BIAS))
            bound = np.maximum(bound, for_bias.reshape(bound.shape))
            bound = np.maximum(bound, float(bound.max()) * LEAST_CHANNEL or 1.0)
            bounds[kernel] = np.maximum(bound, bounds.get(kernel, bound)).astype(np.float32)
        return {name: {"min": -bound, "max": bound} for name, bound in bounds.items()}


def _bounds(kernel: Array, axis: int) -> Array:
    """Return the largest absolute weight of each output channel, the other axes kept at 1."""
    others = tuple(place for place in range(kernel.ndim) if place != axis)
    low, high = kernel.min(axis=others, keepdims=True), kernel.max(axis=others, keepdims=True)
    bounds: Array = np.maximum(high, -low)
    return bounds


def _content(model: Any, tensor: Any) -> Array:
    """Return a constant as a view into the file."""
    shape = tensor.ShapeAsNumpy() if tensor.ShapeLength() else ()
    content: Array = model.Buffers(tensor.Buffer()).DataAsNumpy().view(np.float32).reshape(shape)
    return content
