"""Store the weights of convolutions and dense layers as 8-bit integers, one step an output channel.

This is done before the file is given to the quantizer, which takes such weights as they are: it then holds a quarter of
the bytes, and its own way fails for kernels of more than 32 MiB (ai-edge-quantizer 0.10, `uniform_quantize`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demitasse.ir.weights import Array
from demitasse.writers.tflite.model import ModelBuilder, Operator, Tensor

__all__ = ["LEAST_CHANNEL", "PRODUCTS", "Product", "QuantizedKernel", "product", "quantize_kernel"]

LARGEST = 127
# No channel's weights get a step that is smaller than this part of the largest one.
LEAST_CHANNEL = 2.0**-20

# Operator: the places of its data, kernel and bias, and the kernel's axis of output channels.
PRODUCTS = {
    "CONV_2D": (0, 1, 2, 0),
    "DEPTHWISE_CONV_2D": (0, 1, 2, 3),
    "FULLY_CONNECTED": (0, 1, 2, 0),
    "TRANSPOSE_CONV": (2, 1, 3, 0),
}


@dataclass(frozen=True, slots=True)
class Product:
    """The operands of an operator that sums products of data and weights."""

    data: Tensor
    kernel: Tensor
    bias: Tensor
    axis: int


def product(operator: Operator) -> Product | None:
    """Return the operands of a product; None for any other operator."""
    if operator.code not in PRODUCTS:
        return None
    data, kernel, bias, axis = PRODUCTS[operator.code]
    return Product(operator.inputs[data], operator.inputs[kernel], operator.inputs[bias], axis)


@dataclass(slots=True)
class QuantizedKernel:
    """A kernel in 8 bits: `weight = integer * step of its channel`; `steps` has the kernel's rank."""

    integers: Array
    steps: Array
    axis: int

    @property
    def largest(self) -> float:
        """The largest step of a channel."""
        return float(self.steps.max())

    def raise_steps(self, least: Array) -> None:
        """Give channels whose step is below `least` that step."""
        raised = np.maximum(self.steps, least.reshape(self.steps.shape)).astype(np.float32)
        if (raised > self.steps).any():
            self.integers = np.rint(self.integers * (self.steps / raised)).astype(np.int8)
            self.steps = raised


def quantize_kernel(model: ModelBuilder, kernel: Tensor, axis: int) -> QuantizedKernel:
    """Round a kernel to 8 bits; a channel of zeros gets the step 0."""
    weights = np.asarray(model.content(kernel), np.float32)
    others = tuple(place for place in range(weights.ndim) if place != axis)
    bounds = np.maximum(weights.max(axis=others, keepdims=True), -weights.min(axis=others, keepdims=True))
    steps = (bounds / LARGEST).astype(np.float32)
    inverse = np.divide(1, steps, out=np.zeros_like(steps), where=steps > 0)
    integers = np.clip(np.rint(weights * inverse), -LARGEST, LARGEST).astype(np.int8)
    return QuantizedKernel(integers, steps, axis)
