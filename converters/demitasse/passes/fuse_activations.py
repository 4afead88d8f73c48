"""Let an operation apply the activation that follows it, for targets whose operations can.

`Relu(f(x))` and `Clip(f(x), 0, 6)` become the `activation` of a convolution, dense layer, elementwise pair or pool `f`
whose result nobody else reads.
"""

from __future__ import annotations

from dataclasses import replace

from demitasse.ir import ops
from demitasse.ir.graph import Graph, Merge, MergeKind, Node

__all__ = ["fuse_activations"]

_Fusable = ops.Conv | ops.ConvTranspose | ops.Dense | ops.Binary | ops.MaxPool | ops.AveragePool


def _activation(op: ops.AnyOp) -> ops.Activation | None:
    match op:
        case ops.Relu():
            return ops.Activation.RELU
        case ops.Clip(low=0.0, high=6.0):
            return ops.Activation.RELU6
        case _:
            return None


def _absorbs(node: Node, reader: Node, graph: Graph) -> bool:
    return (
        isinstance(node.op, _Fusable)
        and node.op.activation is ops.Activation.NONE
        and len(node.outputs) == 1
        and graph.type(node.outputs[0]).dtype.is_float
        and node.outputs[0] not in graph.outputs
        and _activation(reader.op) is not None
        and graph.values[node.outputs[0]].storage == graph.values[reader.outputs[0]].storage
    )


def _with_activation(op: ops.AnyOp, activation: ops.AnyOp) -> ops.AnyOp:
    fused = _activation(activation)
    return replace(op, activation=fused) if isinstance(op, _Fusable) and fused is not None else op


def fuse_activations(graph: Graph) -> Graph:
    """Fuse each activation into the operation before it where that operation's result has no other reader."""
    consumers = graph.consumers()
    result = graph.shell()
    done: set[str] = set()
    for node in graph.nodes:
        if node.outputs[0] in done:
            continue
        readers = consumers.get(node.outputs[0], [])
        if len(readers) == 1 and _absorbs(node, readers[0], graph):
            final = readers[0].outputs
            result.adopt(graph, node, op=_with_activation(node.op, readers[0].op), outputs=final)
            result.merged[node.outputs[0]] = Merge(MergeKind.FOLDED, final[0])
            done.update(final)
        else:
            result.adopt(graph, node)
    result.outputs = list(graph.outputs)
    return result
