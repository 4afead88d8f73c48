"""Graphs written as SavedModels, loaded and run by TensorFlow, against the evaluator."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import CASES, LAST, NO_PAD, Case, Sketch, case
from demitasse.errors import MissingDependency, UsageError
from demitasse.ir.document import Document, describe
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph, Origin
from demitasse.ir.ops import (
    OPS,
    AveragePool,
    Binary,
    BinaryFunction,
    Clip,
    Conv,
    ConvTranspose,
    Coordinates,
    Dense,
    DType,
    Elu,
    Interpolation,
    Layout,
    Lrn,
    MatMul,
    MaxPool,
    Padding,
    Relu,
    Reshape,
    Resize,
    Shape,
    TensorType,
    Transpose,
)
from demitasse.ir.weights import Array
from demitasse.writers import saved_model
from demitasse.writers.saved_model import EMITTERS, LIMITS, offences, read_document, write
from demitasse.writers.saved_model.backend import import_tensorflow

pytest.importorskip("tensorflow")

PEAK = 1e-5
"""The largest error that is taken for rounding, as a share of the largest element."""


def document_of(graph: Graph) -> Document:
    return describe(graph, target="savedmodel", tool="demitasse", source_format="caffe", source=(), options={})


def save(graph: Graph, path: Path) -> Path:
    assert not offences(graph)
    write(graph, path, document_of(graph))
    return path


def load(path: Path) -> Any:
    return import_tensorflow("A test").saved_model.load(str(path))


# --- every operation ----------------------------------------------------------------------------------------


def _volumes() -> Iterator[Case]:
    """Builds what no image has: groups, dilation and uneven padding over three axes."""
    ones, pads = (1, 1, 1), (Padding(1, 0), Padding(0, 2), Padding(1, 1))
    sketch = Sketch("conv_3d_grouped_dilated", LAST)
    weights = [sketch.weight("y/kernel", 6, 2, 2, 3, 2), sketch.weight("y/bias", 6)]
    op = Conv((1, 2, 1), (2, 1, 3), pads, 2, layout=LAST)
    sketch.add(op, [sketch.image(4, 5, 6, 7), *weights])
    yield sketch.done()
    sketch = Sketch("deconv_3d_grouped_dilated_cropped", LAST)
    weights = [sketch.weight("y/kernel", 4, 3, 2, 3, 2), sketch.weight("y/bias", 6)]
    spread = ConvTranspose((2, 1, 2), (1, 2, 1), pads, (0, 0, 1), 2, layout=LAST)
    sketch.add(spread, [sketch.image(4, 3, 4, 3), *weights])
    yield sketch.done()
    for kind in (MaxPool, AveragePool):
        sketch = Sketch(f"{kind.__name__}_3d_uneven", LAST)
        sketch.add(kind((2, 3, 2), ones, pads, layout=LAST), [sketch.image(2, 3, 4, 3)])
        yield sketch.done()
    for interpolation in Interpolation:
        sketch = Sketch(f"resize_3d_{interpolation.value}", LAST)
        sketch.add(Resize((5, 2, 7), interpolation, Coordinates.HALF_PIXEL, layout=LAST), [sketch.image(2, 3, 4, 5)])
        yield sketch.done()
    for name, spatial in (("1d", (5,)), ("3d", (2, 3, 2))):
        sketch = Sketch(f"lrn_{name}", LAST)
        sketch.add(Lrn(3, 0.5, 0.75, 1.0, layout=LAST), [sketch.image(6, *spatial)])
        yield sketch.done()


def _depthwise() -> Iterator[Case]:
    """Builds what TensorFlow's depthwise kernels take, and what they don't."""
    two, pads = (2, 2), (Padding(1, 1), Padding(0, 1))
    for name, stride, dilation in (("", two, (1, 1)), ("_uneven", (2, 1), (1, 1)), ("_dilated", two, (2, 1))):
        sketch = Sketch(f"conv_depthwise_multiplied{name}", LAST)
        weights = [sketch.weight("y/kernel", 6, 1, 3, 2), sketch.weight("y/bias", 6)]
        sketch.add(Conv(stride, dilation, pads, 3, layout=LAST), [sketch.image(3, 7, 6), *weights])
        yield sketch.done()
        sketch = Sketch(f"deconv_depthwise_multiplied{name}", LAST)
        weights = [sketch.weight("y/kernel", 6, 1, 3, 2), sketch.weight("y/bias", 3)]
        spread = ConvTranspose(stride, dilation, pads, (0, 1), 3, layout=LAST)
        sketch.add(spread, [sketch.image(6, 4, 3), *weights])
        yield sketch.done()


def _rows() -> Iterator[Case]:
    """Builds images of one spatial axis, and an output that is padded by more than a stride."""
    sketch = Sketch("max_pool_indices_1d", LAST)
    op = MaxPool((3,), (2,), (Padding(1, 1),), with_indices=True, layout=LAST)
    sketch.add(op, [sketch.image(3, 8)], ("y", "places"))
    yield sketch.done("y", "places")
    sketch = Sketch("average_pool_1d_uneven", LAST)
    sketch.add(AveragePool((3,), (2,), (Padding(0, 2),), layout=LAST), [sketch.image(3, 7)])
    yield sketch.done()
    sketch = Sketch("deconv_1d_grouped", LAST)
    weights = [sketch.weight("y/kernel", 4, 3, 3), sketch.weight("y/bias", 6)]
    sketch.add(ConvTranspose((1,), (2,), (Padding(1, 0),), (3,), 2, layout=LAST), [sketch.image(4, 5), *weights])
    yield sketch.done()


def _others() -> Iterator[Case]:
    sketch = Sketch("kernel_read_in_two_ways", LAST)
    x = sketch.image(3, 1, 1)
    kernel, row = sketch.weight("conv/kernel", 4, 3, 1, 1), sketch.input(2, 2, 1, 1, 5, name="row")
    sketch.add(Conv((1, 1), (1, 1), (NO_PAD, NO_PAD), layout=LAST), [x, kernel], "conv")
    sketch.add(Binary(BinaryFunction.MUL), [kernel, sketch.input(2, 4, 3, 1, 1, name="other")], "product")
    dense = sketch.weight("dense/kernel", 3, 5)
    sketch.add(Dense(), [row, dense], "dense")
    sketch.add(MatMul(transpose_right=True), [row, dense], "matrix")
    yield sketch.done("conv", "product", "dense", "matrix")
    sketch = Sketch("batch_by_batch")
    x = sketch.input(2, 3)
    turned = sketch.add(Transpose((1, 0)), [x], "turned")
    square = sketch.add(MatMul(), [x, turned], "square")
    split = sketch.add(Reshape((0, -1, 1)), [square], "split")
    weights = [sketch.weight("y/kernel", 2, 1), sketch.weight("y/bias", 2)]
    sketch.add(Dense(), [split, *weights])
    yield sketch.done()
    # TensorFlow's optimizer would take the gate for the scale of a normalization.
    sketch = Sketch("gated_elu")
    total = sketch.add(
        Binary(BinaryFunction.ADD), [sketch.input(2, 4, name="a"), sketch.input(2, 4, name="b")], "total"
    )
    product = sketch.add(Dense(), [total, sketch.weight("w", 5, 4), sketch.weight("bias", 5)], "product")
    gated = sketch.add(Binary(BinaryFunction.MUL), [sketch.input(2, 5, name="gate"), product], "gated")
    moved = sketch.add(Binary(BinaryFunction.ADD), [sketch.input(2, 5, name="shift"), gated], "moved")
    sketch.add(Elu(), [moved])
    yield sketch.done()
    sketch = Sketch("clip_nothing")
    sketch.add(Clip(-np.inf, np.inf), [sketch.input(2, 3)])
    yield sketch.done()
    sketch = Sketch("binary_div_int32")
    left = sketch.given("left", np.array([[7, -7, 8, -9]], np.int32))
    sketch.add(Binary(BinaryFunction.DIV), [left, sketch.given("right", np.array([[2, 2, -3, -4]], np.int32))])
    yield sketch.done()


LOWERED = (
    *(one for one in CASES if Layout.CHANNELS_FIRST not in one.layouts and not one.ops & LIMITS.keys()),
    *_volumes(),
    *_depthwise(),
    *_rows(),
    *_others(),
)


class Together:
    """Many cases as one graph, so that TensorFlow traces, saves and loads once; names begin with their case's."""

    def __init__(self, cases: Sequence[Case], folder: Path, *, dynamic: bool) -> None:
        self.cases = cases
        self.graph = Graph("together", batch_is_dynamic=dynamic)
        for one in cases:
            self._add(one)
        self.path = save(self.graph, folder / "together.savedmodel")

    def _add(self, one: Case) -> None:
        source = one.graph
        for name in source.inputs:
            self.graph.add_input(f"{one}/{name}", source.type(name))
        for name in source.weights:
            self.graph.add_weight(f"{one}/{name}", source.weights[name])
        for node in source.nodes:
            inputs, outputs = ([f"{one}/{name}" for name in names] for names in (node.inputs, node.outputs))
            self.graph.add(node.op, inputs, outputs, node.origin)
        self.graph.outputs.extend(f"{one}/{name}" for name in source.outputs)

    def given(self, one: Case) -> dict[str, Array]:
        """Returns a case's own inputs: of another batch than it was built with, where that is free."""
        return one.inputs_at(3) if self.graph.batch_is_dynamic else one.inputs

    @property
    def feeds(self) -> dict[str, Array]:
        return {f"{one}/{name}": array for one in self.cases for name, array in self.given(one).items()}

    @cached_property
    def results(self) -> dict[str, Array]:
        constant = import_tensorflow("A test").constant
        feeds = {name: constant(array) for name, array in self.feeds.items()}
        results = load(self.path).signatures["serving_default"](**feeds)
        return {name: result.numpy() for name, result in results.items()}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Together]:
    return {
        dynamic: Together(
            [one for one in LOWERED if one.dynamic is dynamic], tmp_path_factory.mktemp("together"), dynamic=dynamic
        )
        for dynamic in (False, True)
    }


@pytest.mark.parametrize("one", LOWERED, ids=str)
def test_every_operation_computes_what_the_evaluator_does(one: Case, together: dict[bool, Together]) -> None:
    whole = together[one.dynamic]
    graph = one.dynamic_graph if one.dynamic else one.graph
    expected = evaluate(graph, whole.given(one), keep=graph.outputs)
    for name, reference in expected.items():
        result = whole.results[f"{one}/{name}"]
        dtype = graph.type(name).dtype.value
        assert (result.shape, result.dtype.name) == (reference.shape, dtype)
        tolerance = PEAK * np.abs(reference).max() if dtype == "float32" else 0
        np.testing.assert_allclose(result, reference, rtol=0, atol=tolerance)


def test_every_operation_runs_without_onednn_too(together: dict[bool, Together], tmp_path: Path) -> None:
    whole = together[True]
    script = """
import sys
import numpy as np, tensorflow as tf
with np.load(sys.argv[2]) as feeds:
    feeds = {name: tf.constant(feeds[name]) for name in feeds}
results = tf.saved_model.load(sys.argv[1]).signatures["serving_default"](**feeds)
np.savez(sys.argv[3], **{name: result.numpy() for name, result in results.items()})
"""
    given, found = tmp_path / "given.npz", tmp_path / "found.npz"
    np.savez(given, **whole.feeds)  # type: ignore[arg-type]
    command = [sys.executable, "-c", script, str(whole.path), str(given), str(found)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"})
    with np.load(found) as results:
        assert set(results) == set(whole.results)
        for name, reference in whole.results.items():
            tolerance = 2 * PEAK * np.abs(reference).max()
            np.testing.assert_allclose(results[name], reference, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    "pads", [(Padding(1, 1), Padding(0, 1)), (Padding(0, 2), Padding(1, 0))], ids=["same", "uneven"]
)
def test_padded_layers_compile_with_xla(pads: tuple[Padding, Padding], tmp_path: Path) -> None:
    sketch = Sketch("padded", LAST)
    weights = [sketch.weight("conv/kernel", 4, 3, 3, 3), sketch.weight("conv/bias", 4)]
    conv = sketch.add(
        Conv((1, 1), (1, 1), (Padding(1, 1),) * 2, layout=LAST), [sketch.image(3, 7, 6), *weights], "conv"
    )
    for kind, name in ((MaxPool, "max"), (AveragePool, "mean")):
        sketch.add(kind((3, 3), (2, 2), pads, layout=LAST), [conv], name)
    one = sketch.done("max", "mean")
    tensorflow = import_tensorflow("A test")
    loaded = load(save(one.graph, tmp_path / "net.savedmodel"))
    compiled = tensorflow.function(loaded.signatures["serving_default"], jit_compile=True)
    results = compiled(**{name: tensorflow.constant(array) for name, array in one.inputs.items()})
    for name, expected in evaluate(one.graph, one.inputs, keep=one.graph.outputs).items():
        np.testing.assert_allclose(results[name], expected, rtol=0, atol=PEAK * np.abs(expected).max())


def test_every_operation_has_an_emitter_or_a_reason() -> None:
    assert set(EMITTERS) | set(LIMITS) == set(OPS)
    assert not set(EMITTERS) & set(LIMITS)


@pytest.mark.parametrize("one", [one for one in CASES if one.ops & LIMITS.keys()], ids=str)
def test_an_operation_that_tensorflow_lacks_is_an_offence(one: Case) -> None:
    assert {offence.reason for offence in offences(one.graph)} == {LIMITS[op] for op in one.ops & LIMITS.keys()}


def test_what_tensorflow_lacks_is_listed_all_at_once() -> None:
    graph, one = Graph("net"), Origin("one", "Pooling", "net.prototxt", 3)
    image = graph.add_input("image", TensorType((1, 3, 4, 4)))
    graph.add(Lrn(3, 1.0, 0.5, 1.0), [image], "first", one)
    volume = graph.add_input("volume", TensorType((1, 4, 4, 4, 3)))
    pool = MaxPool((2,) * 3, (2,) * 3, (NO_PAD,) * 3, with_indices=True, layout=LAST)
    graph.add(pool, [volume], ["pooled", "places"], Origin("two", "Pooling"))
    wide = graph.add_input("wide", TensorType((1, 4, 4, 4, 4, 3)))
    graph.add(AveragePool((2,) * 4, (2,) * 4, (NO_PAD,) * 4, layout=LAST), [wide], "mean", Origin("three", "Pooling"))
    whole = graph.add_input("whole", TensorType((1, 4, 4, 3), DType.UINT8))
    graph.add(MaxPool((2, 2), (2, 2), (NO_PAD,) * 2, layout=LAST), [whole], "most", Origin("four", "Pooling"))

    found = list(map(str, offences(graph)))

    assert found[0] == (
        "net.prototxt:3, layer 'one' (Pooling): Lrn on channels-first data;"
        " TensorFlow's kernels for processors know channels-last data alone"
    )
    assert [each.partition("; ")[0] for each in found[1:]] == [
        "layer 'two' (Pooling): MaxPool with indices over 3 spatial axes",
        "layer 'three' (Pooling): AveragePool over 4 spatial axes",
        "layer 'four' (Pooling): MaxPool of uint8",
    ]


# --- the artifact -------------------------------------------------------------------------------------------


def small_net(first: str = "data") -> Graph:
    """A convolution, a depthwise one, a classifier, over images of any number."""
    sketch = Sketch("small_net", LAST)
    pads = (Padding(1, 1), Padding(1, 1))
    x = sketch.image(3, 6, 5, name=first)
    weights = [sketch.weight("conv1/kernel", 4, 3, 3, 3), sketch.weight("conv1/bias", 4)]
    sketch.add(Conv((2, 2), (1, 1), pads, layout=LAST), [x, *weights], "conv1@conv")
    sketch.add(Relu(), ["conv1@conv"], "conv1")
    kernel = sketch.weight("dw/kernel", 4, 1, 3, 3)
    sketch.add(Conv((1, 1), (1, 1), pads, 4, layout=LAST), ["conv1", kernel], "dw")
    sketch.add(Binary(BinaryFunction.SUB), ["dw", sketch.weight("centre/mean", 4)], "centre")
    sketch.add(Reshape((0, -1)), ["centre"], "flat")
    sketch.add(Dense(), ["flat", sketch.weight("fc/kernel", 2, 36), sketch.weight("fc/bias", 2)], "Fc:1")
    graph = sketch.done("Fc:1", "conv1").dynamic_graph
    graph.add_weight("left/over", np.zeros(3, np.float32))
    return graph


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_same_graph_gives_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from test_saved_model import save, small_net
save(small_net(), Path(sys.argv[1]))
"""
    here, again, there = (tmp_path / f"{name}.savedmodel" for name in ("here", "again", "there"))
    environment = {"PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": "7", "PATH": ""}
    subprocess.run([sys.executable, "-c", script, there], check=True, env=environment, capture_output=True)

    first = content(save(small_net(), here))

    assert first == content(save(small_net(), again))
    assert first == content(there)
    assert set(first) == {
        "saved_model.pb",
        "assets.extra/demitasse.json",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
    }


def test_a_process_without_demitasse_runs_it_in_two_ways(tmp_path: Path) -> None:
    graph = small_net("data/in:0")
    path = save(graph, tmp_path / "net.savedmodel")
    x = np.random.default_rng(1).normal(size=(3, 6, 5, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    script = """
import sys
sys.modules["demitasse"] = None
import numpy as np, tensorflow as tf
x = np.load(sys.argv[2])
loaded = tf.saved_model.load(sys.argv[1]).signatures["serving_default"](**{"data/in:0": tf.constant(x)})
with tf.Graph().as_default(), tf.compat.v1.Session() as session:  # what the C API and TensorFlow Serving do
    signature = tf.compat.v1.saved_model.load(session, ["serve"], sys.argv[1]).signature_def["serving_default"]
    (given,) = signature.inputs.items()
    names = {key: info.name for key, info in signature.outputs.items()}
    served = session.run(names, {given[1].name: x})
assert given[0] == "data/in:0", given
np.savez(sys.argv[3], **{f"loaded {k}": v for k, v in loaded.items()}, **{f"served {k}": v for k, v in served.items()})
"""
    command = [sys.executable, "-c", script, str(path), str(tmp_path / "x.npy"), str(tmp_path / "y.npz")]
    subprocess.run(command, check=True, capture_output=True)

    expected = evaluate(graph, {"data/in:0": x}, keep=graph.outputs)

    with np.load(tmp_path / "y.npz") as results:
        assert sorted(results) == [f"{way} {name}" for way in ("loaded", "served") for name in ("Fc:1", "conv1")]
        for name in results:
            reference = expected[name.partition(" ")[2]]
            np.testing.assert_allclose(results[name], reference, atol=PEAK * np.abs(reference).max())


def test_weights_are_variables_in_the_order_of_tensorflow(tmp_path: Path) -> None:
    graph = small_net()
    loaded = load(save(graph, tmp_path / "net.savedmodel"))

    held = {name: variable.numpy() for name, variable in loaded.weights.items()}

    np.testing.assert_array_equal(held["conv1/kernel"], graph.weights["conv1/kernel"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(held["dw/kernel"], graph.weights["dw/kernel"].transpose(2, 3, 0, 1))
    np.testing.assert_array_equal(held["fc/kernel"], graph.weights["fc/kernel"].T)
    assert [variable.name for variable in loaded.variables] == [f"{name}:0" for name in held]
    assert list(held) == ["conv1/kernel", "conv1/bias", "dw/kernel", "centre/mean", "fc/kernel", "fc/bias"]
    assert [v.name for v in loaded.variables if not v.trainable] == ["centre/mean:0"]


def test_the_graph_holds_no_weights(tmp_path: Path) -> None:
    graph = small_net()
    before = len(content(save(graph, tmp_path / "small.savedmodel"))["saved_model.pb"])
    wide = Graph("wide", batch_is_dynamic=True)
    x = wide.add_input("x", TensorType((1, 1000)))
    wide.add(Dense(), [x, wide.add_weight("fc/kernel", np.ones((500, 1000), np.float32))], "fc", Origin("fc", "Dense"))
    wide.outputs.append("fc")
    assert len(content(save(wide, tmp_path / "wide.savedmodel"))["saved_model.pb"]) < before


def test_a_loaded_net_can_be_trained_and_saved_again(tmp_path: Path) -> None:
    tensorflow = import_tensorflow("A test")
    loaded = load(save(small_net(), tmp_path / "net.savedmodel"))
    x = tensorflow.constant(np.random.default_rng(2).normal(size=(4, 6, 5, 3)).astype(np.float32))

    def loss() -> Any:
        return tensorflow.reduce_mean((loaded(x)["Fc:1"] - 1.0) ** 2)

    with tensorflow.GradientTape() as tape:
        before = loss()
    gradients = tape.gradient(before, loaded.trainable_variables)
    for variable, gradient in zip(loaded.trainable_variables, gradients, strict=True):
        assert np.abs(gradient.numpy()).max() > 0, variable.name
        variable.assign_sub(1e-3 * gradient)
    after = loss().numpy()
    assert after < before.numpy()

    tensorflow.saved_model.save(loaded, str(tmp_path / "trained"), signatures=loaded.signatures)
    again = load(tmp_path / "trained").signatures["serving_default"](x)["Fc:1"].numpy()
    np.testing.assert_allclose(((again - 1.0) ** 2).mean(), after, rtol=1e-5)


def test_the_document_names_the_tensors_of_the_function(tmp_path: Path) -> None:
    path = save(small_net(), tmp_path / "net.savedmodel")

    document = read_document(path)

    assert document is not None
    assert [port.tensor for port in (*document.inputs, *document.outputs)] == ["data", "Fc:1", "conv1"]
    tensors = {record.blob: record.tensor for record in document.provenance}
    assert tensors == {
        "conv1@conv": "conv1_conv:0",
        "conv1": "conv1:0",
        "dw": "dw:0",
        "centre": "centre:0",
        "flat": "flat:0",
        "Fc:1": "Fc_1:0",
    }
    (path / "assets.extra" / "demitasse.json").unlink()
    assert read_document(path) is None


# --- where it is written ------------------------------------------------------------------------------------


def tiny(shape: Shape = (1, 2)) -> Graph:
    graph = Graph("tiny")
    graph.add(Relu(), [graph.add_input("x", TensorType(shape))], "y", Origin("y", "ReLU"))
    graph.outputs.append("y")
    return graph


def test_a_saved_model_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = save(tiny(), tmp_path / "net.savedmodel")
    (path / "assets" / "labels.txt").write_text("of the old one")
    before = content(path)
    save(tiny((1, 3)), path)
    assert "assets/labels.txt" not in content(path)
    assert content(path)["saved_model.pb"] != before["saved_model.pb"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.savedmodel"]


@pytest.mark.parametrize("is_folder", [True, False])
def test_nothing_else_is_written_over(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "net.savedmodel"
    file = path / "thesis.tex" if is_folder else path
    file.parent.mkdir(exist_ok=True)
    file.write_text("years of work")
    with pytest.raises(UsageError, match="is no SavedModel"):
        save(tiny(), path)
    assert file.read_text() == "years of work"


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tiny(), tmp_path / "net.savedmodel")
    before = content(path)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(saved_model, "_located", fail)
    with pytest.raises(OSError, match="no space left"):
        save(tiny((1, 3)), path)
    assert content(path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.savedmodel"]


def test_without_tensorflow_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingDependency, match=r"pip install 'demitasse\[tensorflow\]'"):
        write(tiny(), tmp_path / "net.savedmodel", document_of(tiny()))
    assert not list(tmp_path.iterdir())


def test_odd_names_stay_in_the_signature(tmp_path: Path) -> None:
    graph = case("ports_named_oddly").dynamic_graph
    path = save(graph, tmp_path / "net.savedmodel")
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    signature = model.meta_graphs[0].signature_def["serving_default"]
    assert sorted(signature.inputs) == ["fire2/expand1x1", "in put:0"]
    assert sorted(signature.outputs) == ["blob", "blob@layer/what"]
