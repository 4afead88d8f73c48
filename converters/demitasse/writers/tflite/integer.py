"""Spell operations as XNNPACK has them for 8-bit integers.

In 8 bits XNNPACK has convolutions, dense layers, sums, differences, products, means, maximum pools and what moves
elements, but no RELU on its own, no average pool, no maximum of two tensors. Each emitter below composes one of those
of what there is; the others are shared with the float model. What loses its meaning in 8 bits (a logarithm, a power, a
comparison) stays real: the quantizer leaves it, and converts before and behind it.
"""

from __future__ import annotations

import math

import numpy as np

from demitasse.ir import ops
from demitasse.ir.graph import Graph, Node
from demitasse.ir.ops import (
    Activation,
    BinaryFunction,
    Coordinates,
    DType,
    Interpolation,
    ReduceFunction,
    UnaryFunction,
)
from demitasse.writers.tflite import elementwise, images, pooling, structure
from demitasse.writers.tflite.emitters import EMITTERS, Emitter
from demitasse.writers.tflite.lowering import FUSED, Lowering
from demitasse.writers.tflite.model import Tensor

__all__ = ["INTEGER_EMITTERS", "real_nodes"]

NONE, RELU, RELU_N1_TO_1, RELU6 = 0, 1, 2, 3  # `ActivationFunctionType` in schema.fbs

# A nearest neighbour that is copied more often than this is left to the operator of its own.
MOST_COPIES = 4

_REAL_FUNCTIONS = frozenset(UnaryFunction) - {
    UnaryFunction.SIGMOID,
    UnaryFunction.TANH,
    UnaryFunction.GELU,
    UnaryFunction.GELU_TANH,
    UnaryFunction.HARD_SWISH,
    UnaryFunction.NEG,
    UnaryFunction.SQUARE,
}


# What comes of a choice is no signal that 8 bits could hold: labels, places, what was selected.
_CHOICES = ops.Compare | ops.Where | ops.ArgMax | ops.TopK | ops.NonMaxSuppression

# Where a detector's own arithmetic begins, seen from its end.
_LAYERS = ops.Conv | ops.ConvTranspose | ops.Dense | ops.MaxPool | ops.AveragePool | ops.Lrn | ops.Softmax


def real_nodes(graph: Graph) -> frozenset[str]:
    """Collect the nodes, by their first result, that compute with real numbers in a quantized model.

    Those are operations that have no 8-bit meaning, everything that depends on a choice, and the decoding of boxes
    before a non-maximum suppression: with 8 bits a coordinate is no finer than 1/256 of the image.
    """
    real: set[str] = set()
    chosen: set[str] = set()
    for node in graph.nodes:
        follows = not chosen.isdisjoint(node.inputs)
        if follows or isinstance(node.op, _CHOICES):
            chosen.update(node.outputs)
        if follows or _has_no_meaning(graph, node):
            real.add(node.outputs[0])
    if not any(isinstance(node.op, ops.NonMaxSuppression) for node in graph.nodes):
        return frozenset(real)
    wanted = {name for node in graph.nodes if not chosen.isdisjoint(node.outputs) for name in node.inputs}
    consumers = graph.consumers()
    for node in reversed(graph.nodes):
        readers = [reader for name in node.outputs for reader in consumers.get(name, [])]
        decodes = readers and all(reader.outputs[0] in real for reader in readers)
        if decodes and wanted.intersection(node.outputs) and not isinstance(node.op, _LAYERS):
            real.add(node.outputs[0])
            wanted.update(node.inputs)
    return frozenset(real)


def _has_no_meaning(graph: Graph, node: Node) -> bool:
    """Tell whether an operation loses its meaning in 8 bits.

    Places of maxima tie in 8 bits where they don't in 32; a matrix of weights that `BATCH_MATMUL` reads is quantized
    by rows of the wrong side by ai-edge-quantizer.
    """
    match node.op:
        case op if isinstance(op, _CHOICES):
            return True
        case ops.Lrn() | ops.MaxUnpool() | ops.Cast():
            return True
        case ops.Unary(function=function):
            return function in _REAL_FUNCTIONS
        case ops.MaxPool(with_indices=indices):
            return indices
        case ops.Binary(function=BinaryFunction.POW):
            return True
        case ops.Binary(function=BinaryFunction.DIV):
            return node.inputs[1] not in graph.weights
        case ops.MatMul():
            return node.inputs[1] in graph.weights and not structure.is_dense(graph, node)
        case _:
            return False


def _number(to: Lowering, near: Tensor, what: str, value: float) -> Tensor:
    return to.small(near, what, value, DType.FLOAT32)


def _combine(to: Lowering, code: str, left: Tensor, right: Tensor, y: Tensor, fused: int = NONE) -> Tensor:
    options = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions"}[code]
    to.model.operator(code, [left, right], [y], options=options, fusedActivationFunction=fused)
    return y


def _between(
    to: Lowering, code: str, left: Tensor, right: Tensor, near: Tensor, what: str, fused: int = NONE
) -> Tensor:
    return _combine(to, code, left, right, to.temporary(near, what, near.shape), fused)


def _activate(to: Lowering, x: Tensor, y: Tensor, fused: int) -> None:
    """Emit an activation as that of a product with one."""
    _combine(to, "MUL", x, _number(to, y, "one", 1.0), y, fused)


def emit_relu(to: Lowering, _op: ops.Relu, node: Node) -> None:
    """Emit `MUL` by one, whose activation it is."""
    _activate(to, to.read(node.inputs[0]), to.result(node), RELU)


def emit_clip(to: Lowering, op: ops.Clip, node: Node) -> None:
    """Emit one or two differences that end at zero: `max(x, low) = relu(x - low) + low`."""
    x, y = to.read(node.inputs[0]), to.result(node)
    fused = {(0.0, math.inf): RELU, (0.0, 6.0): RELU6, (-1.0, 1.0): RELU_N1_TO_1}.get((op.low, op.high))
    if fused is not None:
        _activate(to, x, y, fused)
    elif math.isinf(op.low):
        below = _between(to, "SUB", _number(to, y, "high", op.high), x, y, "below", RELU)
        _combine(to, "SUB", _number(to, y, "high", op.high), below, y)
    elif math.isinf(op.high):
        above = _between(to, "SUB", x, _number(to, y, "low", op.low), y, "above", RELU)
        _combine(to, "ADD", above, _number(to, y, "low", op.low), y)
    else:
        above = _between(to, "SUB", x, _number(to, y, "low", op.low), y, "above", RELU)
        below = _between(to, "SUB", _number(to, y, "width", op.high - op.low), above, y, "below", RELU)
        _combine(to, "SUB", _number(to, y, "high", op.high), below, y)


def emit_prelu(to: Lowering, op: ops.PRelu, node: Node) -> None:
    """Emit `slope * x + relu((1 - slope) * x)`, which holds for slopes up to 1, or for others a sum of both sides."""
    name = node.inputs[1]
    if name not in to.graph.weights:
        elementwise.emit_prelu(to, op, node)
        return
    x, y = to.read(node.inputs[0]), to.result(node)
    slope = to.read(name)
    if (to.graph.weights[name] <= 1).all():
        rest = to.weight(name, slope.shape, lambda array: (1 - array).astype(array.dtype), "rest")
        line = _between(to, "MUL", x, slope, y, "line")
        _combine(to, "ADD", line, _between(to, "MUL", x, rest, y, "above", RELU), y)
        return
    one = _number(to, y, "one", 1.0)
    above = _between(to, "MUL", x, one, y, "above", RELU)
    below = _between(to, "SUB", x, above, y, "below")
    _combine(to, "ADD", above, _between(to, "MUL", below, slope, y, "line"), y)


def emit_unary(to: Lowering, op: ops.Unary, node: Node) -> None:
    """Emit products for what products can say; `hard_swish(x) = x * (relu6(x + 3) / 6)`."""
    if op.function not in (UnaryFunction.NEG, UnaryFunction.SQUARE, UnaryFunction.HARD_SWISH):
        elementwise.emit_unary(to, op, node)
        return
    x, y = to.read(node.inputs[0]), to.result(node)
    match op.function:
        case UnaryFunction.NEG:
            _combine(to, "MUL", x, _number(to, y, "minus_one", -1.0), y)
        case UnaryFunction.SQUARE:
            _combine(to, "MUL", x, x, y)
        case _:
            gate = _between(to, "ADD", x, _number(to, y, "three", 3.0), y, "gate", RELU6)
            share = _between(to, "MUL", gate, _number(to, y, "sixth", 1 / 6), y, "share")
            _combine(to, "MUL", x, share, y)


def emit_binary(to: Lowering, op: ops.Binary, node: Node) -> None:
    """Emit `max(a, b) = b + relu(a - b)`, `min(a, b) = a - relu(a - b)`, and a quotient as a product."""
    if op.function not in (BinaryFunction.MAX, BinaryFunction.MIN, BinaryFunction.DIV):
        elementwise.emit_binary(to, op, node)
        return
    left = to.read(node.inputs[0])
    if op.function is BinaryFunction.DIV:
        name = node.inputs[1]
        shape = to.graph.type(name).shape
        inverse = to.weight(name, shape, np.reciprocal, "inverse")
        _combine(to, "MUL", left, inverse, to.result(node), FUSED[op.activation])
        return
    right, y = to.read(node.inputs[1]), to.result(node)
    above = _between(to, "SUB", left, right, y, "above", RELU)
    code, other = ("ADD", right) if op.function is BinaryFunction.MAX else ("SUB", left)
    operands = (above, other) if code == "ADD" else (other, above)
    _combine(to, code, *operands, y, FUSED[op.activation])


def emit_reduce(to: Lowering, op: ops.Reduce, node: Node) -> None:
    """Emit the maximum over an image as a pool."""
    x = to.read(node.inputs[0])
    if op.function is not ReduceFunction.MAX or x.rank != 4 or sorted(op.axes) != [1, 2]:
        structure.emit_reduce(to, op, node)
        return
    y = to.result(node)
    pool = pooling.Pool.whole(x.shape[1:-1], maximum=True)
    pooled = y if op.keepdims else to.temporary(y, "pooled", (x.shape[0], 1, 1, x.shape[-1]))
    pooling.emit_pool(to, pool, x, pooled)
    if pooled is not y:
        to.reshape(pooled, y)


def emit_average_pool(to: Lowering, op: ops.AveragePool, node: Node) -> None:
    """Emit `MEAN` over whole images, else a depthwise convolution with equal weights."""
    x, y = to.read(node.inputs[0]), to.result(node)
    pool = pooling.Pool(False, op.kernel, op.stride, op.pads, op.activation)
    pooling.emit_along_axes(to, pool, x, y, _average)


def _average(to: Lowering, pool: pooling.Pool, x: Tensor, y: Tensor) -> None:
    axes = pool.axes(x)
    whole = all(axis.count == 1 and axis.extent == axis.size and not sum(axis.touched) for axis in axes)
    if whole:
        mean = y if pool.activation is Activation.NONE else to.temporary(y, "mean", y.shape)
        to.model.operator("MEAN", [x, to.small(y, "axes", [1, 2])], [mean], options="ReducerOptions", keepDims=True)
        if mean is not y:
            _activate(to, mean, y, FUSED[pool.activation])
        return
    pooling.emit_weighted(to, pool, x, y, pooling.average_by_convolution)


def emit_resize(to: Lowering, op: ops.Resize, node: Node) -> None:
    """Emit copies side by side for a nearest neighbour that repeats each element a few times."""
    x = to.read(node.inputs[0])
    factors = [after / before for before, after in zip(x.shape[1:-1], op.size, strict=True)]
    repeats = [round(factor) for factor in factors]
    plain = op.interpolation is Interpolation.NEAREST and op.coordinates is not Coordinates.ALIGN_CORNERS
    if not plain or x.rank != 4 or factors != repeats or max(repeats) > MOST_COPIES:
        images.emit_resize(to, op, node)
        return
    y = to.result(node)
    batch, height, width, channels = x.shape
    wide = _repeat(to, x, y, repeats[1], (batch, height, width * repeats[1] * channels), "wide")
    to.reshape(_repeat(to, wide, y, repeats[0], (batch, height * repeats[0], wide.shape[-1]), "high"), y)


def _repeat(to: Lowering, x: Tensor, y: Tensor, count: int, shape: tuple[int, ...], what: str) -> Tensor:
    """Put `count` copies of each row of the last axis side by side, and give the result another shape."""
    if count > 1:
        copies = to.temporary(y, f"{what}/copies", (*x.shape[:-1], count * x.shape[-1]), batched=x.batched)
        x = to.concat([x] * count, x.rank - 1, copies)
    return to.reshaped(x, y, what, shape)


INTEGER_EMITTERS: dict[type[ops.AnyOp], Emitter] = EMITTERS | {
    ops.Relu: emit_relu,
    ops.Clip: emit_clip,
    ops.PRelu: emit_prelu,
    ops.Unary: emit_unary,
    ops.Binary: emit_binary,
    ops.Reduce: emit_reduce,
    ops.AveragePool: emit_average_pool,
    ops.Resize: emit_resize,
}
