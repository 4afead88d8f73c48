"""Read small nets that real builds of Caffe ran, and compare every blob with what they computed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from conftest import GOLDEN
from demitasse.errors import Unsupported
from demitasse.ir.check import check
from demitasse.ir.evaluate import evaluate
from demitasse.ir.weights import Array
from demitasse.readers.caffe import read


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

# Nets that can't be read, each with the layer that is in the way. A row that has become untrue fails its test.
REFUSED = {"caffe-forks/filter": "Filter"}

# What Caffe itself inserts where a blob has several readers.
SPLIT = "_split_"


def arrays_of(case: Case) -> tuple[dict[str, Array], dict[str, Array]]:
    with np.load(case.arrays) as arrays:
        inputs = {name[3:]: arrays[name] for name in arrays.files if name.startswith("in:")}
        blobs = {name[4:]: arrays[name] for name in arrays.files if name.startswith("out:")}
    return inputs, {name: array for name, array in blobs.items() if SPLIT not in name and name not in inputs}


def test_every_golden_net_is_a_case() -> None:
    counts = [sum(case.name.startswith(f"{kind}/") for case in CASES) for kind in ("caffe", "caffe-forks")]
    assert counts == [99, 26]
    assert len(CASES) == 99 + 26 + 15
    assert REFUSED.keys() <= {case.name for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_blob_is_what_caffe_computed(case: Case, request: pytest.FixtureRequest) -> None:
    if case.name in REFUSED:
        request.applymarker(pytest.mark.xfail(reason=REFUSED[case.name], raises=Unsupported, strict=True))
    inputs, blobs = arrays_of(case)

    graph = read(case.structure, case.weights, stages=case.stages)
    whole = read(case.structure, case.weights, stages=case.stages, outputs=list(blobs))

    check(graph)
    check(whole)
    assert set(graph.outputs) <= set(whole.outputs) == blobs.keys()
    values = evaluate(whole, {name: inputs[name] for name in whole.inputs})
    for name, expected in blobs.items():
        peak = float(np.abs(expected).max())
        assert values[name].shape == expected.shape, name
        assert np.abs(values[name] - expected).max() <= 1e-5 * peak, name
    for name in graph.outputs:
        assert values[name].argmax() == blobs[name].argmax(), name
