"""Every runtime, on files made by hand and on nets that a real Caffe ran."""

from __future__ import annotations

import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

import caffe_encoder as encode
from demitasse.errors import MalformedModel, MissingDependency, UsageError
from demitasse.readers import read
from demitasse_validation.inputs import Step
from demitasse_validation.runtimes import Runner, TensorSpec, open_runner
from demitasse_validation.runtimes.evaluator import EvaluatorRunner
from demitasse_validation.runtimes.onnx import OnnxRunner
from demitasse_validation.runtimes.opencv import OpenCvRunner
from demitasse_validation.runtimes.pycaffe import PyCaffeRunner, is_installed
from demitasse_validation.runtimes.tflite import Quantization, TfliteRunner
from demitasse_validation.tolerances import DEFAULT
from demitasse_validation.truth import Truth
from demitasse_validation.witness import Witness

X = np.array([[-3.0, 1.0, 2.0]], np.float32)


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    """`y = 2 relu(x)`, by way of `hidden = relu(x)`."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["hidden"]), helper.make_node("Mul", ["hidden", "two"], ["y"])],
        "doubled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.array([2], np.float32), "two")],
    )
    path = tmp_path / "doubled.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def tflite(path: Path, *, quantized: bool) -> Path:
    """Writes `y = 2 relu(x)` by way of `hidden = relu(x)`; the quantized one steps by 1 / 10, its zero at 5."""
    import flatbuffers

    def tensor(name: str, buffer: int, *shape: int) -> schema.TensorT:
        made = schema.TensorT()
        made.name, made.shape, made.buffer = name, list(shape), buffer
        made.type = schema.TensorType.INT8 if quantized else schema.TensorType.FLOAT32
        if quantized:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [0.1], [5]
        return made

    def operator(code: int, inputs: list[int], outputs: list[int]) -> schema.OperatorT:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = code, inputs, outputs
        return made

    graph = schema.SubGraphT()
    graph.tensors = [tensor("x", 0, 1, 3), tensor("hidden", 0, 1, 3), tensor("two", 1, 1, 1), tensor("y", 0, 1, 3)]
    graph.inputs, graph.outputs = [0], [3]
    graph.operators = [operator(0, [0], [1]), operator(1, [1, 2], [3])]
    graph.operators[1].builtinOptionsType = schema.BuiltinOptions.MulOptions
    graph.operators[1].builtinOptions = schema.MulOptionsT()
    model = schema.ModelT()
    model.version, model.subgraphs = 3, [graph]
    model.buffers = [schema.BufferT(), schema.BufferT()]
    two = np.array([25], np.int8) if quantized else np.array([2], np.float32)
    model.buffers[1].data = np.frombuffer(two.tobytes(), np.uint8)
    model.operatorCodes = []
    for builtin in (schema.BuiltinOperator.RELU, schema.BuiltinOperator.MUL):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        code.version = 2 if quantized else 1
        model.operatorCodes.append(code)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def golden_net(golden: Path, name: str) -> tuple[Path, Path, dict[str, Any], dict[str, Any]]:
    """Returns prototxt, caffemodel, the inputs and what real Caffe made of them."""
    folder = golden / "caffe" / name
    arrays = np.load(folder / "io.npz")
    inputs = {key[3:]: arrays[key] for key in arrays.files if key.startswith("in:")}
    # Caffe inserts splits of its own, which no prototxt names.
    blobs = {key[4:]: arrays[key] for key in arrays.files if key.startswith("out:") and "_split_" not in key}
    return folder / "net.prototxt", folder / "net.caffemodel", inputs, blobs


# --- artifacts ---


def test_onnx_gives_outputs_and_layers(onnx_file: Path) -> None:
    before = onnx_file.read_bytes()
    runner: Runner = open_runner(onnx_file, threads=1)
    assert runner.inputs == {"x": TensorSpec((None, 3), "float32")}
    assert list(runner.outputs) == ["y"]
    assert runner.run({"x": X})["y"].tolist() == [[0, 2, 4]]
    layers = runner.run_layers({"x": X}, ["hidden", "y", "x", "two", "absent"])
    assert {name: array.ravel().tolist() for name, array in layers.items()} == {
        "hidden": [0, 1, 2],
        "y": [0, 2, 4],
        "x": [-3, 1, 2],
        "two": [2],
    }
    assert list(runner.missing(["x", "hidden", "two", "absent"])) == ["absent"]
    assert onnx_file.read_bytes() == before


def test_onnx_layers_can_be_asked_for_one_after_another(onnx_file: Path) -> None:
    runner = OnnxRunner(onnx_file)
    assert list(runner.run_layers({"x": X}, ["y"])) == ["y"]
    assert runner.run_layers({"x": X}, ["hidden"])["hidden"].tolist() == [[0, 1, 2]]


def test_tflite_gives_outputs_and_layers(tmp_path: Path) -> None:
    runner: Runner = open_runner(tflite(tmp_path / "doubled.tflite", quantized=False), threads=1)
    assert runner.inputs == {"x": TensorSpec((1, 3), "float32")}
    assert runner.run({"x": X})["y"].tolist() == [[0, 2, 4]]
    layers = runner.run_layers({"x": X}, ["hidden", "y", "absent"])
    assert {name: array.ravel().tolist() for name, array in layers.items()} == {"hidden": [0, 1, 2], "y": [0, 2, 4]}
    assert list(runner.missing(["x", "hidden", "absent"])) == ["absent"]


def test_quantized_tflite_speaks_real_numbers(tmp_path: Path) -> None:
    runner = TfliteRunner(tflite(tmp_path / "doubled.int8.tflite", quantized=True))
    assert runner.inputs == {"x": TensorSpec((1, 3), "float32", "int8")}
    assert runner.run({"x": X})["y"] == pytest.approx(np.array([[0, 2, 4]]))
    assert runner.run_layers({"x": X}, ["hidden"])["hidden"] == pytest.approx(np.array([[0, 1, 2]]))
    raw = runner.run_layers_raw({"x": X}, ["x", "hidden"])
    assert {name: array.tolist() for name, array in raw.items()} == {"x": [[-25, 15, 25]], "hidden": [[5, 15, 25]]}
    quantization = runner.quantization("hidden")
    assert quantization is not None
    assert quantization.scale.tolist() == pytest.approx([0.1])


def test_channels_have_scales_of_their_own() -> None:
    quantization = Quantization(np.array([1, 0.5], np.float32), np.array([0]), 1, np.dtype(np.int8))
    reals = quantization.dequantize(np.array([[[2, 3], [4, 5]]], np.int8))
    assert reals.tolist() == [[[2, 3], [2, 2.5]]]
    assert quantization.quantize(reals).tolist() == [[[2, 3], [4, 5]]]
    assert quantization.quantize(np.array([[[1000.0], [-1000.0]]])).tolist() == [[[127], [-128]]]


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x1c\x00\x00\x00TFL3" + b"\xff" * 64])
def test_a_damaged_artifact_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(MalformedModel, match=rf"bad{suffix}: .* refuses it"):
        open_runner(path)


def test_a_path_that_no_runtime_fits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no runtime for files ending in '.bin'; known are .onnx"):
        open_runner(tmp_path / "net.bin")
    with pytest.raises(UsageError, match="no such file"):
        open_runner(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("feeds", "fault"),
    [
        ({}, r"input 'x' \(float32\[\?, 3\]\) is not fed"),
        ({"x": X, "z": X}, "no input 'z'"),
        ({"x": X[:, :2]}, r"takes float32\[\?, 3\], not float32\[1, 2\]"),
        ({"x": X.astype(np.float64)}, r"not float64\[1, 3\]"),
        ({"x": X[0]}, r"not float32\[3\]"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(onnx_file: Path, feeds: dict[str, Any], fault: str) -> None:
    runner = OnnxRunner(onnx_file)
    for run in (runner.run, lambda given: runner.run_layers(given, ["hidden"])):
        with pytest.raises(UsageError, match=rf"doubled.onnx: .*{fault}"):
            run(feeds)


# --- sources ---

# In-place layers, several tops, several inputs, a blob that is read twice.
NETS = ["bn_scale_inplace", "act_chain_inplace", "inception_block", "slice_points", "two_inputs", "legacy_v1_layers"]


@pytest.mark.parametrize("name", NETS)
def test_sources_run_like_real_caffe(golden: Path, name: str) -> None:
    pytest.importorskip("cv2")
    source, weights, inputs, blobs = golden_net(golden, name)
    graph = read(source, weights)
    runners: list[Runner] = [EvaluatorRunner(graph), OpenCvRunner(source, weights, graph, threads=1)]
    for runner in runners:
        assert not runner.missing(blobs)
        results = runner.run_layers(inputs, blobs)
        assert results.keys() == blobs.keys()
        for blob, expected in blobs.items():
            assert results[blob].shape == expected.shape
            assert np.abs(results[blob] - expected).max() <= 2e-6 * max(1, np.abs(expected).max()), blob
        assert runner.run(inputs).keys() == set(graph.outputs)


def test_what_in_place_layers_overwrite_is_seen(golden: Path) -> None:
    pytest.importorskip("cv2")
    source, weights, inputs, _ = golden_net(golden, "bn_scale_inplace")
    graph = read(source, weights)
    blobs = [blob for layer in graph.layers for blob in layer.outputs]
    assert sum("@" in blob for blob in blobs) >= 3
    mine = EvaluatorRunner(graph).run_layers(inputs, blobs)
    theirs = OpenCvRunner(source, weights, graph).run_layers(inputs, blobs)
    assert theirs.keys() == mine.keys() == set(blobs)
    for blob in blobs:
        assert np.allclose(mine[blob], theirs[blob], atol=1e-5), blob


def test_what_opencv_can_not_run_is_said(golden: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    source, weights, inputs, blobs = golden_net(golden, "act_threshold")
    runner = OpenCvRunner(source, weights, read(source, weights))
    results = runner.run_layers(inputs, blobs)
    absent = runner.missing(blobs)
    assert results.keys() | absent.keys() == set(blobs)
    assert 'OpenCV can\'t run this layer: Can\'t create layer "a" of type "Threshold"' in absent["a"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("caffe/fc_transpose", "OpenCV ignores `transpose`"),
        ("caffe/act_log", "OpenCV ignores `base`, `scale` and `shift` of Log"),
        ("caffe/act_swish", "OpenCV ignores `beta` of Swish"),
        ("caffe-forks/axpy", "OpenCV scales the other operand of Axpy"),
    ],
)
def test_what_opencv_is_known_to_misread_is_no_opinion(golden: Path, name: str, reason: str) -> None:
    """And OpenCV really computes something else there; where it learns better, the note on it has to go."""
    cv2 = pytest.importorskip("cv2")
    folder = golden / name
    source = next(folder.glob("*.prototxt"))
    weights = next(iter(folder.glob("*.caffemodel")), None)
    graph = read(source, weights)
    runner = OpenCvRunner(source, weights, graph)
    (output,) = graph.outputs
    assert reason in runner.missing([output])[output]
    random = np.random.default_rng(0)
    feeds = {name: random.uniform(1, 2, (1, *graph.type(name).shape[1:])).astype("f4") for name in graph.inputs}
    net = cv2.dnn.readNetFromCaffe(str(source), str(weights or ""))
    for given, array in feeds.items():
        net.setInput(array, given)
    graph.batch_is_dynamic = True
    expected = EvaluatorRunner(graph).run(feeds)[output]
    assert np.abs(net.forward() - expected).max() > 0.01


@pytest.mark.parametrize(
    ("kind", "parameters", "blobs", "reason"),
    [
        (
            "Deconvolution",
            "convolution_param { num_output: 4 kernel_size: 3 dilation: 2 }",
            [(6, 4, 3, 3), (4,)],
            "`dilation`",
        ),
        ("LRN", "lrn_param { local_size: 3 alpha: 0.5 k: 2 }", [], "`k` of LRN"),
        ("MVN", "mvn_param { eps: 0.1 }", [], "`eps` of MVN"),
        ("Scale", 'bottom: "factors" scale_param { axis: 0 bias_term: true }', [(1, 6)], "two bottoms"),
        ("Slice", 'top: "z" slice_param { slice_dim: 2 slice_point: 1 }', [], "`slice_dim`"),
        ("Concat", 'bottom: "data" concat_param { concat_dim: 2 }', [], "`concat_dim`"),
    ],
)
def test_a_layer_that_opencv_is_known_to_misread_is_no_opinion(
    kind: str, parameters: str, blobs: list[tuple[int, ...]], reason: str, tmp_path: Path
) -> None:
    """As above, on nets of one layer."""
    cv2 = pytest.importorskip("cv2")
    source, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel" if blobs else None
    entries = {"data": (1, 6, 5, 4), "factors": (1, 6)} if "factors" in parameters else {"data": (1, 6, 5, 4)}
    for name, shape in entries.items():
        dims = " ".join(f"dim: {size}" for size in shape)
        with source.open("a") as file:
            file.write(f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n')
    with source.open("a") as file:
        file.write(f'layer {{ name: "y" type: "{kind}" bottom: "data" top: "y" {parameters} }}\n')
    random = np.random.default_rng(0)
    if weights is not None:
        drawn = [random.uniform(1, 2, shape).astype("f4") for shape in blobs]
        encoded = [encode.blob(array.shape, encode.packed(array)) for array in drawn]
        weights.write_bytes(encode.net(encode.layer("y", kind, *encoded)))
    graph = read(source, weights)
    assert reason in OpenCvRunner(source, weights, graph).missing(["y"])["y"]
    feeds = {name: random.uniform(1, 2, shape).astype("f4") for name, shape in entries.items()}
    net = cv2.dnn.readNetFromCaffe(str(source), str(weights or ""))
    for name, array in feeds.items():
        net.setInput(array, name)
    expected, found = EvaluatorRunner(graph).run(feeds)["y"], net.forward("y")
    assert found.shape != expected.shape or np.abs(found - expected).max() > 0.01


@pytest.mark.parametrize("name", ["conv_3d_nd", "conv_two_bottoms"])
def test_convolutions_that_are_not_called_like_their_tops(golden: Path, name: str) -> None:
    pytest.importorskip("cv2")
    folder = golden / "caffe-forks" / name
    source, weights = folder / "deploy.prototxt", folder / "weights.caffemodel"
    arrays = np.load(folder / "golden.npz")
    runner = OpenCvRunner(source, weights, read(source, weights))
    feeds = {key[3:]: arrays[key] for key in arrays.files if key.startswith("in:")}
    expected = {key[4:]: arrays[key] for key in arrays.files if key.startswith("out:")}
    results = runner.run_layers(feeds, expected)
    assert results.keys() == expected.keys()
    assert all(np.allclose(results[blob], expected[blob], atol=1e-5) for blob in expected)


CUT_NET = """
input: "x" input_shape { dim: 1 dim: 2 dim: 4 dim: 4 }
layer { name: "p1" type: "Power" bottom: "x" top: "p1" power_param { shift: 1 scale: 2 } }
# layer { name: "a comment" }
layer { name: "c" type: "Clip" bottom: "p1" top: "c" clip_param { min: -1 max: 2 } }
layer { name: "p2" type: "Power" bottom: "c" top: "p2" power_param { shift: 3 } }
layer { name: "c2" type: "Clip" bottom: "p2" top: "p2" clip_param { min: 0 max: 4 } }
layer { name: "p3" type: "Power" bottom: "p2" top: "p3" power_param { scale: 3 } }
layer { name: "e" type: "Eltwise" bottom: "p1" bottom: "p3" top: "e" }
"""


def test_a_net_is_cut_at_layers_that_opencv_lacks(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    source = tmp_path / "net.prototxt"
    source.write_text(CUT_NET)
    graph = read(source)
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)}
    blobs = [blob for layer in graph.layers for blob in layer.outputs]
    truth = Truth(EvaluatorRunner(graph).run_layers(feeds, blobs))
    witness = Witness("opencv", OpenCvRunner(source, None, graph), graph, DEFAULT)
    witness.add(Step(("one",), feeds, None), truth)
    report = witness.report()
    layers = {layer.blob: layer for layer in report.layers}
    assert [blob for blob, layer in layers.items() if layer.passed] == ["x", "p1", "p2@p2", "p3", "e"]
    assert layers["c"].passed is None
    assert "can't run this layer" in layers["c"].note
    assert layers["p1"].note == ""
    assert layers["p2@p2"].note == "computed from the evaluator's 'c'"
    assert layers["e"].note == "computed from the evaluator's 'p2'"
    assert {finding.kind for finding in report.findings} == {"no-second-opinion", "cut"}


def test_all_outputs_of_a_layer_are_kept(zoo: Path) -> None:
    pytest.importorskip("cv2")
    source, weights = (zoo / "caffe" / "mtcnn_det4" / name for name in ("deploy.prototxt", "weights.caffemodel"))
    graph = read(source, weights)
    blobs = [blob for layer in graph.layers for blob in layer.outputs]
    feeds = {"data": np.random.default_rng(0).standard_normal(graph.type("data").shape).astype(np.float32)}
    expected = EvaluatorRunner(graph).run_layers(feeds, blobs)
    results = OpenCvRunner(source, weights, graph).run_layers(feeds, blobs)
    assert results.keys() == expected.keys()
    for blob in blobs:
        assert np.abs(results[blob] - expected[blob]).max() <= 1e-4 * np.abs(expected[blob]).max(), blob


def test_opencv_that_is_not_installed_is_named(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, weights, _, _ = golden_net(golden, "act_relu")
    graph = read(source, weights)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependency, match=r"pip install 'demitasse\[caffe\]'"):
        OpenCvRunner(source, weights, graph)
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(dnn=SimpleNamespace()))
    with pytest.raises(MissingDependency, match="OpenCV 5 reads no Caffe nets"):
        OpenCvRunner(source, weights, graph)


class FakeBlob:
    def __init__(self) -> None:
        self.data = np.zeros(0, np.float32)

    def reshape(self, *shape: int) -> None:
        self.data = np.zeros(shape, np.float32)


class FakeNet:
    """Has pycaffe's interface and one net: `c = x + 1`, then twice in place `c = 2 c`."""

    _layer_names = ("x", "conv", "first", "second")

    def __init__(self, source: str, phase: int, weights: str) -> None:
        self.top_names = {"x": ["x"], "conv": ["c"], "first": ["c"], "second": ["c"]}
        if not Path(weights).exists():
            raise RuntimeError("no such file")
        self.blobs = {"x": FakeBlob(), "c": FakeBlob()}

    def reshape(self) -> None:
        self.blobs["c"].reshape(*self.blobs["x"].data.shape)

    def forward(self, start: str, end: str) -> None:
        assert start == end
        if start == "conv":
            self.blobs["c"].data[...] = self.blobs["x"].data + 1
        elif start != "x":
            self.blobs["c"].data[...] *= 2


@pytest.fixture
def fake_caffe(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModuleSpec("caffe", None, origin="caffe/__init__.py")
    module = SimpleNamespace(Net=FakeNet, TEST=1, set_mode_cpu=lambda: None, __version__="1.0.0", __spec__=spec)
    monkeypatch.setitem(sys.modules, "caffe", module)


IN_PLACE_NET = """
input: "x" input_shape { dim: 1 dim: 2 dim: 2 dim: 2 }
layer { name: "conv" type: "Power" bottom: "x" top: "c" power_param { shift: 1 } }
layer { name: "first" type: "Power" bottom: "c" top: "c" power_param { scale: 2 } }
layer { name: "second" type: "Power" bottom: "c" top: "c" power_param { scale: 2 } }
"""


def test_pycaffe_sees_every_layer(tmp_path: Path, golden: Path, fake_caffe: None) -> None:
    source = tmp_path / "net.prototxt"
    source.write_text(IN_PLACE_NET)
    weights = tmp_path / "net.caffemodel"
    shutil.copyfile(golden / "caffe" / "act_relu" / "net.caffemodel", weights)
    graph = read(source)
    runner: Runner = PyCaffeRunner(source, weights, graph)
    assert "Caffe 1.0.0" in runner.runtime
    feeds = {"x": np.ones((3, 2, 2, 2), np.float32)}
    blobs = [blob for layer in graph.layers for blob in layer.outputs]
    results = runner.run_layers(feeds, blobs)
    assert {name: float(array.flat[0]) for name, array in results.items() if name != "x"} == {
        "c@conv": 2,
        "c@first": 4,
        "c": 8,
    }
    expected = EvaluatorRunner(graph).run_layers(feeds, blobs)
    assert all(np.array_equal(results[name], expected[name]) for name in blobs)
    assert list(runner.missing([*blobs, "absent"])) == ["absent"]
    with pytest.raises(MalformedModel, match="Caffe refuses it: no such file"):
        PyCaffeRunner(source, tmp_path / "absent", graph)


def test_pycaffe_that_is_not_installed_is_named(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, weights, _, _ = golden_net(golden, "act_relu")
    graph = read(source, weights)
    monkeypatch.setitem(sys.modules, "caffe", None)
    with pytest.raises(MissingDependency, match="'caffe', which is not installed"):
        PyCaffeRunner(source, weights, graph)


def test_a_folder_called_caffe_is_no_pycaffe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "caffe" / "python").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "caffe", raising=False)
    assert not is_installed()
