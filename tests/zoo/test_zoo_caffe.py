"""Read real Caffe nets, trained or with seeded weights, and compare them with what real builds of Caffe gave."""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import REPOSITORY
from demitasse.errors import MalformedModel, Unsupported
from demitasse.ir.check import check
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph
from demitasse.ir.weights import Array
from demitasse.readers.caffe import read

ZOO = Path(os.environ.get("DEMITASSE_ZOO") or REPOSITORY.parent / "shared" / "zoo")
TRAINED = sorted(path.name for path in ZOO.glob("caffe/*") if path.is_dir())
STRUCTURES = sorted(path.stem for path in ZOO.glob("prototxt-only/*.prototxt"))
SEEDED = sorted(path.stem for path in ZOO.glob("seeded/*.npz"))

# What can't be read of trained nets, and why.
REFUSED = {"lenet_pruned_nhzlx": (Unsupported, "CConvolution")}

# Nets without a shape of their own; people give it when they run them.
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

# Structures that are no nets: templates with holes that a program fills in, and an empty file; one that draws random
# numbers when it runs; and one whose fork means something else by the same parameters.
REFUSED_STRUCTURES = {
    "bayesian_segnet_basic": (Unsupported, "sample_weights_test"),
    "dd_deeplab_vgg16": (MalformedModel, "num_output is missing"),
    "dd_enet": (MalformedModel, "num_output is missing"),
    "faceboxes": (MalformedModel, "a fork whose PriorBox lays others"),
    "dd_recurrent": (MalformedModel, "no layer that gives an output"),
}

# Nets whose reference is no reference: the regions that were fed lie in images that the batch doesn't have.
UNDEFINED = {"rfcn_resnet50"}

DETECTIONS = ("detection_out", "detection_output")


def weights_of(folder: Path) -> Path:
    return next(path for path in sorted(folder.glob("weights.caffemodel*")))


def found_rows(name: str, array: Array) -> Array:
    """Leaves out the rows that hold no detection."""
    return array[:, :, array[0, 0, :, 1] >= 0] if name in DETECTIONS else array


def value_of(graph: Graph, name: str) -> str:
    """Finds the value of a blob, or of a layer's top, or of what Caffe split into several."""
    if name in graph.values:
        return name
    by_layer = {layer.origin.layer: layer.outputs[0] for layer in graph.layers if layer.outputs}
    split = [value for value in graph.values if name.startswith(f"{value}_") and "_split_" in name]
    return by_layer.get(name) or max(split, key=len)


def assert_close(name: str, actual: Array, expected: Array) -> None:
    assert actual.shape == expected.shape, name
    peak = max(float(np.abs(expected).max()), 1e-30)
    assert np.abs(actual - expected).max() <= 1e-4 * peak, name


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_net_computes_what_caffe_computed(name: str, zoo: Path) -> None:
    folder = zoo / "caffe" / name
    structure = next(path for path in (folder / "deploy.prototxt", folder / "train_test.prototxt") if path.exists())
    if name in REFUSED:
        kind, message = REFUSED[name]
        with pytest.raises(kind, match=message):
            read(structure, weights_of(folder))
        return
    with np.load(folder / "golden.npz") as arrays:
        inputs = {key[3:]: arrays[key] for key in arrays.files if key.startswith("in:")}
        blobs = {key[4:]: arrays[key] for key in arrays.files if key.startswith(("out:", "mid:"))}

    shapes = {key: array.shape for key, array in inputs.items()}
    graph = read(structure, weights_of(folder), input_shapes=shapes)

    check(graph)
    values = {blob: value_of(graph, blob) for blob in blobs}
    results = evaluate(graph, {key: inputs[key] for key in graph.inputs}, keep=set(values.values()))
    for blob, expected in blobs.items():
        assert_close(blob, found_rows(blob, results[values[blob]]), found_rows(blob, expected))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SEEDED if name not in UNDEFINED])
def test_a_seeded_net_computes_what_caffe_computed(name: str, zoo: Path, tmp_path: Path) -> None:
    tool = runpy.run_path(str(zoo / "tools" / "seeded_caffemodel.py"), run_name="tool")
    described: dict[str, Any] = json.loads((zoo / "prototxt-only" / f"{name}.shapes.json").read_text())
    caffemodel = tmp_path / "net.caffemodel"
    caffemodel.write_bytes(tool["build"](described))
    with np.load(zoo / "seeded" / f"{name}.npz") as arrays:
        shapes = {key[8:]: tuple(arrays[key].tolist()) for key in arrays.files if key.startswith("inshape:")}
        sampled = {key: arrays[key] for key in arrays.files if key.startswith(("out[", "mid["))}
    inputs = {
        key: np.random.RandomState(place).normal(0, 1, shapes[key]).astype(np.float32)
        for place, key in enumerate(described["inputs"])
    }

    graph = read(zoo / "prototxt-only" / f"{name}.prototxt", caffemodel, input_shapes=shapes)

    caffemodel.unlink()  # the mapping keeps it alive, and pytest would keep hundreds of megabytes of each net
    check(graph)
    places = {key: value_of(graph, key.partition("]:")[2]) for key in sampled}
    results = evaluate(graph, {key: inputs[key] for key in graph.inputs}, keep=set(places.values()))
    for key, expected in sampled.items():
        stride = int(key.partition("::")[2].partition("]")[0])
        found = found_rows(places[key], results[places[key]])
        assert_close(key, found.ravel()[::stride], expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRUCTURES)
def test_a_public_net_is_read(name: str, zoo: Path) -> None:
    structure = zoo / "prototxt-only" / f"{name}.prototxt"

    def graph() -> Graph:
        return read(structure, input_shapes=SHAPES.get(name), stages=STAGES.get(name, ()), allow_missing_weights=True)

    if name in REFUSED_STRUCTURES:
        kind, message = REFUSED_STRUCTURES[name]
        with pytest.raises(kind, match=message):
            graph()
        return
    check(graph())
