"""What becomes of a net's layers: names, cuts, weights, refusals, and what layers without a golden net compute."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest

import caffe_encoder as encode
from demitasse.errors import MalformedModel, Unsupported, UsageError
from demitasse.ir.check import check
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph, Status, infer_types, provenance
from demitasse.ir.ops import Relu, Size
from demitasse.ir.preprocessing import ChannelOrder
from demitasse.ir.weights import Array
from demitasse.readers.caffe import explain, read, supported_layers

RANDOM = np.random.RandomState(7)


def noise(*shape: int) -> Array:
    return np.asarray(RANDOM.normal(0, 1, shape), np.float32)


class Files(NamedTuple):
    structure: Path
    weights: Path | None


def write(folder: Path, structure: str, blobs: Mapping[str, tuple[Array, ...]] | None = None) -> Files:
    """Write a prototxt, and a caffemodel with the blobs of some layers."""
    prototxt = folder / "net.prototxt"
    prototxt.write_text(structure)
    if blobs is None:
        return Files(prototxt, None)
    caffemodel = folder / "net.caffemodel"
    layers = [
        encode.layer(name, "", *(encode.blob(array.shape, encode.packed(array)) for array in arrays))
        for name, arrays in blobs.items()
    ]
    caffemodel.write_bytes(encode.net(*layers))
    return Files(prototxt, caffemodel)


def entry(name: str, *shape: int) -> str:
    dims = " ".join(f"dim: {dim}" for dim in shape)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'


def layer(name: str, kind: str, bottoms: str, tops: str, extra: str = "") -> str:
    wires = " ".join([*(f'bottom: "{blob}"' for blob in bottoms.split()), *(f'top: "{blob}"' for blob in tops.split())])
    return f'layer {{ name: "{name}" type: "{kind}" {wires} {extra} }}\n'


CONV = "convolution_param { num_output: 2 kernel_size: 1 }"
SMALL = (
    entry("data", 10, 3, 4, 4)
    + layer("conv", "Convolution", "data", "c", CONV)
    + layer("bn", "BatchNorm", "c", "c")
    + layer("relu", "ReLU", "c", "c")
    + layer("side", "Sigmoid", "c", "s")
    + layer("fc", "InnerProduct", "c", "f", "inner_product_param { num_output: 5 }")
    + layer("prob", "Softmax", "f", "prob")
)
SMALL_BLOBS = {
    "conv": (noise(2, 3, 1, 1), noise(2)),
    "bn": (noise(2), np.abs(noise(2)), np.ones(1, np.float32)),
    "fc": (noise(5, 32), noise(5)),
}


@pytest.fixture
def small(tmp_path: Path) -> Files:
    return write(tmp_path, SMALL, SMALL_BLOBS)


# --- names and cuts -----------------------------------------------------------------------------------------


def test_a_layer_in_place_reads_what_was_there_when_it_ran(small: Files) -> None:
    graph = read(*small)
    by_layer = {found.origin.layer: (found.inputs, found.outputs) for found in graph.layers}
    assert by_layer["conv"] == (("data",), ("c@conv",))
    assert by_layer["bn"] == (("c@conv",), ("c@bn",))
    assert by_layer["relu"] == (("c@bn",), ("c",))
    assert by_layer["side"][0] == by_layer["fc"][0] == ("c",)
    assert graph.outputs == ["s", "prob"]
    assert {record.status for record in provenance(graph)} == {Status.COMPARED}


def test_an_input_keeps_its_name_where_a_layer_overwrites_it(tmp_path: Path) -> None:
    net = entry("data", 1, 3) + layer("scale", "Power", "data", "data", "power_param { scale: 2 }")
    graph = read(*write(tmp_path, net))
    assert (graph.inputs, graph.outputs) == (["data"], ["data@scale"])


@pytest.mark.parametrize(
    ("asked", "outputs", "unused"),
    [(["f"], ["f"], {"s", "prob"}), (["c@bn", "s"], ["c@bn", "s"], {"f", "prob"}), (["c"], ["c"], {"s", "f", "prob"})],
)
def test_a_net_is_cut_at_blobs(small: Files, asked: list[str], outputs: list[str], unused: set[str]) -> None:
    graph = read(*small, outputs=asked)
    check(graph)
    assert graph.outputs == outputs
    assert graph.unused == unused
    statuses = {record.blob: record.status for record in provenance(graph)}
    assert {blob for blob, status in statuses.items() if status is Status.UNUSED} == unused


def test_an_output_that_is_not_there_is_named_with_what_is_like_it(small: Files) -> None:
    with pytest.raises(UsageError, match="no layer gives a blob named 'porb'; did you mean 'prob'"):
        read(*small, outputs=["porb"])


def test_a_cut_leaves_out_what_can_not_be_read(tmp_path: Path) -> None:
    net = entry("data", 1, 3) + layer("relu", "ReLU", "data", "r") + layer("odd", "Odd", "r", "o")
    files = write(tmp_path, net)
    with pytest.raises(Unsupported, match=r"net\.prototxt:3, layer 'odd' \(Odd\)"):
        read(*files)
    assert read(*files, outputs=["r"]).outputs == ["r"]


def test_names_of_weights_give_way_to_names_of_blobs(tmp_path: Path) -> None:
    net = entry("data", 1, 3, 2, 2) + layer("c", "Convolution", "data", "c", CONV)
    net += layer("c/bias", "ReLU", "c", "c/bias") + layer("c/kernel", "ReLU", "c/bias", "c/kernel")
    graph = read(*write(tmp_path, net, {"c": (noise(2, 3, 1, 1), noise(2))}))
    check(graph)
    assert list(graph.weights) == ["c/kernel.2", "c/bias.2"]


# --- shapes and batches -------------------------------------------------------------------------------------


def test_a_batch_of_ten_is_not_baked_in(small: Files) -> None:
    graph = read(*small)
    assert graph.batch_is_dynamic
    assert infer_types(graph, {"data": (3, 3, 4, 4)})["prob"].shape == (3, 5)


@pytest.mark.parametrize(
    "net",
    [
        entry("data", 4, 6) + layer("s", "Slice", "data", "a b", "slice_param { axis: 0 }"),
        entry("data", 4, 6) + layer("r", "Reshape", "data", "r", "reshape_param { shape { dim: 8 dim: 3 } }"),
        entry("x", 3, 1, 2)
        + entry("cont", 3, 1)
        + layer("l", "LSTM", "x cont", "l", "recurrent_param { num_output: 2 }"),
        entry("data", 4, 6) + layer("p", "Permute", "data", "p", "permute_param { order: 1 order: 0 }"),
        entry("data", 4, 6)
        + layer("r", "Reshape", "data", "r", "reshape_param { shape { dim: -1 } axis: 0 num_axes: 0 }"),
    ],
    ids=[
        "even slices of the batch",
        "a reshape to another batch",
        "time steps",
        "the batch goes elsewhere",
        "an axis before the batch",
    ],
)
def test_a_batch_that_is_baked_in_is_told(tmp_path: Path, net: str) -> None:
    assert not read(*write(tmp_path, net), allow_missing_weights=True).batch_is_dynamic


def test_a_fully_convolutional_net_takes_another_size(tmp_path: Path) -> None:
    net = entry("data", 1, 3, 4, 4) + layer("conv", "Convolution", "data", "c", CONV)
    files = write(tmp_path, net, {"conv": (noise(2, 3, 1, 1), noise(2))})
    assert read(*files, input_shapes={"data": (1, 3, 9, 7)}).type("c").shape == (1, 2, 9, 7)


def test_a_size_that_the_weights_do_not_fit_is_an_error_of_the_layer(small: Files) -> None:
    with pytest.raises(MalformedModel, match=r"layer 'fc'.*\(5, 162\) of 810 numbers.*\(5, 32\) of 160"):
        read(*small, input_shapes={"data": (1, 3, 9, 9)})


def test_an_input_without_a_shape_asks_for_one(tmp_path: Path) -> None:
    files = write(tmp_path, 'input: "data"\n' + layer("relu", "ReLU", "data", "r"))
    with pytest.raises(UsageError, match="--input-shape data="):
        read(*files)
    assert read(*files, input_shapes={"data": (1, 7)}).type("r").shape == (1, 7)
    with pytest.raises(UsageError, match="no input named 'dada'"):
        read(*files, input_shapes={"dada": (1, 7)})


# --- weights ------------------------------------------------------------------------------------------------


def test_kernels_are_views_into_the_file(small: Files) -> None:
    graph = read(*small)
    for name in ("conv/kernel", "fc/kernel"):
        assert not graph.weights[name].flags.owndata
        assert not graph.weights[name].flags.writeable


def test_blobs_of_one_name_are_one_weight(golden: Path) -> None:
    folder = golden / "caffe" / "shared_weights"
    graph = read(folder / "net.prototxt", folder / "net.caffemodel")
    assert list(graph.weights) == ["a/kernel", "a/bias"]


def test_all_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    blobs = {**SMALL_BLOBS, "conv": (noise(2, 4, 1, 1), noise(2), noise(1)), "fc": (noise(5, 32),)}
    with pytest.raises(MalformedModel) as caught:
        read(*write(tmp_path, SMALL, blobs))
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "layer 'conv' (Convolution): kernel: the net needs the shape (2, 3, 1, 1)" in lines[1]
    assert "layer 'conv'" in lines[2]
    assert "more blobs than the net needs; surplus: (1)" in lines[2]
    assert "layer 'fc' (InnerProduct): bias of shape (5) of 5 numbers: the weights hold none" in lines[3]


def test_weights_may_be_missing_only_where_that_is_asked_for(tmp_path: Path) -> None:
    files = write(tmp_path, SMALL)
    with pytest.raises(UsageError, match="no weight file is given, and layers need 7 blobs"):
        read(*files)
    assert read(*files, allow_missing_weights=True).type("prob").shape == (10, 5)


def test_a_kernel_without_weights_takes_no_memory(tmp_path: Path) -> None:
    net = entry("data", 1, 1000) + layer(
        "fc", "InnerProduct", "data", "f", "inner_product_param { num_output: 2000000 }"
    )
    kernel = read(*write(tmp_path, net), allow_missing_weights=True).weights["fc/kernel"]
    assert kernel.strides == (0, 0)


# --- what can't be honoured ---------------------------------------------------------------------------------


def test_every_layer_without_a_reader_is_listed_with_its_fields(tmp_path: Path) -> None:
    net = (
        entry("data", 1, 3)
        + layer("a", "Convolutoin", "data", "a", CONV)
        + layer("b", "Odd", "a", "b", "odd_param { x: 3 }")
    )
    with pytest.raises(Unsupported) as caught:
        read(*write(tmp_path, net))
    first, second = map(str, caught.value.offences)
    assert "net.prototxt:2, layer 'a'" in first
    assert "did you mean 'Convolution'?" in first
    assert "net.prototxt:3, layer 'b'" in second
    assert "odd_param.x: 3" in second


def test_a_known_layer_that_can_not_be_read_says_why(tmp_path: Path) -> None:
    net = entry("data", 4, 3) + entry("which", 4) + layer("f", "Filter", "data which", "f")
    with pytest.raises(Unsupported, match="how many samples it gives depends on what they hold"):
        read(*write(tmp_path, net))


def test_a_type_of_a_v1_fork_is_found_by_its_current_spelling(tmp_path: Path) -> None:
    net = 'layers { name: "p" type: SHUFFLE_CHANNEL bottom: "data" top: "p" shuffle_channel_param { group: 2 } }'
    graph = read(*write(tmp_path, 'input: "data" input_dim: 1 input_dim: 4 input_dim: 2 input_dim: 2 ' + net))
    assert graph.layers[-1].origin.kind == "ShuffleChannel"


def test_every_parameter_that_nobody_read_is_listed(tmp_path: Path) -> None:
    net = entry("data", 1, 3, 4, 4)
    net += layer("conv", "Convolution", "data", "c", "convolution_param { num_output: 2 kernel_size: 1 twist: 2 }")
    net += layer("relu", "ReLU", "c", "r", "relu_param { negative_slope: 0.1 bend: true } pooling_param { stride: 2 }")
    with pytest.raises(Unsupported) as caught:
        read(*write(tmp_path, net), allow_missing_weights=True)
    reasons = [offence.reason for offence in caught.value.offences]
    assert reasons == [
        "can't honour convolution_param.twist: 2",
        "can't honour relu_param.bend: true",
        "can't honour pooling_param.stride: 2",
    ]


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (layer("r", "ReLU", "data data", "r"), "it has 2 bottoms, and needs 1"),
        (layer("r", "ReLU", "data", "r s"), "it has 2 tops; its type gives 1"),
        (layer("c", "Convolution", "data", "c", "convolution_param { num_output: 2 }"), "kernel_size is missing"),
        (layer("c", "Convolution", "data", "c", "convolution_param { kernel_size: 1 }"), "num_output is missing"),
        (layer("c", "Convolution", "data", "c", CONV.replace("}", "stride: 0 }")), "have to be positive"),
        (layer("c", "Convolution", "data", "c", CONV.replace("}", "group: 2 }")), "2 groups don't divide 3 input"),
        (layer("p", "Pooling", "data", "p", "pooling_param { kernel_size: 2 pad: 2 }"), "padding 2 has to be smaller"),
        (layer("p", "Softmax", "data", "p", "softmax_param { axis: 4 }"), "axis 4 is out of range"),
        (layer("p", "Slice", "data", "a b"), "3 elements along axis 1 can't be cut into 2"),
        (layer("p", "Reshape", "data", "p", "reshape_param { shape { dim: 7 } }"), "can't be reshaped"),
        (layer("p", "Eltwise", "data small", "p"), "differ in shape"),
    ],
    ids=lambda value: value.split('"')[3] if isinstance(value, str) and value.startswith("layer") else "",
)
def test_a_layer_that_contradicts_itself_is_named(tmp_path: Path, net: str, message: str) -> None:
    files = write(tmp_path, entry("data", 1, 3, 4, 4) + entry("small", 1, 1) + net)
    with pytest.raises(MalformedModel, match=message) as caught:
        read(*files, allow_missing_weights=True)
    assert "net.prototxt:3, layer " in str(caught.value)


def test_a_pooling_window_outside_the_image_is_refused(tmp_path: Path) -> None:
    net = entry("data", 1, 1, 5, 5) + layer("p", "Pooling", "data", "p", "pooling_param { kernel_size: 1 stride: 3 }")
    files = write(tmp_path, net)
    with pytest.raises(Unsupported, match="the last of 3 windows lies wholly outside 5 elements"):
        read(*files)


# --- training nets ------------------------------------------------------------------------------------------

TRAIN_VAL = (
    layer(
        "data",
        "ImageData",
        "",
        "data label",
        "transform_param { crop_size: 8 mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.5 mirror: true }"
        'image_data_param { source: "x" batch_size: 16 new_height: 10 new_width: 9 }',
    )
    + layer("fc", "InnerProduct", "data", "fc", "inner_product_param { num_output: 4 }")
    + layer("shifted", "Power", "label", "shifted", "power_param { shift: 1 }")
    + layer("accuracy", "Accuracy", "fc label", "accuracy")
    + layer("loss", "SoftmaxWithLoss", "fc label", "loss", "loss_weight: 2 loss_param { ignore_label: 3 }")
)


def test_a_training_net_becomes_what_is_deployed(tmp_path: Path) -> None:
    graph = read(*write(tmp_path, TRAIN_VAL), allow_missing_weights=True)
    assert (graph.inputs, graph.outputs) == (["data"], ["prob"])
    assert graph.type("data").shape == (1, 3, 8, 8)
    assert {"accuracy", "label", "shifted"} <= graph.unused
    contract = graph.preprocessing
    assert contract is not None
    assert (contract.channels, contract.resize, contract.crop) == (ChannelOrder.BGR, Size(10, 9), Size(8, 8))
    assert (contract.mean, contract.scale) == ((104, 117, 123), (0.5,))


def test_a_mean_file_is_taken_from_beside_the_net(tmp_path: Path) -> None:
    net = TRAIN_VAL.replace(
        "mean_value: 104 mean_value: 117 mean_value: 123", 'mean_file: "/far/away/mean.binaryproto"'
    )
    files = write(tmp_path, net.replace("new_height: 10 new_width: 9", ""))
    graph = read(*files, allow_missing_weights=True)
    assert graph.preprocessing is not None
    assert graph.preprocessing.mean_image is None
    assert any("mean.binaryproto" in note for note in graph.notes)
    mean = noise(3, 8, 8)
    (tmp_path / "mean.binaryproto").write_bytes(encode.blob((1, 3, 8, 8), encode.packed(mean), legacy=True))
    graph = read(*files, allow_missing_weights=True)
    assert graph.preprocessing is not None
    assert graph.preprocessing.mean_image is not None
    np.testing.assert_array_equal(graph.preprocessing.mean_image, mean)


# --- plugins ------------------------------------------------------------------------------------------------

PLUGIN = '''
from demitasse.ir.ops import Unary, UnaryFunction
from demitasse.readers.caffe import LayerBuilder, reads

@reads("Wave")
def wave(layer: LayerBuilder) -> None:
    """Take the sine of the input times a frequency."""
    frequency = layer.param("wave_param").number("frequency")
    layer.emit(Unary(UnaryFunction.SIN), layer.scaled("phase", layer.x, frequency))
'''


def test_a_plugin_reads_a_layer_of_its_own(tmp_path: Path) -> None:
    plugin = tmp_path / "wave.py"
    plugin.write_text(PLUGIN)
    files = write(tmp_path, entry("data", 1, 3) + layer("w", "Wave", "data", "w", "wave_param { frequency: 2 }"))
    with pytest.raises(Unsupported, match="Wave"):
        read(*files)
    graph = read(*files, plugins=[plugin])
    data = noise(1, 3)
    np.testing.assert_allclose(evaluate(graph, {"data": data})["w"], np.sin(2 * data), rtol=1e-6)


def test_a_plugin_without_readers_is_an_error(tmp_path: Path) -> None:
    plugin = tmp_path / "empty.py"
    plugin.write_text("x = 1")
    files = write(tmp_path, entry("data", 1, 3) + layer("r", "ReLU", "data", "r"))
    with pytest.raises(UsageError, match="no function in it is marked"):
        read(*files, plugins=[plugin])


def test_every_reader_says_what_it_reads() -> None:
    table = supported_layers()
    assert len(table) > 60
    assert [name for name, sentence in table.items() if not sentence.endswith(".")] == []


# --- layers without a golden net ----------------------------------------------------------------------------


class LayerCase(NamedTuple):
    """A layer, what it reads, and a formula for its tops that shares nothing with the reader."""

    kind: str
    extra: str
    inputs: tuple[Array, ...]
    expected: Callable[..., Any]
    blobs: tuple[Array, ...] = ()
    tops: int = 1


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.asarray(x, np.float64))))


def stochastic(x: Array) -> Array:
    windows = x.reshape(1, 2, 2, 2, 2, 2).swapaxes(3, 4).reshape(1, 2, 2, 2, 4).astype(np.float64)
    sums = windows.sum(-1)
    return np.asarray(np.where(sums > 0, (windows**2).sum(-1) / np.where(sums > 0, sums, 1), 0))


def darknet_reorg(x: Array) -> Array:
    batch, channels, height, width = x.shape
    flat, out, deep = x.reshape(batch, -1), np.zeros(x.size // batch, x.dtype), channels // 4
    for k, j, i in itertools.product(range(channels), range(height), range(width)):
        place, offset = k % deep, k // deep
        row, column = j * 2 + offset // 2, i * 2 + offset % 2
        out[i + width * (j + height * k)] = flat[0, column + width * 2 * (row + height * 2 * place)]
    return out.reshape(batch, channels * 4, height // 2, width // 2)


def unpooled(x: Array, mask: Array) -> Array:
    out = np.zeros((1, 2, 16), x.dtype)
    for channel, place in itertools.product(range(2), range(4)):
        out[0, channel, int(mask[0, channel].flat[place])] = x[0, channel].flat[place]
    return out.reshape(1, 2, 4, 4)


def aligned_linear(x: Array, height: int, width: int) -> Array:
    def along(values: Array, axis: int, count: int) -> Array:
        size = values.shape[axis]
        places = np.arange(count) * ((size - 1) / (count - 1) if count > 1 else 0)
        low = np.minimum(np.floor(places).astype(int), size - 1)
        share = (places - low).reshape([-1 if at == axis else 1 for at in range(4)])
        high = np.minimum(low + 1, size - 1)
        return np.asarray(values.take(low, axis) * (1 - share) + values.take(high, axis) * share)

    return along(along(x.astype(np.float64), 2, height), 3, width)


def lstm(x: Array, cont: Array, h: Array, c: Array, wx: Array, b: Array, wh: Array) -> tuple[Array, ...]:
    hidden, cell, outputs = h[0].astype(np.float64), c[0].astype(np.float64), []
    for step, carry in zip(x, cont, strict=True):
        i, f, o, g = np.split(step @ wx.T + b + (hidden * carry[:, None]) @ wh.T, 4, axis=1)
        cell = carry[:, None] * sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        outputs.append(hidden)
    return np.stack(outputs), hidden[None], cell[None]


def plain_lstm(x: Array, clip: Array, wx: Array, wh: Array, b: Array) -> Array:
    zero = np.zeros((1, 1, wh.shape[1]))
    return lstm(x[:, None], clip, zero, zero, wx, b, wh)[0][:, 0]


def batch_normalized(x: Array, *_: Array) -> Array:
    mean, variance = (statistic(x, axis=(0, 2, 3), keepdims=True, dtype=np.float64) for statistic in (np.mean, np.var))
    return np.asarray((x - mean) / np.sqrt(variance + 1e-5))


def overlap(left: Array, right: Array) -> float:
    shared = np.prod(np.maximum(np.minimum(left[2:], right[2:]) - np.maximum(left[:2], right[:2]), 0))
    return float(shared / (np.prod(left[2:] - left[:2]) + np.prod(right[2:] - right[:2]) - shared))


def detections(location: Array, confidence: Array, priors: Array, *, code: str, shared: bool) -> Array:
    """Detects two images' boxes as SSD does: 3 classes, 6 priors, 3 boxes a class, 4 an image."""
    blocks = []
    for image in range(2):
        places = location[image].reshape(6, 1 if shared else 3, 4)
        scores, found = confidence[image].reshape(6, 3), []
        for label in (1, 2):
            boxes = []
            for prior, variance, place in zip(
                *priors[0].reshape(2, 6, 4), places[:, 0 if shared else label], strict=True
            ):
                size, moved = prior[2:] - prior[:2], place * variance
                if code == "CORNER":
                    boxes.append(prior + moved)
                    continue
                if code == "CORNER_SIZE":
                    boxes.append(prior + moved * np.tile(size, 2))
                    continue
                centre, half = prior[:2] + size / 2 + moved[:2] * size, np.exp(moved[2:]) * size / 2
                boxes.append(np.concatenate([centre - half, centre + half]))
            kept: list[int] = []
            for box in [box for box in np.argsort(-scores[:, label])[:3] if scores[box, label] > 0.2]:
                if all(overlap(boxes[box], boxes[other]) <= 0.4 for other in kept):
                    kept.append(int(box))
            found += [[image, label, scores[box, label], *boxes[box]] for box in kept]
        best = sorted(found, key=lambda row: -row[2])[:4]
        rows = [row for row in found if row in best]
        blocks.append(rows + [[image, *[-1.0] * 6]] * (4 - len(rows)))
    return np.array(blocks, np.float64).reshape(1, 1, 8, 7)


def psroi_pooled(x: Array, regions: Array) -> Array:
    out = np.zeros((len(regions), 2, 3, 3))
    for region, (_, left, top, right, bottom) in enumerate(np.round(regions.astype(np.float64))):
        start, end = np.array([left, top]) * 0.5, (np.array([right, bottom]) + 1) * 0.5
        length = np.maximum(end - start, 0.1) / 3
        for channel, i, j in itertools.product(range(2), range(3), range(3)):
            low = np.maximum(np.floor(start + length * (j, i)), 0).astype(int)
            high = np.minimum(np.ceil(start + length * (j + 1, i + 1)), (7, 6)).astype(int)
            part = x[0, (channel * 3 + i) * 3 + j, low[1] : high[1], low[0] : high[0]]
            out[region, channel, i, j] = part.mean() if part.size else 0
    return out


def proposed(scores: Array, deltas: Array, info: Array) -> tuple[Array, Array]:
    """Proposes regions from one anchor of 16 x 16 pixels at each of 3 x 4 places, 8 pixels apart."""
    rows = []
    for i, j in itertools.product(range(3), range(4)):
        move, stretch = deltas[0, :2, i, j], deltas[0, 2:, i, j]
        centre = np.array([j, i]) * 8 + 8 + move * 16
        half = np.exp(stretch) * 16 / 2
        limit = info[0, 1::-1] - 1
        low, high = (np.clip(end, 0, limit) for end in (centre - half, centre + half))
        if (high - low + 1 >= 2 * info[0, 2]).all():
            rows.append((scores[0, 1, i, j], np.concatenate([low, high])))
    rows = sorted(rows, key=lambda row: -row[0])[:8]
    kept: list[tuple[float, Array]] = []
    last = np.array([0, 0, 1, 1])
    for score, box in rows:
        if all(overlap(box + last, other + last) <= 0.3 for _, other in kept):
            kept.append((score, box))
    regions, points = np.zeros((5, 5)), np.zeros((5, 1))
    for row, (score, box) in enumerate(kept[:5]):
        regions[row, 1:], points[row] = box, score
    return regions, points


def yolo_rows(coarse: Array, fine: Array) -> Array:
    """Detects as YOLOv3 does: 2 classes, 2 boxes a cell, grids of 2 x 2 and 3 x 3 cells over 64 and 48 pixels."""
    anchors = np.array([[10, 14], [23, 27], [37, 58], [81, 82]], np.float64)
    found = []
    for grid, mask, pixels in ((coarse, (2, 3), 64), (fine, (0, 1), 48)):
        side = grid.shape[2]
        for box, i, j in itertools.product(range(2), range(side), range(side)):
            values = grid[0].reshape(2, 7, side, side)[box, :, i, j].astype(np.float64)
            centre = (sigmoid(values[:2]) + np.array([j, i])) / side
            half = np.exp(values[2:4]) * anchors[mask[box]] / pixels / 2
            for label, score in enumerate(sigmoid(values[5:]) * sigmoid(values[4])):
                if score > 0.3:
                    found.append((float(score), label + 1, np.concatenate([centre - half, centre + half])))
    rows: list[tuple[float, int, Array]] = []
    for row in sorted(found, key=lambda row: -row[0]):
        if all(overlap(row[2], other[2]) < 0.4 for other in rows):
            rows.append(row)
    table = np.full((26, 7), -1.0)
    table[:, 0] = 0
    for at, (score, label, corners) in enumerate(rows):
        table[at] = 0, label, score, *corners
    return table[None, None]


def detection_case(code: str, *, shared: bool) -> LayerCase:
    corners = np.sort(RANDOM.uniform(0, 1, (6, 2, 2)), axis=1).reshape(1, -1)
    priors = np.concatenate([corners, RANDOM.uniform(0.1, 0.3, (1, 24))])[None].astype(np.float32)
    confidence = RANDOM.uniform(0, 1, (2, 18)).astype(np.float32)
    extra = f"""detection_output_param {{ num_classes: 3 share_location: {str(shared).lower()} code_type: {code}
        nms_param {{ nms_threshold: 0.4 top_k: 3 }} keep_top_k: 4 confidence_threshold: 0.2 }}"""
    formula = partial(detections, code=code, shared=shared)
    return LayerCase("DetectionOutput", extra, (noise(2, 24 if shared else 72), confidence, priors), formula)


IMAGE, POSITIVE = noise(1, 4, 4, 4), np.abs(noise(1, 2, 4, 4))
MASK = np.array([[[0, 3], [9, 14]], [[5, 2], [8, 11]]], np.float32)[None]
LSTM_INPUTS = (noise(3, 2, 4), np.array([[0, 1], [1, 1], [1, 0]], np.float32), noise(1, 2, 5), noise(1, 2, 5))
LSTM_BLOBS = (noise(20, 4), noise(20), noise(20, 5))
CLIP = np.array([[0], [1], [1], [0], [1]], np.float32)

LAYERS = {
    "relu6": LayerCase("ReLU6", "", (4 * IMAGE,), lambda x: np.clip(x, 0, 6)),
    "mish": LayerCase("Mish", "", (IMAGE,), lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    "power that is a constant": LayerCase(
        "Power", "power_param { scale: 0 shift: 3 power: 2 }", (IMAGE,), lambda x: np.full(x.shape, 9.0)
    ),
    "power of a half": LayerCase("Power", "power_param { power: 0.5 }", (POSITIVE,), np.sqrt),
    "exp with base e": LayerCase("Exp", "exp_param { shift: 2 }", (IMAGE,), lambda x: np.exp(x + 2)),
    "dropout that scales when testing": LayerCase(
        "Dropout", "dropout_param { dropout_ratio: 0.25 scale_train: false }", (IMAGE,), lambda x: 0.75 * x
    ),
    "sum of three, one negative": LayerCase(
        "Eltwise",
        "eltwise_param { coeff: -2 coeff: -1 coeff: 1 }",
        (IMAGE, noise(1, 4, 4, 4), noise(1, 4, 4, 4)),
        lambda x, y, z: -2 * x - y + z,
    ),
    "scale by a second bottom, and a bias": LayerCase(
        "Scale",
        "scale_param { axis: 1 bias_term: true }",
        (IMAGE, noise(4, 4)),
        lambda x, s, b: x * s[:, :, None] + b[:, :, None],
        (noise(4, 4),),
    ),
    "scale by one number": LayerCase(
        "Scale", "scale_param { num_axes: 0 }", (IMAGE,), lambda x, s: x * s, (np.asarray(noise(1)[0]),)
    ),
    "batch statistics": LayerCase(
        "BatchNorm",
        "batch_norm_param { use_global_stats: false }",
        (noise(3, 4, 2, 2),),
        batch_normalized,
        (noise(4), noise(4), noise(1)),
    ),
    "mvn without variance": LayerCase(
        "MVN", "mvn_param { normalize_variance: false }", (IMAGE,), lambda x: x - x.mean((2, 3), keepdims=True)
    ),
    "bn of segnet": LayerCase(
        "BN",
        "bn_param { bn_mode: INFERENCE }",
        (IMAGE,),
        lambda x, scale, shift: x * scale + shift,
        (noise(1, 4, 1, 1), noise(1, 4, 1, 1)),
    ),
    "stochastic pooling": LayerCase(
        "Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }", (POSITIVE,), stochastic
    ),
    "pyramid of means": LayerCase(
        "SPP",
        "spp_param { pyramid_height: 2 pool: AVE }",
        (IMAGE,),
        lambda x: np.concatenate(
            [x.mean((2, 3)), x.reshape(1, 4, 2, 2, 2, 2).mean((3, 5)).reshape(1, -1)], axis=1, dtype=np.float64
        ),
    ),
    "argmax of a sample": LayerCase(
        "ArgMax",
        "argmax_param { top_k: 2 out_max_val: true }",
        (IMAGE,),
        lambda x: np.stack([np.argsort(-x.ravel())[:2], -np.sort(-x.ravel())[:2]])[None],
    ),
    "argmax along an axis": LayerCase(
        "ArgMax", "argmax_param { axis: -1 top_k: 2 }", (IMAGE,), lambda x: np.argsort(-x, axis=3)[..., :2]
    ),
    "upsampling by a mask": LayerCase("Upsample", "upsample_param { scale: 2 }", (noise(1, 2, 2, 2), MASK), unpooled),
    "interpolation of a part": LayerCase(
        "Interp",
        "interp_param { pad_beg: 0 pad_end: -1 shrink_factor: 2 zoom_factor: 3 }",
        (noise(1, 2, 6, 8),),
        lambda x: aligned_linear(x[:, :, :5, :7], 7, 10),
    ),
    "reorg": LayerCase("Reorg", "reorg_param { stride: 2 }", (noise(1, 4, 4, 6),), darknet_reorg),
    "lstm with states of its own": LayerCase(
        "LSTM", "recurrent_param { num_output: 5 expose_hidden: true }", LSTM_INPUTS, lstm, LSTM_BLOBS, 3
    ),
    "lstm of one sequence": LayerCase(
        "Lstm",
        "lstm_param { num_output: 3 clipping_threshold: 0.1 }",
        (noise(5, 4), CLIP),
        plain_lstm,
        (noise(12, 4), noise(12, 3), noise(12)),
    ),
    "detections by centre and size": detection_case("CENTER_SIZE", shared=True),
    "detections by corner": detection_case("CORNER", shared=True),
    "detections by corner and size, a class its own boxes": detection_case("CORNER_SIZE", shared=False),
    "position-sensitive regions": LayerCase(
        "PSROIPooling",
        "psroi_pooling_param { spatial_scale: 0.5 output_dim: 2 group_size: 3 }",
        (noise(1, 18, 6, 7), np.array([[0, 1, 2, 12, 9], [0, 4, 0, 5, 1], [0, 20, 20, 22, 23]], np.float32)),
        psroi_pooled,
    ),
    "proposals": LayerCase(
        "Proposal",
        "proposal_param { feat_stride: 8 ratio: 1 scale: 1 min_size: 2"
        " pre_nms_topn: 8 post_nms_topn: 5 nms_thresh: 0.3 }",
        (np.abs(noise(1, 2, 3, 4)), 0.4 * noise(1, 4, 3, 4), np.array([[28, 36, 2]], np.float32)),
        proposed,
        tops=2,
    ),
    "yolo": LayerCase(
        "Yolov3DetectionOutput",
        """yolov3_detection_output_param { num_classes: 2 num_box: 2 mask_group_num: 2 mask: 2 mask: 3 mask: 0 mask: 1
            confidence_threshold: 0.3 nms_threshold: 0.4 anchors_scale: 32 anchors_scale: 16 biases: 10 biases: 14
            biases: 23 biases: 27 biases: 37 biases: 58 biases: 81 biases: 82 }""",
        (noise(1, 14, 2, 2), noise(1, 14, 3, 3)),
        yolo_rows,
    ),
    "convolution over frames": LayerCase(
        "Convolution3D",
        "convolution_param { num_output: 3 kernel_size: 1 kernel_depth: 2 stride: 2 temporal_stride: 1 }",
        (noise(1, 2, 4, 4, 6),),
        lambda x, kernel, bias: (
            bias[:, None, None, None]
            + np.stack(
                [np.einsum("oct,ncthw->nohw", kernel[..., 0, 0], x[:, :, t : t + 2, ::2, ::2]) for t in range(3)], 2
            )
        ),
        (noise(3, 2, 2, 1, 1), noise(3)),
    ),
    "pooling over frames": LayerCase(
        "Pooling3D",
        "pooling_param { pool: MAX kernel_size: 2 kernel_depth: 2 stride: 2 temporal_stride: 2 }",
        (noise(1, 2, 4, 4, 6),),
        lambda x: x.reshape(1, 2, 2, 2, 2, 2, 3, 2).max((3, 5, 7)),
    ),
    "continuation": LayerCase(
        "ContinuationIndicator",
        "continuation_indicator_param { time_step: 3 axis: 1 }",
        (noise(3, 2, 4),),
        lambda x: np.array([[0, 0], [1, 1], [1, 1]]),
    ),
    "convolution along an axis of its own": LayerCase(
        "Convolution",
        "convolution_param { num_output: 2 kernel_size: 1 axis: 2 bias_term: false }",
        (noise(2, 3, 4, 5),),
        lambda x, kernel: np.einsum("oc,ntcl->ntol", kernel[:, :, 0], x),
        (noise(2, 4, 1),),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_its_formula(tmp_path: Path, name: str) -> None:
    case = LAYERS[name]
    bottoms = [f"in{index}" for index in range(len(case.inputs))]
    net = "".join(entry(bottom, *array.shape) for bottom, array in zip(bottoms, case.inputs, strict=True))
    tops = [f"out{index}" for index in range(case.tops)]
    net += layer("it", case.kind, " ".join(bottoms), " ".join(tops), case.extra)

    graph = read(*write(tmp_path, net, {"it": case.blobs} if case.blobs else None))

    check(graph)
    values = evaluate(graph, dict(zip(bottoms, case.inputs, strict=True)))
    expected = case.expected(*case.inputs, *case.blobs)
    for top, array in zip(tops, expected if case.tops > 1 else [expected], strict=True):
        assert values[top].shape == array.shape
        np.testing.assert_allclose(values[top], array, rtol=2e-6, atol=2e-6)


def test_a_python_layer_is_known_by_its_class(tmp_path: Path) -> None:
    net = entry("s", 1, 24, 3, 4) + entry("d", 1, 48, 3, 4) + entry("i", 1, 3)
    options = "python_param { module: 'rpn.proposal_layer' layer: 'ProposalLayer' param_str: %s }"
    known = options % "\"{'feat_stride': 16, 'scales': [4, 8, 16, 32]}\""
    graph = read(*write(tmp_path, net + layer("p", "Python", "s d i", "rois", known)))
    assert graph.type("rois").shape == (144, 5)
    for text, message in (("'import os'", "can't be understood"), ("\"'feat_stride': 16, 'x': 1\"", "sets x")):
        with pytest.raises(Unsupported, match=message):
            read(*write(tmp_path, net + layer("p", "Python", "s d i", "rois", options % text)))
    with pytest.raises(Unsupported, match="the Python class 'Odd' is no part of the net"):
        read(
            *write(
                tmp_path, net + layer("p", "Python", "s d i", "rois", options.replace("ProposalLayer", "Odd") % "''")
            )
        )


def test_a_mask_reaches_its_upsampling_as_integers(tmp_path: Path) -> None:
    net = entry("data", 1, 2, 4, 4) + layer(
        "pool", "Pooling", "data", "p m", "pooling_param { kernel_size: 2 stride: 2 }"
    )
    graph = read(*write(tmp_path, net + layer("up", "Upsample", "p m", "u", "upsample_param { scale: 2 }")))
    assert [type(node.op).__name__ for node in graph.nodes] == ["MaxPool", "MaxUnpool"]
    assert graph.unused == {"m"}


def test_traps_are_told_with_their_layer(tmp_path: Path) -> None:
    net = entry("data", 1, 1, 5, 5)
    net += layer("p", "Pooling", "data", "p", "pooling_param { pool: AVE kernel_size: 2 stride: 2 pad: 1 }")
    traps = explain(*write(tmp_path, net)).traps
    assert [(trap.origin.layer, trap.message) for trap in traps] == [
        ("p", "zeros of the padding count in the mean, the overhang at the end doesn't")
    ]


def test_relu_is_one_operation(tmp_path: Path) -> None:
    graph: Graph = read(*write(tmp_path, entry("data", 1, 3) + layer("r", "ReLU", "data", "r")))
    assert [node.op for node in graph.nodes] == [Relu()]
    assert graph.nodes[0].origin.where.endswith("net.prototxt:2, layer 'r' (ReLU)")
    assert math.prod(graph.type("r").shape) == 3


# --- hostile files ----------------------------------------------------------------------------------------------------

ODD_VALUES = (
    "inf",
    "nan",
    "true",
    "AVE",
    "0",
    "-1",
    "4294967295",
    "1e38",
    "1e-45",
    "9223372036854775807",
    "0.5",
    '"x"',
)


@pytest.mark.parametrize("seed", range(8))
def test_damaged_nets_are_refused_by_design(seed: int, golden: Path, tmp_path: Path) -> None:
    """Replaces values and types in golden nets; whatever comes out, only designed errors may."""
    random = Random(seed)
    structures = [path.read_text() for path in sorted(golden.glob("caffe*/*/*.prototxt"))]
    kinds = sorted(set(re.findall(r'(?<=type: )"\w+"', "".join(structures))))
    files = Files(tmp_path / "net.prototxt", None)
    outcomes = Counter[str]()
    for _ in range(60):
        text = random.choice(structures)
        for pattern, choices in ((r"(?<=: )[-.\w]+", ODD_VALUES), (r'(?<=type: )"\w+"', kinds)):
            found = list(re.finditer(pattern, text))
            if found and (pattern.startswith("(?<=:") or random.random() < 0.3):
                hit = random.choice(found)
                text = text[: hit.start()] + random.choice(choices) + text[hit.end() :]
        files.structure.write_text(text)
        try:
            check(read(*files, allow_missing_weights=True))
            outcomes["read"] += 1
        except (MalformedModel, Unsupported, UsageError) as error:
            outcomes[type(error).__name__] += 1
    assert outcomes["MalformedModel"] > 0
    assert outcomes["read"] > 0
