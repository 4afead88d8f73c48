"""Reads the 8-bit kernels of an artifact whose weights make up for each other's rounding, and tells them from faults.

Which way such a weight was rounded depends on samples that nobody has any more, so no reference can round its own
kernels alike. But what the artifact may hold is narrow: each weight is one of the two multiples of a step around the
source's, the step is a 127th of its row's largest weight, and as many go up as go down. A row for which that holds is
taken as the artifact has it, and its layer is judged by the arithmetic alone; in place of any other row the reference
rounds its own to the nearest, and the layer shows the difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from demitasse.ir.document import Document
from demitasse.ir.weights import Array

__all__ = ["StoredKernels"]

LARGEST = 127

# What float32 makes of steps and their multiples.
SLACK = 1e-3

# How far, in steps, weights may have moved in the mean where there are many: nothing moves them one way.
MOST_SHIFTED, MANY = 0.2, 256

# How formats order the axes of a kernel, by their number: as the source does, TFLite's [out, height, width, in], its
# [1, height, width, out] of a depthwise convolution, and a matrix either way.
ORDERS = {4: ((0, 1, 2, 3), (0, 3, 1, 2), (3, 0, 1, 2)), 3: ((0, 1, 2),), 2: ((0, 1), (1, 0))}

# What writers add to the name of a kernel for its integers.
SUFFIXES = ("", "/quantized")


@runtime_checkable
class _Holder(Protocol):
    def constant(self, tensor: str) -> Array | None: ...


@dataclass(frozen=True, slots=True)
class StoredKernels:
    """The kernels in an artifact's file, as `runner` reads them."""

    runner: _Holder

    @classmethod
    def of(cls, runner: object, document: Document) -> StoredKernels | None:
        """Return an artifact's kernels if its document says that their weights make up for each other."""
        settings = document.options.get("int8")
        is_compensated = isinstance(settings, Mapping) and bool(settings.get("compensate"))
        return cls(runner) if is_compensated and isinstance(runner, _Holder) else None

    def rounded(self, name: str, weight: Array, nearest: Array) -> Array:
        """Return a kernel as the artifact holds it, and the rows that aren't the source's as `nearest` has them.

        Args:
            name: the kernel's in the graph.
            weight: the source's, `[out, in / groups, ...]`.
            nearest: the same, rounded to the nearest multiples of its steps.
        """
        best, most = nearest, 0
        for stored in self._orders(name, weight):
            sound = _sound_rows(stored, weight)
            if sound.sum() > most:
                most = int(sound.sum())
                best = np.where(sound.reshape(-1, *[1] * (weight.ndim - 1)), stored, nearest)
            if most == len(weight):
                break
        return best

    def _orders(self, name: str, weight: Array) -> Iterator[Array]:
        """Yield what the artifact holds in every order that could be the source's."""
        stored = next((found for each in SUFFIXES if (found := self.runner.constant(name + each)) is not None), None)
        if stored is None or stored.size != weight.size:
            return
        for axes in ORDERS.get(stored.ndim, ()):
            turned = stored.transpose(axes)
            if [each for each in turned.shape if each > 1] == [each for each in weight.shape if each > 1]:
                yield turned.reshape(weight.shape).astype(np.float64)


def _sound_rows(stored: Array, weight: Array) -> Array:
    """Tell which rows are the source's, each weight rounded up or down."""
    stored, weight = (array.reshape(len(array), -1).astype(np.float64) for array in (stored, weight))
    peak = np.abs(weight).max(1, initial=0.0)
    step = np.where(peak > 0, peak, 1.0) / LARGEST
    moved = (stored - weight) / step[:, None]
    near = np.abs(moved).max(1, initial=0.0) <= 1 + SLACK
    reaches = np.abs(np.abs(stored).max(1, initial=0.0) - peak) <= SLACK * step
    sound = near & reaches
    if sound.sum() * moved.shape[1] >= MANY and abs(moved[sound].mean()) > MOST_SHIFTED:
        return np.zeros(len(weight), bool)
    return np.asarray(sound)
