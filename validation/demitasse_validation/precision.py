"""Says how formats of few bits store weights and activations, and rounds in the same way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demitasse.ir.graph import Node
from demitasse.ir.ops import Conv, ConvTranspose, Dense, Op
from demitasse.ir.weights import Array

__all__ = ["Precision", "has_dynamic_kernel"]

# A kernel of so few weights stays real in a dynamic artifact, a weight of so few elements in an ONNX one of float16.
LEAST_DYNAMIC, LEAST_HALF = 1024, 512


@dataclass(frozen=True, slots=True)
class Precision:
    """How many bits a format has for the kernels of products, other weights, and activations.

    `least` is the number of elements from which on weights are stored in fewer bits. `dynamic` says that what goes into
    a product is rounded as it runs, to 8 bits of what it spans.
    """

    kernels: int = 32
    weights: int = 32
    activations: int = 32
    least: int = 0
    dynamic: bool = False
    products: tuple[type[Op], ...] = (Conv, ConvTranspose, Dense)

    @classmethod
    def of(cls, target: str) -> Precision:
        """Return a target's."""
        if target.endswith("int8"):
            # ONNX Runtime has no kernel for a transposed convolution of integers.
            products = (Conv, Dense) if target.startswith("onnx") else (Conv, ConvTranspose, Dense)
            return cls(kernels=8, activations=8, products=products)
        if target.endswith("16x8"):
            return cls(kernels=8, activations=16)
        if target.endswith("dynamic"):
            return cls(kernels=8, least=LEAST_DYNAMIC, dynamic=True)
        if target.endswith("f16"):
            return cls(kernels=16, weights=16, least=LEAST_HALF if target.startswith("onnx") else 0)
        return cls()

    @property
    def bits(self) -> int:
        """The fewest bits that anything has."""
        return min(self.kernels, self.weights, self.activations)

    @property
    def has_steps(self) -> bool:
        """Whether activations are integers."""
        return self.activations < 32

    def stored(self, node: Node, name: str, weight: Array) -> Array:
        """Return a weight of a node as it is after being stored."""
        if weight.dtype.kind != "f" or weight.size < self.least:
            return weight
        if self.weights == 16:
            with np.errstate(over="ignore"):
                half = weight.astype(np.float16)
            return half.astype(np.float64) if np.isfinite(half).all() else weight
        is_kernel = isinstance(node.op, self.products) and name == node.inputs[1]
        if self.kernels != 8 or not is_kernel or (self.dynamic and not has_dynamic_kernel(node)):
            return weight
        return _eight_bits(node, weight)

    def fed(self, node: Node, name: str, array: Array, kernel_size: int) -> Array:
        """Return what a node computes with of an operand: in a dynamic artifact, each sample rounded for itself."""
        is_rounded = self.dynamic and has_dynamic_kernel(node) and name == node.inputs[0] and kernel_size >= self.least
        if not is_rounded or array.dtype.kind != "f" or not array.size:
            return array
        return _on_grid(
            array, 8, samples=array.shape[0] if isinstance(node.op, Conv) else array.size // array.shape[-1]
        )


def has_dynamic_kernel(node: Node) -> bool:
    """Whether LiteRT has a kernel for an operation that takes 8-bit weights and real numbers (tflite/kernels)."""
    return isinstance(node.op, Dense) or (isinstance(node.op, Conv) and node.op.groups == 1)


def _on_grid(array: Array, bits: int, samples: int) -> Array:
    """Round to the steps that integers divide the range of each sample of an array into; 0 is one of them."""
    parts = array.reshape(samples, -1)
    low = np.minimum(parts.min(axis=1, keepdims=True), 0)
    high = np.maximum(parts.max(axis=1, keepdims=True), 0)
    step = (high - low) / (2**bits - 1)
    step = np.where(step > 0, step, 1)
    return np.asarray(np.rint(parts / step) * step).reshape(array.shape)


def _eight_bits(node: Node, weight: Array) -> Array:
    """Round a kernel as 8-bit formats store it: symmetric, a step an output channel."""
    if not isinstance(node.op, ConvTranspose):
        return _rounded(weight, tuple(range(1, weight.ndim)))
    parts = weight.reshape(node.op.groups, -1, *weight.shape[1:])
    return _rounded(parts, (1, *range(3, parts.ndim))).reshape(weight.shape)


def _rounded(weight: Array, axes: tuple[int, ...]) -> Array:
    """Round to multiples of a 127th of the largest element along some axes."""
    peak = np.abs(weight).max(axis=axes, keepdims=True).astype(np.float64)
    step = np.where(peak > 0, peak, 1) / 127
    return np.asarray(np.rint(weight / step) * step)
