"""Remove what no output depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from demitasse.ir import ops
from demitasse.ir.graph import Graph, live_names

__all__ = ["prune"]


def prune(graph: Graph, outputs: Sequence[str] | None = None) -> Graph:
    """Keep the nodes and weights that `outputs` (default: the graph's own) depend on; graph inputs stay.

    The blobs of removed nodes are listed in `unused`. A MaxPool whose indices nobody reads stops giving them.
    """
    kept = list(graph.outputs if outputs is None else outputs)
    live = live_names(graph, kept)
    result = graph.shell()
    for node in graph.nodes:
        if not live.intersection(node.outputs):
            result.unused.update(node.outputs)
        elif isinstance(node.op, ops.MaxPool) and node.op.with_indices and node.outputs[1] not in live:
            result.unused.add(node.outputs[1])
            result.add(
                replace(node.op, with_indices=False),
                node.inputs,
                node.outputs[0],
                node.origin,
                graph.values[node.outputs[0]].storage,
            )
        else:
            result.adopt(graph, node)
    result.outputs = kept
    return result
