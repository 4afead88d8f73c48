"""ONNX models as ONNX Runtime and the onnx library see them, against what their graphs compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from cases import CASES, Case, Sketch, case
from demitasse import __version__
from demitasse.errors import InvalidGraph, MalformedModel, UsageError
from demitasse.ir.document import Document, describe
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph, Merge, MergeKind, Origin, SourceLayer
from demitasse.ir.ops import (
    OPS,
    Activation,
    AnyOp,
    AveragePool,
    Binary,
    BinaryFunction,
    Compare,
    CompareFunction,
    Concat,
    Dense,
    DType,
    Layout,
    Lrn,
    MatMul,
    MaxPool,
    MaxUnpool,
    Pad,
    Padding,
    Relu,
    Reshape,
    RoiMaxPool,
    SpatialOp,
    TensorType,
)
from demitasse.ir.weights import Array
from demitasse.writers.onnx import DEFAULT_OPSET, EMITTERS, LIMITS, OPSETS, offences, read_document, write
from demitasse.writers.onnx.emit import ROI_POOL
from demitasse.writers.onnx.wire import field_key

WRITABLE = [one for one in CASES if Layout.CHANNELS_LAST not in one.layouts]
DYNAMIC = [one for one in WRITABLE if one.dynamic]
GRAPHS = [case(name) for name in ("residual_net", "inception", "squeeze_and_excite")]

# Operations with more than one spelling, or that are composed; onnx's own interpreter runs them as a second opinion. It
# can't be asked about LRN and grouped transposed convolutions: it takes samples for channels, and inputs for outputs.
REFERENCED = """
    conv_grouped_strided conv_same_even deconv_output_padding deconv_dilated average_pool_overhang_2 max_unpool
    max_pool_indices_padded resize_nearest_align_corners_up resize_nearest_half_pixel_double resize_linear_half_pixel_up
    dense_rank_3 mat_mul_transpose_both unary_gelu unary_hard_swish reduce_l1_ends slice_backwards_steps top_k
    arg_max_axis_3 binary_add_relu6 residual_net
""".split()

RESIZES = [one for one in WRITABLE if one.name.startswith("resize_linear")]


def document_of(graph: Graph) -> Document:
    return describe(graph, target="onnx", tool="demitasse", source_format="caffe", source=(), options={"opset": 17})


def written(graph: Graph, path: Path, opset: int = DEFAULT_OPSET, **options: int) -> Path:
    write(graph, path, document_of(graph), opset=opset, **options)
    return path


def run(path: Path, inputs: dict[str, Array]) -> dict[str, Array]:
    """Runs a model in ONNX Runtime, with the optimizations that users get."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def assert_close(got: dict[str, Array], expected: dict[str, Array], graph: Graph) -> None:
    """Checks names, order, types, and elements to 1e-5 of the peak; what isn't float must be equal."""
    assert list(got) == graph.outputs
    for name, array in got.items():
        wanted = expected[name]
        assert (array.shape, array.dtype.name) == (wanted.shape, graph.type(name).dtype.value)
        peak = float(np.abs(wanted).max()) if graph.type(name).dtype.is_float else 0.0
        np.testing.assert_allclose(array, wanted, rtol=0, atol=1e-5 * peak, err_msg=name)


def chain(*ops: tuple[AnyOp, str], shape: tuple[int, ...], blobs: tuple[str, ...] = ()) -> Graph:
    """Builds a chain over the input `x`; the last value and those in `blobs` are blobs of the source."""
    graph = Graph("chain")
    value = graph.add_input("x", TensorType(shape))
    for index, (op, name) in enumerate(ops):
        origin = Origin(f"layer{index}", type(op).__name__)
        value = graph.add(op, [value], name, origin)
        if name in (*blobs, ops[-1][1]):
            graph.layers.append(SourceLayer(origin, (), (name,)))
    graph.outputs = [value]
    return graph


def drawn(graph: Graph, low: float = -2.0, high: float = 2.0) -> dict[str, Array]:
    random = np.random.default_rng(7)
    return {name: random.uniform(low, high, graph.type(name).shape).astype(np.float32) for name in graph.inputs}


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def shape_of(info: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]


def pads(*pairs: tuple[int, int]) -> tuple[Padding, ...]:
    return tuple(Padding(*pair) for pair in pairs)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("opset", [OPSETS[0], DEFAULT_OPSET, OPSETS[-1]])
@pytest.mark.parametrize("one", WRITABLE, ids=str)
def test_onnx_runtime_computes_the_same(one: Case, opset: int, path: Path) -> None:
    if RoiMaxPool in one.ops and opset > ROI_POOL:
        with pytest.raises(UsageError, match="ONNX Runtime pools regions up to opset 21"):
            written(one.graph, path, opset)
        return
    expected = evaluate(one.graph, one.inputs, keep=one.graph.outputs)
    onnx.checker.check_model(written(one.graph, path, opset), full_check=True)
    assert_close(run(path, one.inputs), expected, one.graph)


@pytest.mark.parametrize("one", DYNAMIC, ids=str)
def test_any_batch_is_taken(one: Case, path: Path) -> None:
    graph, inputs = one.dynamic_graph, one.inputs_at(3)
    expected = evaluate(graph, inputs, keep=graph.outputs)
    model = onnx.load(written(graph, path))
    onnx.checker.check_model(model, full_check=True)
    assert all(shape_of(port)[0] == "batch" for port in (*model.graph.input, *model.graph.output))
    assert_close(run(path, inputs), expected, graph)


@pytest.mark.parametrize("opset", [14, 15, 18])
@pytest.mark.parametrize("one", [case("max_unpool"), *RESIZES], ids=str)
def test_any_batch_is_taken_where_the_spelling_changes(one: Case, opset: int, path: Path) -> None:
    graph, inputs = one.dynamic_graph, one.inputs_at(3)
    expected = evaluate(graph, inputs, keep=graph.outputs)
    onnx.checker.check_model(written(graph, path, opset), full_check=True)
    assert_close(run(path, inputs), expected, graph)


@pytest.mark.parametrize("name", REFERENCED)
def test_the_reference_interpreter_computes_the_same(name: str, path: Path) -> None:
    from onnx.reference import ReferenceEvaluator

    one = case(name)
    expected = evaluate(one.graph, one.inputs, keep=one.graph.outputs)
    interpreter = ReferenceEvaluator(str(written(one.graph, path)))
    got = dict(zip(interpreter.output_names, interpreter.run(None, one.inputs), strict=True))
    assert_close(got, expected, one.graph)


def test_every_operation_is_spelled_or_refused_with_a_reason() -> None:
    assert EMITTERS.keys() | LIMITS.keys() == set(OPS)
    assert not EMITTERS.keys() & LIMITS.keys()


@pytest.mark.parametrize("one", CASES, ids=str)
def test_offences_are_all_channels_last_operations(one: Case) -> None:
    refused = [
        node.origin.where
        for node in one.graph.nodes
        if isinstance(node.op, SpatialOp) and node.op.layout is Layout.CHANNELS_LAST
    ]
    assert [offence.where for offence in offences(one.graph)] == refused


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.75), (0.1, 0.0)])
def test_a_normalization_that_the_runtime_refuses_is_an_offence(alpha: float, beta: float) -> None:
    sketch = Sketch("lrn")
    sketch.add(Lrn(3, alpha, beta, 1.0), [sketch.image(4, 3, 3)])
    (offence,) = offences(sketch.done().graph)
    assert "ONNX Runtime takes none but positive ones" in offence.reason


# --- the model's structure --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", GRAPHS, ids=str)
def test_a_net_needs_no_more_nodes_than_operations(one: Case, path: Path) -> None:
    none = (None, Activation.NONE)
    activations = [node for node in one.graph.nodes if getattr(node.op, "activation", None) not in none]
    found = operators(written(one.graph, path))
    assert len(found) == len(one.graph.nodes) + len(activations)
    assert "Transpose" not in found


@pytest.mark.parametrize("one", [*GRAPHS, case("max_unpool"), case("unary_gelu"), case("dense_rank_3")], ids=str)
def test_names_are_the_sources_and_unique(one: Case, path: Path) -> None:
    graph = onnx.load(written(one.dynamic_graph, path)).graph
    given = [name for node in graph.node for name in node.output]
    nodes = [node.name for node in graph.node]
    layers = {node.origin.layer for node in one.graph.nodes}
    assert set(one.graph.values) <= {*given, *one.graph.inputs}
    assert layers <= set(nodes)
    assert all(name.partition("/")[0] in layers for name in nodes)
    assert len(set(nodes)) == len(nodes)
    assert not {weight.name for weight in graph.initializer} & {*given, *(port.name for port in graph.input)}
    described = [info.name for info in graph.value_info]
    assert sorted(described) == sorted(set(given) - {port.name for port in graph.output})


def test_layers_of_several_nodes_share_their_name_with_what_follows(path: Path) -> None:
    graph = Graph("shared")
    x = graph.add_input("x", TensorType((1, 3)))
    for index in range(3):
        x = graph.add(Relu(), [x], f"x{index}", Origin("relu", "ReLU"))
    graph.outputs = [x]
    names = [node.name for node in onnx.load(written(graph, path)).graph.node]
    assert names == ["relu", "relu/Relu", "relu/Relu.2"]


def test_a_constant_takes_no_name_of_the_graph(path: Path) -> None:
    graph = chain((Reshape((0, -1)), "y/shape"), (Reshape((2, 6)), "y"), shape=(1, 3, 4))
    onnx.checker.check_model(written(graph, path), full_check=True)
    assert [node.output[0] for node in onnx.load(path).graph.node] == ["y/shape", "y"]


def test_dimensions_that_grow_with_the_batch_say_how(path: Path) -> None:
    graph = Graph("grown", batch_is_dynamic=True)
    x = graph.add_input("x", TensorType((1, 2, 3)))
    rows = graph.add(Reshape((-1, 3)), [x], "rows", Origin("rows", "Reshape"))
    more = graph.add_weight("more", np.ones((1, 3), np.float32))
    graph.outputs = [graph.add(Concat(0), [rows, more], "y", Origin("concat", "Concat"))]
    model = onnx.load(written(graph, path)).graph
    assert [shape_of(info) for info in (*model.value_info, *model.output)] == [["2*batch", 3], ["2*batch+1", 3]]
    inputs = {"x": np.arange(24, dtype=np.float32).reshape(4, 2, 3)}
    assert_close(run(path, inputs), evaluate(graph, inputs), graph)


def test_a_batch_that_is_not_free_is_a_bug(path: Path) -> None:
    graph = chain((Reshape((2, 3)), "y"), shape=(2, 3))
    graph.batch_is_dynamic = True
    with pytest.raises(InvalidGraph, match=r"the batch of 'chain' isn't free.*layer0"):
        written(graph, path)


@pytest.mark.parametrize(("opset", "ir_version"), [(13, 7), (17, 8), (18, 8), (20, 9), (22, 10)])
def test_the_model_says_who_made_it_and_asks_for_no_more_than_it_needs(opset: int, ir_version: int, path: Path) -> None:
    model = onnx.load(written(case("relu").graph, path, opset))
    assert (model.producer_name, model.producer_version) == ("demitasse", __version__)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert model.ir_version == ir_version


@pytest.mark.parametrize("opset", [OPSETS[0] - 1, OPSETS[-1] + 1])
def test_another_opset_is_refused(opset: int, path: Path) -> None:
    with pytest.raises(UsageError, match=f"opset {opset}; choose one from 13 to 22"):
        written(case("relu").graph, path, opset)
    assert not list(path.parent.iterdir())


# --- corners that the cases don't have --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (MaxPool((2, 2), (4, 4), pads((0, 2), (0, 3))), (1, 2, 5, 5)),
        (AveragePool((2, 2), (4, 4), pads((0, 2), (0, 3))), (1, 2, 5, 5)),
        (Lrn(3, 0.5, 0.75, 1.0), (2, 5, 7)),
        (Lrn(3, 0.5, 0.75, 1.0), (2, 5, 3, 2, 4)),
    ],
    ids=str,
)
def test_corners(op: AnyOp, shape: tuple[int, ...], path: Path) -> None:
    graph = chain((op, "y"), shape=shape)
    inputs = drawn(graph)
    onnx.checker.check_model(written(graph, path), full_check=True)
    assert_close(run(path, inputs), evaluate(graph, inputs), graph)


def test_ties_go_to_the_first(path: Path) -> None:
    graph = Graph("ties")
    x = graph.add_input("x", TensorType((2, 3, 7, 7)))
    op = MaxPool((3, 3), (2, 2), pads((1, 1), (1, 1)), Activation.RELU, with_indices=True)
    graph.add(op, [x], ("y", "places"), Origin("pool", "Pooling"))
    graph.outputs = ["y", "places"]
    inputs = {"x": np.random.default_rng(1).integers(-1, 2, (2, 3, 7, 7)).astype(np.float32)}
    assert_close(run(written(graph, path), inputs), evaluate(graph, inputs), graph)


def test_wide_indices_and_integers_are_unpooled(path: Path) -> None:
    graph = Graph("unpool", batch_is_dynamic=True)
    x = graph.add_input("x", TensorType((1, 2, 2, 3), DType.INT32))
    places = graph.add_input("places", TensorType((1, 2, 2, 3), DType.INT64))
    graph.outputs = [graph.add(MaxUnpool((4, 6)), [x, places], "y", Origin("unpool", "Upsample"))]
    numbers = np.arange(36).reshape(3, 2, 2, 3)
    inputs: dict[str, Array] = {"x": numbers.astype(np.int32), "places": numbers % 12 * 2}
    onnx.checker.check_model(written(graph, path), full_check=True)
    assert_close(run(path, inputs), evaluate(graph, inputs), graph)


def test_small_integers_are_widened_to_be_compared(path: Path) -> None:
    graph = Graph("bytes")
    names = [graph.add_input(name, TensorType((3, 3), DType.UINT8)) for name in ("a", "b")]
    graph.outputs = [graph.add(Compare(CompareFunction.GREATER_EQUAL), names, "y", Origin("compare", "Compare"))]
    random = np.random.default_rng(1)
    inputs = {name: random.integers(0, 3, (3, 3), np.uint8) for name in names}
    assert_close(run(written(graph, path), inputs), evaluate(graph, inputs), graph)


def test_a_kernel_read_in_two_orders_is_fetched_once(path: Path) -> None:
    fetched: list[str] = []

    def fetch(name: str) -> Array:
        fetched.append(name)
        return np.arange(20, dtype=np.float32).reshape(4, 5)

    graph = Graph("shared")
    x = graph.add_input("x", TensorType((3, 5)))
    for name in ("unread", "k"):
        graph.weights.defer(name, TensorType((4, 5)), partial(fetch, name))
    matrix = graph.add(Dense(), [x, "k"], "matrix", Origin("matrix", "InnerProduct"))
    cube = graph.add(Reshape((0, 1, -1)), [x], "cube", Origin("cube", "Reshape"))
    last = graph.add(Dense(), [cube, "k"], "last", Origin("last", "InnerProduct"))
    graph.outputs = [matrix, last]
    written(graph, path)
    assert fetched == ["k"]
    inputs = drawn(graph)
    assert_close(run(path, inputs), evaluate(graph, inputs), graph)
    assert operators(path) == ["Gemm", "Reshape", "MatMul"]


@pytest.mark.parametrize("op", [MatMul(transpose_left=True), MatMul(transpose_right=True)], ids=str)
def test_a_constant_matrix_is_transposed_when_it_is_written(op: MatMul, path: Path) -> None:
    random = np.random.default_rng(1)
    graph = Graph("constant")
    x = graph.add_input("x", TensorType((2, 4, 4)))
    w = graph.add_weight("w", random.normal(size=(2, 4, 4)).astype(np.float32))
    operands = [w, x] if op.transpose_left else [x, w]
    graph.outputs = [graph.add(op, operands, "y", Origin("product", "MatMul"))]
    inputs = drawn(graph)
    assert operators(written(graph, path)) == ["MatMul"]
    assert_close(run(path, inputs), evaluate(graph, inputs), graph)


# --- padding before a pooling -----------------------------------------------------------------------------------------


def padded_pool(kind: type[MaxPool | AveragePool], size: int, own: int = 0, blobs: tuple[str, ...] = ()) -> Graph:
    """Builds a 3x3 pooling of a 7x7 image that `size` zeros surround, with `own` padding at the end."""
    pad = Pad(pads((0, 0), (0, 0), (size, 1), (1, size)))
    pool = kind((3, 3), (2, 2), pads((0, own), (0, 0)))
    return chain((pad, "padded"), (pool, "y"), shape=(1, 2, 7, 7), blobs=blobs)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (padded_pool(AveragePool, 1), ["AveragePool"]),
        (padded_pool(AveragePool, 2), ["AveragePool"]),
        (padded_pool(AveragePool, 3), ["Pad", "AveragePool"]),  # wider than a runtime lets a pooling pad
        (padded_pool(AveragePool, 1, own=1), ["Pad", "AveragePool"]),  # that which doesn't count
        (padded_pool(AveragePool, 1, blobs=("padded",)), ["Pad", "AveragePool"]),  # a blob of the source
        (padded_pool(MaxPool, 1), ["Pad", "MaxPool"]),
        (padded_pool(MaxPool, 3), ["Pad", "MaxPool"]),
    ],
)
def test_an_average_pooling_does_the_padding_that_counts(graph: Graph, expected: list[str], path: Path) -> None:
    """All numbers are negative, so that zeros win every maximum: ONNX Runtime's own fusion would lose them."""
    inputs = drawn(graph, -2.0, -1.0)
    onnx.checker.check_model(written(graph, path), full_check=True)
    assert operators(path) == expected
    assert_close(run(path, inputs), evaluate(graph, inputs), graph)


def test_padding_that_is_asked_for_stays(path: Path) -> None:
    graph = padded_pool(AveragePool, 1)
    graph.outputs.append("padded")
    assert operators(written(graph, path)) == ["Pad", "AveragePool"]
    graph = padded_pool(AveragePool, 1)
    graph.layers.append(SourceLayer(Origin("split", "Split"), (), ("copy",)))
    graph.merged["copy"] = Merge(MergeKind.IDENTITY, "padded")
    assert operators(written(graph, path)) == ["Pad", "AveragePool"]


# --- the file ---------------------------------------------------------------------------------------------------------


MATRIX = np.random.default_rng(3).normal(size=(150, 150)).astype(np.float32)


def wide(kernel: Array = MATRIX) -> Graph:
    """Builds a net with weights of 90,000 bytes, 1,800 bytes and fewer."""
    graph = Graph("wide")
    x = graph.add_input("x", TensorType((2, 150)))
    for index, weight in enumerate((kernel, MATRIX[:3], MATRIX[:2, :3])):
        names = [
            graph.add_weight(f"fc{index}/kernel", weight),
            graph.add_weight(f"fc{index}/bias", MATRIX[0, : len(weight)]),
        ]
        x = graph.add(Dense(), [x, *names], f"fc{index}", Origin(f"fc{index}", "InnerProduct"))
    graph.outputs = [x]
    return graph


@pytest.mark.parametrize("graph", [wide(), *(one.graph for one in GRAPHS)], ids=lambda graph: graph.name)
def test_the_bytes_are_those_that_the_library_writes(graph: Graph, path: Path) -> None:
    first = written(graph, path).read_bytes()
    assert onnx.load(path).SerializeToString() == first
    assert written(graph, path).read_bytes() == first


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16383, 16384, 2097152])
def test_a_field_begins_as_the_library_has_it(length: int) -> None:
    tensor = onnx.TensorProto(raw_data=bytes(length))
    assert tensor.SerializeToString() == field_key(onnx.TensorProto.RAW_DATA_FIELD_NUMBER, length) + bytes(length)


@pytest.mark.parametrize(
    "kernel",
    [
        np.asfortranarray(MATRIX),
        np.repeat(MATRIX, 2, axis=1)[:, ::2],
        MATRIX.astype(">f4"),
        np.frombuffer(b"x" + MATRIX.tobytes(), np.float32, offset=1).reshape(MATRIX.shape),
    ],
    ids=["columns first", "strided", "big endian", "unaligned"],
)
def test_weights_may_lie_in_memory_as_they_like(kernel: Array, path: Path) -> None:
    assert written(wide(kernel), path).read_bytes() == written(wide(), path.with_name("plain")).read_bytes()


def test_a_long_model_keeps_its_weights_in_a_second_file(path: Path) -> None:
    graph = wide()
    inputs = drawn(graph)
    limit = written(graph, path).stat().st_size
    written(graph, path, message_limit=limit)
    assert list(path.parent.iterdir()) == [path]
    written(graph, path, message_limit=limit - 1)
    data = path.with_name("net.onnx.data")
    assert sorted(path.parent.iterdir()) == [path, data]
    onnx.checker.check_model(path, full_check=True)
    assert_close(run(path, inputs), evaluate(graph, inputs), graph)
    places = {
        weight.name: {entry.key: entry.value for entry in weight.external_data}
        for weight in onnx.load(path, load_external_data=False).graph.initializer
    }
    assert {name for name, place in places.items() if place} == {"fc0/kernel", "fc1/kernel"}
    assert all(place["location"] == data.name for place in places.values() if place)
    assert int(places["fc0/kernel"]["offset"]) % 65536 == 0
    first = path.read_bytes(), data.read_bytes()
    written(graph, path, message_limit=limit - 1)
    assert (path.read_bytes(), data.read_bytes()) == first


def interrupted() -> Array:
    raise KeyboardInterrupt


def misshapen() -> Array:
    return MATRIX[:2]


@pytest.mark.parametrize("options", [{}, {"message_limit": 1}], ids=["one file", "two files"])
@pytest.mark.parametrize(("compute", "error"), [(interrupted, KeyboardInterrupt), (misshapen, InvalidGraph)])
def test_an_interrupted_write_leaves_what_was_there(
    compute: Callable[[], Array], error: type[BaseException], options: dict[str, int], path: Path
) -> None:
    path.write_bytes(b"an older model")
    graph = wide()
    graph.weights.defer("last/bias", TensorType((2,)), compute)
    graph.outputs = [graph.add(Binary(BinaryFunction.ADD), ["fc2", "last/bias"], "last", Origin("last", "Bias"))]
    with pytest.raises(error):
        written(graph, path, **options)
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == b"an older model"


@pytest.mark.parametrize("options", [{}, {"message_limit": 1}], ids=["one file", "two files"])
def test_the_document_comes_back(options: dict[str, int], path: Path) -> None:
    graph = wide()
    document = document_of(graph)
    write(graph, path, document, **options)
    assert read_document(path) == document
    (entry,) = onnx.load(path, load_external_data=False).metadata_props
    assert (entry.key, entry.value) == ("demitasse", document.to_json())


def test_a_model_of_somebody_else_carries_no_document(path: Path) -> None:
    model = onnx.load(written(wide(), path))
    model.metadata_props[0].key = "other"
    onnx.save(model, path)
    assert read_document(path) is None


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n", b"\x08", b"\x3a\xff\xff\xff\x7f", b"\x08" + b"\xff" * 10])
def test_a_file_that_is_no_model_is_named(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(MalformedModel, match=r"net\.onnx: it is no ONNX model"):
        read_document(path)
