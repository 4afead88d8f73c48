"""Read a Caffe net, however it is spelled and wherever its weights lie, into one normal form.

A prototxt (or a caffemodel that carries its own structure) of any generation becomes a `Net` of current
layers: V0 and V1 spellings upgraded, layers of other phases and stages left out, inputs named in order, every
layer with its parameter blobs. Nothing here knows what a layer computes; that is the business of `layers`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from demitasse.errors import MalformedModel, UsageError
from demitasse.readers.caffe.message import Message, shown
from demitasse.readers.caffe.params import Params, Unread
from demitasse.readers.caffe.schema import Kind, MessageSpec, message_spec
from demitasse.readers.caffe.upgrade import generation_of, upgraded_layers
from demitasse.readers.caffe.weights import Blob, LayerWeights, WeightFile, read_structure, read_weights

__all__ = ["Blob", "Layer", "Net", "NetInput", "Note", "UnusedWeights", "read_net"]


@dataclass(frozen=True)
class NetInput:
    """A blob that the net is fed with: its name, its shape (None where the file states none), and where it is declared.

    `layer` is the name of the Input layer that declares it; empty for `input:` fields of the net.
    """

    name: str
    shape: tuple[int, ...] | None
    where: str
    layer: str = ""


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer in current spelling, with its parameters (unread so far) and its blobs.

    Attributes:
        name: the layer's name; unique in its net.
        type: the type's current spelling (`InnerProduct`), V0 and V1 spellings upgraded; a fork's own as it
        stands. bottoms: names of the blobs read, in order. tops: names of the blobs written, in order; one
        that is also a bottom is computed in place. blobs: the parameter blobs, shared ones included; () where
        the weights hold none for this layer. loss_weight: weight of each top in the loss, as the file states
        it; () if it doesn't. where: where the layer stands, for error messages: `deploy.prototxt:12`.
        message: everything that the file says of the layer.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    blobs: tuple[Blob, ...]
    loss_weight: tuple[float, ...]
    where: str
    message: Message = field(repr=False)
    reads: set[tuple[str, ...]] = field(default_factory=set, repr=False)

    def param(self, name: str) -> Params:
        """View a block of parameters, such as `convolution_param`; one of defaults where the file has none."""
        return self.params.block(name)

    @property
    def params(self) -> Params:
        """View the layer's own fields; its blocks are `params.block(name)`."""
        return Params(
            self.message, message_spec("LayerParameter"), (), self.reads, f"layer {self.name!r} ({self.type})"
        )

    def unread(self) -> list[Unread]:
        """List parameters that the file sets, nobody has read so far, and that could matter for the result."""
        return [missed for missed in self.params.unread() if missed.path.partition(".")[0] not in _STRUCTURE]


class UnusedWeights(NamedTuple):
    """A layer of the weight file that no layer of the net is the namesake of."""

    name: str
    type: str
    shapes: tuple[tuple[int, ...], ...]


class Note(NamedTuple):
    """Something that was understood here but that a user should know, such as what real Caffe would refuse."""

    where: str
    message: str


@dataclass(frozen=True, eq=False)
class Net:
    """A net in normal form.

    Attributes:
        name: the net's name; empty if it has none.
        inputs: the blobs fed from outside, from `input:` fields and Input layers, in order.
        layers: all other layers of the asked phase, level and stages, in the file's order, which is a valid
        order to run
            them in. Data layers of train_val nets are among them.
        path: the file that tells the structure.
        weights: the file that holds the weights, if one was given.
        generation: which spelling the structure was in: 0, 1 or 2.
        excluded: names of the layers that the asked phase, level and stages leave out.
        unused_weights: layers of the weight file that have no namesake in the net.
        unknown: fields of the net itself that no schema knows.
        notes: what was understood, but deserves a mention.
    """

    name: str
    inputs: tuple[NetInput, ...]
    layers: tuple[Layer, ...]
    path: Path
    weights: Path | None
    generation: int
    excluded: tuple[str, ...] = ()
    unused_weights: tuple[UnusedWeights, ...] = ()
    unknown: tuple[Unread, ...] = ()
    notes: tuple[Note, ...] = ()


_STRUCTURE = frozenset("name type bottom top loss_weight param blobs propagate_down include exclude".split())
"""Fields of a layer that this module itself reads, or that steer training only."""

_NET_FIELDS = frozenset("name input input_shape input_dim state layer layers force_backward debug_info".split())


class _State(NamedTuple):
    """The state of a net that its layers' include and exclude rules are checked against."""

    phase: str
    level: int
    stages: frozenset[str]


def read_net(
    prototxt: Path | None,
    weights: Path | None,
    *,
    phase: str = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
) -> Net:
    """Read a net's structure and weights.

    Args:
        prototxt: the structure in text form; None takes it from the weight file, which holds the layers of
        the net that
            was trained, so that no rule leaves any of them out; blobs that none of them writes are inputs.
        weights: a .caffemodel (binary or text) or an HDF5 snapshot (.caffemodel.h5); told by its content.
        None reads the
            structure alone.
        phase: TRAIN or TEST.
        level: the net's level, for `min_level` and `max_level` rules.
        stages: the net's stages, for `stage` and `not_stage` rules, besides those that the file itself sets.

    Raises:
        MalformedModel: if a file is missing, isn't what its name says, is damaged, or contradicts itself; all
            contradictions of the structure are listed at once.
        UsageError: if neither file is given, or the phase is unknown.
    """
    if phase not in ("TRAIN", "TEST"):
        raise UsageError(f"phase {phase!r}: a net's phase is TRAIN or TEST")
    store = read_weights(weights, structure=prototxt is None) if weights is not None else None
    if prototxt is not None:
        return _net(read_structure(prototxt), prototxt, store, _State(phase, level, frozenset(stages)))
    if weights is None or store is None:
        raise UsageError("neither a prototxt nor a weight file is given")
    if store.structure is None:
        raise MalformedModel(
            "an HDF5 snapshot holds weights alone; give the prototxt of the net too", where=str(weights)
        )
    return _net(store.structure, weights, store, None)


def _net(message: Message, path: Path, store: WeightFile | None, state: _State | None) -> Net:
    """Put a net together; without a state, every layer is kept."""
    fields = Params(message, message_spec("NetParameter"), (), set(), "")
    for spelling in ("layer", "layers"):
        fields.blocks(spelling)  # refuses what is no block
    drafts = [_draft(layer) for layer in upgraded_layers(message)]
    _refuse_all(_faults_of_form(drafts), "layers that can't be read")
    kept = [draft for draft in drafts if state is None or _included(draft, fields, state)]
    remaining = {id(draft) for draft in kept}
    inputs = [*_net_inputs(fields), *_layer_inputs(kept)]
    layers = [draft for draft in kept if draft.type != "Input"]
    if state is None:
        inputs += _undeclared_inputs(inputs, layers)
    left_out = {top: draft for draft in drafts if id(draft) not in remaining for top in draft.tops}
    _refuse_all(_faults_of_wiring(inputs, layers, left_out), "the layers don't fit together")
    weighted = {entry.name for entry in store.layers if entry.blobs} if store is not None else set[str]()
    layers, namesakes = _with_own_names(layers, weighted)
    attached, unused, notes = _attached(layers, store)
    for layer in attached:
        _note_phase(layer, state)
    return Net(
        name=fields.text("name", ""),
        inputs=tuple(inputs),
        layers=tuple(attached),
        path=path,
        weights=store.path if store is not None else None,
        generation=generation_of(message),
        excluded=tuple(draft.name for draft in drafts if id(draft) not in remaining),
        unused_weights=tuple(unused),
        unknown=tuple(_unknown(message)),
        notes=(*_mixed_spellings(message), *_duplicates(message), *namesakes, *notes),
    )


def _draft(message: Message) -> Layer:
    """Read what every layer has: name (a nameless one is called after its first top), type, blobs read and written."""
    fields = Params(message, message_spec("LayerParameter"), (), set(), "")
    return Layer(
        name=fields.text("name", "") or next(iter(fields.texts("top")), ""),
        type=fields.get("type", ""),
        bottoms=fields.texts("bottom"),
        tops=fields.texts("top"),
        blobs=(),
        loss_weight=fields.numbers("loss_weight"),
        where=message.where(),
        message=message,
    )


def _faults_of_form(layers: Sequence[Layer]) -> Iterator[Note]:
    """Find layers without a type, and ones with both kinds of rules."""
    for layer in layers:
        if not layer.type:
            yield Note(layer.where, f"layer {layer.name!r} has no type")
        if "include" in layer.message and "exclude" in layer.message:
            yield Note(layer.where, f"layer {layer.name!r} has include and exclude rules; it may have one kind only")


def _included(layer: Layer, net: Params, state: _State) -> bool:
    """Apply a layer's include and exclude rules (Net::FilterNet in src/caffe/net.cpp)."""
    state = state._replace(stages=state.stages.union(net.block("state").texts("stage")))
    includes, excludes = layer.params.blocks("include"), layer.params.blocks("exclude")
    if includes:
        return any(_meets(rule, state) for rule in includes)
    return not any(_meets(rule, state) for rule in excludes)


def _meets(rule: Params, state: _State) -> bool:
    """Tell whether a state fulfils all of a rule's conditions (Net::StateMeetsRule)."""
    return (
        rule.enum("phase", state.phase) == state.phase
        and rule.integer("min_level", state.level) <= state.level <= rule.integer("max_level", state.level)
        and state.stages.issuperset(rule.texts("stage"))
        and state.stages.isdisjoint(rule.texts("not_stage"))
    )


def _net_inputs(net: Params) -> Iterator[NetInput]:
    """Read inputs that the net itself declares, with shapes in `input_shape` or `input_dim`."""
    names, shapes, sizes = net.texts("input"), net.blocks("input_shape"), net.integers("input_dim")
    if shapes and len(shapes) != len(names):
        raise MalformedModel(f"{len(names)} inputs, but {len(shapes)} input_shape", where=net.where("input"))
    if sizes and not shapes and (not names or len(sizes) % len(names)):
        raise MalformedModel(
            f"{len(names)} inputs, but {len(sizes)} input_dim; each input has four", where=net.where("input_dim")
        )
    axes = len(sizes) // len(names) if names else 0
    for index, (name, entry) in enumerate(zip(names, net.message.all("input"), strict=True)):
        where = net.message.source.at(entry.position)
        if shapes:
            yield NetInput(name, _shape(shapes[index]), where)
        else:
            yield NetInput(name, sizes[index * axes : (index + 1) * axes] or None, where)


def _layer_inputs(layers: Sequence[Layer]) -> Iterator[NetInput]:
    """Read inputs that Input layers declare: a shape for each top, or one for all."""
    for layer in layers:
        if layer.type != "Input":
            continue
        shapes = layer.param("input_param").blocks("shape")
        if len(shapes) not in (0, 1, len(layer.tops)):
            raise MalformedModel(
                f"layer {layer.name!r} has {len(layer.tops)} tops, but {len(shapes)} shapes", where=layer.where
            )
        for index, top in enumerate(layer.tops):
            shape = _shape(shapes[index if len(shapes) > 1 else 0]) if shapes else None
            yield NetInput(top, shape, layer.where, layer.name)


def _undeclared_inputs(inputs: Sequence[NetInput], layers: Sequence[Layer]) -> list[NetInput]:
    """Take blobs that nobody writes for inputs of unknown shape: a V1 snapshot can't say what its net was fed with."""
    written = {source.name for source in inputs}
    found: dict[str, NetInput] = {}
    for layer in layers:
        for bottom in layer.bottoms:
            if bottom not in written:
                found.setdefault(bottom, NetInput(bottom, None, layer.where))
        written.update(layer.tops)
    return list(found.values())


def _shape(block: Params) -> tuple[int, ...]:
    shape = block.integers("dim")
    if any(size < 0 for size in shape):
        raise MalformedModel(f"{shape} is no shape of an input", where=block.where("dim"))
    return shape


def _faults_of_wiring(
    inputs: Sequence[NetInput], layers: Sequence[Layer], left_out: Mapping[str, Layer]
) -> Iterator[Note]:
    """Find blobs that nobody has written yet, and ones that two have (Net::AppendTop and AppendBottom)."""
    written: dict[str, str] = {}
    for source in inputs:
        if source.name in written:
            yield Note(source.where, f"input {source.name!r} is declared twice, first at {written[source.name]}")
        written[source.name] = source.where
    for layer in layers:
        for bottom in layer.bottoms:
            if bottom not in written:
                rules = "; {0.name!r} at {0.where} would, but its rules leave it out of this phase, level and stages"
                hint = rules.format(left_out[bottom]) if bottom in left_out else ""
                yield Note(layer.where, f"layer {layer.name!r} reads {bottom!r}, which nothing before it writes{hint}")
        for index, top in enumerate(layer.tops):
            if top in written and layer.bottoms[index : index + 1] != (top,):
                what = f"layer {layer.name!r} writes {top!r}, which is written at {written[top]} already"
                yield Note(layer.where, what)
            written[top] = layer.where


def _with_own_names(layers: Sequence[Layer], weighted: Set[str]) -> tuple[list[Layer], list[Note]]:
    """Tell namesakes apart, `crop` and `crop#2`, as long as no weights wait under that name.

    Raises:
        MalformedModel: if it can't be told which of several layers the weights of their name belong to.
    """
    firsts: dict[str, Layer] = {}
    counts: Counter[str] = Counter()
    renamed: list[Layer] = []
    faults: list[Note] = []
    notes: list[Note] = []
    for layer in layers:
        first = firsts.setdefault(layer.name, layer)
        counts[layer.name] += 1
        if first is layer:
            renamed.append(layer)
        elif layer.name in weighted:
            what = f"layer {layer.name!r} has a namesake at {first.where}; weights go by name, so names must differ"
            faults.append(Note(layer.where, what))
        else:
            name = f"{layer.name}#{counts[layer.name]}"
            notes.append(
                Note(layer.where, f"layer {layer.name!r} has a namesake at {first.where}; called {name!r} here")
            )
            renamed.append(replace(layer, name=name))
    _refuse_all(faults, "layers of the same name")
    return renamed, notes


def _mixed_spellings(message: Message) -> Iterator[Note]:
    if "layers" in message and "layer" in message:
        yield Note(message.where("layers"), "layers are spelled both `layers` and `layer`; Caffe would drop the latter")


def _refuse_all(faults: Iterable[Note], what: str) -> None:
    listed = list(faults)
    if listed:
        first = listed[0].where if len(listed) == 1 else None
        lines = [fault.message if first else f"{fault.where}: {fault.message}" for fault in listed]
        raise MalformedModel(lines[0] if first else "\n  ".join([f"{what}:", *lines]), where=first)


def _attached(layers: Sequence[Layer], store: WeightFile | None) -> tuple[list[Layer], list[UnusedWeights], list[Note]]:
    """Give each layer its blobs, by its name, and then by the names under which blobs are shared."""
    if store is None:
        return list(layers), [], []
    stored: dict[str, LayerWeights] = {}
    notes: list[Note] = []
    for entry in store.layers:
        if entry.blobs and entry.name in stored:
            notes.append(Note(str(store.path), f"two layers named {entry.name!r}; the last one's weights count"))
        if entry.blobs:
            stored[entry.name] = entry
    shared: dict[str, Blob] = {}
    for layer in layers:
        own = stored[layer.name].blobs if layer.name in stored else {}
        shared.update({name: own[index] for index, name in enumerate(_shared_names(layer)) if name and index in own})
    attached = [_with_blobs(layer, stored.get(layer.name), shared, store.path) for layer in layers]
    present = {layer.name for layer in layers}
    unused = [
        UnusedWeights(entry.name, entry.type, tuple(blob.shape for blob in entry.blobs.values()))
        for entry in store.layers
        if entry.blobs and entry.name not in present
    ]
    return attached, unused, notes


def _shared_names(layer: Layer) -> tuple[str, ...]:
    """Return the name under which each parameter blob is shared; empty for those that aren't."""
    return tuple(spec.text("name", "") for spec in layer.params.blocks("param"))


def _with_blobs(layer: Layer, own: LayerWeights | None, shared: dict[str, Blob], path: Path) -> Layer:
    """Return the layer with its blobs; one that is shared comes from whoever wrote it last, as in Caffe."""
    blobs = dict(own.blobs) if own is not None else {}
    for index, name in enumerate(_shared_names(layer)):
        if name in shared:
            mine, common = blobs.get(index), shared[name]
            array = common.array
            if mine is not None and mine.shape != common.shape and mine.array.size == array.size:
                array = array.reshape(mine.shape)  # share_mode: PERMISSIVE
            blobs[index] = replace(mine or common, array=array, name=name)
    missing = [index for index in range(max(blobs, default=-1) + 1) if index not in blobs]
    if missing:
        raise MalformedModel(
            f"{path} has blob {max(blobs)} of layer {layer.name!r}, but not blob {missing[0]}", where=layer.where
        )
    return replace(layer, blobs=tuple(blobs[index] for index in sorted(blobs)))


def _note_phase(layer: Layer, state: _State | None) -> None:
    """Count a layer's own phase as read where it says nothing new; another one stays to be reported.

    The layers of a snapshot all carry the phase of the net that was trained, whatever they are used for now.
    """
    own = layer.message.last("phase")
    if state is None or (own is not None and own.value == state.phase):
        layer.reads.add(("phase",))


def _unknown(message: Message) -> Iterator[Unread]:
    """List fields of the net itself that no schema knows."""
    for entry in message:
        if entry.name not in _NET_FIELDS:
            yield Unread(entry.name, shown(entry.value), message.source.at(entry.position))


def _duplicates(message: Message) -> list[Note]:
    """Note fields that stand twice where only one counts, in a text that Caffe would therefore refuse."""
    found: list[Note] = []

    def search(part: Message, spec: MessageSpec) -> None:
        for name, group in part.fields.items():
            field = spec.by_name.get(name)
            if field is None:
                continue
            if len(group) > 1 and not field.repeated and field.kind not in (Kind.FLOATS, Kind.DOUBLES, Kind.UNUSED):
                where = part.source.at(group[-1].position)
                found.append(Note(where, f"{name} stands {len(group)} times, which Caffe refuses; the last counts"))
            if field.message:
                for inner in part.messages(name):
                    search(inner, message_spec(field.message))

    if message.source.unit == "line":
        search(message, message_spec("NetParameter"))
    return found
