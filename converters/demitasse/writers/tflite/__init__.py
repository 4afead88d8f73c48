"""Writes graphs as TFLite models, with the schema of LiteRT and without TensorFlow.

The graph has its spatial operations in channels-last layout, and may have fused activations. Operators carry the lowest
version that has what they use (tflite/tools/versioning/op_version.cc), so that older runtimes take the file too.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import BinaryIO

from demitasse.errors import InvalidGraph, MalformedModel
from demitasse.ir.document import Document
from demitasse.ir.graph import Graph
from demitasse.ir.ops import Layout, SpatialOp
from demitasse.writers.tflite.emitters import EMITTERS
from demitasse.writers.tflite.flatbuffer import read_metadata
from demitasse.writers.tflite.limits import LIMITS, offences
from demitasse.writers.tflite.lowering import Lowering
from demitasse.writers.tflite.model import ModelBuilder

__all__ = ["DOCUMENT", "EMITTERS", "LIMITS", "offences", "read_document", "write", "write_f16", "write_to"]

DOCUMENT = "demitasse"  # the name of the metadata buffer that holds the document


def write(graph: Graph, path: Path, document: Document) -> None:
    """Write a float32 model to `path`.

    Raises:
        InvalidGraph: the graph isn't lowered for this target.
    """
    _write(graph, path, document, half=False)


def write_f16(graph: Graph, path: Path, document: Document) -> None:
    """Write a model whose weights are stored as float16 and computed with as float32.

    A weight that holds a number beyond float16's range stays float32.

    Raises:
        InvalidGraph: the graph isn't lowered for this target.
    """
    _write(graph, path, document, half=True)


def _write(graph: Graph, path: Path, document: Document, *, half: bool) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            write_to(file, graph, document, half=half)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_to(
    file: BinaryIO, graph: Graph, document: Document | None = None, *, half: bool = False, keep_all: bool = False
) -> None:
    """Write a model to an open file; with `keep_all`, every tensor that is computed is an output.

    Raises:
        InvalidGraph: the graph isn't lowered for this target.
    """
    _check_layout(graph)
    model = ModelBuilder(half=half)
    to = Lowering(graph, model)
    for node in graph.nodes:
        EMITTERS[type(node.op)](to, node.op, node)
    outputs = {name: to.read(name) for name in graph.outputs}
    if keep_all:
        outputs |= {tensor.name: tensor for tensor in model.computed()}
    if document is not None:
        model.metadata(DOCUMENT, document.to_json().encode())
    inputs = {name: to.read(name) for name in graph.inputs}
    description = "" if document is None else document.tool
    model.write(file, inputs=inputs, outputs=outputs, description=description)


def read_document(path: Path) -> Document | None:
    """Read the document that a model carries; None if it carries none.

    Raises:
        MalformedModel: the file is no TFLite model, or its document is damaged.
    """
    from ai_edge_litert import schema_py_generated

    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = read_metadata(schema_py_generated, content, DOCUMENT)
        return None if found is None else Document.from_json(found.decode(), where=str(path))
    except ValueError as error:  # an empty file can't be mapped either
        raise MalformedModel(f"it is no TFLite model: {error}", where=str(path)) from error


def _check_layout(graph: Graph) -> None:
    for node in graph.nodes:
        if isinstance(node.op, SpatialOp) and node.op.layout is not Layout.CHANNELS_LAST:
            raise InvalidGraph(f"{node.origin.where}: the TFLite writer was given channels-first images")
