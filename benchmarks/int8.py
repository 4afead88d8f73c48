"""Compare 8-bit artifacts with the real nets and with other quantizers, and write docs/int8.md.

Nets and photographs come from a zoo folder. Every quantizer calibrates on the same augmented photographs, and all are
measured on others, in the same run: ours (`tflite-int8`, `onnx-int8`), TFLiteConverter on our SavedModel, and ONNX
Runtime's `quantize_static` with its defaults on our ONNX model. Where ours agrees with the real net on less than
`BARS`, what `--int8-target` makes of it follows. At last a ResNet-50 with random weights is made twice, each time in a
process of its own, for time and memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float32]

REPOSITORY = Path(__file__).parent.parent
THREADS = 2
MARGIN = 0.1
MAKERS = (
    ("demitasse", ".tflite"),
    ("TFLiteConverter", ".tflite"),
    ("demitasse", ".onnx"),
    ("onnxruntime", ".onnx"),
)
BARS = (0.95, 0.99)
"""The least agreement of all held-back winners, and of those that lead clearly; what `--int8-target` is asked for."""

MORE = 3
"""So many times as many photographs are given where a third of them is held back to measure on."""

MIXTURE = "demitasse tflite,"

PICTURES = (".jpg", ".png", ".bmp")


@dataclass(frozen=True)
class Net:
    """A net of the zoo and how its input is made: pixels in some channel order, minus a mean, times a scale.

    `outputs` cuts the net, before a softmax that hides what it was given.
    """

    folder: str
    files: tuple[str, ...]
    mean: tuple[float, ...]
    scale: float = 1.0
    bgr: bool = False
    outputs: tuple[str, ...] | None = None


CAFFE = ("deploy.prototxt", "weights.caffemodel")
IMAGENET, CIFAR = (104.0, 117.0, 123.0), (125.3, 123.0, 113.9)
NETS = (
    Net("caffe/open_nsfw", CAFFE, IMAGENET, bgr=True, outputs=("fc_nsfw",)),
    Net("caffe/squeezenet_v1.0_deepcompression", CAFFE, IMAGENET, bgr=True),
    Net("caffe/resnet20_cifar10_nhzlx", CAFFE, CIFAR),
    Net("caffe/samplenet_cifar10", CAFFE, CIFAR),
    Net("caffe/lenet_mnist_arm", CAFFE, (0.0,), 1 / 256),
    Net("keras/mlperftiny_resnet8_cifar10", ("model.h5",), (0.0,)),
    Net("keras/mlperftiny_vww_mobilenet025_96", ("model.h5",), (0.0,), 1 / 255),
    Net("keras/mobilenet_v1_025_128_imagenet_dequant", ("model.h5",), (128.0,), 1 / 128),
    Net("keras/fer_mini_xception", ("model.hdf5",), (127.5,), 1 / 127.5),
    Net("keras/openmv_mnist_cnn", ("model.h5",), (0.0,), 1 / 255),
)


@dataclass
class Row:
    """One 8-bit artifact against the real net: agreement, signal to noise in decibels, size and time as ratios."""

    net: str
    maker: str
    top1: float = math.nan
    sure: float = math.nan
    sqnr: float = math.nan
    size: float = math.nan
    latency: float = math.nan
    seconds: float = math.nan
    reason: str = ""


def pictures(folder: Path, size: tuple[int, int], channels: int, count: int, seed: int) -> Iterator[Array]:
    """Yield crops of photographs, some mirrored, with other brightness and contrast: `[height, width, channels]`."""
    from PIL import Image, ImageEnhance

    files = sorted(path for path in folder.iterdir() if path.suffix in PICTURES)
    random = np.random.default_rng(seed)
    for place in range(count):
        image = Image.open(files[place % len(files)]).convert("RGB")
        side = min(image.size) * random.uniform(0.5, 1)
        left, top = (random.uniform(0, length - side) for length in image.size)
        box = (left, top, left + side, top + side)
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = ImageEnhance.Brightness(image).enhance(random.uniform(0.7, 1.3))
        image = ImageEnhance.Contrast(image).enhance(random.uniform(0.8, 1.25))
        array = np.asarray(image.convert("L" if channels == 1 else "RGB"), np.float32)
        yield array.reshape(*size, channels)


def inputs(net: Net, folder: Path, shape: Sequence[int], first: bool, count: int, seed: int) -> Array:
    """Return `count` inputs in the source's layout, channels `first` or last."""
    channels, height, width = (shape[1], shape[2], shape[3]) if first else (shape[3], shape[1], shape[2])
    rows = np.stack(list(pictures(folder, (height, width), channels, count, seed)))
    if net.bgr:
        rows = rows[..., ::-1]
    mean = np.array(net.mean if channels > 1 else np.mean(net.mean), np.float32)
    rows = (rows - mean) * np.float32(net.scale)
    return np.ascontiguousarray(rows.transpose(0, 3, 1, 2) if first else rows, np.float32)


# --- other quantizers ------------------------------------------------------------------------------------------------


def tensorflow_int8(saved_model: Path, calibration: Array, path: Path) -> None:
    """Quantize with TensorFlow's converter: full integers inside, real numbers at the ports."""
    import tensorflow

    converter = tensorflow.lite.TFLiteConverter.from_saved_model(str(saved_model))
    converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in calibration)
    operators = tensorflow.lite.OpsSet
    converter.target_spec.supported_ops = [operators.TFLITE_BUILTINS_INT8, operators.TFLITE_BUILTINS]
    path.write_bytes(converter.convert())


def onnxruntime_int8(model: Path, calibration: Array, path: Path) -> None:
    """Quantize with ONNX Runtime's defaults."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    name = onnxruntime.InferenceSession(str(model)).get_inputs()[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = iter(calibration)

        def get_next(self) -> dict[str, Array] | None:
            row = next(self.rows, None)
            return None if row is None else {name: row[None]}

    quantize_static(str(model), str(path), Reader())


# --- measuring ----------------------------------------------------------------------------------------------------


class Model:
    """An artifact with one input in its runtime."""

    def __init__(self, path: Path) -> None:
        self.size = path.stat().st_size
        self._run = _litert(path) if path.suffix == ".tflite" else _onnxruntime(path)

    def outputs(self, rows: Array) -> npt.NDArray[np.float64]:
        return np.stack([np.asarray(self._run(row[None]), np.float64).reshape(-1) for row in rows])

    def milliseconds(self, row: Array) -> float:
        start = time.perf_counter()
        self._run(row[None])
        return (time.perf_counter() - start) * 1e3


def _litert(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=THREADS)
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(row: Array) -> Any:
        interpreter.set_tensor(source["index"], row)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return run


def _onnxruntime(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda row: session.run(None, {name: row})[0]


def measure(row: Row, path: Path, real: Path, held: Array, expected: npt.NDArray[np.float64]) -> None:
    """Fill in a row; times are taken in turns, and their medians compared."""
    small, large = Model(path), Model(real)
    found = small.outputs(held)
    if not np.isfinite(found).all():
        row.reason = "its output is not finite"
        return
    same = found.argmax(1) == expected.argmax(1)
    sure = _margins(expected) > MARGIN
    row.top1 = float(same.mean())
    row.sure = float(same[sure].mean()) if sure.any() else math.nan
    noise = np.square(found - expected).sum()
    row.sqnr = float(10 * np.log10(np.square(expected).sum() / noise)) if noise else math.inf
    row.size = small.size / large.size
    times = np.array([[model.milliseconds(held[0]) for model in (small, large)] for _ in range(40)])[5:]
    ours, theirs = np.median(times, axis=0)
    row.latency = float(ours / theirs)


def _margins(outputs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return by how much each row's winner leads, in probability."""
    sums = outputs.sum(1)
    chances = outputs
    if outputs.min() < 0 or not np.allclose(sums, 1, atol=1e-3):
        powers = np.exp(outputs - outputs.max(1, keepdims=True))
        chances = powers / powers.sum(1, keepdims=True)
    ordered = np.sort(chances, 1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def rows_of(net: Net, zoo: Path, calibration_count: int, held_count: int) -> list[Row]:
    """Make and measure every 8-bit artifact of a net."""
    from demitasse.conversion import convert
    from demitasse.ir.ops import Layout
    from demitasse.readers import read

    source = zoo / net.folder / net.files[0]
    weights = zoo / net.folder / net.files[1] if len(net.files) > 1 else None
    name = Path(net.folder).name
    graph = read(source, weights, outputs=net.outputs)
    (only,) = graph.inputs
    first, shape = graph.layout is Layout.CHANNELS_FIRST, graph.type(only).shape
    seeds = ((calibration_count, 1), (held_count, 2), (MORE * calibration_count, 3))
    calibration, held, more = (inputs(net, zoo / "images", shape, first, *seed) for seed in seeds)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        np.savez(work / "calibration.npz", allow_pickle=False, **{only: calibration})
        np.savez(work / "more.npz", allow_pickle=False, **{only: more})
        call: dict[str, Any] = {"outputs": net.outputs, "batch": 1}
        io: Mapping[str, Layout | None] = {".tflite": Layout.CHANNELS_LAST, ".onnx": graph.layout}
        paths = {suffix: work / f"net{suffix}" for suffix in (".tflite", ".onnx", ".savedmodel")}
        for suffix, path in paths.items():
            convert(source, weights, out=path, io_layout=io.get(suffix, Layout.CHANNELS_LAST), **call)
        last = np.ascontiguousarray(calibration.transpose(0, 2, 3, 1)) if first else calibration
        feeds = {".tflite": np.ascontiguousarray(held.transpose(0, 2, 3, 1)) if first else held, ".onnx": held}
        expected = Model(paths[".onnx"]).outputs(held)
        for maker, suffix in MAKERS:
            row, small = Row(name, f"{maker} {suffix[1:]}"), work / f"{maker}.int8{suffix}"
            start = time.perf_counter()
            try:
                if maker == "demitasse":
                    given: dict[str, Any] = {"calibration": work / "calibration.npz", "io_layout": io[suffix]}
                    convert(source, weights, out=small, **given, **call)
                elif maker == "TFLiteConverter":
                    tensorflow_int8(paths[".savedmodel"], last, small)
                else:
                    onnxruntime_int8(paths[".onnx"], calibration, small)
            except Exception as error:  # another project's converter may raise anything
                if maker == "demitasse":
                    raise
                row.reason = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
            else:
                row.seconds = time.perf_counter() - start
                measure(row, small, paths[suffix], feeds[suffix], expected)
            rows.append(row)
            if maker == "demitasse" and suffix == ".tflite" and (row.top1 < BARS[0] or row.sure < BARS[1]):
                rows += mixtures(name, source, weights, work, paths[suffix], (feeds[suffix], expected), call)
    return rows


def mixtures(
    name: str,
    source: Path,
    weights: Path | None,
    work: Path,
    real: Path,
    held: tuple[Array, npt.NDArray[np.float64]],
    call: Mapping[str, Any],
) -> Iterator[Row]:
    """Make and measure models of which some layers stay real."""
    from demitasse.conversion import convert
    from demitasse.ir.ops import Layout
    from demitasse.quantize.artifact import Settings
    from demitasse.quantize.doctor import Goal

    for bar in BARS:
        goal, path = Goal("top1", bar), work / f"mixture{bar}.int8.tflite"
        start = time.perf_counter()
        given: dict[str, Any] = {"calibration": work / "more.npz", "io_layout": Layout.CHANNELS_LAST, **call}
        (diagnosis,) = convert(source, weights, out=path, quantization=Settings(goal=goal), **given).diagnoses.values()
        count = len([each for each in diagnosis.chosen.real if each in dict(diagnosis.ranking)])
        verdict = "" if diagnosis.met else ", not met"
        row = Row(
            name,
            f"{MIXTURE} {count} layer{'' if count == 1 else 's'} real ({goal}{verdict})",
            seconds=time.perf_counter() - start,
        )
        measure(row, path, real, *held)
        yield row


# --- time and memory --------------------------------------------------------------------------------------------------


def resnet50(maker: str, folder: Path, zoo: Path, count: int) -> dict[str, float]:
    """Quantize a ResNet-50 and say how many seconds that took, and how many MiB the process had at most."""
    calibration = _resnet_inputs(zoo, count)
    path = folder / f"{maker}.tflite"
    if maker == "demitasse":
        from demitasse.conversion import convert

        np.savez(folder / "calibration.npz", allow_pickle=False, data=calibration)
        source = (folder / "resnet50.prototxt", folder / "resnet50.caffemodel")
        start = time.perf_counter()
        convert(*source, out=path.with_suffix(".int8.tflite"), calibration=folder / "calibration.npz")
    else:
        last = np.ascontiguousarray(calibration.transpose(0, 2, 3, 1))
        start = time.perf_counter()
        tensorflow_int8(folder / "net.savedmodel", last, path)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _resnet_inputs(zoo: Path, count: int) -> Array:
    net = Net("caffe/resnet50", CAFFE, IMAGENET, bgr=True)
    return inputs(net, zoo / "images", (1, 3, 224, 224), True, count, 1)


def costs(zoo: Path, count: int) -> dict[str, dict[str, float]]:
    """Have each maker quantize a ResNet-50 in a process of its own, one after the other."""
    from resnet import write_resnet

    from demitasse.conversion import convert
    from demitasse.ir.ops import Layout

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = write_resnet(50, work)
        convert(*source, out=work / "net.savedmodel", batch=1, io_layout=Layout.CHANNELS_LAST)
        for maker in ("demitasse", "TFLiteConverter"):
            command = ["--zoo", str(zoo), f"--calibration={count}", "--resnet", maker, "--folder", folder]
            process = _child(command)
            found[maker] = _found(process, "COST")
    return found


def _child(options: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, __file__, *options]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


def _found(process: subprocess.CompletedProcess[str], mark: str) -> Any:
    """Return what a process printed behind a mark; None where it failed."""
    lines = [line for line in process.stdout.splitlines() if line.startswith(f"{mark} ")]
    if process.returncode or not lines:
        print(process.stderr[-2000:], file=sys.stderr)
        return None
    return json.loads(lines[0].removeprefix(mark))


def table(rows: Sequence[Row], costs: Mapping[str, Mapping[str, float]], calibration: int, held: int) -> str:
    """Spell the page."""
    about = (
        f"Written by `benchmarks/int8.py`: {calibration} photographs for calibration, {held} others to measure on, the "
        "same for all. Top-1 is agreement with the real net, *sure* the same where its winner leads by more than "
        f"{MARGIN} in probability; SQNR is that of the outputs; size and latency are 8-bit over float in the same "
        f"runtime with {THREADS} threads, in turns; seconds are for making it, calibration included. Nets for digits "
        "or faces see photographs that they were not made for: agreement counts there, not the class. Where 8 bits "
        f"agree on less than {BARS[0]:.0%}, or {BARS[1]:.0%} of the sure ones, rows follow of models of which "
        f"`--int8-target` left some layers real; they were given {MORE * calibration} photographs, of which it holds a "
        "third back."
    )
    text = [
        "# 8-bit artifacts, measured",
        "",
        about,
        "",
        "| net | made by | top-1 | sure | SQNR dB | size | latency | s |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if row.reason:
            text.append(f"| {row.net} | {row.maker} | {row.reason} | | | | | |")
            continue
        figures = (f"{row.top1:.1%}", f"{row.sure:.1%}", f"{row.sqnr:.1f}", f"{row.size:.2f}", f"{row.latency:.2f}")
        text.append(f"| {row.net} | {row.maker} | {' | '.join(figures)} | {row.seconds:.1f} |")
    text += ["", "| made by | nets | mean top-1 | mean SQNR dB |", "|---|---:|---:|---:|"]
    for maker in dict.fromkeys(row.maker for row in rows if not row.maker.startswith(MIXTURE)):
        good = [row for row in rows if row.maker == maker and not row.reason]
        if good:
            means = (np.mean([row.top1 for row in good]), np.mean([row.sqnr for row in good]))
            text.append(f"| {maker} | {len(good)} | {means[0]:.1%} | {means[1]:.1f} |")
    return "\n".join([*text, *_cost_lines(costs, calibration), FINDINGS])


def _cost_lines(costs: Mapping[str, Mapping[str, float]], calibration: int) -> Iterator[str]:
    yield from ("", "## Time and memory", "")
    yield f"A ResNet-50 with random weights, {calibration} images, each in a process of its own:"
    yield from ("", "| made by | s | peak MiB |", "|---|---:|---:|")
    for maker, cost in costs.items():
        yield f"| {maker} | {cost['seconds']:.1f} | {cost['peak']:.0f} |"
    if len(costs) > 1:
        ours, theirs = (cost["seconds"] for cost in costs.values())
        yield f"\n{theirs / ours:.1f} times as fast."


FINDINGS = """
## What was tried

- Compensated rounding (`--compensate`, on): each weight is rounded up or down so that what one loses others make up
  for. Over these nets it gains 0.8 dB in TFLite and 1.2 dB in ONNX. SqueezeNet's rounded kernels alone leave 31.9 dB
  when rounded to the nearest, and 36.6 dB so. Whole rows in the place of blocks of 64 weights, four times as many
  windows, and weights that may move by more than a step gain 0.1 to 0.2 dB more; kernels fitted to inputs that are
  rounded already, each for itself or one layer after the other, gain nothing more.
- Cross-layer equalization (`--equalize`, on): channels of one tensor are brought to a like size where the net computes
  the same. Over these nets it gains 0.3 dB in TFLite and 0.8 dB in ONNX, and most where channels differ most. Factors
  found by descent on a model of all layers' noise gain 0.4 dB on SqueezeNet, and need a minute.
- Bias correction (`--bias-correction`, on): SqueezeNet's rounded kernels alone leave 29.1 dB without it, and 31.9 dB
  with it; 32.7 and 36.6 dB with compensated rounding.
- What is left of SqueezeNet's noise is its tensors', which alone leave 29.6 dB. A third of that comes from one, the 16
  channels between `fire2`'s layers (34.5 dB alone). Ranges chosen by what the layers behind them make of their errors,
  or with errors beyond the range counted 4, 16 or 64 times, gain 6 dB in some tensors, lose as much in others, and
  nothing over all. What is left is to keep some tensors real: `--int8-target`. Its first choice here is that tensor.
- How far agreement can be trusted: on 600 photographs SqueezeNet's winner is the real net's on 93 % after calibration
  with 100 photographs, on 94 % with 300, and on 95 % with five layers real. Two hundred tell that to 2 %.
- A tensor stays real where the layers that give and read it do; a layer alone gains little, for what goes in and comes
  out is still rounded.
- Layers in 16x8 instead of real ones: LiteRT computes them in its reference kernels, none of them in XNNPACK. open_nsfw
  takes 405 ms that way, 19 ms with real numbers and 5 ms in 8 bits; so mixtures keep layers real.
"""


def main() -> int:
    """Measure every net in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, default=Path(os.environ.get("DEMITASSE_ZOO", "../shared/zoo")))
    parser.add_argument("--calibration", type=int, default=100)
    parser.add_argument("--held", type=int, default=200)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "int8.md")
    parser.add_argument("--only", help="measure nets whose folder contains this, and print them")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--resnet", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        net = next(net for net in NETS if net.folder == arguments.one)
        rows = rows_of(net, arguments.zoo, arguments.calibration, arguments.held)
        print("ROWS", json.dumps([asdict(row) for row in rows]))
        return 0
    if arguments.resnet:
        cost = resnet50(arguments.resnet, arguments.folder, arguments.zoo, arguments.calibration)
        print("COST", json.dumps(cost))
        return 0
    rows, failed = [], 0
    counts = [f"--calibration={arguments.calibration}", f"--held={arguments.held}"]
    for net in NETS:
        if arguments.only and arguments.only not in net.folder:
            continue
        found = _found(_child(["--zoo", str(arguments.zoo), *counts, "--one", net.folder]), "ROWS")
        if found is None:
            failed += 1
            continue
        rows += [Row(**entry) for entry in found]
        for entry in found:
            print(Row(**entry), flush=True)
    spent = costs(arguments.zoo, arguments.calibration) if not arguments.only or arguments.only == "resnet50" else {}
    print(spent)
    failed += None in spent.values()
    if not arguments.only and not failed:
        arguments.out.write_text(table(rows, spent, arguments.calibration, arguments.held), "utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
