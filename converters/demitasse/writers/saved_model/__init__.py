"""Write graphs as TensorFlow SavedModels.

A SavedModel is a folder. `serving_default` takes and gives the source's inputs and outputs under the source's names;
the object that `tf.saved_model.load` gives is also callable, and its variables can be trained further.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from demitasse.errors import InvalidGraph, UsageError
from demitasse.ir.document import Document
from demitasse.ir.graph import Graph
from demitasse.writers.saved_model.backend import import_tensorflow
from demitasse.writers.saved_model.emit import EMITTERS, LIMITS, offences

__all__ = ["DOCUMENT_FILE", "EMITTERS", "LIMITS", "offences", "read_document", "write"]

DOCUMENT_FILE = Path("assets.extra", "demitasse.json")
"""Where the document stands: in the folder for what isn't TensorFlow's own."""

MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")
"""The files of which a SavedModel has one (https://www.tensorflow.org/guide/saved_model)."""


def write(graph: Graph, path: Path, document: Document) -> None:
    """Write a lowered graph, which has no `offences`, as a SavedModel.

    The same graph and document give the same bytes, with the same version of TensorFlow. The document's tensors are
    those of the one function that computes the graph, which `serving_default` calls.

    Args:
        graph: channels-last; its batch is free if it is dynamic.
        path: the folder to write; nothing is left of it if an error is raised. A SavedModel that is there is replaced.
        document: what the artifact says of itself; stands in `DOCUMENT_FILE`.

    Raises:
        UsageError: there is something else than a SavedModel at the path.
        MissingDependency: TensorFlow isn't installed.
    """
    _check_target(path)
    import_tensorflow("Writing a SavedModel")
    partial, replaced = (path.with_name(f".{path.name}.{word}") for word in ("partial", "replaced"))
    _remove(partial)
    try:
        names = _save(graph, partial)
        target = partial / DOCUMENT_FILE
        target.parent.mkdir()
        target.write_text(_located(document, names).to_json(), "utf-8")
        # A folder can't be written over: what stands there steps aside for a moment, and comes back on failure.
        _remove(replaced)
        if path.exists():
            path.replace(replaced)
        try:
            partial.replace(path)
        except OSError:
            if replaced.exists():
                replaced.replace(path)
            raise
        _remove(replaced)
    finally:
        _remove(partial)


def _located(document: Document, names: dict[str, str]) -> Document:
    """Name tensors as the artifact does: those of its function, and inputs and outputs by its signature's keys."""
    return replace(document.with_tensors(names), inputs=document.inputs, outputs=document.outputs)


def _check_target(path: Path) -> None:
    """Refuse to write over what this writer didn't make."""
    if path.is_dir() and (not any(path.iterdir()) or any((path / name).is_file() for name in MODEL_FILES)):
        return
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} is there and is no SavedModel; choose another name, or remove it first")


def _remove(path: Path) -> None:
    """Remove a folder, or a link to one, if it is there."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _save(graph: Graph, folder: Path) -> dict[str, str]:
    """Write the SavedModel itself, and return the names of the tensors that hold the graph's values."""
    import tensorflow

    from demitasse.writers.saved_model.canonical import canonicalize
    from demitasse.writers.saved_model.network import Network

    network = Network(graph)
    module = network.module
    options = tensorflow.saved_model.SaveOptions(experimental_custom_gradients=False)
    tensorflow.saved_model.save(module, str(folder), signatures=module.__call__, options=options)
    meta_graph = canonicalize(folder, network.keywords)
    return _tensor_names(graph, network.tensors, meta_graph)


def _tensor_names(graph: Graph, traced: dict[str, str], meta_graph: Any) -> dict[str, str]:
    """Map values to tensors of the function as it was written, which calls its arguments otherwise than when traced.

    Raises:
        InvalidGraph: the function lacks some tensor.
    """
    function = next(
        function
        for function in meta_graph.graph_def.library.function
        if function.signature.name.startswith("__inference__network")
    )
    # TensorFlow orders what a function takes as a dictionary by its keys.
    arguments = [argument.name for argument in function.signature.input_arg]
    names = {**traced, **{name: f"{arg}:0" for name, arg in zip(sorted(graph.inputs), arguments, strict=False)}}
    there = {*arguments, *(node.name for node in function.node_def)}
    lost = [name for name, tensor in names.items() if tensor.rpartition(":")[0] not in there]
    if lost:
        raise InvalidGraph(f"the SavedModel's function has no tensors for the values {lost}")
    return names


def read_document(path: Path) -> Document | None:
    """Read the document that a SavedModel carries; None if it carries none.

    Raises:
        MalformedModel: the document is damaged.
    """
    file = path / DOCUMENT_FILE
    if not file.is_file():
        return None
    return Document.from_json(file.read_text("utf-8"), where=str(file))
