"""What a graph computes, in numpy: the meaning that everything else is tested against.

Each operation is one function below, written for clearness and float64 first. Every function takes any number of
spatial axes and both layouts; inside, images are channels first (a view, no copy). What would need much memory is done
block by block, so that a large net runs in little more than its own values need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike

from demitasse.errors import UsageError
from demitasse.ir.graph import Graph, infer_types, live_names
from demitasse.ir.ops import (
    Activation,
    AnyOp,
    ArgMax,
    AveragePool,
    Binary,
    BinaryFunction,
    Cast,
    Clip,
    Compare,
    CompareFunction,
    Concat,
    Conv,
    ConvTranspose,
    Coordinates,
    Curve,
    CurveFunction,
    Dense,
    Elu,
    Gather,
    Identity,
    Interpolation,
    Layout,
    LeakyRelu,
    Lrn,
    MatMul,
    MaxPool,
    MaxUnpool,
    NonMaxSuppression,
    Op,
    Pad,
    Padding,
    PRelu,
    Recurrent,
    RecurrentCell,
    Reduce,
    ReduceFunction,
    Relu,
    Reshape,
    Resize,
    RoiMaxPool,
    Shape,
    ShapeError,
    Slice,
    Softmax,
    SpatialOp,
    TensorType,
    Tile,
    TopK,
    Transpose,
    Unary,
    UnaryFunction,
    Where,
)
from demitasse.ir.weights import Array

__all__ = ["EVALUATORS", "evaluate", "evaluate_node"]

# The most bytes that the unrolled windows of a convolution, or a widened part of a kernel, take at once.
BLOCK_BYTES = 32 << 20

Results: TypeAlias = Array | tuple[Array, ...]
Index: TypeAlias = Any  # what stands between [ and ] of an array


def evaluate(
    graph: Graph,
    inputs: Mapping[str, Array],
    *,
    dtype: DTypeLike = np.float64,
    keep: Collection[str] | None = None,
) -> dict[str, Array]:
    """Compute a graph's values.

    Args:
        graph: what to compute; only the nodes that the kept values depend on run.
        inputs: one array an input, as the graph's layout and element types have it; a float one may have any float
            type. Where the graph's batch is dynamic, any batch is taken.
        dtype: the floating-point type in which to compute, and of the results.
        keep: the names of the values to return; any other is freed after its last reader ran. All, if None.

    Raises:
        UsageError: some input is missing, unknown, or of another type than the graph's, or a kept name is no value of
            the graph (all offenders are listed); or an index that an input holds points outside a tensor.
    """
    kept = dict.fromkeys(graph.values if keep is None else keep)
    _check_call(graph, inputs, kept)
    floating = np.dtype(dtype)
    live = live_names(graph, kept)
    nodes = [node for node in graph.nodes if live.intersection(node.outputs)]
    last_reader = {name: node for node in nodes for name in node.inputs}
    values = {name: _widen(np.asarray(inputs[name]), floating) for name in graph.inputs if name in live}
    for node in nodes:
        operands = [values[name] if name in values else graph.weights[name] for name in node.inputs]
        results = evaluate_node(node.op, operands, dtype=floating)
        del operands
        values.update(zip(node.outputs, results, strict=True))
        done = (name for name in {*node.inputs, *node.outputs} if last_reader.get(name, node) is node)
        for name in done:
            if name not in kept:
                values.pop(name, None)
    return {name: values[name] for name in kept}


def evaluate_node(op: AnyOp, inputs: Sequence[Array], *, dtype: DTypeLike = np.float64) -> tuple[Array, ...]:
    """Apply one operation to arrays that fit it; floats are computed in `dtype`.

    Results may be views of the inputs.
    """
    floating = np.dtype(dtype)
    # A dense kernel may be larger than all else in a net: it is widened part by part where it is used.
    whole = [
        array if isinstance(op, Dense) and index == 1 else _widen(np.asarray(array), floating)
        for index, array in enumerate(inputs)
    ]
    with np.errstate(all="ignore"):  # log(0) and 1 / 0 have a meaning
        results = EVALUATORS[type(op)](op, *whole)
    return tuple(_widen(np.asarray(result), floating) for result in _as_tuple(results))


def _as_tuple(results: Results) -> tuple[Array, ...]:
    return results if isinstance(results, tuple) else (results,)


def _widen(array: Array, floating: np.dtype[Any]) -> Array:
    """Give floats the type that is computed in; leave integers and booleans."""
    return array.astype(floating, copy=False) if array.dtype.kind == "f" else array


def _check_call(graph: Graph, inputs: Mapping[str, Array], kept: Collection[str]) -> None:
    """Raise UsageError with everything that is wrong with a call."""
    faults = [f"nothing is given for {graph.type(name)} {name!r}" for name in graph.inputs if name not in inputs]
    faults += [f"{name!r} is no input (there is {graph.inputs})" for name in inputs if name not in graph.inputs]
    faults += [f"{name!r} is no value" for name in kept if name not in graph.values]
    given = {name: np.asarray(inputs[name]) for name in graph.inputs if name in inputs}
    faults += [fault for name, array in given.items() for fault in _type_faults(graph, name, array)]
    if not faults and graph.batch_is_dynamic:
        try:
            infer_types(graph, {name: array.shape for name, array in given.items()})
        except ShapeError as error:
            faults.append(str(error))
    if faults:
        raise UsageError("\n  ".join([f"graph {graph.name!r} can't be evaluated with these inputs:", *faults]))


def _type_faults(graph: Graph, name: str, array: Array) -> Iterator[str]:
    expected = graph.type(name)
    fixed = 1 if graph.batch_is_dynamic else 0
    if array.ndim != expected.rank or array.shape[fixed:] != expected.shape[fixed:]:
        free = " with any batch" if graph.batch_is_dynamic else ""
        yield f"{name!r} has the shape {array.shape}, expected {expected.shape}{free}"
    if array.dtype != expected.dtype.value and not (array.dtype.kind == "f" and expected.dtype.is_float):
        yield f"{name!r} has the element type {array.dtype}, expected {expected.dtype.value}"


# --- spatial operations -----------------------------------------------------------------------------------------------


def _channels_first(op: SpatialOp, x: Array) -> Array:
    """View an image as `[N, C, *spatial]`."""
    return x if op.layout is Layout.CHANNELS_FIRST else np.moveaxis(x, -1, 1)


def _as_laid_out(op: SpatialOp, x: Array) -> Array:
    """View `[N, C, *spatial]` in the operation's layout."""
    return x if op.layout is Layout.CHANNELS_FIRST else np.moveaxis(x, 1, -1)


def _padded(x: Array, pads: Sequence[Padding], value: float = 0.0) -> Array:
    """Pad the spatial axes of `[N, C, *spatial]`."""
    if not any(map(any, pads)):
        return x
    return np.pad(x, [(0, 0), (0, 0), *pads], constant_values=value)


def _activate(activation: Activation, x: Array) -> Array:
    match activation:
        case Activation.NONE:
            return x
        case Activation.RELU:
            return np.maximum(x, 0)
        case Activation.RELU6:
            return np.clip(x, 0, 6)


def _biased(y: Array, bias: Sequence[Array]) -> Array:
    """Add the bias, if there is one, to the channels of `[N, C, *spatial]`."""
    if bias:
        y += bias[0].reshape(-1, *(1,) * (y.ndim - 2))
    return y


def _conv(op: Conv, x: Array, kernel: Array, *bias: Array) -> Array:
    """Unroll the windows (im2col) of some rows of one sample at a time, and multiply by the kernel as a matrix."""
    x = _padded(_channels_first(op, x), op.pads)
    batch, channels = x.shape[:2]
    out, _, *window = kernel.shape
    windows = _windows(x, window, op.stride, op.dilation)  # [N, C, *window, *counts]
    counts = windows.shape[2 + len(window) :]
    matrix = kernel.reshape(op.groups, out // op.groups, -1)
    y = np.empty((batch, op.groups, out // op.groups, *counts), x.dtype)
    row_bytes = channels * math.prod(window) * math.prod(counts[1:]) * x.itemsize
    # A window of one element unrolls to a view: there is nothing to save.
    rows = counts[0] if math.prod(window) == 1 else max(1, BLOCK_BYTES // row_bytes)
    by_rows = np.moveaxis(windows, 2 + len(window), 1)
    for sample, start in product(range(batch), range(0, counts[0], rows)):
        block = np.moveaxis(by_rows[sample, start : start + rows], 0, 1 + len(window))
        products = matrix @ block.reshape(op.groups, matrix.shape[2], -1)
        y[sample, :, :, start : start + rows] = products.reshape(op.groups, -1, *block.shape[1 + len(window) :])
    y = _biased(y.reshape(batch, out, *counts), bias)
    return _as_laid_out(op, _activate(op.activation, y))


def _windows(x: Array, window: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Array:
    """View every window of `[N, C, *spatial]` as `[N, C, *window, *counts]`."""
    axes = tuple(range(2, x.ndim))
    extents = [step * (size - 1) + 1 for size, step in zip(window, dilation, strict=True)]
    every = sliding_window_view(x, extents, axes)
    steps: Index = tuple(slice(None, None, step) for step in (1, 1, *stride, *dilation))
    return np.moveaxis(every[steps], axes, range(-len(axes), 0))


def _conv_transpose(op: ConvTranspose, x: Array, kernel: Array, *bias: Array) -> Array:
    """Add up, for each place of the kernel, what it gives to every `stride`-th element of the uncropped result."""
    x = _channels_first(op, x)
    batch, channels, *spatial = x.shape
    window = kernel.shape[2:]
    out = kernel.shape[1] * op.groups
    axes = list(zip(spatial, window, op.stride, op.dilation, strict=True))
    full = [stride * (size - 1) + dilation * (extent - 1) + 1 for size, extent, stride, dilation in axes]
    room = [size + extra for size, extra in zip(full, op.output_padding, strict=True)]
    y = np.zeros((batch, out, *room), x.dtype)
    grouped = x.reshape(batch, op.groups, channels // op.groups, -1)
    for place in np.ndindex(*window):
        at: Index = (..., *place)
        matrix = kernel[at].reshape(op.groups, channels // op.groups, -1).swapaxes(1, 2)
        reached: Index = (
            ...,
            *(
                slice(dilation * index, dilation * index + stride * (size - 1) + 1, stride)
                for index, (size, _, stride, dilation) in zip(place, axes, strict=True)
            ),
        )
        y[reached] += (matrix @ grouped).reshape(batch, out, *spatial)
    crop: Index = (..., *(slice(pad.before, size - pad.after) for pad, size in zip(op.pads, room, strict=True)))
    y = _biased(y[crop], bias)
    return _as_laid_out(op, _activate(op.activation, y))


def _places(op: MaxPool | AveragePool, counts: Sequence[int]) -> Iterator[tuple[tuple[int, ...], Index]]:
    """Yield, row-major, each place of a window and the elements that lie there in all windows of a padded image."""
    for place in np.ndindex(*op.kernel):
        axes = zip(place, op.stride, counts, strict=True)
        elements = (slice(start, start + stride * (count - 1) + 1, stride) for start, stride, count in axes)
        yield place, (..., *elements)


def _counts(op: MaxPool | AveragePool, padded: Array) -> Shape:
    axes = zip(padded.shape[2:], op.kernel, op.stride, strict=True)
    return tuple((size - window) // stride + 1 for size, window, stride in axes)


def _max_pool(op: MaxPool, x: Array) -> Results:
    x = _channels_first(op, x)
    padded = _padded(x, op.pads, _lowest(x.dtype))
    counts = _counts(op, padded)
    y = np.full((*x.shape[:2], *counts), _lowest(x.dtype), x.dtype)
    indices = _plane_index(op, x.shape[2:], counts, (0,) * len(counts))
    for place, elements in _places(op, counts):
        candidate = padded[elements]
        if op.with_indices:
            indices = np.where(candidate > y, _plane_index(op, x.shape[2:], counts, place), indices)
        np.maximum(y, candidate, out=y)
    y = _as_laid_out(op, _activate(op.activation, y))
    return (y, _as_laid_out(op, indices.astype(np.int32))) if op.with_indices else y


def _plane_index(op: MaxPool, spatial: Shape, counts: Shape, place: tuple[int, ...]) -> Array:
    """Return, for every window, the row-major index in the unpadded image of the element at one place of the window.

    What lies before the image is moved into it: so place zero gives a window's first element that is no padding
    in some axis, which is right where all elements are the lowest number.
    """
    axes = zip(place, op.stride, op.pads, counts, strict=True)
    along = [np.maximum(start - pad.before + stride * np.arange(count), 0) for start, stride, pad, count in axes]
    index = np.zeros((), np.int64)
    for size, one in zip(spatial, along, strict=True):
        index = index[..., None] * size + one
    return index


def _lowest(dtype: np.dtype[Any]) -> Any:
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _average_pool(op: AveragePool, x: Array) -> Array:
    x = _channels_first(op, x)
    padded = _padded(x, op.pads)
    counts = _counts(op, padded)
    y = np.zeros((*x.shape[:2], *counts), x.dtype)
    for _, elements in _places(op, counts):
        y += padded[elements]
    for axis, (size, window, stride, pad) in enumerate(
        zip(x.shape[2:], op.kernel, op.stride, op.pads, strict=True), start=2
    ):
        start = stride * np.arange(counts[axis - 2]) - pad.before
        inside = np.minimum(start + window, size) - np.maximum(start, 0)
        y /= inside.reshape(-1, *(1,) * (y.ndim - axis - 1)).astype(y.dtype)
    return _as_laid_out(op, _activate(op.activation, y))


def _max_unpool(op: MaxUnpool, x: Array, places: Array) -> Array:
    x, places = _channels_first(op, x), _channels_first(op, places)
    planes = (*x.shape[:2], -1)
    y = np.zeros((*x.shape[:2], math.prod(op.size)), x.dtype)
    _check_indices(places, y.shape[2], "max unpooling")
    np.put_along_axis(y, places.reshape(planes), x.reshape(planes), axis=2)
    return _as_laid_out(op, y.reshape(*x.shape[:2], *op.size))


def _check_indices(indices: Array, size: int, where: str) -> None:
    if indices.size and (indices.min() < 0 or indices.max() >= size):
        raise UsageError(f"{where} reads indices from {indices.min()} to {indices.max()}, beyond 0 to {size - 1}")


def _lrn(op: Lrn, x: Array) -> Array:
    x = _channels_first(op, x)
    reach, channels = op.size // 2, x.shape[1]
    squares = np.pad(np.square(x), [(0, 0), (reach, reach), *((0, 0),) * (x.ndim - 2)])
    total = sum((squares[:, start : start + channels] for start in range(op.size)), np.zeros_like(x))
    return _as_laid_out(op, x / (op.k + op.alpha / op.size * total) ** op.beta)


def _resize(op: Resize, x: Array) -> Array:
    """Resample one axis after the other: linear interpolation in several axes is separable."""
    for axis, size in zip(op.layout.spatial_axes(x.ndim), op.size, strict=True):
        step, half, divisor = _step(op.coordinates, x.shape[axis], size)
        doubled = 2 * np.arange(size) * step + half  # twice the place, times the divisor: exact in integers
        if op.interpolation is Interpolation.NEAREST:
            rounding = 0 if op.coordinates is Coordinates.ASYMMETRIC else divisor
            nearest = (doubled + rounding) // (2 * divisor)
            x = np.take(x, np.clip(nearest, 0, x.shape[axis] - 1), axis)
        else:
            place = np.clip(doubled / (2 * divisor), 0, x.shape[axis] - 1)
            low = place.astype(np.int64)
            high = np.minimum(low + 1, x.shape[axis] - 1)
            share = (place - low).astype(x.dtype).reshape(-1, *(1,) * (x.ndim - axis - 1))
            below, above = np.take(x, low, axis), np.take(x, high, axis)
            x = below + (above - below) * share
    return x


def _step(coordinates: Coordinates, before: int, after: int) -> tuple[int, int, int]:
    """Return integers so that place `o` of the result is `(o * step + half / 2) / divisor` in the input."""
    match coordinates:
        case Coordinates.ALIGN_CORNERS:
            return before - 1, 0, max(after - 1, 1)
        case Coordinates.HALF_PIXEL:
            return before, before - after, after
        case Coordinates.ASYMMETRIC:
            return before, 0, after


# --- products ---------------------------------------------------------------------------------------------------------


def _dense(op: Dense, x: Array, kernel: Array, *bias: Array) -> Array:
    out, width = kernel.shape
    y = np.empty((*x.shape[:-1], out), x.dtype)
    rows = max(1, BLOCK_BYTES // (width * x.itemsize))
    for start in range(0, out, rows):
        part = kernel[start : start + rows].astype(x.dtype, copy=False)
        np.matmul(x, part.T, out=y[..., start : start + rows])
    return _activate(op.activation, y + bias[0] if bias else y)


def _mat_mul(op: MatMul, left: Array, right: Array) -> Array:
    result: Array = (left.swapaxes(-1, -2) if op.transpose_left else left) @ (
        right.swapaxes(-1, -2) if op.transpose_right else right
    )
    return result


# --- elementwise ------------------------------------------------------------------------------------------------------


def _erf(x: Array) -> Array:
    """Return the error function, element by element: numpy has none."""
    return np.fromiter(map(math.erf, x.ravel().tolist()), x.dtype, x.size).reshape(x.shape)


def _gelu_tanh(x: Array) -> Array:
    result: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return result


def _divide(left: Array, right: Array) -> Array:
    if left.dtype.kind == "f":
        return np.divide(left, right)
    quotient = np.abs(left) // np.abs(right)  # integers are cut towards zero
    result: Array = quotient * np.sign(left) * np.sign(right)
    return result


UNARY_FUNCTIONS: Mapping[UnaryFunction, Callable[[Array], Array]] = MappingProxyType(
    {
        UnaryFunction.ABS: np.abs,
        UnaryFunction.NEG: np.negative,
        UnaryFunction.EXP: np.exp,
        UnaryFunction.LOG: np.log,
        UnaryFunction.SQRT: np.sqrt,
        UnaryFunction.RSQRT: lambda x: 1 / np.sqrt(x),
        UnaryFunction.SQUARE: np.square,
        UnaryFunction.SIGMOID: lambda x: np.exp(-np.logaddexp(0, -x)),  # exact to the last bits at both ends
        UnaryFunction.TANH: np.tanh,
        UnaryFunction.SOFTPLUS: lambda x: np.logaddexp(0, x),
        UnaryFunction.SOFTSIGN: lambda x: x / (1 + np.abs(x)),
        UnaryFunction.SIGN: np.sign,
        UnaryFunction.FLOOR: np.floor,
        UnaryFunction.CEIL: np.ceil,
        UnaryFunction.ROUND: np.rint,
        UnaryFunction.SIN: np.sin,
        UnaryFunction.COS: np.cos,
        UnaryFunction.GELU: lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
        UnaryFunction.GELU_TANH: _gelu_tanh,
        UnaryFunction.HARD_SWISH: lambda x: x * np.clip(x + 3, 0, 6) / 6,
    }
)

BINARY_FUNCTIONS: Mapping[BinaryFunction, Callable[[Array, Array], Array]] = MappingProxyType(
    {
        BinaryFunction.ADD: np.add,
        BinaryFunction.SUB: np.subtract,
        BinaryFunction.MUL: np.multiply,
        BinaryFunction.DIV: _divide,
        BinaryFunction.MAX: np.maximum,
        BinaryFunction.MIN: np.minimum,
        BinaryFunction.POW: np.power,
    }
)

COMPARE_FUNCTIONS: Mapping[CompareFunction, Callable[[Array, Array], Array]] = MappingProxyType(
    {
        CompareFunction.GREATER: np.greater,
        CompareFunction.GREATER_EQUAL: np.greater_equal,
        CompareFunction.LESS: np.less,
        CompareFunction.LESS_EQUAL: np.less_equal,
        CompareFunction.EQUAL: np.equal,
    }
)


def _unary(op: Unary, x: Array) -> Array:
    return UNARY_FUNCTIONS[op.function](x)


def _relu(_: Relu, x: Array) -> Array:
    return np.maximum(x, 0)


def _leaky_relu(op: LeakyRelu, x: Array) -> Array:
    return np.where(x > 0, x, op.slope * x)


def _elu(op: Elu, x: Array) -> Array:
    return np.where(x > 0, x, op.alpha * np.expm1(x))


def _clip(op: Clip, x: Array) -> Array:
    return np.clip(x, op.low, op.high).astype(x.dtype, copy=False)


def _prelu(_: PRelu, x: Array, slope: Array) -> Array:
    return np.where(x > 0, x, slope * x)


def _binary(op: Binary, left: Array, right: Array) -> Array:
    return _activate(op.activation, BINARY_FUNCTIONS[op.function](left, right))


def _compare(op: Compare, left: Array, right: Array) -> Array:
    return COMPARE_FUNCTIONS[op.function](left, right)


def _where(_: Where, condition: Array, left: Array, right: Array) -> Array:
    return np.where(condition, left, right)


def _cast(op: Cast, x: Array) -> Array:
    return x.astype(np.float64 if op.dtype.is_float else op.dtype.value)


# --- recurrent --------------------------------------------------------------------------------------------------------


CURVES: Mapping[CurveFunction, Callable[[Array, float, float], Array]] = MappingProxyType(
    {
        CurveFunction.SIGMOID: lambda x, *_: UNARY_FUNCTIONS[UnaryFunction.SIGMOID](x),
        CurveFunction.TANH: lambda x, *_: np.tanh(x),
        CurveFunction.RELU: lambda x, *_: np.maximum(x, 0),
        CurveFunction.LINEAR: lambda x, *_: x,
        CurveFunction.HARD_SIGMOID: lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
        CurveFunction.LEAKY_RELU: lambda x, alpha, _: np.where(x > 0, x, alpha * x),
        CurveFunction.ELU: lambda x, alpha, _: np.where(x > 0, x, alpha * np.expm1(x)),
        CurveFunction.SOFTSIGN: lambda x, *_: x / (1 + np.abs(x)),
        CurveFunction.SOFTPLUS: lambda x, *_: np.logaddexp(0, x),
    }
)


def _curved(curve: Curve, x: Array) -> Array:
    return CURVES[curve.function](x, curve.alpha, curve.beta)


def _recurrent(op: Recurrent, x: Array, kernel: Array, recurrent: Array, *rest: Array) -> Results:
    units = recurrent.shape[1]
    bias = rest[0] if op.is_biased else np.zeros((2, len(kernel)), x.dtype)
    given = rest[1:] if op.is_biased else rest
    states = given or (np.zeros((len(x), units), x.dtype),) * op.cell.states
    projected = x @ kernel.T + bias[0]
    outputs = np.empty((*x.shape[:2], units), x.dtype)
    for place in reversed(range(x.shape[1])) if op.backwards else range(x.shape[1]):
        states = _next_states(op, projected[:, place], states, recurrent, bias[1])
        outputs[:, place] = states[0]
    return (outputs, *states)


def _next_states(op: Recurrent, x: Array, states: tuple[Array, ...], kernel: Array, bias: Array) -> tuple[Array, ...]:
    """Compute one step, as the operation's docstring writes it."""
    hidden, units = states[0], kernel.shape[1]
    total = x + hidden @ kernel.T + bias
    match op.cell:
        case RecurrentCell.PLAIN:
            return (_curved(op.activation, total),)
        case RecurrentCell.LSTM:
            entry, output, forget = np.split(_curved(op.gate, total[:, : 3 * units]), 3, axis=1)
            carry = forget * states[1] + entry * _curved(op.activation, total[:, 3 * units :])
            return output * _curved(op.activation, carry), carry
        case RecurrentCell.GRU | RecurrentCell.GRU_RESET_AFTER:
            update, reset = np.split(_curved(op.gate, total[:, : 2 * units]), 2, axis=1)
            rows = kernel[2 * units :].T
            if op.cell is RecurrentCell.GRU:
                share = (reset * hidden) @ rows + bias[2 * units :]
            else:
                share = reset * (hidden @ rows + bias[2 * units :])
            candidate = _curved(op.activation, x[:, 2 * units :] + share)
            return (update * hidden + (1 - update) * candidate,)


# --- along axes -------------------------------------------------------------------------------------------------------


def _softmax(op: Softmax, x: Array) -> Array:
    raised = np.exp(x - x.max(axis=op.axis, keepdims=True))  # the largest is 1: nothing overflows
    result: Array = raised / raised.sum(axis=op.axis, keepdims=True)
    return result


REDUCE_FUNCTIONS: Mapping[ReduceFunction, Callable[..., Any]] = MappingProxyType(
    {
        ReduceFunction.SUM: np.sum,
        ReduceFunction.MEAN: np.mean,
        ReduceFunction.MAX: np.max,
        ReduceFunction.MIN: np.min,
        ReduceFunction.PROD: np.prod,
        ReduceFunction.L1: lambda x, **axes: np.sum(np.abs(x), **axes),
        ReduceFunction.SUM_SQUARE: lambda x, **axes: np.sum(np.square(x), **axes),
    }
)


def _reduce(op: Reduce, x: Array) -> Array:
    reduced = REDUCE_FUNCTIONS[op.function](x, axis=op.axes, keepdims=op.keepdims)
    result: Array = np.asarray(reduced, x.dtype)  # numpy widens the sums of integers
    return result


def _arg_max(op: ArgMax, x: Array) -> Array:
    places: Array = np.argmax(x, axis=op.axis, keepdims=op.keepdims)
    return places.astype(np.int32)


def _top_k(op: TopK, x: Array) -> Results:
    # Sorted backwards and turned round: of equal elements the first comes first, as a stable sort has them.
    backwards = np.argsort(np.flip(x, op.axis), axis=op.axis, kind="stable")
    order = x.shape[op.axis] - 1 - np.flip(backwards, op.axis)
    places = np.take(order, np.arange(op.k), op.axis)
    return np.take_along_axis(x, places, op.axis), places.astype(np.int32)


# --- structure --------------------------------------------------------------------------------------------------------


def _concat(op: Concat, *parts: Array) -> Array:
    return np.concatenate(parts, op.axis)


def _slice(op: Slice, x: Array) -> Array:
    cut: Array = x[op.slices(x.ndim)]
    return cut


def _pad(op: Pad, x: Array) -> Array:
    return np.pad(x, op.pads, constant_values=op.value)


def _reshape(op: Reshape, x: Array) -> Array:
    (result,) = op.infer([TensorType(x.shape)])
    return x.reshape(result.shape)


def _transpose(op: Transpose, x: Array) -> Array:
    return x.transpose(op.axes)


def _tile(op: Tile, x: Array) -> Array:
    return np.tile(x, op.repeats)


def _gather(op: Gather, x: Array, indices: Array) -> Array:
    _check_indices(indices, x.shape[op.axis], "gathering")
    return np.take(x, indices, op.axis)


def _identity(_: Identity, x: Array) -> Array:
    return x


def _roi_max_pool(op: RoiMaxPool, x: Array, regions: Array) -> Array:
    y = np.zeros((len(regions), x.shape[1], *op.size), x.dtype)
    samples = np.trunc(regions[:, 0]).astype(np.int64)
    _check_indices(samples, len(x), "pooling of regions")
    for region, (sample, row) in enumerate(zip(samples, regions[:, 1:], strict=True)):
        corners = row.astype(np.float32) * np.float32(op.scale)
        rounded = np.sign(corners) * np.floor(np.abs(corners) + np.float32(0.5))
        left, top, right, bottom = map(int, rounded)
        rows = _bins(top, bottom, op.size.height, x.shape[2])
        columns = _bins(left, right, op.size.width, x.shape[3])
        for (i, down), (j, across) in product(enumerate(rows), enumerate(columns)):
            part = x[sample, :, down, across]
            if part.size:
                y[region, :, i, j] = part.max((1, 2))
    return y


def _bins(start: int, last: int, count: int, size: int) -> list[slice]:
    """Cut what lies from `start` to `last`, both included, into overlapping bins inside 0..size."""
    length = np.float32(max(last - start + 1, 1)) / np.float32(count)
    number = np.arange(count + 1, dtype=np.float32)
    lows = np.clip(np.floor(number[:-1] * length).astype(np.int64) + start, 0, size)
    highs = np.clip(np.ceil(number[1:] * length).astype(np.int64) + start, 0, size)
    return [slice(low, high) for low, high in zip(lows.tolist(), highs.tolist(), strict=True)]


def _non_max_suppression(op: NonMaxSuppression, boxes: Array, scores: Array) -> Array:
    kept = np.zeros(scores.shape, bool)
    low, high = np.minimum(boxes[..., :2], boxes[..., 2:]), np.maximum(boxes[..., :2], boxes[..., 2:])
    for sample, label in np.ndindex(scores.shape[:2]):
        ranked = np.argsort(-scores[sample, label], kind="stable")
        left = ranked[scores[sample, label, ranked] > op.score_threshold]
        while left.size:
            best, left = left[0], left[1:]
            kept[sample, label, best] = True
            share = _overlap(low[sample, best], high[sample, best], low[sample, left], high[sample, left])
            left = left[~(share > op.overlap_threshold)]
    return kept


def _overlap(low: Array, high: Array, lows: Array, highs: Array) -> Array:
    """Return the area that a box shares with each of some others, divided by the area of both together."""
    shared = np.prod(np.maximum(np.minimum(high, highs) - np.maximum(low, lows), 0), axis=-1)
    whole = np.prod(high - low, axis=-1) + np.prod(highs - lows, axis=-1) - shared
    return np.asarray(np.where(shared > 0, shared / np.where(whole > 0, whole, 1), 0))


EVALUATORS: Mapping[type[Op], Callable[..., Results]] = MappingProxyType(
    {
        Conv: _conv,
        ConvTranspose: _conv_transpose,
        MaxPool: _max_pool,
        AveragePool: _average_pool,
        MaxUnpool: _max_unpool,
        Lrn: _lrn,
        Resize: _resize,
        Dense: _dense,
        MatMul: _mat_mul,
        Unary: _unary,
        Relu: _relu,
        LeakyRelu: _leaky_relu,
        Elu: _elu,
        Clip: _clip,
        PRelu: _prelu,
        Binary: _binary,
        Compare: _compare,
        Where: _where,
        Cast: _cast,
        Softmax: _softmax,
        Reduce: _reduce,
        ArgMax: _arg_max,
        TopK: _top_k,
        RoiMaxPool: _roi_max_pool,
        NonMaxSuppression: _non_max_suppression,
        Recurrent: _recurrent,
        Concat: _concat,
        Slice: _slice,
        Pad: _pad,
        Reshape: _reshape,
        Transpose: _transpose,
        Tile: _tile,
        Gather: _gather,
        Identity: _identity,
    }
)
