"""Joining layers to tensors: what the map says, what it can't say, and where faults begin."""

from __future__ import annotations

import pytest

from demitasse.ir.document import BlobRecord, Document, Port
from demitasse.ir.graph import Graph, Origin, SourceLayer, Status, Storage
from demitasse.ir.ops import Binary, BinaryFunction, Relu, TensorType
from demitasse_validation.align import align, sources_of_divergence

# x -> a -> b -> d and x -> c -> d, each a layer of its own; `e` hangs on `b` and leads nowhere.
EDGES = {"a": ("x",), "b": ("a",), "c": ("x",), "d": ("b", "c"), "e": ("b",)}


@pytest.fixture
def graph() -> Graph:
    made = Graph("diamond")
    made.add_input("x", TensorType((1, 3)))
    made.layers.append(SourceLayer(Origin("x", "Input"), (), ("x",)))
    for name, inputs in EDGES.items():
        origin = Origin(name, "Layer")
        made.add(Relu() if len(inputs) == 1 else Binary(BinaryFunction.ADD), inputs, name, origin)
        made.layers.append(SourceLayer(origin, inputs, (name,)))
    made.outputs = ["d"]
    return made


def record(blob: str, status: str = "compared", tensor: str | None = None) -> BlobRecord:
    axes = None if status in {"folded", "unused", "unmapped"} else (0, 1)
    return BlobRecord(blob, "Layer", blob, status, tensor or blob, axes)


def document(*records: BlobRecord) -> Document:
    return Document(
        target="onnx",
        tool="demitasse 1",
        source_format="caffe",
        source_layout="channels_first",
        source=(),
        options={},
        inputs=(Port("x", "x", (None, 3), "float32", (0, 1)),),
        outputs=(Port("d", "d", (None, 3), "float32", (0, 1)),),
        provenance=records,
    )


def test_a_whole_map_links_every_blob(graph: Graph) -> None:
    alignment = align(
        graph,
        document(
            record("x"),
            record("a", "folded", "b"),
            record("b"),
            record("c", "identity", "x"),
            record("d"),
            record("e", "unused"),
        ),
        {},
    )
    links = {link.blob: link for link in alignment.links}
    assert [link.status.value for link in alignment.links] == [
        "compared",
        "folded",
        "compared",
        "identity",
        "compared",
        "unused",
    ]
    assert links["a"].into == "b"
    assert links["c"].into == "x"
    assert links["c"].storage == Storage((0, 1))
    assert links["a"].storage is None
    assert alignment.folded_into("b") == ("a",)
    assert not alignment.strangers


def test_an_empty_map_maps_nothing(graph: Graph) -> None:
    alignment = align(graph, document(), {})
    assert {link.status for link in alignment.links} == {Status.UNMAPPED}
    assert all(link.reason for link in alignment.links)


def test_a_tensor_that_can_not_be_read_is_unmapped(graph: Graph) -> None:
    blobs = [record(blob) for blob in ("x", *EDGES)]
    alignment = align(graph, document(*blobs), {"b": "gone"})
    assert [(link.blob, link.reason) for link in alignment.links if link.status is Status.UNMAPPED] == [
        ("b", "tensor 'b': gone")
    ]


def test_a_record_of_another_source_is_a_stranger(graph: Graph) -> None:
    blobs = [record(blob) for blob in ("x", *EDGES, "fc8")]
    assert [stranger.blob for stranger in align(graph, document(*blobs), {}).strangers] == ["fc8"]


@pytest.mark.parametrize(
    ("failing", "sources"),
    [
        ((), ()),
        (("b",), ("b",)),
        (("b", "d", "e"), ("b",)),
        (("b", "c", "d"), ("b", "c")),
        (("d", "e"), ("d", "e")),
        # What lies between was not measured, or came out right by luck: the fault is still the first one's.
        (("a", "d"), ("a",)),
    ],
)
def test_faults_begin_where_no_other_leads_to(graph: Graph, failing: tuple[str, ...], sources: tuple[str, ...]) -> None:
    assert sources_of_divergence(graph, failing) == sources
