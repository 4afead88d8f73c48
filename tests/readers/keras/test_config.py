from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demitasse.errors import MalformedModel
from demitasse.readers.keras import read
from demitasse.readers.keras.config import Generation, Tensor, generation_of, parse_json, parse_model
from keras_files import functional, input_layer, layer, sequential, write_h5

X, Y = ["x", 0, 0], ["y", 0, 0]


def net_of(*calls: tuple[Any, list[Any]], outputs: list[Any]) -> dict[str, Any]:
    return functional([(input_layer("x", 3), []), *calls], [X], outputs)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.2.2", Generation(1, 2, is_tensorflow=False)),
        ("2.3.1", Generation(2, 3, is_tensorflow=False)),
        ("2.2.4-tf", Generation(2, 2, is_tensorflow=True)),
        ("2.15.0", Generation(2, 15, is_tensorflow=True)),
        ("3.15.1", Generation(3, 15, is_tensorflow=False)),
        ("3", Generation(3, 0, is_tensorflow=False)),
        ("next", Generation(0, 0, is_tensorflow=False)),
    ],
)
def test_a_version_tells_the_generation(version: str, expected: Generation) -> None:
    assert generation_of({}, version, None) == expected


@pytest.mark.parametrize(
    ("spelling", "major"),
    [
        ({"class_name": "Convolution2D", "config": {"nb_filter": 3, "border_mode": "same"}}, 1),
        ({"class_name": "Embedding", "config": {"batch_input_shape": [None, 3], "output_dim": 2}}, 2),
        ({"class_name": "InputLayer", "config": {"batch_shape": [None, 3]}}, 3),
    ],
)
def test_without_a_version_the_spelling_tells_the_generation(spelling: dict[str, Any], major: int) -> None:
    assert generation_of(sequential(spelling), None, None).major == major


def test_a_sequential_gets_the_input_that_keras_makes_up() -> None:
    first = layer("Dense", "fc", units=2, batch_input_shape=[None, 7], dtype="float16")
    model = parse_model(sequential(first, layer("Activation", "act")), "net")
    assert (model.layers[0].name, model.layers[0].kind) == ("fc_input", "InputLayer")
    assert model.layers[0].config == {"batch_shape": [None, 7], "dtype": "float16"}
    assert model.layers[2].calls[0].args == (Tensor("fc", 0, 0),)


@pytest.mark.parametrize("first_call", [0, 1])
def test_calls_of_a_nested_net_are_counted_from_zero_however_the_file_counts(first_call: int) -> None:
    inner = sequential(input_layer("i", 3), layer("Activation", "a", activation="relu"))
    inner["config"]["name"] = "y"
    twice = [[["x", 0, 0, {}]], [["y", first_call, 0, {}]]]
    model = parse_model(net_of((inner, twice), outputs=[["y", first_call + 1, 0]]), "net")
    assert [call.args for call in model.layers[1].calls] == [(Tensor("x", 0, 0),), (Tensor("y", 0, 0),)]
    assert model.outputs == (Tensor("y", 1, 0),)


def test_arguments_of_keras3_are_read_in_any_nesting() -> None:
    tensor = {"class_name": "__keras_tensor__", "config": {"shape": [], "dtype": "", "keras_history": X}}
    numbers = {"class_name": "__numpy__", "config": {"value": [1, 2], "dtype": "float32"}}
    cut = {"class_name": "__slice__", "config": {"start": 1, "stop": None, "step": 2}}
    node = {"args": [[tensor, 2.5], numbers, cut], "kwargs": {"mask": None, "more": {"deep": [tensor]}}}
    model = parse_model(net_of((layer("Odd", "y", dtype="float32"), [node]), outputs=[Y]), "net")
    (call,) = model.layers[1].calls
    assert call.args[0] == [Tensor("x", 0, 0), 2.5]
    np.testing.assert_array_equal(call.args[1], [1, 2])
    assert call.args[2] == slice(1, None, 2)
    assert list(call.tensors()) == [Tensor("x", 0, 0)] * 2


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"class_name": "Model"}, "no class_name and config"),
        ({"class_name": "Mine", "config": {"width": 3}}, "lists no layers: it is a class of its own"),
        (sequential(), "has no layers"),
        (sequential({"config": {}}), "a layer has no class_name"),
        (sequential(input_layer("x", 3), layer("Dense", "y") | {"config": 5}), "is no JSON object"),
        (net_of((layer("Flatten", "y"), [[["z", 0, 0, {}]]]), outputs=[Y]), "refers to layers that it hasn't: z"),
        (net_of((layer("Flatten", "x"), [[[*X, {}]]]), outputs=[X]), "two layers of the same name"),
        (net_of((layer("Flatten", "y"), [[[*X, {}]]]), outputs=[]), "no inputs, or no outputs"),
    ],
)
def test_an_architecture_that_is_none_is_refused(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(MalformedModel, match=reason):
        parse_model(config, "net")


@pytest.mark.parametrize(
    ("node", "outputs", "reason"),
    [
        ([[["y", 0, 0, {}]]], [Y], "wait for each other in a circle: y"),
        ([[["x", 5, 0, {}]]], [Y], "wait for each other in a circle"),
        ([[["x", 0, 3, {}]]], [Y], "'x' gives 1 results; number 4 is asked for"),
    ],
)
def test_a_net_that_cannot_run_is_refused(node: list[Any], outputs: list[Any], reason: str, tmp_path: Path) -> None:
    path = write_h5(tmp_path / "net.h5", net_of((layer("Flatten", "y"), node), outputs=outputs))
    with pytest.raises(MalformedModel, match=reason):
        read(path)


@pytest.mark.parametrize("text", ["[" * 400 + "]" * 400, '{"a":' * 400 + "1" + "}" * 400, "[" * 100_000])
def test_deeply_nested_json_is_refused(text: str) -> None:
    with pytest.raises(MalformedModel, match=r"nested too deeply|no object"):
        parse_json(f'{{"class_name": {text}}}' if text.endswith(("]", "}")) else text, "net.json")


def test_json_that_is_none_is_refused() -> None:
    with pytest.raises(MalformedModel, match=r"net\.json: not valid JSON"):
        parse_json(json.dumps({"a": 1})[:-1], "net.json")
