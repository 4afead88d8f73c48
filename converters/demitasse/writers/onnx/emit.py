"""Spell each operation of a graph in ONNX's operators.

One function an operation; `EMITTERS` is the table of them. An operation that ONNX lacks, or means otherwise, is
composed of several nodes. Operators are used as https://onnx.ai/onnx/operators defines them, in the form that they
have in the asked opset.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from demitasse.errors import Offence, UsageError
from demitasse.ir.graph import Graph
from demitasse.ir.ops import (
    Activation,
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
    DType,
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
    Slice,
    Softmax,
    SpatialOp,
    Tile,
    TopK,
    Transpose,
    Unary,
    UnaryFunction,
    Where,
)
from demitasse.writers.onnx.draft import Dims, Site, element_type

__all__ = ["EMITTERS", "LIMITS", "offences"]

Emitter: TypeAlias = Callable[[Site, Any], None]

INT64 = np.iinfo(np.int64)
"""How a slice spells "to the end": the ends of the range are clipped to the axis."""

AXES_AS_INPUT = 18
"""The first opset in which all reductions, not `ReduceSum` alone, take their axes as an input."""

RESIZE_AXES = 18
"""The first opset in which `Resize` can be told which axes its sizes are for."""

SHAPE_RANGE = 15
"""The first opset in which `Shape` can give a range of the dimensions."""

HARD_SWISH = 14
"""The first opset that has `HardSwish`."""

ROI_POOL = 21
"""The last opset whose `MaxRoiPool` ONNX Runtime has."""

GELU = 20
"""The first opset that has `Gelu`."""


def _both_ends(pads: Sequence[Padding]) -> list[int]:
    """List pads as ONNX has them: all that come before, then all that come after."""
    return [pad.before for pad in pads] + [pad.after for pad in pads]


def _plain(operator: str) -> Emitter:
    """Spell an operation that has no attributes as the operator that means the same."""
    return lambda site, _: site.finish(operator, site.inputs)


# --- spatial operations -------------------------------------------------------------------------------------


def _conv(site: Site, op: Conv) -> None:
    site.finish(
        "Conv",
        site.inputs,
        op.activation,
        kernel_shape=site.type(site.inputs[1]).shape[2:],
        strides=op.stride,
        dilations=op.dilation,
        pads=_both_ends(op.pads),
        group=op.groups,
    )


def _conv_transpose(site: Site, op: ConvTranspose) -> None:
    site.finish(
        "ConvTranspose",
        site.inputs,
        op.activation,
        kernel_shape=site.type(site.inputs[1]).shape[2:],
        strides=op.stride,
        dilations=op.dilation,
        pads=_both_ends(op.pads),
        output_padding=op.output_padding if any(op.output_padding) else None,
        group=op.groups,
    )


def _pool_attributes(site: Site, op: MaxPool | AveragePool, pads: Sequence[Padding]) -> dict[str, Any]:
    """Spell what the poolings share; padding that no window reaches is cut, as runtimes refuse a whole window of it."""
    sizes, counts = (site.type(name).shape[2:] for name in (site.inputs[0], site.output))
    reached = [
        Padding(pad.before, max(0, min(pad.after, (count - 1) * stride + window - size - pad.before)))
        for size, count, window, stride, pad in zip(sizes, counts, op.kernel, op.stride, pads, strict=True)
    ]
    return {"kernel_shape": op.kernel, "strides": op.stride, "pads": _both_ends(reached)}


def _max_pool(site: Site, op: MaxPool) -> None:
    attributes = _pool_attributes(site, op, op.pads)
    if not op.with_indices:
        site.finish("MaxPool", site.inputs, op.activation, **attributes)
        return
    places = site.node.outputs[1]
    result = site.output if op.activation is Activation.NONE else site.value("linear")
    flat = site.value("flat_indices", dtype=DType.INT64)
    site.emit("MaxPool", site.inputs, [result, flat], **attributes)
    site.activate(result, op.activation)
    # ONNX counts the places over the whole tensor, samples and channels included.
    plane = site.scalar("plane", math.prod(site.type(site.inputs[0]).shape[2:]), DType.INT64)
    within = site.step("plane_indices", "Mod", [flat, plane], dtype=DType.INT64)
    site.emit("Cast", [within], [places], to=element_type(DType.INT32))


def _average_pool(site: Site, op: AveragePool) -> None:
    (x,) = site.inputs
    pad = site.draft.counted_pads.get(x)
    if pad is None:
        site.finish("AveragePool", [x], op.activation, **_pool_attributes(site, op, op.pads))
        return
    site.finish(
        "AveragePool",
        [pad.source],
        op.activation,
        kernel_shape=op.kernel,
        strides=op.stride,
        pads=_both_ends(pad.pads),
        count_include_pad=1,
    )


def _max_unpool(site: Site, op: MaxUnpool) -> None:
    """Scatter into planes of zeros: runtimes disagree on what `MaxUnpool` counts its indices over (onnx issue 2398)."""
    from onnx.numpy_helper import from_array

    x, places = site.inputs
    dtype = site.type(x).dtype
    batch, channels, *_ = site.dims(x)
    pooled: Dims = (batch, channels, math.prod(site.type(x).shape[2:]))
    plane: Dims = (batch, channels, math.prod(op.size))
    flat = site.integers("planes", (0, 0, -1))
    values = site.step("values", "Reshape", [x, flat], pooled)
    indices = site.step("indices", "Reshape", [places, flat], pooled, site.type(places).dtype)
    zero = from_array(np.zeros(1, dtype.value))
    zeros = site.step("zeros", "ConstantOfShape", [_shape_of_planes(site, x, math.prod(op.size))], plane, value=zero)
    scattered = site.step("scattered", "ScatterElements", [zeros, indices, values], plane, axis=2)
    site.finish("Reshape", [scattered, site.integers("shape", (0, 0, *op.size))])


def _shape_of_planes(site: Site, x: str, plane: int) -> str:
    """Return the shape (batch, channels, plane): a constant, or computed where the batch is free."""
    batch, channels, *_ = site.dims(x)
    if isinstance(batch, int) and isinstance(channels, int):
        return site.integers("zeros_shape", (batch, channels, plane))
    rank = len(site.dims(x))
    if site.opset >= SHAPE_RANGE:
        leading = site.step("leading", "Shape", [x], (2,), DType.INT64, end=2)
    else:
        whole = site.step("whole", "Shape", [x], (rank,), DType.INT64)
        ends = [site.integers("first", (0,)), site.integers("last", (2,))]
        leading = site.step("leading", "Slice", [whole, *ends], (2,), DType.INT64)
    size = site.integers("plane", (plane,))
    return site.step("zeros_shape", "Concat", [leading, size], (3,), DType.INT64, axis=0)


def _roi_max_pool(site: Site, op: RoiMaxPool) -> None:
    if site.opset > ROI_POOL:
        raise UsageError(
            f"{site.node.origin.where}: ONNX Runtime pools regions up to opset {ROI_POOL}; ask for that or a lower one"
        )
    site.finish("MaxRoiPool", site.inputs, pooled_shape=op.size, spatial_scale=op.scale)


def _non_max_suppression(site: Site, op: NonMaxSuppression) -> None:
    """Mark the boxes that ONNX lists, one row of (sample, class, box) each, in a tensor of zeros."""
    from onnx.numpy_helper import from_array

    boxes, scores = site.inputs
    dims = site.dims(scores)
    limits = [
        site.constant(what, [limit], DType.FLOAT32)
        for what, limit in (("overlap_threshold", op.overlap_threshold), ("score_threshold", op.score_threshold))
    ]
    most = site.integers("most", [site.type(scores).shape[2]])
    chosen = site.step("chosen", "NonMaxSuppression", [boxes, scores, most, *limits], ("kept", 3), DType.INT64)
    zeros = site.step(
        "zeros",
        "ConstantOfShape",
        [site.step("shape", "Shape", [scores], (3,), DType.INT64)],
        dims,
        DType.INT32,
        value=from_array(np.zeros(1, np.int32)),
    )
    count = site.step(
        "count",
        "Slice",
        [
            site.step("listed", "Shape", [chosen], (2,), DType.INT64),
            *(site.integers(f"at_{at}", [at]) for at in (0, 1)),
        ],
        (1,),
        DType.INT64,
    )
    ones = site.step("ones", "ConstantOfShape", [count], ("kept",), DType.INT32, value=from_array(np.ones(1, np.int32)))
    marked = site.step("marked", "ScatterND", [zeros, chosen, ones], dims, DType.INT32)
    site.finish("Cast", [marked], to=element_type(DType.BOOL))


def _lrn(site: Site, op: Lrn) -> None:
    (x,) = site.inputs
    attributes: dict[str, Any] = {"size": op.size, "alpha": op.alpha, "beta": op.beta, "bias": op.k}
    shape = site.type(x).shape
    if len(shape) == 4:
        site.finish("LRN", [x], **attributes)
        return
    # Runtimes have LRN for images alone; it looks along the channels only, so the space may take any shape.
    dims: Dims = (*site.dims(x)[:2], math.prod(shape[2:]), 1)
    image = site.step("image", "Reshape", [x, site.integers("image_shape", (0, 0, -1, 1))], dims)
    normalized = site.step("normalized", "LRN", [image], dims, **attributes)
    site.finish("Reshape", [normalized, site.integers("shape", (0, 0, *shape[2:]))])


def _resize(site: Site, op: Resize) -> None:
    (x,) = site.inputs
    sizes = site.type(x).shape[2:]
    if sizes == op.size:
        site.finish("Identity", [x])
    elif op.interpolation is Interpolation.LINEAR:
        _interpolate(site, op, "linear", op.coordinates)
    elif op.coordinates is not Coordinates.ALIGN_CORNERS and all(
        out % size == 0 for out, size in zip(op.size, sizes, strict=True)
    ):
        # Enlarged by whole factors, both remaining rules repeat each element; this spelling is the most widely known.
        _interpolate(site, op, "nearest", Coordinates.ASYMMETRIC, nearest_mode="floor")
    else:
        _pick_nearest(site, op, sizes)


def _interpolate(site: Site, op: Resize, mode: str, coordinates: Coordinates, **attributes: Any) -> None:
    (x,) = site.inputs
    batch, channels, *sizes = site.type(x).shape
    if isinstance(site.dims(x)[0], int):
        inputs = [x, "", "", site.integers("sizes", (batch, channels, *op.size))]
    elif site.opset >= RESIZE_AXES:
        inputs = [x, "", "", site.integers("sizes", op.size)]
        attributes["axes"] = tuple(range(2, 2 + len(sizes)))
    else:
        scales = [1.0, 1.0, *map(_scale, sizes, op.size)]
        inputs = [x, "", site.constant("scales", scales, DType.FLOAT32)]
    rule = coordinates.value
    site.finish("Resize", inputs, mode=mode, coordinate_transformation_mode=rule, **attributes)


def _scale(size: int, out: int) -> float:
    """Return the least float32 that is no less than `out / size`: rounded down, it would give `out - 1` elements."""
    scale = np.float32(out / size)
    return float(scale if float(scale) * size >= out else np.nextafter(scale, np.float32(np.inf)))


def _pick_nearest(site: Site, op: Resize, sizes: Sequence[int]) -> None:
    """Pick rows and columns by number: a place computed in float32 may fall on the wrong side of a boundary."""
    changed = [axis for axis, (size, out) in enumerate(zip(sizes, op.size, strict=True)) if size != out]
    value, dims = site.inputs[0], list(site.dims(site.inputs[0]))
    for axis in changed:
        places = site.integers(f"places_{axis}", _nearest(sizes[axis], op.size[axis], op.coordinates))
        if axis == changed[-1]:
            site.finish("Gather", [value, places], axis=axis + 2)
        else:
            dims[axis + 2] = op.size[axis]
            value = site.step(f"picked_{axis}", "Gather", [value, places], tuple(dims), axis=axis + 2)


def _nearest(size: int, out: int, coordinates: Coordinates) -> list[int]:
    """List which element `Resize` takes for each place of an axis, in exact arithmetic."""
    match coordinates:
        case Coordinates.ASYMMETRIC:
            return [place * size // out for place in range(out)]
        case Coordinates.HALF_PIXEL:
            return [(2 * place + 1) * size // (2 * out) for place in range(out)]
        case Coordinates.ALIGN_CORNERS:
            steps = max(out - 1, 1)
            return [(2 * place * (size - 1) + steps) // (2 * steps) for place in range(out)]


# --- products -----------------------------------------------------------------------------------------------


def _dense(site: Site, op: Dense) -> None:
    x, kernel, *bias = site.inputs
    if site.type(x).rank == 2:
        site.finish("Gemm", site.inputs, op.activation, transB=1)
        return
    product = [x, site.transposed(kernel, (1, 0))]
    if bias:
        site.finish("Add", [site.step("product", "MatMul", product), *bias], op.activation)
    else:
        site.finish("MatMul", product, op.activation)


def _mat_mul(site: Site, op: MatMul) -> None:
    flags = (op.transpose_left, op.transpose_right)
    ranks = [site.type(name).rank for name in site.inputs]
    if any(flags) and ranks == [2, 2] and site.type(site.inputs[0]).dtype.is_float:
        site.finish("Gemm", site.inputs, transA=int(op.transpose_left), transB=int(op.transpose_right))
        return
    operands = [
        site.transposed(name, (*range(rank - 2), rank - 1, rank - 2)) if flag else name
        for name, rank, flag in zip(site.inputs, ranks, flags, strict=True)
    ]
    site.finish("MatMul", operands)


# --- elementwise --------------------------------------------------------------------------------------------

UNARY: dict[UnaryFunction, str] = {
    UnaryFunction.ABS: "Abs",
    UnaryFunction.NEG: "Neg",
    UnaryFunction.EXP: "Exp",
    UnaryFunction.LOG: "Log",
    UnaryFunction.SQRT: "Sqrt",
    UnaryFunction.SIGMOID: "Sigmoid",
    UnaryFunction.TANH: "Tanh",
    UnaryFunction.SOFTPLUS: "Softplus",
    UnaryFunction.SOFTSIGN: "Softsign",
    UnaryFunction.SIGN: "Sign",
    UnaryFunction.FLOOR: "Floor",
    UnaryFunction.CEIL: "Ceil",
    UnaryFunction.ROUND: "Round",
    UnaryFunction.SIN: "Sin",
    UnaryFunction.COS: "Cos",
}


def _unary(site: Site, op: Unary) -> None:
    (x,) = site.inputs
    match op.function:
        case UnaryFunction.RSQRT:
            site.finish("Reciprocal", [site.step("root", "Sqrt", [x])])
        case UnaryFunction.SQUARE:
            site.finish("Mul", [x, x])
        case UnaryFunction.HARD_SWISH:
            _hard_swish(site, x)
        case UnaryFunction.GELU | UnaryFunction.GELU_TANH:
            _gelu(site, x, op.function)
        case function:
            site.finish(UNARY[function], [x])


def _hard_swish(site: Site, x: str) -> None:
    if site.opset >= HARD_SWISH:
        site.finish("HardSwish", [x])
    else:
        site.finish("Mul", [x, site.step("gate", "HardSigmoid", [x], alpha=1 / 6, beta=0.5)])


def _gelu(site: Site, x: str, function: UnaryFunction) -> None:
    """Emit `Gelu`, or for opsets that lack it the chain of nodes that runtimes recognize and join again."""
    exact = function is UnaryFunction.GELU
    if site.opset >= GELU:
        site.finish("Gelu", [x], approximate="none" if exact else "tanh")
        return
    inner = _gelu_exact(site, x) if exact else _gelu_tanh(site, x)
    shifted = site.step("shifted", "Add", [inner, site.scalar("one", 1.0)])
    weighted = site.step("weighted", "Mul", [x, shifted])
    site.finish("Mul", [weighted, site.scalar("half", 0.5)])


def _gelu_exact(site: Site, x: str) -> str:
    """Return `erf(x / sqrt(2))`."""
    scaled = site.step("scaled", "Div", [x, site.scalar("root", math.sqrt(2.0))])
    return site.step("erf", "Erf", [scaled])


def _gelu_tanh(site: Site, x: str) -> str:
    """Return `tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))` (Hendrycks and Gimpel 2016)."""
    cube = site.step("cube", "Pow", [x, site.scalar("three", 3.0)])
    weighted = site.step("weighted_cube", "Mul", [cube, site.scalar("factor", 0.044715)])
    total = site.step("sum", "Add", [x, weighted])
    scaled = site.step("scaled", "Mul", [total, site.scalar("root", math.sqrt(2.0 / math.pi))])
    return site.step("tanh", "Tanh", [scaled])


def _leaky_relu(site: Site, op: LeakyRelu) -> None:
    site.finish("LeakyRelu", site.inputs, alpha=op.slope)


def _elu(site: Site, op: Elu) -> None:
    site.finish("Elu", site.inputs, alpha=op.alpha)


def _clip(site: Site, op: Clip) -> None:
    limits = ["" if op.low == -math.inf else site.scalar("low", op.low)]
    if op.high != math.inf:
        limits.append(site.scalar("high", op.high))
    if any(limits):
        site.finish("Clip", [*site.inputs, *limits])
    else:
        site.finish("Identity", site.inputs)


BINARY: dict[BinaryFunction, str] = {
    BinaryFunction.ADD: "Add",
    BinaryFunction.SUB: "Sub",
    BinaryFunction.MUL: "Mul",
    BinaryFunction.DIV: "Div",
    BinaryFunction.MAX: "Max",
    BinaryFunction.MIN: "Min",
    BinaryFunction.POW: "Pow",
}


def _binary(site: Site, op: Binary) -> None:
    site.finish(BINARY[op.function], site.inputs, op.activation)


COMPARE: dict[CompareFunction, str] = {
    CompareFunction.GREATER: "Greater",
    CompareFunction.GREATER_EQUAL: "GreaterOrEqual",
    CompareFunction.LESS: "Less",
    CompareFunction.LESS_EQUAL: "LessOrEqual",
    CompareFunction.EQUAL: "Equal",
}


def _compare(site: Site, op: Compare) -> None:
    operands = []
    for index, name in enumerate(site.inputs):
        if site.type(name).dtype in (DType.UINT8, DType.BOOL):
            # Runtimes compare floats and the wider integers only.
            to = element_type(DType.INT32)
            name = site.step(f"operand_{index}", "Cast", [name], site.dims(name), DType.INT32, to=to)
        operands.append(name)
    site.finish(COMPARE[op.function], operands)


def _cast(site: Site, op: Cast) -> None:
    site.finish("Cast", site.inputs, to=element_type(op.dtype))


# --- along axes ---------------------------------------------------------------------------------------------


def _softmax(site: Site, op: Softmax) -> None:
    site.finish("Softmax", site.inputs, axis=op.axis)


REDUCE: dict[ReduceFunction, str] = {
    ReduceFunction.SUM: "ReduceSum",
    ReduceFunction.MEAN: "ReduceMean",
    ReduceFunction.MAX: "ReduceMax",
    ReduceFunction.MIN: "ReduceMin",
    ReduceFunction.PROD: "ReduceProd",
    ReduceFunction.L1: "ReduceL1",
    ReduceFunction.SUM_SQUARE: "ReduceSumSquare",
}


def _reduce(site: Site, op: Reduce) -> None:
    """Reduce; also where `GlobalAveragePool` would do, which ONNX Runtime sums up slower and with more rounding."""
    (x,) = site.inputs
    if op.function is ReduceFunction.SUM or site.opset >= AXES_AS_INPUT:
        inputs = [x, site.integers("axes", op.axes)]
        site.finish(REDUCE[op.function], inputs, keepdims=int(op.keepdims))
    else:
        site.finish(REDUCE[op.function], [x], axes=op.axes, keepdims=int(op.keepdims))


def _arg_max(site: Site, op: ArgMax) -> None:
    keepdims = int(op.keepdims)
    wide = site.step("int64", "ArgMax", site.inputs, dtype=DType.INT64, axis=op.axis, keepdims=keepdims)
    site.finish("Cast", [wide], to=element_type(DType.INT32))


def _top_k(site: Site, op: TopK) -> None:
    values, places = site.node.outputs
    wide = site.value("indices", dtype=DType.INT64)
    site.emit("TopK", [*site.inputs, site.integers("k", (op.k,))], [values, wide], axis=op.axis)
    site.emit("Cast", [wide], [places], to=element_type(DType.INT32))


# --- recurrent ----------------------------------------------------------------------------------------------

CELLS: dict[RecurrentCell, str] = {
    RecurrentCell.PLAIN: "RNN",
    RecurrentCell.LSTM: "LSTM",
    RecurrentCell.GRU: "GRU",
    RecurrentCell.GRU_RESET_AFTER: "GRU",
}

CURVES: dict[CurveFunction, str] = {
    CurveFunction.SIGMOID: "Sigmoid",
    CurveFunction.TANH: "Tanh",
    CurveFunction.RELU: "Relu",
    CurveFunction.LINEAR: "Affine",
    CurveFunction.HARD_SIGMOID: "HardSigmoid",
    CurveFunction.LEAKY_RELU: "LeakyRelu",
    CurveFunction.ELU: "Elu",
    CurveFunction.SOFTSIGN: "Softsign",
    CurveFunction.SOFTPLUS: "Softplus",
}


def _recurrent(site: Site, op: Recurrent) -> None:
    """Emit the operator; time is its first axis, for ONNX Runtime's kernels for processors take no other layout."""
    x, kernel, recurrent, *_ = site.inputs
    batch, steps, channels = site.dims(x)
    units = site.type(recurrent).shape[1]
    operands = [
        site.step("in_time", "Transpose", [x], (steps, batch, channels), perm=(1, 0, 2)),
        *(site.viewed(weight, (1, *site.type(weight).shape)) for weight in (kernel, recurrent)),
        site.viewed(site.inputs[3], (1, 2 * op.cell.gates * units)) if op.is_biased else "",
        "",  # all sequences are of the same length
    ]
    wanted = ["" if name in site.draft.omitted else name for name in site.node.outputs]
    states, one_way = op.states(site.inputs), (1, batch, units)
    first = site.integers("direction", (0,)) if states or any(wanted[1:]) else ""
    for index, state in enumerate(states):
        operands.append(site.step(f"state_{index}", "Unsqueeze", [state, first], one_way))
    shapes: list[Dims] = [(steps, 1, batch, units), *[one_way] * op.cell.states]
    results = [name and site.value(f"run_{index}", shapes[index]) for index, name in enumerate(wanted)]
    site.emit(CELLS[op.cell], _without_end(operands), _without_end(results), **_cell_attributes(op, units))
    if wanted[0]:
        ahead = site.step("steps", "Squeeze", [results[0], site.integers("way", (1,))], (steps, batch, units))
        site.emit("Transpose", [ahead], [wanted[0]], perm=(1, 0, 2))
    for result, name in zip(results[1:], wanted[1:], strict=True):
        if name:
            site.emit("Squeeze", [result, first], [name])


def _without_end(names: Sequence[str]) -> list[str]:
    """Leave out the optional names that nothing stands behind."""
    return list(names[: max((place for place, name in enumerate(names, 1) if name), default=0)])


def _cell_attributes(op: Recurrent, units: int) -> dict[str, Any]:
    curves = {
        RecurrentCell.PLAIN: [op.activation],
        RecurrentCell.LSTM: [op.gate, op.activation, op.activation],
    }.get(op.cell, [op.gate, op.activation])
    constants = [_curve_constants(curve) for curve in curves]
    attributes: dict[str, Any] = {
        "hidden_size": units,
        "direction": "reverse" if op.backwards else None,
        "activations": [CURVES[curve.function] for curve in curves],
        "activation_alpha": [alpha for alpha, _ in constants if alpha is not None] or None,
        "activation_beta": [beta for _, beta in constants if beta is not None] or None,
    }
    if CELLS[op.cell] == "GRU":
        attributes["linear_before_reset"] = int(op.cell is RecurrentCell.GRU_RESET_AFTER)
    return attributes


def _curve_constants(curve: Curve) -> tuple[float | None, float | None]:
    """Return the constants that an activation consumes of the operator's lists, in order."""
    match curve.function:
        case CurveFunction.LINEAR:
            return 1.0, 0.0
        case CurveFunction.HARD_SIGMOID:
            return curve.alpha, curve.beta
        case CurveFunction.LEAKY_RELU | CurveFunction.ELU:
            return curve.alpha, None
        case _:
            return None, None


# --- structure ----------------------------------------------------------------------------------------------


def _concat(site: Site, op: Concat) -> None:
    site.finish("Concat", site.inputs, axis=op.axis)


def _slice(site: Site, op: Slice) -> None:
    steps = op.steps or (1,) * len(op.axes)
    stops = [
        stop if stop is not None else INT64.max if step > 0 else INT64.min
        for stop, step in zip(op.stops, steps, strict=True)
    ]
    ranges = {"starts": op.starts, "ends": stops, "axes": op.axes}
    if any(step != 1 for step in steps):
        ranges["steps"] = steps
    site.finish("Slice", [*site.inputs, *(site.integers(what, part) for what, part in ranges.items())])


def _pad(site: Site, op: Pad) -> None:
    inputs = [*site.inputs, site.integers("pads", _both_ends(op.pads))]
    if op.value:
        inputs.append(site.scalar("value", op.value))
    elif any(isinstance(reader.op, MaxPool | AveragePool) for reader in site.readers(site.output)):
        # ONNX Runtime joins zero padding to the pooling behind it, where it means something else (a maximum over zeros
        # and negative numbers), or is too wide to be allowed. It tells zeros by their bytes, so it leaves this one be.
        inputs.append(site.scalar("value", -0.0))
    site.finish("Pad", inputs)


def _reshape(site: Site, op: Reshape) -> None:
    site.finish("Reshape", [*site.inputs, site.integers("shape", op.shape)])


def _transpose(site: Site, op: Transpose) -> None:
    site.finish("Transpose", site.inputs, perm=op.axes)


def _tile(site: Site, op: Tile) -> None:
    site.finish("Tile", [*site.inputs, site.integers("repeats", op.repeats)])


def _gather(site: Site, op: Gather) -> None:
    site.finish("Gather", site.inputs, axis=op.axis)


EMITTERS: dict[type[Op], Emitter] = {
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
    Relu: _plain("Relu"),
    LeakyRelu: _leaky_relu,
    Elu: _elu,
    Clip: _clip,
    PRelu: _plain("PRelu"),
    Binary: _binary,
    Compare: _compare,
    Where: _plain("Where"),
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
    Identity: _plain("Identity"),
}
"""How each operation is spelled."""

LIMITS: dict[type[Op], str] = {}
"""Operations that ONNX can't carry, with the reason: there are none."""


def offences(graph: Graph) -> list[Offence]:
    """List every node that ONNX, or its runtime, can't carry."""
    return [Offence(node.origin.where, reason) for node in graph.nodes for reason in _reasons(node.op)]


def _reasons(op: Op) -> Iterator[str]:
    if isinstance(op, SpatialOp) and op.layout is Layout.CHANNELS_LAST:
        yield f"{type(op).__name__} on channels-last data; ONNX has channels-first operators only"
    if isinstance(op, Lrn) and min(op.alpha, op.beta) <= 0:
        yield f"Lrn with alpha {op.alpha:g} and beta {op.beta:g}; ONNX Runtime takes none but positive ones"
