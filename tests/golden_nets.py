"""Small nets that real builds of Caffe ran, in every container that holds them, and what Caffe computed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from conftest import GOLDEN
from demitasse.ir.weights import Array

__all__ = ["CASES", "Case", "arrays_of"]


class Case(NamedTuple):
    """A net in one container: its structure, its weights, the stages to read, and the arrays that Caffe gave."""

    name: str
    structure: Path
    weights: Path | None
    arrays: Path
    stages: tuple[str, ...] = ()


def cases() -> Iterator[Case]:
    for folder in sorted(GOLDEN.glob("caffe/*")):
        yield Case(f"caffe/{folder.name}", folder / "net.prototxt", weights(folder, "net"), folder / "io.npz")
    for folder in sorted(GOLDEN.glob("caffe-forks/*")):
        name = f"caffe-forks/{folder.name}"
        yield Case(name, folder / "deploy.prototxt", weights(folder, "weights"), folder / "golden.npz")
    for path in sorted(GOLDEN.glob("caffe-forms/*/*.caffemodel*")):
        net = path.parent / "net.prototxt"
        yield Case(f"caffe-forms/{path.parent.name}/{path.name}", net, path, path.parent / "io.npz")
    for path in sorted(GOLDEN.glob("caffe-forms/*/train_val.prototxt")):
        snapshot, arrays = path.parent / "net.caffemodel.h5", path.parent / "io.npz"
        yield Case(f"caffe-forms/{path.parent.name}/train_val", path, snapshot, arrays, ("deploy",))


def weights(folder: Path, stem: str) -> Path | None:
    path = folder / f"{stem}.caffemodel"
    return path if path.exists() else None


CASES = tuple(cases())

# What Caffe itself inserts where a blob has several readers.
SPLIT = "_split_"


def arrays_of(case: Case) -> tuple[dict[str, Array], dict[str, Array]]:
    with np.load(case.arrays) as arrays:
        inputs = {name[3:]: arrays[name] for name in arrays.files if name.startswith("in:")}
        blobs = {name[4:]: arrays[name] for name in arrays.files if name.startswith("out:")}
    return inputs, {name: array for name, array in blobs.items() if SPLIT not in name and name not in inputs}
