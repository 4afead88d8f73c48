"""Measures how far a tensor is from what it should be; nothing here repairs, reorders or reshapes what it measures.

Every metric is a function of `Sums`, the sums over a pair of tensors that can be added up image by image, so that a
run over a thousand images holds one image's layers at a time. A NaN or an infinity in either tensor stays visible in
every metric, and no limit accepts a NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from demitasse.ir.weights import Array

__all__ = [
    "METRICS",
    "Interval",
    "Metric",
    "Ranking",
    "Size",
    "Sums",
    "kl_divergence",
    "rank",
    "wilson",
]

Floats: TypeAlias = npt.NDArray[np.float64]

# Elements widened to float64 at a time: they stay in a core's cache.
BLOCK = 1 << 15

# Places of an image whose channels are brought into the other order at a time, so that reading and writing both stay in
# a core's nearest cache: three times as fast as numpy's copy.
PLACES = 64

# The largest float32, what TFLite's kernels cut an infinity to where they limit an activation to the type's range.
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Sums:
    """Holds what the metrics need of a reference `r` and a candidate `c` of equal shape, in float64.

    `nonfinite` counts elements of `c` that are NaN or infinite, or at the end of float32 where `r` isn't: some kernels
    cut an infinity to that. `reference_nonfinite` counts those of `r`.
    """

    count: int = 0
    nonfinite: int = 0
    reference_nonfinite: int = 0
    peak: float = 0.0  # max |r|
    max_abs: float = 0.0  # max |c - r|
    abs: float = 0.0  # sum |c - r|
    square: float = 0.0  # sum (c - r)^2
    square_reference: float = 0.0  # sum r^2
    square_candidate: float = 0.0  # sum c^2
    product: float = 0.0  # sum c r

    @classmethod
    def of(cls, reference: Array, candidate: Array, size: Size | None = None) -> Sums:
        """Sum over a pair of tensors; `size` is the reference's, where it is known already.

        Raises:
            ValueError: their shapes differ.
        """
        if reference.shape != candidate.shape:
            raise ValueError(f"shapes {reference.shape} and {candidate.shape} differ")
        peak, square_reference = size or Size.of(reference)
        flat_reference, flat_candidate = _flat(reference), _flat(candidate)
        figures = np.zeros((-(-flat_reference.size // BLOCK), len(_FIGURES)))
        with np.errstate(invalid="ignore", over="ignore"):
            for place, figure in enumerate(figures):
                block = slice(place * BLOCK, (place + 1) * BLOCK)
                _measure(
                    flat_reference[block].astype(np.float64, copy=False),
                    flat_candidate[block].astype(np.float64, copy=False),
                    figure,
                )
            # Maxima that meet a NaN are NaN, as sums are.
            max_abs = float(figures[:, 0].max(initial=0.0))
            total, square, square_candidate = figures[:, 1:].sum(axis=0).tolist()
        return cls(
            count=reference.size,
            nonfinite=0 if square_candidate < LARGEST**2 else _nonfinite(candidate) + _cut(reference, candidate),
            reference_nonfinite=0 if math.isfinite(square_reference) else _nonfinite(reference),
            peak=peak,
            max_abs=max_abs,
            abs=total,
            square=square,
            square_reference=square_reference,
            square_candidate=square_candidate,
            # (c - r)^2 = c^2 - 2 c r + r^2
            product=(square_candidate + square_reference - square) / 2,
        )

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.count + other.count,
            self.nonfinite + other.nonfinite,
            self.reference_nonfinite + other.reference_nonfinite,
            _greater(self.peak, other.peak),
            _greater(self.max_abs, other.max_abs),
            self.abs + other.abs,
            self.square + other.square,
            self.square_reference + other.square_reference,
            self.square_candidate + other.square_candidate,
            self.product + other.product,
        )


def _greater(a: float, b: float) -> float:
    """Return the greater of two numbers, and NaN where either is one (Python's `max` forgets it)."""
    return a if math.isnan(a) or a >= b else b


class Size(NamedTuple):
    """How large a tensor is: its largest element, signs left away, and the sum of all squares."""

    peak: float
    square: float

    @classmethod
    def of(cls, tensor: Array) -> Size:
        """Measure a tensor; a NaN in it is one in both."""
        flat = _flat(tensor)
        peak = square = 0.0
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, flat.size, BLOCK):
                block = flat[start : start + BLOCK].astype(np.float64, copy=False)
                peak = _greater(_greater(float(block.max()), -float(block.min())), peak)
                square += float(block @ block)
        return cls(peak, square)


# What is measured of a block, in this order: a maximum first, then sums.
_FIGURES = ("max_abs", "abs", "square", "square_candidate")


def _measure(reference: Floats, candidate: Floats, figures: Floats) -> None:
    """Measure one block of each tensor into a row of `_FIGURES`."""
    error = candidate - reference
    figures[2:] = error @ error, candidate @ candidate
    np.abs(error, out=error)
    figures[:2] = error.max(), error.sum()


def _flat(array: Array) -> Array:
    """Return all elements in order; a view where they are, quickly where an image stores its channels last."""
    if array.ndim < 3 or array.flags.c_contiguous or not np.moveaxis(array, 1, -1).flags.c_contiguous:
        return array.ravel()
    samples, channels = array.shape[:2]
    places = np.moveaxis(array, 1, -1).reshape(samples, -1, channels)
    flat = np.empty((samples, channels, places.shape[1]), array.dtype)
    for start in range(0, places.shape[1], PLACES):
        flat[:, :, start : start + PLACES] = places[:, start : start + PLACES].swapaxes(1, 2)
    return flat.ravel()


def _nonfinite(array: Array) -> int:
    return int(array.size - np.count_nonzero(np.isfinite(array)))


def _cut(reference: Array, candidate: Array) -> int:
    """Count what is as large as float32 can be where the reference isn't."""
    ends = np.isfinite(candidate) & (np.abs(candidate) >= LARGEST) & ~(np.abs(reference) >= LARGEST)
    return int(np.count_nonzero(ends))


# --- metrics ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure for how near a candidate is to its reference: its best value, and which way is better."""

    name: str
    title: str
    unit: str
    best: float
    higher_is_better: bool
    of: Callable[[Sums], float]

    def holds(self, value: float, limit: float) -> bool:
        """Tell whether a value is as good as a limit; a NaN never is."""
        return value >= limit if self.higher_is_better else value <= limit

    def slack(self, value: float, limit: float) -> float:
        """Say how much of a limit a value uses up, for sorting; above 1 it fails. A NaN counts as infinitely much."""
        if not math.isfinite(value) and value != self.best:
            return math.inf
        if self.holds(value, limit):
            if value == self.best or not math.isfinite(limit):
                return 0.0
            return limit / value if self.higher_is_better else value / limit
        if self.higher_is_better:
            return limit / value if value > 0 else math.inf
        return value / limit if limit > 0 else math.inf


def _ratio(part: float, whole: float) -> float:
    """Divide, with 0 / 0 being 0: no error in nothing is no error."""
    if part == 0 and whole == 0:
        return 0.0
    return math.inf if whole == 0 else part / whole


def _decibels(signal: float, noise: float) -> float:
    """Return `10 log10(signal / noise)` of two powers; without noise it is infinite, without a signal minus that."""
    if math.isnan(signal) or math.isnan(noise):
        return math.nan
    if noise == 0:
        return math.inf
    if signal == 0 or math.isinf(noise):
        return -math.inf
    return 10 * math.log10(signal / noise)


def _max_abs(sums: Sums) -> float:
    return sums.max_abs


def _relative_to_peak(sums: Sums) -> float:
    return _ratio(sums.max_abs, sums.peak)


def _mean_abs(sums: Sums) -> float:
    return _ratio(sums.abs, sums.count)


def _cosine(sums: Sums) -> float:
    """Return the cosine of the angle between the tensors as vectors; two zero vectors are alike, one alone is not."""
    norm = math.sqrt(sums.square_reference) * math.sqrt(sums.square_candidate)
    if norm == 0:
        return 1.0 if sums.square_reference == sums.square_candidate else 0.0
    return sums.product / norm


def _sqnr(sums: Sums) -> float:
    """Return the signal-to-quantization-noise ratio: power of the reference over power of the error."""
    return _decibels(sums.square_reference, sums.square)


def _psnr(sums: Sums) -> float:
    """Return the peak signal-to-noise ratio: squared peak of the reference over the mean squared error."""
    return _decibels(sums.peak * sums.peak, _ratio(sums.square, sums.count))


def _nonfinite_count(sums: Sums) -> float:
    return float(sums.nonfinite)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("relative_to_peak", "max error / peak", "", 0.0, False, _relative_to_peak),
            Metric("max_abs", "max error", "", 0.0, False, _max_abs),
            Metric("mean_abs", "mean error", "", 0.0, False, _mean_abs),
            Metric("cosine", "cosine", "", 1.0, True, _cosine),
            Metric("sqnr_db", "SQNR", "dB", math.inf, True, _sqnr),
            Metric("psnr_db", "PSNR", "dB", math.inf, True, _psnr),
            Metric("nonfinite", "NaN or infinite", "elements", 0.0, False, _nonfinite_count),
        )
    }
)


# --- distributions and ranks -----------------------------------------------------------------------------------


def kl_divergence(reference: Array, candidate: Array) -> float:
    """Return the largest `sum p log(p / q)` over the rows `[..., classes]`, in nats; best 0, lower is better.

    Rows are taken as they are, not normalized. Where `p` is 0 the term is 0; where `q` alone is 0 it is infinite; a
    negative or NaN element makes the result NaN.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != candidate.shape:
        raise ValueError(f"shapes {reference.shape} and {candidate.shape} differ")
    p, q = reference.astype(np.float64), candidate.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where((p == 0) & (q >= 0), 0.0, p * (np.log(p) - np.log(q)))
    return float(terms.sum(axis=-1).max())


class Ranking(NamedTuple):
    """The `k` highest of some scores, best first, and by how much the first leads the second."""

    places: tuple[int, ...]
    scores: tuple[float, ...]
    margin: float


def rank(scores: npt.NDArray[Any], k: int) -> Ranking | None:
    """Rank scores `[classes]`; of equal ones the first comes first. A NaN leaves no order: then there is no ranking."""
    if np.isnan(scores).any():
        return None
    order = np.argsort(-scores.astype(np.float64), kind="stable")[: max(k, 2)]
    best = tuple(float(scores[place]) for place in order)
    margin = best[0] - best[1] if len(best) > 1 else math.inf
    return Ranking(tuple(map(int, order[:k])), best[:k], margin)


class Interval(NamedTuple):
    """Bounds between which a proportion lies with some confidence."""

    low: float
    high: float


def wilson(successes: int, trials: int, z: float = 1.96) -> Interval:
    """Return the score interval of a proportion, at 95 % for the default `z` (Wilson 1927).

    Its bounds stay inside 0 to 1 and say something for a handful of images too: 16 of 16 is at least 0.81.
    """
    if trials == 0:
        return Interval(0.0, 1.0)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return Interval(max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))
