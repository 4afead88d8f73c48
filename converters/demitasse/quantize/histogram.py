"""Count how the elements of a tensor are distributed, over any number of samples in a fixed amount of memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from demitasse.ir.weights import Array

__all__ = ["Histogram"]

HALF = 4096
"""Bins on either side of zero: 16 to 32 of them make a step of 8 bits."""

MOST = 1 << 16
"""The most elements of a tensor that are counted of one sample; larger ones are counted in strides."""

AVERAGE = 0.95
"""The weight of what came before in a moving average, as in ai-edge-quantizer."""


class Histogram:
    """The distribution of a tensor's elements in bins of equal width around zero, and its extremes.

    Bins start as wide as the first sample needs, and become twice as wide, two being joined, whenever a sample reaches
    beyond them. Extremes are those of all elements.
    """

    __slots__ = ("average", "counts", "high", "low", "width")

    def __init__(self) -> None:
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

    def _count(self, elements: Array, reach: float) -> None:
        if reach <= 0.0:
            self.counts[HALF] += min(elements.size, MOST)
            return
        if self.width == 0.0:
            self.width = 2.0 ** np.ceil(np.log2(reach / HALF))
        while reach > self.width * HALF:
            self._join()
        if elements.size > MOST:
            # An odd stride meets every channel of a channels-last image.
            elements = elements[:: -(-elements.size // MOST) | 1]
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
