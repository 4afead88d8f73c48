"""Write graphs as ONNX models.

The default opset is 17. Nothing in a graph needs a newer one (`Gelu`, of 20, is spelled out instead), it asks for no
more than IR version 8, and runtimes read it since the middle of 2022 (ONNX Runtime 1.12). From 18 on, `Resize` and the
reductions take other attributes and inputs, which runtimes learned later and not all of them. Below 13, `Softmax`
flattens its input to a matrix.
"""

from __future__ import annotations

import io
from pathlib import Path

from demitasse.errors import MalformedModel, UsageError
from demitasse.ir.document import Document
from demitasse.ir.graph import Graph
from demitasse.writers.onnx.draft import Draft, Site
from demitasse.writers.onnx.emit import EMITTERS, LIMITS, offences
from demitasse.writers.onnx.stream import MESSAGE_LIMIT, Parts, write_model
from demitasse.writers.onnx.wire import read_fields

__all__ = ["DEFAULT_OPSET", "EMITTERS", "LIMITS", "OPSETS", "offences", "read_document", "write"]

DEFAULT_OPSET = 17

OPSETS = range(13, 23)
"""The opsets that can be asked for."""

METADATA_KEY = "demitasse"
"""The key of the model's `metadata_props` under which the document stands."""

MODEL_METADATA, ENTRY_KEY, ENTRY_VALUE = 14, 1, 2
"""Field numbers of `ModelProto` and `StringStringEntryProto` (onnx.proto)."""


def write(
    graph: Graph,
    path: Path,
    document: Document,
    *,
    opset: int = DEFAULT_OPSET,
    message_limit: int = MESSAGE_LIMIT,
) -> None:
    """Write a lowered graph, which has no `offences`, as an ONNX model.

    Values and weights keep their names, nodes are named after their source layers. Weights are streamed: no more than
    the largest one is held. A model of more than `message_limit` bytes keeps them in `<name>.data` beside it.

    Args:
        graph: channels-first; its batch becomes a named dimension if it is dynamic.
        path: the file to write; nothing is left of it if an error is raised.
        document: what the artifact says of itself; stands in `metadata_props`.
        opset: the version of ONNX's operator set to use, one of `OPSETS`.
        message_limit: 2 GiB, which no Protocol Buffers message may exceed, or less.

    Raises:
        UsageError: the opset isn't one of `OPSETS`.
    """
    if opset not in OPSETS:
        raise UsageError(
            f"can't write ONNX opset {opset}; choose one from {OPSETS.start} to {OPSETS.stop - 1}"
            f" (the default is {DEFAULT_OPSET})"
        )
    draft = Draft(graph, opset, {record.tensor for record in document.provenance})
    for node in graph.nodes:
        if not draft.counted_pads.keys() & node.outputs:
            EMITTERS[type(node.op)](Site(draft, node), node.op)
    write_model(path, _parts(draft, document), draft.initializers, graph.weights, message_limit=message_limit)


def _parts(draft: Draft, document: Document) -> Parts:
    """Serialize everything but the weights."""
    from onnx import GraphProto, ModelProto, StringStringEntryProto
    from onnx.helper import find_min_ir_version_for, make_opsetid

    from demitasse import __version__

    graph, opset = draft.graph, make_opsetid("", draft.opset)
    model_head = ModelProto(
        # The oldest IR that has the opset, so that runtimes of its day read the model.
        ir_version=find_min_ir_version_for([opset]),
        producer_name="demitasse",
        producer_version=__version__,
    )
    graph_head = GraphProto(node=draft.nodes, name=graph.name or "net", initializer=draft.constants)
    graph_tail = GraphProto(
        input=map(draft.describe, graph.inputs),
        output=map(draft.describe, graph.outputs),
        value_info=draft.value_infos(),
    )
    entry = StringStringEntryProto(key=METADATA_KEY, value=document.to_json())
    model_tail = ModelProto(opset_import=[opset], metadata_props=[entry])
    return Parts(*(part.SerializeToString() for part in (model_head, graph_head, graph_tail, model_tail)))


def read_document(path: Path) -> Document | None:
    """Read the document that a model carries, without its graph and weights; None if it carries none.

    Raises:
        MalformedModel: the file is no ONNX model, or its document is damaged.
    """
    with path.open("rb") as file:
        try:
            for _, entry in read_fields(file, path.stat().st_size, {MODEL_METADATA}):
                fields = dict(read_fields(io.BytesIO(entry), len(entry), {ENTRY_KEY, ENTRY_VALUE}))
                if fields.get(ENTRY_KEY) == METADATA_KEY.encode():
                    return Document.from_json(fields.get(ENTRY_VALUE, b"").decode(), where=str(path))
        except ValueError as error:
            raise MalformedModel(f"it is no ONNX model: {error}", where=str(path)) from error
    return None
