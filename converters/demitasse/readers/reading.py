"""What every reader gives back, and how it finishes a graph."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from demitasse.ir.graph import Graph, Origin, infer_types, live_names
from demitasse.ir.ops import ShapeError

__all__ = ["Reading", "Trap", "drop_dead_nodes", "holds_for_other_batches", "unknown_output"]


class Trap(NamedTuple):
    """A place where converters and runtimes commonly go wrong, and what this net asks for there."""

    origin: Origin
    message: str


class Reading(NamedTuple):
    """A graph, and the traps that its layers met.

    `parameters` says how many numbers the file holds for each layer, by name, where the graph holds what the reader
    computed of them; None where its weights are the file's.
    """

    graph: Graph
    traps: tuple[Trap, ...]
    parameters: Mapping[str, int] | None = None


def drop_dead_nodes(graph: Graph) -> None:
    """Remove what no output depends on, such as a top that nobody reads of a layer that has another one."""
    live = live_names(graph, graph.outputs)
    dead = [node for node in graph.nodes if not live.intersection(node.outputs)]
    for node in dead:
        for name in node.outputs:
            del graph.values[name]
    if dead:
        graph.nodes = [node for node in graph.nodes if live.intersection(node.outputs)]
        blobs = {value for layer in graph.layers for value in layer.outputs}
        graph.unused.update(blobs.difference(graph.values))


def holds_for_other_batches(graph: Graph) -> bool:
    """Tell whether the graph still fits when the first dimension of every input is two or three times as large.

    Every output has to grow along, and in its first dimension alone: then no node has the batch baked in.
    """
    for factor in (2, 3):
        shapes = {}
        for name in graph.inputs:
            shape = graph.values[name].type.shape
            if not shape:
                return False
            shapes[name] = (shape[0] * factor, *shape[1:])
        try:
            types = infer_types(graph, shapes)
        except ShapeError:
            return False
        for name in graph.outputs:
            shape = graph.values[name].type.shape
            if not shape or types[name].shape != (shape[0] * factor, *shape[1:]):
                return False
    return bool(graph.inputs)


def unknown_output(name: str, known: Iterable[str], what: str = "value") -> str:
    """Say that a net has no value of a name, and which are spelled like it; `what` is the source's word for one."""
    near = difflib.get_close_matches(name, list(known), n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"`demitasse inspect` lists the net's {what}s"
    return f"no layer gives a {what} named {name!r}; {hint}"
