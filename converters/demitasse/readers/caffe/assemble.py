"""Build a graph from a net in normal form: name the values, cut at the outputs, run each layer's reader."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from demitasse.errors import MalformedModel, Offence, Unsupported, UsageError
from demitasse.ir.graph import Graph, SourceLayer
from demitasse.ir.ops import Shape, TensorType
from demitasse.readers.caffe.builder import MOST_IN_A_BLOB, Assembly, LayerBuilder, origin_of
from demitasse.readers.caffe.deploy import DeployNet
from demitasse.readers.caffe.layers import REFUSED
from demitasse.readers.caffe.net import Layer, NetInput
from demitasse.readers.caffe.registry import LayerFunction
from demitasse.readers.reading import Reading, drop_dead_nodes, holds_for_other_batches, unknown_output

__all__ = ["assemble"]


class Step(NamedTuple):
    """A layer and the values that it reads and gives."""

    layer: Layer
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]


def assemble(
    net: DeployNet,
    readers: Mapping[str, LayerFunction],
    *,
    input_shapes: Mapping[str, Shape],
    outputs: Sequence[str] | None,
    missing_allowed: bool,
) -> Reading:
    """Build the graph of a net.

    Args:
        net: what the files say, in deploy form.
        readers: the reader of each layer type.
        input_shapes: shapes that replace those that the net states.
        outputs: names of blobs or values to cut the net at; None takes what no layer reads.
        missing_allowed: put zeros in the place of weights that no file holds.

    Raises:
        Unsupported: layers or parameters that can't be carried; all of them.
        MalformedModel: weights that don't fit or layers that can't be; all of them.
        UsageError: outputs or input shapes that the net doesn't have, or an input whose shape nobody says.
    """
    steps = _name_values(net)
    ends = _outputs(net, steps, outputs)
    needed, live = _needed(steps, ends)
    _refuse_unknown_types(needed, readers)
    graph = Graph(net.name)
    graph.preprocessing = net.preprocessing
    graph.notes.extend(net.notes)
    reserved = frozenset(value for step in steps for value in step.tops) | {entry.name for entry in net.inputs}
    assembly = Assembly(graph, reserved, missing_allowed)
    _add_inputs(graph, net.inputs, live, input_shapes)
    _run_readers(needed, readers, assembly, has_weights=net.has_weights)
    graph.outputs.extend(ends)
    _record_layers(graph, steps, net.dropped)
    drop_dead_nodes(graph)
    graph.batch_is_dynamic = not assembly.batch_is_fixed and holds_for_other_batches(graph)
    return Reading(graph, tuple(assembly.traps))


def _name_values(net: DeployNet) -> list[Step]:
    """Give every result of every layer a name of its own.

    A blob that is written again, by layers that work in place, is `blob@layer` until its last writer, which keeps the
    blob's own name. The net's inputs keep their names, so there the last writer is `blob@layer` too.
    """
    inputs = {entry.name for entry in net.inputs}
    last = {blob: index for index, layer in enumerate(net.layers) for blob in layer.tops if blob not in inputs}
    current = {name: name for name in inputs}
    taken = inputs | set(last)
    steps = []
    for index, layer in enumerate(net.layers):
        missing = [blob for blob in layer.bottoms if blob not in current]
        if missing:
            where = origin_of(layer.name, layer.type, layer.where).where
            raise MalformedModel(f"it reads {', '.join(missing)}, which no layer before it gives", where=where)
        bottoms = tuple(current[blob] for blob in layer.bottoms)
        tops = []
        for blob in layer.tops:
            name = blob if last.get(blob) == index else _unused_name(f"{blob}@{layer.name}", taken)
            taken.add(name)
            tops.append(name)
        current.update(zip(layer.tops, tops, strict=True))
        steps.append(Step(layer, bottoms, tuple(tops)))
    return steps


def _unused_name(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}.{count}"
    return candidate


def _outputs(net: DeployNet, steps: Sequence[Step], asked: Sequence[str] | None) -> list[str]:
    """Resolve the asked outputs to values; without any, take the values that no layer reads, in order."""
    given = {value: value for step in steps for value in step.tops}
    if asked is None:
        read = {value for step in steps for value in step.bottoms}
        ends = [value for value in given if value not in read]
        if not ends:
            raise MalformedModel("the net has no layer that gives an output", where=net.where)
        return ends
    final = {blob: value for step in steps for blob, value in zip(step.layer.tops, step.tops, strict=True)}
    by_name = given | final
    unknown = [name for name in asked if name not in by_name]
    if unknown:
        raise UsageError("; ".join(unknown_output(name, by_name, "blob") for name in unknown))
    return list(dict.fromkeys(by_name[name] for name in asked))


def _needed(steps: Sequence[Step], ends: Iterable[str]) -> tuple[list[Step], set[str]]:
    """Return the layers that the outputs depend on, and all values that they read or give."""
    live = set(ends)
    needed = []
    for step in reversed(steps):
        if live.intersection(step.tops):
            live.update(step.bottoms)
            needed.append(step)
    return needed[::-1], live


def _refuse_unknown_types(steps: Iterable[Step], readers: Mapping[str, LayerFunction]) -> None:
    """Raise `Unsupported` with every layer whose type has no reader, and the fields that the file gives it."""
    offences = []
    for step in steps:
        layer = step.layer
        if layer.type not in readers:
            fields = "; ".join(f"{missed.path}: {missed.value}" for missed in layer.unread())
            said = f" (its fields: {fields})" if fields else ""
            near = difflib.get_close_matches(layer.type, list(readers), n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            known = REFUSED.get(layer.type)
            reason = known or f"no reader for the layer type {layer.type!r}{hint}{said}"
            offences.append(Offence(origin_of(layer.name, layer.type, layer.where).where, reason))
    if offences:
        raise Unsupported("layer types without a reader; a --plugin file can add one", offences)


def _add_inputs(graph: Graph, inputs: Sequence[NetInput], live: set[str], shapes: Mapping[str, Shape]) -> None:
    names = [entry.name for entry in inputs]
    unknown = [name for name in shapes if name not in names]
    if unknown:
        raise UsageError(f"the net has no input named {', '.join(map(repr, unknown))}; it has {', '.join(names)}")
    for entry in inputs:
        origin = origin_of(entry.layer or entry.name, "Input", entry.where)
        graph.layers.append(SourceLayer(origin, (), (entry.name,)))
        if entry.name not in live:
            graph.unused.add(entry.name)
            continue
        shape = shapes.get(entry.name, entry.shape)
        if shape is None:
            raise UsageError(
                f"{origin.where}: nothing says the shape of the input {entry.name!r}; "
                f"give --input-shape {entry.name}=1,3,224,224 (or what it is)"
            )
        if any(dim < 1 for dim in shape) or math.prod(shape) > MOST_IN_A_BLOB:
            raise MalformedModel(f"no blob can have the shape {shape} of this input", where=origin.where)
        graph.add_input(entry.name, TensorType(tuple(shape)))


def _run_readers(
    steps: Iterable[Step], readers: Mapping[str, LayerFunction], assembly: Assembly, *, has_weights: bool
) -> None:
    """Let each layer's reader add its operations; raise everything that is wrong together.

    A layer that can't be read leaves its tops without values; those that depend on it are passed over.
    """
    offences: list[Offence] = []
    faults: list[MalformedModel] = []
    for step in steps:
        if any(value not in assembly.graph.values for value in step.bottoms):
            continue
        builder = LayerBuilder(step.layer, step.bottoms, step.tops, assembly)
        try:
            readers[step.layer.type](builder)
            offences += builder.finish()
        except Unsupported as error:
            offences += error.offences
        except MalformedModel as error:
            faults.append(error)
    if offences:
        raise Unsupported("can't carry everything that this net asks for", offences)
    if len(faults) == 1 and not assembly.misfits:
        raise faults[0]
    if assembly.misfits and not has_weights:
        raise UsageError(f"no weight file is given, and layers need {len(assembly.misfits)} blobs; name a .caffemodel")
    if faults or assembly.misfits:
        lines = [*map(str, faults), *assembly.misfits]
        raise MalformedModel("\n  ".join(["the net and its weights don't fit:", *lines]))


def _record_layers(graph: Graph, steps: Iterable[Step], dropped: Iterable[Layer]) -> None:
    """Record every source layer and what it gives, also where the graph has no use for it."""
    for layer, bottoms, tops in (*steps, *(Step(layer, layer.bottoms, layer.tops) for layer in dropped)):
        graph.layers.append(SourceLayer(origin_of(layer.name, layer.type, layer.where), bottoms, tops))
        graph.unused.update(value for value in tops if value not in graph.values)
