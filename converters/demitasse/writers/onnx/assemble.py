"""Assemble a model from a lowered graph: its nodes one after the other, then everything of the file but its weights."""

from __future__ import annotations

from collections.abc import Container

from demitasse.errors import UsageError
from demitasse.ir.document import Document
from demitasse.ir.graph import Graph
from demitasse.writers.onnx.draft import Draft, Site
from demitasse.writers.onnx.emit import EMITTERS
from demitasse.writers.onnx.stream import Parts

__all__ = ["DEFAULT_OPSET", "METADATA_KEY", "OPSETS", "assemble", "parts"]

DEFAULT_OPSET = 17

OPSETS = range(13, 23)
"""The opsets that can be asked for."""

METADATA_KEY = "demitasse"
"""The key of the model's `metadata_props` under which the document stands."""


def assemble(graph: Graph, document: Document | None, opset: int = DEFAULT_OPSET) -> Draft:
    """Emit every node of a graph; without a document, every value of the graph exists in the draft.

    Raises:
        UsageError: the opset isn't one of `OPSETS`.
    """
    if opset not in OPSETS:
        raise UsageError(
            f"can't write ONNX opset {opset}; choose one from {OPSETS.start} to {OPSETS.stop - 1}"
            f" (the default is {DEFAULT_OPSET})"
        )
    named: Container[str | None] = graph.values
    if document is not None:
        named = {record.tensor for record in document.provenance}
    draft = Draft(graph, opset, named)
    for node in graph.nodes:
        if not draft.counted_pads.keys() & node.outputs:
            EMITTERS[type(node.op)](Site(draft, node), node.op)
    return draft


def parts(draft: Draft, document: Document | None) -> Parts:
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
    entries = [] if document is None else [StringStringEntryProto(key=METADATA_KEY, value=document.to_json())]
    model_tail = ModelProto(opset_import=[opset], metadata_props=entries)
    return Parts(*(part.SerializeToString() for part in (model_head, graph_head, graph_tail, model_tail)))
