"""Assemble a model from a lowered graph, one node after the other."""

from __future__ import annotations

from typing import BinaryIO

from demitasse.errors import InvalidGraph
from demitasse.ir.document import Document
from demitasse.ir.graph import Graph
from demitasse.ir.ops import Layout, SpatialOp
from demitasse.writers.tflite.emitters import EMITTERS
from demitasse.writers.tflite.integer import INTEGER_EMITTERS, stays_real
from demitasse.writers.tflite.lowering import Lowering
from demitasse.writers.tflite.model import ModelBuilder

__all__ = ["DOCUMENT", "write_to"]

DOCUMENT = "demitasse"  # the name of the metadata buffer that holds the document


def write_to(
    file: BinaryIO,
    graph: Graph,
    document: Document | None = None,
    *,
    half: bool = False,
    integer: bool = False,
    keep_all: bool = False,
) -> tuple[str, ...]:
    """Write a model to an open file.

    Args:
        file: where the bytes go, from its present position on, which has to be 0.
        graph: lowered for TFLite.
        document: what the model says about itself.
        half: whether to store weights as float16.
        integer: whether to spell operations as they can be quantized to 8 bits; the model computes with float32.
        keep_all: whether every tensor that is computed becomes an output.

    Returns:
        The names of computed tensors that have to stay real numbers when the model is quantized.

    Raises:
        InvalidGraph: the graph isn't lowered for this target.
    """
    _check_layout(graph)
    model = ModelBuilder(half=half)
    to = Lowering(graph, model)
    emitters = INTEGER_EMITTERS if integer else EMITTERS
    real: list[str] = []
    for node in graph.nodes:
        before = len(model.computed())
        emitters[type(node.op)](to, node.op, node)
        if integer and stays_real(to, node):
            real += [tensor.name for tensor in model.computed()[before:]]
    outputs = {name: to.read(name) for name in graph.outputs}
    if keep_all:
        outputs |= {tensor.name: tensor for tensor in model.computed()}
    if document is not None:
        model.metadata(DOCUMENT, document.to_json().encode())
    inputs = {name: to.read(name) for name in graph.inputs}
    description = "" if document is None else document.tool
    model.write(file, inputs=inputs, outputs=outputs, description=description)
    return tuple(real)


def _check_layout(graph: Graph) -> None:
    for node in graph.nodes:
        if isinstance(node.op, SpatialOp) and node.op.layout is not Layout.CHANNELS_LAST:
            raise InvalidGraph(f"{node.origin.where}: the TFLite writer was given channels-first images")
