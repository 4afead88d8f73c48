"""Build a graph from a net in normal form: name the values, cut at the outputs, run each layer's reader."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from demitasse.errors import MalformedModel, Offence, Unsupported, UsageError
from demitasse.ir.graph import Graph, Origin, SourceLayer
from demitasse.ir.ops import DType, Identity, Layout, Shape, TensorType
from demitasse.readers.keras.builder import Assembly, LayerBuilder, LayerFunction, Operand, Place, Result
from demitasse.readers.keras.config import STRANGE, Call, Generation, Layer, Model, Tensor, strange
from demitasse.readers.keras.expression import Expression
from demitasse.readers.keras.masks import pass_on
from demitasse.readers.keras.precision import policy_name, precision_notes, quantized_layers
from demitasse.readers.keras.weights import WeightStore, member_names, python_class
from demitasse.readers.reading import Reading, drop_dead_nodes, holds_for_other_batches, unknown_output

__all__ = ["assemble"]

_TYPES = {
    **dict.fromkeys(["float16", "bfloat16", "float32", "float64"], DType.FLOAT32),
    **{name: DType(name) for name in ("int32", "int64", "uint8", "bool")},
    **dict.fromkeys(["int8", "int16", "uint16"], DType.INT32),
}


def assemble(
    model: Model,
    generation: Generation,
    file: str,
    readers: Mapping[str, LayerFunction],
    weights: WeightStore | None,
    *,
    input_shapes: Mapping[str, Shape],
    outputs: Sequence[str] | None,
    expressions: Mapping[str, Expression],
) -> Reading:
    """Build the graph of a net.

    Args:
        model: the net.
        generation: the Keras that wrote it.
        file: the file's name for messages.
        readers: the reader of each kind of layer.
        weights: the weights; None for a net without any.
        input_shapes: shapes that replace those that the net states.
        outputs: names of layers or values to cut the net at; None takes the net's own.
        expressions: what stands for the code of Lambda layers.

    Raises:
        Unsupported: layers or parameters that can't be carried; all of them.
        MalformedModel: weights that don't fit or layers that can't be; all of them.
        UsageError: outputs or inputs that the net doesn't have, inputs whose shape nobody says, or no weights.
    """
    ends = model.outputs if outputs is None else [_end(model, name) for name in outputs]
    needed = _needed(model, ends)
    _refuse_unknown_kinds(model, needed, file, readers)
    quantized = quantized_layers(model, file)
    if quantized:
        raise Unsupported("can't read quantized weights", quantized)
    graph = Graph(model.name, layout=Layout.CHANNELS_LAST)
    graph.notes += precision_notes(model, file)
    builder = _Builder(graph, file, generation, readers, expressions)
    inputs = _add_inputs(graph, model, needed, input_shapes, file)
    found = builder.run_net(model, inputs, Place("", "", (), ()), needed)
    builder.raise_faults()
    if outputs is None and len(found) != len(model.outputs):
        raise MalformedModel("none of its layers gives its outputs", where=file)
    _add_outputs(graph, model, builder, found, outputs)
    _settle_weights(model, builder.assembly, weights, file)
    if builder.assembly.flips and generation.major < 2 and generation.backend is None:
        graph.notes.append(f"{file}: doesn't say what it was trained on; its kernels are taken as TensorFlow's")
    _record_unused(graph, model, needed, file)
    drop_dead_nodes(graph)
    graph.batch_is_dynamic = holds_for_other_batches(graph)
    return Reading(graph, tuple(builder.assembly.traps), _parameters(builder.assembly))


# --- which layers are needed ------------------------------------------------------------------------------------------


def _end(model: Model, name: str) -> Tensor:
    """Return the first result of the outermost net's layer that gives, or holds, a value of a name."""
    for layer in sorted(model.layers, key=lambda layer: -len(layer.name)):
        if name == layer.name or name.startswith((f"{layer.name}/", f"{layer.name}:", f"{layer.name}@")):
            call = name[len(layer.name) + 1 :].partition("/")[0].partition("@")[0]
            return Tensor(layer.name, int(call) if name[len(layer.name) :][:1] == ":" and call.isdecimal() else 0, 0)
    raise UsageError(unknown_output(name, _layer_names(model, "")))


def _layer_names(model: Model, prefix: str) -> Iterator[str]:
    for layer in model.layers:
        yield prefix + layer.name
        if layer.model is not None:
            yield from _layer_names(layer.model, f"{prefix}{layer.name}/")


def _needed(model: Model, ends: Iterable[Tensor]) -> set[tuple[str, int]]:
    """Return the calls of layers that the ends depend on; an input layer is its call 0."""
    layers = {layer.name: layer for layer in model.layers}
    needed: set[tuple[str, int]] = set()
    pending = [(end.layer, end.call) for end in ends]
    while pending:
        call = pending.pop()
        if call in needed:
            continue
        needed.add(call)
        layer, number = layers[call[0]], call[1]
        if number < len(layer.calls):
            pending += [(tensor.layer, tensor.call) for tensor in layer.calls[number].tensors()]
    return needed


def _refuse_unknown_kinds(
    model: Model, needed: Iterable[tuple[str, int]], file: str, readers: Mapping[str, LayerFunction]
) -> None:
    """Raise `Unsupported` with every layer whose kind has no reader."""
    names = {name for name, _ in needed}
    offences = [
        offence for layer in model.layers if layer.name in names for offence in _unknown(layer, "", file, readers)
    ]
    if offences:
        raise Unsupported("layers without a reader; a --plugin file can add one", offences)


def _unknown(layer: Layer, prefix: str, file: str, readers: Mapping[str, LayerFunction]) -> Iterator[Offence]:
    if layer.model is not None:
        for inner in layer.model.layers:
            yield from _unknown(inner, f"{prefix}{layer.name}/", file, readers)
    elif layer.kind not in readers and layer.kind != "InputLayer":
        origin = Origin(prefix + layer.name, layer.source_kind, file)
        near = difflib.get_close_matches(layer.kind, list(readers), n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        yield Offence(origin.where, f"no reader for {layer.kind!r}{hint}")


# --- the ends of the net ----------------------------------------------------------------------------------------------


def _add_inputs(
    graph: Graph, model: Model, needed: set[tuple[str, int]], shapes: Mapping[str, Shape], file: str
) -> list[Operand]:
    """Declare the inputs that are needed; the operands of all, in order."""
    layers = {layer.name: layer for layer in model.layers}
    names = [tensor.layer for tensor in model.inputs]
    unknown = [name for name in shapes if name not in names]
    if unknown:
        raise UsageError(f"the net has no input named {', '.join(map(repr, unknown))}; it has {', '.join(names)}")
    lacking = []
    for name in dict.fromkeys(names):
        origin = Origin(name, "InputLayer", file)
        graph.layers.append(SourceLayer(origin, (), (name,)))
        if (name, 0) not in needed:
            graph.unused.add(name)
            continue
        stated = layers[name].config.get("batch_shape")
        shape = shapes.get(name) or _concrete(stated, origin)
        if shape is None:
            lacking.append(f"{origin.where}: it is {_spelled(stated)}; give --input-shape {_example(name, stated)}")
        elif any(dim < 1 for dim in shape):
            raise MalformedModel(f"the input shape {shape} has an empty dimension", where=origin.where)
        else:
            graph.add_input(name, TensorType(shape, _input_type(graph, layers[name], origin)))
    if lacking:
        raise UsageError("\n  ".join(["the net doesn't say the shapes of all its inputs:", *lacking]))
    return [Operand(name) for name in names]


def _concrete(stated: object, origin: Origin) -> Shape | None:
    """Return a stated shape with one sample where it leaves the batch open; None where it leaves more open."""
    if stated is None:
        return None
    if not isinstance(stated, list | tuple) or not all(dim is None or type(dim) is int for dim in stated):
        raise MalformedModel(f"{stated!r} is no shape", where=origin.where)
    dims = [1 if dim is None and axis == 0 else dim for axis, dim in enumerate(stated)]
    return None if None in dims else tuple(dims)


def _spelled(stated: object) -> str:
    return "unknown" if stated is None else str(stated).replace("None", "?")


def _example(name: str, stated: object) -> str:
    if not isinstance(stated, list | tuple):
        return f"{name}=1,224,224,3 (or what it is)"
    dims = [str(dim or (1 if axis == 0 else 224)) for axis, dim in enumerate(stated)]
    return f"{name}={','.join(dims)} (or what it is)"


def _input_type(graph: Graph, layer: Layer, origin: Origin) -> DType:
    stated = policy_name(layer.config) or "float32"
    name = "float32" if stated.startswith("mixed_") else stated
    if name not in _TYPES:
        raise Unsupported("can't read this net", [Offence(origin.where, f"an input of the element type {name!r}")])
    dtype = _TYPES[name]
    if dtype.value != name:
        graph.notes.append(f"{origin.where}: the input of type {name} is taken as {dtype.value}")
    return dtype


def _add_outputs(
    graph: Graph, model: Model, builder: _Builder, found: Sequence[Operand], asked: Sequence[str] | None
) -> None:
    """Name the outputs after their layers, and list them; each is a value of its own, and none an input."""
    if asked is None:
        ends = [(value, _value_name(tensor)) for value, tensor in zip(found, model.outputs, strict=True)]
    else:
        unknown = [name for name in asked if name not in graph.values and name not in builder.results]
        if unknown:
            raise UsageError("; ".join(unknown_output(name, graph.values) for name in unknown))
        ends = [(builder.results.get(name, Operand(name)), name) for name in dict.fromkeys(asked)]
    for value, name in ends:
        if value != name or value in graph.outputs or value in graph.inputs:
            value = Operand(graph.add(Identity(), [value], graph.fresh(name), Origin(name, "Output", builder.file)))
        graph.outputs.append(value)


def _value_name(tensor: Tensor) -> str:
    call = f":{tensor.call}" if tensor.call else ""
    return f"{tensor.layer}{call}" + (f"@{tensor.output}" if tensor.output else "")


def _record_unused(graph: Graph, model: Model, needed: set[tuple[str, int]], file: str) -> None:
    for layer in model.layers:
        for number in range(len(layer.calls)):
            if (layer.name, number) not in needed:
                name = _value_name(Tensor(layer.name, number, 0))
                graph.layers.append(SourceLayer(Origin(name, layer.source_kind, file), (), (name,)))
                graph.unused.add(name)


_MOST_CALLS = 20_000
"""Calls of layers that are read: a few nets that each call the next one twice would come to any number of them."""


class _TooManyCalls(MalformedModel):
    """Ends the reading at once, whatever else is wrong."""


# --- the layers -------------------------------------------------------------------------------------------------------


class _Builder:
    """Adds nets to the graph, call by call.

    Attributes:
        file: the file's name for messages.
        assembly: what all layers have in common.
        results: the value of each call of each net within the net, by the name that the call would have.
    """

    def __init__(
        self,
        graph: Graph,
        file: str,
        generation: Generation,
        readers: Mapping[str, LayerFunction],
        expressions: Mapping[str, Expression],
    ) -> None:
        self.file = file
        self.results: dict[str, Operand] = {}
        self.assembly = Assembly(graph, file, generation, readers, expressions, self._run_wrapped)
        self._readers = readers
        self._calls = 0
        self._offences: list[Offence] = []
        self._faults: list[MalformedModel] = []

    def raise_faults(self) -> None:
        """Raise everything that was wrong with the layers together."""
        if self._offences:
            raise Unsupported("can't carry everything that this net asks for", dict.fromkeys(self._offences))
        if len(self._faults) == 1:
            raise self._faults[0]
        if self._faults:
            lines = [str(fault) for fault in self._faults]
            raise MalformedModel("\n  ".join(["the net's layers don't fit together:", *lines]))

    def run_net(
        self, model: Model, inputs: Sequence[Operand], place: Place, needed: set[tuple[str, int]] | None = None
    ) -> list[Operand]:
        """Add a net that is called on some values, and return its results; none if it can't be read or isn't needed.

        A layer that can't be read leaves its results without values; those that depend on it are passed over.
        """
        done: dict[tuple[str, int], Sequence[Operand] | None] = {
            (tensor.layer, 0): [value] for tensor, value in zip(model.inputs, inputs, strict=True)
        }
        pending = [
            (position, layer, number)
            for position, layer in enumerate(model.layers)
            for number in range(len(layer.calls))
            if needed is None or (layer.name, number) in needed
        ]
        members = list(member_names(map(python_class, model.layers)))
        while pending:
            waiting = []
            for position, layer, number in pending:
                tensors = list(layer.calls[number].tensors())
                if any((tensor.layer, tensor.call) not in done for tensor in tensors):
                    waiting.append((position, layer, number))
                elif any(done[tensor.layer, tensor.call] is None for tensor in tensors):
                    done[layer.name, number] = None
                else:
                    inside = _inside(place, layer, position, number, members[position])
                    done[layer.name, number] = self._guarded(layer, layer.calls[number], inside, done)
            if len(waiting) == len(pending):
                names = ", ".join(dict.fromkeys(layer.name for _, layer, _ in waiting[:5]))
                raise MalformedModel(f"layers wait for each other in a circle: {names}", where=self.file)
            pending = waiting
        if any(done.get((tensor.layer, tensor.call)) is None for tensor in model.outputs):
            return []
        return [_result(done, tensor, self.file) for tensor in model.outputs]

    def _guarded(
        self, layer: Layer, call: Call, place: Place, done: Mapping[tuple[str, int], Sequence[Operand] | None]
    ) -> list[Operand] | None:
        """Run a call; None, with the fault noted, if it can't be read."""
        try:
            return self._run(layer, _resolved(call, done, self.file), place) or None
        except _TooManyCalls:
            raise
        except Unsupported as error:
            self._offences += error.offences
        except MalformedModel as error:
            self._faults.append(error)
        return None

    def _run(self, layer: Layer, call: Call, place: Place) -> list[Operand]:
        self._calls += 1
        if self._calls > _MOST_CALLS:
            raise _TooManyCalls(f"it would take more than {_MOST_CALLS:,} calls of layers", where=self.file)
        builder = LayerBuilder(layer, call, place, self.assembly)
        if layer.model is not None:
            results = self.run_net(layer.model, builder.inputs(len(layer.model.inputs)), place)
            for index, value in enumerate(results):
                self.results[place.name if index == 0 else f"{place.name}@{index}"] = value
            return results
        results = builder.finish(self._read(builder, layer))
        pass_on(self.assembly, layer.kind, builder.operands, results)
        record = SourceLayer(builder.origin, tuple(builder.operands), tuple(results))
        self.assembly.graph.layers.append(record)
        return results

    def _run_wrapped(self, builder: LayerBuilder, layer: Layer, inputs: Sequence[Any]) -> list[Operand]:
        if layer.model is not None:
            results = self.run_net(layer.model, [Operand(value) for value in inputs], builder.place)
            if not results:
                raise Unsupported("", [Offence(builder.origin.where, "the net that it wraps can't be read")])
            return results
        if layer.kind not in self._readers:
            raise Unsupported("", [Offence(builder.origin.where, f"no reader for {layer.kind!r}")])
        return builder.finish(self._read(builder, layer), named=False)

    def _read(self, builder: LayerBuilder, layer: Layer) -> Result:
        reader = self._readers.get(layer.kind)
        if reader is None:
            raise MalformedModel(f"a {layer.kind} that its net doesn't list as an input", where=builder.origin.where)
        try:
            return reader(builder)
        except STRANGE as error:
            if not reader.__module__.startswith("demitasse."):  # a plugin's own fault
                raise
            raise strange("it", error, builder.origin.where) from error


def _inside(place: Place, layer: Layer, position: int, number: int, member: str) -> Place:
    """Return where a call of a layer of a net stands, from where the net does.

    The net may be the part of a layer that wraps it; then its layers are parts of that layer as well.
    """
    outer, owner = (f"{name}/" if name else "" for name in (place.name, place.owner))
    return Place(
        f"{outer}{layer.name}:{number}" if number else f"{outer}{layer.name}",
        owner + layer.name,
        place.route if place.part else (*place.route, layer.name),
        (*place.position, position),
        (*place.part, "layers", member) if place.part else (),
        place.trained and layer.config.get("trainable", True) is not False,
    )


def _result(done: Mapping[tuple[str, int], Sequence[Operand] | None], tensor: Tensor, file: str) -> Operand:
    results = done[tensor.layer, tensor.call] or ()
    if tensor.output >= len(results):
        detail = f"the layer {tensor.layer!r} gives {len(results)} results; number {tensor.output + 1} is asked for"
        raise MalformedModel(detail, where=file)
    return results[tensor.output]


def _resolved(call: Call, done: Mapping[tuple[str, int], Sequence[Operand] | None], file: str) -> Call:
    """Put values in the place of tensors in the arguments of a call."""

    def value(argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return _result(done, argument, file)
        if isinstance(argument, list):
            return [value(entry) for entry in argument]
        if isinstance(argument, dict):
            return {key: value(entry) for key, entry in argument.items()}
        return argument

    return Call(tuple(map(value, call.args)), value(dict(call.kwargs)))


# --- the weights ------------------------------------------------------------------------------------------------------


def _parameters(assembly: Assembly) -> dict[str, int]:
    """Count the numbers of each layer as Keras does; all calls of a shared layer have them once."""
    counts: dict[str, int] = {}
    for slot in assembly.slots.values():
        if not slot.listed_again:
            layer = "/".join(slot.route)
            counts[layer] = counts.get(layer, 0) + math.prod(slot.shape)
    return counts


def _settle_weights(model: Model, assembly: Assembly, weights: WeightStore | None, file: str) -> None:
    slots = list(assembly.slots.values())
    if not slots:
        return
    if weights is None:
        raise UsageError(
            f"{file}: describes a net with weights, but holds none; give the file with the weights as well "
            f"(it needs {len(slots)} of them, the first is {slots[0].name})"
        )
    misfits = weights.fill(model, slots)
    if misfits:
        raise MalformedModel("\n  ".join([f"the net and the weights in {weights.where} don't fit:", *misfits]))
