"""Pooling (Keras' layers/pooling)."""

from __future__ import annotations

from collections.abc import Sequence

from demitasse.ir.ops import AveragePool, Layout, MaxPool, Pad, Padding, Reduce, ReduceFunction, Where
from demitasse.readers.keras.builder import LayerBuilder, Operand
from demitasse.readers.keras.registry import reads
from demitasse.readers.keras.windows import no_pads, same_pads


def _pool(layer: LayerBuilder, rank: int, op: type[MaxPool] | type[AveragePool]) -> Operand:
    layout = layer.layout(rank + 2)
    params = layer.params
    window = params.sizes("pool_size", rank, 2)
    stride = params.sizes("strides", rank) if "strides" in params else window
    params.ignore("strides")
    shape = layer.shape(layer.x)
    x, pads = layer.real(layer.x), no_pads(rank)
    if params.choice("padding", ("valid", "same"), "valid") == "same":
        sizes = [shape[axis] for axis in layout.spatial_axes(rank + 2)]
        theano = layer.generation.is_theano
        pads = same_pads(sizes, window, stride, (1,) * rank, theano=theano, pools=True)
        if any(map(any, pads)) and op is AveragePool:
            if theano:  # where zeros count
                x, pads = _padded(layer, x, layout, pads), no_pads(rank)
            else:
                layer.trap("the average of a window at the edge is over its elements inside the image alone")
    return layer.apply(op(window, stride, pads, layout=layout), x)


def _padded(layer: LayerBuilder, x: str, layout: Layout, pads: Sequence[Padding]) -> Operand:
    every = [Padding(0, 0)] * layer.rank(x)
    for axis, pad in zip(layout.spatial_axes(layer.rank(x)), pads, strict=True):
        every[axis] = pad
    return layer.apply(Pad(tuple(every)), x)


@reads("MaxPooling1D")
def max_pooling1d(layer: LayerBuilder) -> str:
    """Take the maximum of each window along one axis."""
    return _pool(layer, 1, MaxPool)


@reads("MaxPooling2D")
def max_pooling2d(layer: LayerBuilder) -> str:
    """Take the maximum of each window along two axes."""
    return _pool(layer, 2, MaxPool)


@reads("MaxPooling3D")
def max_pooling3d(layer: LayerBuilder) -> str:
    """Take the maximum of each window along three axes."""
    return _pool(layer, 3, MaxPool)


@reads("AveragePooling1D")
def average_pooling1d(layer: LayerBuilder) -> str:
    """Take the mean of each window along one axis; padding doesn't count."""
    return _pool(layer, 1, AveragePool)


@reads("AveragePooling2D")
def average_pooling2d(layer: LayerBuilder) -> str:
    """Take the mean of each window along two axes; padding doesn't count."""
    return _pool(layer, 2, AveragePool)


@reads("AveragePooling3D")
def average_pooling3d(layer: LayerBuilder) -> str:
    """Take the mean of each window along three axes; padding doesn't count."""
    return _pool(layer, 3, AveragePool)


def _pool_globally(layer: LayerBuilder, rank: int, function: ReduceFunction) -> Operand:
    axes = layer.layout(rank + 2).spatial_axes(rank + 2)
    return layer.apply(Reduce(function, axes, layer.params.flag("keepdims", False)), layer.real(layer.x))


@reads("GlobalMaxPooling1D")
def global_max_pooling1d(layer: LayerBuilder) -> str:
    """Take the maximum along one axis."""
    return _pool_globally(layer, 1, ReduceFunction.MAX)


@reads("GlobalMaxPooling2D")
def global_max_pooling2d(layer: LayerBuilder) -> str:
    """Take the maximum along two axes."""
    return _pool_globally(layer, 2, ReduceFunction.MAX)


@reads("GlobalMaxPooling3D")
def global_max_pooling3d(layer: LayerBuilder) -> str:
    """Take the maximum along three axes."""
    return _pool_globally(layer, 3, ReduceFunction.MAX)


@reads("GlobalAveragePooling1D")
def global_average_pooling1d(layer: LayerBuilder) -> str:
    """Take the mean along one axis, of the steps that a mask leaves."""
    padding = layer.padding(layer.x)
    return _pool_globally(layer, 1, ReduceFunction.MEAN) if padding is None else _mean_of_steps(layer, padding)


def _mean_of_steps(layer: LayerBuilder, padding: str) -> Operand:
    """Take the mean of the steps that are no padding."""
    (axis,) = layer.layout(3).spatial_axes(3)
    steps = layer.shape(layer.x)[axis]
    absent = layer.reshape(padding, 0, *((steps, 1) if axis == 1 else (1, steps)))
    total = Reduce(ReduceFunction.SUM, (axis,), layer.params.flag("keepdims", False))
    present = layer.apply(Where(), absent, layer.constant(0.0), layer.constant(1.0))
    kept = layer.apply(Where(), absent, layer.constant(0.0), layer.real(layer.x))
    return layer.div(layer.apply(total, kept), layer.apply(total, present))


@reads("GlobalAveragePooling2D")
def global_average_pooling2d(layer: LayerBuilder) -> str:
    """Take the mean along two axes."""
    return _pool_globally(layer, 2, ReduceFunction.MEAN)


@reads("GlobalAveragePooling3D")
def global_average_pooling3d(layer: LayerBuilder) -> str:
    """Take the mean along three axes."""
    return _pool_globally(layer, 3, ReduceFunction.MEAN)
