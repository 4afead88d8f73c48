"""Choose the range with which a tensor is stored in 8 bits, from how its elements are distributed.

A wide range has wide steps, a narrow one cuts off what lies beyond. Each method weighs the two differently:

* min-max cuts nothing.
* A moving average of each sample's extremes cuts what few samples reach.
* A percentile cuts a ten-thousandth of the elements on either side.
* Entropy keeps the distribution's shape: the least Kullback-Leibler divergence between it and what 8 bits make of it
  (Migacz, "8-bit inference with TensorRT", GTC 2017).
* The mean squared error weighs each element's own error (Banner et al., "Post training 4-bit quantization", 2019).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from demitasse.quantize.histogram import Histogram

__all__ = ["METHODS", "Method", "Range", "Ranges", "squared_error"]

Range: TypeAlias = tuple[float, float]
Ranges: TypeAlias = dict[str, Range]
Numbers: TypeAlias = npt.NDArray[np.float64]

STEPS = 255
PERCENTILE = 99.99
# Fractions of the extremes that are tried as limits.
FRACTIONS = np.linspace(0.1, 1.0, 91)


class Method(enum.Enum):
    """Names a way to choose ranges; `auto` takes for each tensor the best of the others."""

    AUTO = "auto"
    MIN_MAX = "min-max"
    MOVING_AVERAGE = "moving-average"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


def squared_error(histogram: Histogram, low: Numbers | float, high: Numbers | float) -> Numbers:
    """Return the mean squared error of an element that is stored with each range: what is cut, and what is rounded.

    Rounding to steps of width s errs by s^2/12 in the mean; zeros are stored exactly.
    """
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    counts, centers = histogram.counts.astype(np.float64), histogram.centers
    total = counts.sum()
    if total == 0 or histogram.width == 0:
        return np.zeros(np.broadcast(low, high).shape)
    above = [_from_top(counts * centers**power) for power in range(3)]
    below = [np.concatenate([[0.0], np.cumsum(counts * centers**power)]) for power in range(3)]
    at_high = np.clip(np.searchsorted(centers, high), 0, len(centers))
    at_low = np.clip(np.searchsorted(centers, low), 0, len(centers))
    cut = above[2][at_high] - 2 * high * above[1][at_high] + high**2 * above[0][at_high]
    cut = cut + below[2][at_low] - 2 * low * below[1][at_low] + low**2 * below[0][at_low]
    within = total - above[0][at_high] - below[0][at_low]
    return np.asarray((cut + within * ((high - low) / STEPS) ** 2 / 12) / total)


def _from_top(values: Numbers) -> Numbers:
    """Sum from each place to the end; one more place holds nothing."""
    return np.concatenate([np.cumsum(values[::-1])[::-1], [0.0]])


def _min_max(histogram: Histogram) -> Range:
    return histogram.low, histogram.high


def _moving_average(histogram: Histogram) -> Range:
    return histogram.average or (0.0, 0.0)


def _percentile(histogram: Histogram) -> Range:
    counts = np.cumsum(histogram.counts)
    tail = (1 - PERCENTILE / 100) * counts[-1]
    low = (int(np.searchsorted(counts, tail, side="right")) - len(counts) // 2) * histogram.width
    high = (int(np.searchsorted(counts, counts[-1] - tail)) + 1 - len(counts) // 2) * histogram.width
    return max(histogram.low, low), min(histogram.high, high)


def _mse(histogram: Histogram) -> Range:
    """Try every pair of limits at once."""
    lows, highs = np.meshgrid(FRACTIONS * min(histogram.low, 0.0), FRACTIONS * max(histogram.high, 0.0))
    best = int(np.argmin(squared_error(histogram, lows, highs)))
    return float(lows.flat[best]), float(highs.flat[best])


def _entropy(histogram: Histogram) -> Range:
    """Try limits that are the same fraction of both extremes."""
    extremes = np.array([min(histogram.low, 0.0), max(histogram.high, 0.0)])
    if histogram.width == 0 or not extremes.any():
        return _min_max(histogram)
    candidates = [tuple(map(float, fraction * extremes)) for fraction in FRACTIONS[20:]]
    divergences = [_divergence(histogram, low, high) for low, high in candidates]
    low, high = candidates[int(np.argmin(divergences))]
    return low, high


def _divergence(histogram: Histogram, low: float, high: float) -> float:
    """Return the divergence between a distribution, what lies beyond counted at its limits, and its 256 steps.

    The bin that holds zeros is left out: it is stored exactly, and would outweigh the rest behind a ReLU.
    """
    half = len(histogram.counts) // 2
    first = half + int(np.floor(low / histogram.width))
    last = max(half + int(np.ceil(high / histogram.width)), first + 1)
    counts = histogram.counts[first:last].astype(np.float64)
    reference = counts.copy()
    reference[0] += histogram.counts[:first].sum()
    reference[-1] += histogram.counts[last:].sum()
    if first <= half < last:
        counts[half - first] = reference[half - first] = 0
    total = reference.sum()
    if total == 0 or counts.sum() == 0:
        return np.inf
    level = np.arange(len(counts)) * (STEPS + 1) // len(counts)
    filled = reference > 0
    sums = np.bincount(level, counts, STEPS + 1)
    sizes = np.bincount(level, filled, STEPS + 1)
    spread = np.where(filled, (sums / np.maximum(sizes, 1))[level], 0.0)
    p, q = reference[filled] / total, spread[filled] / spread.sum()
    return float(np.sum(p * np.log(p / np.maximum(q, 1e-12))))


METHODS: Mapping[Method, Callable[[Histogram], Range]] = {
    Method.MIN_MAX: _min_max,
    Method.MOVING_AVERAGE: _moving_average,
    Method.PERCENTILE: _percentile,
    Method.ENTROPY: _entropy,
    Method.MSE: _mse,
}
