"""Takes the time of single calls: warm-up until nothing gets faster, and blocks of samples."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple

__all__ = ["Warmth", "block", "timed", "warm_up"]

# A window is as many calls as fill this time, and no fewer than three.
WINDOW_SECONDS, WINDOW_CALLS = 0.02, 3

# Warm means that these many windows in a row were none of them this much faster than the best before them.
STEADY_WINDOWS, FASTER_BY = 3, 0.02

# Calls before each block that aren't counted: another process had the caches, and its threads still spin for a while in
# the hope of more work, as OpenBLAS's and ONNX Runtime's do for some 40 ms. A slow call sits that out on the way.
HEATING_SECONDS, UNCOUNTED_SHARE = 0.06, 0.5

Clock = Callable[[], int]


class Warmth(NamedTuple):
    """What warming up took, and whether it came to an end by itself: nothing got faster any more."""

    calls: int
    seconds: float
    settled: bool


def timed(call: Callable[[], object], clock: Clock = time.perf_counter_ns) -> float:
    """Return the seconds that one call takes."""
    start = clock()
    call()
    return (clock() - start) / 1e9


def warm_up(call: Callable[[], object], limit: float, clock: Clock = time.perf_counter_ns) -> Warmth:
    """Call until it gets no faster any more, or `limit` seconds are over."""
    best, steady, calls, spent = float("inf"), 0, 0, 0.0
    while steady < STEADY_WINDOWS:
        if spent >= limit:
            return Warmth(calls, spent, settled=False)
        samples: list[float] = []
        end = spent + WINDOW_SECONDS
        while len(samples) < WINDOW_CALLS or spent < end:
            samples.append(timed(call, clock))
            spent += samples[-1]
        calls += len(samples)
        now = median(samples)
        steady = 0 if now < best * (1 - FASTER_BY) else steady + 1
        best = min(best, now)
    return Warmth(calls, spent, settled=True)


def block(call: Callable[[], object], seconds: float, clock: Clock = time.perf_counter_ns) -> list[float]:
    """Return the seconds of each call, one call after the other, for at least the time that is asked for.

    The first calls aren't counted if they are short: another model ran before them, and had caches and processors.
    """
    samples = [timed(call, clock)]
    if (heated := samples[0]) < seconds * UNCOUNTED_SHARE:
        samples.clear()
        while heated < HEATING_SECONDS:
            heated += timed(call, clock)
    spent = sum(samples)
    with _without_collection():
        while spent < seconds or not samples:
            samples.append(timed(call, clock))
            spent += samples[-1]
    return samples


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep Python from collecting garbage in the middle of a sample: that is none of the model's time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
