"""Predicting with an artifact alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from demitasse.conversion import convert
from demitasse.errors import MalformedModel, UsageError
from demitasse.ir.ops import Size
from demitasse.ir.preprocessing import ChannelOrder, Preprocessing
from demitasse_models.catalogue import card
from demitasse_validation.prediction import predict

# Its scores are the mean colour of an image: the best class is the strongest channel of the net's order, BGR.
COLOUR_NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "mean" type: "Pooling" bottom: "data" top: "mean" pooling_param { pool: AVE global_pooling: true } }
layer { name: "prob" type: "Softmax" bottom: "mean" top: "prob" }
"""
CONTRACT = Preprocessing(ChannelOrder.BGR, resize=Size(10, 10), crop=Size(8, 8), mean=(127,), scale=(0.01,))
LABELS = ("blue", "green", "red")
COLOURS = {"red": (250, 10, 20), "green": (0, 200, 30), "blue": (10, 60, 90)}


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "colour.prototxt"
    path.write_text(COLOUR_NET)
    return path


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in COLOURS]
    for path in paths:
        Image.fromarray(np.full((12, 16, 3), COLOURS[path.stem], np.uint8)).save(path)
    return paths


@pytest.mark.parametrize("target", ["colour.onnx", "colour.tflite"])
@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("batch", [None, 2])
def test_colours_are_told_apart(
    net: Path, photographs: list[Path], tmp_path: Path, target: str, fold: bool, batch: int | None
) -> None:
    convert(net, out=tmp_path / target, preprocessing=CONTRACT, labels=LABELS, fold=fold, batch=batch)
    predictions = predict(tmp_path / target, photographs, top=2)
    assert [prediction.image for prediction in predictions] == photographs
    assert [prediction.classes[0].label for prediction in predictions] == ["red", "green", "blue"]
    assert all(len(prediction.classes) == 2 for prediction in predictions)
    values = np.exp((np.array(COLOURS["red"][::-1]) - 127) * 0.01)
    assert predictions[0].classes[0].score == pytest.approx(values[2] / values.sum())


def test_what_the_caller_says_goes_first(net: Path, photographs: list[Path], tmp_path: Path) -> None:
    convert(net, out=tmp_path / "colour.onnx", preprocessing=CONTRACT, labels=LABELS)
    rgb = Preprocessing(ChannelOrder.RGB)
    (prediction,) = predict(tmp_path / "colour.onnx", photographs[:1], labels=["r", "g", "b"], preprocessing=rgb)
    assert prediction.classes[0].label == "r"
    assert len(prediction.classes) == 3


def test_classes_without_labels_are_numbers(net: Path, photographs: list[Path], tmp_path: Path) -> None:
    convert(net, out=tmp_path / "colour.onnx", preprocessing=CONTRACT)
    (prediction,) = predict(tmp_path / "colour.onnx", photographs[:1])
    assert (prediction.classes[0].place, prediction.classes[0].label) == (2, "2")


def test_a_bad_call_is_refused(net: Path, photographs: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "colour.onnx"
    convert(net, out=path)
    with pytest.raises(UsageError, match="nothing says how images are prepared"):
        predict(path, photographs)
    with pytest.raises(UsageError, match="scores of 3 classes, and there are 2 labels"):
        predict(path, photographs, labels=["a", "b"], preprocessing=CONTRACT)
    with pytest.raises(UsageError, match="takes images of 8 x 8"):
        predict(path, photographs, preprocessing=Preprocessing(crop=Size(7, 7)))
    with pytest.raises(UsageError, match="no output holds one score a class: its outputs are prob"):
        predict(path, photographs, preprocessing=CONTRACT, output="mean")
    with pytest.raises(UsageError, match="no such file"):
        predict(tmp_path / "absent.onnx", photographs)


def test_nets_without_scores_are_refused(golden: Path, photographs: list[Path], tmp_path: Path) -> None:
    for name, fault in [("two_inputs", "has the inputs"), ("conv_basic", "no output holds one score a class")]:
        folder = golden / "caffe" / name
        path = tmp_path / f"{name}.onnx"
        convert(folder / "net.prototxt", folder / "net.caffemodel", out=path, preprocessing=Preprocessing())
        with pytest.raises(UsageError, match=f"{fault}|channel"):
            predict(path, photographs)


def test_scores_that_are_not_finite_are_no_prediction(net: Path, photographs: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "colour.onnx"
    convert(net, out=path, preprocessing=CONTRACT, fold=True)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = np.full_like(numpy_helper.to_array(tensor), np.nan)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, path)
    with pytest.raises(MalformedModel, match=r"its scores for .*red.png are not finite"):
        predict(path, photographs)


def test_open_nsfw_scores_as_in_real_caffe(zoo: Path, tmp_path: Path) -> None:
    model = card("open_nsfw")
    files = model.locate(zoo / "caffe" / "open_nsfw")
    convert(files["source"], files["weights"], out=tmp_path / "nsfw.onnx", labels=model.labels)
    expected = json.loads((zoo / "images" / "expected_real_caffe.json").read_text("utf-8"))["open_nsfw"]
    images = [zoo / "images" / name for name in ("astronaut.png", "coral_pets.jpg", "camera.png")]
    whole = Preprocessing(ChannelOrder.BGR, resize=Size(224, 224), mean=(104, 117, 123))
    for prediction in predict(tmp_path / "nsfw.onnx", images, preprocessing=whole):
        scores = {entry.label: entry.score for entry in prediction.classes}
        assert [scores["sfw"], scores["nsfw"]] == pytest.approx(expected[prediction.image.name], abs=2e-6)
