"""Write a Keras model with the converters of others: tf2onnx, TFLiteConverter, and Keras' own export.

Each artifact gets our document, and is run before it counts: converters are known to write models of NaN, or without
their weights, and to say nothing.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from demitasse.errors import MissingDependency, Unsupported
from demitasse.ir.document import Document
from demitasse.ir.graph import Graph, Status
from demitasse.route.net import KerasNet, saying_what_failed
from demitasse.route.proof import check
from demitasse.samples import Samples
from demitasse.writers.onnx import DEFAULT_OPSET, METADATA_KEY
from demitasse.writers.saved_model import DOCUMENT_FILE
from demitasse.writers.tflite.assemble import DOCUMENT

__all__ = ["ROUTE", "WRITES", "mark", "write"]

ROUTE = "tensorflow"
"""What `--route` and the documents call it."""

WRITES = ("onnx", "tflite", "tflite-f16", "tflite-int8", "savedmodel")
"""The targets that it has converters for."""

SIGNATURE = "serving_default"


def mark(document: Document, net: KerasNet) -> Document:
    """Say in a document which way the artifact is made, and that nobody knows its layers but inputs and outputs.

    Raises:
        MissingDependency: tf2onnx isn't installed, and the artifact is to be ONNX.
    """
    # What a SavedModel's signature calls by these names are no tensors of the function behind it.
    ports = () if document.target == "savedmodel" else (*document.inputs, *document.outputs)
    known = {port.name for port in ports}
    records = tuple(
        record
        if record.blob in known
        else replace(record, status=Status.INTERNAL.value, tensor=None, axes=None, view=None)
        for record in document.provenance
    )
    made_with = net.made_with + (f", tf2onnx {_tf2onnx_version()}" if document.target == "onnx" else "")
    options = {**document.options, "route": ROUTE, "made_with": made_with}
    note = f"{document.target} was written by {made_with}: its outputs can be compared, its layers can't"
    return replace(document, provenance=records, options=options, notes=(*document.notes, note))


def _tf2onnx_version() -> str:
    try:
        return version("tf2onnx")
    except PackageNotFoundError as error:
        raise MissingDependency(f"--route {ROUTE} to ONNX", "tf2onnx", "tensorflow") from error


def write(
    net: KerasNet,
    graph: Graph,
    path: Path,
    document: Document,
    *,
    samples: Samples | None = None,
    opset: int | None = None,
    int8_io: bool = False,
) -> None:
    """Write one artifact, and make sure that it computes what Keras computes.

    Args:
        net: the model.
        graph: what `net.shaped` says of it for the artifact's batch.
        path: the file or folder to write.
        document: what `mark` made of the artifact's document; its target says what is written.
        samples: real inputs, for the ranges of an INT8 model.
        opset: of an ONNX model.
        int8_io: whether an INT8 model takes and gives integers.

    Raises:
        Unsupported: a converter fails, or what it wrote computes something else.
    """
    with _quiet():
        match document.target:
            case "onnx":
                written = _write_onnx(net, graph, path, document, opset or DEFAULT_OPSET)
            case "savedmodel":
                written = _write_saved_model(net, graph, path, document)
            case _:
                written = _write_tflite(net, graph, path, document, samples, int8_io=int8_io)
    check(net, graph, path, written, samples)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converters' remarks to themselves: what they get wrong is found by running the artifact."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)


def _write_onnx(net: KerasNet, graph: Graph, path: Path, document: Document, opset: int) -> Document:
    import tensorflow
    import tf2onnx

    signature = net.signature(graph)
    function = tensorflow.function(net.serving(), input_signature=signature)
    with saying_what_failed("tf2onnx can't convert the model", Unsupported, tensorflow.errors.OpError):
        model, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=opset)
        model.metadata_props.add(key=METADATA_KEY, value=document.to_json())
        path.write_bytes(_with_batch(model, graph).SerializeToString())
    return document


def _with_batch(model: Any, graph: Graph) -> Any:
    """Name the open dimension, which tf2onnx numbers, alike in inputs and outputs."""
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if graph.batch_is_dynamic and dims and not dims[0].dim_value:
            dims[0].dim_param = "batch"
    return model


def _write_saved_model(net: KerasNet, graph: Graph, path: Path, document: Document) -> Document:
    _export(net, graph, path)
    place = path / DOCUMENT_FILE
    place.parent.mkdir(exist_ok=True)
    place.write_text(document.to_json(), "utf-8")
    return document


def _export(net: KerasNet, graph: Graph, path: Path) -> None:
    import tensorflow
    from keras.export import ExportArchive

    with saying_what_failed("Keras can't export the model", Unsupported, tensorflow.errors.OpError):
        archive = ExportArchive()
        archive.track(net.model)
        archive.add_endpoint(SIGNATURE, net.serving(), input_signature=net.signature(graph))
        archive.write_out(str(path), verbose=False)


def _write_tflite(
    net: KerasNet, graph: Graph, path: Path, document: Document, samples: Samples | None, *, int8_io: bool
) -> Document:
    import tensorflow
    from tensorflow.lite.python.convert_phase import ConverterError

    with tempfile.TemporaryDirectory(prefix="demitasse-") as folder:
        # From a SavedModel alone are all variables found: converting a function of a Keras 3 model loses them.
        exported = Path(folder, "model")
        _export(net, graph, exported)
        converter = tensorflow.lite.TFLiteConverter.from_saved_model(str(exported), signature_keys=[SIGNATURE])
        if document.target != "tflite":
            converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
        if document.target == "tflite-f16":
            converter.target_spec.supported_types = [tensorflow.float16]
        if document.target == "tflite-int8" and samples is not None:
            converter.representative_dataset = _representatives(samples)
            if int8_io:
                converter.inference_input_type = converter.inference_output_type = tensorflow.int8
        with saying_what_failed("TFLiteConverter can't convert the model", Unsupported, ConverterError):
            content = converter.convert()
    content, document = _with_document(content, document)
    path.write_bytes(content)
    return document


def _representatives(samples: Samples) -> Callable[[], Iterator[Mapping[str, Any]]]:
    return lambda: (dict(sample) for sample in samples)


def _with_document(content: bytes, document: Document) -> tuple[bytes, Document]:
    """Put a document, which names the file's own tensors, into a TFLite model."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content)
    signature = model.signatureDefs[0]
    tensors = model.subgraphs[signature.subgraphIndex].tensors
    names = {
        entry.name.decode(): tensors[entry.tensorIndex].name.decode()
        for entry in (*signature.inputs, *signature.outputs)
    }
    document = document.with_tensors(names)
    buffer, metadata = schema.BufferT(), schema.MetadataT()
    buffer.data = list(document.to_json().encode())
    metadata.name, metadata.buffer = DOCUMENT, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), metadata]
    builder = flatbuffers.Builder(len(content) + len(buffer.data) + 4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output()), document
