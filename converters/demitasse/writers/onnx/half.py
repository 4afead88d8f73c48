"""Write models whose weights are stored as float16 and computed with as float32: half the size, the same speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from demitasse.ir.document import Document
from demitasse.ir.graph import Graph
from demitasse.ir.ops import DType
from demitasse.writers.onnx.assemble import DEFAULT_OPSET, assemble, parts
from demitasse.writers.onnx.draft import Draft, element_type
from demitasse.writers.onnx.stream import write_model

__all__ = ["write_f16"]

# Smaller weights (biases, slopes) would save less than the node that widens them takes.
LEAST_SIZE = 512


def write_f16(graph: Graph, path: Path, document: Document, *, opset: int = DEFAULT_OPSET) -> None:
    """Write a lowered graph with each weight as float16, widened by a `Cast` that runtimes compute once, on load.

    A weight that holds a number beyond float16's range stays float32.

    Raises:
        UsageError: see `demitasse.writers.onnx.write`.
    """
    draft = assemble(graph, document, opset)
    _halve(draft)
    write_model(path, parts(draft, document), draft.initializers, graph.weights)


def _halve(draft: Draft) -> None:
    from onnx.helper import make_node

    casts = []
    limit = np.finfo(np.float16).max
    for weight, held in draft.initializers.items():
        sizes = [initializer.type.size for initializer in held]
        if not held[0].type.dtype.is_float or max(sizes) < LEAST_SIZE:
            continue
        array = draft.graph.weights[weight]
        if np.abs(array).max() > limit:
            continue
        for place, initializer in enumerate(held):
            name = draft.fresh(f"{initializer.name}/float16")
            held[place] = initializer._replace(name=name, content=initializer.ordered(array).astype(np.float16))
            cast = draft.node_name(initializer.name, "Cast")
            casts.append(make_node("Cast", [name], [initializer.name], cast, to=element_type(DType.FLOAT32)))
    draft.nodes[:0] = casts
