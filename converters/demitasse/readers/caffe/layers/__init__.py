"""The layers of Caffe and its forks, one function each, by family.

To add a layer, write one function marked with `@reads("ItsType")` in the family's file; the table finds it.
"""

from __future__ import annotations

from demitasse.readers.caffe.layers import (
    activation,
    convolution,
    detection,
    elementwise,
    normalization,
    pooling,
    python,
    recurrent,
    regions,
    resizing,
    shape,
    training,
)
from demitasse.readers.caffe.registry import REGISTRY, LayerFunction

__all__ = ["LAYERS", "REFUSED"]

LAYERS: dict[str, LayerFunction] = REGISTRY.collect(
    vars(family)
    for family in (
        activation,
        convolution,
        detection,
        elementwise,
        normalization,
        pooling,
        python,
        recurrent,
        regions,
        resizing,
        shape,
        training,
    )
)
"""The reader of each layer type."""

REFUSED: dict[str, str] = {
    "Filter": "how many samples it gives depends on what they hold, and a graph has fixed shapes",
    "Region": "it decodes boxes for code outside the net; cut the net at its bottom",
    "RegionYolo": "it decodes boxes for code outside the net; cut the net at its bottom",
    "YoloDetectionOutput": "forks differ in how it sorts and counts boxes; cut the net at its bottom",
}
"""Layer types that are known and can't be read, with the reason."""
