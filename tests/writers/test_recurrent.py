"""Recurrent layers in every format: operators of their own in ONNX, written out elsewhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from cases import CASES, Case, Sketch
from conftest import GOLDEN
from demitasse.conversion import convert
from demitasse.ir.document import describe
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph, Origin
from demitasse.ir.ops import Curve, CurveFunction, Layout, Recurrent, RecurrentCell
from demitasse.ir.weights import Array, WeightMap
from demitasse.passes import with_batch
from demitasse.readers.keras import read
from demitasse.targets import TARGETS, lower, simplify
from demitasse_validation.runtimes import open_runner

RECURRENT = [one for one in CASES if Recurrent in one.ops]
SOME = [one for one in RECURRENT if "_of_" not in one.name]


def written_and_run(one: Case, target: str, folder: Path, batch: int) -> dict[str, Array]:
    graph = lower(simplify(with_batch(one.graph, 1, dynamic=True)), TARGETS[target])
    assert not TARGETS[target].offences(graph)
    document = describe(graph, target=target, tool="demitasse", source_format="keras", source=(), options={})
    path = folder / f"net{TARGETS[target].suffix}"
    TARGETS[target].write(graph, path, document)
    return open_runner(path).run(one.inputs_at(batch))


@pytest.mark.parametrize(
    ("target", "one"),
    [*(("tflite", one) for one in RECURRENT), *((name, one) for name in ("onnx-f16", "savedmodel") for one in SOME)],
    ids=str,
)
def test_a_runtime_computes_what_the_cell_means(target: str, one: Case, tmp_path: Path) -> None:
    found = written_and_run(one, target, tmp_path, batch=3)
    expected = evaluate(one.dynamic_graph, one.inputs_at(3), keep=one.graph.outputs)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=2e-6 * np.abs(array).max())


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("keras2_cudnn_lstm", {"LSTM": 1}),
        ("keras2_cudnn_gru", {"GRU": 1}),
        ("keras2_gru_reset_after", {"GRU": 1}),
        ("keras1_bidirectional", {"LSTM": 2, "GRU": 2}),
        ("keras1_gates_apart", {"LSTM": 1, "GRU": 1}),
    ],
)
def test_a_layer_is_one_node_in_onnx_and_none_in_tflite(name: str, cells: dict[str, int], tmp_path: Path) -> None:
    source = GOLDEN / "keras" / f"{name}.h5"
    for suffix in ("onnx", "tflite"):
        convert(source, out=tmp_path / f"net.{suffix}", io_layout=Layout.CHANNELS_LAST)
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    found = Counter(node.op_type for node in model.graph.node)
    assert {kind: count for kind, count in found.items() if kind in ("LSTM", "GRU", "RNN")} == cells
    assert not [name for name in tflite_operators(tmp_path / "net.tflite") if "LSTM" in name or "RNN" in name]
    graph = read(source)
    with np.load(source.with_suffix(".npz")) as golden:
        inputs = {name: golden[f"in:{index}"] for index, name in enumerate(graph.inputs)}
        outputs = {name: golden[f"out:{index}"] for index, name in enumerate(graph.outputs)}
    inputs = {name: array.astype(graph.type(name).dtype.value) for name, array in inputs.items()}
    for suffix in ("onnx", "tflite"):
        results = open_runner(tmp_path / f"net.{suffix}").run(inputs)
        for name, want in outputs.items():
            np.testing.assert_allclose(results[name], want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_kernels_of_cells_are_stored_as_float16(tmp_path: Path) -> None:
    sketch = Sketch("wide")
    inputs = [sketch.input(2, 5, 16), sketch.weight("y/kernel", 64, 16), sketch.weight("y/recurrent_kernel", 64, 16)]
    cell = Recurrent(RecurrentCell.LSTM, Curve(CurveFunction.TANH), is_biased=False)
    sketch.add(cell, inputs, ("y", "hidden", "carry"))
    one = sketch.done()
    found = written_and_run(one, "onnx-f16", tmp_path, batch=2)
    stored = onnx.load(tmp_path / "net.f16.onnx").graph.initializer
    kernels = {tuple(tensor.dims) for tensor in stored if tensor.data_type == onnx.TensorProto.FLOAT16}
    assert kernels == {(1, 64, 16)}
    rounded = Graph("rounded", WeightMap({name: array.astype("f2").astype("f4") for name, array in weights_of(one)}))
    rounded.add_input("x", one.graph.type("x"))
    rounded.add(cell, inputs, ("y", "hidden", "carry"), Origin("y", "LSTM"))
    expected = evaluate(rounded, one.inputs, keep=["y"])["y"]
    np.testing.assert_allclose(found["y"], expected, rtol=0, atol=2e-6)


def weights_of(one: Case) -> list[tuple[str, Array]]:
    return [(name, one.graph.weights[name]) for name in one.graph.weights]


def tflite_operators(path: Path) -> set[str]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    return {names[model.OperatorCodes(place).BuiltinCode()] for place in range(model.OperatorCodesLength())}
