"""Remove operations that give back what they are given.

The survivor of a pair of names: where the identity's result is a graph output, or is the blob of which its input is
an earlier in-place state (`fc6@relu6` and `fc6`), the result's name; otherwise the input's. A graph input keeps its
name, and an identity between a graph input (or weight, or another output) and a graph output stays.
"""

from __future__ import annotations

from demitasse.ir import ops
from demitasse.ir.graph import Graph, Merge, MergeKind, Node

__all__ = ["drop_identities"]


def _is_identity(node: Node, graph: Graph) -> bool:
    x, result = node.inputs[0], node.outputs[0]
    if graph.type(x) != graph.type(result):
        return False
    if x in graph.values and graph.values[x].storage != graph.values[result].storage:
        return False  # two blobs of different order that happen to share their elements: both names are needed
    match node.op:
        case ops.Identity() | ops.Cast():
            return True
        case ops.Reshape() | ops.Pad() | ops.Tile():
            return True
        case ops.Transpose(axes=axes):
            return axes == tuple(range(len(axes)))
        case ops.Concat():
            return len(node.inputs) == 1
        case ops.Slice(steps=steps):
            return all(step > 0 for step in steps)
        case _:
            return False


def _takes_over(alias: str, name: str, graph: Graph) -> bool:
    """Say whether `alias` is the name to keep for what has been called `name`."""
    return alias in graph.outputs or name.startswith(f"{alias}@")


def drop_identities(graph: Graph) -> Graph:
    """Remove the operations whose result equals their input; of the two names one survives (see the module)."""
    produced = {name for node in graph.nodes for name in node.outputs}
    kept: dict[str, str] = {}  # the name that a value will have in the result

    def final(name: str) -> str:
        while name in kept:
            name = kept[name]
        return name

    dropped: set[int] = set()
    for index, node in enumerate(graph.nodes):
        if not _is_identity(node, graph):
            continue
        name, alias = final(node.inputs[0]), node.outputs[0]
        if alias in graph.outputs and (name not in produced or name in graph.outputs):
            continue
        if name in produced and name not in graph.outputs and _takes_over(alias, name, graph):
            kept[name] = alias
        else:
            kept[alias] = name
        dropped.add(index)

    result = graph.shell()
    for index, node in enumerate(graph.nodes):
        if index not in dropped:
            inputs = [final(name) for name in node.inputs]
            result.adopt(graph, node, inputs=inputs, outputs=[final(name) for name in node.outputs])
    for name, survivor in kept.items():
        result.merged[name] = Merge(MergeKind.IDENTITY, survivor)
    result.outputs = [final(name) for name in graph.outputs]
    return result
