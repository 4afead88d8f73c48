"""Let a convolution do the padding that stands before it.

`Conv(Pad(x, p), pads=q) = Conv(x, pads=p + q)`, as both pad with zeros. Pooling differs: padding wins no maximum and is
not counted in a mean, so a `Pad` before a pool means something else and stays.
"""

from __future__ import annotations

from dataclasses import replace

from demitasse.ir import ops
from demitasse.ir.graph import Graph, Merge, MergeKind, Node

__all__ = ["merge_pads"]


def _mergeable(pad: Node, conv: Node, graph: Graph) -> bool:
    """Check that `pad` adds zeros, to the spatial axes alone, for `conv` alone."""
    if not isinstance(pad.op, ops.Pad) or not isinstance(conv.op, ops.Conv) or conv.inputs[0] != pad.outputs[0]:
        return False
    spatial = conv.op.layout.spatial_axes(len(pad.op.pads))
    others = [padding for axis, padding in enumerate(pad.op.pads) if axis not in spatial]
    return pad.op.value == 0 and not any(map(any, others)) and pad.outputs[0] not in graph.outputs


def merge_pads(graph: Graph) -> Graph:
    """Merge zero padding into the convolutions that are its only readers."""
    consumers = graph.consumers()
    result = graph.shell()
    merged: dict[str, Node] = {}
    for node in graph.nodes:
        readers = consumers.get(node.outputs[0], [])
        if readers and all(_mergeable(node, reader, graph) for reader in readers):
            merged[node.outputs[0]] = node
            result.merged[node.outputs[0]] = Merge(MergeKind.FOLDED, readers[0].outputs[0])
            continue
        if isinstance(node.op, ops.Conv) and node.inputs[0] in merged:
            pad = merged[node.inputs[0]]
            result.adopt(graph, node, op=_padded(node.op, pad), inputs=(pad.inputs[0], *node.inputs[1:]))
            continue
        result.adopt(graph, node)
    result.outputs = list(graph.outputs)
    return result


def _padded(conv: ops.Conv, pad: Node) -> ops.Conv:
    if not isinstance(pad.op, ops.Pad):
        raise TypeError(f"{type(pad.op).__name__} is no Pad")
    outer = [pad.op.pads[axis] for axis in conv.layout.spatial_axes(len(pad.op.pads))]
    pads = [
        ops.Padding(inner.before + extra.before, inner.after + extra.after)
        for inner, extra in zip(conv.pads, outer, strict=True)
    ]
    return replace(conv, pads=tuple(pads))
