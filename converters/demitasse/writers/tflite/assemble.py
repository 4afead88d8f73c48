"""Assemble a model from a lowered graph, one node after the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from demitasse.errors import InvalidGraph
from demitasse.ir.document import Document
from demitasse.ir.graph import Graph
from demitasse.ir.ops import Layout, SpatialOp
from demitasse.writers.tflite.emitters import EMITTERS
from demitasse.writers.tflite.integer import INTEGER_EMITTERS, real_nodes
from demitasse.writers.tflite.lowering import Lowering
from demitasse.writers.tflite.model import ModelBuilder, Tensor

__all__ = ["DOCUMENT", "Draft", "assemble"]

DOCUMENT = "demitasse"  # the name of the metadata buffer that holds the document


@dataclass(frozen=True, slots=True)
class Draft:
    """A model that is ready to be written.

    Attributes:
        model: its operators and tensors.
        inputs: the tensors that it takes, by the names of its signature.
        outputs: the tensors that it gives, by the names of its signature.
        real: the names of computed tensors that have to stay real numbers when it is quantized.
        description: what the file says it is.
    """

    model: ModelBuilder
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    real: frozenset[str]
    description: str

    def write(self, file: BinaryIO, *, keep_all: bool = False) -> None:
        """Write the model to an empty file; with `keep_all`, every tensor that is computed is an output."""
        outputs = dict(self.outputs)
        if keep_all:
            outputs |= {tensor.name: tensor for operator in self.model.operators for tensor in operator.outputs}
        self.model.write(file, inputs=self.inputs, outputs=outputs, description=self.description)


def assemble(
    graph: Graph,
    document: Document | None = None,
    *,
    half: bool = False,
    integer: bool = False,
    real: Collection[str] = (),
) -> Draft:
    """Emit every node of a graph.

    Args:
        graph: lowered for TFLite.
        document: what the model says about itself.
        half: whether to store weights as float16.
        integer: whether to spell operations as they can be quantized to 8 bits; the model computes with float32.
        real: results of nodes that stay real when it is quantized, besides those that have to.

    Raises:
        InvalidGraph: the graph isn't lowered for this target.
    """
    _check_layout(graph)
    model = ModelBuilder(half=half)
    to = Lowering(graph, model)
    kept = real_nodes(graph) if integer else frozenset()
    stay: set[str] = set()
    for node in graph.nodes:
        before = len(model.operators)
        emitters = INTEGER_EMITTERS if integer and node.outputs[0] not in kept else EMITTERS
        emitters[type(node.op)](to, node.op, node)
        if node.outputs[0] in kept or not set(real).isdisjoint(node.outputs):
            stay.update(tensor.name for operator in model.operators[before:] for tensor in operator.outputs)
    inputs = {name: to.read(name) for name in graph.inputs}
    outputs = {name: to.read(name) for name in graph.outputs}
    if document is not None:
        model.metadata(DOCUMENT, document.to_json().encode())
    return Draft(model, inputs, outputs, frozenset(stay), "" if document is None else document.tool)


def _check_layout(graph: Graph) -> None:
    for node in graph.nodes:
        if isinstance(node.op, SpatialOp) and node.op.layout is not Layout.CHANNELS_LAST:
            raise InvalidGraph(f"{node.origin.where}: the TFLite writer was given channels-first images")
