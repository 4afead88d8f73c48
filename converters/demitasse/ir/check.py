"""The invariants of a graph, checked all at once: after reading, after a pass, before writing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from demitasse.errors import InvalidGraph
from demitasse.ir.graph import Graph, Node, Value
from demitasse.ir.ops import OPS, ShapeError, TensorType

__all__ = ["check"]


def check(graph: Graph) -> None:
    """Check that a graph is well-formed.

    A name means one thing; every value is a graph input or is given once, before it is read; types are what the
    operations infer; outputs exist; storages permute axes; what became of a removed value can be followed to its end.
    Weights that no node reads are allowed.

    Raises:
        InvalidGraph: some invariant is broken; the message lists every broken one.
    """
    faults = [
        *_name_faults(graph),
        *_weight_faults(graph),
        *_order_faults(graph),
        *_type_faults(graph),
        *_storage_faults(graph),
        *_merge_faults(graph),
    ]
    if faults:
        raise InvalidGraph("\n  ".join([f"graph {graph.name!r} breaks its invariants:", *faults]))


def _name_faults(graph: Graph) -> Iterator[str]:
    """Find names that mean two things or nothing."""
    givers = Counter([*graph.inputs, *(name for node in graph.nodes for name in node.outputs)])
    yield from (f"value {name!r} is given {count} times" for name, count in givers.items() if count > 1)
    yield from (f"value {name!r} is given, but has no type" for name in givers if name not in graph.values)
    yield from (f"value {name!r} has a type, but nothing gives it" for name in graph.values if name not in givers)
    yield from (f"{name!r} is both a value and a weight" for name in graph.values if name in graph.weights)
    for name, value in graph.values.items():
        if value.name != name:
            yield f"value {name!r} is recorded under the name {value.name!r}"
    if not graph.outputs:
        yield "there is no output"
    counted = Counter(graph.outputs)
    yield from (f"output {name!r} is listed {count} times" for name, count in counted.items() if count > 1)
    yield from (f"output {name!r} is no value" for name in counted if name not in graph.values)


def _weight_faults(graph: Graph) -> Iterator[str]:
    """Find weights of an element type that graphs don't have, float64 above all."""
    for name in graph.weights:
        try:
            graph.weights.type(name)
        except ValueError as error:
            yield f"weight {name!r}: {error}"


def _order_faults(graph: Graph) -> Iterator[str]:
    """Find nodes that read what nothing has given yet."""
    known = {*graph.inputs}
    for node in graph.nodes:
        for name in dict.fromkeys(node.inputs):
            if name in known or name in graph.weights:
                continue
            later = name in graph.values
            yield f"{_label(node)} reads {name!r}, which {'is given later' if later else 'nothing gives'}"
        known.update(node.outputs)


def _label(node: Node) -> str:
    return f"{node.origin.where}: {type(node.op).__name__}"


def _type_faults(graph: Graph) -> Iterator[str]:
    """Find operations that can't take their inputs, and values whose type is not what theirs infers."""
    for node in graph.nodes:
        if type(node.op) not in OPS:
            yield f"{_label(node)} is no operation of the closed set"
            continue
        try:
            operands = [graph.type(name) for name in node.inputs]
        except (KeyError, ValueError):
            continue  # reported as an unknown name or as a weight's element type
        try:
            inferred = node.op.infer(operands)
        except ShapeError as error:
            yield f"{_label(node)}: {error}"
            continue
        if len(inferred) != len(node.outputs):
            yield f"{_label(node)} gives {len(inferred)} results under {len(node.outputs)} names"
            continue
        for name, result in zip(node.outputs, inferred, strict=True):
            if name in graph.values and graph.values[name].type != result:
                yield f"{_label(node)} gives {result}, but {name!r} is recorded as {graph.values[name].type}"


def _storage_faults(graph: Graph) -> Iterator[str]:
    yield from (fault for value in graph.values.values() for fault in _storage_fault(value))


def _storage_fault(value: Value) -> Iterator[str]:
    """Find a storage that doesn't permute the axes of its value, or of the view that it takes of it."""
    axes, view = value.storage.axes, value.storage.view
    rank = value.type.rank if view is None else len(view)
    if sorted(axes) != list(range(rank)):
        yield f"value {value.name!r}: the storage axes {axes} don't permute {rank} axes"
    if view is not None and not _views(view, value.type):
        yield f"value {value.name!r}: {value.type} can't be viewed as {view}"


def _views(view: tuple[int, ...], type: TensorType) -> bool:
    known = math.prod(dim for dim in view if dim != -1)
    if view.count(-1) == 0:
        return known == type.size
    return view.count(-1) == 1 and known > 0 and type.size % known == 0


def _merge_faults(graph: Graph) -> Iterator[str]:
    """Find removed values that are still there, or whose successors lead nowhere.

    A chain ends in a value, in a weight (what was constant), or in a blob that a cut left out.
    """
    yield from (f"value {name!r} is there, yet recorded as merged" for name in graph.merged if name in graph.values)
    for name in graph.merged:
        seen, end = {name}, graph.merged[name].into
        while end in graph.merged and end not in seen:
            seen.add(end)
            end = graph.merged[end].into
        if end in seen:
            yield f"the merges of {name!r} go round in a circle"
        elif end not in graph.values and end not in graph.weights and end not in graph.unused:
            yield f"{name!r} is merged into {end!r}, which doesn't exist"
