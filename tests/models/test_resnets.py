"""The ResNets in Keras: they compute what Caffe and keras.applications do, and can be trained further."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import demitasse
from caffe_resnet import write_caffe_resnet
from demitasse.errors import UsageError
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph
from demitasse.ir.weights import WeightMap
from demitasse_models import freeze, replace_head, resnet, weights_of
from demitasse_models.residual import STEM, blocks

pytest.importorskip("tensorflow")
import keras

Floats = NDArray[np.floating]


def noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)


def distance(got: Any, expected: Floats) -> float:
    """Returns the largest difference, in units of the peak; images are NHWC in Keras and NCHW in Caffe."""
    array = np.asarray(got)
    array = array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
    assert array.shape == expected.shape
    return float(np.abs(array - expected).max() / np.abs(expected).max())


def read_caffe(depth: int, folder: Path, **options: Any) -> Graph:
    return demitasse.read(*write_caffe_resnet(depth, folder, **options))


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_layers_are_named_and_shaped_as_in_the_release(depth: int, zoo: Path) -> None:
    release = json.loads((zoo / "prototxt-only" / f"resnet{depth}_kaiming.shapes.json").read_text("utf-8"))["params"]
    convs = {name: shapes[0] for name, shapes in release if len(shapes[0]) == 4}
    ours = [STEM, *(unit for block in blocks(depth) for unit in block.units)]
    assert {unit.conv: list(unit.shape) for unit in ours} == convs
    assert {name for unit in ours for name in (unit.conv, unit.norm, unit.scale)} | {"fc1000"} == set(dict(release))


@pytest.mark.parametrize(
    ("depth", "size", "options"),
    [
        pytest.param(18, 65, {}, id="odd-sides"),
        pytest.param(18, 64, {"projects_first": True}, id="stage-2-projects"),
        pytest.param(50, 64, {}, id="bias-in-conv1"),
        pytest.param(18, 32, {"classes": 10, "head": "fc_mine"}, id="own-head"),
    ],
)
def test_it_computes_what_the_caffe_net_computes(
    depth: int, size: int, options: dict[str, Any], tmp_path: Path
) -> None:
    graph = read_caffe(depth, tmp_path, size=size, **options)
    model = resnet(
        depth,
        graph.weights,
        classes=options.get("classes", 1000),
        input_shape=(size, size, 3),
        rename={"fc_mine": "fc10"} if "head" in options else None,
    )
    pairs = {"pool1": "pool1", "res2a": "res2a_relu", "res4a": "res4a_relu", "prob": "prob"}
    expected = evaluate(graph, {"data": noise(1, 3, size, size)}, keep=pairs)
    probe = keras.Model(model.input, [model.get_layer(name).output for name in pairs.values()])
    for blob, got in zip(pairs, probe(noise(1, 3, size, size).transpose(0, 2, 3, 1)), strict=True):
        assert distance(got, expected[blob]) < 1e-5, blob


def test_it_recovers_the_statistics_that_caffe_recorded(tmp_path: Path) -> None:
    prototxt, caffemodel = write_caffe_resnet(18, tmp_path, size=32)
    model = resnet(18, demitasse.read(prototxt, caffemodel).weights)
    gamma, _beta, mean, variance = model.get_layer("bn3a_branch2a").get_weights()
    assert gamma.min() < 0 < gamma.max()
    assert abs(float(mean.std()) - 0.2) < 0.05
    assert 0.3 <= variance.min() < variance.max() <= 1.5


def keras_resnet() -> Any:
    """A ResNet of keras.applications with seeded weights, and statistics as of a training."""
    keras.utils.set_random_seed(3)
    return with_statistics(keras.applications.ResNet50(weights=None))


def with_statistics(model: Any) -> Any:
    random = np.random.default_rng(3)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            count = layer.moving_mean.shape[0]
            values = (random.uniform(-0.2, 0.9, count), *random.normal(0, 0.2, (2, count)), random.uniform(0, 2, count))
            layer.set_weights(list(values))
    return model


def test_it_computes_what_keras_applications_compute() -> None:
    theirs = keras_resnet()
    model = resnet(50, weights_of(theirs))
    images = noise(1, 224, 224, 3)
    assert distance(model(images), np.asarray(theirs(images))) < 1e-5
    as_caffe = resnet(50, weights_of(theirs), pool_padding="end")
    assert distance(as_caffe(images), np.asarray(theirs(images))) > 1e-3


def test_it_takes_what_the_reader_makes_of_a_keras_file(tmp_path: Path) -> None:
    theirs = keras_resnet()
    theirs.save(tmp_path / "theirs.keras")
    model = resnet(50, demitasse.read(tmp_path / "theirs.keras").weights)
    assert distance(model(noise(1, 224, 224, 3)), np.asarray(theirs(noise(1, 224, 224, 3)))) < 1e-5


@pytest.mark.filterwarnings("ignore:.*HDF5 file")  # Keras would rather write its own format
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_caffe_net_that_became_a_keras_file_computes_the_same(suffix: str, tmp_path: Path) -> None:
    graph = read_caffe(50, tmp_path, size=64)
    resnet(50, graph.weights, input_shape=(64, 64, 3)).save(tmp_path / f"again{suffix}")
    again = demitasse.read(tmp_path / f"again{suffix}")
    assert (again.inputs, again.outputs) == (["data"], ["prob"])
    images = noise(1, 3, 64, 64)
    expected = evaluate(graph, {"data": images}, keep=["pool1", "res3d", "fc1000", "prob"])
    names = {"pool1": "pool1", "res3d": "res3d_relu", "fc1000": "fc1000", "prob": "prob"}
    got = evaluate(again, {"data": images.transpose(0, 2, 3, 1)}, keep=names.values())
    for blob, name in names.items():
        assert distance(got[name], expected[blob]) < 1e-5, blob


def test_v15_strides_in_the_second_convolution(tmp_path: Path) -> None:
    graph = read_caffe(50, tmp_path, size=64, classes=10, head="fc10")
    original, newer = (
        resnet(50, graph.weights, classes=10, stride_in=where, input_shape=(64, 64, 3)) for where in ("1x1", "3x3")
    )
    for model, sides in ((original, (8, 8)), (newer, (16, 8))):
        found = (model.get_layer("res3a_branch2a").output.shape[1], model.get_layer("res3a_branch2b").output.shape[1])
        assert found == sides
    assert original.output.shape == newer.output.shape
    images = noise(1, 64, 64, 3)
    assert distance(newer(images), np.asarray(original(images))) > 1e-3


def test_weights_survive_the_model(tmp_path: Path) -> None:
    model = with_statistics(resnet(18, classes=7, input_shape=(32, 32, 3)))
    weights = weights_of(model)
    assert weights["res2a_branch2a/kernel"].shape == (64, 64, 3, 3)
    assert weights["fc7/kernel"].shape == (7, 512)
    assert {"bn2a_branch2a/mean", "bn2a_branch2a/variance", "scale2a_branch2a/gamma"} <= set(weights)
    weights.save(tmp_path / "map.safetensors")
    again = resnet(18, WeightMap.load(tmp_path / "map.safetensors"), classes=7, input_shape=(32, 32, 3))
    for mine, theirs in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-7)


def test_every_fault_of_a_map_is_listed(tmp_path: Path) -> None:
    weights = weights_of(resnet(18, classes=3, input_shape=(32, 32, 3)))
    arrays = dict(weights)
    del arrays["bn2a_branch2a/mean"]
    arrays["conv1/kernel"] = arrays["conv1/kernel"][:, :1]
    arrays["extra/kernel"] = np.zeros(3, np.float32)
    with pytest.raises(UsageError) as caught:
        resnet(18, WeightMap(arrays), classes=1000)
    assert str(caught.value).splitlines() == [
        "the weights don't fit this ResNet-18:",
        "  shape: conv1/kernel is [64, 1, 7, 7], the model's is [64, 3, 7, 7]",
        "  missing: bn2a_branch2a/mean",
        "  missing: fc1000/kernel",
        "  left over: fc3/kernel",
        "  left over: fc3/bias",
        "  left over: extra/kernel",
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"depth": 51}, "no ResNet-51; there are 18, 34, 50, 101, 152"),
        ({"depth": 18, "stride_in": "2x2", "classes": 0}, "0 classes apart; stride_in is '1x1' or '3x3'"),
        ({"depth": 18, "weights": WeightMap({"a/kernel": np.zeros(1, np.float32)})}, "the first is 'a/kernel'"),
    ],
)
def test_a_call_that_cant_be_is_refused(call: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resnet(**call)


def test_weights_of_another_depth_are_recognized() -> None:
    with pytest.raises(UsageError, match="don't fit this ResNet-34; it holds as many convolutions as a ResNet-18 has:"):
        resnet(34, weights_of(resnet(18, input_shape=(32, 32, 3))))


def test_it_is_trained_further(tmp_path: Path) -> None:
    graph = read_caffe(18, tmp_path, size=32)
    model = replace_head(resnet(18, graph.weights, input_shape=(32, 32, 3)), 3)
    frozen = freeze(model, "res4b_relu")
    assert {"conv1", "bn_conv1", "res4b_branch2b"} <= set(frozen)
    assert "res5a_branch1" not in frozen
    before = weights_of(model)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model.fit(noise(6, 32, 32, 3), np.arange(6) % 3, epochs=2, verbose=0)
    after = weights_of(model)
    changed = {name for name in after if not np.array_equal(after[name], before[name])}
    assert not {name for name in changed if name.split("/")[0] in frozen or name.startswith("scale4")}
    assert {"fc3/kernel", "res5a_branch1/kernel", "bn5b_branch2b/mean", "scale5b_branch2b/gamma"} <= changed


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:.*HDF5 file")
def test_the_documents_example_runs(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")
    (example,) = re.findall(r"^## ResNets$.*?^```python$(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    for path, kind in zip(
        write_caffe_resnet(50, tmp_path, size=224), ("deploy.prototxt", "model.caffemodel"), strict=True
    ):
        path.rename(tmp_path / f"ResNet-50-{kind}")
    monkeypatch.chdir(tmp_path)
    images = noise(2, 224, 224, 3)
    names: dict[str, Any] = {"photographs": images, "classes": np.arange(2)}
    exec(example.replace(".keras", suffix), names)  # noqa: S102 (the document is our own)
    graph = demitasse.read(f"flowers{suffix}")
    assert graph.outputs == ["prob"]
    got = evaluate(graph, {"data": images}, keep=["prob"])["prob"]
    assert got.shape == (2, 20)
    assert distance(got, np.asarray(names["model"](images, training=False))) < 1e-5


def test_a_layer_that_isnt_there_is_refused() -> None:
    model = resnet(18, include_top=False, input_shape=(None, None, 3))
    assert model.output.shape == (None, None, None, 512)
    with pytest.raises(UsageError, match="no layer 'pool5'; it has data, conv1_pad, conv1, "):
        replace_head(model, 3)
