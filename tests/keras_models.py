"""Small Keras models, one for each layer and its corners, for whatever compares a reading of them with Keras itself.

`MODELS` maps a name to a function of the Keras module (Keras 3 or tf-keras, which spell these models alike) that builds
the model. `ONLY` names those that just one of the two can build.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Builder = Callable[[Any], Any]


def _image(*layers: Callable[[Any], Any], shape: tuple[int, ...] = (9, 8, 6)) -> Builder:
    def build(keras: Any) -> Any:
        return keras.Sequential([keras.Input(shape, name="image"), *(layer(keras.layers) for layer in layers)])

    return build


def _sequence(*layers: Callable[[Any], Any], shape: tuple[int, ...] = (7, 5)) -> Builder:
    return _image(*layers, shape=shape)


def _pair(join: Callable[[Any], Any], left: tuple[int, ...] = (4, 5), right: tuple[int, ...] = (4, 5)) -> Builder:
    def build(keras: Any) -> Any:
        inputs = [keras.Input(left, name="left"), keras.Input(right, name="right")]
        return keras.Model(inputs, join(keras.layers)(inputs))

    return build


CONVOLUTIONS: dict[str, Builder] = {
    "conv1d": _sequence(lambda L: L.Conv1D(4, 3, strides=2, padding="same", activation="relu")),
    "conv1d_causal": _sequence(lambda L: L.Conv1D(4, 3, dilation_rate=2, padding="causal")),
    "conv1d_groups": _sequence(lambda L: L.Conv1D(4, 2, groups=2), shape=(7, 6)),
    "conv2d": _image(lambda L: L.Conv2D(5, 3)),
    "conv2d_same_stride": _image(lambda L: L.Conv2D(5, (3, 4), strides=(2, 3), padding="same", use_bias=False)),
    "conv2d_dilated": _image(lambda L: L.Conv2D(5, 3, dilation_rate=(2, 3), padding="same", activation="tanh")),
    "conv2d_groups": _image(lambda L: L.Conv2D(6, 3, groups=3)),
    "conv3d": _image(lambda L: L.Conv3D(3, (2, 3, 1), strides=(1, 2, 1), padding="same"), shape=(4, 5, 6, 2)),
    "depthwise1d": _sequence(lambda L: L.DepthwiseConv1D(3, depth_multiplier=2, padding="same", strides=2)),
    "depthwise2d": _image(lambda L: L.DepthwiseConv2D(3, depth_multiplier=2, activation="relu")),
    "depthwise2d_same": _image(lambda L: L.DepthwiseConv2D((3, 2), strides=2, padding="same", use_bias=False)),
    "separable1d": _sequence(lambda L: L.SeparableConv1D(4, 3, depth_multiplier=2)),
    "separable2d": _image(lambda L: L.SeparableConv2D(4, 3, strides=2, padding="same", activation="relu")),
    "transposed1d": _sequence(lambda L: L.Conv1DTranspose(4, 3, strides=2)),
    "transposed2d_same": _image(lambda L: L.Conv2DTranspose(4, 3, strides=2, padding="same")),
    "transposed2d_wide_stride": _image(lambda L: L.Conv2DTranspose(4, 2, strides=3)),
    "transposed2d_output_padding": _image(lambda L: L.Conv2DTranspose(4, 3, strides=2, output_padding=1)),
    "transposed2d_same_output_padding": _image(
        lambda L: L.Conv2DTranspose(4, (4, 3), strides=2, padding="same", output_padding=1)
    ),
    "transposed3d": _image(lambda L: L.Conv3DTranspose(2, 2, strides=2, padding="same"), shape=(3, 4, 2, 2)),
}

POOLING: dict[str, Builder] = {
    "max1d": _sequence(lambda L: L.MaxPooling1D(3, strides=2, padding="same")),
    "max2d": _image(lambda L: L.MaxPooling2D((2, 3))),
    "max2d_same": _image(lambda L: L.MaxPooling2D(3, strides=2, padding="same")),
    "max3d": _image(lambda L: L.MaxPooling3D(2, padding="same"), shape=(3, 4, 5, 2)),
    "average1d": _sequence(lambda L: L.AveragePooling1D(2)),
    "average2d_same": _image(lambda L: L.AveragePooling2D(3, strides=2, padding="same")),
    "average3d": _image(lambda L: L.AveragePooling3D(2, strides=1), shape=(3, 4, 5, 2)),
    "global_max1d": _sequence(lambda L: L.GlobalMaxPooling1D()),
    "global_average1d": _sequence(lambda L: L.GlobalAveragePooling1D(keepdims=True)),
    "global_max2d": _image(lambda L: L.GlobalMaxPooling2D(keepdims=True)),
    "global_average2d": _image(lambda L: L.GlobalAveragePooling2D()),
    "global_average3d": _image(lambda L: L.GlobalAveragePooling3D(), shape=(3, 4, 5, 2)),
    "global_max3d": _image(lambda L: L.GlobalMaxPooling3D(), shape=(3, 4, 5, 2)),
}

NORMALIZATIONS: dict[str, Builder] = {
    "batch_norm": _image(lambda L: L.BatchNormalization()),
    "batch_norm_axis": _image(lambda L: L.BatchNormalization(axis=1, epsilon=1e-2)),
    "batch_norm_bare": _image(lambda L: L.BatchNormalization(scale=False, center=False)),
    "batch_norm_frozen": _image(lambda L: L.BatchNormalization(trainable=False), lambda L: L.ReLU()),
    "batch_norm_dense": _image(lambda L: L.Dense(4), lambda L: L.BatchNormalization(scale=False), shape=(5,)),
    "layer_norm": _image(lambda L: L.LayerNormalization()),
    "layer_norm_axes": _image(lambda L: L.LayerNormalization(axis=[1, 3], center=False)),
    "layer_norm_bare": _sequence(lambda L: L.LayerNormalization(scale=False, epsilon=1e-5)),
    "group_norm": _image(lambda L: L.GroupNormalization(groups=3)),
    "group_norm_instance": _image(lambda L: L.GroupNormalization(groups=-1, scale=False)),
    "group_norm_axis": _image(lambda L: L.GroupNormalization(groups=4, axis=2, center=False)),
    "unit_norm": _image(lambda L: L.UnitNormalization()),
    "unit_norm_axes": _image(lambda L: L.UnitNormalization(axis=[1, 2])),
    "rms_norm": _image(lambda L: L.RMSNormalization()),
    "normalization_stated": _image(lambda L: L.Normalization(mean=[1.0, 2, 3, 4, 5, 6], variance=[1.0, 2, 1, 2, 1, 2])),
    "normalization_scalar": _image(lambda L: L.Normalization(axis=None, mean=0.5, variance=4.0)),
    "normalization_adapted": _image(lambda L: L.Normalization(axis=-1), lambda L: L.ReLU()),
    "normalization_inverted": _image(lambda L: L.Normalization(axis=(1, 3), invert=True)),
    "rescaling": _image(lambda L: L.Rescaling(1 / 127.5, offset=-1)),
    "rescaling_by_channel": _image(lambda L: L.Rescaling([1.0, 2, 3, 4, 5, 6])),
    "spectral_norm": _image(lambda L: L.SpectralNormalization(L.Conv2D(3, 2))),
}

_NAMES = "relu sigmoid tanh elu selu softplus softsign swish gelu hard_sigmoid exponential linear softmax mish"
_NEW_NAMES = (
    "relu6 leaky_relu silu hard_silu log_softmax log_sigmoid celu glu hard_tanh tanh_shrink soft_shrink hard_shrink "
    "sparse_plus sparse_sigmoid squareplus"
)


def _activation(name: str) -> Builder:
    return _image(lambda L: L.Activation(name))


ACTIVATIONS: dict[str, Builder] = {
    **{f"activation_{name}": _activation(name) for name in f"{_NAMES} {_NEW_NAMES}".split()},
    "relu": _image(lambda L: L.ReLU()),
    "relu_max": _image(lambda L: L.ReLU(max_value=1.5)),
    "relu_all": _image(lambda L: L.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.5)),
    "relu_slope_and_max": _image(lambda L: L.ReLU(max_value=1.0, negative_slope=0.2)),
    "relu_threshold": _image(lambda L: L.ReLU(threshold=0.4)),
    "leaky_relu": _image(lambda L: L.LeakyReLU()),
    "leaky_relu_slope": _image(lambda L: L.LeakyReLU(0.05)),
    "prelu": _image(lambda L: L.PReLU()),
    "prelu_shared": _image(lambda L: L.PReLU(shared_axes=[1, 2])),
    "elu": _image(lambda L: L.ELU(alpha=0.7)),
    "softmax_axis": _image(lambda L: L.Softmax(axis=1)),
    "softmax_axes": _image(lambda L: L.Softmax(axis=[1, -1])),
    "thresholded_relu": _image(lambda L: L.ThresholdedReLU(theta=0.3)),
    "layer_as_activation": _image(lambda L: L.Dense(3, activation=L.LeakyReLU(0.2))),
}

RESHAPING: dict[str, Builder] = {
    "flatten": _image(lambda L: L.Flatten(), lambda L: L.Dense(3)),
    "flatten_channels_first": _image(lambda L: L.Flatten(data_format="channels_first")),
    "reshape": _image(lambda L: L.Reshape((4, -1, 9))),
    "permute": _image(lambda L: L.Permute((3, 1, 2))),
    "repeat_vector": _image(lambda L: L.RepeatVector(3), shape=(5,)),
    "zero_padding1d": _sequence(lambda L: L.ZeroPadding1D((1, 2))),
    "zero_padding2d": _image(lambda L: L.ZeroPadding2D(((1, 2), (0, 3)))),
    "zero_padding2d_one": _image(lambda L: L.ZeroPadding2D(2)),
    "zero_padding3d": _image(lambda L: L.ZeroPadding3D((1, 0, 2)), shape=(3, 4, 5, 2)),
    "cropping1d": _sequence(lambda L: L.Cropping1D((2, 1))),
    "cropping2d": _image(lambda L: L.Cropping2D(((1, 0), (2, 1)))),
    "cropping3d": _image(lambda L: L.Cropping3D(1), shape=(3, 4, 5, 2)),
    "up_sampling1d": _sequence(lambda L: L.UpSampling1D(3)),
    "up_sampling2d": _image(lambda L: L.UpSampling2D((2, 3))),
    "up_sampling2d_bilinear": _image(lambda L: L.UpSampling2D((2, 3), interpolation="bilinear")),
    "up_sampling3d": _image(lambda L: L.UpSampling3D(2), shape=(3, 2, 2, 2)),
    "resizing": _image(lambda L: L.Resizing(13, 5)),
    "resizing_nearest": _image(lambda L: L.Resizing(5, 17, interpolation="nearest")),
    "resizing_cropped": _image(lambda L: L.Resizing(6, 3, crop_to_aspect_ratio=True)),
    "resizing_padded": _image(lambda L: L.Resizing(6, 3, pad_to_aspect_ratio=True, fill_value=2.0)),
    "center_crop": _image(lambda L: L.CenterCrop(4, 5)),
}

MERGING: dict[str, Builder] = {
    "add": _pair(lambda L: L.Add()),
    "add_broadcast": _pair(lambda L: L.Add(), (4, 5), (5,)),
    "subtract": _pair(lambda L: L.Subtract()),
    "multiply_broadcast": _pair(lambda L: L.Multiply(), (4, 5), (1, 5)),
    "average": _pair(lambda L: L.Average()),
    "maximum": _pair(lambda L: L.Maximum()),
    "minimum": _pair(lambda L: L.Minimum()),
    "concatenate": _pair(lambda L: L.Concatenate(axis=1), (4, 5), (3, 5)),
    "dot": _pair(lambda L: L.Dot(axes=(2, 1)), (4, 5), (5, 3)),
    "dot_vectors": _pair(lambda L: L.Dot(axes=1, normalize=True), (5,), (5,)),
    "dot_mixed": _pair(lambda L: L.Dot(axes=(1, 2)), (5,), (3, 5)),
}


def _words(*layers: Callable[[Any], Any]) -> Builder:
    def build(keras: Any) -> Any:
        return keras.Sequential(
            [keras.Input((6,), dtype="int32", name="words"), *(layer(keras.layers) for layer in layers)]
        )

    return build


RECURRENT: dict[str, Builder] = {
    "embedding": _words(lambda L: L.Embedding(9, 4), lambda L: L.Flatten()),
    "simple_rnn": _sequence(lambda L: L.SimpleRNN(4)),
    "simple_rnn_relu": _sequence(lambda L: L.SimpleRNN(4, activation="relu", use_bias=False, return_sequences=True)),
    "lstm": _sequence(lambda L: L.LSTM(4)),
    "lstm_sequences": _sequence(lambda L: L.LSTM(4, return_sequences=True, recurrent_activation="hard_sigmoid")),
    "lstm_backwards": _sequence(lambda L: L.LSTM(4, return_sequences=True, go_backwards=True)),
    "lstm_masked": _words(lambda L: L.Embedding(4, 5, mask_zero=True), lambda L: L.LSTM(4)),
    "lstm_masked_sequences": _words(
        lambda L: L.Embedding(4, 5, mask_zero=True),
        lambda L: L.LSTM(4, return_sequences=True),
        lambda L: L.GRU(3, return_sequences=True, go_backwards=True),
    ),
    "gru": _sequence(lambda L: L.GRU(4)),
    "gru_reset_before": _sequence(lambda L: L.GRU(4, reset_after=False, return_sequences=True)),
    "gru_bare": _sequence(lambda L: L.GRU(4, use_bias=False)),
    "gru_masked": _words(lambda L: L.Embedding(3, 5, mask_zero=True), lambda L: L.GRU(4)),
    "lstm_curves": _sequence(
        lambda L: L.LSTM(4, activation="softsign", recurrent_activation="softplus", return_sequences=True),
        lambda L: L.GRU(3, activation="leaky_relu", recurrent_activation="hard_sigmoid", return_sequences=True),
        lambda L: L.SimpleRNN(3, activation=None),
    ),
    "lstm_odd": _sequence(
        lambda L: L.LSTM(4, activation="gelu", return_sequences=True),
        lambda L: L.GRU(3, activation="swish", go_backwards=True, return_sequences=True),
        lambda L: L.GRU(3, activation="selu", reset_after=False),
    ),
    "bidirectional_cells": _sequence(
        lambda L: L.Bidirectional(L.RNN([L.LSTMCell(4), L.GRUCell(3)], return_sequences=True))
    ),
    "bidirectional": _sequence(lambda L: L.Bidirectional(L.LSTM(4))),
    "bidirectional_sequences": _sequence(lambda L: L.Bidirectional(L.GRU(4, return_sequences=True), merge_mode="sum")),
    "bidirectional_two": _sequence(
        lambda L: L.Bidirectional(
            L.LSTM(4, return_sequences=True), backward_layer=L.GRU(4, return_sequences=True, go_backwards=True)
        )
    ),
    "bidirectional_masked": _words(
        lambda L: L.Embedding(3, 5, mask_zero=True), lambda L: L.Bidirectional(L.LSTM(3, return_sequences=True))
    ),
    "rnn_cells": _sequence(lambda L: L.RNN([L.LSTMCell(4), L.GRUCell(3)])),
    "rnn_cells_masked": _words(
        lambda L: L.Embedding(3, 5, mask_zero=True),
        lambda L: L.RNN([L.LSTMCell(4), L.GRUCell(3)], return_sequences=True, go_backwards=True),
    ),
    "rnn_cell": _sequence(lambda L: L.RNN(L.SimpleRNNCell(4), return_sequences=True)),
    "time_distributed_dense": _sequence(lambda L: L.TimeDistributed(L.Dense(3, activation="relu"))),
    "time_distributed_conv": _image(
        lambda L: L.TimeDistributed(L.Conv2D(3, 2)), lambda L: L.TimeDistributed(L.Flatten()), shape=(2, 5, 6, 3)
    ),
    "masking_zero": _sequence(lambda L: L.Masking(0.0), lambda L: L.SimpleRNN(3)),
    "masked_mean": _words(lambda L: L.Embedding(4, 5, mask_zero=True), lambda L: L.GlobalAveragePooling1D()),
    "masking_value": _sequence(lambda L: L.Masking(1.0), lambda L: L.LSTM(3)),
}


def _attention(**call: Any) -> Builder:
    def build(keras: Any) -> Any:
        query, value = keras.Input((4, 6), name="query"), keras.Input((5, 3), name="value")
        return keras.Model([query, value], keras.layers.MultiHeadAttention(2, 3, value_dim=4)(query, value, **call))

    return build


def _attention_within(shape: tuple[int, ...], axes: Any) -> Builder:
    def build(keras: Any) -> Any:
        x = keras.Input(shape, name="x")
        return keras.Model(x, keras.layers.MultiHeadAttention(2, 3, attention_axes=axes)(x, x))

    return build


def _attention_masked(keras: Any) -> Any:
    """Attention under a mask that is computed, all of whose places may be masked."""
    query, value = keras.Input((4, 6), name="query"), keras.Input((4, 4), name="value")
    return keras.Model([query, value], keras.layers.MultiHeadAttention(2, 3)(query, value, attention_mask=value > 0.9))


ATTENTION: dict[str, Builder] = {
    "einsum_dense": _sequence(lambda L: L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de")),
    "einsum_dense_summed": _image(lambda L: L.EinsumDense("abcd,cde->abe", (None, 4), activation="relu")),
    "einsum_dense_bias": _sequence(lambda L: L.EinsumDense("...x,xyz->...yz", (2, 3), bias_axes="y")),
    "multi_head": _attention(),
    "multi_head_causal": _attention(use_causal_mask=True),
    "multi_head_scores": _attention(return_attention_scores=True),
    "multi_head_masked": _attention_masked,
    "multi_head_axis": _attention_within((3, 4, 6), 2),
    "multi_head_axes": _attention_within((3, 4, 6), (1, 2)),
    "attention": _pair(lambda L: L.Attention(use_scale=True), (4, 5), (3, 5)),
    "attention_concat": _pair(lambda L: L.Attention(score_mode="concat"), (4, 5), (3, 5)),
    "additive_attention": _pair(lambda L: L.AdditiveAttention(), (4, 5), (3, 5)),
}


def _operation(compute: Callable[[Any, Any], Any], shape: tuple[int, ...] = (4, 6)) -> Builder:
    """A net of operations on tensors; `compute` takes the module that has them and the input."""

    def build(keras: Any) -> Any:
        x = keras.Input(shape, name="x")
        return keras.Model(x, compute(keras.ops, x))

    return build


_ROW = np.arange(6, dtype="float32") / 3

OPERATIONS: dict[str, Builder] = {
    "ops_arithmetic": _operation(lambda ops, x: 1 - (x * 2.0 + _ROW) / 3 - x / (x * x + 1)),
    "ops_negative_power": _operation(lambda ops, x: (-ops.abs(x)) ** 2 + ops.maximum(x, 0.3) - ops.minimum(_ROW, x)),
    "ops_functions": _operation(
        lambda ops, x: (
            ops.exp(x) + ops.log(ops.abs(x) + 1) + ops.sqrt(ops.square(x) + 1) + ops.sin(x) * ops.cos(x) + ops.sign(x)
        )
    ),
    "ops_rounding": _operation(lambda ops, x: ops.floor(x) + ops.ceil(x * 2) + ops.round(x * 3)),
    "ops_activations": _operation(
        lambda ops, x: (
            ops.relu(x)
            + ops.sigmoid(x)
            + ops.tanh(x)
            + ops.silu(x)
            + ops.relu6(x * 4)
            + ops.softplus(x)
            + ops.elu(x, 0.5)
        )
    ),
    "ops_parameters": _operation(lambda ops, x: ops.leaky_relu(x, 0.1) + ops.gelu(x) + ops.gelu(x, approximate=False)),
    "ops_softmax": _operation(lambda ops, x: ops.softmax(x, axis=1) + ops.log_softmax(x)),
    "ops_clip": _operation(lambda ops, x: ops.clip(x, -0.5, 0.7)),
    "ops_reduce": _operation(lambda ops, x: ops.mean(x, axis=1, keepdims=True) + ops.max(x, axis=-1, keepdims=True)),
    "ops_reduce_all": _operation(lambda ops, x: ops.sum(x, axis=(1, 2)) * ops.min(x, axis=[1, 2])),
    "ops_variance": _operation(lambda ops, x: ops.var(x, axis=1) + ops.std(x, axis=1)),
    "ops_normalize": _operation(lambda ops, x: ops.normalize(x, axis=-1)),
    "ops_matmul": _operation(lambda ops, x: ops.matmul(x, ops.transpose(x, (0, 2, 1)))),
    "ops_matmul_constant": _operation(lambda ops, x: ops.matmul(x, np.eye(6, 3, dtype="float32"))),
    "ops_compare": _operation(lambda ops, x: ops.where(x > 0.2, x, -1.0) + ops.cast(x <= 0, "float32")),
    "ops_logic": _operation(
        lambda ops, x: ops.where(
            ops.logical_and(ops.logical_not(x > 0.5), ops.logical_or(x > 0, ops.not_equal(ops.sign(x), 1))), x, -3.0
        )
    ),
    "ops_quantifiers": _operation(
        lambda ops, x: ops.cast(ops.any(x > 1, axis=1), "float32") + ops.cast(ops.all(x > -1, axis=1), "float32")
    ),
    "ops_like": _operation(lambda ops, x: x + ops.zeros_like(x) + 2 * ops.cast(ops.ones_like(x > 0), "float32")),
    "ops_floor": _operation(lambda ops, x: (x * 4) // 3 + (x * 4) % 3 - ops.mod(_ROW, x + 5)),
    "ops_join": _operation(lambda ops, x: ops.concatenate([x, ops.stack([x[:, 0], x[:, 1]], axis=1)], axis=1)),
    "ops_shapes": _operation(
        lambda ops, x: (
            ops.squeeze(ops.expand_dims(ops.reshape(x, (-1, 3, 8)), 2), 2)
            + ops.reshape(ops.swapaxes(x, 1, 2), (-1, 3, 8))
        )
    ),
    "ops_index": _operation(lambda ops, x: x[:, 1:, ::2] + x[:, None, -1, 1::2] + x[..., 0:1, 3:]),
    "ops_reverse": _operation(lambda ops, x: x[..., ::-1] + ops.flip(x, axis=1)),
    "ops_pad_tile": _operation(
        lambda ops, x: ops.tile(ops.pad(x, ((0, 0), (1, 0), (0, 2)), constant_values=0.5), (1, 2, 1))
    ),
    "ops_split": _operation(lambda ops, x: ops.split(x, 2, axis=1)[1] + ops.split(x, [1, 3], axis=1)[1]),
    "ops_take": _operation(lambda ops, x: ops.take(x, [2, -1, 0], axis=2)),
    "ops_argmax": _operation(lambda ops, x: ops.argmax(x, axis=-1)),
}


def nested(keras: Any) -> Any:
    """A net that is called three times within a net, part of it frozen, besides a shared layer and a Sequential."""
    L = keras.layers
    image = keras.Input((8, 8, 3), name="inner_image")
    x = L.Conv2D(4, 3, name="conv", trainable=False)(image)
    x = L.BatchNormalization(name="norm")(x)
    x = L.Conv2D(4, 1, name="mix")(x)
    inner = keras.Model(image, L.BatchNormalization(name="norm2", trainable=False)(x), name="inner")
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    shared = L.Conv2D(2, 1, name="shared")
    both = L.Add(name="both")([shared(inner(left)), shared(inner(right))])
    flat = L.Flatten(name="flat")(both)
    first = L.Dense(3, activation="softmax", name="first")(flat)
    head = keras.Sequential([keras.Input((3,)), L.Dense(5, activation="relu"), L.Dense(2)], name="head")
    return keras.Model([left, right], [first, head(first), inner(right)], name="outer")


def frozen_base(keras: Any) -> Any:
    """A base whose layers are all frozen below a head that is trained, as people do for transfer."""
    L = keras.layers
    image = keras.Input((6, 6, 3), name="base_image")
    x = L.BatchNormalization(name="norm_a")(L.Conv2D(4, 3, name="conv_a", use_bias=False)(image))
    x = L.BatchNormalization(name="norm_b")(L.Conv2D(4, 3, name="conv_b", use_bias=False)(x))
    base = keras.Model(image, x, name="base")
    base.trainable = False
    return keras.Sequential([keras.Input((6, 6, 3), name="photo"), base, L.GlobalAveragePooling2D(), L.Dense(2)])


def states(keras: Any) -> Any:
    """An encoder whose states begin a decoder."""
    L = keras.layers
    source, target = keras.Input((5, 3), name="source"), keras.Input((4, 2), name="target")
    _, hidden, carry = L.LSTM(4, return_state=True, name="encoder")(source)
    decoded = L.LSTM(4, return_sequences=True, name="decoder")(target, initial_state=[hidden, carry])
    return keras.Model([source, target], L.TimeDistributed(L.Dense(2), name="words")(decoded))


def _embedded(keras: Any, name: str) -> tuple[Any, Any]:
    words = keras.Input((6,), dtype="int32", name=name)
    return words, keras.layers.Embedding(4, 5, mask_zero=True)(words)


def transformer(keras: Any) -> Any:
    """A block of a transformer over words, some of which are padding."""
    L = keras.layers
    words, x = _embedded(keras, "words")
    x = L.LayerNormalization()(L.Add()([x, L.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True)]))
    x = L.LayerNormalization()(L.Add()([x, L.Dense(5)(L.Dense(8, activation="relu")(x))]))
    return keras.Model(words, L.Dense(2)(L.GlobalAveragePooling1D()(x)))


def translator(keras: Any) -> Any:
    """An encoder and a decoder that attends to it, both of words some of which are padding."""
    L = keras.layers
    (source, x), (target, y) = _embedded(keras, "source"), _embedded(keras, "target")
    encoded, *states = L.LSTM(4, return_sequences=True, return_state=True)(x)
    decoded = L.LSTM(4, return_sequences=True)(y, initial_state=states)
    attended = L.Attention(use_scale=True)([decoded, encoded])
    return keras.Model([source, target], L.TimeDistributed(L.Dense(3))(L.Concatenate()([decoded, attended])))


def stated_mask(keras: Any) -> Any:
    """Layers that are given a mask, besides states or not, which isn't the one that comes with the sequence."""
    L = keras.layers
    words, x = _embedded(keras, "words")
    state = keras.Input((3,), name="state")
    x = L.BatchNormalization()(L.Bidirectional(L.GRU(3, return_sequences=True))(x, mask=words > 1))
    x = L.GRU(3, return_sequences=True)(x, initial_state=state, mask=words < 2)
    return keras.Model([words, state], L.GlobalAveragePooling1D()(x))


def wrapped_net(keras: Any) -> Any:
    """A net that is applied to each step of a sequence."""
    L = keras.layers
    image = keras.Input((6, 6, 2), name="frame")
    x = L.BatchNormalization()(L.Conv2D(3, 3)(image))
    inner = keras.Model(image, L.GlobalAveragePooling2D()(L.Conv2D(4, 2)(x)), name="per_frame")
    return keras.Sequential([keras.Input((3, 6, 6, 2), name="film"), L.TimeDistributed(inner), L.GRU(3)])


def several_ends(keras: Any) -> Any:
    """A nested net of two inputs and two outputs, in another order, and a layer that it shares with the outer net."""
    L = keras.layers
    shared = L.Dense(4, name="shared")
    one, two = keras.Input((4,), name="one"), keras.Input((6,), name="two")
    left, right = shared(one), L.Dense(4, activation="tanh", name="own")(two)
    inner = keras.Model(
        [one, two], [L.Subtract(name="less")([left, right]), L.Add(name="more")([left, right])], name="both"
    )
    first, second = keras.Input((6,), name="first"), keras.Input((4,), name="second")
    less, more = inner([second, first])
    again = inner([shared(less), first])[1]
    return keras.Model([first, second], [L.Concatenate(name="all")([more, less, again]), more], name="ends")


def named_ends(keras: Any) -> Any:
    """A net that takes and gives dictionaries."""
    L = keras.layers
    ends = {"width": keras.Input((3,), name="width"), "height": keras.Input((5,), name="height")}
    x = L.Concatenate(name="both")([L.Dense(2, name="w")(ends["width"]), L.Dense(2, name="h")(ends["height"])])
    return keras.Model(ends, {"sum": L.Dense(1, name="sum")(x), "area": L.Dense(2, name="area")(x)})


def deep(keras: Any) -> Any:
    """Nets within nets within nets."""
    net = keras.Sequential(
        [keras.Input((6, 6, 2)), keras.layers.Conv2D(2, 3, padding="same"), _norm(keras)], name="one"
    )
    for name in ("two", "three"):
        image = keras.Input((6, 6, 2), name=f"{name}_image")
        net = keras.Model(image, _norm(keras)(net(net(image))), name=name)
    return net


def _norm(keras: Any) -> Any:
    return keras.layers.BatchNormalization()


NETS: dict[str, Builder] = {
    "several_ends": several_ends,
    "named_ends": named_ends,
    "deep": deep,
    "nested": nested,
    "frozen_base": frozen_base,
    "states": states,
    "transformer": transformer,
    "translator": translator,
    "stated_mask": stated_mask,
    "wrapped_net": wrapped_net,
}

MODELS: dict[str, Builder] = {
    **CONVOLUTIONS,
    **POOLING,
    **NORMALIZATIONS,
    **ACTIVATIONS,
    **RESHAPING,
    **MERGING,
    **RECURRENT,
    **ATTENTION,
    **OPERATIONS,
    **NETS,
}

NEWER = frozenset({"rms_norm", "resizing_padded", *(f"activation_{name}" for name in _NEW_NAMES.split()), *OPERATIONS})
"""Models that Keras 3 alone can build."""

OLDER = frozenset({"thresholded_relu"})
"""Models that Keras 3 can't build any more."""


def randomized(model: Any, seed: int = 0) -> Any:
    """Gives every weight of a model random numbers, variances positive ones, and returns the model."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        name = str(getattr(weight, "path", weight.name)).lower()
        numbers = random.normal(0.1, 0.5, tuple(weight.shape))
        if "variance" in name or "stddev" in name:
            numbers = np.abs(numbers) + 0.5
        elif "gamma" in name or name.endswith("scale"):
            numbers = numbers + 1
        weight.assign(numbers.astype("float32") if "float" in str(weight.dtype) else np.zeros(weight.shape))
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):  # a Normalization keeps what it computes from its weights
            layer.finalize_state()
    return model


def inputs_for(model: Any, batch: int = 2, seed: int = 1) -> list[np.ndarray[Any, Any]]:
    """Returns random inputs for a model: whole numbers below 3 where it takes words."""
    random = np.random.default_rng(seed)
    arrays = []
    for tensor in model.inputs:
        shape = (batch, *tensor.shape[1:])
        words = "int" in str(tensor.dtype)
        arrays.append(
            random.integers(0, 3, shape).astype("int32") if words else random.normal(0, 1, shape).astype("float32")
        )
    return arrays


def outputs_of(model: Any, inputs: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """Returns what a model gives at inference, in the order of its outputs."""
    asked = getattr(model, "input", None)
    named = dict(zip(sorted(asked), inputs, strict=True)) if isinstance(asked, dict) else None
    outputs = model(named or (inputs if len(inputs) > 1 else inputs[0]))
    if isinstance(outputs, dict):
        outputs = [outputs[name] for name in sorted(outputs)]  # the order of model.outputs
    return [np.asarray(each) for each in (outputs if isinstance(outputs, list | tuple) else [outputs])]
