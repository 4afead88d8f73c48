from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from conftest import GOLDEN
from demitasse.cli import main
from demitasse.errors import MalformedModel, Unsupported, UsageError
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Status, provenance
from demitasse.ir.ops import DType, Layout
from demitasse.ir.weights import WeightMap
from demitasse.readers.keras import explain, read, supported_layers
from keras_files import dense_net, dense_weights, functional, input_layer, layer, sequential, write_h5

NESTED = GOLDEN / "keras" / "tf_keras_nested.h5"


def write(folder: Path, *layers: dict[str, Any], version: str = "2.4.0") -> Path:
    """Writes a net of layers without weights."""
    return write_h5(folder / "net.h5", sequential(*layers), version=version)


def test_values_and_weights_bear_the_names_of_layers() -> None:
    graph = read(NESTED)
    assert graph.inputs == ["left", "right"]
    assert graph.outputs == ["first", "head", "inner:2"]
    assert {"inner/conv", "inner:1/conv", "shared", "shared:1", "head/dense_1", "first"} <= set(graph.values)
    assert {"inner/conv/kernel", "inner/norm/scale", "shared/kernel", "first/bias"} <= set(graph.weights)
    assert graph.layout is Layout.CHANNELS_LAST


def test_a_shared_layer_has_one_kernel() -> None:
    graph = read(NESTED)
    kernels = [
        node.inputs[1] for node in graph.nodes if node.outputs[0].startswith(("shared", "inner/mix", "inner:1/mix"))
    ]
    assert (kernels.count("inner/mix/kernel"), kernels.count("shared/kernel")) == (2, 2)


def test_every_layer_is_accounted_for() -> None:
    records = provenance(read(NESTED))
    assert {record.status for record in records} == {Status.COMPARED}
    assert {"inner/norm2", "inner:1/norm2", "both", "head/dense"} <= {record.origin.layer for record in records}


@pytest.mark.parametrize(
    ("asked", "unused"), [("both", {"flat", "first"}), ("inner:1/conv", {"left", "shared"}), ("inner/conv", {"right"})]
)
def test_a_net_is_cut_at_layers(asked: str, unused: set[str]) -> None:
    graph = read(NESTED, outputs=[asked])
    assert graph.outputs == [asked]
    assert unused <= graph.unused
    assert graph.batch_is_dynamic


def test_an_unknown_output_is_named_with_its_likes() -> None:
    with pytest.raises(UsageError, match=r"'inner/conf'; did you mean 'inner/conv'"):
        read(NESTED, outputs=["inner/conf"])


def test_open_dimensions_are_asked_for_together(tmp_path: Path) -> None:
    first, second = input_layer("photo", None, None, 3), input_layer("mask", None, 8, 1)
    joined = layer("Concatenate", "joined", axis=-1)
    config = functional(
        [(first, []), (second, []), (joined, [[["photo", 0, 0, {}], ["mask", 0, 0, {}]]])],
        [["photo", 0, 0], ["mask", 0, 0]],
        [["joined", 0, 0]],
    )
    path = write_h5(tmp_path / "net.h5", config)
    with pytest.raises(UsageError, match=r"(?s)photo=1,224,224,3.*mask=1,224,8,1"):
        read(path)
    graph = read(path, input_shapes={"photo": (2, 4, 8, 3), "mask": (2, 4, 8, 1)})
    assert graph.type("joined").shape == (2, 4, 8, 4)
    with pytest.raises(UsageError, match="no input named 'image'; it has photo, mask"):
        read(path, input_shapes={"image": (1, 4, 8, 3)})


@pytest.mark.parametrize(
    ("stated", "dtype"),
    [
        ("float32", DType.FLOAT32),
        ("float16", DType.FLOAT32),
        ({"class_name": "DTypePolicy", "config": {"name": "mixed_float16"}}, DType.FLOAT32),
        ("int32", DType.INT32),
        ("uint8", DType.UINT8),
    ],
)
def test_inputs_have_the_types_that_the_file_states(stated: Any, dtype: DType, tmp_path: Path) -> None:
    entry = layer("InputLayer", "x", batch_input_shape=[None, 3], dtype=stated)
    graph = read(write(tmp_path, entry, layer("Rescaling", "y", scale=2.0, offset=1.0)))
    assert graph.type("x").dtype is dtype
    assert graph.type("y").dtype is DType.FLOAT32


def test_strings_are_no_input(tmp_path: Path) -> None:
    entry = layer("InputLayer", "x", batch_input_shape=[None, 3], dtype="string")
    with pytest.raises(Unsupported, match="element type 'string'"):
        read(write(tmp_path, entry, layer("Activation", "y", activation="linear")))


def test_everything_that_cannot_be_carried_is_listed_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        input_layer("x", 5, 4),
        layer("Dense", "wide", units=2, quantum="on"),
        layer("LSTM", "kept", units=2, stateful=True),
        layer("Activation", "odd", activation="wiggle"),
    )
    with pytest.raises(Unsupported) as refusal:
        read(path)
    (offence,) = refusal.value.offences  # what comes after a layer that can't be read is not looked at
    assert "layer 'wide' (Dense)" in offence.where
    assert offence.reason == "can't honour quantum = 'on'"


def test_unknown_kinds_are_listed_before_anything_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, input_layer("x", 3), layer("Dens", "a", units=2), layer("Fancy", "b"))
    with pytest.raises(Unsupported, match=r"(?s)'Dens', did you mean 'Dense'\?.*'b' \(Fancy\)") as refusal:
        read(path)
    assert len(refusal.value.offences) == 2


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([layer("LSTM", "y", units=2, stateful=True)], "a state that is kept"),
        ([layer("LSTM", "y", units=2, time_major=True)], "first axis is time"),
        ([layer("Masking", "m"), layer("Softmax", "y")], "the steps that a mask leaves"),
        ([layer("Activation", "y", activation="wiggle")], "no reader for the activation 'wiggle'"),
        ([layer("Lambda", "y", function="f", function_type="lambda")], "Python code"),
    ],
)
def test_what_has_no_equal_is_refused_with_the_reason(entries: list[Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=reason):
        read(write(tmp_path, input_layer("x", 5, 4), *entries))


def test_a_cell_is_one_operation_of_any_length_unless_it_has_to_be_written_out(tmp_path: Path) -> None:
    long, lstm = input_layer("x", 2049, 4), layer("LSTM", "y", units=2)
    shapes = {"kernel": (4, 8), "recurrent_kernel": (2, 8), "bias": (8,)}
    arrays = [(f"y/{role}:0", np.ones(shape, np.float32)) for role, shape in shapes.items()]
    graph = read(write_h5(tmp_path / "net.h5", sequential(long, lstm), {"y": arrays}))
    assert [type(node.op).__name__ for node in graph.nodes] == ["Recurrent"]
    for entries in ([layer("Masking", "m"), lstm], [layer("LSTM", "y", units=2, activation="gelu")]):
        with pytest.raises(Unsupported, match="a sequence of 2049 steps; with a mask, or activations"):
            read(write(tmp_path, long, *entries))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([layer("Reshape", "y", target_shape=[7])], "can't be reshaped"),
        ([layer("Conv2D", "y", filters=2, kernel_size=3)], "it has 3 axes, and needs 4|3 axes, and needs 4"),
        ([layer("Dense", "y", units="many")], "'units' is 'many', and must be a whole number"),
        ([layer("Dense", "y")], "no 'units'"),
        ([layer("ZeroPadding1D", "y", padding=[1, -1])], "must be two whole numbers"),
        ([layer("Permute", "y", dims=[1, 1])], "doesn't permute"),
        ([layer("BatchNormalization", "y", axis=7)], "axis 7 is out of range"),
        ([layer("Conv1D", "y", filters=0, kernel_size=9)], "kernel|empty|shape"),
    ],
)
def test_what_contradicts_itself_is_refused_with_the_place(entries: list[Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedModel, match=reason) as refusal:
        read(write(tmp_path, input_layer("x", 5, 4), *entries))
    assert "layer 'y'" in str(refusal.value)


def test_a_call_in_training_mode_is_refused(tmp_path: Path) -> None:
    entries: list[tuple[Any, list[Any]]] = [
        (input_layer("x", 3), []),
        (layer("Dropout", "y", rate=0.5), [[["x", 0, 0, {"training": True}]]]),
    ]
    path = write_h5(tmp_path / "net.h5", functional(entries, [["x", 0, 0]], [["y", 0, 0]]))
    with pytest.raises(Unsupported, match="as if in training"):
        read(path)


# --- weights ----------------------------------------------------------------------------------------------------------


def test_weights_alone_ask_for_the_architecture(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"dense"]
    with pytest.raises(UsageError, match=r"give the architecture first, as the \.json"):
        read(path)


def test_an_architecture_alone_asks_for_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    path.write_text(json.dumps(dense_net()))
    with pytest.raises(UsageError, match="needs 2 of them, the first is dense/kernel"):
        read(path)
    with pytest.raises(UsageError, match="holds no weights"):
        read(path, path)


def test_layers_of_other_numbers_are_matched_in_order(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "net.h5", dense_net(), {"dense_7": dense_weights()["dense"]})
    np.testing.assert_array_equal(read(path).weights["dense/bias"], [1, 1])


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (
            {"dense": dense_weights(3)["dense"]},
            r"kernel: the net needs the shape \(3, 2\) of 6 numbers, the file holds",
        ),
        ({"dense": dense_weights()["dense"][:1]}, r"needs 2 weights \(dense/kernel, dense/bias\), the file holds 1"),
        ({}, "weights in 1 layers, the file in 0; it has none for dense"),
        ({"dense": dense_weights()["dense"][::-1]}, "unknown order|needs the shape"),
    ],
)
def test_weights_that_do_not_fit_are_named(weights: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedModel, match=reason):
        read(write_h5(tmp_path / "net.h5", dense_net(), weights))


def test_weights_of_one_shape_in_an_unknown_order_are_not_guessed(tmp_path: Path) -> None:
    numbers = np.ones(4, np.float32)
    names = ["beta", "gamma", "moving_mean", "moving_variance"]
    config = sequential(input_layer("x", 4), layer("BatchNormalization", "norm"))
    path = write_h5(tmp_path / "net.h5", config, {"norm": [(f"norm/{name}:0", numbers) for name in names]})
    with pytest.raises(MalformedModel, match=r"norm/gamma: the file's weights are in an unknown order"):
        read(path)


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_hard_sigmoid_is_the_one_of_the_keras_that_wrote_the_file(tmp_path: Path) -> None:
    x = np.linspace(-4, 4, 9).reshape(1, 9)
    entries = input_layer("x", 9), layer("Activation", "y", activation="hard_sigmoid")
    old, new = (read(write(tmp_path, *entries, version=version)) for version in ("2.15.0", "3.0.0"))
    np.testing.assert_allclose(evaluate(old, {"x": x})["y"], np.clip(0.2 * x + 0.5, 0, 1), rtol=1e-6)
    np.testing.assert_allclose(evaluate(new, {"x": x})["y"], np.clip(x + 3, 0, 6) / 6, rtol=1e-6)


@pytest.mark.parametrize(
    ("version", "expected"), [("2.15.0", DType.FLOAT32), ("3.5.0", DType.FLOAT32), ("3.6.0", DType.INT32)]
)
def test_resized_whole_numbers_stay_whole_since_keras_3_6(version: str, expected: DType, tmp_path: Path) -> None:
    image = {**input_layer("x", 4, 4, 1), "config": {**input_layer("x", 4, 4, 1)["config"], "dtype": "int32"}}
    graph = read(write(tmp_path, image, layer("Resizing", "y", height=3, width=3), version=version))
    assert graph.type("y").dtype is expected


def test_options_of_other_formats_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_h5(tmp_path / "net.h5", dense_net(), dense_weights())
    for command in (["convert", str(path), "-o", str(tmp_path / "net.onnx")], ["inspect", str(path)]):
        assert main([*command, "--phase", "TEST", "--level", "1"]) == 2
        assert "level, phase: not for sources of Keras" in capsys.readouterr().err


def test_the_command_line_says_what_a_file_of_keras_1_was_trained_on(tmp_path: Path) -> None:
    source = GOLDEN / "keras" / "keras1_theano.h5"
    assert main(["convert", str(source), "-o", str(tmp_path / "map.npz"), "--backend", "theano"]) == 0
    expected = read(source, backend="theano").weights
    for name, array in WeightMap.load(tmp_path / "map.npz").items():
        np.testing.assert_array_equal(array, expected[name])


def test_traps_are_told(tmp_path: Path) -> None:
    reading = explain(write(tmp_path, input_layer("x", 9), layer("Activation", "y", activation="hard_sigmoid")))
    assert any("hard_sigmoid" in trap.message for trap in reading.traps)


def test_a_file_can_be_written_anew_after_it_was_read(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "net.h5", dense_net(), dense_weights())
    read(path)
    write_h5(path, dense_net(), dense_weights())


def test_reading_imports_no_framework() -> None:
    script = f"""
import sys
from pathlib import Path
from demitasse.readers.keras import read
read(Path({str(NESTED)!r}))
print(sorted({{'tensorflow', 'keras', 'tf_keras', 'torch', 'onnx'}} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_supported_layer_has_a_sentence() -> None:
    table = supported_layers()
    assert {"Conv2D", "LSTM", "ops.Add", "tf.nn.relu"} <= set(table)
    assert [kind for kind, text in table.items() if not text.endswith(".")] == []
