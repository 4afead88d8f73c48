"""TFLite models with 8-bit kernels and wider activations: 16-bit integers, or real numbers rounded as they run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import CASES, Case
from demitasse.conversion import convert
from demitasse.ir.document import Document, describe
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph, Origin
from demitasse.ir.ops import (
    AnyOp,
    Conv,
    ConvTranspose,
    Dense,
    Elu,
    Layout,
    LeakyRelu,
    MatMul,
    Padding,
    TensorType,
)
from demitasse.ir.weights import Array
from demitasse.quantize.calibrate import calibrate
from demitasse.targets import TARGETS, lower, simplify
from demitasse.writers.tflite import LIMITS, read_document, write, write_16x8, write_dynamic
from demitasse.writers.tflite.dynamic import LEAST_SIZE
from demitasse_validation.comparison import compare
from demitasse_validation.inputs import Random

WRITTEN = [one for one in CASES if Layout.CHANNELS_FIRST not in one.layouts and not one.ops & LIMITS.keys()]
PRODUCTS = frozenset({Conv, ConvTranspose, Dense, MatMul})
NETS = ["residual_net", "fcn_skip", "fc_after_conv", "conv_grouped", "eltwise_sum"]


def document_of(graph: Graph, target: str) -> Document:
    return describe(graph, target=target, tool="demitasse", source_format="caffe", source=(), options={})


def opened(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def run(interpreter: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    results: dict[str, Array] = interpreter.get_signature_runner("serving_default")(**inputs)
    return results


def decibels(found: Array, expected: Array) -> float:
    noise = np.square(found.astype(np.float64) - expected).sum()
    return float(10 * np.log10(np.square(expected.astype(np.float64)).sum() / noise)) if noise else np.inf


@pytest.mark.parametrize("one", WRITTEN, ids=str)
def test_16_bit_activations_come_near(one: Case, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    write_16x8(one.graph, path, document_of(one.graph, "tflite-16x8"), calibrate(one.graph, [one.inputs]))
    found, expected = run(opened(path), one.inputs), evaluate(one.graph, one.inputs)
    least = 34 if one.ops & PRODUCTS else 65  # kernels have 8 bits
    for name in one.graph.outputs:
        assert found[name].shape == expected[name].shape
        assert decibels(found[name], expected[name]) > least


def activated(op: AnyOp) -> tuple[Graph, dict[str, Array]]:
    """Returns an activation between two products."""
    random, graph = np.random.default_rng(1), Graph("activated")
    graph.add_input("x", TensorType((1, 5, 5, 4)))
    for x, y in (("x", "first"), ("activated", "second")):
        kernel = graph.add_weight(f"{y}/kernel", random.uniform(-1, 1, (4, 4, 1, 1)).astype(np.float32))
        bias = graph.add_weight(f"{y}/bias", random.uniform(-1, 1, 4).astype(np.float32))
        pointwise = Conv((1, 1), (1, 1), (Padding(0, 0), Padding(0, 0)), layout=Layout.CHANNELS_LAST)
        graph.add(pointwise, [x, kernel, bias], y, Origin(y, "Convolution"))
        if y == "first":
            graph.add(op, [y], "activated", Origin("activated", type(op).__name__))
    graph.outputs.append("second")
    return graph, {"x": random.uniform(-1, 1, (1, 5, 5, 4)).astype(np.float32)}


@pytest.mark.parametrize(
    ("op", "middle"),
    [
        (LeakyRelu(0.1), ["LEAKY_RELU"]),
        (LeakyRelu(-0.25), ["LEAKY_RELU"]),
        (Elu(), ["DEQUANTIZE", "ELU", "QUANTIZE"]),
        (Elu(0.5), ["DEQUANTIZE", "ELU", "LEAKY_RELU", "QUANTIZE"]),
    ],
    ids=str,
)
def test_an_activation_stays_real_where_litert_has_no_kernel_of_16_bits(
    op: AnyOp, middle: list[str], tmp_path: Path
) -> None:
    graph, inputs = activated(op)
    path = tmp_path / "net.tflite"
    write_16x8(graph, path, document_of(graph, "tflite-16x8"), calibrate(graph, [inputs]))
    interpreter = opened(path)
    names = [each["op_name"] for each in interpreter._get_ops_details() if each["op_name"] != "DELEGATE"]
    assert names == ["QUANTIZE", "CONV_2D", *middle, "CONV_2D", "DEQUANTIZE"]
    assert decibels(run(interpreter, inputs)["second"], evaluate(graph, inputs)["second"]) > 50


def test_operator_codes_say_that_they_compute_with_16_bits(tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    graph, inputs = activated(LeakyRelu(0.1))
    path = tmp_path / "net.tflite"
    write_16x8(graph, path, document_of(graph, "tflite-16x8"), calibrate(graph, [inputs]))
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    codes = [model.OperatorCodes(place) for place in range(model.OperatorCodesLength())]
    versions = {names[code.BuiltinCode()]: code.Version() for code in codes}
    assert versions == {"QUANTIZE": 2, "CONV_2D": 4, "LEAKY_RELU": 2, "DEQUANTIZE": 3}


@pytest.mark.parametrize(
    ("name", "stays_real"),
    [("resize_linear_half_pixel_double", False), ("resize_linear_align_corners_up", True)],
)
def test_an_image_is_resized_with_16_bits_where_the_kernel_can_say_its_step(
    name: str, stays_real: bool, tmp_path: Path
) -> None:
    one = next(each for each in WRITTEN if each.name == f"{name}_channels_last")
    path = tmp_path / "net.tflite"
    ranges = calibrate(one.graph, [one.inputs])
    write_16x8(one.graph, path, document_of(one.graph, "tflite-16x8"), ranges, int8_io=True)
    interpreter = opened(path)
    assert ("DEQUANTIZE" in [each["op_name"] for each in interpreter._get_ops_details()]) is stays_real


def test_16_bit_activations_are_worth_their_bits(tmp_path: Path) -> None:
    one = next(each for each in WRITTEN if each.name == "residual_net_channels_last")
    path, ranges = tmp_path / "net.tflite", calibrate(one.graph, [one.inputs])
    write_16x8(one.graph, path, document_of(one.graph, "tflite-16x8"), ranges, int8_io=True)
    interpreter = opened(path)
    ports = (*interpreter.get_input_details(), *interpreter.get_output_details())
    assert {port["dtype"] for port in ports} == {np.int16}
    assert all(port["quantization"][1] == 0 for port in ports)
    details = {detail["name"]: detail for detail in interpreter.get_tensor_details()}
    kernels = [
        detail["dtype"] for name, detail in details.items() if name.endswith("/kernel") and detail["shape"].size == 4
    ]
    assert kernels
    assert set(kernels) == {np.int8}


@pytest.mark.parametrize("one", WRITTEN, ids=str)
def test_rounding_as_it_runs_comes_near(one: Case, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    write_dynamic(one.graph, path, document_of(one.graph, "tflite-dynamic"))
    assert read_document(path) == document_of(one.graph, "tflite-dynamic")
    found, expected = run(opened(path), one.inputs), evaluate(one.graph, one.inputs)
    for name in one.graph.outputs:
        assert found[name].shape == expected[name].shape
        assert decibels(found[name], expected[name]) > 34


def large(op: str) -> tuple[Graph, dict[str, Array]]:
    """Returns a product whose kernel is worth rounding."""
    random, graph = np.random.default_rng(0), Graph(op)
    shape = (1, 16) if op == "dense" else (1, 6, 6, 16)
    kernel = random.normal(0, 1, (96, 16, 1, 1) if op == "conv" else (96, 1, 3, 3) if op == "depthwise" else (96, 16))
    graph.add_input("x", TensorType(shape if op != "depthwise" else (1, 6, 6, 96)))
    ones, pads = (1, 1), (Padding(0, 0), Padding(0, 0))
    groups = 96 if op == "depthwise" else 1
    made = Dense() if op == "dense" else Conv(ones, ones, pads, groups=groups, layout=Layout.CHANNELS_LAST)
    names = [
        graph.add_weight("y/kernel", kernel.astype(np.float32)),
        graph.add_weight("y/bias", np.zeros(96, np.float32)),
    ]
    graph.outputs.append(graph.add(made, ["x", *names], "y", Origin("y", op)))
    return graph, {"x": random.normal(0, 1, graph.type("x").shape).astype(np.float32)}


@pytest.mark.parametrize(("op", "dtype"), [("conv", np.int8), ("dense", np.int8), ("depthwise", np.float32)])
def test_kernels_are_integers_where_litert_multiplies_them_with_real_numbers(
    op: str, dtype: type, tmp_path: Path
) -> None:
    graph, inputs = large(op)
    assert graph.type("y/kernel").size >= (LEAST_SIZE if dtype is np.int8 else 0)
    write_dynamic(graph, tmp_path / "net.tflite", document_of(graph, "tflite-dynamic"))
    write(graph, tmp_path / "real.tflite", document_of(graph, "tflite"))
    interpreter = opened(tmp_path / "net.tflite")
    details = {detail["name"]: detail for detail in interpreter.get_tensor_details()}
    assert details["y/kernel"]["dtype"] is dtype
    assert details["x"]["dtype"] is np.float32
    found, expected = run(interpreter, inputs)["y"], evaluate(graph, inputs)["y"]
    assert decibels(found, expected) > (34 if dtype is np.int8 else 120)
    sizes = [(tmp_path / name).stat().st_size for name in ("net.tflite", "real.tflite")]
    assert (sizes[0] < sizes[1]) is (dtype is np.int8)


@pytest.mark.parametrize("suffix", [".16x8.tflite", ".dynamic.tflite", ".int8.onnx"])
@pytest.mark.parametrize("name", NETS)
def test_the_validator_passes_sound_ones(name: str, suffix: str, golden: Path, tmp_path: Path) -> None:
    source = [golden / "caffe" / name / f"net.{kind}" for kind in ("prototxt", "caffemodel")]
    arrays = np.load(source[0].with_name("io.npz"))
    random = np.random.default_rng(3)
    inputs = {key.removeprefix("in:"): arrays[key] for key in arrays if key.startswith("in:")}
    rows = {key: random.standard_normal((32, *each.shape[1:])).astype(np.float32) for key, each in inputs.items()}
    np.savez(tmp_path / "noise.npz", **rows)  # type: ignore[arg-type]
    path = tmp_path / f"net{suffix}"
    convert(*source, out=path, calibration=None if "dynamic" in suffix else tmp_path / "noise.npz")
    report = compare([path], *source, inputs=Random(4, seed=5))
    assert report.passed, [finding.message for finding in report.artifacts[0].findings]


def test_lowered_graphs_share_one_shape() -> None:
    graph = simplify(next(one for one in CASES if one.name == "residual_net").graph)
    forms = [lower(graph, TARGETS[name]).values.keys() for name in ("tflite", "tflite-16x8", "tflite-dynamic")]
    assert forms[0] == forms[1] == forms[2]
