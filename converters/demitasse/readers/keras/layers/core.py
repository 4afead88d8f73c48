"""Products, tables and layers that compute nothing at inference (Keras' layers/core and layers/regularization)."""

from __future__ import annotations

import math
import re

from demitasse.ir.ops import (
    Cast,
    Compare,
    CompareFunction,
    Dense,
    DType,
    Gather,
    Reduce,
    ReduceFunction,
    UnaryFunction,
)
from demitasse.readers.keras.activations import activate
from demitasse.readers.keras.builder import LayerBuilder
from demitasse.readers.keras.registry import reads


@reads("Dense")
def dense(layer: LayerBuilder) -> str:
    """Multiply the last axis by a matrix."""
    x = layer.real(layer.x)
    inside, units = layer.shape(x)[-1], layer.params.integer("units")
    kernel = layer.weight("kernel", (inside, units), axes=(1, 0))
    bias = (layer.weight("bias", (units,)),) if layer.params.flag("use_bias", True) else ()
    return activate(layer, layer.apply(Dense(), x, kernel, *bias))


@reads("EinsumDense")
def einsum_dense(layer: LayerBuilder) -> str:
    """Multiply the last axes by a tensor, as an equation such as `abc,cde->abde` says."""
    params = layer.params
    equation = params.text("equation").replace(" ", "")
    match = re.fullmatch(r"(\.\.\.|\w)(\w*),(\w+)->(\.\.\.|\w)(\w*)", equation)
    x = layer.real(layer.x)
    shape = layer.shape(x)
    if match is None:
        raise layer.unsupported(f"the equation {equation!r}")
    first, inside, weight, head, outside = match.groups()
    summed = "".join(label for label in inside if label in weight)
    kept, free = inside[: len(inside) - len(summed)], weight[len(summed) :]
    fits = (first, inside, weight, outside) == (head, kept + summed, summed + free, kept + free)
    if not fits or len(set(kept + summed + free)) != len(kept + summed + free) or not summed:
        raise layer.unsupported(f"the equation {equation!r}, which does not multiply the last axes alone")
    count = len(summed)
    sizes = params.get("output_shape")
    widths = tuple(sizes if isinstance(sizes, list) else [sizes])[-len(free) :]
    if len(shape) <= count or not all(isinstance(width, int) for width in widths) or len(widths) != len(free):
        raise layer.malformed(f"its output shape {sizes} doesn't fit the equation {equation!r}")
    wide, columns = math.prod(shape[-count:]), math.prod(widths)
    axes = (*range(count, len(weight)), *range(count))
    kernel = layer.weight("kernel", (*shape[-count:], *widths), axes=axes, view=(columns, wide))
    y = layer.apply(Dense(), layer.reshape(x, -1, *shape[1:-count], wide), kernel)
    y = layer.reshape(y, -1, *shape[1:-count], *widths)
    biased = params.get("bias_axes") or ""
    if biased:
        start = min(outside.index(label) for label in biased) - len(outside)
        dims = [layer.shape(y)[place] if outside[place] in biased else 1 for place in range(start, 0)]
        y = layer.add(y, layer.weight("bias", tuple(dims)))
    return activate(layer, y)


@reads("Highway")
def highway(layer: LayerBuilder) -> str:
    """Mix the input with a product of it, as a learned gate says (Srivastava et al. 2015), in Keras 1."""
    x = layer.real(layer.x)
    width = layer.shape(x)[-1]
    square, vector = (width, width), (width,)
    kernel, gate_kernel = (layer.weight(role, square, axes=(1, 0)) for role in ("kernel", "gate_kernel"))
    biases: tuple[tuple[str, ...], ...] = ((), ())
    if layer.params.flag("use_bias", True):
        biases = ((layer.weight("bias", vector),), (layer.weight("gate_bias", vector),))
    layer.params.ignore("transform_bias")  # the gate's bias before training
    gate = layer.unary(UnaryFunction.SIGMOID, layer.apply(Dense(), x, gate_kernel, *biases[1]))
    y = activate(layer, layer.apply(Dense(), x, kernel, *biases[0]))
    return layer.add(layer.mul(y, gate), layer.mul(layer.sub(1.0, gate), x))


@reads("Embedding")
def embedding(layer: LayerBuilder) -> str:
    """Replace each whole number by a row of a table."""
    params = layer.params
    rows, width = params.integer("input_dim"), params.integer("output_dim")
    x = layer.x
    if layer.type(x).dtype not in (DType.INT32, DType.INT64):
        x = layer.apply(Cast(DType.INT32), x)
    y = layer.apply(Gather(0), layer.weight("embeddings", (rows, width)), x)
    if params.flag("mask_zero", False):
        layer.mark_padding(y, layer.apply(Compare(CompareFunction.EQUAL), x, layer.number_like(x, 0)))
    return y


@reads(
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "AlphaDropout",
    "GaussianDropout",
    "GaussianNoise",
    "ActivityRegularization",
    "Identity",
    "StochasticDepth",
    "RandomBrightness",
    "RandomColorDegeneration",
    "RandomColorJitter",
    "RandomContrast",
    "RandomErasing",
    "RandomFlip",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomHue",
    "RandomInvert",
    "RandomPerspective",
    "RandomPosterization",
    "RandomRotation",
    "RandomSaturation",
    "RandomSharpness",
    "RandomShear",
    "RandomTranslation",
    "RandomZoom",
    "RandAugment",
    "AugMix",
)
def inert(layer: LayerBuilder) -> str:
    """Give the input back: a layer that acts in training alone."""
    params = layer.params
    params.ignore(*[name for name, _ in params.unread()])
    return layer.identity(layer.x)


@reads("Masking")
def masking(layer: LayerBuilder) -> str:
    """Mark the steps of a sequence that hold nothing but one value as padding, and make them zero."""
    x = layer.real(layer.x)
    value = layer.params.number("mask_value", 0.0)
    same = layer.apply(Compare(CompareFunction.EQUAL), x, layer.constant(value))
    every = Reduce(ReduceFunction.MIN, (layer.rank(x) - 1,), keepdims=True)
    absent = layer.apply(every, layer.apply(Cast(DType.FLOAT32), same))
    y = layer.identity(x) if value == 0 else layer.mul(x, layer.sub(1.0, absent))
    flat = layer.reshape(absent, *(0,) * (layer.rank(x) - 1))
    layer.mark_padding(y, layer.apply(Compare(CompareFunction.GREATER), flat, layer.constant(0.5)))
    return y
