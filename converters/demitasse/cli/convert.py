"""`demitasse convert`: write artifacts."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demitasse.cli import options
from demitasse.cli.progress import show_progress
from demitasse.errors import UsageError

if TYPE_CHECKING:
    from demitasse.conversion import Manifest
    from demitasse.quantize.artifact import Settings
    from demitasse.quantize.doctor import Diagnosis

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Declare the command."""
    parser = subparsers.add_parser(
        "convert",
        help="write artifacts from a source model",
        description="Convert a Caffe or Keras model. What OUT ends in says the format; any other name is a folder that "
        "receives one artifact a format and demitasse.json.",
    )
    parser.add_argument("source", metavar="SOURCE", type=Path, help="prototxt, .h5, .hdf5, .keras or .json")
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, nargs="?", help=".caffemodel, .caffemodel.h5 or .h5")
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="OUT")
    parser.add_argument(
        "--to",
        metavar="LIST",
        help="onnx, onnx-int8, onnx-f16, tflite, tflite-int8, tflite-16x8 (8-bit weights, 16-bit activations), "
        "tflite-dynamic (8-bit weights, no calibration), tflite-f16, savedmodel, weights",
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="DATA", help="images (folder, .txt list) or arrays for INT8"
    )
    parser.add_argument("--batch", metavar="N|dynamic", help="batch of the artifacts")
    parser.add_argument("--io-layout", choices=("nchw", "nhwc"), help="layout of image inputs and outputs")
    parser.add_argument("--opset", metavar="N", help="ONNX opset")
    parser.add_argument("--int8-io", action="store_true", help="integer inputs and outputs for INT8 artifacts")
    _add_quantization(parser)
    options.add_source(parser)
    options.add_route(parser)
    options.add_preprocessing(parser)
    parser.add_argument(
        "--fold-preprocessing",
        action="store_true",
        help="put mean, scale and channel order into the graph: uint8 RGB in",
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Convert and say what was written."""
    from demitasse.conversion import convert
    from demitasse.ir.ops import Layout

    layouts = {"nchw": Layout.CHANNELS_FIRST, "nhwc": Layout.CHANNELS_LAST, None: None}
    with show_progress(arguments.quiet) as progress:
        manifest = convert(
            arguments.source,
            arguments.weights,
            out=arguments.out,
            to=_targets(arguments.to),
            calibration=arguments.calibration,
            batch=options.batch(arguments.batch, arguments.input_shape),
            io_layout=layouts[arguments.io_layout],
            opset=None if arguments.opset is None else options.positive("--opset", arguments.opset),
            int8_io=arguments.int8_io,
            preprocessing=options.preprocessing(arguments),
            fold=arguments.fold_preprocessing,
            labels=options.labels(arguments.labels),
            reading=options.reading(arguments),
            route=arguments.route,
            quantization=_quantization(arguments),
            progress=progress,
            **options.source_options(arguments),
        )
    _print(manifest, arguments)
    return 0 if all(diagnosis.met for diagnosis in manifest.diagnoses.values()) else 1


METHODS = ("auto", "min-max", "moving-average", "percentile", "entropy", "mse")


def _add_quantization(parser: argparse.ArgumentParser) -> None:
    """Declare what says how INT8 artifacts are made."""
    group = parser.add_argument_group("INT8")
    group.add_argument(
        "--calibrate",
        choices=METHODS,
        default="auto",
        help="how ranges are chosen (default: auto, for each tensor the one with the least measured error)",
    )
    group.add_argument(
        "--ranges",
        type=Path,
        metavar="FILE.json",
        help="keep ranges in this file, and take them from it where it has them",
    )
    group.add_argument(
        "--bias-correction",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let biases make up for what rounding the weights shifts (default: yes)",
    )
    group.add_argument(
        "--compensate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="round each weight up or down so that what one loses others make up for (default: yes)",
    )
    group.add_argument(
        "--equalize",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="bring channels that share 8 bits to a like size, where the net computes the same (default: yes)",
    )
    group.add_argument(
        "--int8-activations",
        choices=("signed", "unsigned"),
        help="ONNX: the integers between layers (default: unsigned on x86, which has products of unsigned by signed "
        "bytes, else signed)",
    )
    group.add_argument(
        "--int8-target",
        metavar="top1=0.99|sqnr=20",
        help="keep as few layers real as it takes to reach this on held-back samples (sqnr in decibels); "
        "status 1 where it can't be reached",
    )
    group.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE.json",
        help="layers that stay real: written with --int8-target, else read",
    )


def _quantization(arguments: argparse.Namespace) -> Settings:
    from demitasse.quantize.artifact import Settings
    from demitasse.quantize.doctor import Goal
    from demitasse.quantize.ranges import Method

    return Settings(
        method=Method(arguments.calibrate),
        bias_correction=arguments.bias_correction,
        compensate=arguments.compensate,
        equalize=arguments.equalize,
        signed=None if arguments.int8_activations is None else arguments.int8_activations == "signed",
        ranges=arguments.ranges,
        goal=None if arguments.int8_target is None else Goal.parse(arguments.int8_target),
        recipe=arguments.recipe,
    )


def _curve(diagnosis: Diagnosis) -> list[str]:
    """Spell a trade curve, one point a line."""
    lines = [f"  {'real layers':>11}  {'top-1':>7}  {'SQNR dB':>7}  {'MB':>7}  {'ms':>7}"]
    for point in diagnosis.curve:
        mark = "  <- chosen" if point == diagnosis.chosen else ""
        lines.append(
            f"  {len(point.real):>11}  {point.top1:7.3f}  {point.sqnr:7.1f}  {point.bytes / 1e6:7.2f}  "
            f"{point.milliseconds:7.2f}{mark}"
        )
    if diagnosis.chosen.real:
        lines.append(f"  real: {', '.join(diagnosis.chosen.real)}")
    return lines


def _strict(data: Any) -> Any:
    """Put null in the place of infinite numbers, which JSON doesn't have."""
    if isinstance(data, dict):
        return {name: _strict(each) for name, each in data.items()}
    if isinstance(data, list | tuple):
        return [_strict(each) for each in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _targets(text: str | None) -> list[str] | None:
    wanted = options.names(text)
    if wanted == []:
        raise UsageError("--to names no target")
    return wanted


def _print(manifest: Manifest, arguments: argparse.Namespace) -> None:
    if arguments.json:
        data = json.loads(manifest.to_json())
        for entry, artifact in zip(data["artifacts"], manifest.artifacts, strict=True):
            entry["path"] = str(artifact.path)
        data["seconds"] = {step.name: round(step.seconds, 3) for step in manifest.steps}
        data["int8"] = {
            name: _strict(asdict(diagnosis) | {"met": diagnosis.met}) for name, diagnosis in manifest.diagnoses.items()
        }
        print(json.dumps(data, ensure_ascii=False))
        return
    if arguments.quiet:
        return
    seconds = {step.name: step.seconds for step in manifest.steps}
    width = max(len(artifact.target) for artifact in manifest.artifacts)
    for artifact in manifest.artifacts:
        took = seconds.get(f"write {artifact.target}", 0.0)
        print(f"{artifact.target:{width}}  {artifact.bytes / 1e6:8.2f} MB  {took:6.2f} s  {artifact.path}")
    for name, diagnosis in manifest.diagnoses.items():
        verdict = "met" if diagnosis.met else "NOT met; the best found is kept"
        print(f"{name}: {diagnosis.goal} on {diagnosis.samples} held-back samples: {verdict}")
        print("\n".join(_curve(diagnosis)))
    for note in (*manifest.notes, *_processor_notes(manifest, arguments)):
        print(f"note: {note}")


def _processor_notes(manifest: Manifest, arguments: argparse.Namespace) -> list[str]:
    """Say what this processor makes of an artifact; that depends on it, and stands in no document."""
    if not any(artifact.target == "onnx-int8" for artifact in manifest.artifacts):
        return []
    from demitasse.quantize.processor import may_saturate, prefers_signed

    signed = prefers_signed() if arguments.int8_activations is None else arguments.int8_activations == "signed"
    if signed or not may_saturate():
        return []
    note = (
        "this processor has no VNNI: it adds pairs of products of unsigned by signed bytes in 16 bits, which may "
        "saturate in onnx-int8; validate it here, or choose --int8-activations signed"
    )
    return [note]
