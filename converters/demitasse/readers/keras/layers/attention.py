"""Attention (Keras' layers/attention)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from demitasse.ir.ops import Cast, Dense, DType, MatMul, Reduce, ReduceFunction, Softmax, UnaryFunction
from demitasse.readers.keras.builder import LayerBuilder, Operand
from demitasse.readers.keras.registry import reads

_MASKED = -1e9
"""What Keras adds to the score of a masked place; after the softmax it is zero."""

_MOST_PAIRS = 1 << 24
"""Causal masks of more pairs of places are refused: they are constants of the graph."""


def _projected(layer: LayerBuilder, x: str, what: str, heads: int, width: int) -> Operand:
    """Multiply `(N, T, in)` by a kernel of its own for each head; returns `(N, heads, T, width)`."""
    steps, inside = layer.shape(x)[1:]
    part = (f"{what}_dense",)
    kernel = layer.weight("kernel", (inside, heads, width), axes=(1, 2, 0), view=(heads * width, inside), part=part)
    bias: tuple[str, ...] = ()
    if layer.params.flag("use_bias", True):
        bias = (layer.weight("bias", (heads, width), view=(heads * width,), part=part),)
    y = layer.apply(Dense(), layer.real(x), kernel, *bias)
    return layer.transpose(layer.reshape(y, -1, steps, heads, width), 0, 2, 1, 3)


def _gathered(layer: LayerBuilder, x: str, out: int) -> Operand:
    """Multiply `(N, heads, T, width)` by the output kernel; returns `(N, T, out)`."""
    _, heads, steps, width = layer.shape(x)
    part = ("output_dense",)
    kernel = layer.weight("kernel", (heads, width, out), axes=(2, 0, 1), view=(out, heads * width), part=part)
    bias = (layer.weight("bias", (out,), part=part),) if layer.params.flag("use_bias", True) else ()
    flat = layer.reshape(layer.transpose(x, 0, 2, 1, 3), -1, steps, heads * width)
    return layer.apply(Dense(), flat, kernel, *bias)


def _causal(layer: LayerBuilder, scores: str) -> Operand:
    """Mask all places after a query's own."""
    rows, columns = layer.shape(scores)[-2:]
    if rows * columns > _MOST_PAIRS:
        raise layer.unsupported(f"a causal mask of {rows} x {columns} places")
    return layer.add(scores, np.triu(np.full((rows, columns), _MASKED), 1))


def _masked(layer: LayerBuilder, scores: str, mask: str) -> Operand:
    """Mask the places where a mask of `(N, T, S)` or `(N, heads, T, S)`, boolean or 0 and 1, is false."""
    real = layer.apply(Cast(DType.FLOAT32), mask) if not layer.type(mask).dtype.is_float else mask
    shape = layer.shape(real)
    if len(shape) == 3:
        real = layer.reshape(real, 0, 1, *shape[1:])
    return layer.add(scores, layer.mul(layer.sub(1.0, real), _MASKED))


@reads("MultiHeadAttention")
def multi_head_attention(layer: LayerBuilder) -> Sequence[str]:
    """Attend from a sequence to another one, or to itself, with several heads."""
    params = layer.params
    heads, width = params.integer("num_heads"), params.integer("key_dim")
    query, value = layer.argument(0, "query"), layer.argument(1, "value")
    key = layer.argument(2, "key", default=value)
    if any(layer.padding(each) is not None for each in (query, value, key)):
        raise layer.unsupported("attention under masks that come with its inputs")
    rank = layer.rank(query)
    stated = params.get("attention_axes")
    if rank != 3 or (stated is not None and [layer.axis(axis, rank) for axis in stated] != [1]):
        raise layer.unsupported("attention along other axes than that of the steps")
    if params.get("use_gate") or params.get("sliding_window"):
        raise layer.unsupported("gated attention, or a sliding window")
    params.ignore("query_shape", "key_shape", "value_shape")
    out = params.integers("output_shape", (layer.shape(query)[2],))
    if len(out) != 1:
        raise layer.unsupported("an output of several axes")
    q = _projected(layer, query, "query", heads, width)
    k = _projected(layer, key, "key", heads, width)
    v = _projected(layer, value, "value", heads, params.integer("value_dim", width))
    scores = layer.apply(MatMul(transpose_right=True), layer.mul(q, 1 / math.sqrt(width)), k)
    if layer.argument(6, "use_causal_mask", default=False):
        scores = _causal(layer, scores)
    mask = layer.argument(3, "attention_mask")
    if mask is not None:
        scores = _masked(layer, scores, mask)
    weights = layer.apply(Softmax(3), scores)
    result = _gathered(layer, layer.apply(MatMul(), weights, v), out[0])
    return [result, weights] if layer.argument(4, "return_attention_scores", default=False) else [result]


def _query_value_key(layer: LayerBuilder) -> tuple[Operand, Operand, Operand]:
    given = [layer.real(value) for value in layer.inputs(2, 3)]
    if any(layer.padding(value) is not None for value in layer.inputs(2, 3)):
        raise layer.unsupported("attention under masks that come with its inputs")
    return given[0], given[1], given[2] if len(given) == 3 else given[1]


def _attended(layer: LayerBuilder, scores: str, value: str) -> Sequence[str]:
    if layer.argument(4, "use_causal_mask", default=False) or layer.params.flag("causal", False):
        scores = _causal(layer, scores)
    weights = layer.apply(Softmax(layer.rank(scores) - 1), scores)
    result = layer.apply(MatMul(), weights, value)
    return [result, weights] if layer.argument(3, "return_attention_scores", default=False) else [result]


def _spread(layer: LayerBuilder, query: str, key: str) -> Operand:
    """Add every query to every key: `(N, T, 1, width)` and `(N, 1, S, width)`."""
    (_, steps, width), (_, places, _) = layer.shape(query), layer.shape(key)
    return layer.add(layer.reshape(query, -1, steps, 1, width), layer.reshape(key, -1, 1, places, width))


@reads("Attention")
def attention(layer: LayerBuilder) -> Sequence[str]:
    """Attend from a sequence to another one by products (Luong et al. 2015), or by sums."""
    query, value, key = _query_value_key(layer)
    use_scale = layer.params.flag("use_scale", False)
    scale = layer.weight("scale", ()) if use_scale else None
    if layer.params.choice("score_mode", ("dot", "concat"), "dot") == "dot":
        scores = layer.apply(MatMul(transpose_right=True), query, key)
        return _attended(layer, scores if scale is None else layer.mul(scores, scale), value)
    weight = layer.weight("concat_score_weight", ())
    pairs = _spread(layer, query, key)
    pairs = layer.unary(UnaryFunction.TANH, pairs if scale is None else layer.mul(pairs, scale))
    total = layer.apply(Reduce(ReduceFunction.SUM, (3,), keepdims=False), pairs)
    return _attended(layer, layer.mul(total, weight), value)


@reads("AdditiveAttention")
def additive_attention(layer: LayerBuilder) -> Sequence[str]:
    """Attend from a sequence to another one by sums (Bahdanau et al. 2015)."""
    query, value, key = _query_value_key(layer)
    pairs = layer.unary(UnaryFunction.TANH, _spread(layer, query, key))
    if layer.params.flag("use_scale", True):
        pairs = layer.mul(pairs, layer.weight("scale", (layer.shape(key)[2],)))
    return _attended(layer, layer.apply(Reduce(ReduceFunction.SUM, (3,), keepdims=False), pairs), value)
