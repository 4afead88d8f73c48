"""Move a graph from one image layout to the other.

Every value is stored in some order of the source's axes, and a rule for each operation says what it makes of inputs
that are stored in other orders. Most let any order pass: they remap their axes, pads or constants. The spatial ones
demand the target layout. The rest are given the source's own order, through an explicit Transpose. Then three cases
make Transposes vanish: one in the source changes nothing but the order in which its result is said to be stored; a
Reshape that keeps apart what lies apart works on stored order; a Dense behind a flatten gets the columns of its
kernel reordered. What remains is what some operation can't do without; one too many would be slower, never wrong.

Orders follow from the layout tags alone; nothing is guessed from sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, TypeAlias

from demitasse.errors import InvalidGraph
from demitasse.ir import ops
from demitasse.ir.graph import Graph, Merge, MergeKind, Node, Origin, Storage, infer_types
from demitasse.ir.ops import Layout, Shape, TensorType
from demitasse.ir.weights import Array
from demitasse.passes.batch import batched_shapes

__all__ = ["flipped", "to_layout"]

Axes: TypeAlias = tuple[int, ...]

# A batch that no other dimension is likely to equal: it shows which dimensions of a Reshape come from the batch.
PROBE_BATCH = 7919


def flipped(layout: Layout, rank: int) -> Axes:
    """Return the order of axes that brings a tensor of the other layout into `layout`; ranks below 3 have none."""
    if rank < 3:
        return tuple(range(rank))
    if layout is Layout.CHANNELS_LAST:
        return (0, *range(2, rank), 1)
    return (0, rank - 1, *range(1, rank - 1))


def _inverse(axes: Axes) -> Axes:
    return tuple(axes.index(place) for place in range(len(axes)))


class Held(NamedTuple):
    """Where the new graph holds a value of the old one, and in which order."""

    name: str
    storage: Storage


@dataclass
class _Move:
    """One run of the pass: the old graph, the new one, and where each value is held."""

    old: Graph
    new: Graph
    layout: Layout
    io_layout: Layout
    probe: dict[str, TensorType]
    consumers: dict[str, list[Node]]
    held: dict[str, Held] = field(default_factory=dict)
    copies: dict[tuple[str, Axes], str] = field(default_factory=dict)
    origin: Origin = field(default_factory=lambda: Origin("", ""))

    def rank(self, name: str) -> int:
        return self.old.type(name).rank

    def take(self, name: str) -> tuple[str, Axes]:
        """Return a value in the order in which it is held; a flattened view is brought into the source's order."""
        if name in self.held and self.held[name].storage.view is None:
            return self.held[name].name, self.held[name].storage.axes
        axes = tuple(range(self.rank(name)))
        return self.read(name, axes), axes

    def read(self, name: str, axes: Axes | None = None) -> str:
        """Return the name under which a value is stored in the given order (default: the source's)."""
        wanted = axes if axes is not None else tuple(range(self.rank(name)))
        if name not in self.held:
            return self.weight(name, wanted)
        held = self.held[name]
        if held.storage.view is None and held.storage.axes == wanted:
            return held.name
        if (name, wanted) not in self.copies:
            self.copies[name, wanted] = self._copy(name, held, wanted, self.new.fresh(f"{name}@{_label(wanted)}"))
        return self.copies[name, wanted]

    def weight(self, name: str, axes: Axes) -> str:
        """Return a weight whose axes, leading ones of length 1 added, are in the given order."""
        old = self.old.weights.type(name)
        full = (1,) * (len(axes) - old.rank) + old.shape
        moved = [axis for axis in axes if full[axis] != 1]
        if moved == sorted(moved) and (axes == tuple(range(len(axes))) or not moved):
            self.new.weights.copy_from(self.old.weights, [name])
            return name
        if (name, axes) not in self.copies:
            compute = partial(_transposed, self.old.weights.__getitem__, name, full, axes)
            shape = _without_leading_ones(tuple(full[axis] for axis in axes)) if old.rank < len(axes) else None
            stored = TensorType(shape or tuple(full[axis] for axis in axes), old.dtype)
            self.copies[name, axes] = self.new.weights.defer(
                self.new.fresh(f"{name}@{_label(axes)}"), stored, partial(_reshaped, compute, stored.shape)
            )
        return self.copies[name, axes]

    def _copy(self, name: str, held: Held, wanted: Axes, copy: str) -> str:
        """Append what brings a value from the order in which it is held to the one wanted."""
        source, storage = held
        if storage.view is not None:
            stored = tuple(storage.view[axis] for axis in storage.axes)
            unfolded = self._append(ops.Reshape(stored), source, f"{copy}/unfolded")
            source = self._append(ops.Transpose(_inverse(storage.axes)), unfolded, f"{copy}/transposed")
            if wanted != tuple(range(len(wanted))):
                raise InvalidGraph(f"a flattened value {name!r} is wanted in the order {wanted}")
            return self._append(ops.Reshape((0, *self.old.type(name).shape[1:])), source, copy)
        relative = tuple(storage.axes.index(axis) for axis in wanted)
        return self._append(self._reorder(source, relative, storage, name), source, copy, Storage(wanted))

    def _reorder(self, source: str, relative: Axes, storage: Storage, name: str) -> ops.AnyOp:
        """Choose a Transpose, or a Reshape where only axes of length 1 move past others."""
        lengths = [self.probe[name].shape[axis] for axis in storage.axes]
        long = [axis for axis in relative if lengths[axis] != 1]
        if relative[:1] == (0,) and long == sorted(long):
            shape = self.new.type(source).shape
            return ops.Reshape((0, *(shape[axis] for axis in relative[1:])))
        return ops.Transpose(relative)

    def _append(self, op: ops.AnyOp, source: str, name: str, storage: Storage | None = None) -> str:
        return self.new.add(op, (source,), name, self.origin, storage)

    def write(self, node: Node, op: ops.AnyOp, inputs: Sequence[str], *storages: Storage) -> None:
        """Append a node of the new graph in place of an old one, its results held in the given order."""
        names = [self._given_name(name, storage) for name, storage in zip(node.outputs, storages, strict=True)]
        self.new.add(op, inputs, names, node.origin)
        for old, name, storage in zip(node.outputs, names, storages, strict=True):
            value = self.new.values[name]
            self.new.values[name] = replace(value, storage=storage)
            self.held[old] = Held(name, storage)
            if old != name:
                self._deliver(old)

    def alias(self, node: Node, held: Held) -> None:
        """Let a value be another one's elements, said to be stored in another order."""
        name = node.outputs[0]
        self.held[name] = held
        if name not in self.old.outputs:
            self.new.merged[name] = Merge(MergeKind.IDENTITY, held.name, held.storage)
        elif self._acceptable(name, held.storage):
            self.new.add(ops.Identity(), (held.name,), name, node.origin, held.storage)
            self.held[name] = Held(name, held.storage)
        else:
            self._deliver(name)

    def _given_name(self, name: str, storage: Storage) -> str:
        if name in self.old.outputs and not self._acceptable(name, storage):
            return self.new.fresh(f"{name}@{_label(storage.axes)}")
        return name

    def _deliver(self, name: str) -> None:
        """Append what gives a graph output in the order that its readers expect."""
        rank = self.rank(name)
        wanted = flipped(self.io_layout, rank) if self._is_flipped_io and rank >= 4 else tuple(range(rank))
        self.copies[name, wanted] = self._copy(name, self.held[name], wanted, name)

    @property
    def _is_flipped_io(self) -> bool:
        return self.io_layout is not self.old.layout

    def _acceptable(self, name: str, storage: Storage) -> bool:
        """Say whether a graph output can stay as it is held.

        It is in the source's order where that is the layout asked for; else images (whatever came out of spatial
        operations) are flipped, and what was never an image is not.
        """
        rank = self.rank(name)
        if storage.view is not None:
            return False
        if not self._is_flipped_io or rank < 4:
            return storage.is_identity
        if storage.axes == flipped(self.io_layout, rank):
            return True
        return self.io_layout is self.layout and storage.is_identity

    def common_axes(self, names: Sequence[str], rank: int) -> Axes:
        """Choose the order for operands that have to agree: the target layout's if one has it, else the first's."""
        held = [self.take(name)[1] for name in names if name in self.held and self.rank(name) == rank]
        if not held or any(name in self.held and self.rank(name) < rank for name in names):
            return tuple(range(rank))
        wanted = flipped(self.layout, rank)
        return wanted if wanted in held else held[0]


def _label(axes: Axes) -> str:
    """Spell an order of axes for a name: `nhwc`, `nchw`, or the axes' numbers."""
    if axes == (0, 2, 3, 1):
        return "nhwc"
    return "source" if axes == tuple(range(len(axes))) else "".join(map(str, axes))


def _transposed(get: Callable[[str], Array], name: str, shape: Shape, axes: Axes) -> Array:
    return get(name).reshape(shape).transpose(axes)


def _reshaped(compute: Callable[[], Array], shape: Shape) -> Array:
    return compute().reshape(shape)


def _without_leading_ones(shape: Shape) -> Shape:
    first = next((place for place, dim in enumerate(shape) if dim != 1), len(shape))
    return shape[first:]


def to_layout(graph: Graph, layout: Layout, io_layout: Layout | None = None) -> Graph:
    """Rebuild a graph so that its spatial operations have `layout`, and its inputs and outputs `io_layout`.

    Inputs of rank 4 and more are images: they take the layout asked for (default: `layout`). Outputs do if they came
    out of spatial operations. Each value of the result records the order in which it is stored.
    """
    if any(not value.storage.is_identity or value.storage.view for value in graph.values.values()):
        raise InvalidGraph("a graph can change its layout once only")
    if graph.layout is layout is (io_layout or layout) and all(
        node.op.layout is layout for node in graph.nodes if isinstance(node.op, ops.SpatialOp)
    ):
        return graph
    new = Graph(graph.name, layers=graph.layers, merged=dict(graph.merged), notes=list(graph.notes))
    new.unused = set(graph.unused)
    new.preprocessing, new.layout, new.batch_is_dynamic = graph.preprocessing, graph.layout, graph.batch_is_dynamic
    shapes = batched_shapes(graph, PROBE_BATCH) if graph.batch_is_dynamic else {}
    move = _Move(graph, new, layout, io_layout or layout, infer_types(graph, shapes), graph.consumers())
    for name in graph.inputs:
        old = graph.type(name)
        axes = tuple(range(old.rank))
        if move.io_layout is not graph.layout and old.rank >= 4:
            axes = flipped(move.io_layout, old.rank)
        new.add_input(name, old._replace(shape=tuple(old.shape[axis] for axis in axes)), Storage(axes))
        move.held[name] = Held(name, Storage(axes))
    for node in graph.nodes:
        move.origin = node.origin
        RULES.get(type(node.op), _in_source_order)(move, node)
    new.outputs = list(graph.outputs)
    return new


# --- rules: what each operation makes of inputs that are stored in another order ------------------------------

Rule: TypeAlias = Callable[[_Move, Node], None]


def _in_source_order(move: _Move, node: Node) -> None:
    """Give an operation everything in the source's order; so do its results come out."""
    storages = [Storage.identity(move.rank(name)) for name in node.outputs]
    move.write(node, node.op, [move.read(name) for name in node.inputs], *storages)


def _spatial(move: _Move, node: Node) -> None:
    """Give a spatial operation its images in the target layout; kernels keep their own order in every layout."""
    op = node.op
    if not isinstance(op, ops.SpatialOp):
        raise InvalidGraph(f"{type(op).__name__} has no layout")
    images = 2 if isinstance(op, ops.MaxUnpool) else 1
    rank = move.rank(node.inputs[0])
    axes = tuple(range(rank)) if op.layout is move.layout else flipped(move.layout, rank)
    inputs = [move.read(name, axes) for name in node.inputs[:images]]
    inputs += [move.read(name) for name in node.inputs[images:]]
    move.write(node, replace(op, layout=move.layout), inputs, *[Storage(axes)] * len(node.outputs))


def _any_order(move: _Move, node: Node) -> None:
    """Let an elementwise operation of one input take it as it is held, a flattened view too."""
    if node.inputs[0] not in move.held:
        _in_source_order(move, node)
        return
    held = move.held[node.inputs[0]]
    move.write(node, node.op, [held.name], held.storage)


def _broadcasting(move: _Move, node: Node) -> None:
    """Bring the operands of an elementwise operation into one order; constants are reordered ahead of time."""
    rank = move.rank(node.outputs[0])
    axes = move.common_axes(node.inputs, rank)
    identity = axes == tuple(range(rank))
    inputs = []
    for name in node.inputs:
        if name not in move.held and not identity:
            inputs.append(move.weight(name, axes))
        else:
            inputs.append(move.read(name, None if identity else axes))
    move.write(node, node.op, inputs, Storage(axes))


def _concat(move: _Move, node: Node) -> None:
    axes = move.common_axes(node.inputs, move.rank(node.outputs[0]))
    if isinstance(node.op, ops.Concat):
        op = replace(node.op, axis=axes.index(node.op.axis))
        move.write(node, op, [move.read(name, axes) for name in node.inputs], Storage(axes))


def _along_axis(move: _Move, node: Node) -> None:
    """Rename the axis of Softmax and TopK."""
    name, axes = move.take(node.inputs[0])
    if isinstance(node.op, ops.Softmax | ops.TopK):
        op = replace(node.op, axis=axes.index(node.op.axis))
        move.write(node, op, [name], *[Storage(axes)] * len(node.outputs))


def _kept_axes(axes: Axes, removed: Sequence[int]) -> Axes:
    """Renumber an order of axes after some were removed."""
    rest = [axis for axis in axes if axis not in removed]
    return tuple(sorted(rest).index(axis) for axis in rest)


def _reduce(move: _Move, node: Node) -> None:
    name, axes = move.take(node.inputs[0])
    op = node.op
    if isinstance(op, ops.Reduce):
        stored = tuple(sorted(axes.index(axis) for axis in op.axes))
        kept = axes if op.keepdims else _kept_axes(axes, op.axes)
        move.write(node, replace(op, axes=stored), [name], Storage(kept))
    elif isinstance(op, ops.ArgMax):
        kept = axes if op.keepdims else _kept_axes(axes, (op.axis,))
        move.write(node, replace(op, axis=axes.index(op.axis)), [name], Storage(kept))


def _per_axis(move: _Move, node: Node) -> None:
    """Reorder the attributes that Slice, Pad and Tile have for each axis."""
    name, axes = move.take(node.inputs[0])
    match node.op:
        case ops.Slice() as op:
            move.write(node, replace(op, axes=tuple(axes.index(axis) for axis in op.axes)), [name], Storage(axes))
        case ops.Pad() as op:
            move.write(node, replace(op, pads=tuple(op.pads[axis] for axis in axes)), [name], Storage(axes))
        case ops.Tile() as op:
            move.write(node, replace(op, repeats=tuple(op.repeats[axis] for axis in axes)), [name], Storage(axes))


def _transpose(move: _Move, node: Node) -> None:
    """Move nothing: the result is the input, said to be stored in another order.

    Axis `i` of the result is axis `t[i]` of the input, and place `j` of what is held is axis `p[j]` of the input; so it
    is axis `t^-1[p[j]]` of the result.
    """
    if not isinstance(node.op, ops.Transpose) or node.inputs[0] not in move.held:
        _in_source_order(move, node)
        return
    name, axes = move.take(node.inputs[0])
    move.alias(node, Held(name, Storage(tuple(node.op.axes.index(axis) for axis in axes))))


def _gather(move: _Move, node: Node) -> None:
    """Rename the axis where one index picks one entry; other ranks of indices take the source's order."""
    op, (source, indices) = node.op, node.inputs
    if not isinstance(op, ops.Gather) or move.rank(indices) != 1:
        _in_source_order(move, node)
        return
    name, axes = move.take(source)
    move.write(node, replace(op, axis=axes.index(op.axis)), [name, move.read(indices)], Storage(axes))


def _dense(move: _Move, node: Node) -> None:
    """Reorder the columns of a kernel behind a flattened view; else keep the features last."""
    source, kernel, *bias = node.inputs
    rest = [move.read(name) for name in bias]
    rank = move.rank(source)
    storage = move.held[source].storage if source in move.held else Storage.identity(rank)
    if storage.view is not None and kernel in move.old.weights:
        columns = _reordered_columns(move, kernel, storage)
        move.write(node, node.op, [move.held[source].name, columns, *rest], Storage.identity(rank))
        return
    axes = storage.axes if storage.view is None and storage.axes[-1] == rank - 1 else tuple(range(rank))
    move.write(node, node.op, [move.read(source, axes), move.read(kernel), *rest], Storage(axes))


def _reordered_columns(move: _Move, kernel: str, storage: Storage) -> str:
    old = move.old.weights.type(kernel)
    view, axes = storage.view or (), storage.axes
    name = kernel if len(move.consumers[kernel]) == 1 else f"{kernel}@{_label(axes)}"
    shape = (old.shape[0], *view[1:])
    compute = partial(_transposed, move.old.weights.__getitem__, kernel, shape, axes)
    return move.new.weights.defer(move.new.fresh(name), old, partial(_reshaped, compute, old.shape))


# --- Reshape --------------------------------------------------------------------------------------------------


class _Group(NamedTuple):
    """Neighbouring axes of the input that hold the same elements as neighbouring axes of the result."""

    source: Axes
    result: Axes


def _groups(source: Shape, result: Shape) -> Iterator[_Group]:
    """Split a reshape into the smallest groups of axes that are reshaped apart from each other."""
    i = j = 0
    while i < len(source) or j < len(result):
        start, size_i, size_j = (i, j), 1, 1
        while (i, j) == start or size_i != size_j:
            if i < len(source) and (size_i <= size_j or j == len(result)):
                size_i *= source[i]
                i += 1
            else:
                size_j *= result[j]
                j += 1
        if i > start[0] and j == start[1] and j < len(result) and result[j] == 1:
            j += 1
        yield _Group(tuple(range(start[0], i)), tuple(range(start[1], j)))


def _regrouped(groups: Sequence[_Group], axes: Axes, shape: Shape) -> Axes | None:
    """Return the order in which a reshape of stored order gives its result's axes, or None where it can't.

    It can where each group's axes lie next to each other and in their own order; axes of length 1 lie anywhere.
    """
    long = [axis for axis in axes if shape[axis] != 1]
    placed = []
    for count, group in enumerate(groups):
        own = [axis for axis in group.source if shape[axis] != 1]
        places = [long.index(axis) for axis in own]
        if places and places != list(range(places[0], places[0] + len(places))):
            return None
        placed.append((places[0] if places else -1, count, group.result))
    # A group of length 1 follows the group before it, wherever that went.
    order: list[tuple[int, int, Axes]] = []
    before = -1
    for place, count, result in placed:
        before = place if place >= 0 else before
        order.append((before, count, result))
    return tuple(axis for _, _, result in sorted(order) for axis in result)


def _reshape(move: _Move, node: Node) -> None:
    """Reshape stored order where that means the same; flatten it for a Dense; else reshape in the source's order."""
    source = node.inputs[0]
    if source not in move.held or not isinstance(node.op, ops.Reshape):
        _in_source_order(move, node)
        return
    name, axes = move.take(source)
    if axes == tuple(range(len(axes))):
        move.write(node, node.op, [name], Storage.identity(move.rank(node.outputs[0])))
        return
    shape, result = move.probe[source].shape, move.probe[node.outputs[0]].shape
    groups = list(_groups(shape, result))
    for candidate in (axes, _pulled_back(groups, flipped(move.layout, len(result)))):
        order = _regrouped(groups, candidate, shape) if candidate else None
        target = _target_shape(move, node, order) if order else None
        if candidate and order and target:
            move.write(node, ops.Reshape(target), [move.read(source, candidate)], Storage(order))
            return
    if len(result) == 2 and groups[0] == ((0,), (0,)) and axes[0] == 0 and _feeds_dense_alone(move, node.outputs[0]):
        concrete = move.old.type(source).shape
        view = Storage(axes, (-1, *concrete[1:]))
        move.write(node, ops.Reshape((0, move.old.type(node.outputs[0]).shape[1])), [name], view)
        return
    _in_source_order(move, node)


def _pulled_back(groups: Sequence[_Group], order: Axes) -> Axes | None:
    """Return the order of the input's axes from which a reshape gives its result in the given order."""
    if len(order) < 4:
        return None
    wanted = sorted(groups, key=lambda group: min((order.index(axis) for axis in group.result), default=-1))
    if tuple(axis for group in wanted for axis in group.result) != order:
        return None
    return tuple(axis for group in wanted for axis in group.source)


def _target_shape(move: _Move, node: Node, order: Axes) -> Shape | None:
    """Spell a result's shape in stored order, so that it holds for any batch."""
    name = node.outputs[0]
    concrete, probe = move.old.type(name).shape, move.probe[name].shape
    dims = [concrete[axis] if concrete[axis] == probe[axis] else -1 for axis in order]
    return tuple(dims) if dims.count(-1) <= 1 else None


def _feeds_dense_alone(move: _Move, name: str) -> bool:
    """Say whether a flattened value is read by Dense operations alone, activations in between allowed."""
    if name in move.old.outputs:
        return False
    for reader in move.consumers.get(name, []):
        if isinstance(reader.op, ops.Dense) and reader.inputs[0] == name and reader.inputs[1] in move.old.weights:
            continue
        if type(reader.op) not in _ELEMENTWISE or not _feeds_dense_alone(move, reader.outputs[0]):
            return False
    return True


_ELEMENTWISE = (ops.Unary, ops.Relu, ops.LeakyRelu, ops.Elu, ops.Clip, ops.Cast, ops.Identity)

RULES: dict[type[ops.Op], Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _any_order),
    **dict.fromkeys(
        (ops.Conv, ops.ConvTranspose, ops.MaxPool, ops.AveragePool, ops.MaxUnpool, ops.Lrn, ops.Resize), _spatial
    ),
    **dict.fromkeys((ops.Binary, ops.Compare, ops.Where, ops.PRelu), _broadcasting),
    **dict.fromkeys((ops.Softmax, ops.TopK), _along_axis),
    **dict.fromkeys((ops.Reduce, ops.ArgMax), _reduce),
    **dict.fromkeys((ops.Slice, ops.Pad, ops.Tile), _per_axis),
    ops.Concat: _concat,
    ops.Transpose: _transpose,
    ops.Reshape: _reshape,
    ops.Gather: _gather,
    ops.Dense: _dense,
}
