"""A graph as text, one node a line: for people who debug, and for tests that compare graphs."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import fields

from demitasse.ir.graph import Graph, Node, Storage, Value
from demitasse.ir.ops import AnyOp, Padding

__all__ = ["dump"]


def dump(graph: Graph) -> str:
    """Write a graph as text; equal graphs give equal text, and no weight is computed.

    A line each for the inputs, the weights and the nodes in run order, then the outputs and what became of removed
    values. A node reads `results = Op(inputs, attribute=...)  # origin`; attributes at their defaults are left out.
    How the elements are ordered follows the type, unless they are as in the source.
    """
    return "\n".join(_lines(graph)) + "\n"


def _lines(graph: Graph) -> Iterator[str]:
    batch = ", dynamic batch" if graph.batch_is_dynamic else ""
    yield f"graph {graph.name} ({graph.layout.value}{batch})"
    yield from (f"  input {_typed(graph.values[name])}" for name in graph.inputs)
    yield from (f"  weight {name}: {graph.weights.type(name)}" for name in graph.weights)
    yield from (f"  {_node(node, graph)}" for node in graph.nodes)
    yield from (f"  output {name}" for name in graph.outputs)
    for name, merge in graph.merged.items():
        storage = _stored(merge.storage) if merge.storage else ""
        yield f"  merged {name} ({merge.kind.value}) into {merge.into}{storage}"
    yield from (f"  unused {name}" for name in sorted(graph.unused))
    yield from (f"  note {note}" for note in graph.notes)


def _node(node: Node, graph: Graph) -> str:
    results = ", ".join(_typed(graph.values[name]) for name in node.outputs)
    arguments = ", ".join([*node.inputs, *_attributes(node.op)])
    return f"{results} = {type(node.op).__name__}({arguments})  # {node.origin.where}"


def _typed(value: Value) -> str:
    storage = "" if value.storage.is_identity else _stored(value.storage)
    return f"{value.name}: {value.type}{storage}"


def _stored(storage: Storage) -> str:
    view = "" if storage.view is None else f" of {_attribute(storage.view)}"
    return f" stored by {_attribute(storage.axes)}{view}"


def _attributes(op: AnyOp) -> Iterator[str]:
    """Write the attributes that differ from their defaults."""
    for attribute in fields(op):
        value = getattr(op, attribute.name)
        if value != attribute.default:
            yield f"{attribute.name}={_attribute(value)}"


def _attribute(value: object) -> str:
    """Write an attribute's value without the names of Python types."""
    match value:
        case enum.Enum():
            return str(value.value)
        case Padding(before, after):
            return f"{before}:{after}"
        case tuple():
            return f"[{', '.join(map(_attribute, value))}]"
        case _:
            return repr(value)
