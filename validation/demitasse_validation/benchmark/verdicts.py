"""What a ratio of two latencies allows to say, against the noise that the same run measured in itself."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from demitasse_validation.benchmark.statistics import Interval

__all__ = ["MARGIN", "Judgement", "Verdict", "invalid", "judge", "noise_of"]

# Differences below this share interest nobody; the order in which a linker lays out functions makes some of them.
# Mytkowicz et al., Producing Wrong Data Without Doing Anything Obviously Wrong!, ASPLOS 2009.
MARGIN = 0.05


class Verdict(enum.Enum):
    """What may be said of a contender."""

    FASTER = "FASTER"
    SLOWER = "SLOWER"
    SAME = "SAME"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, why it is that one, and what to do about it; nothing to do where `advice` is empty."""

    verdict: Verdict
    reason: str
    advice: str = ""


def noise_of(twins: Interval) -> float:
    """Return the largest difference, as a share, that the same model shows against itself: the A/A noise floor."""
    return math.exp(max(abs(math.log(twins.low)), abs(math.log(twins.high)))) - 1


def judge(ratio: Interval, noise: float, margin: float = MARGIN) -> Judgement:
    """Judge the latency of a contender over that of its baseline.

    Faster or slower is what lies beyond margin and noise with its whole interval; the same is what lies within the
    margin with its whole interval, as in a test of equivalence (two one-sided tests, Schuirmann 1987). A run that tells
    a model from itself by more than the margin finds nothing the same.
    """
    limit = max(margin, noise)
    tell = f"{_share(ratio)} (95 % interval {_bound(ratio.low)} to {_bound(ratio.high)})"
    if ratio.low > 1 + limit:
        return Judgement(Verdict.SLOWER, f"{tell}, beyond the {limit:.1%} that count")
    if ratio.high < 1 / (1 + limit):
        return Judgement(Verdict.FASTER, f"{tell}, beyond the {limit:.1%} that count")
    if noise > margin:
        return Judgement(
            Verdict.INCONCLUSIVE,
            f"{tell}, and the same model differs from itself by up to {noise:.1%} in this run",
            "end other programs, or measure longer (--seconds), and run again",
        )
    if 1 / (1 + limit) <= ratio.low and ratio.high <= 1 + limit:
        return Judgement(Verdict.SAME, f"{tell}, within {limit:.1%}")
    return Judgement(
        Verdict.INCONCLUSIVE,
        f"{tell}, neither within {limit:.1%} nor beyond",
        f"measure {_more(ratio, limit)} times as long (--seconds), or end other programs",
    )


def invalid(reason: str, advice: str) -> Judgement:
    """Refuse a comparison whose figures mean something else than they seem to."""
    return Judgement(Verdict.INVALID, reason, advice)


def _share(ratio: Interval) -> str:
    """Say how much longer or shorter the contender takes."""
    if ratio.value >= 1:
        return f"takes {ratio.value - 1:.1%} longer"
    return f"takes {1 - ratio.value:.1%} less time"


def _bound(ratio: float) -> str:
    return f"{ratio - 1:+.1%}"


def _more(ratio: Interval, limit: float) -> int:
    """Return how much longer to measure until the interval is narrower than its distance from the nearer limit."""
    half = (math.log(ratio.high) - math.log(ratio.low)) / 2
    away = abs(abs(math.log(ratio.value)) - math.log1p(limit))
    # Intervals shrink with the square root of the time; near a limit no time is enough, and ten times is worth a try.
    return max(2, min(10, math.ceil((half / away) ** 2))) if away else 10
