"""Read the real Keras files of a folder, convert them, compare with stored outputs, and write docs/keras.md.

The folder (`DEMITASSE_ZOO`, or ../shared/zoo) holds keras/NAME/FILE, and beside a file the outputs that Keras gave for
some inputs, in FILE.golden.npz without its suffix: `in:0:NAME` and `out:0`. Weights without an architecture of their
own take that of an archive beside them::

    python benchmarks/keras_zoo.py
"""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from keras_applications import DOCUMENT, REPOSITORY, TOLERANCE, error_of, place

from demitasse.conversion import convert
from demitasse.errors import DemitasseError
from demitasse.ir.evaluate import evaluate
from demitasse.ir.ops import Layout
from demitasse.readers.keras import read
from demitasse.readers.keras.source import open_file
from demitasse_validation.runtimes import open_runner

SATURATED = 1e-6  # the distance from 0 or 1 below which a probability tells nothing of what it was made of
TITLE = "Real files"
SUFFIXES = (".h5", ".hdf5", ".keras")
TARGETS = {"onnx": ".onnx", "tflite": ".tflite", "savedmodel": ".savedmodel"}

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass
class Row:
    """What became of one file: errors as shares of the largest output, by what computed it."""

    name: str
    keras: str = ""
    layers: int = 0
    errors: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def passes(self) -> bool:
        return len(self.errors) == 1 + len(TARGETS) and max(self.errors.values()) <= TOLERANCE

    def line(self) -> str:
        cells = [self.name, self.keras, f"{self.layers or ''}"]
        for column in ("read", *TARGETS):
            error = self.errors.get(column)
            cells.append("" if error is None else f"{error:.0e}" + ("" if error <= TOLERANCE else " (!)"))
        return f"| {' | '.join([*cells, self.reason])} |"


def measure(path: Path, root: Path, folder: Path) -> Row:
    """Carry one file through everything."""
    row = Row(str(path.relative_to(root)))
    sources = [path]
    golden = path.with_name(f"{path.stem}.golden.npz")
    if path.name.endswith(".weights.h5"):
        stem = path.name.removesuffix(".weights.h5")
        golden, archive = path.with_name(f"{stem}.golden.npz"), path.with_name(f"{stem}.keras")
        if archive.exists():
            sources = [_architecture(archive, folder), path]
            row.reason = "with the architecture of the archive beside it"
    try:
        row.keras = _written_by(sources[0])
        graph = read(*sources)
    except DemitasseError as fault:
        row.reason = " ".join(str(fault).replace(f"{path}: ", "").split())
        return row
    row.layers = len(graph.layers)
    if not golden.exists():
        row.reason = "no outputs are stored"
        return row
    with np.load(golden) as stored:
        feeds = {key.split(":", 2)[2]: stored[key] for key in stored.files if key.startswith("in:")}
        expected = [stored[key] for key in stored.files if key.startswith("out:")]
    feeds = dict(zip(graph.inputs, feeds.values(), strict=True))

    if all(np.minimum(numbers, abs(1 - numbers)).max() < SATURATED for numbers in expected):
        row.reason = "says little: all outputs are as good as 0 or 1"

    def error(given: Arrays) -> float:
        return max(error_of(given[name], numbers) for name, numbers in zip(graph.outputs, expected, strict=True))

    row.errors["read"] = error(evaluate(graph, feeds, keep=graph.outputs))
    for target, suffix in TARGETS.items():
        artifact = folder / f"net{suffix}"
        convert(*sources, out=artifact, io_layout=Layout.CHANNELS_LAST)
        row.errors[target] = error(open_runner(artifact).run(feeds))
    return row


def _architecture(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as members:
        (folder / "architecture.json").write_bytes(members.read("config.json"))
    return folder / "architecture.json"


def _written_by(path: Path) -> str:
    content = open_file(path)
    version, backend = content.version, content.backend
    content.close()
    return " ".join(filter(None, [version or "unknown", backend if backend != "tensorflow" else None]))


def section(rows: list[Row]) -> str:
    """Write the table."""
    compared = [row for row in rows if row.errors]
    passing = sum(row.passes for row in rows)
    worst = max(error for row in compared for error in row.errors.values())
    head = [
        f"## {TITLE}",
        "",
        "Files that people trained and published, none of which is part of this project, on random inputs; the columns",
        "are as above, with the SavedModel (run by TensorFlow) besides. `Keras` is the version that wrote the file.",
        "",
        f"{passing} of {len(compared)} files with stored outputs agree in all columns, to {worst:.0e}.",
        "",
        "| file | Keras | layers | read | ONNX | TFLite | SavedModel | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(row.line() for row in rows)])


def main() -> int:
    """Run the command line."""
    root = Path(os.environ.get("DEMITASSE_ZOO", REPOSITORY.parent / "shared" / "zoo")) / "keras"
    paths = sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES)
    if not paths:
        print(f"nothing was written: {root} holds no Keras files", file=sys.stderr)
        return 2
    rows = []
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(path, root, Path(folder)))
        print(rows[-1].line(), flush=True)
    place(DOCUMENT, section(rows))
    return 0 if all(row.passes for row in rows if row.errors) else 1


if __name__ == "__main__":
    sys.exit(main())
