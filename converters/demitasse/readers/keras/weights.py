"""Match the weights that layers ask for with the arrays that a file stores.

Layers ask while the graph is built, and get a `Slot`; which array fills it is settled when all have asked. That is
because Keras stores the weights of a nested net in one list, first those of all its layers that are trained, then the
others: where one of them stands depends on all layers. There are two ways to store:

* `NamedWeights`, the .h5 files of all generations (Keras' legacy/saving/legacy_h5_format.py): a group for each layer
  of the net, with an attribute `weight_names` that lists its arrays in order;
* `NumberedWeights`, the .weights.h5 files and .keras archives of Keras 3 (saving/saving_lib.py): a group for each layer
  and each part of one, with arrays 0, 1, 2, ...
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from demitasse.errors import InvalidGraph, MalformedModel
from demitasse.ir.ops import Shape
from demitasse.ir.weights import Array
from demitasse.readers.keras.config import Layer, Model
from demitasse.readers.keras.h5 import H5Group, StoredArray

__all__ = [
    "BlankWeights",
    "Form",
    "NamedWeights",
    "NumberedWeights",
    "Slot",
    "WeightStore",
    "member_names",
    "python_class",
]


class Form(NamedTuple):
    """A shape in which a file may hold a weight, and the transposition and shape that make it the usual one."""

    stored: Shape
    axes: tuple[int, ...] = ()
    shape: Shape = ()


@dataclass(frozen=True, slots=True)
class Zeros:
    """Stands for an array that no file holds."""

    shape: Shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def read(self) -> Array:
        return np.broadcast_to(np.float32(0), self.shape)  # takes no memory


@dataclass(eq=False)
class Slot:
    """A weight that a layer asks for.

    Attributes:
        name: `layer/role`, as the graph calls it.
        place: the position of its layer among the layers of the net, then in the nested net, ..., then its own number:
            sorted by it, slots are in the order in which Keras counts weights.
        route: the names of the nets and layers that it belongs to, outermost first.
        part: the layer's own parts that it belongs to, as Keras calls these attributes: `forward_layer`, `cell`.
        role: `kernel`, `bias`, ...
        forms: the shapes in which a file may hold it; the first is the usual one.
        listed_again: whether it is another slot's weight, which Keras 3 stores here once more.
        trained: whether Keras counts it among the weights that are trained; a layer asks for those first.
        flipped: the spatial axes along which a file of Theano holds it the other way round.
    """

    name: str
    place: tuple[int, ...]
    route: tuple[str, ...]
    part: tuple[str, ...]
    role: str
    forms: tuple[Form, ...]
    listed_again: bool
    trained: bool
    flipped: tuple[int, ...] = ()
    _filling: StoredArray | Zeros | None = field(default=None, init=False)
    _form: Form | None = field(default=None, init=False)

    @property
    def shape(self) -> Shape:
        """The usual shape."""
        return self.forms[0].stored

    @property
    def is_filled(self) -> bool:
        return self._filling is not None

    def fill(self, stored: StoredArray | Zeros) -> str | None:
        """Take an array of a file; returns what is wrong with its shape, if anything."""
        for form in self.forms:
            if form.stored == stored.shape:
                self._filling, self._form = stored, form
                return None
        return f"{self.name}: the net needs the shape {_spelled(self.shape)}, the file holds {_spelled(stored.shape)}"

    def array(self) -> Array:
        """Return the array in its usual shape, in the type that the file holds; a view where the file allows one."""
        if self._filling is None or self._form is None:
            raise InvalidGraph(f"the weight {self.name!r} is read before it is known")
        array = self._filling.read()
        if self._form.axes:
            array = array.transpose(self._form.axes)
        if self._form.shape:
            array = array.reshape(self._form.shape)
        return np.flip(array, self.flipped) if self.flipped else array

    def numbers(self) -> NDArray[np.float64]:
        """Return the array in double precision, to compute other weights from."""
        return self.array().astype(np.float64)

    @property
    def is_float32(self) -> bool:
        return self._filling is not None and self._filling.dtype == np.dtype(np.float32)


class WeightStore(Protocol):
    """The weights of a file."""

    where: str

    def fill(self, model: Model, slots: Sequence[Slot]) -> list[str]:
        """Fill all slots of a net, and return what doesn't fit."""
        ...


class BlankWeights:
    """Fills every slot with zeros, to look at a net without its weights."""

    where = "no file"

    def fill(self, model: Model, slots: Sequence[Slot]) -> list[str]:  # noqa: ARG002
        return [fault for slot in slots if (fault := slot.fill(Zeros(slot.shape)))]


def _spelled(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))}) of {math.prod(shape)} numbers"


def _by_layer(slots: Iterable[Slot]) -> dict[tuple[str, ...], list[Slot]]:
    """Group slots by the route of their layer, all in Keras' order."""
    groups: dict[tuple[str, ...], list[Slot]] = {}
    for slot in sorted(slots, key=lambda slot: slot.place):
        groups.setdefault(slot.route, []).append(slot)
    return groups


# --- lists of names, by layer -----------------------------------------------------------------------------------------

_RANDOM_STATES = frozenset({"StateVar", "seed_generator_state", "SGState", "count"})
"""Weights that change nothing at inference: random generators, and how many samples a Normalization has seen."""


class NamedWeights:
    """The weights of an .h5 file: a list for each layer of the outermost net.

    Attributes:
        where: the file's name for messages.
    """

    def __init__(self, group: H5Group, where: str) -> None:
        """Read the names of the layers.

        Raises:
            MalformedModel: the group isn't laid out so.
        """
        names = group.texts("layer_names")
        if names is None:
            raise MalformedModel(
                "it has no attribute 'layer_names': no weights as Keras stores them", where=group.where
            )
        self.where = where
        self._group = group
        self._names = dict.fromkeys(names)

    def fill(self, model: Model, slots: Sequence[Slot]) -> list[str]:  # noqa: ARG002
        pending: dict[str, list[Slot]] = {}
        for slot in sorted((slot for slot in slots if not slot.listed_again), key=lambda slot: slot.place):
            pending.setdefault(self._holder(slot.route), []).append(slot)
        missing = [name for name in pending if name not in self._names]
        if not missing:
            return [line for name, group in pending.items() for line in self._fill_layer(name, group)]
        # Nets that were built twice have layers of other numbers: then Keras counts the layers with weights.
        stored = [name for name in self._names if self._weight_names(name)]
        if len(stored) != len(pending):
            some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            return [f"the net has weights in {len(pending)} layers, the file in {len(stored)}; it has none for {some}"]
        pairs = zip(stored, pending.values(), strict=True)
        return [line for name, group in pairs for line in self._fill_layer(name, group)]

    def _holder(self, route: tuple[str, ...]) -> str:
        """Return the name of the list that holds a layer's weights.

        It is the outermost net's layer; Keras 1 also lists the layers of a Sequential that is a layer on their own.
        """
        return next((name for name in route if name in self._names), route[0])

    def _weight_names(self, layer: str) -> list[str]:
        names = self._group.group(layer).texts("weight_names") or []
        return [name for name in names if _role(name) not in _RANDOM_STATES]

    def _fill_layer(self, layer: str, slots: list[Slot]) -> list[str]:
        names = self._weight_names(layer)
        order = self._by_name(names, slots) or [slot for slot in slots if slot.trained] + [
            slot for slot in slots if not slot.trained
        ]
        if len(names) != len(order):
            needed = f"{len(order)} weights ({', '.join(slot.name for slot in order)})"
            return [f"layer {layer!r}: the net needs {needed}, the file holds {len(names)} ({', '.join(names)})"]
        group = self._group.group(layer)
        faults = []
        for name, slot in zip(names, order, strict=True):
            fault = slot.fill(group.array(name)) or _contradiction(name, slot)
            if fault:
                faults.append(fault)
        return faults

    @staticmethod
    def _by_name(names: list[str], slots: list[Slot]) -> list[Slot] | None:
        """Order slots by the names of the stored arrays, if each name clearly means one of them.

        This is for nested nets: which of their layers were being trained, and so in which order their weights stand,
        isn't always to be known from the file.
        """
        if len(_by_layer(slots)) < 2:
            return None
        known: dict[tuple[str, str], Slot] = {}
        for slot in slots:
            key = (slot.route[-1], slot.role)
            if key in known:
                return None
            known[key] = slot
        order = []
        for name in names:
            owners, role = name.split("/")[:-1], _role(name)
            found = [known[owner, role] for owner in owners if (owner, role) in known]
            if len(found) != 1:
                return None
            order.append(found[0])
        return order if len({slot.name for slot in order}) == len(slots) else None


_ROLES = frozenset("kernel bias gamma beta moving_mean moving_variance recurrent_kernel embeddings alpha".split())
_ROLES |= {"depthwise_kernel", "pointwise_kernel", "mean", "variance"}


def _role(name: str) -> str:
    return name.partition(":")[0].rpartition("/")[2]


def _contradiction(name: str, slot: Slot) -> str | None:
    """Say so where a stored name tells clearly of another weight than the one that it is taken for."""
    told = _role(name)
    if told == "depthwise_kernel" and slot.role == "kernel":  # of a DepthwiseConv2D before Keras 3
        return None
    if told in _ROLES and slot.role in _ROLES and told != slot.role:
        return f"{slot.name}: the file's weights are in an unknown order, with {name!r} in its place"
    return None


# --- numbered arrays, by part of a layer ------------------------------------------------------------------------------


def python_class(layer: Layer) -> str:
    """Return the name of the Python class of a layer."""
    return "Functional" if layer.kind == "Model" else layer.source_kind.rpartition(">")[2]


def member_names(kinds: Iterable[str]) -> Iterator[str]:
    """Name the layers of a net as Keras 3 does it in files: `conv2d`, `conv2d_1`, `dense`, ...

    The rule is `to_snake_case` in Keras' utils/naming.py, and a number for each further one of a kind.
    """
    counts: dict[str, int] = {}
    for kind in kinds:
        name = re.sub(r"\W+", "", kind)
        name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
        name = re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
        count = counts.get(name, 0)
        counts[name] = count + 1
        yield f"{name}_{count}" if count else name


class NumberedWeights:
    """The weights of a .weights.h5 file or a .keras archive: a group for each layer, in nested nets and all.

    Attributes:
        where: the file's name for messages.
    """

    def __init__(self, group: H5Group, where: str) -> None:
        self.where = where
        self._root = group
        # tf.keras 2.12 and 2.13 call the list of layers so.
        self._container = "layers" if group.find_group("layers") else "_layer_checkpoint_dependencies"

    def fill(self, model: Model, slots: Sequence[Slot]) -> list[str]:
        paths = dict(self._paths(model, (), ""))
        faults = []
        for route, group in _by_layer(slots).items():
            parts: dict[tuple[str, ...], list[Slot]] = {}
            for slot in group:
                parts.setdefault(slot.part, []).append(slot)
            for part, members in parts.items():
                faults += self._fill_part(["/".join([path, *part]) for path in _places(paths, route)], members)
        return faults

    def _variables(self, path: str) -> H5Group | None:
        """Return the group of a layer's arrays; before Keras 3, parts were written with their leading underscores."""
        before, _, last = path.rpartition("/")
        names = (f"{path}/vars", f"{before}/_{last}/vars")
        return next((found for name in names if (found := self._root.find_group(name)) is not None), None)

    def _paths(self, model: Model, route: tuple[str, ...], path: str) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield the route of every layer of a net with the path of its group."""
        layers = [layer for layer in model.layers if not layer.kind.startswith("ops.")]
        for layer, member in zip(layers, member_names(map(python_class, layers)), strict=True):
            inner = f"{path}/{self._container}/{member}"
            yield (*route, layer.name), inner
            if layer.model is not None:
                yield from self._paths(layer.model, (*route, layer.name), inner)

    def _fill_part(self, paths: Sequence[str], slots: Sequence[Slot]) -> list[str]:
        """Fill the slots of a layer, or a part of one, from the first of some paths that the file has."""
        group = next((found for path in paths if (found := self._variables(path)) is not None), None)
        path = paths[0]
        if group is None:
            return [f"{slots[0].name}: the file has no group {path!r}"]
        stored = sorted((name for name in group.names if name.isdecimal()), key=int)
        arrays = [group.array(name) for name in stored]
        if len(arrays) > len(slots):  # what a Normalization has counted stands at its end
            arrays = [array for array in arrays if array.dtype.kind == "f"]
        if len(arrays) != len(slots):
            needed = ", ".join(f"{slot.name} {slot.shape}" for slot in slots)
            held = ", ".join(str(array.shape) for array in arrays)
            return [f"{path}: the net needs {len(slots)} weights ({needed}), the file holds {len(arrays)} ({held})"]
        return [fault for array, slot in zip(arrays, slots, strict=True) if (fault := slot.fill(array))]


def _places(paths: Mapping[tuple[str, ...], str], route: tuple[str, ...]) -> list[str]:
    """Return where a layer's weights may stand: in its own place, or where another net has the same layer.

    A layer that nets share is stored once, in the first of them.
    """
    others = [path for other, path in paths.items() if other[-1] == route[-1] and other != route]
    return [paths.get(route, "?"), *others]
