"""What a layer's reader function works with: its parameters, its inputs and weights, and the graph that it adds to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from demitasse.errors import MalformedModel, Offence, Unsupported
from demitasse.ir.graph import Graph, Origin
from demitasse.ir.ops import AnyOp, Binary, BinaryFunction, Cast, DType, Reshape, Shape, TensorType
from demitasse.ir.weights import Array
from demitasse.readers.caffe.net import Blob, Layer
from demitasse.readers.caffe.params import Params
from demitasse.readers.reading import Trap

# The most numbers that constants are computed from; a shape may be anything as long as no blob fits it.
MOST_NUMBERS = 1 << 24

# The most numbers in a blob: Blob::Reshape in blob.cpp counts them in 32 bits.
MOST_IN_A_BLOB = 2**31 - 1

__all__ = ["Assembly", "LayerBuilder", "origin_of"]


@dataclass(eq=False)
class Assembly:
    """Holds what the layers of a net have in common while its graph is built.

    `reserved` are the names of all blobs' values, given or not yet; `shared` maps blobs that several layers share to
    their weight; `whole` maps values that hold whole numbers, as Caffe's floats do, to the integers they were made of;
    `missing_allowed` gives zeros for weights that no file holds.
    """

    graph: Graph
    reserved: frozenset[str]
    missing_allowed: bool
    shared: dict[tuple[str, str, Shape], str] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    misfits: list[str] = field(default_factory=list)
    traps: list[Trap] = field(default_factory=list)
    batch_is_fixed: bool = False

    def free(self, name: str) -> str:
        """Return `name`, or the first of `name.2`, `name.3`, ... that is neither taken nor reserved."""
        candidate, count = name, 1
        while candidate in self.reserved or self.graph.fresh(candidate) != candidate:
            count += 1
            candidate = f"{name}.{count}"
        return candidate


def origin_of(layer: str, kind: str, where: str) -> Origin:
    """Make an origin of a place that is spelled `file:line`, or otherwise."""
    file, _, line = where.rpartition(":")
    return Origin(layer, kind, file, int(line)) if line.isdecimal() else Origin(layer, kind, where)


class LayerBuilder:
    """Reads one layer into the graph.

    Attributes:
        name: the layer's name.
        type: the layer's type.
        origin: the layer and its place, as every node and message names it.
        bottoms: the values that the layer reads, as they are when it runs.
        tops: the values that the layer has to give, in order.
        params: the layer's own fields. `param(block)` views a parameter block.
    """

    def __init__(self, layer: Layer, bottoms: Sequence[str], tops: Sequence[str], assembly: Assembly) -> None:
        self.name = layer.name
        self.type = layer.type
        self.origin = origin_of(layer.name, layer.type, layer.where)
        self.bottoms = tuple(bottoms)
        self.tops = tuple(tops)
        self.params: Params = layer.params
        self._layer = layer
        self._assembly = assembly
        self._graph = assembly.graph
        self._given = 0
        self._read: set[int] = set()

    # --- what the layer is given ---------------------------------------------------------------------------------

    def param(self, block: str) -> Params:
        """View a parameter block, for example `param("pooling_param")`; defaults where the file says nothing."""
        return self._layer.param(block)

    @property
    def x(self) -> str:
        """The only bottom.

        Raises:
            MalformedModel: there are more, or none.
        """
        return self.inputs(1)[0]

    def inputs(self, least: int, most: int | None = None) -> tuple[str, ...]:
        """Return the bottoms, which must be `least` to `most` in number (exactly `least` where `most` is None).

        Raises:
            MalformedModel: there are more or fewer.
        """
        most = least if most is None else most
        if not least <= len(self.bottoms) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise self.malformed(f"it has {len(self.bottoms)} bottoms, and needs {wanted}")
        return self.bottoms

    def shape(self, value: str) -> Shape:
        """Return the shape of a value."""
        return self._graph.type(value).shape

    def rank(self, value: str) -> int:
        """Return the number of axes of a value."""
        return len(self.shape(value))

    def axis(self, axis: int, rank: int, what: str = "axis") -> int:
        """Resolve an axis that may count from the end.

        Raises:
            MalformedModel: there is no such axis.
        """
        if not -rank <= axis < rank:
            raise self.malformed(f"{what} {axis} is out of range for an input with {rank} axes")
        return axis % rank

    # --- weights -----------------------------------------------------------------------------------------------------

    @property
    def blob_count(self) -> int | None:
        """The number of parameter blobs that the file holds for this layer; None where there are no weights at all."""
        if not self._layer.blobs and self._assembly.missing_allowed:
            return None
        return len(self._layer.blobs)

    def stored_shape(self, index: int) -> Shape | None:
        """Return the shape of a blob as the file tells it; None where the file holds none."""
        return self._layer.blobs[index].shape if index < len(self._layer.blobs) else None

    def blob(self, index: int, what: str, shape: Shape) -> Array:
        """Return a parameter blob in the shape that the layer needs; a view, in the type that the file holds.

        A blob that is missing, or of another shape, is noted (all such are reported together), and zeros take its
        place. Legacy shapes, with their four right-aligned dimensions, fit where Caffe lets them fit.

        Raises:
            MalformedModel: no blob can have that shape.
        """
        self._read.add(index)
        if math.prod(shape) > MOST_IN_A_BLOB:
            raise self.malformed(f"{what} of shape {_spelled(shape)}: no blob holds as many")
        if index < len(self._layer.blobs):
            blob = self._layer.blobs[index]
            if _fits(blob, shape):
                return blob.array.reshape(shape)
            self._misfit(
                f"{what}: the net needs the shape {_spelled(shape)}, {blob.where} holds {_spelled(blob.shape)}"
            )
        elif not self._assembly.missing_allowed:
            self._misfit(f"{what} of shape {_spelled(shape)}: the weights hold none")
        return np.broadcast_to(np.zeros((), np.float32), shape)

    def numbers(self, index: int, what: str, shape: Shape) -> NDArray[np.float64]:
        """Return a small parameter blob in double precision, to compute constants from.

        Raises:
            MalformedModel: the layer asks for more numbers than any net has channels.
        """
        if math.prod(shape) > MOST_NUMBERS:
            raise self.malformed(f"{what} of shape {_spelled(shape)}: no net has as many channels")
        return self.blob(index, what, shape).astype(np.float64)

    def weight(
        self, index: int, role: str, shape: Shape, *, view: Shape | None = None, transposed: bool = False
    ) -> str:
        """Add a parameter blob to the graph's weights as `layer/role`, and return the weight's name.

        Args:
            index: which of the layer's blobs.
            role: `kernel`, `bias`, `gamma`, `beta`, `slope` and the like.
            shape: the shape that the layer needs.
            view: another shape for the same elements, for example to broadcast along a channel axis.
            transposed: swap the axes of a matrix.
        """
        array = self.blob(index, role, shape)
        array = array.reshape(shape if view is None else view)
        array = array.T if transposed else array
        blob = self._layer.blobs[index] if index < len(self._layer.blobs) else None
        if blob is None or not blob.name:
            return self._put(role, array)
        key = (blob.name, role, array.shape)
        if key not in self._assembly.shared:
            self._assembly.shared[key] = self._put(role, array)
        return self._assembly.shared[key]

    def constant(self, role: str, array: NDArray[np.float64] | float) -> str:
        """Add computed numbers to the graph's weights, as float32 under `layer/role`, and return the weight's name."""
        return self._put(role, np.asarray(array, np.float32))

    def integers(self, role: str, array: NDArray[np.int32] | int) -> str:
        """Add computed whole numbers to the graph's weights, as int32 under `layer/role`."""
        return self._put(role, np.asarray(array, np.int32))

    def _put(self, role: str, array: Array) -> str:
        name = self._assembly.free(f"{self.name}/{role}")
        if array.dtype in (np.float32, np.int32):
            return self._graph.add_weight(name, array)
        return self._graph.weights.defer(name, TensorType(array.shape), lambda: array.astype(np.float32))

    def _misfit(self, message: str) -> None:
        self._assembly.misfits.append(f"{self.origin.where}: {message}")

    # --- what the layer computes -----------------------------------------------------------------------------------

    def top(self) -> str:
        """Return the name of the next top that has not been given yet, for `add`.

        Raises:
            MalformedModel: the layer has no more tops.
        """
        if self._given == len(self.tops):
            raise self.malformed(f"it has {len(self.tops)} tops, and gives more")
        self._given += 1
        return self.tops[self._given - 1]

    @property
    def tops_left(self) -> int:
        """The number of tops that have not been given yet."""
        return len(self.tops) - self._given

    def inner(self, what: str) -> str:
        """Return a free name for a value inside the layer: `blob@layer/what`."""
        blob = self._layer.tops[min(self._given, len(self.tops) - 1)] if self.tops else self.name
        return self._assembly.free(f"{blob}@{self.name}/{what}")

    def add(self, op: AnyOp, inputs: Sequence[str], outputs: Sequence[str] | str) -> str:
        """Add an operation with named results, for those with several (`(layer.top(), layer.inner("indices"))`).

        Raises:
            MalformedModel: the inputs don't fit the operation, or the result is larger than a blob can be.
        """
        first = self._graph.add(op, inputs, outputs, self.origin)
        if self._graph.type(first).size > MOST_IN_A_BLOB:
            raise self.malformed(f"a result of shape {_spelled(self.shape(first))}: no blob holds as many")
        return first

    def step(self, what: str, op: AnyOp, *inputs: str) -> str:
        """Add an operation inside the layer, and return its result."""
        return self.add(op, inputs, self.inner(what))

    def emit(self, op: AnyOp, *inputs: str) -> str:
        """Add the operation that gives the next top, and return its result."""
        return self.add(op, inputs, self.top())

    def chain(self, x: str, *steps: tuple[str, AnyOp, float | str | None]) -> str:
        """Apply operations one after another, the last of which gives the next top.

        Each step is a name, an operation, and a second operand: a value, or a number (which becomes a constant of
        that name), or None.
        """
        for position, (what, op, operand) in enumerate(steps, 1):
            operands = (x,) if operand is None else (x, self._operand(what, operand))
            x = self.emit(op, *operands) if position == len(steps) else self.step(what, op, *operands)
        return x

    def _operand(self, what: str, operand: float | str) -> str:
        return operand if isinstance(operand, str) else self.constant(f"{what}_by", operand)

    def aligned(self, value: str, axis: int, rank: int) -> str:
        """Reshape a value whose axes are those of another from `axis` on, so that it broadcasts to all `rank` axes."""
        own = self.rank(value)
        trailing = rank - axis - own
        if trailing < 0:
            raise self.malformed(f"an operand of shape {self.shape(value)} from axis {axis} on exceeds {rank} axes")
        if trailing == 0:
            return value
        return self.step("aligned", Reshape((0,) * own + (1,) * trailing), value)

    def scaled(self, what: str, x: str, factor: float) -> str:
        """Multiply by a number inside the layer; a factor of 1 adds nothing."""
        if factor == 1:
            return x
        return self.step(what, Binary(BinaryFunction.MUL), x, self.constant(f"{what}_by", factor))

    def emit_whole(self, integers: str) -> str:
        """Emit integers as the floats that Caffe has in their place, and remember them for `whole`."""
        top = self.emit(Cast(DType.FLOAT32), integers)
        self._assembly.whole[top] = integers
        return top

    def whole(self, value: str) -> str:
        """Return the int32 form of a value that holds whole numbers: what it was made of, where that is known."""
        if value not in self._assembly.whole:
            self._assembly.whole[value] = self.step("whole", Cast(DType.INT32), value)
        return self._assembly.whole[value]

    # --- what a user should know ---------------------------------------------------------------------------------

    def malformed(self, reason: str) -> MalformedModel:
        """Make the error that says that the file contradicts itself in this layer; to be raised."""
        return MalformedModel(reason, where=self.origin.where)

    def unsupported(self, reason: str) -> Unsupported:
        """Make the error that says that this layer can't be carried, and why; to be raised."""
        return Unsupported("can't read this net", [Offence(self.origin.where, reason)])

    def trap(self, message: str) -> None:
        """Tell of a place where others go wrong, and what holds here; `inspect --explain` lists these."""
        self._assembly.traps.append(Trap(self.origin, message))

    def note(self, message: str) -> None:
        """Record an approximation or an assumption that an artifact's document has to mention."""
        self._graph.notes.append(f"{self.origin.where}: {message}")

    def fix_batch(self, reason: str) -> None:
        """Say that this layer computes for the given first dimension alone, and why."""
        self._assembly.batch_is_fixed = True
        self.trap(f"the first dimension is fixed: {reason}")

    def finish(self) -> list[Offence]:
        """Check that nothing was forgotten: every top given, every parameter and blob read.

        Returns:
            The parameters that nobody read, each with its place.

        Raises:
            MalformedModel: the layer has more tops than its type gives.
        """
        if self.tops_left:
            raise self.malformed(f"it has {len(self.tops)} tops; its type gives {self._given} with these parameters")
        surplus = [blob for index, blob in enumerate(self._layer.blobs) if index not in self._read]
        if surplus:
            shapes = ", ".join(_spelled(blob.shape) for blob in surplus)
            self._misfit(f"the weights hold more blobs than the net needs; surplus: {shapes}")
        label = f"layer {self.name!r} ({self.type})"
        return [
            Offence(f"{missed.where}, {label}", f"can't honour {missed.path}: {missed.value}")
            for missed in self._layer.unread()
        ]


def _fits(blob: Blob, shape: Shape) -> bool:
    """Tell whether a blob has a shape, as Blob::ShapeEquals in blob.cpp does: legacy shapes are right-aligned."""
    if not blob.legacy:
        return blob.shape == shape
    return len(shape) <= 4 and blob.shape == (1,) * (4 - len(shape)) + tuple(shape)


def _spelled(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))}) of {math.prod(shape)} numbers"
