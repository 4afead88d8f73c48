"""Attention (Keras' layers/attention)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from demitasse.ir.ops import (
    Cast,
    Compare,
    CompareFunction,
    Dense,
    DType,
    MatMul,
    Reduce,
    ReduceFunction,
    Shape,
    Softmax,
    UnaryFunction,
    Where,
)
from demitasse.readers.keras.builder import LayerBuilder, Operand
from demitasse.readers.keras.registry import reads

_MASKED = -1e9
"""The score that Keras gives a masked place; after the softmax it is zero."""

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


def _hidden(layer: LayerBuilder, scores: str, absent: str) -> Operand:
    """Mask the places where a condition holds. A query all of whose places are masked attends to all alike."""
    return layer.apply(Where(), absent, layer.constant(_MASKED), scores)


def _masked(layer: LayerBuilder, scores: str, mask: Operand | Any) -> Operand:
    """Mask the places where a mask of `(N, T, S)` or `(N, heads, T, S)`, boolean or 0 and 1, is false."""
    if not isinstance(mask, Operand):
        return layer.add(scores, np.where(np.asarray(mask, np.float64) > 0.5, 0.0, _MASKED))
    real = layer.apply(Cast(DType.FLOAT32), mask) if not layer.type(mask).dtype.is_float else mask
    shape = layer.shape(real)
    if len(shape) == 3:
        real = layer.reshape(real, -1, 1, *shape[1:])
    return _hidden(layer, scores, layer.apply(Compare(CompareFunction.LESS_EQUAL), real, layer.constant(0.5)))


def _without_padding(layer: LayerBuilder, scores: str, query: str, *attended: str) -> Operand:
    """Mask in `(N, ..., T, S)` the rows of queries that are padding, and the columns of what is attended to."""
    inner = (1,) * (layer.rank(scores) - 3)
    result = Operand(scores)
    rows = layer.padding(query)
    if rows is not None:
        result = _hidden(layer, result, layer.reshape(rows, -1, *inner, layer.shape(rows)[1], 1))
    for columns in dict.fromkeys(layer.padding(each) for each in attended):
        if columns is not None:
            result = _hidden(layer, result, layer.reshape(columns, -1, *inner, 1, layer.shape(columns)[1]))
    return result


class _Fold(NamedTuple):
    """How the axes that are no steps go into the batch: the order of axes, and the sizes in that order."""

    order: tuple[int, ...]
    outside: Shape
    steps: Shape

    def fold(self, layer: LayerBuilder, x: str) -> Operand:
        """Make `(N, steps, in)`."""
        count, width = math.prod(self.steps), layer.shape(x)[-1]
        return layer.reshape(layer.transpose(x, *self.order), -1, count, width)

    def unfold(self, layer: LayerBuilder, x: str) -> Operand:
        """Undo it."""
        inverse = tuple(int(axis) for axis in np.argsort(self.order))
        whole = layer.reshape(x, -1, *self.outside, *self.steps, layer.shape(x)[-1])
        return layer.transpose(whole, *inverse)


def _fold(layer: LayerBuilder, x: str, axes: tuple[int, ...]) -> _Fold | None:
    """Return how to make sequences of what is attended to along some axes; None for `(N, steps, in)` as it is."""
    shape = layer.shape(x)
    if axes == (1,) and len(shape) == 3:
        return None
    others = tuple(axis for axis in range(1, len(shape) - 1) if axis not in axes)
    return _Fold(
        (0, *others, *axes, len(shape) - 1), tuple(shape[each] for each in others), tuple(shape[each] for each in axes)
    )


def _attention_axes(layer: LayerBuilder, query: str) -> tuple[int, ...]:
    """Return the axes of the steps, in ascending order."""
    rank = layer.rank(query)
    if rank < 3:
        raise layer.malformed(f"its query has {rank} axes, and needs three or more")
    stated = layer.params.get("attention_axes")
    if stated is None:
        return tuple(range(1, rank - 1))
    given = layer.params.integers("attention_axes")
    axes = tuple(sorted({layer.axis(axis, rank) for axis in given}))
    if axes != tuple(layer.axis(axis, rank) for axis in given) or not 0 < min(axes) <= max(axes) < rank - 1:
        raise layer.unsupported(f"attention along the axes {given}")
    return axes


def _multi_head_scores(layer: LayerBuilder, query: Operand, value: Operand, key: Operand) -> tuple[Operand, Operand]:
    """Return the scores `(N, heads, T, S)` of sequences, and the projected values."""
    params = layer.params
    heads, width = params.integer("num_heads"), params.integer("key_dim")
    q = _projected(layer, query, "query", heads, width)
    k = _projected(layer, key, "key", heads, width)
    v = _projected(layer, value, "value", heads, params.integer("value_dim", width))
    return layer.apply(MatMul(transpose_right=True), layer.mul(q, 1 / math.sqrt(width)), k), v


@reads("MultiHeadAttention")
def multi_head_attention(layer: LayerBuilder) -> Sequence[str]:
    """Attend from a sequence to another one, or to itself, with several heads."""
    params = layer.params
    query, value = layer.argument(0, "query"), layer.argument(1, "value")
    key = layer.argument(2, "key", default=value)
    if params.get("use_gate") or params.get("sliding_window"):
        raise layer.unsupported("gated attention, or a sliding window")
    params.ignore("query_shape", "key_shape", "value_shape")
    out = params.integers("output_shape", (layer.shape(query)[-1],))
    if len(out) != 1:
        raise layer.unsupported("an output of several axes")
    causal = bool(layer.argument(6, "use_causal_mask", default=False))
    mask = layer.argument(3, "attention_mask")
    wants_scores = bool(layer.argument(4, "return_attention_scores", default=False))
    axes = _attention_axes(layer, query)
    folds = [_fold(layer, each, axes) for each in (query, value, key)]
    if folds[0] is not None:
        if causal or wants_scores or mask is not None or any(map(layer.padding, (query, value, key))):
            raise layer.unsupported("masks or scores of attention along other axes than that of the steps")
        pairs = zip((query, value, key), folds, strict=True)
        query, value, key = (each if fold is None else fold.fold(layer, each) for each, fold in pairs)
    scores, values = _multi_head_scores(layer, query, value, key)
    if causal:
        scores = _causal(layer, scores)
    if mask is not None:
        scores = _masked(layer, scores, mask)
    weights = layer.apply(Softmax(3), _without_padding(layer, scores, query, key, value))
    result = _gathered(layer, layer.apply(MatMul(), weights, values), out[0])
    absent = layer.padding(query)
    if absent is not None:
        layer.mark_padding(result, absent)
    if folds[0] is not None:
        result = folds[0].unfold(layer, result)
    return [result, weights] if wants_scores else [result]


def _query_value_key(layer: LayerBuilder) -> tuple[Operand, Operand, Operand]:
    given = [layer.real(value) for value in layer.inputs(2, 3)]
    return given[0], given[1], given[2] if len(given) == 3 else given[1]


def _attended(layer: LayerBuilder, scores: str, value: str) -> Sequence[str]:
    """Mask the scores, and add up the values in the shares that a softmax makes of them.

    What is padding of the value is masked, and where the query is padding, the result is zero.
    """
    given = layer.inputs(2, 3)
    columns, rows = layer.padding(given[1]), layer.padding(given[0])
    if layer.argument(4, "use_causal_mask", default=False) or layer.params.flag("causal", False):
        scores = _causal(layer, scores)
    if columns is not None:
        scores = _hidden(layer, scores, layer.reshape(columns, -1, 1, layer.shape(columns)[1]))
    weights = layer.apply(Softmax(layer.rank(scores) - 1), scores)
    result = layer.apply(MatMul(), weights, value)
    if rows is not None:
        absent = layer.reshape(rows, -1, layer.shape(rows)[1], 1)
        result = layer.apply(Where(), absent, layer.constant(0.0), result)
        layer.mark_padding(result, rows)
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
