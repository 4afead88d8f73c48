"""Sets a benchmark against one that was stored before, on the same machine, to find what has become slower.

What was measured at another time can't be paired, so the machine itself is compared too, by a yardstick that both runs
timed: whatever it differs by, models may differ by as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from demitasse.errors import UsageError
from demitasse_validation.benchmark import machine
from demitasse_validation.benchmark.results import Comparison, Report, Result, load
from demitasse_validation.benchmark.statistics import estimate_ratio
from demitasse_validation.benchmark.verdicts import Judgement, invalid, judge, noise_of

__all__ = ["compare_with"]


def compare_with(report: Report, path: Path) -> Report:
    """Return the report with what may be said of each of its results against the stored ones.

    Raises:
        UsageError: the file is no stored benchmark, was stored on another machine or with another precision, or has
            none of the results.
    """
    stored = load(path)
    if different := machine.differences(dict(report.machine), dict(stored.machine)):
        raise UsageError(
            "\n  ".join([f"{path}: was stored on another machine; store a result of this one with --save:", *different])
        )
    if report.plan.tf32 != stored.plan.tf32:
        raise UsageError(f"{path}: was stored {'with' if stored.plan.tf32 else 'without'} --tf32")
    then = {result.key: result for result in stored.results}
    known = [result for result in report.results if result.key in then]
    if not known:
        raise UsageError(f"{path}: has none of these artifacts, engines, batches and threads; it has {_keys(stored)}")
    if not report.yardstick or not stored.yardstick:
        raise UsageError(f"{path}: nothing tells how fast the machine itself is, or was: its yardstick failed")
    drift = estimate_ratio(report.yardstick, stored.yardstick, report.plan.seed)
    regressions = []
    for result in known:
        old = then[result.key]
        noise = max(report.noise.get(result.batch, 0.0), stored.noise.get(result.batch, 0.0), noise_of(drift))
        ratio = estimate_ratio(result.latency.blocks, old.latency.blocks, report.plan.seed)
        judgement = _refusal(result, old) or judge(ratio, noise, report.plan.margin)
        regressions.append(Comparison(result.name, f"the same in {path.name}", result.batch, ratio, judgement))
    unknown = [result for result in report.results if result.key not in then]
    notes = (
        f"against {path.name}, the machine itself takes {drift.value - 1:+.1%} time for the same arithmetic",
        *_changes(report, stored),
        *(f"{path.name} knows nothing of {_name(result)}" for result in unknown),
    )
    return replace(report, regressions=tuple(regressions), notes=(*report.notes, *notes))


def _refusal(now: Result, then: Result) -> Judgement | None:
    """Return why two results can't be compared, or None."""
    for result, when in ((now, "now"), (then, "then")):
        if not result.is_valid:
            return invalid(f"invalid {when}: {'; '.join(result.faults)}", "make all of it run on the device")
    return None


def _changes(report: Report, stored: Report) -> Iterator[str]:
    """Say which packages are others than they were."""
    now, then = report.environment, stored.environment
    for package in sorted(now.keys() | then.keys()):
        if now.get(package) != then.get(package):
            yield f"{package}: {then.get(package, 'absent')} then, {now.get(package, 'absent')} now"


def _name(result: Result) -> str:
    return f"{result.name} at batch {result.batch} with {result.threads} threads"


def _keys(stored: Report) -> str:
    return ", ".join(map(_name, stored.results)) or "nothing"
