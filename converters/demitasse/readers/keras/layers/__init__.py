"""The readers of Keras' layers, a family a module; the answer to 'where do I add a layer?' is: one function here."""

from __future__ import annotations

from demitasse.readers.keras.layers import (
    activation,
    applications,
    attention,
    code,
    convolution,
    core,
    image,
    merging,
    normalization,
    operations,
    pooling,
    recurrent,
    reshaping,
    wrappers,
)
from demitasse.readers.keras.registry import REGISTRY

__all__ = ["LAYERS"]

LAYERS = REGISTRY.collect(
    vars(module)
    for module in (
        activation,
        applications,
        attention,
        code,
        convolution,
        core,
        image,
        merging,
        normalization,
        operations,
        pooling,
        recurrent,
        reshaping,
        wrappers,
    )
)
"""The reader of each kind of layer."""
