"""Looks for what no tolerance may excuse: channels that died, tensors that are constant, numbers too small to be whole.

A metric over a whole tensor hides such things: a dead channel of 256 costs 24 dB at most, which a loose tolerance for
8 bits allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from demitasse.ir.weights import Array

__all__ = ["Ailment", "Health"]

# The least normal float32: what is smaller has lost digits, and many processors are slow with it.
LEAST_NORMAL = float(np.finfo(np.float32).tiny)

# How far the reference has to move, in shares of the tensor's peak, for a constant to be a fault: 8 bits resolve 0.004
# to 0.008 of it, so that what moves less may well round to one number.
LEAST_MOVEMENT = 0.03

# And how far in shares of what channels are usually off, those that live foremost: noise in the layers before can hold
# a channel at 0 after ReLU.
NOISES, MOST_LIVE = 4.0, 0.9

# Of how many elements a channel has to be seen before it may be called constant.
ENOUGH = 8


class Ailment(NamedTuple):
    """Something that is wrong whatever the figures say; `kind` is a finding's."""

    kind: str
    message: str


@dataclass
class Health:
    """Collects the extremes of each channel of a blob, in reference and artifact, over some samples.

    `axis` is the channel's; a blob of one row a sample has its classes there.
    """

    axis: int
    _extremes: list[npt.NDArray[np.float64]] = field(default_factory=list)
    _errors: npt.NDArray[np.float64] | float = 0.0
    _seen: int = 0
    _denormal: int = 0

    def add(self, reference: Array, candidate: Array) -> None:
        """Look at one result; one of another shape, or of no real numbers, says nothing here."""
        if reference.shape != candidate.shape or candidate.dtype.kind != "f" or reference.size == 0:
            return
        axes = tuple(axis for axis in range(reference.ndim) if axis != self.axis)
        rows = [array.min(axis=axes).ravel() for array in (reference, candidate)]
        rows += [array.max(axis=axes).ravel() for array in (reference, candidate)]
        found = np.array(rows, np.float64)
        if self._extremes:
            old = self._extremes[0]
            found = np.concatenate([np.minimum(old[:2], found[:2]), np.maximum(old[2:], found[2:])])
        self._extremes = [found]
        self._seen += reference.size // max(1, len(rows[0]))
        self._errors = np.maximum(self._errors, np.abs(candidate - reference).max(axis=axes).ravel())
        tiny = (candidate != 0) & (np.abs(candidate) < LEAST_NORMAL)
        if tiny.any():
            self._denormal += int(np.count_nonzero(tiny & (np.abs(reference) > 2 * LEAST_NORMAL)))

    def ailments(self) -> Iterator[Ailment]:
        """Say what is wrong."""
        if not self._extremes or self._seen < ENOUGH:
            return
        low, given_low, high, given_high = self._extremes[0]
        with np.errstate(invalid="ignore"):
            movement = high - low
            peak = float(np.abs([low, high]).max())
            live = np.asarray(self._errors)[given_low != given_high]
            usual = max(float(np.median(self._errors)), float(np.quantile(live, MOST_LIVE)) if live.size else 0.0)
            moving = movement > max(LEAST_MOVEMENT * peak, NOISES * usual)
            dead = np.flatnonzero(moving & (given_low == given_high))
        if len(dead) and given_low.min() == given_high.max():
            yield Ailment("constant", f"every element is {given_low[0]:.6g}, whatever goes in")
        elif len(dead):
            which = ", ".join(map(str, dead[:5])) + (", ..." if len(dead) > 5 else "")
            what = "channel is" if len(dead) == 1 else f"{len(dead)} channels are"
            yield Ailment("dead-channel", f"{what} constant where the source's moves: {which} of {len(low)}")
        if self._denormal:
            yield Ailment("denormal", f"{self._denormal} numbers are too small for whole float32 precision")
