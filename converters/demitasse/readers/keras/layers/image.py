"""Preprocessing of images within a net (Keras' layers/preprocessing/image_preprocessing)."""

from __future__ import annotations

from demitasse.ir.ops import Cast, Layout, Pad, Padding, Shape, Slice, UnaryFunction
from demitasse.readers.keras.builder import LayerBuilder, Operand
from demitasse.readers.keras.layers.reshaping import resized
from demitasse.readers.keras.registry import reads


def _cut(layer: LayerBuilder, x: str, layout: Layout, starts: Shape, sizes: Shape) -> Operand:
    axes = layout.spatial_axes(4)
    stops = tuple(start + size for start, size in zip(starts, sizes, strict=True))
    return layer.apply(Slice(axes, starts, stops), x)


def _spatial(layer: LayerBuilder, x: str, layout: Layout) -> Shape:
    shape = layer.shape(x)
    return tuple(shape[axis] for axis in layout.spatial_axes(4))


def _cut_to_aspect(layer: LayerBuilder, x: str, layout: Layout, target: Shape) -> Operand:
    """Cut out of the middle what has the aspect ratio of the target (`resize` in backend/tensorflow/image.py)."""
    height, width = _spatial(layer, x, layout)
    sizes = (
        max(min(height, int(width * target[0] / target[1])), 1),
        max(min(width, int(height * target[1] / target[0])), 1),
    )
    starts = (int((height - sizes[0]) / 2), int((width - sizes[1]) / 2))
    return _cut(layer, x, layout, starts, sizes)


def _pad_to_aspect(layer: LayerBuilder, x: str, layout: Layout, target: Shape, value: float) -> Operand:
    """Add a margin, as wide on both sides, to give the aspect ratio of the target (the same place of Keras)."""
    height, width = _spatial(layer, x, layout)
    sizes = (max(height, int(width * target[0] / target[1])), max(width, int(height * target[1] / target[0])))
    pads = [Padding(0, 0)] * 4
    for axis, size, padded in zip(layout.spatial_axes(4), (height, width), sizes, strict=True):
        pads[axis] = Padding((padded - size) // 2, (padded - size) // 2)
    return layer.apply(Pad(tuple(pads), value), x)


def _resize(layer: LayerBuilder, x: str, layout: Layout, target: Shape, interpolation: str) -> Operand:
    """Resize; Keras 3.6 and later return to whole numbers where the images have them, earlier ones don't."""
    dtype, generation = layer.type(x).dtype, layer.generation
    y = resized(layer, layer.real(x), layout, target, interpolation)
    if dtype.is_float or (generation.major, generation.minor) < (3, 6):
        return y
    return layer.apply(Cast(dtype), layer.unary(UnaryFunction.ROUND, y))


@reads("Resizing")
def resizing(layer: LayerBuilder) -> str:
    """Resize images, bilinear or nearest, maybe after cutting out the middle or adding a margin."""
    params = layer.params
    layout = layer.layout(4)
    target = (params.integer("height"), params.integer("width"))
    interpolation = params.text("interpolation", "bilinear")
    x = layer.x
    shrinks = any(new < old for new, old in zip(target, _spatial(layer, x, layout), strict=True))
    if params.flag("antialias", False) and shrinks:
        raise layer.unsupported("resizing with antialiasing")
    params.ignore("fill_mode")  # there is "constant" alone
    value = params.number("fill_value", 0.0)
    if params.flag("crop_to_aspect_ratio", False):
        x = _cut_to_aspect(layer, x, layout, target)
    if params.flag("pad_to_aspect_ratio", False):
        x = _pad_to_aspect(layer, x, layout, target, value)
    return _resize(layer, x, layout, target, interpolation)


@reads("CenterCrop")
def center_crop(layer: LayerBuilder) -> str:
    """Cut out the middle of images; those that are too small are enlarged."""
    layout = layer.layout(4)
    target = (layer.params.integer("height"), layer.params.integer("width"))
    x = layer.real(layer.x)
    rest = [old - new for old, new in zip(_spatial(layer, x, layout), target, strict=True)]
    if min(rest) >= 0:
        return _cut(layer, x, layout, tuple(each // 2 for each in rest), target)
    return resized(layer, _cut_to_aspect(layer, x, layout, target), layout, target, "bilinear")
