"""SavedModels run by TensorFlow: ours and one that knows nothing of us, whole and layer by layer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import case
from demitasse.errors import MalformedModel, MissingDependency, UsageError
from demitasse.ir.document import describe
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph
from demitasse.writers.saved_model import read_document, write
from demitasse.writers.saved_model.backend import import_tensorflow
from demitasse_validation.runtimes import TensorSpec, open_runner
from demitasse_validation.runtimes.tensorflow import SavedModelRunner

pytest.importorskip("tensorflow")

X = np.array([[-3.0, 1.0, 2.0]], np.float32)


def save(graph: Graph, path: Path) -> Path:
    document = describe(graph, target="savedmodel", tool="demitasse", source_format="caffe", source=(), options={})
    write(graph, path, document)
    return path


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """`twice = 2 relu(x + shift)`, by way of `hidden`, from a function within a function."""
    tensorflow = import_tensorflow("A test")
    module = tensorflow.Module()
    module.shift = tensorflow.Variable(1.0)

    def inner(x: Any) -> Any:
        hidden = tensorflow.raw_ops.Relu(features=x + module.shift, name="hidden")
        return tensorflow.multiply(hidden, 2.0, name="doubled")

    called = tensorflow.function(inner)

    def outer(x: Any) -> dict[str, Any]:
        return {"twice": called(x)}

    path = tmp_path / "foreign.savedmodel"
    signature = tensorflow.function(outer, input_signature=[tensorflow.TensorSpec((None, 3), name="X")])
    tensorflow.saved_model.save(module, str(path), signatures=signature)
    return path


def test_a_model_of_others_runs_whole_and_in_layers(foreign: Path) -> None:
    runner = open_runner(foreign)
    assert runner.runtime.startswith("TensorFlow 2.")
    assert runner.inputs == {"X": TensorSpec((None, 3), "float32")}
    assert runner.outputs == {"twice": TensorSpec((None, 3), "float32")}
    np.testing.assert_array_equal(runner.run({"X": X})["twice"], [[0, 4, 6]])
    layers = runner.run_layers({"X": X}, ["hidden:0", "doubled:0", "x:0", "nowhere:0"])
    assert {name: array.tolist() for name, array in layers.items()} == {
        "hidden:0": [[0, 2, 3]],
        "doubled:0": [[0, 4, 6]],
        "x:0": X.tolist(),
    }
    assert runner.missing(["nowhere:0", "hidden:0"]) == {"nowhere:0": "the file has no such tensor"}
    assert runner.run_layers({"X": X}, ["nowhere:0"]) == {}


NETS = ("residual_net_channels_last", "inception_channels_last", "ports_named_oddly", "top_k_inner_axis")


@pytest.mark.parametrize("name", NETS)
def test_every_value_of_our_models_is_found_and_right(name: str, tmp_path: Path) -> None:
    one = case(name)
    graph, feeds = one.dynamic_graph, one.inputs_at(3)
    runner = open_runner(save(graph, tmp_path / "net.savedmodel"))
    document = read_document(tmp_path / "net.savedmodel")
    assert document is not None
    assert list(runner.inputs) == [port.tensor for port in document.inputs] == graph.inputs
    assert list(runner.outputs) == [port.tensor for port in document.outputs] == graph.outputs
    tensors = {record.blob: record.tensor for record in document.provenance if record.tensor is not None}

    expected = evaluate(graph, feeds)
    outputs = runner.run(feeds)
    layers = runner.run_layers(feeds, tensors.values())

    assert runner.missing(tensors.values()) == {}
    found = {**outputs, **{blob: layers[tensor] for blob, tensor in tensors.items()}}
    assert set(found) == set(graph.values) - set(graph.inputs)
    for blob, array in found.items():
        np.testing.assert_allclose(array, expected[blob], atol=1e-5 * np.abs(expected[blob]).max())


def test_what_runs_is_what_the_file_says(tmp_path: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    one = case("residual_net_channels_last")
    path = save(one.dynamic_graph, tmp_path / "net.savedmodel")
    feeds = one.inputs_at(2)
    sound = open_runner(path).run(feeds)
    file = path / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    functions = model.meta_graphs[0].graph_def.library.function
    (relu,) = (node for function in functions for node in function.node_def if node.name == "res2_relu")
    relu.op = "Softsign"
    file.write_bytes(model.SerializeToString())

    broken = open_runner(path)

    layers = broken.run_layers(feeds, ["res2:0", "res2_relu:0"])
    softsign = layers["res2:0"] / (1 + np.abs(layers["res2:0"]))
    np.testing.assert_allclose(layers["res2_relu:0"], softsign, atol=1e-6)
    assert np.abs(broken.run(feeds)["prob"] - sound["prob"]).max() > 1e-3


@pytest.mark.parametrize(
    ("feeds", "fault"),
    [
        ({}, "input 'X' .* is not fed"),
        ({"X": X, "Y": X}, "there is no input 'Y'"),
        ({"X": X[:, :2]}, r"takes float32\[\?, 3\], not float32\[1, 2\]"),
        ({"X": X.astype(np.float64)}, "not float64"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(foreign: Path, feeds: dict[str, Any], fault: str) -> None:
    runner = open_runner(foreign)
    with pytest.raises(UsageError, match=fault):
        runner.run(feeds)
    with pytest.raises(UsageError, match=fault):
        runner.run_layers(feeds, ["hidden:0"])


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, foreign: Path) -> None:
    empty = tmp_path / "empty.savedmodel"
    empty.mkdir()
    with pytest.raises(MalformedModel, match="TensorFlow refuses it"):
        open_runner(empty)
    (foreign / "saved_model.pb").write_bytes(b"\xff" * 100)
    with pytest.raises(MalformedModel, match="TensorFlow refuses it"):
        open_runner(foreign)


def test_a_model_without_the_signature_is_refused(tmp_path: Path) -> None:
    tensorflow = import_tensorflow("A test")
    tensorflow.saved_model.save(tensorflow.Module(), str(tmp_path / "net.savedmodel"))
    with pytest.raises(MalformedModel, match="no signature 'serving_default'; it has none"):
        open_runner(tmp_path / "net.savedmodel")


def test_threads_are_limited_from_the_start_or_not_at_all(foreign: Path) -> None:
    open_runner(foreign)  # TensorFlow runs from now on
    with pytest.raises(UsageError, match="runs already with all threads"):
        open_runner(foreign, threads=1)
    script = """
import sys
from pathlib import Path
from demitasse_validation.runtimes.tensorflow import SavedModelRunner
for _ in range(2):
    runner = SavedModelRunner(Path(sys.argv[1]), threads=1)
import tensorflow
print(tensorflow.config.threading.get_intra_op_parallelism_threads())
"""
    command = [sys.executable, "-c", script, str(foreign)]
    fresh = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ))
    assert fresh.stdout.split() == ["1"]


def test_without_tensorflow_the_error_names_the_extra(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingDependency, match=r"Running a SavedModel .*'demitasse\[tensorflow\]'"):
        SavedModelRunner(foreign)
