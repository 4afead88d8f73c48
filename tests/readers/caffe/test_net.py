"""Nets in normal form: every spelling, every container, every rule of Caffe's for putting them together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from caffe_encoder import blob, field, layer, net, packed
from demitasse.errors import MalformedModel, UsageError
from demitasse.readers.caffe.net import Layer, Net, read_net

INPUT = 'input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8\n'
ONES = np.ones((2, 3), np.float32)


def read(tmp_path: Path, text: str, weights: bytes | None = None, **state: Any) -> Net:
    (tmp_path / "net.prototxt").write_text(text)
    if weights is not None:
        (tmp_path / "net.caffemodel").write_bytes(weights)
    return read_net(tmp_path / "net.prototxt", tmp_path / "net.caffemodel" if weights is not None else None, **state)


def relu(name: str, bottom: str = "data", top: str = "", rules: str = "") -> str:
    return f'layer {{ name: "{name}" type: "ReLU" bottom: "{bottom}" top: "{top or name}" {rules} }}\n'


def faults(tmp_path: Path, text: str, weights: bytes | None = None) -> str:
    with pytest.raises(MalformedModel) as caught:
        read(tmp_path, text, weights)
    return str(caught.value).replace(str(tmp_path), "")


# --- spellings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (INPUT, [("data", (1, 3, 8, 8))]),
        ('input: "a" input_shape { dim: 2 dim: 5 } input: "b" input_shape: { dim: [7] }', [("a", (2, 5)), ("b", (7,))]),
        ('input: "a" input: "b" input_dim: [1, 2, 3, 4, 5, 6, 7, 8]', [("a", (1, 2, 3, 4)), ("b", (5, 6, 7, 8))]),
        ('input: "clip" input_dim: [1, 3, 16, 8, 8]', [("clip", (1, 3, 16, 8, 8))]),
        ('input: "data"', [("data", None)]),
        (
            'layer { name: "i" type: "Input" top: "a" top: "b" input_param { shape { dim: 4 } } }',
            [("a", (4,)), ("b", (4,))],
        ),
        (
            'layer { name: "i" type: "Input" top: ["a", "b"] input_param { shape { dim: 4 } shape { dim: [1, 2] } } }',
            [("a", (4,)), ("b", (1, 2))],
        ),
        ('layer { name: "i" type: "Input" top: "a" }', [("a", None)]),
    ],
)
def test_inputs_in_all_their_spellings(text: str, expected: list[Any], tmp_path: Path) -> None:
    name = expected[-1][0]
    found = read(tmp_path, text + "\n" + relu("r", name))
    assert [(source.name, source.shape) for source in found.inputs] == expected
    assert [one.name for one in found.layers] == ["r"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('input: "a" input: "b" input_shape { dim: 1 }', "2 inputs, but 1 input_shape"),
        ('input: "a" input: "b" input_dim: [1, 2, 3]', "2 inputs, but 3 input_dim"),
        ('input: "a" input_shape { dim: -1 }', "(-1,) is no shape of an input"),
        ('input: "a" input: "a" input_dim: [1, 2]', "input 'a' is declared twice"),
        (
            'layer { name: "i" type: "Input" top: "a" top: "b" top: "c" input_param { shape {} shape {} } }',
            "layer 'i' has 3 tops, but 2 shapes",
        ),
    ],
)
def test_inputs_that_contradict_themselves(text: str, message: str, tmp_path: Path) -> None:
    assert message in faults(tmp_path, text + "\n" + relu("r", "a"))


V0 = """
input: "data" input_dim: [1, 3, 8, 8]
layers { layer { name: "pad" type: "padding" pad: 2 } bottom: "data" top: "padded" }
layers {
  layer { name: "conv" type: "conv" num_output: 4 kernelsize: 5 group: 2 stride: 3 biasterm: false
          weight_filler { type: "gaussian" std: 0.01 } blobs_lr: 1. blobs_lr: 2. weight_decay: 1. }
  bottom: "padded" top: "conv"
}
layers { layer { name: "relu" type: "relu" } bottom: "conv" top: "conv" }
layers { layer { name: "pool" type: "pool" pool: AVE kernelsize: 3 stride: 2 } bottom: "conv" top: "pool" }
layers { layer { name: "norm" type: "lrn" local_size: 3 alpha: 0.1 beta: 0.5 k: 2 } bottom: "pool" top: "norm" }
layers { layer { name: "fc" type: "innerproduct" num_output: 7 } bottom: "norm" top: "fc" }
layers { layer { name: "drop" type: "dropout" dropout_ratio: 0.2 } bottom: "fc" top: "fc" }
layers { layer { name: "cat" type: "concat" concat_dim: 0 } bottom: "fc" bottom: "fc" top: "cat" }
layers { layer { name: "prob" type: "softmax" } bottom: "cat" top: "prob" }
"""


def test_a_v0_net_is_read_as_a_current_one(tmp_path: Path) -> None:
    found = read(tmp_path, V0)
    layers = {one.name: one for one in found.layers}
    assert found.generation == 0
    assert [one.type for one in found.layers] == (
        "Convolution ReLU Pooling LRN InnerProduct Dropout Concat Softmax".split()
    )
    convolution = layers["conv"].param("convolution_param")
    assert layers["conv"].bottoms == ("data",)
    assert [convolution.integers(name) for name in ("pad", "kernel_size", "stride")] == [(2,), (5,), (3,)]
    assert (convolution.integer("num_output"), convolution.integer("group")) == (4, 2)
    assert convolution.flag("bias_term") is False
    assert layers["pool"].param("pooling_param").enum("pool") == "AVE"
    assert [layers["norm"].param("lrn_param").number(name) for name in ("alpha", "beta", "k")] == [
        float(np.float32(value)) for value in (0.1, 0.5, 2)
    ]
    assert layers["drop"].param("dropout_param").number("dropout_ratio") == float(np.float32(0.2))
    assert layers["cat"].param("concat_param").integer("concat_dim") == 0
    assert layers["conv"].unread() == []
    assert layers["conv"].where.endswith("net.prototxt:4")


def test_v0_data_and_leftovers(tmp_path: Path) -> None:
    text = """
layers { layer { name: "d" type: "data" source: "db" batchsize: 5 meanfile: "m" cropsize: 6 scale: 0.5 mirror: true }
         top: "data" top: "label" }
layers { layer { name: "r" type: "relu" kernelsize: 3 } bottom: "data" top: "r" }"""
    data, rectifier = read(tmp_path, text).layers
    transform = data.param("transform_param")
    assert data.type == "Data"
    assert data.param("data_param").integer("batch_size") == 5
    assert (transform.text("mean_file"), transform.integer("crop_size")) == ("m", 6)
    assert (transform.number("scale"), transform.flag("mirror")) == (0.5, True)
    assert [missed.path for missed in rectifier.unread()] == ["kernelsize"]


def test_a_v1_net_is_read_as_a_current_one(tmp_path: Path) -> None:
    text = """
layers { name: "d" type: DATA top: "data" data_param { batch_size: 2 scale: 0.5 } transform_param { crop_size: 8 } }
layers { name: "a" type: INNER_PRODUCT bottom: "data" top: "a" param: "w" param: "" blob_share_mode: PERMISSIVE
         blobs_lr: 1 blobs_lr: 2 weight_decay: 1 inner_product_param { num_output: 2 } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "a" top: "loss" loss_weight: 0.3 exclude { phase: TRAIN } }"""
    data, dense, loss = read(tmp_path, text).layers
    assert [data.type, dense.type, loss.type] == ["Data", "InnerProduct", "SoftmaxWithLoss"]
    assert data.param("transform_param").number("scale") == 0.5
    assert data.param("transform_param").integer("crop_size") == 8
    assert [spec.text("name", "") for spec in dense.params.blocks("param")] == ["w", ""]
    assert loss.loss_weight == (float(np.float32(0.3)),)


def test_mixed_spellings_keep_their_order_and_are_noted(tmp_path: Path) -> None:
    found = read(
        tmp_path, INPUT + relu("a") + 'layers { name: "p" type: SOFTMAX bottom: "a" top: "p" }\n' + relu("b", "p")
    )
    assert [one.name for one in found.layers] == ["a", "p", "b"]
    assert any("`layers` and `layer`" in note.message for note in found.notes)


def test_what_caffe_refuses_and_we_understand_is_noted(tmp_path: Path) -> None:
    found = read(tmp_path, INPUT + relu("a", rules="relu_param { negative_slope: 1 negative_slope: 2 }"))
    assert found.layers[0].param("relu_param").number("negative_slope") == 2
    assert [note.message for note in found.notes] == [
        "negative_slope stands 2 times, which Caffe refuses; the last counts"
    ]


def test_every_golden_net_is_read(golden: Path) -> None:
    for path in sorted(golden.rglob("*.prototxt")):
        found = read_net(path, None)
        assert found.layers
        assert (found.unknown, found.notes) == ((), ())


def test_every_real_net_is_read(zoo: Path) -> None:
    for path in sorted(zoo.rglob("*.prototxt")):
        stages = ["test-on-test"] if path.name == "mnist_autoencoder_traintest.prototxt" else []
        read_net(path, None, stages=stages)


# --- rules and wiring -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "state", "included"),
    [
        ("", {}, True),
        ("include { phase: TEST }", {}, True),
        ("include { phase: TRAIN }", {}, False),
        ("include { phase: TRAIN }", {"phase": "TRAIN"}, True),
        ("exclude { phase: TEST }", {}, False),
        ("include { phase: TRAIN } include { stage: 'deploy' }", {"stages": ["deploy"]}, True),
        ("include { stage: 'a' stage: 'b' }", {"stages": ["a"]}, False),
        ("include { not_stage: 'a' }", {"stages": ["a"]}, False),
        ("include { min_level: 1 }", {}, False),
        ("include { min_level: 1 max_level: 2 }", {"level": 2}, True),
        ("exclude { max_level: 2 }", {"level": 3}, True),
        ("include { stage: 'own' }", {}, True),
    ],
)
def test_rules_include_and_exclude_layers(rules: str, state: dict[str, Any], included: bool, tmp_path: Path) -> None:
    found = read(tmp_path, "state { phase: TRAIN stage: 'own' }" + INPUT + relu("x", rules=rules), **state)
    assert [one.name for one in found.layers] == (["x"] if included else [])
    assert found.excluded == (() if included else ("x",))


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    listed = faults(tmp_path, INPUT + relu("a", "nowhere") + relu("b", top="a") + relu("c", "left", rules=""))
    assert listed.splitlines() == [
        "the layers don't fit together:",
        "  /net.prototxt:2: layer 'a' reads 'nowhere', which nothing before it writes",
        "  /net.prototxt:3: layer 'b' writes 'a', which is written at /net.prototxt:2 already",
        "  /net.prototxt:4: layer 'c' reads 'left', which nothing before it writes",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (relu("x", rules="include { } exclude { }"), "layer 'x' has include and exclude rules"),
        ('layer { name: "x" bottom: "data" }', "layer 'x' has no type"),
        (relu("d", rules="include { phase: TRAIN }") + relu("x", "d"), "'d' at /net.prototxt:2 would, but its rules"),
        ('layer { name: "x" type: 3 }', "type wants a quoted string, but is 3"),
        ('layer { name: "x" type: "ReLU" bottom: data }', "bottom wants a quoted string, but is data"),
        ("layer: 3", "layer wants a block in braces, but is 3"),
    ],
)
def test_a_single_fault_names_its_line(text: str, message: str, tmp_path: Path) -> None:
    assert re.match(r"/net\.prototxt:[23]", faults(tmp_path, INPUT + text))
    assert message in faults(tmp_path, INPUT + text)


def test_in_place_is_allowed_at_the_same_index_only(tmp_path: Path) -> None:
    two = 'layer { name: "s" type: "Eltwise" bottom: "data" bottom: "b" top: "b" }'
    read(tmp_path, INPUT + relu("a", top="data"))
    assert "'s' writes 'b'" in faults(tmp_path, INPUT + relu("b") + two)


# --- parameters -----------------------------------------------------------------------------------


def one_layer(tmp_path: Path, block: str) -> Layer:
    return read(tmp_path, INPUT + f'layer {{ name: "x" type: "T" bottom: "data" top: "x"\n{block} }}').layers[0]


def test_a_parameter_that_nobody_read_is_reported(tmp_path: Path) -> None:
    block = """convolution_param { num_output: 4 kernel_size: 3 kernel_size: 5 axis: 2
      weight_filler { type: "xavier" } engine: CUDNN magic: ON nested { deep: 1 deeper { x: 'y' } } }
      param { lr_mult: 0 } propagate_down: true phase: TEST"""
    target = one_layer(tmp_path, block)
    convolution = target.param("convolution_param")
    assert convolution.integers("kernel_size") == (3, 5)
    assert convolution.integer("num_output") == 4
    convolution.block("nested").integer("deep")
    missed = [(one.path, one.value, one.where.rpartition(":")[2]) for one in target.unread()]
    assert missed == [
        ("convolution_param.axis", "2", "3"),
        ("convolution_param.magic", "ON", "4"),
        ("convolution_param.nested.deeper.x", "'y'", "4"),
    ]
    convolution.ignore("axis", "magic", "nested")
    assert target.unread() == []


def test_another_phase_than_the_nets_is_reported(tmp_path: Path) -> None:
    assert [missed.path for missed in one_layer(tmp_path, "phase: TRAIN").unread()] == ["phase"]


def test_defaults_are_caffes(tmp_path: Path) -> None:
    target = one_layer(tmp_path, "")
    assert target.param("convolution_param").flag("bias_term") is True
    assert target.param("pooling_param").enum("pool") == "MAX"
    assert target.param("lrn_param").number("beta") == 0.75
    assert target.param("batch_norm_param").number("eps") == float(np.float32(1e-5))
    assert target.param("reshape_param").block("shape").integers("dim") == ()
    assert target.param("convolution_param").integer("kernel_h", 7) == 7
    with pytest.raises(MalformedModel, match=r"num_output is missing in convolution_param.*"):
        target.param("convolution_param").integer("num_output")


@pytest.mark.parametrize(
    ("block", "read_it", "message"),
    [
        ("tile_param { tiles: 1.5 }", "integer", "tile_param.tiles wants a whole number from -2147483648"),
        ("tile_param { tiles: 9999999999 }", "integer", "tile_param.tiles wants a whole number from -2147483648"),
        ("tile_param { tiles: 'x' }", "integer", "tile_param.tiles wants a whole number"),
        ("tile_param { tiles { } }", "integer", "tile_param.tiles wants a whole number"),
        ("tile_param { tiles: MAX }", "number", "tile_param.tiles wants a number, but is MAX"),
        ("tile_param { tiles: 2 }", "flag", "tile_param.tiles wants true or false, but is 2"),
        ("tile_param { tiles: 2 }", "text", "tile_param.tiles wants a quoted string, but is 2"),
        ("tile_param { tiles: 'x' }", "enum", "tile_param.tiles wants a bare word, but is 'x'"),
        ("tile_param { tiles: 2 }", "block", "tile_param.tiles wants a block in braces, but is 2"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_line(
    block: str, read_it: str, message: str, tmp_path: Path
) -> None:
    params = one_layer(tmp_path, block).param("tile_param")
    with pytest.raises(MalformedModel, match=re.escape(message)) as caught:
        getattr(params, read_it)("tiles")
    assert str(caught.value.where).endswith("net.prototxt:3, layer 'x' (T)")


@pytest.mark.parametrize(
    ("spelled", "expected"), [("true", True), ("t", True), ("1", True), ("False", False), ("0", False)]
)
def test_truth_in_all_its_spellings(spelled: str, expected: bool, tmp_path: Path) -> None:
    assert (
        one_layer(tmp_path, f"scale_param {{ bias_term: {spelled} }}").param("scale_param").flag("bias_term")
        is expected
    )


# --- weights --------------------------------------------------------------------------------------

DENSE = 'layer {{ name: "{0}" type: "InnerProduct" bottom: "data" top: "{0}" {1} }}\n'


def dense(name: str, specs: str = "") -> str:
    return DENSE.format(name, specs)


def test_weights_go_by_name(tmp_path: Path) -> None:
    stored = net(
        layer("other", "InnerProduct", blob((2, 3), packed(ONES))),
        layer(
            "b", "InnerProduct", blob((2, 3), packed(2 * ONES)), blob((1, 1, 1, 2), packed(ONES[0, :2]), legacy=True)
        ),
        layer("empty", "ReLU"),
    )
    found = read(tmp_path, INPUT + dense("a") + dense("b"), stored)
    a, b = found.layers
    assert a.blobs == ()
    assert [(one.shape, one.legacy) for one in b.blobs] == [((2, 3), False), ((1, 1, 1, 2), True)]
    np.testing.assert_array_equal(b.blobs[0].array, 2 * ONES)
    assert found.unused_weights == (("other", "InnerProduct", ((2, 3),)),)


def test_shared_blobs_are_one(tmp_path: Path) -> None:
    stored = net(layer("a", "InnerProduct", blob((2, 3), packed(ONES)), blob((2,), packed(ONES[0, :2]))))
    found = read(tmp_path, INPUT + dense("a", "param { name: 'w' }") + dense("b", "param { name: 'w' }"), stored)
    a, b = found.layers
    assert len(a.blobs) == 2
    assert len(b.blobs) == 1
    assert b.blobs[0].array is a.blobs[0].array
    assert (a.blobs[0].name, a.blobs[1].name) == ("w", "")


def test_namesakes_are_told_apart_unless_weights_wait_for_them(tmp_path: Path) -> None:
    text = INPUT + dense("a").replace('top: "a"', 'top: "x"') + dense("a")
    found = read(tmp_path, text)
    assert [one.name for one in found.layers] == ["a", "a#2"]
    assert "namesake" in found.notes[0].message
    stored = net(layer("a", "InnerProduct", blob((2, 3), packed(ONES))))
    assert faults(tmp_path, text, stored).startswith("/net.prototxt:3: layer 'a' has a namesake at /net.prototxt:2")


@pytest.mark.parametrize("form", ["double.caffemodel", "v1.caffemodel", "net.caffemodel.h5"])
def test_containers_hold_the_same_weights(form: str, golden: Path) -> None:
    folders = [path.parent for path in sorted((golden / "caffe-forms").rglob(form))]
    assert folders
    for folder in folders:
        reference = read_net(folder / "net.prototxt", golden / "caffe" / folder.name / "net.caffemodel")
        found = read_net(folder / "net.prototxt", folder / form)
        for one, other in zip(reference.layers, found.layers, strict=True):
            assert len(one.blobs) == len(other.blobs)
            for a, b in zip(one.blobs, other.blobs, strict=True):
                np.testing.assert_array_equal(a.array.ravel(), b.array.ravel().astype(np.float32))


def test_a_text_caffemodel_holds_weights_too(tmp_path: Path) -> None:
    blobs = "blobs { shape { dim: 2 dim: 3 } data: 1 data: 2 data: 3 data: 4 data: 5 data: 1e60 }"
    text = INPUT + dense("a", blobs)
    (found,) = read(tmp_path, INPUT + dense("a"), text.encode()).layers
    np.testing.assert_array_equal(found.blobs[0].array, np.array([[1, 2, 3], [4, 5, np.inf]], np.float32))


def test_a_caffemodel_alone_gives_its_own_structure(golden: Path) -> None:
    for path in sorted((golden / "caffe").rglob("net.caffemodel")):
        alone, both = read_net(None, path), read_net(path.with_name("net.prototxt"), path)
        types = [one.type for one in alone.layers if one.type != "Split" or "split" in path.parent.name]
        assert types == [one.type for one in both.layers if one.type != "Split" or "split" in path.parent.name]
        assert sum(len(one.blobs) for one in alone.layers) == sum(len(one.blobs) for one in both.layers)


def test_the_phase_that_a_snapshot_was_trained_in_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(net(layer("a", "ReLU", bottom="data", top="a", extra=field(10, 0))))
    assert read_net(None, path).layers[0].unread() == []


def test_an_old_caffemodel_alone_takes_what_nobody_writes_for_inputs(golden: Path) -> None:
    found = read_net(None, golden / "caffe-forms" / "legacy_v1_layers" / "v1.caffemodel")
    assert [(source.name, source.shape) for source in found.inputs] == [("data", None)]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>404</html>", "an HTML page"),
        (b"PK\x03\x04....", "a ZIP archive"),
        (b"\x1f\x8b\x08....", "a gzip archive"),
        (b"\x80\x02}q\x00.", "a Python pickle, which is never loaded"),
        (b'{"class_name": "Model"}', "a JSON file"),
        ((INPUT + relu("a")).encode(), "a net's structure (a prototxt) without weights"),
        (b"net: 'x.prototxt' base_lr: 0.1", "the file is damaged, cut short, or no Caffe file"),
        (field(1, 7) + field(2, "net.caffemodel") + field(3, blob((1,), packed(ONES[0, :1]))), "no Caffe file"),
        (blob((1, 1, 2, 3), packed(ONES), legacy=True), "no caffemodel: it has no layers (a mean file"),
        (bytes(range(256)) * 8, "the file is damaged, cut short, or no Caffe file"),
    ],
)
def test_what_is_no_weight_file_is_told(data: bytes, what: str, tmp_path: Path) -> None:
    assert what in faults(tmp_path, INPUT + dense("a"), data)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (net(layer("a", "InnerProduct", blob((2, 3), packed(ONES)))), "a binary file where a prototxt is expected"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "an HDF5 file where a prototxt is expected"),
        ((INPUT + relu("a")).encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (b"net: 'x.prototxt' base_lr: 0.1", "a solver's settings"),
        (b"hello: 'world'", "a text, but no net"),
        (b"", "an empty file"),
    ],
)
def test_what_is_no_prototxt_is_told(data: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(data)
    with pytest.raises(MalformedModel, match=re.escape(what)):
        read_net(path, None)


def test_a_call_that_can_not_be_answered(tmp_path: Path) -> None:
    with pytest.raises(MalformedModel, match="no such file"):
        read_net(tmp_path / "absent.prototxt", None)
    with pytest.raises(MalformedModel, match="a folder"):
        read_net(tmp_path, None)
    with pytest.raises(UsageError, match="neither"):
        read_net(None, None)
    with pytest.raises(UsageError, match="phase 'DEPLOY'"):
        read_net(None, tmp_path, phase="DEPLOY")


# --- HDF5 snapshots -------------------------------------------------------------------------------


def snapshot(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["data/a/0"] = ONES
        file.create_dataset("data/inception/3a/0", data=3 * ONES, chunks=(1, 3), compression="gzip", shuffle=True)
        file["data/inception/3a/1"] = ONES.astype(">f8")
        file.create_group("data/relu")
    return path


def test_a_snapshot_is_read_in_place_where_it_lies_in_one_piece(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(INPUT + dense("a") + dense("inception/3a"))
    a, b = read_net(tmp_path / "net.prototxt", snapshot(tmp_path / "net.h5")).layers
    np.testing.assert_array_equal(a.blobs[0].array, ONES)
    assert not a.blobs[0].array.flags.owndata
    assert not a.blobs[0].array.flags.writeable
    np.testing.assert_array_equal(b.blobs[0].array, 3 * ONES)
    assert b.blobs[1].array.dtype == np.dtype("<f8")


def soft_link(file: Any) -> None:
    file["data/a/1"] = h5py.SoftLink("/data/a/0")


def external_link(file: Any) -> None:
    file["data/b"] = h5py.ExternalLink("/etc/passwd", "/")


def external_storage(file: Any) -> None:
    file.create_dataset("data/a/1", (2, 3), "f4", external=[("elsewhere.bin", 0, h5py.h5f.UNLIMITED)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((2, 3), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (2, 3))
    file.create_virtual_dataset("data/a/1", layout)


def shape_bomb(file: Any) -> None:
    file.create_dataset("data/a/1", (2**40,), "f4", chunks=(2**10,), compression="gzip")


def unwritten(file: Any) -> None:
    file.create_dataset("data/a/1", (2**40,), "f4")


def loop(file: Any) -> None:
    file["data/a/again"] = file["data"]


def wrong_type(file: Any) -> None:
    file["data/a/1"] = np.arange(3)


def wrong_name(file: Any) -> None:
    file["data/a/kernel"] = ONES


def gap(file: Any) -> None:
    file["data/a/2"] = ONES


def keras(file: Any) -> None:
    del file["data"]
    file.create_group("model_weights")


def training_data(file: Any) -> None:
    del file["data"]
    file["data"] = ONES


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (soft_link, "/data/a/1: a link to elsewhere"),
        (external_link, "/data/b: a link to elsewhere"),
        (external_storage, "/data/a/1: a dataset kept in other files"),
        (virtual, "/data/a/1: a dataset kept in other files"),
        (shape_bomb, "/data/a/1: 4398046511104 bytes are claimed, but 0 stored"),
        (unwritten, "/data/a/1: 4398046511104 bytes are claimed"),
        (loop, "/data/a/again: a group that stands in several places"),
        (wrong_type, "/data/a/1: numbers of type int64"),
        (wrong_name, "/data/a/kernel: no parameter blob"),
        (gap, "has blob 2 of layer 'a', but not blob 1"),
        (keras, "a Keras model"),
        (training_data, "an HDF5 file with training data, not weights"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_snapshot_that_reaches_out_or_lies_is_refused(spoil: Any, what: str, tmp_path: Path) -> None:
    path = snapshot(tmp_path / "net.h5")
    with h5py.File(path, "a") as file:
        spoil(file)
    (tmp_path / "net.prototxt").write_text(INPUT + dense("a"))
    with pytest.raises(MalformedModel, match=re.escape(what)):
        read_net(tmp_path / "net.prototxt", path)


def test_a_snapshot_cut_short_is_refused(tmp_path: Path) -> None:
    path = snapshot(tmp_path / "net.h5")
    data = path.read_bytes()
    (tmp_path / "net.prototxt").write_text(INPUT + dense("a"))
    for size in (20, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(MalformedModel, match="damaged or cut short"):
            read_net(tmp_path / "net.prototxt", path)
    path.write_bytes(data)
    with pytest.raises(MalformedModel, match="give the prototxt"):
        read_net(None, path)
