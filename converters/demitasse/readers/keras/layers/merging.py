"""Layers that join several values (Keras' layers/merging, and Keras 1's Merge)."""

from __future__ import annotations

from collections.abc import Sequence

from demitasse.ir.ops import BinaryFunction, Concat, MatMul, Reduce, ReduceFunction, UnaryFunction
from demitasse.readers.keras.builder import LayerBuilder, Operand
from demitasse.readers.keras.registry import reads


def _broadcasting(layer: LayerBuilder, values: Sequence[Operand]) -> list[Operand]:
    """Give all values as many axes: Keras puts the missing ones after the batch."""
    values = [layer.real(value) for value in values]
    rank = max(map(layer.rank, values))
    result = []
    for value in values:
        shape = layer.shape(value)
        missing = rank - len(shape)
        result.append(layer.reshape(value, 0, *(1,) * missing, *shape[1:]) if missing else value)
    return result


def _joined(layer: LayerBuilder, function: BinaryFunction, least: int = 1) -> Operand:
    values = _broadcasting(layer, layer.inputs(least, 999))
    result = values[0]
    for value in values[1:]:
        result = layer.binary(function, result, value)
    return result


@reads("Add")
def add(layer: LayerBuilder) -> str:
    """Add element by element."""
    return _joined(layer, BinaryFunction.ADD)


@reads("Subtract")
def subtract(layer: LayerBuilder) -> str:
    """Subtract the second value from the first."""
    layer.inputs(2)
    return _joined(layer, BinaryFunction.SUB)


@reads("Multiply")
def multiply(layer: LayerBuilder) -> str:
    """Multiply element by element."""
    return _joined(layer, BinaryFunction.MUL)


@reads("Maximum")
def maximum(layer: LayerBuilder) -> str:
    """Take the largest element by element."""
    return _joined(layer, BinaryFunction.MAX)


@reads("Minimum")
def minimum(layer: LayerBuilder) -> str:
    """Take the smallest element by element."""
    return _joined(layer, BinaryFunction.MIN)


@reads("Average")
def average(layer: LayerBuilder) -> str:
    """Take the mean element by element."""
    return layer.mul(_joined(layer, BinaryFunction.ADD), 1 / len(layer.inputs(1, 999)))


@reads("Concatenate")
def concatenate(layer: LayerBuilder) -> str:
    """Join along an axis."""
    return _concatenated(layer, layer.params.integer("axis", -1))


def _concatenated(layer: LayerBuilder, axis: int) -> Operand:
    values = layer.inputs(1, 999)
    if any(layer.type(value).dtype.is_float for value in values):
        values = tuple(map(layer.real, values))
    return layer.apply(Concat(layer.axis(axis, layer.rank(values[0]))), *values)


@reads("Dot")
def dot(layer: LayerBuilder) -> str:
    """Multiply and add up along an axis of each of two values, maybe after dividing by the lengths."""
    params = layer.params
    axes = params.integers("axes", (-1,))
    return _dot(layer, axes * 2 if len(axes) == 1 else axes, normalize=params.flag("normalize", False))


def _dot(layer: LayerBuilder, axes: Sequence[int], *, normalize: bool) -> Operand:
    left, right = map(layer.real, layer.inputs(2))
    ranks = layer.rank(left), layer.rank(right)
    if min(ranks) < 2 or len(axes) != 2:
        raise layer.malformed(f"values of {ranks} axes and the axes {axes}: it needs two axes each, or more")
    first, second = layer.axis(axes[0], ranks[0]), layer.axis(axes[1], ranks[1])
    if 0 in (first, second):
        raise layer.malformed("it can't add up along the batch")
    if normalize:
        left, right = _unit(layer, left, first), _unit(layer, right, second)
    kept_left = [dim for axis, dim in enumerate(layer.shape(left)) if axis not in (0, first)]
    kept_right = [dim for axis, dim in enumerate(layer.shape(right)) if axis not in (0, second)]
    size = layer.shape(left)[first]
    last = layer.transpose(left, *(axis for axis in range(ranks[0]) if axis != first), first)
    leading = layer.transpose(right, 0, second, *(axis for axis in range(1, ranks[1]) if axis != second))
    product = layer.apply(MatMul(), layer.reshape(last, 0, -1, size), layer.reshape(leading, 0, size, -1))
    return layer.reshape(product, 0, *(kept_left + kept_right or [1]))


def _unit(layer: LayerBuilder, x: str, axis: int) -> Operand:
    total = layer.apply(Reduce(ReduceFunction.SUM_SQUARE, (axis,), keepdims=True), x)
    least = 1e-24 if layer.generation.major >= 3 else 1e-12
    return layer.mul(x, layer.unary(UnaryFunction.RSQRT, layer.binary(BinaryFunction.MAX, total, least)))


@reads("Merge")
def merge(layer: LayerBuilder) -> str:
    """Join values as Keras 1 does: by sum, mul, ave, max, concat, dot or cos."""
    params = layer.params
    mode = params.text("mode", "sum")
    params.ignore("mode_type", "output_shape", "output_shape_type", "output_mask", "output_mask_type", "arguments")
    params.ignore("node_indices", "tensor_indices", "dot_axes", "concat_axis", "layers")
    match mode:
        case "sum" | "mul" | "max" | "ave":
            functions = {"sum": BinaryFunction.ADD, "mul": BinaryFunction.MUL, "max": BinaryFunction.MAX}
            joined = _joined(layer, functions.get(mode, BinaryFunction.ADD), least=2)
            return layer.mul(joined, 1 / len(layer.inputs(2, 999))) if mode == "ave" else joined
        case "concat":
            return _concatenated(layer, params.integer("concat_axis", -1))
        case "dot" | "cos":
            axes = [int(axis) for axis in params.numbers("dot_axes", (-1.0,))]
            y = _dot(layer, axes * 2 if len(axes) == 1 else axes, normalize=mode == "cos")
            if mode == "dot":
                return y
            if max(map(layer.rank, layer.inputs(2))) > 2:
                raise layer.unsupported("the mode 'cos' of more than vectors")
            return layer.reshape(y, 0, 1, 1)
        case _:
            raise layer.unsupported(f"the mode {mode!r}, which is a function of the author's own")
