"""Graphs, what is recorded in them, their invariants, their text, and the maps and documents that go with them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases import CASES, Case, case
from demitasse.errors import InvalidGraph, MalformedModel, UsageError
from demitasse.ir import ops
from demitasse.ir.check import check
from demitasse.ir.document import Document, SourceFile, describe
from demitasse.ir.graph import (
    Graph,
    Merge,
    MergeKind,
    Node,
    Origin,
    SourceLayer,
    Status,
    Storage,
    infer_types,
    live_names,
    provenance,
)
from demitasse.ir.ops import DType, Layout, Padding, ShapeError, TensorType
from demitasse.ir.text import dump
from demitasse.ir.weights import Array, WeightMap

CONV = Origin("conv1", "Convolution", "net.prototxt", 12)
RELU = Origin("relu1", "ReLU", "net.prototxt", 20)


def small_graph() -> Graph:
    """Builds a convolution, a ReLU and a sum that reads both."""
    graph = Graph("small")
    graph.add_input("data", TensorType((2, 3, 4, 4)))
    graph.add_weight("conv1/kernel", np.ones((5, 3, 1, 1), np.float32))
    op = ops.Conv((1, 1), (1, 1), (Padding(0, 0), Padding(0, 0)))
    graph.add(op, ["data", "conv1/kernel"], "conv1", CONV)
    graph.add(ops.Relu(), ["conv1"], "relu1", RELU)
    graph.add(ops.Binary(ops.BinaryFunction.ADD), ["conv1", "relu1"], "sum", Origin("sum", "Eltwise"))
    graph.layers = [
        SourceLayer(CONV, ("data",), ("conv1",)),
        SourceLayer(RELU, ("conv1",), ("relu1",)),
        SourceLayer(Origin("sum", "Eltwise"), ("conv1", "relu1"), ("sum",)),
    ]
    graph.outputs = ["sum"]
    return graph


# --- building ---------------------------------------------------------------------------------------------------------


def test_a_node_that_cannot_be_names_its_place_in_the_source() -> None:
    graph = small_graph()
    with pytest.raises(MalformedModel, match=r"^net.prototxt:20, layer 'relu1' \(ReLU\): axis 7 is out of range"):
        graph.add(ops.Softmax(7), ["conv1"], "prob", RELU)
    assert "prob" not in graph.values


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (["nowhere", "conv1"], "y", r"Relu reads \['nowhere'\], which nothing gives"),
        (["conv1"], ("y", "z"), "Relu gives 1 results, not 2"),
        (["conv1"], "data", "the name 'data' is given twice"),
        (["conv1"], "conv1/kernel", "the name 'conv1/kernel' is given twice"),
    ],
)
def test_a_bug_in_a_reader_is_called_one(inputs: list[str], outputs: str | tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidGraph, match=message) as caught:
        small_graph().add(ops.Relu(), inputs, outputs, RELU)
    assert caught.value.exit_status == 3


def test_a_name_is_made_fresh_by_a_number() -> None:
    graph = small_graph()
    graph.merged["conv1.2"] = Merge(MergeKind.FOLDED, "conv1")
    assert graph.fresh("conv2") == "conv2"
    assert graph.fresh("conv1/kernel") == "conv1/kernel.2"
    assert graph.fresh("conv1") == "conv1.3"


def test_who_gives_and_who_reads_a_value() -> None:
    graph = small_graph()
    conv, relu, total = graph.nodes
    assert graph.producers() == {"conv1": conv, "relu1": relu, "sum": total}
    assert graph.consumers() == {"data": [conv], "conv1/kernel": [conv], "conv1": [relu, total], "relu1": [total]}
    assert live_names(graph, ["relu1"]) == {"relu1", "conv1", "conv1/kernel", "data"}


def test_a_shell_filled_with_adopted_nodes_is_the_same_graph() -> None:
    graph = case("inception_channels_last").graph
    graph = replace(graph, notes=["approximate"], unused={"label"}, batch_is_dynamic=True)
    graph.values = {**graph.values, "b": replace(graph.values["b"], storage=Storage((0, 3, 1, 2)))}
    copy = graph.shell()
    for node in graph.nodes:
        copy.adopt(graph, node)
    copy.outputs = list(graph.outputs)
    assert dump(copy) == dump(graph)
    copy.merged["x"] = Merge(MergeKind.FOLDED, "a")
    copy.unused.add("y")
    assert not graph.merged
    assert graph.unused == {"label"}


def test_types_for_another_batch() -> None:
    graph = small_graph()
    assert infer_types(graph, {"data": (7, 3, 4, 4)})["sum"] == TensorType((7, 5, 4, 4))
    with pytest.raises(ShapeError, match=r"net.prototxt:12, layer 'conv1' \(Convolution\): a kernel"):
        infer_types(graph, {"data": (7, 4, 4, 4)})


# --- storage ----------------------------------------------------------------------------------------------------------


@st.composite
def stored_blobs(draw: st.DrawFn) -> tuple[Array, Storage]:
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    axes = tuple(draw(st.permutations(range(len(shape)))))
    blob = np.arange(np.prod(shape)).reshape(shape)
    if draw(st.booleans()):
        return blob, Storage(axes)
    batch_keeps_its_place = (0, *(axis for axis in axes if axis))
    return blob.reshape(shape[0], -1), Storage(batch_keeps_its_place, (-1, *shape[1:]))


@given(stored_blobs())
def test_what_is_stored_is_restored(stored_blob: tuple[Array, Storage]) -> None:
    blob, storage = stored_blob
    np.testing.assert_array_equal(storage.restore(storage.store(blob)), blob)


def test_storing_moves_axes_and_restoring_moves_them_back() -> None:
    image = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    last = Storage((0, 2, 3, 1))
    np.testing.assert_array_equal(last.store(image), np.moveaxis(image, 1, -1))
    flat = Storage((0, 2, 3, 1), (-1, 3, 4, 5))
    np.testing.assert_array_equal(flat.store(image.reshape(2, 60)), np.moveaxis(image, 1, -1).reshape(2, 60))
    assert Storage.identity(3).is_identity
    assert not last.is_identity


# --- provenance -------------------------------------------------------------------------------------------------------


def test_every_blob_is_followed_to_its_end() -> None:
    graph = Graph("net")
    graph.add_input("data", TensorType((1, 2)))
    graph.add_weight("anchors", np.ones(2, np.float32))
    graph.add(ops.Relu(), ["data"], "relu", RELU, Storage((1, 0)))
    graph.outputs = ["relu"]
    given_storage = Storage((0, 1))
    graph.merged = {
        "conv": Merge(MergeKind.FOLDED, "norm"),
        "norm": Merge(MergeKind.IDENTITY, "relu"),
        "drop": Merge(MergeKind.IDENTITY, "relu"),
        "flat": Merge(MergeKind.IDENTITY, "relu", given_storage),
        "prior": Merge(MergeKind.FOLDED, "anchors"),
        "before_cut": Merge(MergeKind.FOLDED, "cut"),
        "round": Merge(MergeKind.IDENTITY, "about"),
        "about": Merge(MergeKind.IDENTITY, "round"),
    }
    graph.unused = {"cut"}
    blobs = ("relu", "conv", "norm", "drop", "flat", "prior", "cut", "before_cut", "round", "lost")
    graph.layers = [SourceLayer(CONV, (), blobs)]
    assert [(record.blob, record.status, record.value, record.storage) for record in provenance(graph)] == [
        ("relu", Status.COMPARED, "relu", Storage((1, 0))),
        ("conv", Status.FOLDED, "relu", None),
        ("norm", Status.IDENTITY, "relu", Storage((1, 0))),
        ("drop", Status.IDENTITY, "relu", Storage((1, 0))),
        ("flat", Status.IDENTITY, "relu", given_storage),
        ("prior", Status.FOLDED, "anchors", None),
        ("cut", Status.UNUSED, None, None),
        ("before_cut", Status.UNUSED, None, None),
        ("round", Status.UNMAPPED, None, None),
        ("lost", Status.UNMAPPED, None, None),
    ]


# --- invariants -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cases_keep_the_invariants(case: Case) -> None:
    check(case.graph)


@pytest.mark.parametrize("case", [case for case in CASES if case.dynamic], ids=str)
def test_dynamic_cases_give_a_result_a_sample(case: Case) -> None:
    types = infer_types(case.graph, {name: (5, *array.shape[1:]) for name, array in case.inputs.items()})
    for name in case.graph.outputs:
        assert types[name].shape == (5, *case.graph.type(name).shape[1:])


def test_names_of_cases_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def _swap_nodes(graph: Graph) -> None:
    graph.nodes[0], graph.nodes[1] = graph.nodes[1], graph.nodes[0]


def _retype(graph: Graph, name: str, type: TensorType) -> None:
    graph.values[name] = replace(graph.values[name], type=type)


def _restore(graph: Graph, name: str, storage: Storage) -> None:
    graph.values[name] = replace(graph.values[name], storage=storage)


def _give_again(graph: Graph) -> None:
    graph.nodes.append(replace(graph.nodes[1], outputs=("sum",)))


BROKEN: dict[str, tuple[Callable[[Graph], object], str]] = {
    "order": (_swap_nodes, "relu1' (ReLU): Relu reads 'conv1', which is given later"),
    "unknown name": (lambda g: g.values.pop("data"), "value 'data' is given, but has no type"),
    "given twice": (_give_again, "value 'sum' is given 2 times"),
    "given by nothing": (lambda g: g.nodes.pop(), "value 'sum' has a type, but nothing gives it"),
    "wrong shape": (lambda g: _retype(g, "sum", TensorType((2, 5))), "but 'sum' is recorded as float32[2, 5]"),
    "wrong element type": (
        lambda g: _retype(g, "relu1", TensorType((2, 5, 4, 4), DType.INT32)),
        "gives float32[2, 5, 4, 4], but 'relu1' is recorded as int32[2, 5, 4, 4]",
    ),
    "impossible node": (lambda g: _retype(g, "data", TensorType((2, 4))), "needs an input of rank 3 or more"),
    "wrong count": (
        lambda g: g.nodes.append(Node(ops.TopK(1, 0), ("sum",), ("top",), RELU)),
        "TopK gives 2 results under 1 names",
    ),
    "open set": (
        lambda g: g.nodes.append(Node(ops.Op(), ("sum",), ("top",), RELU)),  # type: ignore[arg-type]
        "Op is no operation of the closed set",
    ),
    "two meanings": (lambda g: g.weights.put("sum", np.ones(1, np.float32)), "'sum' is both a value and a weight"),
    "misnamed": (lambda g: g.values.update(sum=replace(g.values["sum"], name="total")), "under the name 'total'"),
    "no output": (lambda g: g.outputs.clear(), "there is no output"),
    "unknown output": (lambda g: g.outputs.append("prob"), "output 'prob' is no value"),
    "output twice": (lambda g: g.outputs.append("sum"), "output 'sum' is listed 2 times"),
    "float64": (lambda g: g.weights.put("w", np.ones(1)), "weight 'w': 'float64' is not a valid DType"),
    "storage": (lambda g: _restore(g, "sum", Storage((0, 1, 1, 2))), "(0, 1, 1, 2) don't permute 4 axes"),
    "storage rank": (lambda g: _restore(g, "sum", Storage((1, 0))), "the storage axes (1, 0) don't permute 4 axes"),
    "view": (lambda g: _restore(g, "sum", Storage((1, 0), (7, 5))), "float32[2, 5, 4, 4] can't be viewed as (7, 5)"),
    "merge": (
        lambda g: g.merged.update(gone=Merge(MergeKind.FOLDED, "lost")),
        "'gone' is merged into 'lost', which doesn't exist",
    ),
    "merged alive": (lambda g: g.merged.update(sum=Merge(MergeKind.FOLDED, "relu1")), "yet recorded as merged"),
    "merge circle": (lambda g: g.merged.update(a=Merge(MergeKind.FOLDED, "a")), "the merges of 'a' go round"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_invariant_is_found(name: str) -> None:
    damage, message = BROKEN[name]
    graph = small_graph()
    check(graph)
    damage(graph)
    with pytest.raises(InvalidGraph) as caught:
        check(graph)
    assert message in str(caught.value)


def test_all_broken_invariants_are_listed() -> None:
    graph = small_graph()
    _swap_nodes(graph)
    graph.outputs.append("prob")
    graph.weights.put("w", np.ones(1))
    with pytest.raises(InvalidGraph) as caught:
        check(graph)
    message = str(caught.value)
    assert all(word in message for word in ("'small'", "given later", "'prob'", "float64", "please report"))


def test_what_is_allowed_breaks_nothing() -> None:
    graph = small_graph()
    graph.add_weight("nobody/reads", np.ones(1, np.float32))
    graph.merged = {
        "flat": Merge(MergeKind.IDENTITY, "sum"),
        "prior": Merge(MergeKind.FOLDED, "nobody/reads"),
        "label": Merge(MergeKind.FOLDED, "cut"),
    }
    graph.unused = {"cut"}
    _restore(graph, "sum", Storage((0, 2, 1), (-1, 5, 16)))
    check(graph)


# --- text -------------------------------------------------------------------------------------------------------------


def test_a_graph_as_text() -> None:
    graph = small_graph()
    graph.weights.defer("spare", TensorType((3,)), _never)
    graph.layout, graph.batch_is_dynamic = Layout.CHANNELS_LAST, True
    graph.merged["drop"] = Merge(MergeKind.IDENTITY, "sum", Storage((0, 2, 3, 1)))
    graph.unused = {"label", "accuracy"}
    graph.notes = ["an approximation"]
    _restore(graph, "sum", Storage((0, 2, 1), (-1, 5, 16)))
    assert dump(graph) == (
        "graph small (channels_last, dynamic batch)\n"
        "  input data: float32[2, 3, 4, 4]\n"
        "  weight conv1/kernel: float32[5, 3, 1, 1]\n"
        "  weight spare: float32[3]\n"
        "  conv1: float32[2, 5, 4, 4] = Conv(data, conv1/kernel, stride=[1, 1], dilation=[1, 1], pads=[0:0, 0:0])"
        "  # net.prototxt:12, layer 'conv1' (Convolution)\n"
        "  relu1: float32[2, 5, 4, 4] = Relu(conv1)  # net.prototxt:20, layer 'relu1' (ReLU)\n"
        "  sum: float32[2, 5, 4, 4] stored by [0, 2, 1] of [-1, 5, 16] = Binary(conv1, relu1, function=add)"
        "  # layer 'sum' (Eltwise)\n"
        "  output sum\n"
        "  merged drop (identity) into sum stored by [0, 2, 3, 1]\n"
        "  unused accuracy\n"
        "  unused label\n"
        "  note an approximation\n"
    )


def _never() -> Array:
    raise AssertionError("a deferred weight was computed")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_text_has_a_line_for_every_part(case: Case) -> None:
    graph = case.graph
    lines = dump(graph).splitlines()
    assert len(lines) == 1 + len([*graph.inputs, *graph.weights, *graph.nodes, *graph.outputs])
    for node in graph.nodes:
        assert sum(f" = {type(node.op).__name__}(" in line and node.origin.where in line for line in lines) == 1


# --- weights ----------------------------------------------------------------------------------------------------------


def test_a_deferred_weight_is_computed_when_it_is_asked_for() -> None:
    computed = []

    def compute() -> Array:
        computed.append("conv1/kernel")
        return np.full((2, 3), 7, np.float32)

    weights = WeightMap({"fc/bias": np.zeros(4, np.float32)})
    weights.defer("conv1/kernel", TensorType((2, 3)), compute)
    copy = WeightMap()
    copy.copy_from(weights, ["conv1/kernel"])
    assert list(weights) == ["fc/bias", "conv1/kernel"]
    assert copy.type("conv1/kernel") == TensorType((2, 3))
    assert weights.size == 10
    assert "conv1/kernel" in weights
    assert not computed
    assert copy["conv1/kernel"].sum() == 42
    assert computed == ["conv1/kernel"]


def test_a_weight_name_is_given_once() -> None:
    weights = WeightMap({"a": np.zeros(1, np.float32)})
    with pytest.raises(KeyError, match="already in the map"):
        weights.put("a", np.zeros(1, np.float32))
    with pytest.raises(KeyError, match="already in the map"):
        weights.defer("a", TensorType((1,)), _never)


def odd_weights() -> WeightMap:
    weights = WeightMap(
        {
            "conv1/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
            "res2a/branch/bias": np.array([np.nan, np.inf, -0.0, 1e-45], np.float32),
            "scalar": np.array(0.5, np.float32),
            "indices": np.array([[1, -2]], np.int64),
            "empty": np.zeros((0, 3), np.float32),
        }
    )
    weights.defer("deferred", TensorType((2,)), lambda: np.ones(2, np.float32))
    return weights


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_weight_map_is_saved_for_all_who_may_read_new_files(suffix: str, tmp_path: Path) -> None:
    path = f"{tmp_path}/map{suffix}"
    WeightMap({"fc/bias": np.ones(2, np.float32)}).save(path)
    (tmp_path / "new").touch()
    assert Path(path).stat().st_mode == (tmp_path / "new").stat().st_mode
    assert list(WeightMap.load(path)) == ["fc/bias"]


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_weights_are_saved_and_loaded(suffix: str, tmp_path: Path) -> None:
    weights, path = odd_weights(), tmp_path / f"weights{suffix}"
    weights.save(path)
    loaded = WeightMap.load(path)
    assert loaded.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert (loaded[name].shape, loaded[name].dtype) == (array.shape, array.dtype)
    first = path.read_bytes()
    weights.save(path)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_failed_save_leaves_the_old_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    odd_weights().save(path)
    before = path.read_bytes()
    failing = odd_weights()
    failing.defer("never", TensorType((1,)), _never)
    with pytest.raises(AssertionError):
        failing.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_weights_go_into_two_formats(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"use .safetensors or .npz"):
        odd_weights().save(tmp_path / "weights.pickle")
    with pytest.raises(UsageError, match=r"use .safetensors or .npz"):
        WeightMap.load(tmp_path / "weights.pickle")
    assert not list(tmp_path.iterdir())


def damaged(path: Path) -> Path:
    """Cuts off the last third of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: 2 * len(content) // 3])
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("content", ["nothing", "garbage", "half"])
def test_a_damaged_weight_file_is_refused(suffix: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    odd_weights().save(path)
    if content == "half":
        damaged(path)
    else:
        path.write_bytes(b"" if content == "nothing" else b"\x89garbage" * 99)
    with pytest.raises(MalformedModel, match="not a readable weight map") as caught:
        WeightMap.load(path)
    assert caught.value.where == str(path)


def test_a_missing_weight_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedModel, match="No such file"):
        WeightMap.load(tmp_path / "weights.npz")


def test_an_archive_is_no_lone_array_nor_pickle_nor_bomb(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    with path.open("wb") as file:
        np.save(file, np.ones(3, np.float32))
    with pytest.raises(MalformedModel, match="one array without a name"):
        WeightMap.load(path)
    np.savez(path, a=np.array([{}], object))
    with pytest.raises(MalformedModel, match="allow_pickle"):
        WeightMap.load(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", b"\0" * (1 << 24))
    with pytest.raises(MalformedModel, match="would unpack to 16777216 bytes"):
        WeightMap.load(path)


def test_element_types_that_weights_do_not_have_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, a=np.ones(2), b=np.ones(2, np.float32), c=np.ones(2, np.float16))
    with pytest.raises(MalformedModel, match=r"'a' is float64, 'c' is float16; .* save real numbers as float32"):
        WeightMap.load(path)


# --- documents --------------------------------------------------------------------------------------------------------


def document(graph: Graph) -> Document:
    return describe(
        graph,
        target="onnx",
        tool="demitasse 1.0",
        source_format="caffe",
        source=(SourceFile("net.prototxt", "0" * 64, 12),),
        options={"opset": 17, "outputs": None},
        preprocessing={"mean": [104.0, 117.0, 123.0]},
        labels=("tench", "größer"),
    )


def test_a_document_says_what_became_of_every_blob() -> None:
    graph = replace(small_graph(), batch_is_dynamic=True, notes=["approximate"])
    graph.merged["drop1"] = Merge(MergeKind.FOLDED, "sum")
    graph.layers = [*graph.layers, SourceLayer(Origin("drop1", "Dropout"), ("sum",), ("drop1",))]
    _restore(graph, "sum", Storage((0, 2, 3, 1)))
    described = document(graph)
    (port,) = described.outputs
    assert (port.name, port.tensor, port.shape, port.dtype) == ("sum", "sum", (None, 5, 4, 4), "float32")
    assert port.storage == Storage((0, 2, 3, 1))
    assert [(record.blob, record.status, record.tensor, record.storage) for record in described.provenance] == [
        ("conv1", "compared", "conv1", Storage.identity(4)),
        ("relu1", "compared", "relu1", Storage.identity(4)),
        ("sum", "compared", "sum", Storage((0, 2, 3, 1))),
        ("drop1", "folded", "sum", None),
    ]
    assert described.provenance[0].where == "net.prototxt:12, layer 'conv1' (Convolution)"
    assert described.notes == ("approximate",)


@pytest.mark.parametrize("case", CASES[::7], ids=str)
def test_a_document_survives_json(case: Case) -> None:
    described = document(case.dynamic_graph if case.dynamic else case.graph)
    text = described.to_json()
    read = Document.from_json(text, where="net.onnx")
    assert read == described
    assert read.to_json() == text


def test_a_view_survives_json() -> None:
    graph = small_graph()
    _restore(graph, "sum", Storage((0, 2, 1), (-1, 5, 16)))
    described = document(graph)
    read = Document.from_json(described.to_json(), where="net.onnx")
    assert read == described
    assert read.outputs[0].storage == Storage((0, 2, 1), (-1, 5, 16))


def test_tensors_are_renamed_as_the_artifact_names_them() -> None:
    renamed = document(small_graph()).with_tensors({"sum": "sum_0", "data": "serving_data"})
    assert (renamed.inputs[0].name, renamed.inputs[0].tensor) == ("data", "serving_data")
    assert (renamed.outputs[0].name, renamed.outputs[0].tensor) == ("sum", "sum_0")
    assert [record.tensor for record in renamed.provenance] == ["conv1", "relu1", "sum_0"]


def _without(data: dict[str, Any], key: str) -> object:
    return {name: value for name, value in data.items() if name != key}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: "not an object", "damaged"),
        (lambda data: _without(data, "schema"), "damaged: KeyError"),
        (lambda data: {**data, "schema": 99}, "has schema 99, this version reads 1"),
        (lambda data: _without(data, "inputs"), "damaged: KeyError"),
        (lambda data: {**data, "surprise": 1}, "damaged: TypeError"),
        (lambda data: {**data, "provenance": [["conv1"]]}, "damaged"),
        (lambda data: {**data, "outputs": [{"name": "sum"}]}, "damaged: TypeError"),
        (lambda data: {**data, "inputs": None}, "damaged: TypeError"),
    ],
)
def test_a_damaged_document_is_refused(damage: Callable[[dict[str, Any]], object], message: str) -> None:
    data = json.loads(document(small_graph()).to_json())
    with pytest.raises(MalformedModel, match=message) as caught:
        Document.from_json(json.dumps(damage(data)), where="net.onnx")
    assert caught.value.where == "net.onnx"


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(MalformedModel, match="its document is damaged"):
        Document.from_json(text, where="net.tflite")


def test_a_source_file_is_known_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert SourceFile.of(path) == SourceFile("net.prototxt", digest, 3)
