"""8-bit ONNX models: how close they come, what ONNX Runtime makes of them, and half-precision ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import CASES, Case, case
from demitasse.errors import UsageError
from demitasse.ir.document import Document, describe
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph, Origin
from demitasse.ir.ops import Concat, Conv, Layout, Padding, RoiMaxPool, TensorType
from demitasse.ir.weights import Array
from demitasse.quantize.calibrate import calibrate, observe
from demitasse.quantize.engines import EngineKind
from demitasse.quantize.kernels import round_kernels, with_rounded
from demitasse.targets import TARGETS, lower, simplify
from demitasse.writers.onnx import read_document, write, write_f16, write_int8

FIRST = [one for one in CASES if Layout.CHANNELS_LAST not in one.layouts]


def document_of(graph: Graph) -> Document:
    return describe(graph, target="onnx-int8", tool="demitasse", source_format="caffe", source=(), options={})


def decibels(found: Array, expected: Array) -> float:
    noise = np.square(found.astype(np.float64) - expected).sum()
    return float(10 * np.log10(np.square(expected.astype(np.float64)).sum() / noise)) if noise else np.inf


def session(path: Path, optimized: Path | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path: Path, inputs: dict[str, Array]) -> dict[str, Array]:
    opened = session(path)
    return dict(zip([port.name for port in opened.get_outputs()], opened.run(None, inputs), strict=True))


def quantized(graph: Graph, path: Path, inputs: dict[str, Array], **options: Any) -> Path:
    ranges = calibrate(graph, [inputs], engine=EngineKind.ONNX_RUNTIME)
    write_int8(graph, path, document_of(graph), ranges, **options)
    return path


@pytest.mark.parametrize("one", FIRST, ids=str)
def test_every_case_is_written(one: Case, tmp_path: Path) -> None:
    import onnx

    path = quantized(one.graph, tmp_path / "net.onnx", dict(one.inputs))
    onnx.checker.check_model(str(path), full_check=True)
    found, expected = run(path, dict(one.inputs)), evaluate(one.graph, one.inputs)
    for name in one.graph.outputs:
        assert found[name].shape == expected[name].shape
        assert decibels(found[name], expected[name]) > 30


@pytest.mark.parametrize("signed", [False, True])
def test_a_net_computes_with_integers(signed: bool, tmp_path: Path) -> None:
    import onnx

    one = case("residual_net")
    graph = lower(simplify(one.graph), TARGETS["onnx-int8"])
    path = quantized(graph, tmp_path / "net.onnx", dict(one.inputs), signed=signed)
    session(path, tmp_path / "optimized.onnx")
    counts = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    if not signed:  # on x86, ONNX Runtime joins few operators with signed activations
        assert counts["QLinearConv"] == sum(type(node.op).__name__ == "Conv" for node in graph.nodes)
        assert not counts.keys() & {"Conv", "Relu", "Gemm"}
    zeros = {array.data_type for array in onnx.load(path).graph.initializer if array.name.endswith("/zero")}
    assert (onnx.TensorProto.UINT8 in zeros) is not signed
    assert decibels(run(path, dict(one.inputs))["prob"], evaluate(graph, one.inputs)["prob"]) > 30


def test_values_keep_their_names_and_weights_a_quarter(tmp_path: Path) -> None:
    import onnx

    one = case("residual_net")
    graph = lower(simplify(one.graph), TARGETS["onnx-int8"])
    path = quantized(graph, tmp_path / "net.onnx", dict(one.inputs))
    model = onnx.load(path)
    made = {name for node in model.graph.node for name in node.output} | {port.name for port in model.graph.input}
    assert graph.values.keys() <= made
    assert all(each.data_type != onnx.TensorProto.FLOAT for each in model.graph.initializer if len(each.dims) == 4)
    assert read_document(path) == document_of(graph)


def test_parts_of_a_concatenation_have_its_step(tmp_path: Path) -> None:
    import onnx

    graph, random = Graph("parts"), np.random.default_rng(5)
    value = graph.add_input("x", TensorType((1, 4, 5, 5)))
    op, names = Conv((1, 1), (1, 1), (Padding(0, 0),) * 2), [value]
    for place, size in enumerate((1.0, 9.0, 3.0)):
        kernel = graph.add_weight(f"kernel{place}", random.normal(0, size, (4, 4, 1, 1)).astype(np.float32))
        names.append(graph.add(op, [value, kernel], f"part{place}", Origin(f"part{place}", "Convolution")))
    graph.add(Concat(1), names[:3], "inner", Origin("inner", "Concat"))
    graph.add(Concat(1), ["inner", "part2"], "outer", Origin("outer", "Concat"))
    kernel = graph.add_weight("last", random.normal(0, 1, (2, 16, 1, 1)).astype(np.float32))
    graph.outputs.append(graph.add(op, ["outer", kernel], "y", Origin("y", "Convolution")))
    path = quantized(graph, tmp_path / "net.onnx", {"x": random.normal(0, 1, (1, 4, 5, 5)).astype(np.float32)})
    steps = {node.name: node.input[1] for node in onnx.load(path).graph.node if node.op_type == "QuantizeLinear"}
    shared = {steps[f"{name}/QuantizeLinear"] for name in ("part0", "part1", "part2", "inner", "outer")}
    assert len(shared) == 1
    assert steps["x/QuantizeLinear"] not in shared


def test_some_nodes_stay_real(tmp_path: Path) -> None:
    import onnx

    one = case("residual_net")
    graph = lower(simplify(one.graph), TARGETS["onnx-int8"])
    every = [name for node in graph.nodes for name in node.outputs]
    path = quantized(graph, tmp_path / "net.onnx", dict(one.inputs), real=every)
    assert "QuantizeLinear" not in {node.op_type for node in onnx.load(path).graph.node}
    first = next(node.outputs[0] for node in graph.nodes if type(node.op).__name__ == "Conv")
    path = quantized(graph, tmp_path / "net.onnx", dict(one.inputs), real=[first])
    names = [weight.name for weight in onnx.load(path).graph.initializer if len(weight.dims) == 4]
    assert sum(not name.endswith("/quantized") for name in names) == 1


def test_biases_make_up_for_rounded_kernels(tmp_path: Path) -> None:
    one = case("conv_grouped")
    graph, inputs = one.graph, {name: np.abs(array) + 1 for name, array in one.inputs.items()}
    histograms = observe(graph, [inputs], engine=EngineKind.ONNX_RUNTIME)
    ranges = {name: (each.low, each.high) for name, each in histograms.items()}
    expected = evaluate(graph, inputs)
    shifts = []
    for means in (None, {name: each.means for name, each in histograms.items()}):
        rounded = with_rounded(graph, round_kernels(graph, up={}, means=means))
        write_int8(rounded, tmp_path / "net.onnx", document_of(graph), ranges)
        (name,) = graph.outputs
        shifts.append(np.abs((run(tmp_path / "net.onnx", inputs)[name] - expected[name]).mean((0, 2, 3))).mean())
    assert shifts[1] < shifts[0]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("one", FIRST, ids=str)
def test_integers_go_in_and_come_out(one: Case, signed: bool, tmp_path: Path) -> None:
    import onnx

    graph, inputs = one.graph, dict(one.inputs)
    path = quantized(graph, tmp_path / "net.onnx", inputs, int8_io=True, signed=signed)
    onnx.checker.check_model(str(path), full_check=True)
    ports = {name: steps_of(path, name) for name in (*graph.inputs, *graph.outputs) if graph.type(name).dtype.is_float}
    dtype = np.dtype(np.int8 if signed else np.uint8)
    assert all(zero.dtype == dtype for _, zero in ports.values())
    fed = {name: rounded(array, *ports[name]) if name in ports else array for name, array in inputs.items()}
    expected = evaluate(graph, inputs)
    for name, array in run(path, fed).items():
        if name not in ports:
            assert array.shape == expected[name].shape
            continue
        scale, zero = ports[name]
        assert array.dtype == dtype
        if RoiMaxPool not in one.ops:  # with 8 bits a region begins elsewhere
            assert decibels((array.astype(np.float32) - float(zero)) * scale, expected[name]) > 25


def steps_of(path: Path, name: str) -> tuple[Array, Array]:
    """Returns scale and zero point of the conversion that stands between a port and the net."""
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(path).graph
    (node, *_) = [
        node
        for node in graph.node
        if (node.op_type == "DequantizeLinear" and node.input[0] == name)
        or (node.op_type == "QuantizeLinear" and node.output[0] == name)
    ]
    held = {each.name: to_array(each) for each in graph.initializer}
    return held[node.input[1]], held[node.input[2]]


def rounded(array: Array, scale: Array, zero: Array) -> Array:
    limits = np.iinfo(zero.dtype)
    return np.asarray(np.clip(np.rint(array / scale) + zero, limits.min, limits.max).astype(zero.dtype))


def test_the_first_layer_reads_the_integers_that_go_in(tmp_path: Path) -> None:
    import onnx

    one = case("residual_net")
    graph = lower(simplify(one.graph), TARGETS["onnx-int8"])
    path = quantized(graph, tmp_path / "net.onnx", dict(one.inputs), int8_io=True)
    assert read_document(path) == document_of(graph)
    session(path, tmp_path / "optimized.onnx")
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    assert {node.op_type for node in nodes if "data" in node.input} <= {"QLinearConv", "Transpose"}  # of integers
    assert {node.op_type for node in nodes if "prob" in node.output} <= {"QuantizeLinear", "QLinearSoftmax"}


def test_ranges_of_another_net_are_refused(tmp_path: Path) -> None:
    one = case("conv_grouped")
    for int8_io in (False, True):
        with pytest.raises(UsageError, match="tensors have no range"):
            write_int8(one.graph, tmp_path / "net.onnx", document_of(one.graph), {}, int8_io=int8_io)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["residual_net", "inception", "dense_rank_3_no_bias"])
def test_half_precision_takes_half_the_bytes(name: str, tmp_path: Path) -> None:
    one = case(name)
    write(one.graph, tmp_path / "real.onnx", document_of(one.graph))
    write_f16(one.graph, tmp_path / "half.onnx", document_of(one.graph))
    assert (tmp_path / "half.onnx").stat().st_size <= (tmp_path / "real.onnx").stat().st_size + 200
    found, expected = run(tmp_path / "half.onnx", dict(one.inputs)), evaluate(one.graph, one.inputs)
    assert all(decibels(found[output], expected[output]) > 50 for output in one.graph.outputs)
