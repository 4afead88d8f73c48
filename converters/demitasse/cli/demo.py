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
from demitasse.cli.progress import Progress, native_messages_in, show_progress

if TYPE_CHECKING:
    from rich.console import Console

    from demitasse.conversion import Manifest
    from demitasse_validation.latency import Measurement
    from demitasse_validation.report import ArtifactReport, Report

__all__ = ["add_parser", "run"]

CARD = "open_nsfw"
CALIBRATION, HELD_BACK = 32, 8


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Declare the command."""
    parser = subparsers.add_parser(
        "demo",
        help="convert, validate and benchmark a real legacy Caffe model, end to end",
        description="Fetch Yahoo's open_nsfw (a ResNet-50 with half the channels, 24 MB, BSD-2), convert it to every "
        "format, compare each with the source, layer by layer, and time them.",
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="a folder with the model's two files, if at hand")
    parser.add_argument("--images", type=Path, metavar="DIR", help="photographs to use instead of made ones")
    parser.add_argument("--out", type=Path, default=Path("demitasse-demo"), metavar="DIR", help="default: %(default)s")
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
        self.seconds[title] = time.perf_counter() - start
        self.console.print(f"[bold]{len(self.seconds)}. {title}[/bold]  {self.seconds[title]:.1f} s", highlight=False)
        for line in said:
            self.console.print(f"   {line}", highlight=False, markup=False, soft_wrap=True)


def run(arguments: argparse.Namespace) -> int:
    """Run all steps; the status is the validation's."""
    from rich.console import Console

    from demitasse_models.catalogue import card
    from demitasse_models.fetch import fetch
    from demitasse_validation.report.write import write_report

    seconds = options.positive("--seconds", arguments.seconds)
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = card(CARD)
    log = arguments.out / "runtimes.log"
    with native_messages_in(log) as terminal, show_progress(arguments.quiet, terminal) as progress:
        show = _Show(Console(file=terminal if arguments.json else sys.stdout, quiet=arguments.quiet), progress)
        with show.step(f"Fetch {model.title}") as say:
            files = model.locate(arguments.model) if arguments.model else fetch(model)
            say(f"{model.description}")
            say(f"{files['weights']}, {files['weights'].stat().st_size:,} bytes, {model.licence}")
        with show.step("Get pictures") as say:
            calibration, held_back = _pictures(arguments)
            say(f"{len(calibration)} to calibrate INT8, {len(held_back)} others to compare on")
        with show.step("Convert") as say:
            manifest = _convert(arguments.out, files, calibration, progress)
            for artifact in manifest.artifacts:
                say(f"{artifact.target:12} {artifact.bytes / 1e6:6.1f} MB  {artifact.path}")
        with show.step("Validate, layer by layer, against the source") as say:
            report = _validate(manifest, files, held_back, progress)
            for line in _verdicts(report):
                say(line)
        with show.step("Predict") as say:
            for line in _predictions(manifest, held_back[0]):
                say(line)
        with show.step("Benchmark") as say:
            measurements = _benchmark(manifest, seconds)
            latencies = {each.target: _latency(each) for each in measurements}
            for target, text in latencies.items():
                say(f"{target:12} {text}")
            write_report(
                report,
                arguments.out / "report",
                images=held_back,
                benchmark=[each.to_dict() for each in measurements],
            )
    verdict = "all formats hold" if report.passed else "a gate fails: see the report"
    show.console.print(f"[bold]{verdict}[/bold]; {arguments.out / 'report'}", highlight=False)
    if arguments.json:
        print(_as_json(manifest, report, show.seconds, latencies))
    return report.exit_status


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


def _convert(out: Path, files: Mapping[str, Path], calibration: Sequence[Path], progress: Progress) -> Manifest:
    from demitasse.conversion import convert
    from demitasse_models.catalogue import card

    targets = ["onnx", "tflite", "tflite-int8"]
    if importlib.util.find_spec("tensorflow") is not None:
        targets.append("savedmodel")
    listed = out / "calibration.txt"
    listed.write_text("".join(f"{path.resolve()}\n" for path in calibration), "utf-8")
    model = card(CARD)
    return convert(
        files["source"],
        files["weights"],
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
        files["weights"],
        inputs=list(images),
        top=2,
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


def _predictions(manifest: Manifest, image: Path) -> Iterator[str]:
    from demitasse_validation.prediction import predict

    for artifact in manifest.artifacts:
        (prediction,) = predict(artifact.path, [image], top=2)
        scores = ", ".join(f"{each.label} {each.score:.5f}" for each in prediction.classes)
        yield f"{artifact.target:12} {image.name}: {scores}"


def _benchmark(manifest: Manifest, seconds: int) -> tuple[Measurement, ...]:
    from demitasse_validation.latency import benchmark

    return benchmark([artifact.path for artifact in manifest.artifacts], device="cpu", seconds=seconds)


def _latency(each: Measurement) -> str:
    return (
        f"{each.median * 1e3:6.1f} ms ({each.bounds.low * 1e3:.1f} to {each.bounds.high * 1e3:.1f}), "
        f"{each.batch / each.median:.0f} images/s, {each.threads} threads, {each.runtime}"
    )


def _as_json(manifest: Manifest, report: Report, seconds: Mapping[str, float], latencies: Mapping[str, str]) -> str:
    data: dict[str, Any] = {
        "manifest": json.loads(manifest.to_json()),
        "report": report.to_dict(),
        "seconds": seconds,
        "latency": latencies,
    }
    return json.dumps(data, ensure_ascii=False)
