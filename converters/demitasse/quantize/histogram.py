"""Count how the elements of a tensor are distributed, over any number of samples in a fixed amount of memory."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from demitasse.ir.weights import Array

__all__ = ["Histogram"]

HALF = 4096
"""Bins on either side of zero: 16 to 32 of them make a step of 8 bits."""

MOST = 1 << 14
"""The most elements of a tensor that are counted of one sample; larger ones are counted in strides."""

AVERAGE = 0.95
"""The weight of what came before in a moving average, as in ai-edge-quantizer."""


class Histogram:
    """A tensor's distribution in bins of equal width around zero, its extremes, and each channel's mean.

    Bins start as wide as the first sample needs, and become twice as wide, two being joined, whenever a sample reaches
    beyond them. Extremes are those of all elements.
    """

    __slots__ = ("_channel_axis", "_rows", "_sums", "average", "counts", "high", "low", "width")

    def __init__(self, channel_axis: int = -1) -> None:
        self._channel_axis = channel_axis
        self._sums: npt.NDArray[np.float64] = np.zeros(0)
        self._rows = 0
        self.low, self.high = np.inf, -np.inf
        self.average: tuple[float, float] | None = None
        self.width = 0.0
        self.counts: npt.NDArray[np.int64] = np.zeros(2 * HALF, np.int64)

    def add(self, array: Array, *, count: bool = True) -> None:
        """Take in a sample's elements; without `count`, their extremes alone."""
        low, high = float(array.min()), float(array.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        before = self.average or (low, high)
        self.average = (
            AVERAGE * before[0] + (1 - AVERAGE) * low,
            AVERAGE * before[1] + (1 - AVERAGE) * high,
        )
        if count and np.isfinite((low, high)).all():
            self._count(array.reshape(-1), max(-low, high))
            self._sum(array)

    @property
    def means(self) -> npt.NDArray[np.float32]:
        """The mean of each channel; empty where extremes alone were asked for."""
        return (self._sums / max(self._rows, 1)).astype(np.float32)

    def _sum(self, array: Array) -> None:
        """Sum up each channel of an image or row, of large ones in strides."""
        if array.ndim < 2:
            return
        axis = self._channel_axis if array.ndim > 2 else -1
        rows = np.moveaxis(array, axis, -1)
        rows = rows.reshape(-1, rows.shape[-1])
        rows = rows[:: _stride(len(rows), -(-4 * MOST // rows.shape[1]))]
        self._sums = rows.sum(0, dtype=np.float64) + (self._sums if self._rows else 0.0)
        self._rows += len(rows)

    def _count(self, elements: Array, reach: float) -> None:
        if reach <= 0.0:
            self.counts[HALF] += min(elements.size, MOST)
            return
        if self.width == 0.0:
            self.width = 2.0 ** np.ceil(np.log2(reach / HALF))
        while reach > self.width * HALF:
            self._join()
        if elements.size > MOST:
            elements = elements[:: _stride(elements.size, MOST)]
        places = (elements * np.float32(1 / self.width) + np.float32(HALF)).astype(np.int64)
        np.clip(places, 0, 2 * HALF - 1, out=places)
        self.counts += np.bincount(places, minlength=2 * HALF)

    def _join(self) -> None:
        """Make bins twice as wide; zero stays the edge in the middle."""
        joined = self.counts.reshape(-1, 2).sum(1)
        self.counts = np.zeros(2 * HALF, np.int64)
        self.counts[HALF // 2 : HALF // 2 + HALF] = joined
        self.width *= 2

    @property
    def centers(self) -> npt.NDArray[np.float64]:
        """The middle of each bin."""
        return np.asarray((np.arange(-HALF, HALF) + 0.5) * self.width, np.float64)


def _stride(count: int, most: int) -> int:
    """Return a stride that leaves `most` of `count` elements or fewer, and meets every column and channel alike.

    It has no divisor in common with the number of elements, and so none with any dimension.
    """
    stride = -(-count // most)
    while math.gcd(stride, count) > 1:
        stride += 1
    return stride
