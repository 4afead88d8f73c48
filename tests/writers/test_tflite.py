"""TFLite models as LiteRT, TensorFlow Lite and a flatbuffers verifier see them, against what their graphs compute."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from cases import CASES, Case, case
from demitasse.errors import InvalidGraph, MalformedModel
from demitasse.ir.document import Document, describe
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph, Origin
from demitasse.ir.ops import (
    OPS,
    AnyOp,
    Conv,
    Coordinates,
    Dense,
    Interpolation,
    Layout,
    MatMul,
    MaxPool,
    MaxUnpool,
    NonMaxSuppression,
    Padding,
    Relu,
    Reshape,
    Resize,
    TensorType,
    Transpose,
    Unary,
    UnaryFunction,
)
from demitasse.ir.weights import Array
from demitasse.writers.tflite import EMITTERS, LIMITS, offences, read_document, write, write_f16
from demitasse.writers.tflite.flatbuffer import ALIGNMENT
from demitasse.writers.tflite.padding import SAME, VALID, Axis, rule

LACKING = [one for one in CASES if one.ops & LIMITS.keys()]
WRITABLE = [one for one in CASES if Layout.CHANNELS_FIRST not in one.layouts and one not in LACKING]
DYNAMIC = [one for one in WRITABLE if one.dynamic and NonMaxSuppression not in one.ops]
TOLERANCE = 1e-5

# What XNNPACK has no operator for; everything else runs in it, whole.
OUTSIDE_XNNPACK = """
    conv_3d conv_3d_pointwise deconv_3d max_pool_indices max_pool_indices_padded max_unpool max_unpool_given_places
    lrn_strong unary_sign binary_pow_values binary_pow_channels_first binary_pow_scalar_left binary_pow_3_of_negatives
    binary_add_int32 where_values where_constant pad_value pad_low pad_rank_3 slice_steps slice_backwards
    slice_backwards_steps top_k top_k_rank_4 top_k_inner_axis top_k_all top_k_places_only
    reduce_prod_ends reduce_prod_space_kept
""".split()
OUTSIDE_XNNPACK_KINDS = ("arg_max", "cast", "compare", "gather", "non_max_suppression", "resize_nearest", "tile")
IN_XNNPACK = [
    one
    for one in WRITABLE
    if one.name.removesuffix("_channels_last") not in OUTSIDE_XNNPACK and not one.name.startswith(OUTSIDE_XNNPACK_KINDS)
]

# Case: the operators that it takes.
SPELLINGS = {
    "conv_plain_channels_last": "CONV_2D",
    "conv_same_even_channels_last": "CONV_2D",
    "conv_strided_channels_last": "PAD CONV_2D",
    "conv_grouped_channels_last": "CONV_2D",
    "conv_depthwise_multiplier_channels_last": "DEPTHWISE_CONV_2D",
    "conv_depthwise_one_channel_channels_last": "CONV_2D",
    "conv_1d_grouped_channels_last": "RESHAPE CONV_2D RESHAPE",
    "conv_relu6_channels_last": "CONV_2D",
    "deconv_plain_channels_last": "TRANSPOSE_CONV",
    "deconv_relu_channels_last": "TRANSPOSE_CONV",
    "deconv_strided_channels_last": "TRANSPOSE_CONV",
    "deconv_asymmetric_channels_last": "TRANSPOSE_CONV SLICE",
    "max_pool_overhang_1_channels_last": "MAX_POOL_2D",
    "max_pool_relu6_channels_last": "MAX_POOL_2D",
    "average_pool_same_channels_last": "AVERAGE_POOL_2D",
    "average_pool_before_only_channels_last": "PAD AVERAGE_POOL_2D MUL",
    "lrn_alexnet_channels_last": "MUL CONV_2D RSQRT SQRT MUL MUL",
    "lrn_strong_channels_last": "LOCAL_RESPONSE_NORMALIZATION",
    "resize_nearest_align_corners_up_channels_last": "RESIZE_NEAREST_NEIGHBOR",
    "dense_rank_3": "FULLY_CONNECTED",
    "mat_mul_constant_flipped": "FULLY_CONNECTED",
    "mat_mul_heads": "BATCH_MATMUL",
    "softmax_rank_4_axis_3": "SOFTMAX",
    "elu_scaled": "ELU LEAKY_RELU",
    "clip_relu6": "RELU6",
    "clip_both": "MAXIMUM MINIMUM",
    "clip_below": "MAXIMUM",
    "binary_add_relu6": "ADD",
    "binary_pow_2_of_negatives": "SQUARE",
    "slice_channels": "SLICE",
    "slice_steps": "STRIDED_SLICE",
    "concat_one": "RESHAPE",
    "residual_net_channels_last": (
        "PAD CONV_2D MAX_POOL_2D CONV_2D CONV_2D ADD RELU MEAN RESHAPE FULLY_CONNECTED SOFTMAX"
    ),
}

# Case: operators whose version isn't 1.
VERSIONS = {
    "conv_plain_channels_last": {},
    "conv_grouped_channels_last": {"CONV_2D": 6},
    "conv_depthwise_dilated_channels_last": {"DEPTHWISE_CONV_2D": 2},
    "deconv_plain_channels_last": {"TRANSPOSE_CONV": 3},
    "deconv_relu_channels_last": {"TRANSPOSE_CONV": 4},
    "resize_linear_half_pixel_up_channels_last": {"RESIZE_BILINEAR": 3},
    "resize_linear_asymmetric_up_channels_last": {},
    "resize_nearest_align_corners_up_channels_last": {"RESIZE_NEAREST_NEIGHBOR": 3},
    "dense": {},
    "dense_no_bias": {},
    "dense_rank_3": {"FULLY_CONNECTED": 5},
    "transpose_rank_5": {"TRANSPOSE": 4},
}


def document_of(graph: Graph) -> Document:
    return describe(graph, target="tflite", tool="demitasse", source_format="caffe", source=(), options={"a": 1})


def written(graph: Graph, path: Path, writer: Callable[..., None] = write) -> Path:
    writer(graph, path, document_of(graph))
    return path


def open_model(path: Path, *, xnnpack: bool) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return Interpreter(str(path), num_threads=1, experimental_op_resolver_type=resolver)


def run(interpreter: Any, inputs: dict[str, Array]) -> dict[str, Array]:
    """Runs a model by its signature, which resizes the inputs where need be."""
    results: dict[str, Array] = interpreter.get_signature_runner("serving_default")(**inputs)
    return results


def operators(path: Path) -> list[tuple[str, int]]:
    """Returns the operators with their versions."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    graph = model.Subgraphs(0)
    codes = [model.OperatorCodes(graph.Operators(place).OpcodeIndex()) for place in range(graph.OperatorsLength())]
    return [(names[code.BuiltinCode()], code.Version()) for code in codes]


def assert_runs_in_xnnpack(interpreter: Any) -> None:
    """Checks that one call of the delegate takes the inputs and gives the outputs, with nothing before or beside it."""
    ops = interpreter._get_ops_details()
    delegated = [op for op in ops if op["op_name"] == "DELEGATE"]
    inputs = {detail["index"] for detail in interpreter.get_input_details()}
    outputs = {detail["index"] for detail in interpreter.get_output_details()} - inputs
    made = {tensor for op in ops if op["op_name"] != "DELEGATE" for tensor in op["outputs"]}
    assert len(delegated) == 1, Counter(op["op_name"] for op in ops)
    assert outputs <= set(delegated[0]["outputs"])
    assert not made & set(delegated[0]["inputs"])


def assert_close(found: dict[str, Array], expected: dict[str, Array], graph: Graph, tolerance: float) -> None:
    for name in graph.outputs:
        assert found[name].shape == expected[name].shape
        peak = np.abs(expected[name]).max(initial=0)
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=tolerance * peak, err_msg=name)


# --- what is computed ---------------------------------------------------------------------------------------------


def test_every_operation_has_an_emitter_or_a_stated_limit() -> None:
    assert set(EMITTERS) | set(LIMITS) == set(OPS)
    assert not set(EMITTERS) & set(LIMITS)
    assert {op for one in WRITABLE for op in one.ops} == set(EMITTERS)


@pytest.mark.parametrize("one", LACKING, ids=str)
def test_what_tflite_lacks_is_an_offence(one: Case) -> None:
    assert {offence.reason for offence in offences(one.graph)} == {LIMITS[op] for op in one.ops & LIMITS.keys()}


@pytest.mark.parametrize("xnnpack", [True, False], ids=["xnnpack", "builtin"])
@pytest.mark.parametrize("one", WRITABLE, ids=str)
def test_litert_computes_what_the_graph_means(one: Case, xnnpack: bool, tmp_path: Path) -> None:
    assert not offences(one.graph)
    interpreter = open_model(written(one.graph, tmp_path / "net.tflite"), xnnpack=xnnpack)
    assert_close(run(interpreter, one.inputs), evaluate(one.graph, one.inputs), one.graph, TOLERANCE)


@pytest.mark.parametrize("xnnpack", [True, False], ids=["xnnpack", "builtin"])
@pytest.mark.parametrize("one", DYNAMIC, ids=str)
def test_a_dynamic_batch_can_be_changed(one: Case, xnnpack: bool, tmp_path: Path) -> None:
    graph, inputs = one.dynamic_graph, one.inputs_at(3)
    assert not offences(graph)
    interpreter = open_model(written(graph, tmp_path / "net.tflite"), xnnpack=xnnpack)
    signature = interpreter.get_signature_runner().get_input_details()
    assert all(detail["shape"][0] == 1 and detail["shape_signature"][0] == -1 for detail in signature.values())
    assert_close(run(interpreter, inputs), evaluate(graph, inputs), graph, TOLERANCE)


@pytest.mark.parametrize("one", IN_XNNPACK, ids=str)
def test_nets_run_in_xnnpack_as_a_whole(one: Case, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    for graph in (one.graph, one.dynamic_graph) if one.dynamic else (one.graph,):
        interpreter = open_model(written(graph, path), xnnpack=True)
        interpreter.allocate_tensors()
        assert_runs_in_xnnpack(interpreter)


@pytest.mark.filterwarnings("ignore")  # TensorFlow announces that its interpreter moves to LiteRT
@pytest.mark.parametrize("name", ["residual_net", "inception", "deconv_grouped", "max_pool_indices", "lrn_alexnet"])
def test_tensorflow_lite_agrees(name: str, tmp_path: Path) -> None:
    lite = pytest.importorskip("tensorflow").lite
    one = case(f"{name}_channels_last")
    interpreter = lite.Interpreter(str(written(one.dynamic_graph, tmp_path / "net.tflite")))
    assert_close(run(interpreter, one.inputs), evaluate(one.graph, one.inputs), one.graph, TOLERANCE)


@pytest.mark.parametrize(
    ("coordinates", "size", "count"),
    [
        (Coordinates.ALIGN_CORNERS, 4, 75),
        (Coordinates.HALF_PIXEL, 2, 41),
        (Coordinates.ASYMMETRIC, 3, 123),
    ],
)
def test_neighbours_are_exact_where_the_operator_rounds_otherwise(
    coordinates: Coordinates, size: int, count: int, tmp_path: Path
) -> None:
    op = Resize((2, count), Interpolation.NEAREST, coordinates, layout=Layout.CHANNELS_LAST)
    graph = graph_of(op, TensorType((1, 2, size, 1)))
    x = np.arange(2 * size, dtype=np.float32).reshape(1, 2, size, 1)
    path = written(graph, tmp_path / "net.tflite")
    assert [name for name, _ in operators(path)] == ["GATHER", "GATHER"]
    assert np.array_equal(run(open_model(path, xnnpack=True), {"x": x})["y"], evaluate(graph, {"x": x})["y"])


def test_softplus_keeps_small_results(tmp_path: Path) -> None:
    x = np.array([[-30.0, -17.0, -16.0, -8.0, 0.0, 90.0]], np.float32)
    graph = graph_of(Unary(UnaryFunction.SOFTPLUS), TensorType(x.shape))
    # XNNPACK's logarithm is exact to float32 rounding of its argument alone.
    found = run(open_model(written(graph, tmp_path / "net.tflite"), xnnpack=False), {"x": x})["y"]
    np.testing.assert_allclose(found, np.log1p(np.exp(x.astype(np.float64))), rtol=1e-6)


# --- how it is spelled --------------------------------------------------------------------------------------------


def graph_of(op: AnyOp, *inputs: TensorType) -> Graph:
    graph = Graph("one")
    names = [graph.add_input(name, type_) for name, type_ in zip("xz", inputs, strict=False)]
    graph.outputs.append(graph.add(op, names, "y", Origin("y", type(op).__name__, "net.prototxt", 7)))
    return graph


@pytest.mark.parametrize("name", SPELLINGS)
def test_no_operator_is_needless(name: str, tmp_path: Path) -> None:
    path = written(case(name).graph, tmp_path / "net.tflite")
    assert " ".join(operator for operator, _ in operators(path)) == SPELLINGS[name]


@pytest.mark.parametrize("name", VERSIONS)
def test_versions_are_the_lowest(name: str, tmp_path: Path) -> None:
    path = written(case(name).graph, tmp_path / "net.tflite")
    assert {operator: version for operator, version in operators(path) if version != 1} == VERSIONS[name]


@pytest.mark.parametrize(("positive", "spelling"), [(True, "RELU PAD MAX_POOL_2D"), (False, "TANH")])
def test_zeros_surround_a_maximum_only_where_nothing_is_below(positive: bool, spelling: str, tmp_path: Path) -> None:
    graph, shape = Graph("pool"), (1, 6, 6, 2)
    graph.add_input("x", TensorType(shape))
    graph.add(Relu() if positive else Unary(UnaryFunction.TANH), ["x"], "changed", Origin("changed", "X"))
    pool = MaxPool((3, 3), (2, 2), (Padding(1, 0), Padding(1, 0)), layout=Layout.CHANNELS_LAST)
    graph.outputs.append(graph.add(pool, ["changed"], "y", Origin("y", "Pooling")))
    path = written(graph, tmp_path / "net.tflite")
    x = np.random.default_rng(1).uniform(-3, -1, shape).astype(np.float32)
    interpreter = open_model(path, xnnpack=True)
    assert_close(run(interpreter, {"x": x}), evaluate(graph, {"x": x}), graph, TOLERANCE)
    assert_runs_in_xnnpack(interpreter)
    assert " ".join(name for name, _ in operators(path)).startswith(spelling)


@given(
    size=some.integers(1, 40),
    extent=some.integers(1, 9),
    stride=some.integers(1, 5),
    pad=some.builds(Padding, some.integers(0, 8), some.integers(0, 8)),
)
def test_a_padding_rule_is_chosen_only_where_it_places_the_windows_alike(
    size: int, extent: int, stride: int, pad: Padding
) -> None:
    axis = Axis(size, extent, stride, pad)
    if axis.count < 1:
        return
    begins = [place * stride - pad.before for place in range(axis.count)]
    same_count = -(-size // stride)
    same_before = max((same_count - 1) * stride + extent - size, 0) // 2
    by_rule = {
        SAME: [place * stride - same_before for place in range(same_count)],
        VALID: list(range(0, size - extent + 1, stride)),
    }
    chosen = rule([axis])
    assert chosen is None or by_rule[chosen] == begins
    assert chosen is not None or begins not in by_rule.values()
    padded = Axis(size + sum(axis.touched), extent, stride, Padding(0, 0))
    assert padded.is_valid
    assert padded.count == axis.count


# --- the file -----------------------------------------------------------------------------------------------------


def test_ports_and_tensors_are_named_as_in_the_source(tmp_path: Path) -> None:
    one = case("ports_named_oddly")
    interpreter = open_model(written(one.graph, tmp_path / "net.tflite"), xnnpack=True)
    signature = interpreter.get_signature_list()["serving_default"]
    assert signature == {"inputs": sorted(one.graph.inputs), "outputs": sorted(one.graph.outputs)}
    assert set(one.graph.values) <= {detail["name"] for detail in interpreter.get_tensor_details()}


def test_a_value_keeps_its_name_beside_a_tensor_of_the_writer(tmp_path: Path) -> None:
    graph = case("pad_average_pool_overhang_channels_last").graph
    interpreter = open_model(written(graph, tmp_path / "net.tflite"), xnnpack=False)
    interpreter.allocate_tensors()
    names = [detail["name"] for detail in interpreter.get_tensor_details()]
    assert len(names) == len(set(names))
    by_name = {detail["name"]: tuple(detail["shape"]) for detail in interpreter.get_tensor_details()}
    assert by_name["y/padded"] == graph.type("y/padded").shape


@pytest.mark.parametrize("writer", [write, write_f16])
def test_the_document_comes_back(writer: Callable[..., None], tmp_path: Path) -> None:
    graph = case("inception_channels_last").graph
    path = written(graph, tmp_path / "net.tflite", writer)
    assert read_document(path) == document_of(graph)


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\x1c\0\0\0TFL3", b"\xff" * 64])
def test_what_is_no_model_has_no_document(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    with pytest.raises(MalformedModel, match=r"net\.tflite"):
        read_document(path)


def test_a_cut_model_is_malformed_or_has_no_document(tmp_path: Path) -> None:
    path = written(case("residual_net_channels_last").graph, tmp_path / "net.tflite")
    whole = path.read_bytes()
    for end in range(8, len(whole) - 1, 97):
        path.write_bytes(whole[:end])
        with suppress(MalformedModel):
            assert read_document(path) is None


@pytest.mark.parametrize("writer", [write, write_f16])
@pytest.mark.parametrize("name", ["residual_net", "squeeze_and_excite", "inception", "conv_depthwise_multiplier"])
def test_a_flatbuffers_verifier_accepts_the_file(name: str, writer: Callable[..., None], tmp_path: Path) -> None:
    from ai_edge_litert import _pywrap_analyzer_wrapper, schema_py_generated

    path = written(case(f"{name}_channels_last").dynamic_graph, tmp_path / "net.tflite", writer)
    assert "not a valid" not in _pywrap_analyzer_wrapper.ModelAnalyzer(str(path), True, False)
    content = path.read_bytes()
    model = schema_py_generated.Model.GetRootAs(content, 0)
    vectors = []
    for buffer in map(model.Buffers, range(model.BuffersLength())):
        if not buffer.DataIsNone():
            start = buffer._tab.Vector(buffer._tab.Offset(4))
            vectors.append((start, start + buffer.DataLength()))
            assert start % ALIGNMENT == 0
    assert all(end <= begin for (_, end), (begin, _) in pairwise(vectors))
    assert vectors[-1][1] == len(content)


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        written(case("residual_net_channels_last").dynamic_graph, tmp_path / name).read_bytes() for name in "ab"
    )
    assert first == second


# --- memory and failures ------------------------------------------------------------------------------------------


def layers_of(count: int, fetch: Callable[[int], Array], shape: tuple[int, int]) -> Graph:
    """Builds dense layers, one after the other, whose kernels are computed when they are asked for."""
    graph, value = Graph("deep"), "x"
    graph.add_input(value, TensorType((1, shape[1])))
    for place in range(count):
        graph.weights.defer(f"{place}/kernel", TensorType(shape), partial(fetch, place))
        value = graph.add(Dense(), [value, f"{place}/kernel"], f"y{place}", Origin(f"y{place}", "InnerProduct"))
    graph.outputs.append(value)
    return graph


def test_weights_are_streamed_one_at_a_time(tmp_path: Path) -> None:
    asked: Counter[int] = Counter()
    side = 1024

    def fetch(place: int) -> Array:
        asked[place] += 1
        return np.full((side, side), place, np.float32)

    written(case("dense").graph, tmp_path / "first.tflite")  # what is imported counts for nobody
    graph = layers_of(8, fetch, (side, side))
    document = document_of(graph)
    tracemalloc.start()
    write(graph, tmp_path / "net.tflite", document)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert asked == dict.fromkeys(range(8), 1)
    assert peak < 2.5 * side * side * 4


def test_a_weight_that_two_layers_share_is_stored_once(tmp_path: Path) -> None:
    graph = Graph("shared")
    graph.add_input("x", TensorType((1, 32)))
    graph.add_weight("kernel", np.ones((32, 32), np.float32))
    for name, before in (("y", "x"), ("z", "y")):
        graph.add(Dense(), [before, "kernel"], name, Origin(name, "InnerProduct"))
    graph.outputs.append("z")
    assert written(graph, tmp_path / "net.tflite").stat().st_size < 2 * 32 * 32 * 4


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    graph = layers_of(2, lambda place: np.ones((4, 4 - place), np.float32), (4, 4))
    with pytest.raises(InvalidGraph, match="64 bytes turned out to have 48"):
        write(graph, tmp_path / "net.tflite", document_of(graph))
    assert not list(tmp_path.iterdir())


def test_channels_first_images_are_refused(tmp_path: Path) -> None:
    graph = case("conv_plain").graph
    with pytest.raises(InvalidGraph, match=r"layer 'y' \(Conv\).*channels-first"):
        write(graph, tmp_path / "net.tflite", document_of(graph))


# --- limits -------------------------------------------------------------------------------------------------------


def _grouped_volume() -> Graph:
    graph = Graph("volume")
    graph.add_input("x", TensorType((1, 3, 3, 3, 4)))
    graph.add_weight("kernel", np.ones((4, 2, 1, 1, 1), np.float32))
    op = Conv((1,) * 3, (1,) * 3, (Padding(0, 0),) * 3, groups=2, layout=Layout.CHANNELS_LAST)
    graph.outputs.append(graph.add(op, ["x", "kernel"], "y", Origin("y", "Conv", "net.prototxt", 7)))
    return graph


def _overlapping_unpool() -> Graph:
    graph, last = Graph("unpool"), Layout.CHANNELS_LAST
    graph.add_input("x", TensorType((1, 5, 5, 2)))
    pool = MaxPool((3, 3), (2, 2), (Padding(0, 0),) * 2, with_indices=True, layout=last)
    graph.add(pool, ["x"], ("p", "places"), Origin("p", "Pooling"))
    op = MaxUnpool((5, 5), layout=last)
    graph.outputs.append(graph.add(op, ["p", "places"], "y", Origin("y", "Upsample", "net.prototxt", 7)))
    return graph


def _huge() -> Graph:
    def never(_place: int) -> Array:
        raise AssertionError("a weight was asked for")

    return layers_of(3, never, (16384, 16384))


LIMITED: dict[str, tuple[Graph, str]] = {
    "grouped volume": (_grouped_volume(), "net.prototxt:7, layer 'y' (Conv): TFLite's CONV_3D has no groups"),
    "overlapping unpool": (_overlapping_unpool(), "net.prototxt:7, layer 'y' (Upsample): TFLite adds up elements"),
    "computed kernel": (
        graph_of(Dense(), TensorType((1, 3)), TensorType((4, 3))),
        "net.prototxt:7, layer 'y' (Dense): TFLite needs the weights of a dense layer when the file is written",
    ),
    "too many axes": (
        graph_of(Transpose((0, 2, 1, 3, 4, 5, 6)), TensorType((1,) * 7)),
        "net.prototxt:7, layer 'y' (Transpose): TFLite takes 6 axes at most for Transpose, and this one has 7",
    ),
    "too large": (_huge(), "3221225472 bytes of weights don't fit into a TFLite file"),
}


@pytest.mark.parametrize("name", LIMITED)
def test_a_limit_is_stated_with_its_place(name: str) -> None:
    graph, message = LIMITED[name]
    (found,) = offences(graph)
    assert str(found).startswith(message)


def test_suppression_needs_a_fixed_batch() -> None:
    (found,) = offences(case("non_max_suppression_classes").dynamic_graph)
    assert found.reason == "TFLite suppresses the boxes of one sample at a time: give --batch a number"


def test_a_result_with_two_axes_of_unknown_size_is_a_limit() -> None:
    graph = graph_of(Transpose((1, 0)), TensorType((1, 4)))
    graph.batch_is_dynamic = True
    graph.add_input("z", TensorType((1, 4)))
    product = graph.add(MatMul(), ["z", "y"], "square", Origin("square", "MatMul"))
    graph.add(Reshape((0, 0, 1)), [product], "longer", Origin("longer", "Reshape"))
    (found,) = offences(graph)
    assert "RESHAPE infers one axis, and 2 axes" in found.reason


# --- half precision -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["residual_net", "squeeze_and_excite", "conv_depthwise", "deconv_plain"])
def test_half_precision_weights_run_in_xnnpack(name: str, tmp_path: Path) -> None:
    one = case(f"{name}_channels_last")
    path = written(one.graph, tmp_path / "net.tflite", write_f16)
    interpreter = open_model(path, xnnpack=True)
    assert_close(run(interpreter, one.inputs), evaluate(one.graph, one.inputs), one.graph, 2e-3)
    assert_runs_in_xnnpack(interpreter)
    assert {version for operator, version in operators(path) if operator == "DEQUANTIZE"} == {3}


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    graph = layers_of(1, lambda _: np.ones((256, 256), np.float32), (256, 256))
    full, half = written(graph, tmp_path / "a.tflite"), written(graph, tmp_path / "b.tflite", write_f16)
    assert half.stat().st_size < 0.52 * full.stat().st_size


@pytest.mark.parametrize("value", [65505.0, -1e30, np.nan])
def test_a_weight_beyond_half_precision_stays_whole(value: float, tmp_path: Path) -> None:
    kernel = np.ones((1, 4), np.float32)
    kernel[0, 2] = value
    path = written(layers_of(1, lambda _: kernel, (1, 4)), tmp_path / "net.tflite", write_f16)
    assert [name for name, _ in operators(path)] == ["FULLY_CONNECTED"]
    x = np.array([[0, 0, 2, 0]], np.float32)
    (found,) = run(open_model(path, xnnpack=False), {"x": x}).values()
    assert np.array_equal(found, x @ kernel.T, equal_nan=True)
