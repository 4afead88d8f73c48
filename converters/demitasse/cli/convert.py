"""`demitasse convert`: write artifacts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from demitasse.cli import options
from demitasse.cli.progress import show_progress
from demitasse.errors import UsageError

if TYPE_CHECKING:
    from demitasse.conversion import Manifest

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
            progress=progress,
            **options.source_options(arguments),
        )
    _print(manifest, arguments)
    return 0


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
        print(json.dumps(data, ensure_ascii=False))
        return
    if arguments.quiet:
        return
    seconds = {step.name: step.seconds for step in manifest.steps}
    width = max(len(artifact.target) for artifact in manifest.artifacts)
    for artifact in manifest.artifacts:
        took = seconds.get(f"write {artifact.target}", 0.0)
        print(f"{artifact.target:{width}}  {artifact.bytes / 1e6:8.2f} MB  {took:6.2f} s  {artifact.path}")
    for note in manifest.notes:
        print(f"note: {note}")
