"""Layers that work on regions of an image (Fast and Faster R-CNN, R-FCN)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from demitasse.ir.ops import (
    Binary,
    BinaryFunction,
    Cast,
    Clip,
    Compare,
    CompareFunction,
    Concat,
    DType,
    Gather,
    MatMul,
    NonMaxSuppression,
    Reduce,
    ReduceFunction,
    Reshape,
    RoiMaxPool,
    Size,
    Slice,
    TopK,
    Transpose,
    Unary,
    UnaryFunction,
    Where,
)
from demitasse.readers.caffe.builder import MOST_NUMBERS, LayerBuilder
from demitasse.readers.caffe.registry import reads

_ADD = Binary(BinaryFunction.ADD)
_SUB = Binary(BinaryFunction.SUB)
_MUL = Binary(BinaryFunction.MUL)
_DIV = Binary(BinaryFunction.DIV)
_MAX = Binary(BinaryFunction.MAX)
_MIN = Binary(BinaryFunction.MIN)
_FLOOR = Unary(UnaryFunction.FLOOR)
_CEIL = Unary(UnaryFunction.CEIL)

# Stands for the score of a box that is out: below any score that a net gives, and far from float32's limits.
_OUT = -1e30


def _regions(layer: LayerBuilder) -> tuple[str, str]:
    """Return the image and the regions `[R, 5]`: the image's place in the batch, left, top, right, bottom."""
    image, regions = layer.inputs(2)
    shape = layer.shape(regions)
    if layer.rank(image) != 4 or len(shape) < 2 or shape[1] != 5 or any(dim != 1 for dim in shape[2:]):
        raise layer.malformed(f"regions of shape {shape} on an image of shape {layer.shape(image)}")
    return image, regions if len(shape) == 2 else layer.step("regions", Reshape((-1, 5)), regions)


@reads("ROIPooling")
def roi_pooling(layer: LayerBuilder) -> None:
    """Take the maximum of each of a fixed number of bins of each region (Fast R-CNN)."""
    param = layer.param("roi_pooling_param")
    size = Size(param.integer("pooled_h"), param.integer("pooled_w"))
    if min(size) < 1:
        raise layer.malformed(f"pooled_h and pooled_w have to be positive, and are {size}")
    image, regions = _regions(layer)
    layer.fix_batch("it counts regions, of any image")
    layer.emit(RoiMaxPool(size, param.number("spatial_scale")), image, regions)


@reads("PSROIPooling")
def position_sensitive_roi_pooling(layer: LayerBuilder) -> None:
    """Take the mean of each bin of each region, each bin from channels of its own (R-FCN); one image at a time."""
    param = layer.param("psroi_pooling_param")
    scale, out, bins = param.number("spatial_scale"), param.integer("output_dim"), param.integer("group_size")
    image, regions = _regions(layer)
    batch, channels, height, width = layer.shape(image)
    if out < 1 or bins < 1 or channels != out * bins**2:
        raise layer.malformed(f"{channels} channels for {out} results in {bins} x {bins} bins")
    if batch != 1:
        raise layer.unsupported(f"regions of {batch} images at once")
    if max(height, width) > MOST_NUMBERS:
        raise layer.malformed(f"an image of {height} x {width}")
    layer.fix_batch("regions of one image are pooled")
    rows, row_counts = _bin_masks(layer, "row", regions, 2, scale, bins, height)
    columns, column_counts = _bin_masks(layer, "column", regions, 1, scale, bins, width)
    # A bin's sum is rows[r, i, :] @ image[c, i, j] @ columns[r, j, :]: a product over columns for each j, then one
    # over rows for each i.
    split = layer.step("split", Reshape((out, bins, bins, height, width)), image)
    by_column = layer.step("by_column", Transpose((2, 0, 1, 3, 4)), split)
    flat = layer.step("flat", Reshape((bins, out * bins * height, width)), by_column)
    column_masks = layer.step("column_masks", Transpose((1, 2, 0)), columns)
    over_columns = layer.step("over_columns", MatMul(), flat, column_masks)
    apart = layer.step("apart", Reshape((bins, out, bins, height, -1)), over_columns)
    row_masks = layer.step("row_masks", Transpose((1, 2, 0)), rows)
    chosen = layer.step("chosen", _MUL, apart, row_masks)
    summed = layer.step("summed", Reduce(ReduceFunction.SUM, (3,), keepdims=False), chosen)
    sums = layer.step("sums", Transpose((3, 1, 2, 0)), summed)
    areas = layer.step("areas", MatMul(), row_counts, column_counts)
    counts = layer.step("counts", Reshape((0, 1, bins, bins)), layer.step("full", Clip(1.0, float(2**24)), areas))
    layer.emit(_DIV, sums, counts)


def _bin_masks(
    layer: LayerBuilder, what: str, regions: str, start: int, scale: float, bins: int, size: int
) -> tuple[str, str]:
    """Mark which rows (or columns) of the image each bin of each region covers, `[R, bins, size]`, and count them.

    A region runs from `round(start) * scale` to `(round(end) + 1) * scale` and is 0.1 long at least; bin `i` covers
    what lies from `floor(i * length / bins)` to `ceil((i + 1) * length / bins)` of it (psroi_pooling_layer.cu). The
    counts come as `[R, bins, 1]` for rows and `[R, 1, bins]` for columns, so that their product is the areas.
    """
    first = _rounded(layer, f"{what}_first", layer.step(f"{what}_left", Slice((1,), (start,), (start + 1,)), regions))
    last = _rounded(
        layer, f"{what}_last", layer.step(f"{what}_right", Slice((1,), (start + 2,), (start + 3,)), regions)
    )
    begin = layer.scaled(f"{what}_begin", first, scale)
    behind = layer.step(f"{what}_behind", _ADD, last, layer.constant(f"{what}_one", 1.0))
    end = layer.scaled(f"{what}_end", behind, scale)
    length = layer.step(f"{what}_distance", _SUB, end, begin)
    length = layer.step(f"{what}_length", _MAX, length, layer.constant(f"{what}_least", 0.1))
    bin_length = layer.step(f"{what}_bin", _DIV, length, layer.constant(f"{what}_bins", float(bins)))
    places = np.arange(bins + 1, dtype=np.float64)[None]
    edges = []
    for edge, rounding, numbers in (("lower", _FLOOR, places[:, :-1]), ("upper", _CEIL, places[:, 1:])):
        offset = layer.step(f"{what}_{edge}_offset", _MUL, bin_length, layer.constant(f"{what}_{edge}_bins", numbers))
        place = layer.step(f"{what}_{edge}_place", _ADD, offset, begin)
        edges.append(
            layer.step(f"{what}_{edge}", Reshape((0, bins, 1)), layer.step(f"{what}_{edge}_whole", rounding, place))
        )
    index = layer.constant(f"{what}_index", np.arange(size, dtype=np.float64).reshape(1, 1, size))
    masks = [
        layer.step(
            f"{what}_{name}", Cast(DType.FLOAT32), layer.step(f"{what}_is_{name}", Compare(function), index, edge)
        )
        for name, function, edge in (
            ("after", CompareFunction.GREATER_EQUAL, edges[0]),
            ("before", CompareFunction.LESS, edges[1]),
        )
    ]
    covered = layer.step(f"{what}_covered", _MUL, *masks)
    count = layer.step(f"{what}_count", Reduce(ReduceFunction.SUM, (2,), keepdims=True), covered)
    if start == 2:
        return covered, count
    return covered, layer.step(f"{what}_counts", Reshape((0, 1, bins)), count)


def _rounded(layer: LayerBuilder, what: str, value: str) -> str:
    """Round halves away from zero, as C does."""
    size = layer.step(f"{what}_size", Unary(UnaryFunction.ABS), value)
    whole = layer.step(
        f"{what}_whole", _FLOOR, layer.step(f"{what}_half", _ADD, size, layer.constant(f"{what}_by", 0.5))
    )
    return layer.step(what, _MUL, whole, layer.step(f"{what}_sign", Unary(UnaryFunction.SIGN), value))


class Proposals(NamedTuple):
    """The parameters of a Proposal layer: its anchors, in pixels, and how many boxes it goes through and keeps."""

    stride: int
    base: int
    ratios: tuple[float, ...]
    scales: tuple[float, ...]
    smallest: float
    before: int
    after: int
    overlap: float


@reads("Proposal")
def proposal(layer: LayerBuilder) -> None:
    """Turn an RPN's anchors into a fixed number of regions; rows not needed hold 0 (Faster R-CNN)."""
    param = layer.param("proposal_param")
    emit_proposals(
        layer,
        Proposals(
            param.integer("feat_stride"),
            param.integer("base_size"),
            param.numbers("ratio") or (0.5, 1.0, 2.0),
            param.numbers("scale") or (8.0, 16.0, 32.0),
            param.integer("min_size"),
            param.integer("pre_nms_topn"),
            param.integer("post_nms_topn"),
            param.number("nms_thresh"),
        ),
    )


def anchors_of(given: Proposals) -> NDArray[np.float64]:
    """Return the corners of the anchors of one place, sides rounded as Faster R-CNN's generate_anchors.py does."""
    area, centre = given.base**2, (given.base - 1) / 2
    boxes = []
    for ratio in given.ratios:
        width = np.round(np.sqrt(area / ratio))
        sides = np.array([width, np.round(width * ratio)])
        for scale in given.scales:
            reach = (sides * scale - 1) / 2
            boxes.append(np.concatenate([centre - reach, centre + reach]))
    return np.array(boxes)


def emit_proposals(layer: LayerBuilder, given: Proposals) -> None:
    """Emit what Faster R-CNN's proposal layer computes, for one image: regions, and their scores as a second top."""
    scores, deltas, info = layer.inputs(3)
    anchors = anchors_of(given)
    shape = layer.shape(scores)
    expected = [(1, 2 * len(anchors), *shape[2:]), (1, 4 * len(anchors), *shape[2:])]
    if len(shape) != 4 or [shape, layer.shape(deltas)] != expected or len(layer.shape(info)) != 2:
        given_shapes = f"scores {shape}, boxes {layer.shape(deltas)} and im_info {layer.shape(info)}"
        raise layer.malformed(f"{len(anchors)} anchors don't fit {given_shapes}")
    layer.fix_batch("regions of one image are proposed")
    height, width = shape[2:]
    total = len(anchors) * height * width
    if 4 * total > MOST_NUMBERS:
        raise layer.malformed(f"{len(anchors)} anchors at each of {height} x {width} places")
    foreground = layer.step("foreground", Slice((1,), (len(anchors),), (None,)), scores)
    ordered = layer.step("ordered", Transpose((0, 2, 3, 1)), foreground)
    ranked = layer.step("scores", Reshape((total,)), ordered)
    moves = layer.step("moves", Reshape((total, 4)), layer.step("ordered_boxes", Transpose((0, 2, 3, 1)), deltas))
    shifts = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 1, 2) * given.stride
    corners = (anchors + np.tile(shifts, 2)).reshape(total, 4)
    low, high = _moved_boxes(layer, moves, corners, info)
    allowed = _large_enough(layer, low, high, info, given.smallest)
    out = layer.constant("out", _OUT)
    _emit_best(layer, given, layer.step("large", Where(), allowed, ranked, out), low, high, out)
    layer.note(f"gives {given.after} regions at most, and rows of zeros where it finds fewer")


def _moved_boxes(layer: LayerBuilder, moves: str, corners: NDArray[np.float64], info: str) -> tuple[str, str]:
    """Move and stretch the anchors, and clip them to the image (bbox_transform.py); ends belong to a box."""
    size = corners[:, 2:] - corners[:, :2] + 1
    sizes, middles = layer.constant("sizes", size), layer.constant("middles", corners[:, :2] + size / 2)
    offset = layer.step("offset", _MUL, layer.step("shift", Slice((1,), (0,), (2,)), moves), sizes)
    growth = layer.step("growth", Unary(UnaryFunction.EXP), layer.step("stretch", Slice((1,), (2,), (4,)), moves))
    half = layer.scaled("half", layer.step("extent", _MUL, growth, sizes), 0.5)
    centre = layer.step("centre", _ADD, offset, middles)
    turned = layer.step("image_size", Gather(1), info, layer.integers("width_height", np.array([1, 0], np.int32)))
    limit = layer.step("limit", _SUB, turned, layer.constant("one", 1.0))
    zero = layer.constant("zero", 0.0)
    ends = []
    for what, op in (("low", _SUB), ("high", _ADD)):
        inside = layer.step(f"{what}_inside", _MIN, layer.step(f"{what}_end", op, centre, half), limit)
        ends.append(layer.step(what, _MAX, inside, zero))
    return ends[0], ends[1]


def _large_enough(layer: LayerBuilder, low: str, high: str, info: str, smallest: float) -> str:
    """Tell which boxes are at least `smallest` pixels of the unscaled image wide and high."""
    sides = layer.step("sides", _ADD, layer.step("extents", _SUB, high, low), layer.constant("last_pixel", 1.0))
    least = layer.step("least_side", Reduce(ReduceFunction.MIN, (1,), keepdims=False), sides)
    scale = layer.step("image_scale", Reshape((1,)), layer.step("scale_cut", Slice((1,), (2,), (3,)), info))
    wanted = layer.step("wanted_side", _MUL, scale, layer.constant("smallest", smallest))
    return layer.step("is_large", Compare(CompareFunction.GREATER_EQUAL), least, wanted)


def _emit_best(layer: LayerBuilder, given: Proposals, scores: str, low: str, high: str, out: str) -> None:
    """Emit the best boxes that no better one overlaps, as regions of image 0."""
    (total,) = layer.shape(scores)
    before = min(given.before, total) if given.before > 0 else total
    after = min(given.after, before) if given.after > 0 else before
    best, places = layer.inner("best"), layer.inner("places")
    layer.add(TopK(before, 0), [scores], [best, places])
    boxes = layer.step("best_boxes", Gather(0), layer.step("boxes", Concat(1), low, high), places)
    # A box reaches to the end of its last pixel.
    ends = layer.step("whole_boxes", _ADD, boxes, layer.constant("last_pixels", np.array([[0.0, 0, 1, 1]])))
    suppression = NonMaxSuppression(given.overlap, _OUT / 2)
    apart = layer.step("boxes_of_image", Reshape((1, before, 4)), ends)
    kept = layer.step("kept", suppression, apart, layer.step("scores_of_image", Reshape((1, 1, before)), best))
    remaining = layer.step("remaining", Where(), layer.step("is_kept", Reshape((before,)), kept), best, out)
    chosen, rows = layer.inner("chosen"), layer.inner("rows")
    layer.add(TopK(after, 0), [remaining], [chosen, rows])
    found = layer.step("found", Compare(CompareFunction.GREATER), chosen, layer.constant("least", _OUT / 2))
    column = layer.step("found_column", Reshape((after, 1)), found)
    zero = layer.constant("nothing", 0.0)
    corners = layer.step("corners", Where(), column, layer.step("rows_of_boxes", Gather(0), boxes, rows), zero)
    image = layer.constant("image", np.zeros((after, 1)))
    layer.emit(Concat(1), image, corners)
    if layer.tops_left:
        layer.emit(Where(), column, layer.step("score_column", Reshape((after, 1)), chosen), zero)
