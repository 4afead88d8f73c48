"""Sums up how far off a layer is alone, and says whether rounding explains that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from demitasse.ir.weights import Array
from demitasse_validation.metrics import METRICS, Sums

__all__ = ["CLOSE", "LOOSE", "OVERSHOOT", "WIDE", "WIDE_RANGE", "Chance", "Gain", "LocalError", "Scatter", "Step"]

# All that a channel holds may be rounded the same way where integers are made of the same few integers: half a step.
REPEATED = 0.55

# A channel whose values are fitted best by a factor other than 1 is wrong if that moves its largest value by more than
# this many steps, and if chance would hardly do so: rounding errors scatter by 0.29 steps.
GAIN_STEPS, GAIN_SIGMAS, ROUNDING = 0.6, 10.0, 0.29

# A value of so many steps isn't rounded to the same integer as its neighbours, so that chance decides its error.
LEAST_VALUE = 4.0

# Where biases were corrected for what rounding kernels shifts in the mean, a channel may be off by a constant: what is
# judged is how errors scatter about it. A slope is told from rounding only in channels that span this many steps.
MOST_SHIFTED, LEAST_SPAN, CORRECTED_SLACK = 24.0, 16.0, 0.75

# A calibrated range may be left a little, and now and then. A tensor that can't hold a quarter of its numbers, by a
# good part of its range, is saturated.
OVERSHOOT, MOST_SATURATED = 0.1, 0.25


@dataclass(frozen=True, slots=True)
class Step:
    """The step of a quantized tensor, and the least and the greatest number that it can hold."""

    size: float
    low: float
    high: float


class Chance(NamedTuple):
    """How far rounding errors may be from what chance makes of them, in steps, and in standard deviations of that.

    They spread evenly over a step: `spread` limits their root mean square in shares of its 0.29, `shift` the mean of
    a channel, `gain` what a factor that all elements share makes of the largest.
    """

    spread: float
    shift: float
    gain: float
    sigmas: float


# One rounding of a product: sound artifacts show 1.05 (or 3 sigmas where elements are few), 0.09 and 0.05. Then what
# other kernels make of it: 1.6, 0.25 (or 15 sigmas of 0.1) and 0.1. Then what several kernels do: 4.1, 0.5 and 0.7.
CLOSE, WIDE, LOOSE = Chance(1.2, 0.12, 0.15, 7.0), Chance(2.0, 0.35, 0.3, 10.0), Chance(6.0, 1.0, 1.0, 10.0)

# 16 bits round coarsely scaled sums: 5, 0.5 and 1.6.
WIDE_RANGE = Chance(9.0, 2.0, 3.0, 10.0)


@dataclass
class Scatter:
    """Sums, a channel each, over the elements that lie inside the tensor's range, in steps: errors about their mean."""

    count: Array | float = 0.0
    error: Array | float = 0.0
    value: Array | float = 0.0
    product: Array | float = 0.0
    square: Array | float = 0.0
    squared_error: Array | float = 0.0
    most: Array | float = -np.inf
    least: Array | float = np.inf
    highest: Array | float = -np.inf
    lowest: Array | float = np.inf

    def add(self, error: Array, value: Array, inside: Array) -> None:
        """Add elements `[channels, any]`; those outside don't count, for clipping hides what they are off by."""
        kept_error, kept_value = np.where(inside, error, 0.0), np.where(inside, value, 0.0)
        self.count = self.count + inside.sum(axis=1)
        self.error = self.error + kept_error.sum(axis=1)
        self.value = self.value + kept_value.sum(axis=1)
        self.squared_error = self.squared_error + np.square(kept_error).sum(axis=1)
        self.product = self.product + (kept_error * kept_value).sum(axis=1)
        self.square = self.square + np.square(kept_value).sum(axis=1)
        self.most = np.maximum(self.most, np.where(inside, error, -np.inf).max(axis=1, initial=-np.inf))
        self.least = np.minimum(self.least, np.where(inside, error, np.inf).min(axis=1, initial=np.inf))
        self.highest = np.maximum(self.highest, np.where(inside, value, -np.inf).max(axis=1, initial=-np.inf))
        self.lowest = np.minimum(self.lowest, np.where(inside, value, np.inf).min(axis=1, initial=np.inf))

    def unlikely(self, chance: Chance) -> str:
        """Say where errors are larger, or more one-sided, than rounding makes them."""
        count = np.asarray(self.count, np.float64)
        total, square = float(count.sum()), float(np.sum(self.squared_error))
        sigmas = (square - total * ROUNDING**2) / max((total / 180) ** 0.5, 1e-9)
        root = (square / max(total, 1.0)) ** 0.5
        if root > chance.spread * ROUNDING and sigmas > chance.sigmas:
            return f"alone its errors spread by {root:.2g} steps, rounding explains {ROUNDING}"
        shift = np.asarray(self.error) / np.maximum(count, 1)
        wrong = (np.abs(shift) > chance.shift) & (np.abs(shift) * np.sqrt(count) > chance.sigmas * ROUNDING)
        if wrong.any():
            worst = int(np.where(wrong, np.abs(shift), 0).argmax())
            return f"alone its channel {worst} is off by {shift[worst]:+.2g} steps throughout, rounding by none"
        return ""

    def fault(self, allowed: float, shifted: float = 0.0) -> str:
        """Say what a constant for each channel, of MOST_SHIFTED steps or so many more, does not explain."""
        count = np.asarray(self.count, np.float64)
        seen = count >= 2
        if not seen.any():
            return ""
        some = np.maximum(count, 1)
        shift = np.where(seen, self.error / some, 0.0)
        if np.abs(shift).max() > max(MOST_SHIFTED, allowed, shifted):
            worst = int(np.abs(shift).argmax())
            return f"alone its channel {worst} is off by {shift[worst]:+.3g} steps, more than biases are corrected by"
        spread = np.where(seen, np.maximum(self.most - shift, shift - self.least), 0.0)
        if spread.max() > allowed + CORRECTED_SLACK:
            worst = int(spread.argmax())
            return (
                f"alone its channel {worst} is off by up to {spread[worst]:.3g} steps, rounding explains {allowed:.3g}"
            )
        variance = np.maximum(self.square - self.value * self.value / some, 1e-12)
        slope = np.where(seen, (self.product - self.error * self.value / some) / variance, 0.0)
        span = np.where(seen, self.highest - self.lowest, 0.0)
        moved = np.abs(slope) * span
        wrong = (span > LEAST_SPAN) & (moved > allowed + CORRECTED_SLACK)
        wrong &= np.abs(slope) * np.sqrt(variance) > GAIN_SIGMAS * ROUNDING
        if not wrong.any():
            return ""
        worst = int(np.where(wrong, moved, 0).argmax())
        return f"alone its channel {worst} is {100 * slope[worst]:+.2g} % too large throughout"


@dataclass
class Gain:
    """Sums over the elements of a tensor that are no less than some steps, to tell a factor that all of them share."""

    product: float = 0.0
    square: float = 0.0
    error: float = 0.0
    count: int = 0

    def add(self, error: Array, value: Array) -> None:
        """Add elements, both in steps."""
        large = np.abs(value) >= LEAST_VALUE
        errors, values = error[large], value[large]
        self.product += float(errors @ values)
        self.square += float(values @ values)
        self.error += float(errors @ errors)
        self.count += errors.size

    @property
    def factor(self) -> float:
        """By which share of themselves the elements are off."""
        return self.product / self.square if self.square else 0.0

    @property
    def sigmas(self) -> float:
        """How many times what chance would make of it that is."""
        if not self.square:
            return 0.0
        noise = max(ROUNDING, (self.error / self.count) ** 0.5)
        return float(abs(self.factor) * self.square**0.5 / noise)

    def unlikely(self, chance: Chance, peak: float) -> str:
        """Say that a factor is there; `peak` is the largest element."""
        if abs(self.factor) * peak <= chance.gain or self.sigmas <= chance.sigmas:
            return ""
        return f"alone it is {100 * self.factor:+.2g} % too large throughout"


@dataclass
class LocalError:
    """Sums over what one layer did alone.

    `allowed` is how far the result may be off: steps of a quantized one, shares of its peak for a real one; None where
    nothing can be said. `excused` is what inputs and what lies inside the layer may add by being rounded, in the
    result's own unit; `imprecise` is by which share of itself it may be scaled wrongly.

    In steps: `largest` is the largest error; for each channel, `gain` sums the products of errors and values, `values`
    squares of values, and `peak` is the largest of them, so that a channel which is a little too large throughout
    stands out, and `whole` does so for all channels together; `saturated` counts what lies far outside of what the
    tensor can hold. `propagated` measures what rounding alone does to the blob in a whole net. `scatter` tells whether
    errors look like those of rounding, as far as `chance` asks for that; it takes the place of `largest` and `gain`
    where the artifact's biases were `corrected`, by `shifted` at most. Without a product nothing is summed up, and what
    integers are off by repeats itself as they do.
    """

    axis: int
    step: Step | None = None
    allowed: float | None = None
    sums: Sums = field(default_factory=Sums)
    largest: float = 0.0
    saturated: int = 0
    propagated: Sums = field(default_factory=Sums)
    scatter: Scatter = field(default_factory=Scatter)
    corrected: bool = False
    has_product: bool = True
    shifted: float = 0.0
    chance: Chance | None = None
    gain: Array | float = 0.0
    values: Array | float = 0.0
    peak: Array | float = 0.0
    excused: float = 0.0
    is_composed: bool = False
    imprecise: float = 0.0
    whole: Gain = field(default_factory=Gain)

    def add(
        self,
        expected: Array,
        given: Array,
        excused: float = 0.0,
        at_ends: Array | None = None,
        shifted: float = 0.0,
    ) -> None:
        """Measure one result against what the layer should have made of its inputs.

        `excused` is how far rounding inside may move it; of the elements `at_ends` inner ranges may have cut some more;
        `shifted` is by how much its bias may have been corrected.
        """
        self.excused, self.shifted = max(self.excused, excused), max(self.shifted, shifted)
        if self.step is None:
            self.sums += Sums.of(expected, given)
            return
        slack = OVERSHOOT * (self.step.high - self.step.low)
        self.saturated += int(
            np.count_nonzero((expected > self.step.high + slack) | (expected < self.step.low - slack))
        )
        expected = np.clip(expected, self.step.low, self.step.high)
        self.sums += Sums.of(expected, given)
        rows = (given.shape[self.axis], -1)
        difference = given - expected
        if at_ends is not None and at_ends.shape == difference.shape:
            difference = np.where(at_ends, np.sign(difference) * np.maximum(np.abs(difference) - slack, 0), difference)
        error = np.moveaxis(difference / self.step.size, self.axis, 0).reshape(rows)
        value = np.moveaxis(expected / self.step.size, self.axis, 0).reshape(rows)
        low, high = self.step.low / self.step.size + 0.5, self.step.high / self.step.size - 0.5
        held = value + error
        inside = (value > low) & (value < high) & (held > low) & (held < high)
        if self.corrected:  # what an activation cuts at zero, here or there, hides by how much biases were shifted
            hidden = max(MOST_SHIFTED, (self.allowed or 0.0) + excused / self.step.size, shifted / self.step.size)
            inside &= ((value != 0) & (held != 0)) | (np.abs(error) > hidden)
        self.scatter.add(error, value, inside)
        if self.corrected:
            return
        self.whole.add(error, value)
        self.largest = max(self.largest, float(np.abs(error).max(initial=0)))
        self.gain = self.gain + (error * value).sum(axis=1)
        self.values = self.values + np.square(value).sum(axis=1)
        self.peak = np.maximum(self.peak, np.abs(value).max(axis=1, initial=0))

    @property
    def figures(self) -> Mapping[str, float]:
        """Every metric of the layer's own error."""
        return {name: metric.of(self.sums) for name, metric in METRICS.items()}

    @property
    def fault(self) -> str:
        """What is wrong with the layer alone, in words; empty where rounding explains its error."""
        if self.step is not None:
            return self._fault_in_steps()
        share = METRICS["relative_to_peak"].of(self.sums)
        if self.allowed is None:
            return ""
        allowed = self.allowed + (self.excused / self.sums.peak if self.sums.peak else 0.0)
        if METRICS["relative_to_peak"].holds(share, allowed):
            return ""
        return f"alone it is off by {share:.3g} of its peak, rounding explains {allowed:.2g}"

    def _fault_in_steps(self) -> str:
        if self.allowed is None or self.step is None:
            return ""
        allowed = self.allowed + self.excused / self.step.size
        if self.saturated > MOST_SATURATED * self.sums.count:
            return (
                f"alone it can't hold {self.saturated} of its {self.sums.count} numbers: its integers end before them"
            )
        if self.corrected:
            return self.scatter.fault(allowed, self.shifted / self.step.size)
        if not self.largest <= allowed:
            return f"alone it is off by {self.largest:.3g} steps of its integers, rounding explains {allowed:.3g}"
        values = np.maximum(self.values, 1e-12)
        factor = np.asarray(self.gain / values)
        wrong = (np.abs(factor * self.peak) > GAIN_STEPS) & (np.abs(factor) > self.imprecise)
        wrong &= np.abs(factor) * np.sqrt(values) > GAIN_SIGMAS * ROUNDING
        if self.has_product and not self.is_composed and wrong.any():
            worst = int(np.abs(np.where(wrong, factor * self.peak, 0)).argmax())
            return f"alone its channel {worst} is {100 * factor.ravel()[worst]:+.2g} % too large throughout"
        if self.chance is None or (self.excused and self.chance not in {CLOSE, WIDE}):
            return ""
        if not self.has_product:
            return self.scatter.unlikely(self.chance._replace(shift=max(self.chance.shift, REPEATED)))
        return self.scatter.unlikely(self.chance) or self.whole.unlikely(self.chance, float(np.max(self.peak)))
