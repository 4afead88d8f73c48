"""Layers that move elements about (Keras' layers/reshaping)."""

from __future__ import annotations

import math

from demitasse.ir.ops import Coordinates, Interpolation, Layout, Pad, Padding, Resize, Slice, Tile
from demitasse.readers.keras.builder import LayerBuilder, Operand
from demitasse.readers.keras.registry import reads


@reads("Flatten")
def flatten(layer: LayerBuilder) -> str:
    """Make one axis of all but the batch; channels that come first go last before."""
    x = layer.x
    rank = layer.rank(x)
    choices = ("channels_last", "channels_first")
    if layer.params.choice("data_format", choices, "channels_last") == "channels_first" and rank > 2:
        x = layer.transpose(x, 0, *range(2, rank), 1)
    return layer.reshape(x, 0, math.prod(layer.shape(x)[1:])) if rank > 1 else layer.reshape(x, -1, 1)


@reads("Reshape")
def reshape(layer: LayerBuilder) -> str:
    """Give each sample another shape; one dimension may be -1, for the rest."""
    target = layer.params.integers("target_shape")
    size = math.prod(layer.shape(layer.x)[1:])
    known = math.prod(dim for dim in target if dim != -1)
    if target.count(-1) > 1 or any(dim < 1 and dim != -1 for dim in target) or size % known:
        raise layer.malformed(f"samples of {size} elements can't be reshaped to {target}")
    return layer.reshape(layer.x, -1, *(size // known if dim == -1 else dim for dim in target))


@reads("Permute")
def permute(layer: LayerBuilder) -> str:
    """Reorder the axes of each sample."""
    return layer.transpose(layer.x, 0, *layer.params.integers("dims"))


@reads("RepeatVector")
def repeat_vector(layer: LayerBuilder) -> str:
    """Repeat each vector along a new axis."""
    (_, width) = layer.shape(layer.x)
    (count,) = layer.params.sizes("n", 1)
    return layer.apply(Tile((1, count, 1)), layer.reshape(layer.x, 0, 1, width))


# --- margins ----------------------------------------------------------------------------------------------------------


def _margins(layer: LayerBuilder, name: str, rank: int) -> list[tuple[int, int]]:
    """Return two numbers a spatial axis, however the entry spells them."""
    value = layer.params.get(name, 1)
    if isinstance(value, dict):  # Keras 1
        sides = ("top_pad", "bottom_pad", "left_pad", "right_pad")
        value = [[value.get(sides[2 * axis], 0), value.get(sides[2 * axis + 1], 0)] for axis in range(rank)]
    if isinstance(value, int):
        value = [value] * rank
    if isinstance(value, list) and rank == 1 and len(value) == 2 and all(isinstance(each, int) for each in value):
        value = [value]
    if isinstance(value, list) and rank == 2 and len(value) == 4:  # Keras 1
        value = [value[:2], value[2:]]
    pairs = [[each, each] if isinstance(each, int) else each for each in value] if isinstance(value, list) else []
    fits = len(pairs) == rank and all(
        isinstance(pair, list) and len(pair) == 2 and all(type(each) is int and each >= 0 for each in pair)
        for pair in pairs
    )
    if not fits:
        raise layer.malformed(f"{name!r} is {value}, and must be two whole numbers for each of {rank} axes")
    return [(before, after) for before, after in pairs]


def _pad(layer: LayerBuilder, rank: int) -> Operand:
    axes = layer.layout(rank + 2).spatial_axes(rank + 2)
    pads = [Padding(0, 0)] * (rank + 2)
    for axis, margin in zip(axes, _margins(layer, "padding", rank), strict=True):
        pads[axis] = Padding(*margin)
    return layer.apply(Pad(tuple(pads)), layer.x)


@reads("ZeroPadding1D")
def zero_padding1d(layer: LayerBuilder) -> str:
    """Add zeros at the ends of one axis."""
    return _pad(layer, 1)


@reads("ZeroPadding2D")
def zero_padding2d(layer: LayerBuilder) -> str:
    """Add zeros around images."""
    return _pad(layer, 2)


@reads("ZeroPadding3D")
def zero_padding3d(layer: LayerBuilder) -> str:
    """Add zeros around volumes."""
    return _pad(layer, 3)


def _crop(layer: LayerBuilder, rank: int) -> Operand:
    axes = layer.layout(rank + 2).spatial_axes(rank + 2)
    margins = _margins(layer, "cropping", rank)
    stops = tuple(-after if after else None for _, after in margins)
    return layer.apply(Slice(axes, tuple(before for before, _ in margins), stops), layer.x)


@reads("Cropping1D")
def cropping1d(layer: LayerBuilder) -> str:
    """Cut off the ends of one axis."""
    return _crop(layer, 1)


@reads("Cropping2D")
def cropping2d(layer: LayerBuilder) -> str:
    """Cut off the edges of images."""
    return _crop(layer, 2)


@reads("Cropping3D")
def cropping3d(layer: LayerBuilder) -> str:
    """Cut off the faces of volumes."""
    return _crop(layer, 3)


# --- sizes ------------------------------------------------------------------------------------------------------------


def resized(layer: LayerBuilder, x: str, layout: Layout, size: tuple[int, ...], interpolation: str) -> Operand:
    """Resample as TensorFlow 2 does it: between the centres of elements, without antialiasing."""
    if interpolation not in ("nearest", "bilinear"):
        raise layer.unsupported(f"the interpolation {interpolation!r}; there is nearest and bilinear")
    kind = Interpolation.NEAREST if interpolation == "nearest" else Interpolation.LINEAR
    return layer.apply(Resize(size, kind, Coordinates.HALF_PIXEL, layout=layout), x)


def _upsample(layer: LayerBuilder, rank: int, interpolation: str) -> Operand:
    layout = layer.layout(rank + 2)
    factors = layer.params.sizes("size", rank, 2)
    shape = layer.shape(layer.x)
    axes = layout.spatial_axes(rank + 2)
    size = tuple(shape[axis] * factor for axis, factor in zip(axes, factors, strict=True))
    if interpolation == "nearest":
        return layer.apply(Resize(size, Interpolation.NEAREST, Coordinates.ASYMMETRIC, layout=layout), layer.x)
    generation = layer.generation
    if interpolation == "bilinear" and generation.major == 2 and _is_before_half_pixels(layer):
        op = Resize(size, Interpolation.LINEAR, Coordinates.ASYMMETRIC, layout=layout)
        return layer.apply(op, layer.real(layer.x))
    return resized(layer, layer.real(layer.x), layout, size, interpolation)


def _is_before_half_pixels(layer: LayerBuilder) -> bool:
    """Tell whether the file is from a Keras that resampled from the corners of elements.

    Standalone Keras did so to its end, as `tf.image.resize_bilinear` of TensorFlow 1 does; tf.keras until TensorFlow
    1.13, which calls itself Keras 2.1.6 or 2.2.4.
    """
    generation = layer.generation
    if generation.is_tensorflow and generation.minor != 1:
        if generation.minor == 2:
            layer.note("bilinear as in TensorFlow 1.14 and later; Keras 2.2.4-tf of 1.13 resampled otherwise")
        return False
    layer.trap("bilinear upsampling from the corners of elements, as TensorFlow 1 did it; later ones use their centres")
    return True


@reads("UpSampling1D")
def up_sampling1d(layer: LayerBuilder) -> str:
    """Repeat each element along one axis."""
    return _upsample(layer, 1, "nearest")


@reads("UpSampling2D")
def up_sampling2d(layer: LayerBuilder) -> str:
    """Enlarge images by whole factors, by repeating pixels or bilinear."""
    return _upsample(layer, 2, layer.params.text("interpolation", "nearest"))


@reads("UpSampling3D")
def up_sampling3d(layer: LayerBuilder) -> str:
    """Enlarge volumes by whole factors, by repeating elements."""
    return _upsample(layer, 3, "nearest")
