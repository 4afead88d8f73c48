"""Normalizations (Keras' layers/normalization, and layers/preprocessing/normalization.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from demitasse.ir.ops import BinaryFunction, Reduce, ReduceFunction, Shape, UnaryFunction
from demitasse.ir.weights import Array
from demitasse.readers.keras.builder import LayerBuilder, Operand
from demitasse.readers.keras.registry import reads
from demitasse.readers.keras.weights import Slot


def _trailing(shape: Shape, axes: Sequence[int]) -> Shape:
    """Return the shape in which numbers for some axes broadcast to a whole shape."""
    return tuple(dim if axis in axes else 1 for axis, dim in enumerate(shape))[min(axes) :]


def _axes(layer: LayerBuilder, rank: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """Return the entry `axis` as axes in ascending order."""
    stated = layer.params.integers("axis", default)
    return tuple(sorted(layer.axis(axis, rank) for axis in stated))


def _affine(layer: LayerBuilder, x: str, scale: str, shift: str) -> Operand:
    return layer.add(layer.mul(x, scale), shift)


@reads("BatchNormalization")
def batch_normalization(layer: LayerBuilder) -> str:
    """Scale and shift each channel by what training saw: `gamma * (x - mean) / sqrt(variance + epsilon) + beta`."""
    params = layer.params
    x = layer.real(layer.x)
    layer.argument(2, "mask")  # for training
    shape = layer.shape(x)
    (axis,) = _axes(layer, len(shape), (-1,))
    if params.integer("mode", 0) != 0:
        raise layer.unsupported("mode 1 or 2 of Keras 1, which normalizes by what is in the batch")
    count = (shape[axis],)
    gamma = layer.slot("gamma", count) if params.flag("scale", True) else None
    beta = layer.slot("beta", count) if params.flag("center", True) else None
    mean = layer.slot("moving_mean", count, trained=False)
    variance = layer.slot("moving_variance", count, trained=False)
    if params.flag("renorm", False):
        for role in ("moving_stddev", "renorm_mean", "renorm_stddev"):  # for training
            layer.slot(role, count, trained=False)
    epsilon = params.number("epsilon", 1e-3)
    broadcast = _trailing(shape, (axis,))

    def scale() -> Array:
        inverse = 1 / np.sqrt(variance.numbers() + epsilon)
        return inverse if gamma is None else gamma.numbers() * inverse

    def shift() -> Array:
        offset = -mean.numbers() * scale()
        return offset if beta is None else beta.numbers() + offset

    return _affine(layer, x, layer.derived("scale", broadcast, scale), layer.derived("shift", broadcast, shift))


def _moments(layer: LayerBuilder, x: str, axes: tuple[int, ...]) -> tuple[Operand, Operand]:
    """Return the input less its mean along axes, and its variance."""
    mean = Reduce(ReduceFunction.MEAN, axes, keepdims=True)
    centred = layer.sub(x, layer.apply(mean, x))
    return centred, layer.apply(mean, layer.unary(UnaryFunction.SQUARE, centred))


def _divided(layer: LayerBuilder, x: str, variance: str, epsilon: float) -> Operand:
    return layer.mul(x, layer.unary(UnaryFunction.RSQRT, layer.add(variance, epsilon)))


@reads("LayerNormalization")
def layer_normalization(layer: LayerBuilder) -> str:
    """Normalize each sample along axes, then scale and shift."""
    params = layer.params
    x = layer.real(layer.x)
    shape = layer.shape(x)
    axes = _axes(layer, len(shape), (-1,))
    weight, broadcast = tuple(shape[axis] for axis in axes), _trailing(shape, axes)
    epsilon = params.number("epsilon", 1e-3)
    scaled, centred = params.flag("scale", True), params.flag("center", True)
    difference, variance = _moments(layer, x, axes)
    if params.flag("rms_scaling", False):
        return layer.mul(_divided(layer, x, variance, epsilon), layer.weight("gamma", weight, view=broadcast))
    y = _divided(layer, difference, variance, epsilon)
    if scaled:
        y = layer.mul(y, layer.weight("gamma", weight, view=broadcast))
    return layer.add(y, layer.weight("beta", weight, view=broadcast)) if centred else y


@reads("RMSNormalization")
def rms_normalization(layer: LayerBuilder) -> str:
    """Divide each sample by its root mean square along axes, then scale."""
    x = layer.real(layer.x)
    shape = layer.shape(x)
    axes = _axes(layer, len(shape), (-1,))
    mean = layer.apply(Reduce(ReduceFunction.MEAN, axes, keepdims=True), layer.unary(UnaryFunction.SQUARE, x))
    y = _divided(layer, x, mean, layer.params.number("epsilon", 1e-6))
    weight = tuple(shape[axis] for axis in axes)
    return layer.mul(y, layer.weight("scale", weight, view=_trailing(shape, axes)))


@reads("GroupNormalization")
def group_normalization(layer: LayerBuilder) -> str:
    """Normalize each sample within groups of channels, then scale and shift."""
    params = layer.params
    x = layer.real(layer.x)
    shape = layer.shape(x)
    (axis,) = _axes(layer, len(shape), (-1,))
    groups = params.integer("groups", 32)
    groups = shape[axis] if groups == -1 else groups
    if groups < 1 or shape[axis] % groups:
        raise layer.malformed(f"{groups} groups don't divide {shape[axis]} channels")
    inside = (*shape[1:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
    grouped = layer.reshape(x, -1, *inside)
    within = tuple(each for each in range(1, len(shape) + 1) if each != axis)
    difference, variance = _moments(layer, grouped, within)
    y = layer.reshape(_divided(layer, difference, variance, params.number("epsilon", 1e-3)), -1, *shape[1:])
    count, broadcast = (shape[axis],), _trailing(shape, (axis,))
    if params.flag("scale", True):
        y = layer.mul(y, layer.weight("gamma", count, view=broadcast))
    return layer.add(y, layer.weight("beta", count, view=broadcast)) if params.flag("center", True) else y


@reads("UnitNormalization")
def unit_normalization(layer: LayerBuilder) -> str:
    """Divide each sample by its length along axes."""
    x = layer.real(layer.x)
    axes = _axes(layer, layer.rank(x), (-1,))
    total = layer.apply(Reduce(ReduceFunction.SUM_SQUARE, axes, keepdims=True), x)
    least = 1e-24 if layer.generation.major >= 3 else 1e-12  # of the length, and of its square before
    length = layer.binary(BinaryFunction.MAX, total, least)
    return layer.mul(x, layer.unary(UnaryFunction.RSQRT, length))


# --- by numbers that the configuration or an `adapt` gave -------------------------------------------------------------


@reads("Normalization")
def normalization(layer: LayerBuilder) -> str:
    """Subtract a mean and divide by a standard deviation; or the other way round."""
    params = layer.params
    x = layer.real(layer.x)
    shape = layer.shape(x)
    stated = params.get("axis", -1)
    axes = _axes(layer, len(shape), ()) if stated not in ([], None) and "axis" in params else ()
    kept = tuple(shape[axis] for axis in axes)
    broadcast = _trailing(shape, axes) if axes else (1,)
    params.ignore("mean", "variance")
    fixed = "mean" in params and "variance" in params
    mean, variance = (
        (_stated(layer, "mean", kept), _stated(layer, "variance", kept)) if fixed else _adapted(layer, kept)
    )

    def deviation() -> Array:
        # 1e-7 is what keras.backend.epsilon() is unless someone sets it.
        return np.maximum(np.sqrt(_numbers(variance)), 1e-7)

    if params.flag("invert", False):
        scale = layer.derived("scale", broadcast, deviation)
        return _affine(layer, x, scale, layer.derived("shift", broadcast, lambda: _numbers(mean)))
    scale = layer.derived("scale", broadcast, lambda: 1 / deviation())
    return _affine(layer, x, scale, layer.derived("shift", broadcast, lambda: -_numbers(mean) / deviation()))


_MOST_STATED = 1 << 24
"""Numbers that the configuration states for larger inputs than this are refused: they become a constant."""


def _numbers(source: Slot | Array) -> Array:
    return source.numbers() if isinstance(source, Slot) else source


def _stated(layer: LayerBuilder, name: str, kept: Shape) -> Array:
    """Return numbers of the configuration, broadcast to the axes that are kept."""
    if math.prod(kept) > _MOST_STATED:
        raise layer.unsupported(f"numbers for an input of {kept}, which would be a constant")
    numbers = np.asarray(layer.params.get(name), np.float64)
    try:
        return np.broadcast_to(numbers.reshape(_squeezed(numbers.shape)), kept)
    except ValueError as error:
        raise layer.malformed(f"{name!r} has the shape {numbers.shape}, and needs {kept}") from error


def _squeezed(shape: Shape) -> Shape:
    """Leave out leading ones: tf.keras states the numbers in a shape that broadcasts to the input."""
    while shape[:1] == (1,) and len(shape) > 1:
        shape = shape[1:]
    return shape


def _adapted(layer: LayerBuilder, kept: Shape) -> tuple[Slot, Slot]:
    return layer.slot("mean", kept, trained=False), layer.slot("variance", kept, trained=False)


@reads("Rescaling")
def rescaling(layer: LayerBuilder) -> str:
    """Multiply by a scale and add an offset; either may differ by channel."""
    params = layer.params
    x = layer.real(layer.x)
    scale, offset = params.numbers("scale"), params.numbers("offset", (0.0,))
    y = layer.mul(x, np.asarray(scale if len(scale) > 1 else scale[0]))
    if not any(offset):
        return y
    return layer.add(y, np.asarray(offset if len(offset) > 1 else offset[0]))
