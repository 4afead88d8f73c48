"""Activations as layers (Keras' layers/activations)."""

from __future__ import annotations

import math

from demitasse.ir.ops import (
    Compare,
    CompareFunction,
    Elu,
    LeakyRelu,
    PRelu,
    Reduce,
    ReduceFunction,
    Softmax,
    UnaryFunction,
    Where,
)
from demitasse.readers.keras.activations import activate, rectify
from demitasse.readers.keras.builder import LayerBuilder
from demitasse.readers.keras.registry import reads


@reads("Activation")
def activation(layer: LayerBuilder) -> str:
    """Apply an activation by name."""
    return activate(layer, layer.real(layer.x))


@reads("ReLU")
def relu(layer: LayerBuilder) -> str:
    """Rectify, with a maximum, a threshold, and a slope below it."""
    params = layer.params
    highest = params.number("max_value") if "max_value" in params else math.inf
    params.ignore("max_value")
    slope, threshold = params.number("negative_slope", 0.0), params.number("threshold", 0.0)
    return rectify(layer, layer.real(layer.x), negative_slope=slope, max_value=highest, threshold=threshold)


@reads("LeakyReLU")
def leaky_relu(layer: LayerBuilder) -> str:
    """Take the input where positive, a fraction of it elsewhere."""
    return layer.apply(LeakyRelu(layer.params.number("negative_slope", 0.3)), layer.real(layer.x))


@reads("ThresholdedReLU")
def thresholded_relu(layer: LayerBuilder) -> str:
    """Take the input where above a threshold, zero elsewhere."""
    x = layer.real(layer.x)
    above = layer.apply(Compare(CompareFunction.GREATER), x, layer.constant(layer.params.number("theta", 1.0)))
    return layer.apply(Where(), above, x, layer.constant(0.0))


@reads("PReLU")
def prelu(layer: LayerBuilder) -> str:
    """Take the input where positive, a learned fraction of it elsewhere."""
    shape = layer.shape(layer.x)
    shared = layer.params.get("shared_axes") or ()
    axes = layer.params.integers("shared_axes") if shared else ()
    slope = [1 if axis in axes else dim for axis, dim in enumerate(shape)][1:]
    return layer.apply(PRelu(), layer.real(layer.x), layer.weight("alpha", tuple(slope)))


@reads("ELU")
def elu(layer: LayerBuilder) -> str:
    """Take the input where positive, `alpha * (exp(x) - 1)` elsewhere."""
    return layer.apply(Elu(layer.params.number("alpha", 1.0)), layer.real(layer.x))


@reads("Softmax")
def softmax(layer: LayerBuilder) -> str:
    """Take `exp(x) / sum(exp(x))` along an axis, or several."""
    if layer.padding(layer.x) is not None:
        raise layer.unsupported("a softmax of the steps that a mask leaves")
    axes = layer.params.integers("axis", (-1,))
    x, rank = layer.real(layer.x), layer.rank(layer.x)
    places = tuple(sorted(layer.axis(axis, rank) for axis in axes))
    if len(places) == 1:
        return layer.apply(Softmax(places[0]), x)
    highest = layer.apply(Reduce(ReduceFunction.MAX, places, keepdims=True), x)
    powers = layer.unary(UnaryFunction.EXP, layer.sub(x, highest))
    return layer.div(powers, layer.apply(Reduce(ReduceFunction.SUM, places, keepdims=True), powers))
