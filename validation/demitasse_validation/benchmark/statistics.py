"""What samples of a latency allow to say: percentiles that enough samples stand behind, and intervals of ratios.

Percentiles follow MLPerf LoadGen. It reports one only if, at 99 % confidence, the samples bound it from above with one
of them to spare: 64 for p90, 662 for p99.
https://github.com/mlcommons/inference/blob/master/loadgen/early_stopping.cc
https://github.com/mlcommons/inference/blob/master/loadgen/results.cc
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "CONFIDENCE",
    "Interval",
    "estimate_median",
    "estimate_paired_ratio",
    "estimate_ratio",
    "percentile",
    "percentile_bound",
    "samples_needed",
]

Floats = npt.NDArray[np.float64]
Samples = Sequence[float] | Floats

# LoadGen's confidence in the bound of a percentile, and ours in every interval.
LOADGEN_CONFIDENCE = 0.99
CONFIDENCE = 0.95

RESAMPLES = 2000

# How much is cut off each end before averaging: what is left is the midmean, which single disturbed rounds don't move.
TRIM = 0.25


class Interval(NamedTuple):
    """An estimate, and the bounds between which the true value lies at `CONFIDENCE`."""

    value: float
    low: float
    high: float


def percentile(samples: Samples, p: float) -> float | None:
    """Return the percentile `p` (0 to 1) as LoadGen takes it; None where the samples are too few for it."""
    if len(samples) < samples_needed(p):
        return None
    return float(np.sort(samples)[int(len(samples) * p)])


def percentile_bound(samples: Samples, p: float) -> float | None:
    """Return a value that the percentile `p` doesn't exceed, at 99 % confidence: LoadGen's early-stopping estimate.

    None where the samples are too few for it.
    """
    count = len(samples)
    if count < samples_needed(p):
        return None
    # How many samples may lie above the bound: as many as would be surprisingly few if the percentile lay higher.
    above = sum(1 for _ in _small_sums(count, 1 - p)) - 1
    return float(np.sort(samples)[count - above])


@cache
def samples_needed(p: float) -> int:
    """Return how many samples, of which no more than one exceeds a value, show that the percentile `p` doesn't.

    Fewer could come from a distribution whose percentile lies higher, with a probability of more than 1 %: it is that
    of at most one success in so many trials, each with the chance `1 - p`.
    """
    count = 2
    while (p**count) * (1 + count * (1 - p) / p) > 1 - LOADGEN_CONFIDENCE:
        count += 1
    return count


def _small_sums(trials: int, chance: float) -> Iterator[float]:
    """Yield the probability of 0 successes, of 1 or fewer, and so on, as long as it is small."""
    total = 0.0
    for successes in range(trials + 1):
        logarithm = (
            math.lgamma(trials + 1)
            - math.lgamma(successes + 1)
            - math.lgamma(trials - successes + 1)
            + successes * math.log(chance)
            + (trials - successes) * math.log1p(-chance)
        )
        total += math.exp(logarithm)
        if total > 1 - LOADGEN_CONFIDENCE:
            return
        yield total


def estimate_median(blocks: Samples, seed: int) -> Interval:
    """Estimate what a block's median is in the long run, from the medians of the blocks that were measured.

    Blocks, not single samples, are drawn anew: neighbouring samples resemble each other, and would feign certainty.
    """
    values = np.log(np.asarray(blocks, np.float64))
    return _exponential(_midmean(values), _midmeans(_draws(values, seed)))


def estimate_paired_ratio(contender: Samples, baseline: Samples, seed: int) -> Interval:
    """Estimate the ratio of two latencies whose blocks were measured in turns, round by round.

    What disturbs a round disturbs both and cancels out. A percentile bootstrap over the rounds' log ratios.
    """
    logarithms = np.log(np.asarray(contender, np.float64)) - np.log(np.asarray(baseline, np.float64))
    return _exponential(_midmean(logarithms), _midmeans(_draws(logarithms, seed)))


def estimate_ratio(contender: Samples, baseline: Samples, seed: int) -> Interval:
    """Estimate the ratio of two latencies that were measured at different times, so that nothing pairs their blocks."""
    one, other = np.log(np.asarray(contender, np.float64)), np.log(np.asarray(baseline, np.float64))
    draws = _midmeans(_draws(one, seed)) - _midmeans(_draws(other, seed + 1))
    return _exponential(_midmean(one) - _midmean(other), draws)


def _draws(values: Floats, seed: int) -> Floats:
    """Return resamples, a row each."""
    random = np.random.default_rng(seed)
    drawn: Floats = values[random.integers(0, len(values), (RESAMPLES, len(values)))]
    return drawn


def _midmean(values: Floats) -> float:
    return float(_midmeans(values[np.newaxis])[0])


def _midmeans(rows: Floats) -> Floats:
    """Average each row's middle half."""
    count = rows.shape[1]
    cut = int(count * TRIM)
    means: Floats = np.sort(rows, axis=1)[:, cut : count - cut].mean(axis=1)
    return means


def _exponential(estimate: float, draws: Floats) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    # The estimate itself may lie outside by rounding where all draws are alike.
    return Interval(math.exp(estimate), math.exp(min(low, estimate)), math.exp(max(high, estimate)))
