"""Layers that wrap another one (Keras' layers/rnn/time_distributed.py and layers/normalization)."""

from __future__ import annotations

from collections.abc import Sequence

from demitasse.readers.keras.builder import LayerBuilder
from demitasse.readers.keras.config import parse_layer
from demitasse.readers.keras.registry import reads

_ALONG_THE_LAST_AXIS = frozenset({"Dense", "Activation", "Dropout", "ReLU", "LeakyReLU", "ELU"})
"""Layers that treat all other axes alike, so that steps need not be taken apart for them."""


@reads("TimeDistributed")
def time_distributed(layer: LayerBuilder) -> Sequence[str]:
    """Apply a layer to each step of a sequence."""
    inner = parse_layer(layer.params.get("layer"), layer.origin.where)
    x = layer.x
    _, steps, *rest = layer.shape(x)
    layer.argument(2, "mask")  # which matters to recurrent layers alone
    if inner.kind in ("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional") and layer.padding(x) is not None:
        raise layer.unsupported("a mask within each step")
    if inner.kind in _ALONG_THE_LAST_AXIS and inner.model is None:
        return layer.run(inner, ("layer",), [x])
    results = layer.run(inner, ("layer",), [layer.reshape(x, -1, *rest)])
    return [layer.reshape(result, -1, steps, *layer.shape(result)[1:]) for result in results]


@reads("SpectralNormalization")
def spectral_normalization(layer: LayerBuilder) -> Sequence[str]:
    """Apply a layer whose kernel training has already normalized."""
    inner = parse_layer(layer.params.get("layer"), layer.origin.where)
    layer.params.ignore("power_iterations")
    if inner.kind not in ("Conv1D", "Conv2D", "Conv3D", "Conv2DTranspose", "DepthwiseConv2D", "Dense", "Embedding"):
        raise layer.unsupported(f"a {inner.kind}, whose kernel is unknown")
    results = layer.run(inner, ("layer",), [layer.x])
    (kernel,) = [slot for slot in layer.slots_of("layer") if slot.role in ("kernel", "embeddings")]
    layer.slot("kernel", kernel.shape, listed_again=True)
    layer.slot("vector_u", (1, kernel.shape[-1]), trained=False)
    return results
