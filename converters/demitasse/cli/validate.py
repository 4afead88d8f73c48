"""`demitasse validate`: compare artifacts with their source."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demitasse.cli import options
from demitasse.cli.progress import show_progress
from demitasse.cli.tables import show
from demitasse.errors import UsageError

if TYPE_CHECKING:
    from demitasse_validation.report import Report

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Declare the command."""
    parser = subparsers.add_parser(
        "validate",
        help="compare every layer and output of artifacts with their source",
        description="Status 0: every gate holds. 1: one fails. 2: the call or a file is bad.",
    )
    parser.add_argument("artifacts", metavar="ARTIFACT", type=Path, nargs="+")
    parser.add_argument(
        "--against", required=True, nargs="+", type=Path, metavar=("SOURCE", "WEIGHTS"), help="what they were made from"
    )
    inputs = parser.add_mutually_exclusive_group()
    inputs.add_argument("--images", type=Path, metavar="DIR", help="a folder of images, a .txt list, or one image")
    inputs.add_argument("--inputs", type=Path, metavar="FILE.npz", help="one array an input, in the source's layout")
    inputs.add_argument("--random", metavar="N", help="N seeded random inputs (default: 4)")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--top", default="5", metavar="K", help="how many classes a ranking shows")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write the report there")
    parser.add_argument(
        "--benchmark", type=Path, metavar="FILE", help="figures of `benchmark --save`, to stand beside accuracy there"
    )
    parser.add_argument("--tolerances", type=Path, metavar="FILE", help="TOML: overrides a layer, each with a reason")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="figures of an accepted run: worse ones fail")
    parser.add_argument("--update-baseline", action="store_true", help="keep this run's figures, if its gates hold")
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="write the first wrong layer there, alone, to show it"
    )
    parser.add_argument(
        "--map", type=Path, metavar="FILE", help="TOML: where inputs, outputs and layers are in a file without document"
    )
    parser.add_argument("--threads", metavar="N", help="threads of each runtime")
    parser.add_argument("--plugin", action="append", default=[], type=Path, metavar="FILE.py")
    options.add_route(parser)
    options.add_preprocessing(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Compare, show and write the report, and return its exit status."""
    from demitasse.preprocess import images_in
    from demitasse_validation import benchmark
    from demitasse_validation.baseline import Baseline
    from demitasse_validation.comparison import compare
    from demitasse_validation.mapping import Places
    from demitasse_validation.report.write import write_report
    from demitasse_validation.tolerances import DEFAULT, Tolerances

    if len(arguments.against) > 2:
        raise UsageError("--against takes a source and, where it doesn't hold them, its weights")
    if arguments.update_baseline and arguments.baseline is None:
        raise UsageError("--update-baseline needs --baseline FILE")
    if arguments.benchmark is not None and arguments.report is None:
        raise UsageError("--benchmark needs --report DIR, where its figures are shown")
    speeds = benchmark.load(arguments.benchmark).speeds() if arguments.benchmark else ()
    baseline = None if arguments.baseline is None else Baseline.load(arguments.baseline)
    with show_progress(arguments.quiet) as progress:
        report = compare(
            options.artifacts(arguments.artifacts),
            *arguments.against,
            inputs=_inputs(arguments),
            preprocessing=options.preprocessing(arguments),
            labels=options.labels(arguments.labels),
            top=options.positive("--top", arguments.top),
            tolerances=Tolerances.load(arguments.tolerances) if arguments.tolerances else DEFAULT,
            threads=None if arguments.threads is None else options.positive("--threads", arguments.threads),
            plugins=arguments.plugin,
            route=arguments.route,
            bundle=arguments.bundle,
            places=Places.load(arguments.map) if arguments.map else None,
            baseline=None if arguments.update_baseline else baseline,
            progress=progress,
        )
    if arguments.update_baseline and baseline is not None and report.passed:
        baseline.updated(report).save(arguments.baseline)
    if arguments.report is not None:
        images = images_in(arguments.images) if arguments.images else ()
        write_report(report, arguments.report, images=images, benchmark=speeds)
    show_report(report, as_json=arguments.json)
    return report.exit_status


def _inputs(arguments: argparse.Namespace) -> Any:
    from demitasse_validation.inputs import Random

    if arguments.images is not None:
        return arguments.images
    if arguments.inputs is not None:
        return arguments.inputs
    count = 4 if arguments.random is None else options.positive("--random", arguments.random)
    return Random(count, arguments.seed)


def show_report(report: Report, *, as_json: bool) -> None:
    """Print a report: as JSON, or as tables."""
    if as_json:
        print(report.to_json())
        return
    from demitasse_validation.report.terminal import render

    show(render(report))
