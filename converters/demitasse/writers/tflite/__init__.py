"""Writes graphs as TFLite models, with the schema of LiteRT and without TensorFlow.

The graph has its spatial operations in channels-last layout, and may have fused activations. Operators carry the lowest
version that has what they use (tflite/tools/versioning/op_version.cc), so that older runtimes take the file too.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from demitasse.errors import MalformedModel
from demitasse.ir.document import Document
from demitasse.ir.graph import Graph
from demitasse.writers.tflite.assemble import DOCUMENT, assemble
from demitasse.writers.tflite.dynamic import write_dynamic
from demitasse.writers.tflite.emitters import EMITTERS
from demitasse.writers.tflite.flatbuffer import read_metadata
from demitasse.writers.tflite.int8 import write_16x8, write_int8
from demitasse.writers.tflite.limits import LIMITS, offences

__all__ = [
    "EMITTERS",
    "LIMITS",
    "offences",
    "read_document",
    "write",
    "write_16x8",
    "write_dynamic",
    "write_f16",
    "write_int8",
]


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
    draft = assemble(graph, document, half=half)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            draft.write(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
