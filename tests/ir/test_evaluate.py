"""The evaluator against independent runtimes: ONNX Runtime for every operation, TensorFlow for what it defines."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cases import CASES, Case, case
from demitasse.errors import UsageError
from demitasse.ir import evaluate as evaluator
from demitasse.ir import ops
from demitasse.ir.evaluate import EVALUATORS, evaluate, evaluate_node
from demitasse.ir.graph import Graph, Origin
from demitasse.ir.ops import AnyOp, DType, Layout, Op, Padding, TensorType
from demitasse.ir.weights import Array

NO_PAD = Padding(0, 0)
ORIGIN = Origin("here", "Test")

# --- references -------------------------------------------------------------------------------------------------------


def onnx_node(kind: str, inputs: Sequence[Array | None], results: int = 1, **attributes: Any) -> list[Array]:
    """Runs one ONNX operator in ONNX Runtime; None stands for an input left out."""
    import onnxruntime
    from onnx import TensorProto, helper

    element = {np.dtype(name): getattr(TensorProto, name.upper()) for name in ("int32", "int64", "uint8", "bool")}
    element[np.dtype(np.float32)] = TensorProto.FLOAT
    given = {f"x{index}": array for index, array in enumerate(inputs) if array is not None}
    names = [f"x{index}" if array is not None else "" for index, array in enumerate(inputs)]
    outputs = [f"y{index}" for index in range(results)]
    graph = helper.make_graph(
        [helper.make_node(kind, names, outputs, **attributes)],
        kind,
        [helper.make_tensor_value_info(name, element[array.dtype], array.shape) for name, array in given.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    computed: list[Array] = session.run(None, given)
    return computed


def integers(*values: int) -> Array:
    return np.array(values, np.int64)


def scalar(value: float) -> Array:
    return np.array(value, np.float32)


def ends(pads: Sequence[Padding]) -> list[int]:
    """Orders pads as ONNX does: all that go before, then all that go after."""
    return [pad.before for pad in pads] + [pad.after for pad in pads]


def activated(op: Any, y: Array) -> Array:
    limits = {ops.Activation.NONE: (-np.inf, np.inf), ops.Activation.RELU: (0, np.inf), ops.Activation.RELU6: (0, 6)}
    return np.clip(y, *limits[op.activation])


def channels_first(reference: Callable[..., list[Array]]) -> Callable[..., list[Array]]:
    """Lets a reference that wants images channels first run in either layout."""

    def in_layout(op: Any, *arrays: Array) -> list[Array]:
        if op.layout is Layout.CHANNELS_FIRST:
            return reference(op, *arrays)
        images = 2 if isinstance(op, ops.MaxUnpool) else 1
        moved = [np.ascontiguousarray(np.moveaxis(array, -1, 1)) for array in arrays[:images]]
        return [np.moveaxis(result, 1, -1) for result in reference(op, *moved, *arrays[images:])]

    return in_layout


@channels_first
def conv(op: ops.Conv, *arrays: Array) -> list[Array]:
    (y,) = onnx_node("Conv", arrays, strides=op.stride, dilations=op.dilation, pads=ends(op.pads), group=op.groups)
    return [activated(op, y)]


@channels_first
def conv_transpose(op: ops.ConvTranspose, *arrays: Array) -> list[Array]:
    (y,) = onnx_node(
        "ConvTranspose",
        arrays,
        strides=op.stride,
        dilations=op.dilation,
        pads=ends(op.pads),
        output_padding=op.output_padding,
        group=op.groups,
    )
    return [activated(op, y)]


@channels_first
def max_pool(op: ops.MaxPool, x: Array) -> list[Array]:
    window: dict[str, Any] = {"kernel_shape": op.kernel, "strides": op.stride, "pads": ends(op.pads)}
    y, places = onnx_node("MaxPool", [x], 2, **window)
    return [activated(op, y), places % np.prod(x.shape[2:])][: 1 + op.with_indices]


@channels_first
def average_pool(op: ops.AveragePool, x: Array) -> list[Array]:
    window: dict[str, Any] = {"kernel_shape": op.kernel, "strides": op.stride, "pads": ends(op.pads)}
    return [activated(op, onnx_node("AveragePool", [x], **window)[0])]


@channels_first
def max_unpool(op: ops.MaxUnpool, x: Array, places: Array) -> list[Array]:
    planes = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], 1, 1) * np.prod(op.size)
    shape = integers(*x.shape[:2], *op.size)
    return onnx_node("MaxUnpool", [x, places.astype(np.int64) + planes, shape], kernel_shape=[1, 1])


def non_max_suppression(op: ops.NonMaxSuppression, boxes: Array, scores: Array) -> list[Array]:
    limits = [np.array([limit], np.float32) for limit in (op.overlap_threshold, op.score_threshold)]
    (chosen,) = onnx_node("NonMaxSuppression", [boxes, scores, integers(boxes.shape[1]), *limits])
    kept = np.zeros(scores.shape, bool)
    kept[tuple(chosen.T)] = True
    return [kept]


@channels_first
def lrn(op: ops.Lrn, x: Array) -> list[Array]:
    return onnx_node("LRN", [x], size=op.size, alpha=op.alpha, beta=op.beta, bias=op.k)


@channels_first
def resize(op: ops.Resize, x: Array) -> list[Array]:
    rounding = "floor" if op.coordinates is ops.Coordinates.ASYMMETRIC else "round_prefer_ceil"
    return onnx_node(
        "Resize",
        [x, None, None, integers(*x.shape[:2], *op.size)],
        mode=op.interpolation.value,
        coordinate_transformation_mode=op.coordinates.value,
        nearest_mode=rounding,
    )


def dense(op: ops.Dense, x: Array, kernel: Array, *bias: Array) -> list[Array]:
    (y,) = onnx_node("MatMul", [x, np.ascontiguousarray(kernel.T)])
    return [activated(op, y + bias[0] if bias else y)]


def mat_mul(op: ops.MatMul, left: Array, right: Array) -> list[Array]:
    flips = zip((left, right), (op.transpose_left, op.transpose_right), strict=True)
    operands = [np.ascontiguousarray(array.swapaxes(-1, -2)) if flip else array for array, flip in flips]
    return onnx_node("MatMul", operands)


def unary(op: ops.Unary, x: Array) -> list[Array]:
    match op.function:
        case ops.UnaryFunction.RSQRT:
            return onnx_node("Reciprocal", onnx_node("Sqrt", [x]))
        case ops.UnaryFunction.SQUARE:
            return onnx_node("Pow", [x, scalar(2)])
        case ops.UnaryFunction.GELU_TANH:
            return onnx_node("Gelu", [x], approximate="tanh")
        case ops.UnaryFunction.HARD_SWISH:
            return onnx_node("HardSwish", [x])
    return onnx_node(op.function.value.capitalize(), [x])


def compare(op: ops.Compare, left: Array, right: Array) -> list[Array]:
    words = {"greater": "Greater", "greater_equal": "GreaterOrEqual", "less": "Less", "less_equal": "LessOrEqual"}
    return onnx_node(words.get(op.function.value, "Equal"), [left, right])


def cast(op: ops.Cast, x: Array) -> list[Array]:
    from onnx import helper

    return onnx_node("Cast", [x], to=helper.np_dtype_to_tensor_dtype(np.dtype(op.dtype.value)))


def reduce(op: ops.Reduce, x: Array) -> list[Array]:
    words = {"l1": "ReduceL1", "sum_square": "ReduceSumSquare"}
    kind = words.get(op.function.value, f"Reduce{op.function.value.capitalize()}")
    return onnx_node(kind, [x, integers(*op.axes)], keepdims=int(op.keepdims))


def binary(op: ops.Binary, left: Array, right: Array) -> list[Array]:
    return [activated(op, onnx_node(op.function.value.capitalize(), [left, right])[0])]


def slice_(op: ops.Slice, x: Array) -> list[Array]:
    steps = op.steps or (1,) * len(op.axes)
    limit = np.iinfo(np.int64)
    pairs = zip(op.stops, steps, strict=True)
    stops = [(limit.max if step > 0 else limit.min) if stop is None else stop for stop, step in pairs]
    return onnx_node("Slice", [x, integers(*op.starts), integers(*stops), integers(*op.axes), integers(*steps)])


def recurrent(op: ops.Recurrent, x: Array, kernel: Array, state_kernel: Array, *rest: Array) -> list[Array]:
    """Runs the cell as ONNX has it, with one thing said of each function at a time."""
    words = {"relu": "Relu", "linear": "Affine", "hard_sigmoid": "HardSigmoid", "leaky_relu": "LeakyRelu"}
    is_gru = op.cell in (ops.RecurrentCell.GRU, ops.RecurrentCell.GRU_RESET_AFTER)
    curves = [op.activation] if op.cell is ops.RecurrentCell.PLAIN else [op.gate, op.activation]
    curves += [op.activation] * (op.cell is ops.RecurrentCell.LSTM)
    function = ops.CurveFunction
    sloped = (function.HARD_SIGMOID, function.LEAKY_RELU, function.ELU, function.LINEAR)
    attributes = {
        "hidden_size": state_kernel.shape[1],
        "direction": "reverse" if op.backwards else "forward",
        "activations": [words.get(curve.function.value, curve.function.value.capitalize()) for curve in curves],
        "activation_alpha": [
            1.0 if curve.function is function.LINEAR else curve.alpha for curve in curves if curve.function in sloped
        ],
        "activation_beta": [
            curve.beta for curve in curves if curve.function in (function.HARD_SIGMOID, function.LINEAR)
        ],
        **({"linear_before_reset": int(op.cell is ops.RecurrentCell.GRU_RESET_AFTER)} if is_gru else {}),
    }
    kind = {"plain": "RNN", "lstm": "LSTM"}.get(op.cell.value, "GRU")
    bias, states = (rest[0].reshape(1, -1), rest[1:]) if op.is_biased else (None, rest)
    inputs = [x.swapaxes(0, 1).copy(), kernel[None], state_kernel[None], bias, None, *(each[None] for each in states)]
    attributes = {name: value for name, value in attributes.items() if value != []}
    sequence, *last = onnx_node(kind, inputs, 1 + op.cell.states, **attributes)
    return [sequence[:, 0].swapaxes(0, 1), *(each[0] for each in last)]


REFERENCES: Mapping[type[Op], Callable[..., list[Array]]] = {
    ops.Conv: conv,
    ops.ConvTranspose: conv_transpose,
    ops.MaxPool: max_pool,
    ops.AveragePool: average_pool,
    ops.MaxUnpool: max_unpool,
    ops.Lrn: lrn,
    ops.Resize: resize,
    ops.Dense: dense,
    ops.MatMul: mat_mul,
    ops.Unary: unary,
    ops.Relu: lambda op, x: onnx_node("Relu", [x]),
    ops.LeakyRelu: lambda op, x: onnx_node("LeakyRelu", [x], alpha=op.slope),
    ops.Elu: lambda op, x: onnx_node("Elu", [x], alpha=op.alpha),
    ops.Clip: lambda op, x: onnx_node("Clip", [x, scalar(op.low), scalar(op.high)]),
    ops.PRelu: lambda op, x, slope: onnx_node("PRelu", [x, slope]),
    ops.Binary: binary,
    ops.Compare: compare,
    ops.Where: lambda op, *arrays: onnx_node("Where", arrays),
    ops.Cast: cast,
    ops.Softmax: lambda op, x: onnx_node("Softmax", [x], axis=op.axis),
    ops.Reduce: reduce,
    ops.ArgMax: lambda op, x: onnx_node("ArgMax", [x], axis=op.axis, keepdims=int(op.keepdims)),
    ops.RoiMaxPool: lambda op, *arrays: onnx_node("MaxRoiPool", arrays, pooled_shape=op.size, spatial_scale=op.scale),
    ops.NonMaxSuppression: non_max_suppression,
    ops.Recurrent: recurrent,
    ops.TopK: lambda op, x: onnx_node("TopK", [x, integers(op.k)], 2, axis=op.axis),
    ops.Concat: lambda op, *arrays: onnx_node("Concat", arrays, axis=op.axis),
    ops.Slice: slice_,
    ops.Pad: lambda op, x: onnx_node("Pad", [x, integers(*ends(op.pads)), scalar(op.value)]),
    ops.Reshape: lambda op, x: onnx_node("Reshape", [x, integers(*op.shape)]),
    ops.Transpose: lambda op, x: onnx_node("Transpose", [x], perm=op.axes),
    ops.Tile: lambda op, x: onnx_node("Tile", [x, integers(*op.repeats)]),
    ops.Gather: lambda op, *arrays: onnx_node("Gather", arrays, axis=op.axis),
    ops.Identity: lambda op, x: onnx_node("Identity", [x]),
}


def assert_close(result: Array, expected: Array, tolerance: float = 2e-6) -> None:
    """Demands equal shapes, and elements that differ by `tolerance` of the peak at most; integers must be equal."""
    assert result.shape == expected.shape
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(result, expected)
        return
    assert np.abs(result - expected).max() <= tolerance * max(np.abs(expected).max(), 1e-30)


def operands(case: Case, values: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
    """Collects what a node reads, in the element types that the graph states."""
    graph = case.graph
    arrays = [values[name] if name in values else graph.weights[name] for name in names]
    return [
        np.asarray(array, graph.type(name).dtype.value, order="C") for array, name in zip(arrays, names, strict=True)
    ]


def test_every_operation_is_evaluated_and_has_a_reference_and_a_case() -> None:
    assert set(EVALUATORS) == set(ops.OPS)
    assert set(REFERENCES) == set(ops.OPS)
    assert set().union(*(case.ops for case in CASES)) == set(ops.OPS)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_node_agrees_with_onnx_runtime(case: Case) -> None:
    values = evaluate(case.graph, case.inputs)
    for node in case.graph.nodes:
        arrays = operands(case, values, node.inputs)
        expected = REFERENCES[type(node.op)](node.op, *arrays)
        results = evaluate_node(node.op, arrays)
        assert len(results) == len(expected)
        for result, other in zip(results, expected, strict=True):
            assert_close(result, other)


RESIZES = [case for case in CASES if case.name.startswith("resize") and case.graph.type("x").rank == 4]


@pytest.mark.parametrize("case", [case for case in RESIZES if case.layouts == {Layout.CHANNELS_LAST}], ids=str)
def test_resizing_agrees_with_tensorflow(case: Case) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    (node,) = case.graph.nodes
    assert isinstance(node.op, ops.Resize)
    linear = node.op.interpolation is ops.Interpolation.LINEAR
    kind = tensorflow.raw_ops.ResizeBilinear if linear else tensorflow.raw_ops.ResizeNearestNeighbor
    expected = kind(
        images=case.inputs["x"],
        size=node.op.size,
        align_corners=node.op.coordinates is ops.Coordinates.ALIGN_CORNERS,
        half_pixel_centers=node.op.coordinates is ops.Coordinates.HALF_PIXEL,
    )
    assert_close(evaluate(case.graph, case.inputs)["y"], expected.numpy())


# --- whole graphs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_values_are_of_the_types_that_the_graph_states(case: Case, dtype: type[np.floating[Any]]) -> None:
    values = evaluate(case.graph, case.inputs, dtype=dtype)
    assert values.keys() == case.graph.values.keys()
    for name, array in values.items():
        expected = case.graph.type(name)
        assert array.shape == expected.shape
        assert array.dtype == (dtype if expected.dtype.is_float else expected.dtype.value)
        assert np.isfinite(array).all()


@pytest.mark.parametrize("case", [case for case in CASES if case.dynamic], ids=str)
def test_any_batch_gives_what_its_samples_give_alone(case: Case) -> None:
    graph, inputs = case.dynamic_graph, case.inputs_at(3)
    together = evaluate(graph, inputs, keep=graph.outputs)
    alone = [
        evaluate(graph, {name: array[at : at + 1] for name, array in inputs.items()}, keep=graph.outputs)
        for at in range(3)
    ]
    for name, array in together.items():
        assert_close(array, np.concatenate([sample[name] for sample in alone]), 1e-12)


@pytest.mark.parametrize(
    "name", ["conv_grouped", "conv_asymmetric_channels_last", "conv_3d", "conv_1d", "dense_rank_3"]
)
def test_blocks_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, inputs = case(name).graph, case(name).inputs
    whole = evaluate(graph, inputs)["y"]
    monkeypatch.setattr(evaluator, "BLOCK_BYTES", 1)
    assert_close(evaluate(graph, inputs)["y"], whole, 1e-12)


def test_inputs_and_weights_stay_as_they_are() -> None:
    for one in CASES:
        before = {name: array.copy() for name, array in [*one.inputs.items(), *one.graph.weights.items()]}
        evaluate(one.graph, one.inputs, dtype=np.float32)
        for name, array in [*one.inputs.items(), *one.graph.weights.items()]:
            np.testing.assert_array_equal(array, before[name], err_msg=f"{one.name}: {name}")


def test_what_is_not_kept_is_freed() -> None:
    length, size = 40, 1 << 17
    graph = Graph("chain")
    value = graph.add_input("x", TensorType((1, size)))
    for index in range(length):
        value = graph.add(ops.Unary(ops.UnaryFunction.SIN), [value], f"y{index}", ORIGIN)
    graph.outputs.append(value)
    x = np.ones((1, size), np.float32)
    tracemalloc.start()
    values = evaluate(graph, {"x": x}, keep=["y3", value])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert list(values) == ["y3", value]
    assert peak < 6 * 8 * size < length * 8 * size / 2


def test_only_what_is_kept_is_computed() -> None:
    graph = Graph("gather")
    graph.add_input("x", TensorType((2, 3)))
    graph.add_input("rows", TensorType((1,), DType.INT32))
    graph.add(ops.Relu(), ["x"], "y", ORIGIN)
    graph.add(ops.Gather(0), ["x", "rows"], "row", ORIGIN)
    inputs = {"x": np.ones((2, 3), np.float32), "rows": np.array([2], np.int32)}
    assert evaluate(graph, inputs, keep=["y"]).keys() == {"y"}
    with pytest.raises(UsageError, match="from 2 to 2, beyond 0 to 1"):
        evaluate(graph, inputs)


def test_all_faults_of_a_call_are_listed() -> None:
    graph = Graph("net")
    for name, dtype in (("a", DType.FLOAT32), ("b", DType.FLOAT32), ("c", DType.INT32)):
        graph.add_input(name, TensorType((2, 3), dtype))
    inputs = {"b": np.ones((3, 3)), "c": np.ones((2, 3)), "z": np.ones(1)}
    with pytest.raises(UsageError) as caught:
        evaluate(graph, inputs, keep=["y"])
    assert str(caught.value).splitlines() == [
        "graph 'net' can't be evaluated with these inputs:",
        "  nothing is given for float32[2, 3] 'a'",
        "  'z' is no input (there is ['a', 'b', 'c'])",
        "  'y' is no value",
        "  'b' has the shape (3, 3), expected (2, 3)",
        "  'c' has the element type float64, expected int32",
    ]


def test_a_dynamic_batch_is_the_same_in_all_inputs() -> None:
    graph = replace(case("binary_add_values").graph, batch_is_dynamic=True)
    x = np.ones((5, 3, 4), np.float32)
    assert evaluate(graph, {"left": x, "right": x})["y"].shape == (5, 3, 4)
    with pytest.raises(UsageError, match="can't be broadcast"):
        evaluate(graph, {"left": x, "right": x[:3]})


# --- corners that cases leave out: ties, integers, the ends of the number range ---------------------------------------


def numbers(*values: float, dtype: str = "float32") -> Array:
    return np.array([values], dtype)


@pytest.mark.parametrize(
    ("op", "inputs", "expected"),
    [
        (ops.Unary(ops.UnaryFunction.ROUND), [numbers(0.5, 1.5, -0.5, 2.5)], [[0, 2, 0, 2]]),
        (ops.Unary(ops.UnaryFunction.SIGN), [numbers(-2, 0, 3)], [[-1, 0, 1]]),
        (ops.Unary(ops.UnaryFunction.SIGMOID), [numbers(-1e4, 0, 1e4)], [[0, 0.5, 1]]),
        (ops.Unary(ops.UnaryFunction.SOFTPLUS), [numbers(-1e4, 1e4)], [[0, 1e4]]),
        (ops.Unary(ops.UnaryFunction.LOG), [numbers(0)], [[-np.inf]]),
        (ops.Softmax(1), [numbers(1e30, 1e30, -1e30)], [[0.5, 0.5, 0]]),
        (ops.ArgMax(1, keepdims=False), [numbers(1, 3, 3)], [1]),
        (ops.Binary(ops.BinaryFunction.DIV), [numbers(7, -7, dtype="int32"), numbers(2, dtype="int32")], [[3, -3]]),
        (ops.Reduce(ops.ReduceFunction.SUM, (1,), keepdims=False), [numbers(200, 100, dtype="uint8")], [44]),
        (ops.Clip(0, 6), [numbers(-3, 9, dtype="int32")], [[0, 6]]),
        (ops.Cast(DType.INT32), [numbers(-1.9, 1.9)], [[-1, 1]]),
        (ops.Cast(DType.BOOL), [numbers(0, 0.5)], [[False, True]]),
        (ops.Pad((NO_PAD, Padding(1, 0)), 7), [numbers(1, dtype="uint8")], [[7, 1]]),
    ],
    ids=str,
)
def test_corners(op: AnyOp, inputs: list[Array], expected: object) -> None:
    (result,) = evaluate_node(op, inputs)
    np.testing.assert_array_equal(result, np.array(expected))
    assert (
        result.dtype.kind
        == np.result_type(op.infer([TensorType(x.shape, DType(x.dtype.name)) for x in inputs])[0].dtype.value).kind
    )


def test_the_first_of_equal_elements_comes_first() -> None:
    values, places = evaluate_node(ops.TopK(3, 1), [numbers(1, 5, 5, 0, 5, dtype="uint8")])
    assert values.tolist() == [[5, 5, 5]]
    assert places.tolist() == [[1, 2, 4]]


@pytest.mark.parametrize("fill", [1.0, -np.inf])
def test_pooling_finds_the_first_place_and_never_the_padding(fill: float) -> None:
    op = ops.MaxPool((2, 2), (2, 2), (Padding(1, 0), Padding(1, 0)), with_indices=True)
    y, places = evaluate_node(op, [np.full((1, 1, 3, 3), fill, np.float32)])
    assert (y == fill).all()
    assert places.tolist() == [[[[0, 1], [3, 4]]]]


def test_unpooling_refuses_places_outside() -> None:
    op = ops.MaxUnpool((2, 2))
    with pytest.raises(UsageError, match="max unpooling reads indices from 4 to 4, beyond 0 to 3"):
        evaluate_node(op, [np.ones((1, 1, 1, 1), np.float32), np.full((1, 1, 1, 1), 4, np.int32)])
