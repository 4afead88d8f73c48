"""Layers that move elements, choose among them or reduce them (concat, slice, reshape, softmax, argmax, ... layers)."""

from __future__ import annotations

from itertools import pairwise

from demitasse.ir.ops import (
    ArgMax,
    Binary,
    BinaryFunction,
    Cast,
    Concat,
    DType,
    Gather,
    Identity,
    Reduce,
    ReduceFunction,
    Reshape,
    Slice,
    Softmax,
    Tile,
    TopK,
    Transpose,
)
from demitasse.readers.caffe.builder import LayerBuilder
from demitasse.readers.caffe.registry import reads


@reads("Softmax")
def softmax(layer: LayerBuilder) -> None:
    """Turn scores along an axis into probabilities."""
    axis = layer.param("softmax_param").integer("axis")
    layer.emit(Softmax(layer.axis(axis, layer.rank(layer.x))), layer.x)


@reads("Dropout")
def dropout(layer: LayerBuilder) -> None:
    """Pass on as it is, as at test time; a fork's `scale_train: false` multiplies by the share kept."""
    param = layer.param("dropout_param")
    ratio = param.number("dropout_ratio")
    if param.flag("sample_weights_test"):
        raise layer.unsupported("sample_weights_test, which draws random numbers at test time")
    if param.flag("scale_train"):
        layer.emit(Identity(), layer.x)
        return
    layer.trap(f"scale_train is false: it multiplies by {1 - ratio:g} at test time")
    layer.emit(Binary(BinaryFunction.MUL), layer.x, layer.constant("kept", 1 - ratio))


@reads("Split")
def split(layer: LayerBuilder) -> None:
    """Give the bottom under several names."""
    for _ in layer.tops:
        layer.emit(Identity(), layer.x)


@reads("Parameter")
def parameter(layer: LayerBuilder) -> None:
    """Give a learned blob as it is."""
    layer.inputs(0)
    shape = layer.param("parameter_param").block("shape").integers("dim")
    layer.emit(Identity(), layer.weight(0, "value", shape))


@reads("Silence")
def silence(layer: LayerBuilder) -> None:
    """Give nothing: its bottoms are no outputs of the net."""


@reads("Concat")
def concat(layer: LayerBuilder) -> None:
    """Join the bottoms along an axis."""
    param = layer.param("concat_param")
    bottoms = layer.inputs(1, len(layer.bottoms) or 1)
    axis = param.integer("concat_dim") if "concat_dim" in param else param.integer("axis")
    resolved = layer.axis(axis, layer.rank(bottoms[0]))
    if len(bottoms) == 1:
        layer.emit(Identity(), bottoms[0])
    else:
        layer.emit(Concat(resolved), *bottoms)


@reads("Slice")
def slice_(layer: LayerBuilder) -> None:
    """Cut the bottom into tops along an axis, at `slice_point`s or evenly."""
    param = layer.param("slice_param")
    shape = layer.shape(layer.x)
    axis = layer.axis(param.integer("slice_dim") if "slice_dim" in param else param.integer("axis"), len(shape))
    points, parts = list(param.integers("slice_point")), len(layer.tops)
    if not parts:
        raise layer.malformed("it has no tops")
    if not points:
        if shape[axis] % parts:
            raise layer.malformed(f"{shape[axis]} elements along axis {axis} can't be cut into {parts} even parts")
        points = [shape[axis] // parts * part for part in range(1, parts)]
        if axis == 0 and parts > 1:
            layer.fix_batch("it is cut into even parts")
    edges = [0, *points, shape[axis]]
    if len(points) != parts - 1 or any(low >= high for low, high in pairwise(edges)):
        raise layer.malformed(f"slice points {points} don't cut {shape[axis]} elements into {parts} parts")
    if parts == 1:
        layer.emit(Identity(), layer.x)
        return
    for start, stop in zip(edges[:-1], [*points, None], strict=True):
        layer.emit(Slice((axis,), (start,), (stop,)), layer.x)


@reads("Flatten")
def flatten(layer: LayerBuilder) -> None:
    """Join the axes from `axis` to `end_axis` into one."""
    param = layer.param("flatten_param")
    shape = layer.shape(layer.x)
    start = layer.axis(param.integer("axis"), len(shape))
    end = layer.axis(param.integer("end_axis"), len(shape), "end_axis")
    if start > end:
        raise layer.malformed(f"axis {start} comes after end_axis {end}")
    layer.emit(Reshape((*(0,) * start, -1, *shape[end + 1 :])), layer.x)


@reads("Reshape")
def reshape(layer: LayerBuilder) -> None:
    """Give the same elements another shape: 0 copies a dimension, -1 is inferred; `axis` and `num_axes` limit it."""
    param = layer.param("reshape_param")
    shape = layer.shape(layer.x)
    dims = param.block("shape").integers("dim")
    axis, count = param.integer("axis"), param.integer("num_axes")
    start = axis if axis >= 0 else len(shape) + axis + 1
    stop = len(shape) if count == -1 else start + count
    if not 0 <= start <= stop <= len(shape) or dims.count(-1) > 1 or any(dim < -1 for dim in dims):
        raise layer.malformed(f"shape {dims} from axis {axis} on, num_axes {count}, doesn't fit an input {shape}")
    if any(dim == 0 and start + place >= len(shape) for place, dim in enumerate(dims)):
        raise layer.malformed(f"shape {dims} copies a dimension that the input {shape} doesn't have")
    kept = len(dims) == stop - start
    tail = tuple(0 if kept else dim for dim in shape[stop:])
    target = [*(0,) * start, *dims, *tail]
    # A first dimension that is spelled out as it is anyway is copied: so it may be another one in another batch.
    if target and shape and target[0] == shape[0]:
        target[0] = 0
    layer.emit(Reshape(tuple(target)), layer.x)


@reads("Tile")
def tile(layer: LayerBuilder) -> None:
    """Repeat along an axis."""
    param = layer.param("tile_param")
    rank = layer.rank(layer.x)
    axis, count = layer.axis(param.integer("axis"), rank), param.integer("tiles")
    layer.emit(Tile(tuple(count if place == axis else 1 for place in range(rank))), layer.x)


@reads("Reduction")
def reduction(layer: LayerBuilder) -> None:
    """Reduce all axes from `axis` on to their sum, mean, sum of squares or of absolute values, times `coeff`."""
    param = layer.param("reduction_param")
    rank, operation, coeff = layer.rank(layer.x), param.enum("operation"), param.number("coeff")
    functions = {
        "SUM": ReduceFunction.SUM,
        "ASUM": ReduceFunction.L1,
        "SUMSQ": ReduceFunction.SUM_SQUARE,
        "MEAN": ReduceFunction.MEAN,
    }
    if operation not in functions:
        raise layer.unsupported(f"the operation {operation}")
    axes = tuple(range(layer.axis(param.integer("axis"), rank), rank))
    reduce = Reduce(functions[operation], axes, keepdims=False)
    if coeff == 1:
        layer.emit(reduce, layer.x)
    else:
        layer.chain(layer.x, ("reduced", reduce, None), ("scaled", Binary(BinaryFunction.MUL), coeff))


@reads("ArgMax")
def argmax(layer: LayerBuilder) -> None:
    """Find the places of the `top_k` largest elements, or with `out_max_val` their values too."""
    param = layer.param("argmax_param")
    k, values_too = param.integer("top_k"), param.flag("out_max_val")
    layer.trap("of equal elements Caffe takes the last, others the first")
    if "axis" in param:
        axis = layer.axis(param.integer("axis"), layer.rank(layer.x))
        if values_too and k == 1:
            layer.emit(Reduce(ReduceFunction.MAX, (axis,), keepdims=True), layer.x)
        elif values_too:
            layer.add(TopK(k, axis), [layer.x], [layer.top(), layer.inner("places")])
        elif k == 1:
            layer.emit_whole(layer.step("places", ArgMax(axis, keepdims=True), layer.x))
        else:
            places = layer.inner("places")
            layer.add(TopK(k, axis), [layer.x], [layer.inner("values"), places])
            layer.emit_whole(places)
        return
    flat = layer.step("flat", Reshape((0, 1, -1)), layer.x)
    values, places = layer.inner("values"), layer.inner("places")
    layer.add(TopK(k, 2), [flat], [values, places])
    if values_too:
        layer.emit(Concat(1), layer.step("places_as_numbers", Cast(DType.FLOAT32), places), values)
    else:
        layer.emit_whole(places)


@reads("Crop")
def crop(layer: LayerBuilder) -> None:
    """Cut the first bottom to the size of the second from `axis` on, at some offset."""
    param = layer.param("crop_param")
    x, reference = layer.inputs(2)
    shape, size = layer.shape(x), layer.shape(reference)
    axis = layer.axis(param.integer("axis"), len(shape))
    offsets = param.integers("offset") or (0,)
    count = len(shape) - axis
    if len(size) != len(shape) or len(offsets) not in (1, count):
        raise layer.malformed(f"{len(offsets)} offsets for {count} axes of {shape}, cut as {size}")
    offsets = offsets * count if len(offsets) == 1 else offsets
    stops = [offset + dim for offset, dim in zip(offsets, size[axis:], strict=True)]
    if any(stop > dim for stop, dim in zip(stops, shape[axis:], strict=True)):
        raise layer.malformed(f"offsets {offsets} and the size {size[axis:]} exceed the input {shape}")
    if axis == 0:
        layer.fix_batch("it is cropped")
    layer.emit(Slice(tuple(range(axis, len(shape))), offsets, tuple(stops)), x)


@reads("BatchReindex")
def batch_reindex(layer: LayerBuilder) -> None:
    """Choose and reorder the samples of a batch."""
    x, indices = layer.inputs(2)
    layer.emit(Gather(0), x, layer.whole(indices))


@reads("Permute")
def permute(layer: LayerBuilder) -> None:
    """Reorder the axes (SSD's fork)."""
    order = layer.param("permute_param").integers("order")
    rank = layer.rank(layer.x)
    axes = (*order, *(axis for axis in range(rank) if axis not in order))
    if sorted(axes) != list(range(rank)):
        raise layer.malformed(f"order {order} doesn't permute {rank} axes")
    layer.emit(Transpose(axes), layer.x)


@reads("ShuffleChannel")
def shuffle_channel(layer: LayerBuilder) -> None:
    """Interleave groups of channels (ShuffleNet's fork)."""
    groups = layer.param("shuffle_channel_param").integer("group")
    _, channels, *space = layer.shape(layer.x)
    if groups < 1 or channels % groups:
        raise layer.malformed(f"{groups} groups don't divide {channels} channels")
    count = len(space)
    apart = layer.step("apart", Reshape((0, groups, channels // groups, *space)), layer.x)
    mixed = layer.step("mixed", Transpose((0, 2, 1, *range(3, 3 + count))), apart)
    layer.emit(Reshape((0, channels, *space)), mixed)
