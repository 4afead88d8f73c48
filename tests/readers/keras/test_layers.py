from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demitasse.errors import Unsupported
from demitasse.ir.evaluate import evaluate
from demitasse.readers.keras import read
from keras_models import MODELS, OLDER, inputs_for, outputs_of, randomized

keras = pytest.importorskip("keras")

Array = np.ndarray[Any, Any]


def evaluated(path: Path, inputs: list[Array], weights: Path | None = None) -> list[Array]:
    graph = read(path, weights)
    assert graph.batch_is_dynamic
    values = evaluate(graph, dict(zip(graph.inputs, inputs, strict=True)), keep=graph.outputs)
    return [values[name] for name in graph.outputs]


def assert_same(actual: list[Array], expected: list[Array]) -> None:
    assert [each.shape for each in actual] == [each.shape for each in expected]
    for got, want in zip(actual, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 * max(np.abs(want).max(), 1e-6))


@pytest.mark.filterwarnings("ignore:.*HDF5 file:UserWarning", "ignore:.*saving your model")
@pytest.mark.parametrize("name", [name for name in MODELS if name not in OLDER])
def test_a_layer_computes_what_keras_computes(name: str, tmp_path: Path) -> None:
    keras.backend.clear_session()
    model = randomized(MODELS[name](keras))
    inputs = inputs_for(model)
    expected = outputs_of(model, inputs)
    for file in ("net.h5", "net.keras"):
        model.save(tmp_path / file)
        assert_same(evaluated(tmp_path / file, inputs), expected)


@pytest.mark.parametrize("name", ["nested", "frozen_base", "wrapped_net", "multi_head", "bidirectional"])
def test_weights_in_a_file_of_their_own_find_their_layers(name: str, tmp_path: Path) -> None:
    keras.backend.clear_session()
    model = randomized(MODELS[name](keras))
    inputs = inputs_for(model)
    expected = outputs_of(model, inputs)
    architecture, weights, whole = tmp_path / "net.json", tmp_path / "net.weights.h5", tmp_path / "net.h5"
    architecture.write_text(model.to_json())
    model.save_weights(weights)
    model.save(whole)
    assert_same(evaluated(architecture, inputs, weights), expected)
    assert_same(evaluated(architecture, inputs, whole), expected)


@pytest.mark.filterwarnings("ignore:.*HDF5 file:UserWarning", "ignore:.*saving your model")
@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_models_of_lower_precision_are_read_as_float32(policy: str, tmp_path: Path) -> None:
    keras.backend.clear_session()
    keras.config.set_dtype_policy(policy)
    try:
        model = randomized(MODELS["nested"](keras))
    finally:
        keras.config.set_dtype_policy("float32")
    inputs = inputs_for(model)
    expected = [each.astype(np.float32) for each in outputs_of(model, inputs)]
    files = ["net.keras"] if policy == "bfloat16" else ["net.keras", "net.h5"]  # which numpy's HDF5 types lack
    for file in files:
        model.save(tmp_path / file)
        graph = read(tmp_path / file)
        assert any("float32" in note for note in graph.notes)
        for got, want in zip(evaluated(tmp_path / file, inputs), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=0.05 * np.abs(want).max())


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize` method")
def test_quantized_models_are_refused(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="fc")])
    model.quantize("int8")
    model.save(tmp_path / "net.keras")
    with pytest.raises(Unsupported, match=r"'fc' \(Dense\): its weights are quantized \(int8\)"):
        read(tmp_path / "net.keras")
