"""Faults that a converter could have: each turns a sound graph or artifact into one that computes something else.

A fault of a reader is put into the graph as it is read, and the artifact then describes what it really holds; a fault
of a writer is put into the lowered graph, and the artifact describes what it should hold; a fault of a file is put into
its bytes. Every fault says by itself where it applies.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from demitasse.ir.graph import Graph, Node
from demitasse.ir.ops import (
    Activation,
    AnyOp,
    AveragePool,
    Binary,
    BinaryFunction,
    Clip,
    Concat,
    Conv,
    ConvTranspose,
    Coordinates,
    Dense,
    Elu,
    Gather,
    LeakyRelu,
    Lrn,
    MaxPool,
    Pad,
    Padding,
    PRelu,
    Reduce,
    ReduceFunction,
    Relu,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Transpose,
    Unary,
    UnaryFunction,
)
from demitasse.ir.weights import Array

__all__ = [
    "GRAPH_FAULTS",
    "INPUT_FAULTS",
    "ONNX_FAULTS",
    "TFLITE_FAULTS",
    "Edit",
    "Fault",
    "FileFault",
    "InputFault",
    "Stage",
    "faulty",
    "input_changed",
    "onnx_model",
    "onnx_sites",
    "sites",
    "tflite_bytes",
    "tflite_model",
    "tflite_sites",
]

# A chain of operations on a value: an operand 0 is the value itself, `n` the n-th result of the chain, and an array is
# a constant.
Chain: TypeAlias = Sequence[tuple[AnyOp, Sequence[int | Array]]]


class Stage(enum.Enum):
    """Says whose fault it is."""

    READER = "reader"
    WRITER = "writer"


@dataclass(frozen=True)
class Edit:
    """What a fault makes of a node: another operation, other operands, other weights, or something behind it."""

    op: AnyOp | None = None
    inputs: tuple[str, ...] | None = None
    weights: Mapping[int, Array] = field(default_factory=dict)
    before: Chain = ()
    after: Chain = ()
    removed: bool = False  # the node gives its first operand


@dataclass(frozen=True)
class Fault:
    """A kind of fault; `edit` returns None for nodes that can't have it."""

    name: str
    group: str
    stage: Stage
    edit: Callable[[Graph, Node], Edit | None]


@dataclass(frozen=True)
class InputFault:
    """A kind of fault in how an image is prepared; `chain` is what happens to a right input, None where it can't."""

    name: str
    group: str
    chain: Callable[[tuple[int, ...]], Chain | None]


def sites(graph: Graph, fault: Fault) -> list[tuple[Node, Edit]]:
    """List the nodes that can have a fault, and what it makes of each."""
    found = ((node, fault.edit(graph, node)) for node in graph.nodes)
    return [(node, edit) for node, edit in found if edit is not None]


def faulty(graph: Graph, node: Node, edit: Edit) -> Graph:
    """Build a graph anew with a fault in one node.

    Raises:
        MalformedModel: what comes after can't take what the faulty node gives.
    """
    result = graph.shell()
    for each in graph.nodes:
        if each is not node:
            result.adopt(graph, each)
            continue
        inputs = list(edit.inputs or each.inputs)
        for index, array in edit.weights.items():
            inputs[index] = result.add_weight(
                result.fresh(f"{each.outputs[0]}/fault{index}"), np.ascontiguousarray(array)
            )
        if edit.before:
            inputs[0] = _chain(result, edit.before, inputs[0], None, each)
        if edit.removed:
            _chain(result, [(Reshape((0, *result.type(inputs[0]).shape[1:])), [0])], inputs[0], each.outputs[0], each)
        elif edit.after:
            hidden = result.fresh(f"{each.outputs[0]}/sound")
            result.adopt(
                graph, each, op=edit.op, inputs=_held(graph, result, inputs), outputs=(hidden, *each.outputs[1:])
            )
            _chain(result, edit.after, hidden, each.outputs[0], each)
        else:
            result.adopt(graph, each, op=edit.op, inputs=_held(graph, result, inputs))
    result.outputs = list(graph.outputs)
    return result


def _held(graph: Graph, result: Graph, inputs: Sequence[str]) -> list[str]:
    result.weights.copy_from(graph.weights, [name for name in inputs if name in graph.weights])
    return list(inputs)


def _chain(graph: Graph, chain: Chain, start: str, last: str | None, node: Node) -> str:
    """Append a chain behind a value; its last result gets a name where one is given."""
    results = [start]
    for place, (op, operands) in enumerate(chain):
        names = [
            results[operand]
            if isinstance(operand, int)
            else graph.add_weight(graph.fresh(f"{start}/constant"), operand)
            for operand in operands
        ]
        is_last = place == len(chain) - 1 and last is not None
        storage = graph.values[start].storage
        name = last if is_last and last is not None else graph.fresh(f"{start}/chain")
        fits = op.infer([graph.type(each) for each in names])[0].rank == len(storage.axes)
        results.append(graph.add(op, names, name, node.origin, storage if fits else None))
    return results[-1]


def input_changed(graph: Graph, name: str, chain: Chain) -> Graph:
    """Build a graph anew that does something to an input before anything reads it."""
    result = graph.shell()
    first = next(node for node in graph.nodes if name in node.inputs)
    changed = _chain(result, chain, name, None, first)
    for node in graph.nodes:
        result.adopt(graph, node, inputs=[changed if each == name else each for each in node.inputs])
    result.outputs = list(graph.outputs)
    return result


# --- weights ---------------------------------------------------------------------------------------------------


def kernel_fault(change: Callable[[Array], Array | None], *ops: type) -> Callable[[Graph, Node], Edit | None]:
    """Make a fault of what changes a kernel; one that stays the same has no fault."""

    def edit(graph: Graph, node: Node) -> Edit | None:
        if not isinstance(node.op, ops or (Conv, ConvTranspose, Dense)) or node.inputs[1] not in graph.weights:
            return None
        return _replaced(graph, node, 1, change)

    return edit


def bias_fault(change: Callable[[Array], Array | None]) -> Callable[[Graph, Node], Edit | None]:
    def edit(graph: Graph, node: Node) -> Edit | None:
        if not isinstance(node.op, Conv | ConvTranspose | Dense) or len(node.inputs) < 3:
            return None
        return _replaced(graph, node, 2, change)

    return edit


def _replaced(graph: Graph, node: Node, index: int, change: Callable[[Array], Array | None]) -> Edit | None:
    if node.inputs[index] not in graph.weights:
        return None
    old = np.array(graph.weights[node.inputs[index]])
    new = change(old.copy())
    if new is None or (new.shape == old.shape and np.array_equal(new, old)):
        return None
    return Edit(weights={index: new.astype(old.dtype)})


def _at_largest(array: Array, change: Callable[[Array], Any]) -> Array:
    place = np.unravel_index(int(np.abs(array).argmax()), array.shape)
    array[place] = change(array[place])
    return array


def _flip_bit(value: Any) -> Any:
    """Flip the lowest bit of a float32's exponent: it is doubled or halved."""
    return (np.float32(value).view(np.uint32) ^ np.uint32(1 << 23)).view(np.float32)


def _channel(array: Array, change: Callable[[Array], Any]) -> Array:
    """Change the output channel with the largest weights."""
    place = int(np.abs(array).reshape(len(array), -1).sum(axis=1).argmax())
    array[place] = change(array[place])
    return array


def _swapped(array: Array) -> Array | None:
    return array[[1, 0, *range(2, len(array))]] if len(array) > 1 else None


def _spatially(change: Callable[[Array], Array]) -> Callable[[Array], Array | None]:
    return lambda array: change(array) if array.ndim == 4 and array.shape[2] == array.shape[3] > 1 else None


def _coarse(array: Array) -> Array:
    step = np.abs(array).max() / 7
    return np.round(array / step) * step if step else array


def _other_kernel(graph: Graph, node: Node) -> Edit | None:
    """Take the kernel of another layer of the same shape."""
    if not isinstance(node.op, Conv | Dense):
        return None
    for other in graph.nodes:
        if type(other.op) is type(node.op) and other.inputs[1] != node.inputs[1]:
            same = graph.type(other.inputs[1]).shape == graph.type(node.inputs[1]).shape
            if same and not np.array_equal(graph.weights[other.inputs[1]], graph.weights[node.inputs[1]]):
                return Edit(weights={1: np.array(graph.weights[other.inputs[1]])})
    return None


def _flattened_otherwise(graph: Graph, node: Node) -> Edit | None:
    """Read the rows of a matrix as if the image before it had been flattened channels last."""
    maker = graph.producers().get(node.inputs[0])
    if not isinstance(node.op, Dense) or maker is None or not isinstance(maker.op, Reshape):
        return None
    shape = graph.type(maker.inputs[0]).shape
    if len(shape) != 4 or 1 in (shape[1], max(shape[2], shape[3])):
        return None
    kernel = np.array(graph.weights[node.inputs[1]])
    images = kernel.reshape(len(kernel), *shape[1:]).transpose(0, 2, 3, 1)
    return Edit(weights={1: images.reshape(kernel.shape)})


def _prelu(change: Callable[[Array], Array]) -> Callable[[Graph, Node], Edit | None]:
    return lambda graph, node: _replaced(graph, node, 1, change) if isinstance(node.op, PRelu) else None


def _constant(
    function: BinaryFunction, change: Callable[[Array], Array | None], *kinds: str
) -> Callable[[Graph, Node], Edit | None]:
    """Make a fault of what changes the constant that a layer of some kinds adds or multiplies by."""

    def edit(graph: Graph, node: Node) -> Edit | None:
        fits = isinstance(node.op, Binary) and node.op.function is function and node.origin.kind in kinds
        return _replaced(graph, node, 1, change) if fits else None

    return edit


def _other_eps(scale: Array) -> Array:
    """Turn 1 / sqrt(v + 1e-5) into 1 / sqrt(v + 1e-3)."""
    return 1 / np.sqrt(1 / np.square(scale, dtype=np.float64) + 1e-3 - 1e-5)


# --- operations ------------------------------------------------------------------------------------------------


def op_fault(change: Callable[[Any], AnyOp | None], *ops: type) -> Callable[[Graph, Node], Edit | None]:
    """Make a fault of what turns an operation into another."""

    def edit(graph: Graph, node: Node) -> Edit | None:
        if not isinstance(node.op, ops):
            return None
        op = change(node.op)
        return None if op is None or op == node.op else Edit(op=op)

    return edit


def _pads_shifted(op: Any) -> Any:
    """Move one line of padding from the top to the bottom, or the other way."""
    for axis, (before, after) in enumerate(op.pads):
        if before + after and (before or isinstance(op, Conv)):
            moved = Padding(before - 1, after + 1) if before else Padding(before + 1, after - 1)
            return replace(op, pads=(*op.pads[:axis], moved, *op.pads[axis + 1 :]))
    return None


def _dilated(graph: Graph, node: Node) -> Edit | None:
    if not isinstance(node.op, Conv) or max(node.op.dilation) > 1:
        return None
    window = graph.type(node.inputs[1]).shape[2:]
    if len(window) != 2 or any(size not in {1, 3} for size in window) or window == (1, 1):
        return None
    pads = tuple(
        Padding(pad.before + size // 2, pad.after + size // 2) for pad, size in zip(node.op.pads, window, strict=True)
    )
    return Edit(op=replace(node.op, dilation=tuple(2 if size > 1 else 1 for size in window), pads=pads))


def _grouped(graph: Graph, node: Node) -> Edit | None:
    """Split a convolution into two groups, each with its part of the kernel."""
    if not isinstance(node.op, Conv) or node.op.groups != 1:
        return None
    out, channels, *_ = graph.type(node.inputs[1]).shape
    if out % 2 or channels % 2:
        return None
    return Edit(op=replace(node.op, groups=2), weights={1: np.array(graph.weights[node.inputs[1]])[:, : channels // 2]})


def _ungrouped_order(graph: Graph, node: Node) -> Edit | None:
    """Deal the output channels of a grouped convolution out by turns, as if groups were the inner axis."""
    if not isinstance(node.op, Conv) or node.op.groups == 1:
        return None
    kernel = np.array(graph.weights[node.inputs[1]])
    order = np.arange(len(kernel)).reshape(node.op.groups, -1).T.ravel()
    return None if np.array_equal(order, np.arange(len(kernel))) else Edit(weights={1: kernel[order]})


def _floor(op: Any) -> Any:
    """Drop the last window where it reaches into padding at the end alone."""
    if all(pad.after == 0 for pad in op.pads):
        return None
    return replace(op, pads=tuple(Padding(before, 0) for before, _ in op.pads))


def _other_pool(op: Any) -> AnyOp | None:
    other: type = AveragePool if isinstance(op, MaxPool) else MaxPool
    if isinstance(op, MaxPool) and op.with_indices:
        return None
    made: AnyOp = other(op.kernel, op.stride, op.pads, op.activation, layout=op.layout)
    return made


def _padding_counted(graph: Graph, node: Node) -> Edit | None:
    """Divide by the window's area where padding doesn't count, and the other way: scale what is at the border."""
    maker = graph.producers().get(node.inputs[0])
    if not isinstance(node.op, AveragePool) or maker is None or not isinstance(maker.op, Pad):
        return None
    axes = node.op.layout.spatial_axes(len(maker.op.pads))
    pads = tuple(
        Padding(own.before + maker.op.pads[axis].before, own.after + maker.op.pads[axis].after)
        for own, axis in zip(node.op.pads, axes, strict=True)
    )
    return Edit(op=replace(node.op, pads=pads), inputs=(maker.inputs[0],))


def _strided(op: Any) -> Any:
    return replace(op, stride=tuple(1 for _ in op.stride)) if max(op.stride) > 1 else None


def _stride_hidden(graph: Graph, node: Node) -> Edit | None:
    """Cut the result of a stride of 1 to the size that it should have."""
    if not isinstance(node.op, Conv | MaxPool | AveragePool) or max(node.op.stride) == 1:
        return None
    shape = graph.type(node.outputs[0]).shape
    axes = node.op.layout.spatial_axes(len(shape))
    cut = Slice(axes, (0,) * len(axes), tuple(shape[axis] for axis in axes))
    return Edit(op=_strided(node.op), after=[(cut, [0])])


def _without(*ops: type) -> Callable[[Graph, Node], Edit | None]:
    """Leave an operation out, where its result has its operand's shape."""

    def edit(graph: Graph, node: Node) -> Edit | None:
        fits = isinstance(node.op, ops) and graph.type(node.inputs[0]) == graph.type(node.outputs[0])
        return Edit(removed=True) if fits and node.inputs[0] in graph.values else None

    return edit


def _relu_added(graph: Graph, node: Node) -> Edit | None:
    fits = isinstance(node.op, Conv | Dense | Binary) and node.op.activation is Activation.NONE
    readers = graph.consumers().get(node.outputs[0], [])
    if not fits or any(isinstance(reader.op, Relu | Clip | PRelu | LeakyRelu) for reader in readers):
        return None
    return Edit(after=[(Relu(), [0])])


def _concat_reversed(graph: Graph, node: Node) -> Edit | None:
    if not isinstance(node.op, Concat) or len(set(node.inputs)) < 2:
        return None
    return Edit(inputs=node.inputs[::-1])


def _wrong_branch(graph: Graph, node: Node) -> Edit | None:
    """Add the other operand twice, as if a name had been mixed up."""
    both = isinstance(node.op, Binary) and all(name in graph.values for name in node.inputs)
    if not both or node.inputs[0] == node.inputs[1]:
        return None
    same = graph.type(node.inputs[0]) == graph.type(node.inputs[1])
    return Edit(inputs=(node.inputs[0],) * 2) if same else None


def _of_values(change: Callable[[Binary], Binary | None]) -> Callable[[Graph, Node], Edit | None]:
    """Make a fault of an operation that combines two branches."""

    def edit(graph: Graph, node: Node) -> Edit | None:
        if not isinstance(node.op, Binary) or not all(name in graph.values for name in node.inputs):
            return None
        op = change(node.op)
        return None if op is None or op == node.op else Edit(op=op)

    return edit


def _order_swapped(graph: Graph, node: Node) -> Edit | None:
    """Apply what follows a layer in place before it: move the next elementwise operation in front."""
    readers = graph.consumers().get(node.outputs[0], [])
    if len(readers) != 1 or not isinstance(node.op, Relu | LeakyRelu | Unary | Elu | Clip | Binary):
        return None
    after = readers[0]
    constant = isinstance(node.op, Binary) and node.inputs[1] in graph.weights
    if isinstance(node.op, Binary) and not constant:
        return None
    if not isinstance(after.op, Relu | LeakyRelu | Unary | Elu | Clip) or type(after.op) is type(node.op):
        return None
    return Edit(before=[(after.op, [0])])


def _slice_shifted(op: Slice) -> Slice | None:
    starts, stops = list(op.starts), list(op.stops)
    for place, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        if op.axes[place] != 0 and start > 0 and stop is not None and stop > 0:
            starts[place], stops[place] = start - 1, stop - 1
            return replace(op, starts=tuple(starts), stops=tuple(stops))
    return None


def _flatten_otherwise(graph: Graph, node: Node) -> Edit | None:
    """Flatten an image channels last where the source flattens it channels first."""
    if not isinstance(node.op, Reshape) or node.inputs[0] not in graph.values:
        return None
    before, after = graph.type(node.inputs[0]).shape, graph.type(node.outputs[0]).shape
    if len(before) != 4 or len(after) != 2 or before[1] == 1 or before[2:] == (1, 1):
        return None
    return Edit(before=[(Transpose((0, 2, 3, 1)), [0])])


def _softmax_axis(graph: Graph, node: Node) -> Edit | None:
    if not isinstance(node.op, Softmax):
        return None
    shape = graph.type(node.inputs[0]).shape
    others = [axis for axis in range(1, len(shape)) if axis != node.op.axis and shape[axis] > 1]
    return Edit(op=Softmax(others[0] if others else 0)) if len(shape) > 1 else None


def _transposed_otherwise(graph: Graph, node: Node) -> Edit | None:
    """Swap two axes of a result that are of equal size."""
    shape = graph.type(node.outputs[0]).shape
    if not isinstance(node.op, Transpose | Conv) or len(shape) != 4 or shape[2] != shape[3] or shape[2] == 1:
        return None
    return Edit(after=[(Transpose((0, 1, 3, 2)), [0])])


def _mapped(graph: Graph, node: Node) -> bool:
    """Whether a node's result is a blob of the source, an image or a row of real numbers."""
    name = node.outputs[0]
    blobs = {blob for layer in graph.layers for blob in layer.outputs}
    return name in blobs and graph.type(name).dtype.is_float and graph.type(name).rank in {2, 4}


def _after(
    make: Callable[[tuple[int, ...]], Chain | None], *, output: bool = False
) -> Callable[[Graph, Node], Edit | None]:
    """Make a fault of what happens behind a layer, or behind the net where `output`."""

    def edit(graph: Graph, node: Node) -> Edit | None:
        if not _mapped(graph, node) or (output and node.outputs[0] not in graph.outputs):
            return None
        chain = make(graph.type(node.outputs[0]).shape)
        return None if chain is None else Edit(after=chain)

    return edit


def _one_element(value: float) -> Callable[[tuple[int, ...]], Chain]:
    def chain(shape: tuple[int, ...]) -> Chain:
        constant = np.zeros((1, *shape[1:]), np.float32)
        constant.ravel()[constant.size // 2] = value
        return [(Binary(BinaryFunction.ADD), [0, constant])]

    return chain


def _constant_output(shape: tuple[int, ...]) -> Chain:
    constant = np.random.default_rng(0).random((1, *shape[1:])).astype(np.float32)
    zero = np.zeros((1,) * len(shape), np.float32)
    return [(Binary(BinaryFunction.MUL), [0, zero]), (Binary(BinaryFunction.ADD), [1, constant])]


def _batch_dependent(shape: tuple[int, ...]) -> Chain:
    """Move every sample away from the batch's mean: a sample alone stays as it is."""
    tenth = np.full((1,) * len(shape), 0.1, np.float32)
    return [
        (Reduce(ReduceFunction.MEAN, (0,), keepdims=True), [0]),
        (Binary(BinaryFunction.SUB), [0, 1]),
        (Binary(BinaryFunction.MUL), [2, tenth]),
        (Binary(BinaryFunction.ADD), [0, 3]),
    ]


def _reversed(axis: int) -> Callable[[tuple[int, ...]], Chain | None]:
    def chain(shape: tuple[int, ...]) -> Chain | None:
        if axis >= len(shape) or shape[axis] < 2:
            return None
        return [(Gather(axis), [0, np.arange(shape[axis])[::-1].astype(np.int32).copy()])]

    return chain


def _rolled(axis: int) -> Callable[[tuple[int, ...]], Chain | None]:
    def chain(shape: tuple[int, ...]) -> Chain | None:
        if axis >= len(shape) or shape[axis] < 3:
            return None
        return [(Gather(axis), [0, np.roll(np.arange(shape[axis]), 1).astype(np.int32)])]

    return chain


def _times(factor: float) -> Callable[[tuple[int, ...]], Chain]:
    return lambda shape: [(Binary(BinaryFunction.MUL), [0, np.full((1,) * len(shape), factor, np.float32)])]


def _dead_channel(shape: tuple[int, ...]) -> Chain | None:
    if len(shape) < 2 or shape[1] < 2:
        return None
    mask = np.ones((1, shape[1], *(1,) * (len(shape) - 2)), np.float32)
    mask[0, shape[1] // 2] = 0
    return [(Binary(BinaryFunction.MUL), [0, mask])]


def _twice(graph: Graph, node: Node) -> Edit | None:
    return Edit(after=[(node.op, [0])]) if isinstance(node.op, Softmax) else None


R, W = Stage.READER, Stage.WRITER
MUL, ADD = BinaryFunction.MUL, BinaryFunction.ADD

GRAPH_FAULTS: tuple[Fault, ...] = (
    Fault("kernel scaled by 1 %", "weights", W, kernel_fault(lambda k: k * np.float32(1.01))),
    Fault("one output channel zeroed", "weights", W, kernel_fault(lambda k: _channel(k, np.zeros_like))),
    Fault("one output channel's sign flipped", "weights", W, kernel_fault(lambda k: _channel(k, np.negative))),
    Fault("two output channels swapped", "weights", W, kernel_fault(_swapped)),
    Fault("rows permuted", "weights", W, kernel_fault(lambda k: k[::-1], Dense)),
    Fault("input channels permuted", "weights", W, kernel_fault(lambda k: k[:, ::-1])),
    Fault("square kernel transposed", "weights", W, kernel_fault(_spatially(lambda k: k.swapaxes(2, 3)))),
    Fault("kernel flipped", "weights", W, kernel_fault(_spatially(lambda k: k[:, :, ::-1, ::-1]))),
    Fault("a bit flipped in an exponent", "weights", W, kernel_fault(lambda k: _at_largest(k, _flip_bit))),
    Fault("a weight's sign lost", "weights", W, kernel_fault(lambda k: _at_largest(k, np.negative))),
    Fault("a weight is NaN", "weights", W, kernel_fault(lambda k: _at_largest(k, lambda _: np.nan))),
    Fault("a weight is infinite", "weights", W, kernel_fault(lambda k: _at_largest(k, lambda _: np.inf))),
    Fault("kernel all zero", "weights", W, kernel_fault(np.zeros_like)),
    Fault(
        "kernel shifted by one element", "weights", W, kernel_fault(lambda k: np.roll(k.ravel(), 1).reshape(k.shape))
    ),
    Fault("kernel rounded to 4 bits", "weights", W, kernel_fault(_coarse)),
    Fault("kernel of another layer", "weights", W, _other_kernel),
    Fault("matrix read channels last", "weights", R, _flattened_otherwise),
    Fault("bias dropped", "weights", W, bias_fault(np.zeros_like)),
    Fault("bias shifted by one channel", "weights", W, bias_fault(lambda b: np.roll(b, 1))),
    Fault("bias subtracted", "weights", W, bias_fault(np.negative)),
    Fault("PReLU slopes lost", "weights", R, _prelu(np.zeros_like)),
    Fault("PReLU slopes shared", "weights", R, _prelu(lambda s: np.full_like(s, s.ravel()[0]))),
    Fault("batch-norm eps", "weights", R, _constant(MUL, _other_eps, "BatchNorm", "BatchNormalization")),
    Fault("variance taken for deviation", "weights", R, _constant(MUL, np.square, "BatchNorm", "BatchNormalization")),
    Fault("mean lost", "weights", R, _constant(ADD, np.zeros_like, "BatchNorm")),
    Fault("gamma lost", "weights", R, _constant(MUL, np.ones_like, "Scale")),
    Fault("beta lost", "weights", R, _constant(ADD, np.zeros_like, "Scale", "BatchNormalization")),
    Fault("coeff lost", "weights", R, _constant(MUL, np.ones_like, "Eltwise")),
    Fault("pad shifted", "graph", R, op_fault(_pads_shifted, Conv, AveragePool, MaxPool)),
    Fault("stride 1 for 2", "graph", R, op_fault(_strided, Conv, MaxPool, AveragePool)),
    Fault("stride 1 for 2, cut to size", "graph", R, _stride_hidden),
    Fault("dilation 2 for 1", "graph", R, _dilated),
    Fault("two groups for one", "graph", R, _grouped),
    Fault("groups in another order", "graph", R, _ungrouped_order),
    Fault("ceil to floor", "graph", R, op_fault(_floor, MaxPool, AveragePool)),
    Fault("padding not counted", "graph", R, _padding_counted),
    Fault("other kind of pooling", "graph", R, op_fault(_other_pool, MaxPool, AveragePool)),
    Fault(
        "maximum for mean",
        "graph",
        R,
        op_fault(
            lambda op: replace(op, function=ReduceFunction.MAX) if op.function is ReduceFunction.MEAN else None, Reduce
        ),
    ),
    Fault("in-place order", "graph", R, _order_swapped),
    Fault("activation lost", "graph", R, _without(Relu, PRelu, LeakyRelu, Elu, Clip, Unary)),
    Fault("ReLU added", "graph", R, _relu_added),
    Fault("negative slope lost", "graph", R, op_fault(lambda op: Relu(), LeakyRelu)),
    Fault("negative slope 0.01", "graph", R, op_fault(lambda op: LeakyRelu(0.01), LeakyRelu, Relu)),
    Fault("ReLU6 for ReLU", "graph", R, op_fault(lambda op: Clip(0.0, 1.0), Relu)),
    Fault("alpha of ELU", "graph", R, op_fault(lambda op: Elu(op.alpha * 0.9), Elu)),
    Fault(
        "tanh for sigmoid",
        "graph",
        R,
        op_fault(
            lambda op: Unary(UnaryFunction.TANH) if op.function is UnaryFunction.SIGMOID else None,
            Unary,
        ),
    ),
    Fault("layer of one shape left out", "graph", R, _without(Lrn, Softmax, MaxPool, AveragePool, Conv)),
    Fault("LRN k", "graph", R, op_fault(lambda op: replace(op, k=op.k + 1), Lrn)),
    Fault("LRN alpha not divided", "graph", R, op_fault(lambda op: replace(op, alpha=op.alpha * op.size), Lrn)),
    Fault("LRN beta", "graph", R, op_fault(lambda op: replace(op, beta=op.beta / 2), Lrn)),
    Fault("concat order swapped", "graph", R, _concat_reversed),
    Fault("softmax axis", "graph", R, _softmax_axis),
    Fault("softmax twice", "graph", R, _twice),
    Fault("wrong branch added", "graph", R, _wrong_branch),
    Fault(
        "maximum for sum",
        "graph",
        R,
        _of_values(lambda op: replace(op, function=BinaryFunction.MAX) if op.function is ADD else None),
    ),
    Fault(
        "operands subtracted",
        "graph",
        R,
        _of_values(lambda op: replace(op, function=BinaryFunction.SUB) if op.function is ADD else None),
    ),
    Fault("slice shifted", "graph", R, op_fault(_slice_shifted, Slice)),
    Fault("flattened channels last", "graph", R, _flatten_otherwise),
    Fault("H and W of a result swapped", "graph", R, _transposed_otherwise),
    Fault(
        "coordinates of a resize",
        "graph",
        R,
        op_fault(
            lambda op: replace(
                op,
                coordinates=Coordinates.HALF_PIXEL
                if op.coordinates is not Coordinates.HALF_PIXEL
                else Coordinates.ASYMMETRIC,
            ),
            Resize,
        ),
    ),
    Fault("dropout left in", "graph", R, _after(_times(0.5))),
    Fault("result scaled by 0.2 %", "graph", R, _after(_times(1.002))),
    Fault("channels of a result rolled", "graph", R, _after(_rolled(1))),
    Fault("dead channel", "graph", R, _after(_dead_channel)),
    Fault("NaN at one place", "data", R, _after(_one_element(np.nan))),
    Fault("infinity at one place", "data", R, _after(_one_element(np.inf))),
    Fault("one element off", "data", R, _after(_one_element(0.5))),
    Fault("constant output", "data", R, _after(_constant_output, output=True)),
    Fault("label order", "data", R, _after(_reversed(1), output=True)),
    Fault("batch-dependent result", "data", R, _after(_batch_dependent)),
)


# --- inputs ----------------------------------------------------------------------------------------------------


def _image(make: Callable[[tuple[int, ...]], Chain | None]) -> Callable[[tuple[int, ...]], Chain | None]:
    return lambda shape: make(shape) if len(shape) == 4 else None


def _hw_swapped(shape: tuple[int, ...]) -> Chain | None:
    return [(Transpose((0, 1, 3, 2)), [0])] if shape[2] == shape[3] > 1 else None


def _read_channels_last(shape: tuple[int, ...]) -> Chain | None:
    """Take the bytes of a channels-first image for those of a channels-last one."""
    _, channels, height, width = shape
    if channels == 1:
        return None
    return [(Reshape((0, height, width, channels)), [0]), (Transpose((0, 3, 1, 2)), [1])]


def _shifted_by_one(shape: tuple[int, ...]) -> Chain:
    pad = Pad((Padding(0, 0), Padding(0, 0), Padding(1, 0), Padding(1, 0)))
    return [(pad, [0]), (Slice((2, 3), (0, 0), (shape[2], shape[3])), [1])]


def _mean_added(shape: tuple[int, ...]) -> Chain:
    """Leave a mean in that should have been subtracted: as far from 0 as the input's numbers go."""
    return [(Binary(ADD), [0, np.linspace(0.5, 1.5, shape[1], dtype=np.float32).reshape(1, -1, 1, 1)])]


INPUT_FAULTS: tuple[InputFault, ...] = (
    InputFault("BGR for RGB", "data", _image(_reversed(1))),
    InputFault("mean missing", "data", _image(_mean_added)),
    InputFault("input scale wrong", "data", _times(0.5)),
    InputFault("H and W swapped", "data", _image(_hw_swapped)),
    InputFault("mirrored", "data", _image(_reversed(3))),
    InputFault("upside down", "data", _image(_reversed(2))),
    InputFault("NCHW read as NHWC", "data", _image(_read_channels_last)),
    InputFault("shifted by a pixel", "data", _image(_shifted_by_one)),
)


# --- files -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileFault:
    """A kind of fault in a file of integers; `change` edits one tensor of a parsed model, and says whether it did.

    In TFLite a tensor is told by its number, in ONNX by the name of what `DequantizeLinear` gives. `weights` tells
    whether it is weights or what is computed. One that reads as something else than it was written is a fault of its
    readers; a TFLite tensor has one scale and zero point for both sides.
    """

    name: str
    group: str
    weights: bool
    change: Callable[[Any, Any], bool]


def _first_seen(start: Iterable[str], readers: Mapping[str, Sequence[str]], known: Collection[str]) -> frozenset[str]:
    """Follow tensors to what is computed from them, as far as the first of each way that is known."""
    found, waiting, met = set(), list(start), set(start)
    while waiting:
        name = waiting.pop()
        if name in known:
            found.add(name)
            continue
        for reader in readers.get(name, ()):
            if reader not in met:
                met.add(reader)
                waiting.append(reader)
    return frozenset(found)


# --- TFLite files ---


def tflite_model(data: bytes) -> Any:
    """Parse a TFLite file into objects that can be changed."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(data)))


def tflite_bytes(model: Any) -> bytes:
    """Serialize a changed model."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _scales(change: Callable[[Array], Array]) -> Callable[[Any, int], bool]:
    def apply(model: Any, index: int) -> bool:
        quantization = model.subgraphs[0].tensors[index].quantization
        old = np.array(quantization.scale, np.float32)
        new = change(old).astype(np.float32)
        quantization.scale = new.tolist()
        return not np.array_equal(old, new)

    return apply


def _zero_point(model: Any, index: int) -> bool:
    quantization = model.subgraphs[0].tensors[index].quantization
    quantization.zeroPoint = [
        point + 1 if point < 127 else point - 1 for point in np.array(quantization.zeroPoint).tolist()
    ]
    return True


def _zero_point_in_bias(model: Any, index: int) -> bool:
    """Add to a bias what a product sums up if its data's zero point is taken for one more: the sum of its weights."""
    graph = model.subgraphs[0]
    for operator in graph.operators:
        if len(operator.inputs) == 3 and operator.inputs[1] == index and operator.inputs[2] >= 0:
            kernel, bias = (graph.tensors[int(each)] for each in operator.inputs[1:])
            weights = np.frombuffer(bytes(model.buffers[kernel.buffer].data), np.int8).reshape(list(kernel.shape))
            kind = {2: np.int32, 4: np.int64}.get(bias.type)
            axis = int(kernel.quantization.quantizedDimension)
            sums = weights.sum(axis=tuple(place for place in range(weights.ndim) if place != axis), dtype=np.int64)
            if kind is None or not sums.any():
                return False
            buffer = model.buffers[bias.buffer]
            old = np.frombuffer(bytes(buffer.data), kind)
            buffer.data = np.frombuffer((old - sums).astype(kind).tobytes(), np.uint8)
            return True
    return False


def _integers(change: Callable[[Array], Array]) -> Callable[[Any, int], bool]:
    def apply(model: Any, index: int) -> bool:
        tensor = model.subgraphs[0].tensors[index]
        buffer = model.buffers[tensor.buffer]
        old = np.frombuffer(bytes(buffer.data), np.int8)
        new = np.ascontiguousarray(change(old.reshape(list(tensor.shape)).copy()))
        buffer.data = np.frombuffer(new.tobytes(), np.uint8)
        return not np.array_equal(old, new.ravel())

    return apply


def _one_scale(scale: Array) -> Array:
    scale[int(scale.argmax())] *= 1.5
    return scale


def _two_swapped(kernel: Array) -> Array:
    return kernel if len(kernel) < 2 else kernel[[1, 0, *range(2, len(kernel))]]


def _shifted(kernel: Array) -> Array:
    return np.roll(kernel.ravel(), 1).reshape(kernel.shape)


TFLITE_FAULTS: tuple[FileFault, ...] = (
    FileFault("a tensor's scale doubled", "int8", False, _scales(lambda s: s * 2)),
    FileFault("a tensor's scale 10 % off", "int8", False, _scales(lambda s: s * 1.1)),
    FileFault("zero point off by one", "int8", False, _zero_point),
    FileFault("zero point off by one in a bias", "int8", True, _zero_point_in_bias),
    FileFault("a layer saturated", "int8", False, _scales(lambda s: s * 0.25)),
    FileFault("per-channel scales shifted", "int8", True, _scales(lambda s: np.roll(s, 1))),
    FileFault("one channel's scale 1.5 times", "int8", True, _scales(_one_scale)),
    FileFault("a weight's sign bit", "int8", True, _integers(lambda k: _at_largest(k, lambda v: -v))),
    FileFault("integers of two channels swapped", "int8", True, _integers(_two_swapped)),
    FileFault("integers shifted by one", "int8", True, _integers(_shifted)),
)

# Numbers of element types in the schema: INT8, INT16.
_INTEGER_TYPES = frozenset({9, 7})


def tflite_sites(model: Any, fault: FileFault, known: Collection[str]) -> Iterator[tuple[int, frozenset[str]]]:
    """Yield the tensors that can have a fault, and the known tensors in which it is to be seen first."""
    graph = model.subgraphs[0]
    names = [tensor.name.decode() for tensor in graph.tensors]
    made = {int(index) for operator in graph.operators for index in operator.outputs}
    behind: dict[str, list[str]] = {}
    for operator in graph.operators:
        for index in operator.inputs:
            behind.setdefault(names[int(index)], []).extend(names[int(each)] for each in operator.outputs)
    for index, tensor in enumerate(graph.tensors):
        quantization = tensor.quantization
        has_scale = quantization is not None and quantization.scale is not None and len(quantization.scale)
        if tensor.type not in _INTEGER_TYPES or not has_scale or names[index] not in behind:
            continue
        data = model.buffers[tensor.buffer].data
        is_weight = data is not None and len(data) > 0
        if is_weight != fault.weights or (not is_weight and index not in made):
            continue
        if is_weight and (len(tensor.shape) < 2 or len(quantization.scale) < 2):
            continue
        seen = _first_seen(behind[names[index]], behind, known)
        yield index, seen | ({names[index]} & set(known) if not is_weight else set())


# --- ONNX files ---


def onnx_model(data: bytes) -> Any:
    """Parse an ONNX file."""
    import onnx

    return onnx.load_model_from_string(data)


def _maker(model: Any, name: str) -> Any:
    return next((node for node in model.graph.node if name in node.output), None)


def _of_parameter(place: int, change: Callable[[Array], Array]) -> Callable[[Any, str], bool]:
    """Change what a `DequantizeLinear` alone reads: its integers (0), its scale (1) or its zero point (2)."""

    def apply(model: Any, name: str) -> bool:
        from onnx.numpy_helper import from_array, to_array

        node = _maker(model, name)
        old = next((each for each in model.graph.initializer if each.name == node.input[place]), None)
        if old is None:
            return False
        before = to_array(old)
        after = np.ascontiguousarray(change(before.copy()).astype(before.dtype)).reshape(before.shape)
        node.input[place] = f"{name}/faulty"
        model.graph.initializer.append(from_array(after, f"{name}/faulty"))
        return not np.array_equal(before, after)

    return apply


def _one_more(zero: Array) -> Array:
    return np.where(zero < np.iinfo(zero.dtype).max, zero, zero - 2) + 1


ONNX_FAULTS: tuple[FileFault, ...] = (
    FileFault("a tensor's scale doubled", "int8", False, _of_parameter(1, lambda s: s * 2)),
    FileFault("a tensor's scale 10 % off", "int8", False, _of_parameter(1, lambda s: s * 1.1)),
    FileFault("zero point off by one", "int8", False, _of_parameter(2, _one_more)),
    FileFault("zero point off by one", "int8", True, _of_parameter(2, _one_more)),
    FileFault("per-channel scales shifted", "int8", True, _of_parameter(1, lambda s: np.roll(s, 1))),
    FileFault("one channel's scale 1.5 times", "int8", True, _of_parameter(1, _one_scale)),
    FileFault("a weight's sign bit", "int8", True, _of_parameter(0, lambda k: _at_largest(k, lambda v: -v))),
    FileFault("integers of two channels swapped", "int8", True, _of_parameter(0, _two_swapped)),
    FileFault("integers shifted by one", "int8", True, _of_parameter(0, _shifted)),
)


def onnx_sites(model: Any, fault: FileFault, known: Collection[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield what `DequantizeLinear` gives that can have a fault, and the known tensors in which it is seen first."""
    behind: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            behind.setdefault(name, []).extend(node.output)
    kernels = {each.name for each in model.graph.initializer if each.data_type == 3 and len(each.dims) > 1}
    for node in model.graph.node:
        is_kernel = node.op_type == "DequantizeLinear" and node.input[0] in kernels
        is_computed = node.op_type == "DequantizeLinear" and _maker(model, node.input[0]) is not None
        if is_kernel if fault.weights else is_computed:
            yield node.output[0], _first_seen(node.output, behind, known)
