"""Checks the benchmark itself, for real: a model against itself must be the SAME, and one that sleeps SLOWER.

`python benchmarks/instrument.py net.onnx` checks it alone; `make bench` does so on the way.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from demitasse_validation.benchmark import Contender, Plan, measure
from demitasse_validation.benchmark.engines import ENGINES
from demitasse_validation.benchmark.verdicts import Verdict

__all__ = ["check", "lines"]

SHARE = 0.10


Verdicts = Counter[Verdict]


def check(path: Path, plan: Plan, runs: int, progress: Callable[[str], None]) -> tuple[Verdicts, Verdicts]:
    """Count the verdicts on a model against itself, and on one that sleeps a tenth of its time more."""
    plain = ENGINES["onnxruntime"]
    slowed = replace(
        plain, name="slowed", place=("slowed", "SlowedOnnxEngine"), options={**plain.options, "share": SHARE}
    )
    # Workers import what this folder holds.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    same, slower = Verdicts(), Verdicts()
    for run in range(runs):
        progress(f"the benchmark itself, run {run + 1} of {runs}")
        chosen = [Contender(path, plain), Contender(path, plain), Contender(path, slowed)]
        first, second = measure(chosen, replace(plan, seed=run)).comparisons
        same[first.judgement.verdict] += 1
        slower[second.judgement.verdict] += 1
        progress(f"  the same model: {first.judgement.reason}; slowed: {second.judgement.reason}")
    return same, slower


def lines(path: Path, plan: Plan, runs: int, progress: Callable[[str], None]) -> Iterator[str]:
    """Yield what came out, in Markdown."""
    same, slower = check(path, plan, runs, progress)
    yield (
        f"{path.name}, threads: {plan.threads}, at least {plan.seconds:g} s each, runs: {runs}. Against itself: "
        f"{_told(same)}. Against itself, slowed by {SHARE:.0%} with a sleep: {_told(slower)}."
    )


def _told(verdicts: Verdicts) -> str:
    return ", ".join(f"{verdict.value} in {count}" for verdict, count in verdicts.most_common())


def main() -> int:
    """Check, and print; status 1 if a verdict is not the right one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="an .onnx file")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--threads", type=int, default=1, help="one leaves room for what else runs (default)")
    arguments = parser.parse_args()
    plan = Plan(arguments.seconds, arguments.threads)
    same, slower = check(arguments.model, plan, arguments.runs, lambda text: print(text, flush=True))
    print(f"against itself: {_told(same)}; slowed by {SHARE:.0%}: {_told(slower)}; of {arguments.runs} runs")
    return int(same[Verdict.SAME] < arguments.runs or slower[Verdict.SLOWER] < arguments.runs)


if __name__ == "__main__":
    sys.exit(main())
