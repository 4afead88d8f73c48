"""Layers that keras.applications bring along (Keras' applications)."""

from __future__ import annotations

from demitasse.readers.keras.builder import LayerBuilder
from demitasse.readers.keras.registry import reads


@reads("LayerScale")
def layer_scale(layer: LayerBuilder) -> str:
    """Multiply each channel by a learned number, in ConvNeXt."""
    x = layer.real(layer.x)
    width = layer.params.integer("projection_dim")
    return layer.mul(x, layer.weight("gamma", (width,)))


@reads("CustomScaleLayer")
def custom_scale_layer(layer: LayerBuilder) -> str:
    """Add the second value, scaled, to the first, in InceptionResNetV2."""
    x, residual = map(layer.real, layer.inputs(2))
    return layer.add(x, layer.mul(residual, layer.params.number("scale")))
