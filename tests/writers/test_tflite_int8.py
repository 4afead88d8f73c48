"""8-bit TFLite models: how close they come to the real net, what they are made of, and where they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import CASES, Case, case
from demitasse.errors import UsageError
from demitasse.ir.document import Document, describe
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph, Origin
from demitasse.ir.ops import (
    Activation,
    AnyOp,
    Binary,
    BinaryFunction,
    Concat,
    Conv,
    Dense,
    Elu,
    Layout,
    LeakyRelu,
    MaxPool,
    NonMaxSuppression,
    Padding,
    PRelu,
    Reduce,
    ReduceFunction,
    Reshape,
    Shape,
    Softmax,
    TensorType,
    Unary,
    UnaryFunction,
)
from demitasse.ir.preprocessing import ChannelOrder, Preprocessing
from demitasse.ir.weights import Array
from demitasse.quantize.calibrate import calibrate
from demitasse.writers.tflite import LIMITS, read_document, write, write_int8

LAST = Layout.CHANNELS_LAST

# Nets and operations that run in XNNPACK as a whole, with a conversion at each port and none between.
WHOLE = """
    residual_net squeeze_and_excite conv_plain conv_strided conv_grouped conv_depthwise_multiplier conv_relu6
    conv_no_bias conv_1d deconv_strided deconv_grouped deconv_depthwise deconv_window_below_stride
    max_pool_before_only max_pool_overhang_3 max_pool_3d average_pool_plain average_pool_overhang_3
    average_pool_whole_image pad_average_pool_overhang resize_linear_half_pixel_up resize_nearest_asymmetric_double
    dense dense_rank_3_no_bias mat_mul_heads mat_mul_constant relu clip_relu6 clip_both prelu_last_axis
    prelu_channels_first binary_max_values binary_min_values binary_sub_channels_first binary_div_channels_first
    unary_hard_swish unary_neg unary_square reduce_mean_space concat_channels slice_to_end transpose_to_last
    reshape_flatten
""".split()

# Nets of Caffe of which nothing has to stay real, but a softmax at the end.
WHOLE_NETS = """
    residual_net fcn_skip legacy_v1_layers bn_after_concat bn_scale_inplace conv_depthwise conv_grouped conv_dilated
    deconv_grouped_bilinear eltwise_coeff3 eltwise_max fc_after_conv fc_after_pool_flatten pool_ave_pad
    pool_max_ceil_clip pool_max_pad act_prelu act_swish act_chain_inplace concat_axis1
""".split()

# What has no meaning in 8 bits is computed exactly instead.
REAL = """
    lrn_alexnet unary_exp unary_log unary_softplus compare_greater binary_pow_values binary_div_values arg_max_axis_3
    top_k max_pool_indices_padded softmax unary_sigmoid mat_mul_broadcast_constant max_unpool_given_places
""".split()


def channels_last(name: str) -> Case:
    names = (name, f"{name}_channels_last")
    return next(one for one in CASES if one.name in names and Layout.CHANNELS_FIRST not in one.layouts)


def document_of(graph: Graph) -> Document:
    return describe(graph, target="tflite-int8", tool="demitasse", source_format="caffe", source=(), options={})


def quantized(graph: Graph, path: Path, *samples: dict[str, Array], int8_io: bool = False) -> Path:
    write_int8(graph, path, document_of(graph), calibrate(graph, samples), int8_io=int8_io)
    return path


def opened(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def run(interpreter: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    results: dict[str, Array] = interpreter.get_signature_runner("serving_default")(**inputs)
    return results


def operators(interpreter: Any) -> list[str]:
    return [op["op_name"] for op in interpreter._get_ops_details()]


def decibels(found: Array, expected: Array) -> float:
    """Returns the ratio of signal to quantization noise."""
    noise = np.square(found.astype(np.float64) - expected).sum()
    return float(10 * np.log10(np.square(expected.astype(np.float64)).sum() / noise)) if noise else np.inf


def chain(shape: Shape, *steps: tuple[AnyOp, dict[str, Array]]) -> Graph:
    """Builds a net of operations one after the other; the weights follow the value that each reads."""
    graph, value = Graph("chain"), "x"
    graph.add_input(value, TensorType(shape))
    for place, (op, weights) in enumerate(steps):
        names = [graph.add_weight(f"y{place}/{role}", array) for role, array in weights.items()]
        value = graph.add(op, [value, *names], f"y{place}", Origin(f"y{place}", type(op).__name__))
    graph.outputs.append(value)
    return graph


def conv(kernel: Array, bias: Array, activation: Activation = Activation.NONE) -> tuple[AnyOp, dict[str, Array]]:
    ones, pads = (1, 1), (Padding(0, 0), Padding(0, 0))
    weights = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    return Conv(ones, ones, pads, activation=activation, layout=LAST), weights


def uniform(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


# --- how close it comes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WHOLE)
def test_operations_run_in_xnnpack_with_no_conversion_between(name: str, tmp_path: Path) -> None:
    one = channels_last(name)
    interpreter = opened(quantized(one.graph, tmp_path / "net.tflite", one.inputs))
    found = run(interpreter, one.inputs)
    expected = evaluate(one.graph, one.inputs)
    assert all(decibels(found[output], expected[output]) > 38 for output in one.graph.outputs)
    counts = Counter(operators(interpreter))
    assert counts["DELEGATE"] == 1
    assert (counts["QUANTIZE"], counts["DEQUANTIZE"]) == (len(one.graph.inputs), len(one.graph.outputs))


@pytest.mark.parametrize("name", WHOLE_NETS)
def test_xnnpack_computes_a_whole_net_from_its_file(name: str, golden: Path, tmp_path: Path) -> None:
    """As `convert` makes it: real Caffe layers, folded, fused, equalized, with corrected biases."""
    from demitasse.conversion import convert

    source = [golden / "caffe" / name / f"net.{suffix}" for suffix in ("prototxt", "caffemodel")]
    arrays = np.load(source[0].with_name("io.npz"))
    inputs = {key.removeprefix("in:"): arrays[key] for key in arrays if key.startswith("in:")}
    np.savez(tmp_path / "inputs.npz", **inputs)
    path = tmp_path / "net.int8.tflite"
    convert(*source, out=path, calibration=tmp_path / "inputs.npz")
    interpreter = opened(path)
    names = operators(interpreter)
    assert (names[0], names[-1], names.count("DELEGATE")) == ("QUANTIZE", "DELEGATE", 1)
    inner = names[1:-1]
    assert "QUANTIZE" not in inner
    # Behind the only DEQUANTIZE nothing is left but what stands last before the output, and is real.
    assert inner.count("DEQUANTIZE") == 1
    assert set(inner[inner.index("DEQUANTIZE") + 1 :]) <= {"SOFTMAX", "LOGISTIC", "TANH"}
    (delegate,) = [op for op in interpreter._get_ops_details() if op["op_name"] == "DELEGATE"]
    assert set(map(int, delegate["outputs"])) == {port["index"] for port in interpreter.get_output_details()}


@pytest.mark.parametrize("name", REAL)
def test_what_has_no_meaning_in_8_bits_stays_real(name: str, tmp_path: Path) -> None:
    one = channels_last(name)
    found = run(opened(quantized(one.graph, tmp_path / "net.tflite", one.inputs)), one.inputs)
    expected = evaluate(one.graph, one.inputs)
    assert all(decibels(found[output], expected[output]) > 120 for output in one.graph.outputs)


@pytest.mark.parametrize("one", [one for one in CASES if Layout.CHANNELS_FIRST not in one.layouts], ids=str)
def test_every_case_is_written(one: Case, tmp_path: Path) -> None:
    if one.ops & LIMITS.keys():
        return
    found = run(opened(quantized(one.graph, tmp_path / "net.tflite", one.inputs)), one.inputs)
    expected = evaluate(one.graph, one.inputs)
    for output in one.graph.outputs:
        assert found[output].shape == expected[output].shape
        assert decibels(found[output], expected[output]) > 30


@pytest.mark.parametrize("op", [LeakyRelu(0.1), Elu()], ids=["leaky_relu", "elu"])
def test_an_activation_that_the_quantizer_does_not_know_computes_with_integers(op: AnyOp, tmp_path: Path) -> None:
    first, second = (conv(uniform(4, 4, 1, 1, seed=seed), uniform(4, seed=seed + 2)) for seed in (1, 2))
    graph, x = chain((1, 5, 5, 4), first, (op, {}), second), uniform(1, 5, 5, 4)
    interpreter = opened(quantized(graph, tmp_path / "net.tflite", {"x": x}))
    name = {LeakyRelu: "LEAKY_RELU", Elu: "ELU"}[type(op)]
    assert operators(interpreter) == ["QUANTIZE", "CONV_2D", name, "CONV_2D", "DEQUANTIZE", "DELEGATE"]
    assert decibels(run(interpreter, {"x": x})["y2"], evaluate(graph, {"x": x})["y2"]) > 35
    assert {"y0", "y1", "y2"} <= {detail["name"] for detail in interpreter.get_tensor_details()}


def test_an_activation_that_is_read_with_two_steps_gives_the_first(tmp_path: Path) -> None:
    graph, x = Graph("two steps"), uniform(1, 5, 5, 4)
    graph.add_input("x", TensorType((1, 5, 5, 4)))
    weights = [graph.add_weight(f"kernel{n}", uniform(4, 4, 1, 1, seed=n) * 3**n) for n in range(2)]
    pads = (Padding(0, 0),) * 2
    product = Conv((1, 1), (1, 1), pads, layout=Layout.CHANNELS_LAST)
    origin = Origin("net", "Net")
    graph.add(product, ["x", weights[0]], "before", origin)
    graph.add(LeakyRelu(0.1), ["before"], "leaky", origin)
    graph.add(product, ["leaky", weights[1]], "other", origin)
    graph.add(Concat(3), ["leaky", "other"], "joined", origin)
    graph.outputs.append(graph.add(MaxPool((2, 2), (1, 1), pads, layout=Layout.CHANNELS_LAST), ["joined"], "y", origin))
    interpreter = opened(quantized(graph, tmp_path / "net.tflite", {"x": x}))
    names = [detail["name"] for detail in interpreter.get_tensor_details() if detail["name"]]
    assert {"leaky", "leaky_requantized"} <= set(names)
    assert len(names) == len(set(names))
    assert operators(interpreter).count("DEQUANTIZE") == 1
    assert decibels(run(interpreter, {"x": x})["y"], evaluate(graph, {"x": x})["y"]) > 35


@pytest.mark.parametrize("op", [LeakyRelu(0.1), Elu()], ids=["leaky_relu", "elu"])
def test_an_activation_that_the_quantizer_does_not_know_gives_integers_to_the_port(op: AnyOp, tmp_path: Path) -> None:
    graph, x = chain((1, 5, 5, 4), (op, {})), uniform(1, 5, 5, 4)
    interpreter = opened(quantized(graph, tmp_path / "net.tflite", {"x": x}, int8_io=True))
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert [(port["name"], port["dtype"]) for port in (source, result)] == [("x", np.int8), ("y0", np.int8)]
    step, zero = source["quantization"]
    found = run(interpreter, {"x": np.clip(np.rint(x / step) + zero, -128, 127).astype(np.int8)})["y0"]
    step, zero = result["quantization"]
    assert decibels((found.astype(np.float32) - zero) * step, evaluate(graph, {"x": x})["y0"]) > 38


@pytest.mark.parametrize("slope", [0.25, 1.75])
def test_slopes_on_either_side_of_one_are_kept(slope: float, tmp_path: Path) -> None:
    slopes = np.array([0.5, slope, -0.25], np.float32)
    graph, x = chain((1, 4, 4, 3), (PRelu(), {"slope": slopes})), uniform(1, 4, 4, 3)
    interpreter = opened(quantized(graph, tmp_path / "net.tflite", {"x": x}))
    assert decibels(run(interpreter, {"x": x})["y0"], evaluate(graph, {"x": x})["y0"]) > 38
    assert "PRELU" not in operators(interpreter)


# --- ranges that would break it -----------------------------------------------------------------------------------


def test_a_dead_filter_keeps_its_bias(tmp_path: Path) -> None:
    kernel = uniform(3, 4, 1, 1)
    kernel[1] = 0
    graph, x = chain((1, 5, 5, 4), conv(kernel, np.array([0.5, -2.0, 0.25]))), uniform(1, 5, 5, 4)
    found = run(opened(quantized(graph, tmp_path / "net.tflite", {"x": x})), {"x": x})["y0"]
    np.testing.assert_allclose(found[..., 1], -2.0, atol=0.02)
    assert decibels(found, evaluate(graph, {"x": x})["y0"]) > 38


def test_a_net_behind_a_dead_layer_can_be_run(tmp_path: Path) -> None:
    dead = conv(uniform(4, 4, 1, 1), np.full(4, -9), Activation.RELU)
    graph, x = chain((1, 5, 5, 4), dead, conv(uniform(2, 4, 1, 1), np.array([1.0, -1.0]))), uniform(1, 5, 5, 4)
    interpreter = opened(quantized(graph, tmp_path / "net.tflite", {"x": x}))
    found = run(interpreter, {"x": x})["y1"]
    np.testing.assert_allclose(found[0, 0, 0], [1, -1], atol=0.02)
    assert operators(interpreter).count("DELEGATE") == 1


def test_zeros_for_inputs_are_no_reason_to_fail(tmp_path: Path) -> None:
    graph, x = chain((1, 5, 5, 4), conv(uniform(3, 4, 1, 1), np.zeros(3))), np.zeros((1, 5, 5, 4), np.float32)
    assert not run(opened(quantized(graph, tmp_path / "net.tflite", {"x": x})), {"x": x})["y0"].any()


def test_a_tiny_term_of_a_sum_stays_in_xnnpack(tmp_path: Path) -> None:
    graph, x = chain((1, 5, 5, 4), conv(uniform(4, 4, 1, 1) * 1e-5, np.zeros(4))), uniform(1, 5, 5, 4)
    graph.outputs = [graph.add(Binary(BinaryFunction.ADD), ["x", "y0"], "sum", Origin("sum", "Eltwise"))]
    interpreter = opened(quantized(graph, tmp_path / "net.tflite", {"x": x}))
    assert operators(interpreter) == ["QUANTIZE", "CONV_2D", "ADD", "DEQUANTIZE", "DELEGATE"]
    assert decibels(run(interpreter, {"x": x})["sum"], evaluate(graph, {"x": x})["sum"]) > 38


def test_a_kernel_larger_than_32_mib_is_quantized(tmp_path: Path) -> None:
    kernel = uniform(2048, 2048, 1, 2)[..., :2]
    op, weights = conv(np.concatenate([kernel, kernel[:128]]), np.zeros(2176))
    graph, x = chain((1, 1, 2, 2048), (op, weights)), uniform(1, 1, 2, 2048)
    assert weights["kernel"].nbytes > 2**25
    found = run(opened(quantized(graph, tmp_path / "net.tflite", {"x": x})), {"x": x})["y0"]
    assert decibels(found, evaluate(graph, {"x": x})["y0"]) > 38


def test_ranges_of_another_net_are_refused(tmp_path: Path) -> None:
    graph = channels_last("residual_net").graph
    with pytest.raises(UsageError, match=r"tensors have no range, 'data' for one"):
        write_int8(graph, tmp_path / "net.tflite", document_of(graph), {"x": (0.0, 1.0)})
    assert not list(tmp_path.iterdir())


# --- what it is made of -------------------------------------------------------------------------------------------


def test_weights_have_a_step_a_channel_and_biases_follow(tmp_path: Path) -> None:
    kernel = uniform(3, 4, 1, 1) * np.array([1.0, 0.01, 100.0], np.float32)[:, None, None, None]
    graph, x = chain((1, 5, 5, 4), conv(kernel, uniform(3))), uniform(1, 5, 5, 4)
    interpreter = opened(quantized(graph, tmp_path / "net.tflite", {"x": x}))
    details = {detail["name"]: detail for detail in interpreter.get_tensor_details()}
    steps = details["y0/kernel"]["quantization_parameters"]["scales"]
    np.testing.assert_allclose(steps, np.abs(kernel).max((1, 2, 3)) / 127, rtol=1e-6)
    assert details["y0/kernel"]["dtype"] is np.int8
    assert np.abs(interpreter.get_tensor(details["y0/kernel"]["index"]).astype(int)).max() == 127
    step = details["x_quantized"]["quantization_parameters"]["scales"][0]
    assert step == pytest.approx((x.max() - x.min()) / 255, rel=1e-5)
    assert details["y0/bias"]["dtype"] is np.int32
    np.testing.assert_allclose(details["y0/bias"]["quantization_parameters"]["scales"], steps * step, rtol=1e-5)


@pytest.mark.parametrize(("int8_io", "dtype"), [(False, np.float32), (True, np.int8)])
def test_ports_are_real_unless_integers_are_asked_for(int8_io: bool, dtype: type, tmp_path: Path) -> None:
    one = channels_last("residual_net")
    interpreter = opened(quantized(one.graph, tmp_path / "net.tflite", one.inputs, int8_io=int8_io))
    ports = (*interpreter.get_input_details(), *interpreter.get_output_details())
    assert [(port["name"], port["dtype"]) for port in ports] == [("data", dtype), ("prob", dtype)]
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["data"], "outputs": ["prob"]}}


def test_integers_at_the_ports_mean_what_their_scales_say(tmp_path: Path) -> None:
    one = channels_last("residual_net")
    interpreter = opened(quantized(one.graph, tmp_path / "net.tflite", one.inputs, int8_io=True))
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    step, zero = map(float, source["quantization"])
    integers = np.clip(np.rint(one.inputs["data"] / step) + zero, -128, 127).astype(np.int8)
    step, zero = map(float, result["quantization"])
    found = (run(interpreter, {"data": integers})["prob"].astype(np.float32) - zero) * step
    assert decibels(found, evaluate(one.graph, one.inputs)["prob"]) > 30


@pytest.mark.parametrize("op", [Softmax(1), Unary(UnaryFunction.SIGMOID), Unary(UnaryFunction.TANH)])
def test_an_activation_before_an_output_stays_real(op: AnyOp, tmp_path: Path) -> None:
    weights = {"kernel": uniform(3, 8), "bias": uniform(3)}
    graph, x = chain((1, 8), (Dense(), weights), (op, {})), uniform(1, 8)
    names = operators(opened(quantized(graph, tmp_path / "net.tflite", {"x": x})))
    assert names[:3] == ["QUANTIZE", "FULLY_CONNECTED", "DEQUANTIZE"]


def test_boxes_are_decoded_and_chosen_with_real_numbers(tmp_path: Path) -> None:
    one = case("non_max_suppression_classes")
    graph, inputs = Graph("detector"), {**one.inputs, "x": uniform(2, 5, 4, 4)}
    graph.add_input("x", TensorType((2, 5, 4, 4)))
    graph.add_input("scores", TensorType(inputs["scores"].shape))
    del inputs["boxes"]
    op, weights = conv(uniform(4, 4, 1, 1), np.zeros(4))
    names = [graph.add_weight(f"heads/{role}", array) for role, array in weights.items()]
    origin = Origin("detector", "DetectionOutput")
    graph.add(op, ["x", *names], "heads", origin)
    graph.add(Reshape((2, 20, 4)), ["heads"], "places", origin)
    graph.add_weight("priors", uniform(1, 20, 4))
    graph.add(Binary(BinaryFunction.ADD), ["places", "priors"], "boxes", origin)
    graph.outputs.append(graph.add(NonMaxSuppression(0.5, 0.4), ["boxes", "scores"], "kept", origin))
    interpreter = opened(quantized(graph, tmp_path / "net.tflite", inputs))
    assert operators(interpreter)[:5] == ["QUANTIZE", "CONV_2D", "DEQUANTIZE", "RESHAPE", "ADD"]
    assert operators(interpreter).count("QUANTIZE") == 1
    details = {detail["name"]: detail["dtype"] for detail in interpreter.get_tensor_details()}
    assert (details["heads"], details["boxes"], details["scores"]) == (np.int8, np.float32, np.float32)


def test_a_maximum_over_an_image_is_a_pool(tmp_path: Path) -> None:
    maximum = Reduce(ReduceFunction.MAX, (1, 2), keepdims=False)
    graph, x = chain((1, 5, 6, 4), conv(uniform(4, 4, 1, 1), np.zeros(4)), (maximum, {})), uniform(1, 5, 6, 4)
    interpreter = opened(quantized(graph, tmp_path / "net.tflite", {"x": x}))
    assert operators(interpreter) == ["QUANTIZE", "CONV_2D", "MAX_POOL_2D", "RESHAPE", "DEQUANTIZE", "DELEGATE"]
    assert decibels(run(interpreter, {"x": x})["y1"], evaluate(graph, {"x": x})["y1"]) > 38


def test_operator_codes_say_that_they_compute_with_integers(tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    one = channels_last("residual_net")
    content = quantized(one.graph, tmp_path / "net.tflite", one.inputs).read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    codes = [model.OperatorCodes(place) for place in range(model.OperatorCodesLength())]
    assert all(code.DeprecatedBuiltinCode() == min(code.BuiltinCode(), 127) for code in codes)
    assert {names[code.BuiltinCode()]: code.Version() for code in codes} == {
        "QUANTIZE": 1,
        "PAD": 2,
        "CONV_2D": 3,
        "MAX_POOL_2D": 2,
        "ADD": 2,
        "MUL": 2,
        "MEAN": 2,
        "RESHAPE": 1,
        "FULLY_CONNECTED": 4,
        "DEQUANTIZE": 2,
        "SOFTMAX": 1,
    }


def test_names_are_single_and_nothing_is_left_over(tmp_path: Path) -> None:
    one = channels_last("inception")
    interpreter = opened(quantized(one.graph, tmp_path / "net.tflite", *[one.inputs]))
    details = [detail for detail in interpreter.get_tensor_details() if detail["name"]]
    names = [detail["name"] for detail in details]
    ops = [op for op in interpreter._get_ops_details() if op["op_name"] != "DELEGATE"]
    used = {int(tensor) for op in ops for tensor in (*op["inputs"], *op["outputs"])}
    assert len(names) == len(set(names))
    assert {"left", "right", "a", "b", "c", "joined", "maximum", "copy"} <= set(names)
    assert {detail["index"] for detail in details} == used


def test_a_verifier_accepts_the_file_and_it_is_the_same_each_time(tmp_path: Path) -> None:
    from ai_edge_litert import _pywrap_analyzer_wrapper

    one = channels_last("squeeze_and_excite")
    first, second = (quantized(one.graph, tmp_path / name, one.inputs) for name in ("a.tflite", "b.tflite"))
    assert "not a valid" not in _pywrap_analyzer_wrapper.ModelAnalyzer(str(first), True, False)
    assert first.read_bytes() == second.read_bytes()
    assert read_document(first) == document_of(one.graph)


def test_it_is_a_quarter_of_the_size(tmp_path: Path) -> None:
    weights = {"kernel": uniform(512, 512), "bias": uniform(512)}
    graph, x = chain((1, 512), (Dense(), weights)), uniform(1, 512)
    write(graph, tmp_path / "real.tflite", document_of(graph))
    small = quantized(graph, tmp_path / "small.tflite", {"x": x})
    assert small.stat().st_size < 0.27 * (tmp_path / "real.tflite").stat().st_size


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one = channels_last("residual_net")
    quantized(one.graph, tmp_path / "net.tflite", one.inputs)
    captured = capfd.readouterr()
    assert not captured.out
    assert not [line for line in captured.err.splitlines() if not line.startswith("INFO: ")]


# --- a real net ---------------------------------------------------------------------------------------------------


def test_a_real_net_keeps_its_scores(zoo: Path, tmp_path: Path) -> None:
    from demitasse.ir.ops import Size
    from demitasse.passes import with_batch
    from demitasse.readers import read
    from demitasse.samples import from_images
    from demitasse.targets import TARGETS, lower, simplify

    folder = zoo / "caffe" / "open_nsfw"
    source = read(folder / "deploy.prototxt", folder / "weights.caffemodel", outputs=("fc_nsfw",))
    graph = lower(simplify(with_batch(source, 1)), TARGETS["tflite-int8"])
    contract = Preprocessing(ChannelOrder.BGR, resize=Size(256, 256), crop=Size(224, 224), mean=(104, 117, 123))
    images = sorted(path for path in (zoo / "images").iterdir() if path.suffix in (".jpg", ".png"))
    inputs = {name: source.type(name)._replace(shape=(1, 3, 224, 224)) for name in source.inputs}
    samples = from_images(images, inputs, source.layout, contract)
    path = tmp_path / "net.int8.tflite"
    write_int8(graph, path, document_of(graph), calibrate(graph, samples))
    write(graph, tmp_path / "net.tflite", document_of(graph))
    small, real = opened(path), opened(tmp_path / "net.tflite")
    feeds = [{"data": graph.values["data"].storage.store(sample["data"])} for sample in samples]
    found, expected = (np.concatenate([run(each, feed)["fc_nsfw"] for feed in feeds]) for each in (small, real))
    assert decibels(found, expected.astype(np.float64)) > 20
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    counts = Counter(operators(small))
    assert (counts["DELEGATE"], counts["QUANTIZE"], counts["DEQUANTIZE"]) == (1, 1, 1)
    assert path.stat().st_size < 0.28 * (tmp_path / "net.tflite").stat().st_size
