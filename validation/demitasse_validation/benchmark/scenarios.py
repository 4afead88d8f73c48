"""The scenarios of MLPerf Inference, by their known names, and whether LoadGen would call a run of ours valid.

SingleStream sends one query of one sample after the other; its figure is the 90th percentile of latency. Offline has
all samples at hand; its figure is samples a second. LoadGen wants each to last ten minutes, SingleStream to stand early
stopping (64 queries), and Offline to process 24,576 samples (ResNet-50's number).
https://github.com/mlcommons/inference/blob/master/loadgen/mlperf.conf
https://github.com/mlcommons/inference_policies/blob/master/inference_rules.adoc
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from demitasse_validation.benchmark.results import Report, Result
from demitasse_validation.benchmark.statistics import samples_needed

__all__ = ["Scenario", "offline", "scenarios", "single_stream"]

MIN_SECONDS = 600
MIN_OFFLINE_SAMPLES = 24576
SINGLE_STREAM_PERCENTILE = 0.9


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario's figure, and what LoadGen would have against it.

    Attributes:
        name: `SingleStream` or `Offline`.
        figure: seconds of latency, or samples a second; None where the samples are too few.
        batch: the batch that it was reached with.
        objections: why LoadGen would call the run invalid; none if it wouldn't.
    """

    name: str
    artifact: str
    engine: str
    figure: float | None
    batch: int
    objections: tuple[str, ...]


def scenarios(report: Report) -> Iterator[Scenario]:
    """Yield each model's figures: SingleStream where it was timed at batch 1, and Offline over all of its batches."""
    sweeps: dict[tuple[str, str], list[Result]] = {}
    for result in report.results:
        sweeps.setdefault((result.artifact, result.engine), []).append(result)
    for sweep in sweeps.values():
        yield from (single_stream(result) for result in sweep if result.batch == 1)
        yield offline(sweep)


def single_stream(result: Result) -> Scenario:
    """Return the figure of a run at batch 1: the upper bound of p90 that LoadGen reports after early stopping."""
    objections = list(result.faults)
    needed = samples_needed(SINGLE_STREAM_PERCENTILE)
    if result.latency.count < needed:
        objections.append(f"{result.latency.count} queries of the {needed} that early stopping needs")
    if result.latency.seconds < MIN_SECONDS:
        objections.append(f"{result.latency.seconds:.0f} s of {MIN_SECONDS}")
    return Scenario(
        "SingleStream", result.artifact, result.engine, result.latency.p90_bound, result.batch, tuple(objections)
    )


def offline(sweep: Sequence[Result]) -> Scenario:
    """Return the figure of one model's runs at several batches: the best of their throughputs."""
    best = max(sweep, key=lambda result: (result.is_valid, result.throughput))
    objections = list(best.faults)
    samples = best.latency.count * best.batch
    if samples < MIN_OFFLINE_SAMPLES:
        objections.append(f"{samples} samples of {MIN_OFFLINE_SAMPLES}")
    if best.latency.seconds < MIN_SECONDS:
        objections.append(f"{best.latency.seconds:.0f} s of {MIN_SECONDS}")
    return Scenario("Offline", best.artifact, best.engine, best.throughput, best.batch, tuple(objections))
