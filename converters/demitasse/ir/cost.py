"""Count what a graph costs: multiply-accumulates and parameters."""

from __future__ import annotations

import math

from demitasse.ir import ops
from demitasse.ir.graph import Graph, Node

__all__ = ["macs", "node_macs"]


def node_macs(graph: Graph, node: Node) -> int:
    """Count the multiply-accumulates of one node; elementwise operations and pooling count none, as is the custom."""
    result = graph.type(node.outputs[0])
    match node.op:
        case ops.Conv():
            return result.size * math.prod(graph.type(node.inputs[1]).shape[1:])
        case ops.ConvTranspose():
            return graph.type(node.inputs[0]).size * math.prod(graph.type(node.inputs[1]).shape[1:])
        case ops.Dense():
            return result.size * graph.type(node.inputs[1]).shape[1]
        case ops.MatMul(transpose_left=transposed):
            return result.size * graph.type(node.inputs[0]).shape[-2 if transposed else -1]
        case ops.Recurrent():
            kernels = sum(graph.type(name).size for name in node.inputs[1:3])
            return math.prod(graph.type(node.inputs[0]).shape[:2]) * kernels
        case _:
            return 0


def macs(graph: Graph) -> int:
    """Count the multiply-accumulates of a graph at its batch."""
    return sum(node_macs(graph, node) for node in graph.nodes)
