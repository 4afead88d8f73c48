"""The graph: nodes in the order in which they run, over named values and weights.

A name means one thing in a graph: a graph input, a node's result, or a weight. Every value that holds a source blob
keeps the blob's name (`conv1`; `conv1@bn1` for what an in-place layer later overwrote), so names join a source, a
graph and its artifacts. Passes read one graph and build another; `merged` says what became of the values that they
removed.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from demitasse.errors import InvalidGraph, MalformedModel
from demitasse.ir.ops import AnyOp, Layout, NonMaxSuppression, Shape, ShapeError, TensorType
from demitasse.ir.preprocessing import Preprocessing
from demitasse.ir.weights import Array, WeightMap

__all__ = [
    "Graph",
    "LayerRecord",
    "Merge",
    "MergeKind",
    "Node",
    "Origin",
    "SourceLayer",
    "Status",
    "Storage",
    "Value",
    "detections",
    "infer_types",
    "live_names",
    "provenance",
]


@dataclass(frozen=True, slots=True)
class Origin:
    """Says which source layer a node comes from, and where that stands."""

    layer: str
    kind: str
    file: str = ""
    line: int | None = None

    @property
    def where(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        layer = f"layer {self.layer!r} ({self.kind})"
        return f"{place}, {layer}" if place else layer


@dataclass(frozen=True, slots=True)
class Storage:
    """Says in which order a value holds the elements of the source's blob.

    `stored = source.reshape(view).transpose(axes)`, flattened again where there is a `view`. A `view` is needed for a
    blob that the source flattened from a tensor which is stored in another layout; -1 stands for the batch in it.
    """

    axes: tuple[int, ...]
    view: Shape | None = None

    @classmethod
    def identity(cls, rank: int) -> Storage:
        return cls(tuple(range(rank)))

    @property
    def is_identity(self) -> bool:
        return self.axes == tuple(range(len(self.axes)))

    def store(self, source: Array) -> Array:
        """Reorder a blob as the source has it into stored order."""
        if self.view is None:
            return source.transpose(self.axes)
        return source.reshape(self.view).transpose(self.axes).reshape(source.shape)

    def restore(self, stored: Array) -> Array:
        """Reorder a stored array into the order that the source has."""
        inverse = tuple(int(axis) for axis in np.argsort(self.axes))
        if self.view is None:
            return stored.transpose(inverse)
        seen = stored.reshape([self.view[axis] for axis in self.axes])
        return seen.transpose(inverse).reshape(stored.shape)


@dataclass(frozen=True, slots=True)
class Value:
    """A named tensor of a graph: its type as it is stored, and how that relates to the source's blob."""

    name: str
    type: TensorType
    storage: Storage


@dataclass(frozen=True, slots=True)
class Node:
    """One operation applied to named inputs (values or weights), giving named values."""

    op: AnyOp
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    origin: Origin


@dataclass(frozen=True, slots=True)
class SourceLayer:
    """A layer of the source model and the values that hold its results, as the reader named them."""

    origin: Origin
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class MergeKind(enum.Enum):
    """Says why a value is gone."""

    FOLDED = "folded"  # computed together with another value; its own elements exist nowhere
    IDENTITY = "identity"  # the same elements stand under another name


@dataclass(frozen=True, slots=True)
class Merge:
    """Says which value took the place of one that a pass removed.

    `storage` relates the removed blob to the array of the value `into`, where it differs from that value's own.
    """

    kind: MergeKind
    into: str
    storage: Storage | None = None


class Status(enum.Enum):
    """Says how a result of a source layer can be checked in an artifact."""

    COMPARED = "compared"
    FOLDED = "folded"
    IDENTITY = "identity"
    UNUSED = "unused"
    INTERNAL = "internal"  # somewhere in what another project's converter wrote, which doesn't say where
    UNMAPPED = "unmapped"


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """Maps one result of a source layer to the value that holds it, or that it went into."""

    origin: Origin
    blob: str
    status: Status
    value: str | None
    storage: Storage | None


@dataclass
class Graph:
    """A computation over named values; `add` infers types, so an impossible layer is named as soon as it is read.

    `batch_is_dynamic` says that the leading dimension of the inputs is a placeholder: every node computes the same for
    any other. `notes` collects approximations that an artifact's document has to mention. `unused` names the source
    blobs that a cut at other outputs left out. `layout` is the one that the source uses for images: the one in which
    people supply inputs and expect outputs. `preprocessing` is what the source itself says of its input, if anything.
    """

    name: str
    weights: WeightMap = field(default_factory=WeightMap)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    layers: list[SourceLayer] = field(default_factory=list)
    merged: dict[str, Merge] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unused: set[str] = field(default_factory=set)
    preprocessing: Preprocessing | None = None
    layout: Layout = Layout.CHANNELS_FIRST
    batch_is_dynamic: bool = False
    _counts: dict[str, int] = field(
        init=False, default_factory=dict, repr=False, compare=False
    )  # where `fresh` goes on counting

    def type(self, name: str) -> TensorType:
        """Return the type of a value or weight."""
        if name in self.values:
            return self.values[name].type
        return self.weights.type(name)

    def add_input(self, name: str, type: TensorType, storage: Storage | None = None) -> str:
        """Declare a graph input."""
        self._claim(name)
        self.values[name] = Value(name, type, storage or Storage.identity(type.rank))
        self.inputs.append(name)
        return name

    def add_weight(self, name: str, array: Array) -> str:
        """Add a weight and return its name."""
        self._claim(name)
        return self.weights.put(name, array)

    def add(
        self,
        op: AnyOp,
        inputs: Sequence[str],
        outputs: Sequence[str] | str,
        origin: Origin,
        storage: Storage | None = None,
    ) -> str:
        """Append a node, infer the types of its results, and return the name of the first.

        Raises:
            MalformedModel: the inputs don't fit the operation; the message names the origin.
        """
        names = (outputs,) if isinstance(outputs, str) else tuple(outputs)
        missing = [name for name in inputs if name not in self.values and name not in self.weights]
        if missing:
            raise InvalidGraph(f"{origin.where}: {type(op).__name__} reads {missing}, which nothing gives")
        try:
            types = op.infer([self.type(name) for name in inputs])
        except ShapeError as error:
            raise MalformedModel(str(error), where=origin.where) from error
        if len(types) != len(names):
            raise InvalidGraph(f"{origin.where}: {type(op).__name__} gives {len(types)} results, not {len(names)}")
        for name, result in zip(names, types, strict=True):
            self._claim(name)
            self.values[name] = Value(name, result, storage or Storage.identity(result.rank))
        self.nodes.append(Node(op, tuple(inputs), names, origin))
        return names[0]

    def _claim(self, name: str) -> None:
        if name in self.values or name in self.weights:
            raise InvalidGraph(f"the name {name!r} is given twice in graph {self.name!r}")

    def fresh(self, name: str) -> str:
        """Return `name`, or the first of `name.2`, `name.3`, ... that is not taken."""
        candidate, count = name, self._counts.get(name, 1)
        while candidate in self.values or candidate in self.weights or candidate in self.merged:
            count += 1
            candidate = f"{name}.{count}"
        self._counts[name] = max(count - 1, 1)
        return candidate

    def producers(self) -> dict[str, Node]:
        """Map each value to the node that gives it."""
        return {name: node for node in self.nodes for name in node.outputs}

    def consumers(self) -> dict[str, list[Node]]:
        """Map each value or weight to the nodes that read it, in order."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                readers.setdefault(name, []).append(node)
        return readers

    def shell(self) -> Graph:
        """Return a graph with the same inputs, layers and history, without nodes or weights, for a pass to fill."""
        result = Graph(self.name, layers=self.layers, merged=dict(self.merged), notes=list(self.notes))
        result.unused = set(self.unused)
        result.preprocessing = self.preprocessing
        result.layout = self.layout
        result.batch_is_dynamic = self.batch_is_dynamic
        for name in self.inputs:
            value = self.values[name]
            result.add_input(name, value.type, value.storage)
        return result

    def adopt(
        self,
        source: Graph,
        node: Node,
        *,
        op: AnyOp | None = None,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        """Append a node of another graph, changed where told, and bring along the weights that it reads.

        Results keep the storage that they have in `source` under the node's own names.
        """
        names = tuple(node.inputs if inputs is None else inputs)
        self.weights.copy_from(source.weights, [name for name in names if name in source.weights])
        self.add(op or node.op, names, node.outputs if outputs is None else outputs, node.origin)
        for name, old in zip(self.nodes[-1].outputs, node.outputs, strict=True):
            self.values[name] = Value(name, self.values[name].type, source.values[old].storage)


def infer_types(graph: Graph, inputs: Mapping[str, Shape]) -> dict[str, TensorType]:
    """Infer the type of every value for other input shapes, without building a graph.

    Raises:
        ShapeError: some node can't take these shapes; the message names its origin.
    """
    types: dict[str, TensorType] = {
        name: TensorType(tuple(inputs.get(name, graph.values[name].type.shape)), graph.values[name].type.dtype)
        for name in graph.inputs
    }
    for node in graph.nodes:
        operands = [types[name] if name in types else graph.weights.type(name) for name in node.inputs]
        try:
            results = node.op.infer(operands)
        except ShapeError as error:
            raise ShapeError(f"{node.origin.where}: {error}") from error
        types.update(zip(node.outputs, results, strict=True))
    return types


def _resolve(graph: Graph, origin: Origin, blob: str) -> LayerRecord:
    """Follow the merges of a blob to a live value or a constant; a chain with one fold in it is a fold."""
    folded = False
    name = blob
    storage: Storage | None = None
    for _ in range(len(graph.merged) + 1):
        if name in graph.values:
            status = Status.COMPARED if name == blob else Status.FOLDED if folded else Status.IDENTITY
            held = None if folded else storage or graph.values[name].storage
            return LayerRecord(origin, blob, status, name, held)
        if name != blob and name in graph.weights:
            return LayerRecord(origin, blob, Status.FOLDED, name, None)
        if name not in graph.merged:
            break
        merge = graph.merged[name]
        folded = folded or merge.kind is MergeKind.FOLDED
        storage = storage or merge.storage
        name = merge.into
    status = Status.UNUSED if graph.unused.intersection((blob, name)) else Status.UNMAPPED
    return LayerRecord(origin, blob, status, None, None)


def provenance(graph: Graph) -> tuple[LayerRecord, ...]:
    """Say for every result of every source layer which value holds it, or what became of it."""
    return tuple(_resolve(graph, layer.origin, blob) for layer in graph.layers for blob in layer.outputs)


def detections(graph: Graph) -> dict[str, None]:
    """Name, in order, all results inside of source layers that choose boxes by scores and overlaps."""
    layers = {node.origin.layer for node in graph.nodes if isinstance(node.op, NonMaxSuppression)}
    return dict.fromkeys(name for node in graph.nodes if node.origin.layer in layers for name in node.outputs)


def live_names(graph: Graph, roots: Iterable[str]) -> set[str]:
    """Collect every value and weight that the roots depend on."""
    live = set(roots)
    for node in reversed(graph.nodes):
        if live.intersection(node.outputs):
            live.update(node.inputs)
    return live
