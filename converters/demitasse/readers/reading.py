"""What every reader gives back, and how it finishes a graph."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple

from demitasse.ir.graph import Graph, Origin, infer_types, live_names
from demitasse.ir.ops import Shape, ShapeError

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
    """Tell whether the graph still fits when the first dimension of every input is larger.

    Every output has to grow along, and in its first dimension alone: then no node has the batch baked in. A multiple of
    the batch isn't enough: what is baked in may go into it. Inputs that differ in their first dimension (an image, and
    regions of it) can't but be multiplied.
    """
    batches = {graph.type(name).shape[:1] for name in graph.inputs}
    if not batches or () in batches:
        return False
    factors = [Fraction(2), Fraction(3)]
    if len(batches) == 1:
        ((batch,),) = batches
        factors.append(Fraction(2 * batch + 1, batch))
    return all(_grows(graph, factor) for factor in factors)


def _grows(graph: Graph, factor: Fraction) -> bool:
    """Tell whether the first dimension of every output grows by a factor when that of the inputs does."""
    shapes = {name: graph.type(name).shape for name in (*graph.inputs, *graph.outputs)}
    if any(not shape or shape[0] * factor % 1 for shape in shapes.values()):
        return False
    larger: dict[str, Shape] = {name: (int(shape[0] * factor), *shape[1:]) for name, shape in shapes.items()}
    try:
        found = infer_types(graph, {name: larger[name] for name in graph.inputs})
    except ShapeError:
        return False
    return all(found[name].shape == larger[name] for name in graph.outputs)


def unknown_output(name: str, known: Iterable[str], what: str = "value") -> str:
    """Say that a net has no value of a name, and which are spelled like it; `what` is the source's word for one."""
    near = difflib.get_close_matches(name, list(known), n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"`demitasse inspect` lists the net's {what}s"
    return f"no layer gives a {what} named {name!r}; {hint}"
