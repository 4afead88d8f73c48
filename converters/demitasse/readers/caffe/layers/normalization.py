"""Normalizing layers (batch_norm_layer.cpp, lrn_layer.cpp, mvn_layer.cpp, and those of forks)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demitasse.ir.ops import (
    AveragePool,
    Binary,
    BinaryFunction,
    Lrn,
    Pad,
    Padding,
    Reduce,
    ReduceFunction,
    Shape,
    Unary,
    UnaryFunction,
)
from demitasse.readers.caffe.builder import LayerBuilder
from demitasse.readers.caffe.registry import reads

_ADD = Binary(BinaryFunction.ADD)
_SUB = Binary(BinaryFunction.SUB)
_MUL = Binary(BinaryFunction.MUL)
_DIV = Binary(BinaryFunction.DIV)
_SQUARE = Unary(UnaryFunction.SQUARE)


def _per_channel(shape: Shape) -> tuple[int, Shape]:
    """Return the number of channels of an input, and the shape of one number a channel that broadcasts to it."""
    if len(shape) == 1:
        return 1, (1,)
    return shape[1], (1, shape[1], *(1,) * (len(shape) - 2))


@reads("BatchNorm")
def batch_norm(layer: LayerBuilder) -> None:
    """Subtract the mean and divide by the standard deviation of each channel, as recorded in training."""
    param = layer.param("batch_norm_param")
    channels, view = _per_channel(layer.shape(layer.x))
    eps = param.number("eps")
    if param.flag("scale_bias", False):
        raise layer.unsupported("scale_bias, whose blobs forks order differently")
    mean = layer.numbers(0, "mean", (channels,))
    variance = layer.numbers(1, "variance", (channels,))
    factor = float(layer.numbers(2, "the scale factor of the statistics", (1,))[0])
    if not param.flag("use_global_stats", True):
        if layer.params.enum("phase", "TEST") == "TEST":
            _normalize_by_batch(layer, eps)
            return
        layer.note("use_global_stats is false, as for training; it normalizes by the recorded statistics")
    # Caffe stores sums over the batches seen, and their weight; no batch seen means statistics of zero.
    if factor == 0 and layer.blob_count:
        layer.trap("its scale factor is 0: mean and variance count as 0, not as NaN")
    weight = 0.0 if factor == 0 else 1 / factor
    scale, shift = _folded(layer, mean * weight, variance * weight, eps)
    scaled = layer.step("scaled", _MUL, layer.x, layer.constant("scale", scale.reshape(view)))
    layer.emit(_ADD, scaled, layer.constant("shift", shift.reshape(view)))


def _folded(
    layer: LayerBuilder, mean: NDArray[np.float64], variance: NDArray[np.float64], eps: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scale and shift that subtract the mean and divide by the standard deviation."""
    if not (variance + eps > 0).all():
        raise layer.malformed(f"variances down to {variance.min():g} and an eps of {eps:g} leave nothing to divide by")
    scale = 1 / np.sqrt(variance + eps)
    return scale, -mean * scale


def _normalize_by_batch(layer: LayerBuilder, eps: float) -> None:
    layer.note("use_global_stats is false: it normalizes by the statistics of the batch at hand")
    axes = tuple(axis for axis in range(layer.rank(layer.x)) if axis != 1)
    mean = layer.step("mean", Reduce(ReduceFunction.MEAN, axes, keepdims=True), layer.x)
    centred = layer.step("centred", _SUB, layer.x, mean)
    squares = layer.step("squares", _SQUARE, centred)
    variance = layer.step("variance", Reduce(ReduceFunction.MEAN, axes, keepdims=True), squares)
    layer.chain(
        variance,
        ("stable", _ADD, eps),
        ("inverse", Unary(UnaryFunction.RSQRT), None),
        ("normalized", _MUL, centred),
    )


@reads("LRN")
def lrn(layer: LayerBuilder) -> None:
    """Divide by a power of the sum of squares of neighbours, across channels or within each."""
    param = layer.param("lrn_param")
    size, alpha, beta, k = (
        param.integer("local_size"),
        param.number("alpha"),
        param.number("beta"),
        param.number("k"),
    )
    if size < 1 or size % 2 == 0:
        raise layer.malformed(f"local_size has to be odd, and is {size}")
    if param.enum("norm_region") == "ACROSS_CHANNELS":
        layer.emit(Lrn(size, alpha, beta, k), layer.x)
        return
    if layer.rank(layer.x) != 4:
        raise layer.malformed(f"a region within channels needs N, C, H, W, not {layer.shape(layer.x)}")
    if k != 1:
        layer.trap(f"within channels Caffe takes 1 for k, whatever the file says ({k:g})")
    half = (size - 1) // 2
    squares = layer.step("squares", _SQUARE, layer.x)
    border = Padding(half, half)
    padded = layer.step("padded", Pad((Padding(0, 0), Padding(0, 0), border, border)), squares)
    pool = AveragePool((size, size), (1, 1), (Padding(0, 0), Padding(0, 0)))
    mean = layer.step("mean", pool, padded)
    layer.chain(
        mean,
        ("scaled", _MUL, alpha),
        ("shifted", _ADD, 1.0),
        ("power", Binary(BinaryFunction.POW), -beta),
        ("normalized", _MUL, layer.x),
    )


@reads("MVN")
def mvn(layer: LayerBuilder) -> None:
    """Subtract the sample's own mean and, unless told otherwise, divide by its standard deviation plus eps."""
    param = layer.param("mvn_param")
    rank, eps = layer.rank(layer.x), param.number("eps")
    axes = tuple(range(1 if param.flag("across_channels") else 2, rank))
    if not axes:
        raise layer.malformed(f"nothing to average over in an input of shape {layer.shape(layer.x)}")
    average = Reduce(ReduceFunction.MEAN, axes, keepdims=True)
    mean = layer.step("mean", average, layer.x)
    if not param.flag("normalize_variance"):
        layer.emit(_SUB, layer.x, mean)
        return
    layer.trap("eps is added to the standard deviation, outside the root")
    centred = layer.step("centred", _SUB, layer.x, mean)
    variance = layer.step("variance", average, layer.step("squares", _SQUARE, centred))
    deviation = layer.step("deviation", Unary(UnaryFunction.SQRT), variance)
    divisor = layer.step("divisor", _ADD, deviation, layer.constant("eps", eps))
    layer.emit(_DIV, centred, divisor)


@reads("Normalize")
def normalize(layer: LayerBuilder) -> None:
    """Divide by the norm of all channels at a place, or of a whole sample, and multiply by a learned scale (SSD)."""
    param = layer.param("norm_param")
    shape = layer.shape(layer.x)
    if len(shape) < 2:
        raise layer.malformed(f"its input has the shape {shape}, and no channels")
    axes = tuple(range(1, len(shape))) if param.flag("across_spatial") else (1,)
    shared = param.flag("channel_shared")
    own: Shape = () if shared else (shape[1],)
    view: Shape = () if shared else (1, shape[1], *(1,) * (len(shape) - 2))
    squares = layer.step("squares", Reduce(ReduceFunction.SUM_SQUARE, axes, keepdims=True), layer.x)
    stable = layer.step("stable", _ADD, squares, layer.constant("eps", param.number("eps")))
    norm = layer.step("norm", Unary(UnaryFunction.SQRT), stable)
    normalized = layer.step("normalized", _DIV, layer.x, norm)
    layer.emit(_MUL, normalized, layer.weight(0, "gamma", own, view=view))


@reads("BN")
def bn(layer: LayerBuilder) -> None:
    """Normalize by recorded statistics and scale (PSPNet: 4 blobs), or scale and shift alone (SegNet: 2 blobs)."""
    param = layer.param("bn_param")
    channels, view = _per_channel(layer.shape(layer.x))
    count = layer.blob_count
    segnet = count == 2 or (count is None and any(name in param for name in ("bn_mode", "scale_filler")))
    stored = layer.stored_shape(0)
    own: Shape = (channels,) if stored is not None and len(stored) == 1 else (1, channels, 1, 1)
    scale, shift = layer.numbers(0, "gamma", own).ravel(), layer.numbers(1, "beta", own).ravel()
    if segnet:
        param.ignore("momentum", "eps", "var_eps", "frozen")
        if param.enum("bn_mode") != "INFERENCE":
            raise layer.unsupported("bn_mode LEARN, which normalizes by the statistics of the batch at hand")
    else:
        mean, variance = layer.numbers(2, "mean", own).ravel(), layer.numbers(3, "variance", own).ravel()
        normal, offset = _folded(layer, mean, variance, param.number("eps"))
        scale, shift = scale * normal, scale * offset + shift
    scaled = layer.step("scaled", _MUL, layer.x, layer.constant("scale", scale.reshape(view)))
    layer.emit(_ADD, scaled, layer.constant("shift", shift.reshape(view)))
