"""Write graphs as ONNX models.

The default opset is 17. Nothing in a graph needs a newer one (`Gelu`, of 20, is spelled out instead), it asks for no
more than IR version 8, and runtimes read it since the middle of 2022 (ONNX Runtime 1.12). From 18 on, `Resize` and the
reductions take other attributes and inputs, which runtimes learned later and not all of them. Below 13, `Softmax`
flattens its input to a matrix.
"""

from __future__ import annotations

import io
from pathlib import Path

from demitasse.errors import MalformedModel
from demitasse.ir.document import Document
from demitasse.ir.graph import Graph
from demitasse.writers.onnx.assemble import DEFAULT_OPSET, METADATA_KEY, OPSETS, assemble, parts
from demitasse.writers.onnx.emit import EMITTERS, LIMITS, offences
from demitasse.writers.onnx.half import write_f16
from demitasse.writers.onnx.int8 import write_int8
from demitasse.writers.onnx.stream import MESSAGE_LIMIT, write_model
from demitasse.writers.onnx.wire import read_fields

__all__ = [
    "DEFAULT_OPSET",
    "EMITTERS",
    "LIMITS",
    "METADATA_KEY",
    "OPSETS",
    "offences",
    "read_document",
    "write",
    "write_f16",
    "write_int8",
]

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
    draft = assemble(graph, document, opset)
    write_model(path, parts(draft, document), draft.initializers, graph.weights, message_limit=message_limit)


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
