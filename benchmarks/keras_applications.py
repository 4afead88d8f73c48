"""Build every keras.applications architecture, save it, read it back and convert it, and write docs/keras.md.

Weights are random but seeded, with batch statistics as training leaves them; images are small where the architecture
allows it. Everything is compared with Keras itself. Each architecture runs in a process of its own, on this checkout of
Demitasse::

    python benchmarks/keras_applications.py                  # Keras 3
    python benchmarks/keras_applications.py --package tf_keras --python PYTHON_WITH_TF_KERAS

The interpreter needs Demitasse's dependencies besides the package. Where something is missing, or a process is killed,
no table is written, and the exit status is 2: a table tells what Demitasse does, not what a machine lacks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

REPOSITORY = Path(__file__).parent.parent
DOCUMENT = REPOSITORY / "docs" / "keras.md"
TOLERANCE = 1e-4  # of the largest logit
SIDES = (96, 128, 224)
ROOTS = tuple(str(REPOSITORY / root) for root in ("converters", "models", "validation"))
NEEDED = ("demitasse", "demitasse_validation", "tensorflow", "h5py", "onnx", "onnxruntime", "ai_edge_litert")
PACKAGES = {"keras": "Keras", "tf_keras": "tf-keras"}

Array = npt.NDArray[Any]


@dataclass
class Row:
    """What became of one architecture: errors as shares of the largest logit."""

    name: str
    side: int = 0
    parameters: int = 0
    seconds: float | None = None
    h5: float | None = None
    keras: float | None = None
    onnx: float | None = None
    tflite: float | None = None
    reason: str = ""

    @property
    def errors(self) -> tuple[float | None, ...]:
        return self.h5, self.keras, self.onnx, self.tflite

    @property
    def passes(self) -> bool:
        return not self.reason and all(error is not None and error <= TOLERANCE for error in self.errors)

    def line(self) -> str:
        cells = [
            self.name,
            f"{self.side}" if self.side else "",
            f"{self.parameters / 1e6:.1f} M" if self.parameters else "",
            "" if self.seconds is None else f"{self.seconds:.2f} s",
            *(
                "" if error is None else f"{error:.0e}" + ("" if error <= TOLERANCE else " (!)")
                for error in self.errors
            ),
            self.reason,
        ]
        return f"| {' | '.join(cells)} |"


# --- one architecture -------------------------------------------------------------------------------------------------


def randomize(model: Any, seed: int = 0) -> None:
    """Give every weight seeded random numbers, such that activations neither fade nor grow with depth."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        name, shape = str(getattr(weight, "path", weight.name)).lower().partition(":")[0], tuple(weight.shape)
        role = name.rpartition("/")[2]
        if role == "count":
            continue
        if "variance" in role:
            numbers = random.uniform(0.5, 1.5, shape)
        elif role == "gamma":
            # A ConvNeXt scales its branches down by a gamma of its own.
            numbers = random.normal(0.1, 0.1, shape) if "layer_scale" in name else random.uniform(0.5, 1.0, shape)
        elif role == "mean":  # of a Normalization of pixels
            numbers = random.normal(100, 10, shape)
        elif role in ("bias", "beta", "moving_mean"):
            numbers = random.normal(0, 0.1, shape)
        else:
            depthwise = "depthwise" in name or "_dw" in name or "dwconv" in name
            fan = np.prod(shape[:2] if depthwise else shape[:-1])
            numbers = random.normal(0, 1 / np.sqrt(fan), shape)
        weight.assign(numbers.astype("float32"))
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def build(applications: Any, name: str) -> tuple[Any, int]:
    """Build an architecture without its softmax, for the smallest image that it takes."""
    function = getattr(applications, name)
    fault: Exception | None = None
    for side in SIDES:
        try:
            return function(weights=None, input_shape=(side, side, 3), classifier_activation=None), side
        except ValueError as error:
            fault = error
    try:
        model = function(weights=None, classifier_activation=None)
    except ValueError as error:
        raise error from fault
    return model, int(model.input_shape[1])


def error_of(actual: Array, expected: Array) -> float:
    """Return the largest difference as a share of the largest number."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def measure(package: str, name: str, folder: Path) -> Row:
    """Carry one architecture through everything."""
    import importlib

    from demitasse.conversion import convert
    from demitasse.ir.evaluate import evaluate
    from demitasse.ir.ops import Layout
    from demitasse.readers.keras import read
    from demitasse_validation.runtimes import open_runner

    keras = importlib.import_module(package)
    model, side = build(keras.applications, name)
    randomize(model)
    image = np.random.default_rng(1).uniform(0, 255, (1, side, side, 3)).astype(np.float32)
    expected = np.asarray(model(image, training=False))
    row = Row(name, side, model.count_params())
    whole, archive = folder / "net.h5", folder / "net.keras"
    model.save(whole)
    model.save(archive)
    del model
    start = time.perf_counter()
    graph = read(whole)
    row.seconds = time.perf_counter() - start
    (output,) = graph.outputs
    row.h5 = error_of(evaluate(graph, {graph.inputs[0]: image}, keep=[output])[output], expected)
    again = read(archive)
    row.keras = error_of(evaluate(again, {again.inputs[0]: image}, keep=again.outputs)[again.outputs[0]], expected)
    archive.unlink()
    for target in ("onnx", "tflite"):
        path = folder / f"net.{target}"
        convert(whole, out=path, io_layout=Layout.CHANNELS_LAST)
        error = error_of(open_runner(path).run({graph.inputs[0]: image})[output], expected)
        setattr(row, target, error)
        path.unlink()
    return row


# --- all of them ------------------------------------------------------------------------------------------------------


class BrokenEnvironment(Exception):
    """The interpreter lacks what it needs, so nothing can be said about any architecture."""


def environment() -> dict[str, str]:
    """Return the environment of a process that measures: this checkout, Keras on TensorFlow, no accelerator."""
    paths = [*ROOTS, *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "tensorflow"}
    return os.environ | quiet | {"PYTHONPATH": os.pathsep.join(paths)}


def architectures(python: str, package: str) -> tuple[str, list[str]]:
    """Return the package's version, and the names of the architectures that it has.

    Raises BrokenEnvironment, naming every module that the interpreter lacks.
    """
    script = (
        "import importlib, importlib.util, inspect, json, sys\n"
        f"missing = [n for n in {(package, *NEEDED)!r} if importlib.util.find_spec(n) is None]\n"
        "if missing: sys.exit('no module named ' + ', '.join(missing))\n"
        f"keras = importlib.import_module({package!r}); a = keras.applications\n"
        "print(json.dumps([keras.__version__, [n for n in dir(a) if inspect.isfunction(getattr(a, n))]]))"
    )
    try:
        run = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False, env=environment())
    except OSError as error:
        raise BrokenEnvironment(f"{python} does not run: {error.strerror}") from error
    if run.returncode:
        raise BrokenEnvironment(f"{python}: {last_line(run.stderr) or f'status {run.returncode}'}")
    version, names = json.loads(run.stdout.splitlines()[-1])
    return version, names


def last_line(text: str) -> str:
    """Return the last line that says anything."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def run_one(python: str, package: str, name: str) -> Row:
    """Measure an architecture in a process of its own.

    Raises BrokenEnvironment if the process lacked a module or was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [python, __file__, "--package", package, "--one", name, "--folder", folder]
        run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    if run.returncode == 0:
        return Row(**json.loads(run.stdout.splitlines()[-1]))
    reason = last_line(run.stderr)
    if run.returncode < 0:
        raise BrokenEnvironment(f"{name}: killed by signal {-run.returncode}, for want of memory perhaps")
    if reason.startswith(("ModuleNotFoundError", "ImportError")):
        raise BrokenEnvironment(f"{name}: {reason}")
    return Row(name, reason=f"failed: {reason[:150] or f'status {run.returncode}'}")


def section(title: str, rows: Iterable[Row]) -> str:
    """Write the table of one Keras."""
    rows = list(rows)
    worst = max((error for row in rows for error in row.errors if error is not None), default=0.0)
    head = [
        f"## {title}",
        "",
        f"{sum(row.passes for row in rows)} of {len(rows)} architectures agree in all columns, to {worst:.0e}.",
        "",
        "| architecture | image | parameters | read | .h5 | .keras | ONNX | TFLite | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(row.line() for row in rows)])


INTRODUCTION = """# Keras

What Demitasse, which runs none of its code, makes of what Keras saves. First every architecture of
`keras.applications`, with random seeded weights. `image` is the side of the image in pixels, `read` the time to read
the .h5 file. The other columns are the largest difference from the logits that Keras itself computes, as a share of the
largest logit: of the .h5 file and of the .keras archive as they were read (run by the float64 evaluator), and of the
ONNX and TFLite files made from the .h5 file (run by onnxruntime and LiteRT). Anything above 1e-4 would be marked (!).
Keras computes in float32. Then real files.

Written by `benchmarks/keras_applications.py` and `benchmarks/keras_zoo.py`.
"""
ORDER = ("Keras", "tf-keras", "Real")


def place(document: Path, text: str) -> None:
    """Put a section into the document; those with another first word in their titles stay."""
    parts = document.read_text("utf-8").split("\n## ")[1:] if document.exists() else []
    kept = {part.split(maxsplit=1)[0]: f"## {part}".rstrip() for part in parts}
    kept[text.split(maxsplit=2)[1]] = text
    sections = [kept[word] for word in ORDER if word in kept]
    document.write_text("\n\n".join([INTRODUCTION.rstrip(), *sections]) + "\n", "utf-8")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="architectures; all if none is given")
    parser.add_argument("--package", choices=PACKAGES, default="keras")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has the package")
    parser.add_argument("--out", type=Path, default=DOCUMENT)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(asdict(measure(options.package, options.one, options.folder))))
        return 0
    try:
        version, known = architectures(options.python, options.package)
        rows = []
        for name in options.names or known:
            rows.append(run_one(options.python, options.package, name))
            print(rows[-1].line(), flush=True)
    except BrokenEnvironment as error:
        print(f"nothing was written: {error}", file=sys.stderr)
        return 2
    if not options.names:
        place(options.out, section(f"{PACKAGES[options.package]} {version}", rows))
    return 0 if all(row.passes for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
