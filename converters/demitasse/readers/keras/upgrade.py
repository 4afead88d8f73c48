"""Spell the layers of Keras 1 and 2 as today's Keras does, so that each layer is read in one spelling.

The tables follow Keras 2's own `legacy/interfaces.py`, which let Keras 1 code run on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["modern_config", "modern_kind"]

_KINDS = {
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution3D": "Conv3D",
    "AtrousConvolution1D": "Conv1D",
    "AtrousConvolution2D": "Conv2D",
    "SeparableConvolution1D": "SeparableConv1D",
    "SeparableConvolution2D": "SeparableConv2D",
    "Convolution2DTranspose": "Conv2DTranspose",
    "Convolution3DTranspose": "Conv3DTranspose",
    "Deconvolution2D": "Conv2DTranspose",
    "Deconvolution3D": "Conv3DTranspose",
    "MaxPool1D": "MaxPooling1D",
    "MaxPool2D": "MaxPooling2D",
    "MaxPool3D": "MaxPooling3D",
    "AvgPool1D": "AveragePooling1D",
    "AvgPool2D": "AveragePooling2D",
    "AvgPool3D": "AveragePooling3D",
    "GlobalMaxPool1D": "GlobalMaxPooling1D",
    "GlobalMaxPool2D": "GlobalMaxPooling2D",
    "GlobalMaxPool3D": "GlobalMaxPooling3D",
    "GlobalAvgPool1D": "GlobalAveragePooling1D",
    "GlobalAvgPool2D": "GlobalAveragePooling2D",
    "GlobalAvgPool3D": "GlobalAveragePooling3D",
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",
    "LSTMV2": "LSTM",
    "GRUV2": "GRU",
    "TimeDistributedDense": "Dense",
}

_EVERYWHERE = {
    "border_mode": "padding",
    "subsample": "strides",
    "subsample_length": "strides",
    "nb_filter": "filters",
    "filter_length": "kernel_size",
    "atrous_rate": "dilation_rate",
    "bias": "use_bias",
    "dim_ordering": "data_format",
    "pool_length": "pool_size",
    "stride": "strides",
    "inner_activation": "recurrent_activation",
    "consume_less": "implementation",
}

_BY_KIND: Mapping[str, Mapping[str, str]] = {
    "Dense": {"output_dim": "units"},
    "SimpleRNN": {"output_dim": "units"},
    "LSTM": {"output_dim": "units"},
    "GRU": {"output_dim": "units"},
    "Dropout": {"p": "rate"},
    "SpatialDropout1D": {"p": "rate"},
    "SpatialDropout2D": {"p": "rate"},
    "SpatialDropout3D": {"p": "rate"},
    "GaussianDropout": {"p": "rate"},
    "GaussianNoise": {"sigma": "stddev"},
    "LeakyReLU": {"alpha": "negative_slope"},
    "UpSampling1D": {"length": "size"},
    "InputLayer": {"batch_input_shape": "batch_shape", "input_dtype": "dtype"},
}

_DATA_FORMATS = {"tf": "channels_last", "th": "channels_first", "default": "channels_last"}


def modern_kind(kind: str) -> str:
    """Return today's name of a layer class, without the package under which it is registered."""
    bare = kind.rpartition(">")[2]
    return _KINDS.get(bare, bare)


def modern_config(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a layer's configuration under today's names, for a class in today's spelling."""
    names = {**_EVERYWHERE, **_BY_KIND.get(kind, {})}
    modern = {}
    for key, value in config.items():
        name = names.get(key, key)
        if name == key or name not in config:  # where a file has both, today's name counts
            modern[name] = value
    for axes in (("nb_row", "nb_col"), ("kernel_dim1", "kernel_dim2", "kernel_dim3")):
        if all(axis in modern for axis in axes):
            modern["kernel_size"] = [modern.pop(axis) for axis in axes]
    data_format = modern.get("data_format")
    if isinstance(data_format, str):
        modern["data_format"] = _DATA_FORMATS.get(data_format, data_format)
    return modern
