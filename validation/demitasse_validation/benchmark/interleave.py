"""Times models in turns: a round times each of them once, so that what disturbs a round disturbs all alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from demitasse.errors import DemitasseError
from demitasse_validation.benchmark.clock import Warmth
from demitasse_validation.benchmark.lane import Lane
from demitasse_validation.benchmark.results import Latency, Plan
from demitasse_validation.benchmark.statistics import Interval, estimate_paired_ratio

__all__ = ["COMPUTE", "RUN", "Track", "interleave", "paired_ratio"]

RUN, COMPUTE = "run", "compute"

# What the second kind of call gets of the first one's time.
COMPUTE_SHARE = 1 / 3

# An interval needs this many blocks, however long each of them is.
LEAST_ROUNDS = 12

# How many times as long as asked for may be measured until there are enough samples.
PATIENCE = 3


@dataclass
class Track:
    """A lane, and the blocks of samples that it has given.

    `calls` are those that are timed: a lane that others are only compared with needs no `compute`. `spent` says for how
    many seconds each was. `failure` says why the lane gives no more.
    """

    lane: Lane
    name: str
    calls: tuple[str, ...] = (RUN, COMPUTE)
    blocks: dict[str, list[list[float]]] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    settled: bool = True
    failure: str = ""

    def warm(self, limit: float) -> None:
        with self._noting_failure():
            warmths: list[Warmth] = [self.lane.warm(what, limit) for what in self.calls]
            self.settled = all(warmth.settled for warmth in warmths)

    def measure(self, what: str, seconds: float) -> None:
        """Time one more block, unless the lane has failed."""
        if self.is_alive:
            with self._noting_failure():
                samples = self.lane.block(what, seconds)
                self.blocks.setdefault(what, []).append(samples)
                self.spent[what] = self.spent.get(what, 0.0) + sum(samples)

    def latency(self, what: str, seed: int) -> Latency:
        return Latency.of(self.blocks[what], seed)

    @property
    def is_alive(self) -> bool:
        return not self.failure

    @property
    def count(self) -> int:
        """How many calls there are of the kind that counts."""
        return sum(map(len, self.blocks.get(RUN, ())))

    def has_enough(self, plan: Plan) -> bool:
        """Whether the time and the number of samples that were asked for are reached; seconds add up inexactly."""
        return self.count >= plan.samples and self.spent.get(RUN, 0.0) >= 0.999 * plan.seconds

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """One model that fails must not take the others' figures with it."""
        try:
            yield
        except DemitasseError as error:
            self.failure = str(error)


def interleave(tracks: Sequence[Track], plan: Plan, progress: Callable[[str, int, int], None] | None = None) -> None:
    """Warm all lanes up, and then time them round by round until each has its time and its number of samples.

    The order turns from round to round, and every other round runs backwards, so that nobody always follows the same
    neighbour, whose threads may still be awake.
    """
    for track in tracks:
        if progress is not None:
            progress(f"warm up {track.name}", 0, 0)
        track.warm(plan.seconds)
    seconds = plan.seconds / plan.rounds
    for number in range(plan.rounds * PATIENCE):
        alive = [track for track in tracks if track.is_alive]
        if number >= LEAST_ROUNDS and all(track.has_enough(plan) for track in alive):
            break
        turn = number % len(alive) if alive else 0
        order = (alive[turn:] + alive[:turn])[:: -1 if number % 2 else 1]
        for track in order:
            track.measure(RUN, seconds)
            # Slow calls take longer than their block; that must not take more than its share of the time.
            due = COMPUTE_SHARE * track.spent.get(RUN, 0.0)
            if COMPUTE in track.calls and track.spent.get(COMPUTE, 0.0) <= due:
                track.measure(COMPUTE, seconds * COMPUTE_SHARE)
        if progress is not None:
            progress("measure", min(number + 1, plan.rounds), plan.rounds)


def paired_ratio(contender: Track, baseline: Track, seed: int) -> Interval:
    """Estimate a contender's latency over that of its baseline, host to host, from the rounds that both were in."""
    return estimate_paired_ratio(contender.latency(RUN, seed).blocks, baseline.latency(RUN, seed).blocks, seed)
