"""Read, convert and compare every real net of a zoo folder, and write docs/coverage.md.

The zoo holds real trained nets (`caffe/NAME`: prototxt, weights, golden.npz of a real Caffe), real prototxts without
weights (`prototxt-only`) and, for many of those, outputs of a real Caffe for seeded weights (`seeded`). Artifacts are
compared with the float64 evaluator, and that with Caffe. Every net runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from resnet import caffe_layer

if TYPE_CHECKING:
    from demitasse.ir.graph import Graph

Arrays = Mapping[str, npt.NDArray[Any]]

REPOSITORY = Path(__file__).parent.parent
TARGETS = ("onnx", "tflite")
TOLERANCE = 1e-4

# Nets that leave the shape of their input, or the stage that they are for, to whoever runs them.
SHAPES = {
    "bayesian_segnet_basic": {"data": (1, 3, 360, 480)},
    "fcn32s_nyud_hha_color_test": {"color": (1, 3, 425, 560), "hha": (1, 3, 425, 560)},
    "fcn_alexnet_val": {"data": (1, 3, 500, 500)},
    "lenet_traintest": {"data": (1, 1, 28, 28)},
    "segnet": {"data": (1, 3, 360, 480)},
    "segnet_basic": {"data": (1, 3, 360, 480)},
    "mnist_autoencoder_traintest": {"data": (1, 1, 28, 28)},
}
STAGES = {"mnist_autoencoder_traintest": ("test-on-test",)}


@dataclass
class Row:
    """What became of one net: `truth` is the evaluator's error against real Caffe, in shares of each blob's peak."""

    name: str
    weights: str
    layers: int = 0
    truth: float | None = None
    onnx: float | None = None
    tflite: float | None = None
    reason: str = ""

    def line(self) -> str:
        figures = [_figure(value) for value in (self.truth, self.onnx, self.tflite)]
        return f"| {self.name} | {self.weights} | {self.layers or ''} | {' | '.join(figures)} | {self.reason} |"

    @classmethod
    def parsed(cls, line: str) -> Row:
        """Read what `line` wrote."""
        name, weights, layers, *figures, reason = (cell.strip() for cell in line.strip().strip("|").split("|"))
        truth, onnx, tflite = (float(cell.removesuffix("(!)")) if cell else None for cell in figures)
        return cls(name, weights, int(layers or 0), truth, onnx, tflite, reason)

    @property
    def is_in_doubt(self) -> bool:
        """Whether the run itself failed, by which nothing is said of the net, or a figure is above the tolerance."""
        figures = [value for value in (self.truth, self.onnx, self.tflite) if value is not None]
        return self.reason.startswith(("crashed", "took longer")) or any(value > TOLERANCE for value in figures)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}" + ("" if value <= TOLERANCE else " (!)")


def _name_of(prototxt: Path) -> str:
    return prototxt.parent.name if prototxt.name == "deploy.prototxt" else prototxt.stem


def error(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Return the largest difference in shares of the largest element; infinite where shapes differ or NaN appears."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    peak = max(float(np.abs(expected).max()), 1e-6) if expected.size else 1.0
    return float(np.abs(actual.astype(np.float64) - expected).max()) / peak if expected.size else 0.0


def shapes_wanted(prototxt: Path, given: Mapping[str, Any]) -> list[tuple[str, str, int, tuple[int, ...]]]:
    """Ask the reader which blobs (layer, type, index, shape) a net needs."""
    from demitasse.readers.caffe import read
    from demitasse.readers.caffe.builder import LayerBuilder

    wanted: list[tuple[str, str, int, tuple[int, ...]]] = []
    original = LayerBuilder.blob

    def blob(self: LayerBuilder, index: int, what: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        wanted.append((self.name, self.type, index, shape))
        return original(self, index, what, shape)

    LayerBuilder.blob = blob  # type: ignore[method-assign]
    try:
        read(prototxt, None, allow_missing_weights=True, **given)
    finally:
        LayerBuilder.blob = original  # type: ignore[method-assign]
    return list(dict.fromkeys(wanted))


def seeded_weights(prototxt: Path, place: Path, given: Mapping[str, Any]) -> None:
    """Write a caffemodel of random weights that keep activations near their scale."""
    layers: dict[tuple[str, str], dict[int, npt.NDArray[np.float32]]] = {}
    for name, kind, index, shape in shapes_wanted(prototxt, given):
        layers.setdefault((name, kind), {})[index] = _fill(name, kind, index, shape)
    with place.open("wb") as file:
        for (name, kind), blobs in layers.items():
            file.write(caffe_layer(name, kind, [blobs[index] for index in sorted(blobs)]))


def _fill(name: str, kind: str, index: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    random = np.random.default_rng(zlib.crc32(f"{name}/{index}".encode()))
    match kind, index:
        case "BatchNorm", 2:
            values = np.ones(shape)
        case ("BatchNorm", 1) | ("BN", 0 | 3) | ("Scale", 0):
            values = random.uniform(0.5, 1.5, shape)
        case "PReLU", _:
            values = random.uniform(0.1, 0.4, shape)
        case _ if len(shape) >= 2:
            values = random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        case _:
            values = random.normal(0, 0.05, shape)
    return values.astype(np.float32)


def find_weights(zoo: Path, prototxt: Path, scratch: Path, given: Mapping[str, Any]) -> tuple[Path, str]:
    """Return weights for a prototxt: its own, the zoo's seeded ones, or ones made here; and which they are."""
    for name in ("weights.caffemodel", "weights.caffemodel.h5"):
        if (prototxt.parent / name).exists():
            return prototxt.parent / name, "trained"
    place = scratch / "weights.caffemodel"
    shapes = prototxt.with_suffix(".shapes.json")
    if shapes.exists() and (zoo / "seeded" / f"{prototxt.stem}.npz").exists():
        tool = zoo / "tools" / "seeded_caffemodel.py"
        subprocess.run([sys.executable, str(tool), str(shapes), str(place)], check=True)
        return place, "seeded"
    seeded_weights(prototxt, place, given)
    return place, "random"


def golden_of(zoo: Path, prototxt: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the inputs and outputs of a real Caffe run, if the zoo holds any for this net."""
    own = prototxt.parent / "golden.npz"
    seeded = zoo / "seeded" / f"{prototxt.stem}.npz"
    path = own if own.exists() else seeded if prototxt.parent.name == "prototxt-only" and seeded.exists() else None
    if path is None:
        return {}
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def against_caffe(golden: Arrays, values: Arrays) -> float | None:
    """Compare what real Caffe gave: whole blobs (`out:NAME`, `mid:NAME`), or every n-th element (`mid[::n]:NAME`)."""
    worst = None
    for key, expected in golden.items():
        match = re.fullmatch(r"(?:out|mid)(?:\[::(\d+)\])?:(.*)", key)
        if match is None or match[2] not in values:
            continue
        actual = values[match[2]].ravel()[:: int(match[1])] if match[1] else values[match[2]]
        if expected.ndim == 4 and expected.shape[-1] == 7 and not match[1]:
            # Caffe gives as many detections as it found; ours has a fixed number of rows, found ones first.
            actual = actual[:, :, : expected.shape[2]]
        found = error(actual, expected)
        worst = found if worst is None else max(worst, found)
    return worst


def examine(zoo: Path, prototxt: Path) -> Row:
    """Read, evaluate, convert and compare one net."""
    from demitasse.errors import DemitasseError
    from demitasse.ir.evaluate import evaluate
    from demitasse.readers.caffe import read

    row = Row(_name_of(prototxt), "")
    golden = golden_of(zoo, prototxt)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            given: dict[str, Any] = {"input_shapes": SHAPES.get(prototxt.stem), "stages": STAGES.get(prototxt.stem, ())}
            shapes = {key.removeprefix("in:"): array.shape for key, array in golden.items() if key.startswith("in:")}
            shapes |= {
                key.removeprefix("inshape:"): tuple(map(int, dims))
                for key, dims in golden.items()
                if key.startswith("inshape:")
            }
            given["input_shapes"] = given["input_shapes"] or shapes or None
            weights, row.weights = find_weights(zoo, prototxt, Path(scratch), given)
            graph = replace(read(prototxt, weights, **given), batch_is_dynamic=False)
            row.layers = len(graph.layers)
            feeds = {
                name: golden.get(f"in:{name}", _random_input(name, place, graph.type(name).shape))
                for place, name in enumerate(graph.inputs)
            }
            feeds = {name: np.asarray(array, graph.type(name).dtype.value) for name, array in feeds.items()}
            values = evaluate(graph, feeds)
            # Some references name a result after its layer instead of its blob.
            by_layer = {
                layer.origin.layer: values[layer.outputs[0]]
                for layer in graph.layers
                if set(layer.outputs[:1]) & set(values)
            }
            row.truth = against_caffe(golden, by_layer | values)
            outputs = {name: values[name] for name in _telling(graph, row.weights)}
            for target in TARGETS:
                try:
                    setattr(row, target, _artifact_error(target, graph, Path(scratch), feeds, outputs))
                except DemitasseError as refusal:
                    row.reason += _told(refusal, prototxt)
        except DemitasseError as refusal:
            row.reason += _told(refusal, prototxt)
    return row


def _telling(graph: Graph, weights: str) -> list[str]:
    """Return the blobs to compare: the outputs, or what a detection is made of where the weights are random.

    Random weights score thousands of boxes alike, so which of them are kept hangs on the last bit of each score.
    """
    layers = {layer.outputs[0]: layer for layer in graph.layers if layer.outputs}
    telling: list[str] = []
    for name in graph.outputs:
        layer = layers.get(name)
        is_detection = layer is not None and layer.origin.kind.endswith("DetectionOutput") and weights == "random"
        telling += [each for each in layer.inputs if each in graph.values] if layer and is_detection else [name]
    return telling


def _random_input(name: str, place: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Draw an input as the zoo's references did; regions of interest lie inside the only image."""
    values = np.random.RandomState(place).normal(0, 1, shape)
    if name != "rois":
        return values
    corners = np.sort(np.random.RandomState(place).uniform(0, 200, (shape[0], 2, 2)), axis=1).reshape(shape[0], 4)
    return np.concatenate([np.zeros((shape[0], 1)), corners], axis=1).reshape(shape)


def _told(refusal: Exception, prototxt: Path) -> str:
    return " ".join(str(refusal).replace(str(prototxt), prototxt.name).replace("|", "/").split())[:400]


def _artifact_error(name: str, graph: Graph, scratch: Path, feeds: Arrays, outputs: Arrays) -> float:
    """Write a graph for a target, run the artifact in its runtime, and compare its outputs with the evaluator's."""
    from demitasse.errors import Unsupported
    from demitasse.ir.document import describe
    from demitasse.targets import TARGETS, lower, simplify
    from demitasse_validation.runtimes import open_runner

    target = TARGETS[name]
    lowered = lower(simplify(graph), target)
    offences = target.offences(lowered)
    if offences:
        raise Unsupported(name, offences)
    path = scratch / f"net{target.suffix}"
    document = describe(lowered, target=name, tool="coverage", source_format="caffe", source=(), options={})
    target.write(lowered, path, document)
    document = target.read_document(path) or document
    runner = open_runner(path)
    stored = {port.tensor: np.ascontiguousarray(port.storage.store(feeds[port.name])) for port in document.inputs}
    given = runner.run(stored)
    errors = [
        error(port.storage.restore(given[port.tensor]), outputs[port.name])
        for port in document.outputs
        if port.name in outputs
    ]
    # What detections are made of, where the detections of random weights say nothing.
    held = {record.tensor: record for record in document.provenance if record.blob in outputs and record.storage}
    layers = runner.run_layers(stored, [tensor for tensor in held if tensor])
    for tensor, array in layers.items():
        storage = held[tensor].storage
        if storage is not None:
            errors.append(error(storage.restore(array), outputs[held[tensor].blob]))
    return max(errors)


def in_own_process(zoo: Path, prototxt: Path, seconds: int) -> Row:
    """Examine a net in a process of its own, so that a crash or a hang is its row alone."""
    command = [sys.executable, __file__, "--zoo", str(zoo), "--one", str(prototxt)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True)
        return Row(**json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return Row(_name_of(prototxt), "", reason=f"took longer than {seconds} s")
    except subprocess.CalledProcessError as failure:
        last = failure.stderr.strip().splitlines()[-1:] or ["no message"]
        return Row(_name_of(prototxt), "", reason=f"crashed: {last[0]}")


def summary(rows: list[Row], is_good: Callable[[Row], bool]) -> str:
    """Count the rows for which something holds."""
    good = sum(map(is_good, rows))
    return f"{good} of {len(rows)} ({good / max(len(rows), 1):.0%})"


def report(trained: list[Row], structures: list[Row]) -> str:
    """Compose the page."""

    def holds(value: float | None) -> bool:
        return value is not None and value <= TOLERANCE

    head = (
        "| net | weights | layers | evaluator against Caffe | ONNX | TFLite | reason |\n|---|---|---|---|---|---|---|"
    )
    known = [row for row in structures if row.truth is not None]
    lines = [
        "# Coverage",
        "",
        "Real Caffe nets, read, converted and compared; written by `python benchmarks/coverage.py`. A figure is the",
        "largest difference of any compared blob, in shares of that blob's peak; (!) marks one above 1e-4. The",
        "evaluator is compared with a real Caffe's blobs, artifacts with the evaluator, each in its own runtime.",
        "",
        f"- trained nets that convert to ONNX and agree: {summary(trained, lambda row: holds(row.onnx))}",
        f"- trained nets that convert to TFLite and agree: {summary(trained, lambda row: holds(row.tflite))}",
        f"- structures that convert to ONNX and agree: {summary(structures, lambda row: holds(row.onnx))}",
        f"- structures that convert to TFLite and agree: {summary(structures, lambda row: holds(row.tflite))}",
        f"- structures with known outputs where the evaluator agrees: {summary(known, lambda row: holds(row.truth))}",
        "",
        "## Trained nets",
        "",
        head,
        *[row.line() for row in trained],
        "",
        "## Structures, with seeded or random weights",
        "",
        head,
        *[row.line() for row in structures],
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Examine all nets, and write the page."""
    default = os.environ.get("DEMITASSE_ZOO") or REPOSITORY.parent / "shared" / "zoo"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, default=Path(default))
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help="examine nets whose name holds this, and print instead of writing")
    parser.add_argument("--again", action="store_true", help="examine only what crashed or was off the last time")
    parser.add_argument("--seconds", type=int, default=300, help="the longest that one net may take")
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(asdict(examine(arguments.zoo, arguments.one))))
        return 0
    trained = sorted((arguments.zoo / "caffe").glob("*/deploy.prototxt"))
    structures = sorted((arguments.zoo / "prototxt-only").glob("*.prototxt"))
    page = REPOSITORY / "docs" / "coverage.md"
    known = _known_rows(page) if arguments.again else {}
    parts = []
    for paths in (trained, structures):
        rows = []
        for path in paths:
            if arguments.only not in str(path):
                continue
            name = _name_of(path)
            rows.append(known.get(name) or in_own_process(arguments.zoo, path, arguments.seconds))
            if name not in known:
                print(rows[-1].line(), flush=True)
        parts.append(rows)
    if not arguments.only:
        page.write_text(report(*parts), "utf-8")
    return 0


def _known_rows(page: Path) -> dict[str, Row]:
    """Read the rows of an earlier page that leave no doubt."""
    lines = [line for line in page.read_text("utf-8").splitlines() if line.startswith("| ") and line.count("|") == 8]
    rows = [Row.parsed(line) for line in lines if not line.startswith("| net |")]
    return {row.name: row for row in rows if not row.is_in_doubt}


if __name__ == "__main__":
    sys.exit(main())
