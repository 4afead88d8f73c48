"""`demitasse benchmark`: time artifacts."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from demitasse.cli import options
from demitasse.cli.progress import show_progress
from demitasse.cli.tables import show
from demitasse.errors import UsageError

if TYPE_CHECKING:
    from demitasse_validation.benchmark import Plan, Report

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Declare the command."""
    parser = subparsers.add_parser(
        "benchmark",
        help="time artifacts, against each other and against stored results",
        description="Times each artifact in a process of its own, all of them in turns, and says no more than the "
        "samples allow. Status 0: every figure is valid. 1: one is not, or something is slower than in --against FILE. "
        "2: the call or a file is bad.",
    )
    parser.add_argument("artifacts", metavar="ARTIFACT", type=Path, nargs="+", help="the first is the baseline")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "gpu"),
        default="auto",
        help="auto: a graphics card for each artifact whose runtime can use one (default); gpu: that, or an error",
    )
    parser.add_argument("--batch", default="1", metavar="1,8,32", help="one or more sizes (default: 1)")
    parser.add_argument(
        "--seconds", default="5", metavar="S", help="how long each artifact and batch is timed (default: 5)"
    )
    parser.add_argument("--samples", default="64", metavar="N", help="and how often at least (default: 64, for p90)")
    parser.add_argument("--threads", metavar="N", help="of each runtime on the CPU (default: one a processor)")
    parser.add_argument("--engine", metavar="LIST", help="only these engines; tensorflow-xla runs only when named")
    parser.add_argument(
        "--source", nargs="+", type=Path, metavar=("SOURCE", "WEIGHTS"), help="time a Caffe net in OpenCV beside them"
    )
    parser.add_argument("--margin", default="5", metavar="PERCENT", help="differences that count for nothing")
    parser.add_argument("--allow-fallback", action="store_true", help="accept that part of a net leaves the device")
    parser.add_argument("--tf32", action="store_true", help="let graphics cards round float32 factors to TF32")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the inputs and of the intervals")
    stored = parser.add_argument_group("results")
    stored.add_argument("--save", type=Path, metavar="FILE", help="store the result as JSON")
    stored.add_argument("--against", type=Path, metavar="FILE", help="compare with a result stored on this machine")
    stored.add_argument("--report", type=Path, metavar="DIR", help="write benchmark.json and benchmark.svg there")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Time, compare, show and store; the status is the report's."""
    from demitasse_validation.benchmark import load, measure, select
    from demitasse_validation.benchmark.regression import compare_with

    if arguments.source is not None and len(arguments.source) > 2:
        raise UsageError("--source takes a prototxt and its weights")
    plan, batches = _plan(arguments), _batches(arguments.batch)
    if arguments.against is not None:
        load(arguments.against)  # a bad file must not be found after minutes of timing
    source, weights = [*(arguments.source or ()), None, None][:2]
    chosen = select(
        options.artifacts(arguments.artifacts),
        source=source,
        weights=weights,
        device=arguments.device,
        engines=options.names(arguments.engine) or (),
    )
    with show_progress(arguments.quiet) as progress:
        report = measure(chosen, plan, batches=batches, progress=progress)
    if arguments.save is not None:
        _write(arguments.save, report.to_json() + "\n")
    if arguments.against is not None:
        report = compare_with(report, arguments.against)
    if arguments.report is not None:
        write_report(report, arguments.report)
    _show(report, as_json=arguments.json)
    return report.exit_status


def write_report(report: Report, folder: Path) -> None:
    """Write the figures and their plot into a folder.

    Raises:
        UsageError: the folder can't be written.
    """
    from demitasse_validation.benchmark.plot import plot

    _write(folder / "benchmark.json", report.to_json() + "\n")
    _write(folder / "benchmark.svg", plot(report) + "\n")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"{path}: can't be written: {error.strerror}") from error


def _plan(arguments: argparse.Namespace) -> Plan:
    from demitasse_validation.benchmark import Plan
    from demitasse_validation.benchmark.machine import usable_cores

    return Plan(
        seconds=_number("--seconds", arguments.seconds),
        threads=usable_cores() if arguments.threads is None else options.positive("--threads", arguments.threads),
        samples=options.positive("--samples", arguments.samples),
        margin=_number("--margin", arguments.margin) / 100,
        allow_fallback=arguments.allow_fallback,
        tf32=arguments.tf32,
        seed=arguments.seed,
    )


def _batches(text: str) -> list[int]:
    return sorted({options.positive("--batch", part) for part in options.names(text) or [text]})


def _number(option: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise UsageError(f"{option} {text}: must be a number above 0")
    return number


def _show(report: Report, *, as_json: bool) -> None:
    from demitasse_validation.benchmark.scenarios import scenarios

    if as_json:
        entries = {"scenarios": [asdict(scenario) for scenario in scenarios(report)]}
        print(json.dumps(report.to_dict() | entries, ensure_ascii=False, indent=1, allow_nan=False))
        return
    from demitasse_validation.benchmark.terminal import render

    show(render(report))
