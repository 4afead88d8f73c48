"""Turn measured ranges into ranges that the runtime can compute with.

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
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from demitasse.errors import UsageError
from demitasse.ir.weights import Array
from demitasse.writers.tflite.assemble import Draft
from demitasse.writers.tflite.kernels import LEAST_CHANNEL, QuantizedKernel, product, quantize_kernel
from demitasse.writers.tflite.model import Operator, Tensor

__all__ = ["Range", "Statistics", "prepare"]

Range: TypeAlias = tuple[float, float]
Statistics: TypeAlias = dict[str, dict[str, Array]]

STEPS, WIDE_STEPS = 255, 65534
# Half of XNNPACK's limits, so that rounding can't cross them: 256 for steps of products and sums, 1024 for terms.
MOST_BEFORE = 128.0
MOST_BEHIND = 512.0
# Biases use half of what 32 bits hold; sums of products need the rest.
LARGEST_BIAS = 2.0**30

# Operators whose result is stored with the step of their first input.
SAME_STEP = frozenset(
    "RESHAPE TRANSPOSE SLICE STRIDED_SLICE PAD MAX_POOL_2D AVERAGE_POOL_2D RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR "
    "GATHER REDUCE_MIN".split()
)
SUMS = frozenset({"ADD", "SUB"})


def prepare(draft: Draft, ranges: Mapping[str, Range], *, wide: bool = False) -> Statistics:
    """Store a draft's kernels as integers, and return the range of each tensor in the words of ai-edge-quantizer.

    Args:
        draft: a model whose operations are spelled for integers; its kernels are replaced.
        ranges: the measured range of each real tensor that isn't constant.
        wide: whether activations are 16-bit integers, symmetric around zero, which XNNPACK has no operators for.

    Raises:
        UsageError: a tensor has no range.
    """
    net = _Net(draft, ranges, wide=wide)
    for _ in range(0 if wide else 2):  # what a sum widens may feed an operator before it
        for operator in net.operators:
            net.widen(operator)
    net.store_kernels()
    return net.statistics()


class _Net:
    """The operators of a model that compute with integers, and the range of each of their tensors."""

    def __init__(self, draft: Draft, ranges: Mapping[str, Range], *, wide: bool) -> None:
        model = draft.model
        self.wide = wide
        self.model = model
        self.operators = [operator for operator in model.operators if operator.outputs[0].name not in draft.real]
        real = [tensor for tensor in model.tensors if tensor.type.dtype.is_float]
        missing = [tensor.name for tensor in real if not model.is_constant(tensor) and tensor.name not in ranges]
        if missing:
            raise UsageError(f"{len(missing)} tensors have no range, {missing[0]!r} for one: calibrate this net anew")
        self._kernels: dict[Tensor, QuantizedKernel] = {}
        for operands in filter(None, map(product, self.operators)):
            if operands.kernel not in self._kernels:
                self._kernels[operands.kernel] = quantize_kernel(model, operands.kernel, operands.axis)
        self._ranges: dict[Tensor, Range] = {
            tensor: self._extremes(tensor) if model.is_constant(tensor) else ranges[tensor.name]
            for tensor in real
            if tensor not in self._kernels
        }
        self._roots: dict[Tensor, Tensor] = {}
        for operator in self.operators:
            if operator.code in SAME_STEP and operator.outputs[0] in self._ranges:
                self._roots[operator.outputs[0]] = self._root(operator.inputs[0])
        self._widened: set[Tensor] = set()
        ports = self._ranges if wide else draft.inputs.values()
        for tensor in list(ports):
            if tensor in self._ranges and self.step(tensor) == 0:
                self._raise(tensor, 1 / STEPS)

    def _extremes(self, tensor: Tensor) -> Range:
        content = self.model.content(tensor)
        return float(content.min(initial=0)), float(content.max(initial=0))

    def _root(self, tensor: Tensor) -> Tensor:
        """Return the tensor whose step a tensor has."""
        return self._roots.get(tensor, tensor)

    def range(self, tensor: Tensor) -> Range:
        """Return the range with which a tensor is stored; it contains zero."""
        low, high = self._ranges[self._root(tensor)]
        if self.wide:
            return -max(-low, high), max(-low, high)
        return min(low, 0.0), max(high, 0.0)

    def step(self, tensor: Tensor) -> float:
        low, high = self.range(tensor)
        return (high - low) / (WIDE_STEPS if self.wide else STEPS)

    def _raise(self, tensor: Tensor, least: float) -> None:
        """Widen a tensor's range so that its step is `least` or more."""
        step, (low, high) = self.step(tensor), self.range(tensor)
        if step < least:
            widened = (low * least / step, high * least / step) if step > 0 else (0.0, least * STEPS)
            self._ranges[self._root(tensor)] = widened
            self._widened.add(self._root(tensor))

    def widen(self, operator: Operator) -> None:
        """Widen ranges until XNNPACK takes the operator."""
        result = operator.outputs[0]
        data = [tensor for tensor in operator.inputs if tensor in self._ranges]
        if not data or result not in self._ranges or operator.code in SAME_STEP:
            return
        operands = product(operator)
        if operands is not None:
            step = self.step(operands.data) * self._kernels[operands.kernel].largest
        elif operator.code in ("MUL", "BATCH_MATMUL"):
            step = math.prod(map(self.step, data))
        else:
            step = max(map(self.step, data))
        self._raise(result, step / MOST_BEFORE)
        if self.step(result) == 0:
            self._raise(result, 1 / STEPS)
        if operator.code in SUMS:
            for tensor in data:
                self._raise(tensor, self.step(result) / MOST_BEHIND)

    def store_kernels(self) -> None:
        """Give each channel a step that its bias can be stored with, and let the model hold the integers."""
        for operands in filter(None, map(product, self.operators)):
            kernel = self._kernels[operands.kernel]
            bias = np.abs(np.asarray(self.model.content(operands.bias), np.float64))
            least = bias / (self.step(operands.data) * LARGEST_BIAS)
            kernel.raise_steps(np.maximum(least, kernel.largest * LEAST_CHANNEL or 1.0))
        for tensor, kernel in self._kernels.items():
            self.model.store_integers(tensor, kernel.integers, kernel.steps.reshape(-1), kernel.axis)

    def statistics(self) -> Statistics:
        """Return the ranges of computed tensors, and of constants whose own range had to be widened."""
        return {
            tensor.name: {"min": np.array(low, np.float32), "max": np.array(high, np.float32)}
            for tensor in self._ranges
            if not self.model.is_constant(tensor) or tensor in self._widened
            for low, high in [self.range(tensor)]
        }
