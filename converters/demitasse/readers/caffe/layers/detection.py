"""Layers of single-shot detectors (SSD's fork: prior_box_layer.cpp, detection_output_layer.cpp, bbox_util.cpp)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from demitasse.ir.ops import (
    ArgMax,
    Binary,
    BinaryFunction,
    Cast,
    Compare,
    CompareFunction,
    Concat,
    DType,
    Gather,
    Identity,
    NonMaxSuppression,
    Reduce,
    ReduceFunction,
    Reshape,
    Size,
    Slice,
    TopK,
    Transpose,
    Unary,
    UnaryFunction,
    Where,
)
from demitasse.readers.caffe.builder import MOST_NUMBERS, LayerBuilder
from demitasse.readers.caffe.params import Params
from demitasse.readers.caffe.registry import reads

_ADD = Binary(BinaryFunction.ADD)
_SUB = Binary(BinaryFunction.SUB)
_MUL = Binary(BinaryFunction.MUL)

# Stands for the score of a box that is out: below any score that a net gives, and far from float32's limits.
_OUT = -1e30


@reads("PriorBox")
def prior_box(layer: LayerBuilder) -> None:
    """Lay boxes of some sizes and ratios over an image, with their variances: a constant for a given image size."""
    param = layer.param("prior_box_param")
    feature, image = layer.inputs(2)
    if min(layer.rank(feature), layer.rank(image)) != 4:
        raise layer.malformed("its bottoms have to be N, C, H, W")
    grid = Size(*layer.shape(feature)[2:])
    size = _prior_image_size(param, Size(*layer.shape(image)[2:]))
    step = _prior_step(param, grid, size)
    offset = param.number("offset")
    boxes = _prior_sizes(layer, param)
    if math.prod(grid) * boxes.size > MOST_NUMBERS or min(size) < 1:
        raise layer.malformed(f"{len(boxes)} boxes at each of {grid} places of an image of {size}")
    centres = np.stack(
        np.broadcast_arrays(
            (np.arange(grid.width) + offset) * step[1], ((np.arange(grid.height) + offset) * step[0])[:, None]
        ),
        axis=-1,
    )[:, :, None]
    corners = np.concatenate([centres - boxes / 2, centres + boxes / 2], axis=-1)
    corners /= np.array([size.width, size.height] * 2)
    if param.flag("clip"):
        corners = corners.clip(0, 1)
    variance = np.broadcast_to(_prior_variance(layer, param), corners.shape)
    priors = layer.constant("priors", np.stack([corners.ravel(), variance.ravel()])[None])
    layer.emit(Identity(), priors)


def _prior_image_size(param: Params, image: Size) -> Size:
    if "img_h" in param or "img_w" in param:
        return Size(param.integer("img_h"), param.integer("img_w"))
    side = param.integer("img_size", 0)
    return Size(side, side) if side else image


def _prior_step(param: Params, grid: Size, image: Size) -> tuple[float, float]:
    """Return the distance between boxes down and across, in pixels."""
    if "step_h" in param or "step_w" in param:
        return param.number("step_h"), param.number("step_w")
    step = param.number("step", 0.0)
    return (step, step) if step else (image.height / grid.height, image.width / grid.width)


def _prior_sizes(layer: LayerBuilder, param: Params) -> NDArray[np.float64]:
    """Return width and height of each box at a place, in Caffe's order: squares first, then the other ratios."""
    smallest, largest = param.numbers("min_size"), param.numbers("max_size")
    if not smallest or (largest and len(largest) != len(smallest)):
        raise layer.malformed(f"{len(smallest)} values of min_size, and {len(largest)} of max_size")
    if not all(math.isfinite(side) and side >= 1 for side in (*smallest, *largest)):
        raise layer.malformed(f"sizes {smallest} and {largest} have to be 1 at least")
    if any(side != int(side) for side in (*smallest, *largest)):
        layer.trap("sizes are cut to whole pixels, as SSD's Caffe does and other runtimes don't")
    ratios = [1.0]
    for ratio in param.numbers("aspect_ratio"):
        if ratio <= 0:
            raise layer.malformed(f"aspect_ratio {ratio} has to be positive")
        if all(abs(ratio - known) >= 1e-6 for known in ratios):
            ratios += [ratio, 1 / ratio] if param.flag("flip") else [ratio]
    boxes: list[tuple[float, float]] = []
    for index, side in enumerate(map(int, smallest)):
        boxes.append((side, side))
        if largest:
            boxes.append((math.sqrt(side * int(largest[index])),) * 2)
        boxes += [(side * math.sqrt(ratio), side / math.sqrt(ratio)) for ratio in ratios[1:]]
    return np.array(boxes)


def _prior_variance(layer: LayerBuilder, param: Params) -> NDArray[np.float64]:
    variance = param.numbers("variance") or (0.1,)
    if len(variance) not in (1, 4) or min(variance) <= 0:
        raise layer.malformed(f"variance {variance} has to be one positive number, or four")
    return np.array(variance)


class Detector(NamedTuple):
    """The parameters of a DetectionOutput layer; counts of -1 mean no limit."""

    classes: int
    background: int
    shared: bool
    code: str
    variance_in_target: bool
    overlap: float
    per_class: int
    per_image: int
    threshold: float


def _detector(layer: LayerBuilder) -> Detector:
    param = layer.param("detection_output_param")
    nms = param.block("nms_param")
    if nms.number("eta") != 1:
        raise layer.unsupported("an eta other than 1, which lowers the threshold as boxes are kept")
    if nms.flag("soft_nms", False):
        raise layer.unsupported("soft_nms, which lowers scores in place of dropping boxes")
    nms.ignore("theta")
    layer.params.ignore("transform_param")  # for drawing what was detected
    param.ignore("save_output_param", "visualize", "visualize_threshold", "save_file")
    return Detector(
        classes=param.integer("num_classes"),
        background=param.integer("background_label_id"),
        shared=param.flag("share_location"),
        code=param.enum("code_type"),
        variance_in_target=param.flag("variance_encoded_in_target"),
        overlap=nms.number("nms_threshold"),
        per_class=nms.integer("top_k", -1),
        per_image=param.integer("keep_top_k"),
        threshold=param.number("confidence_threshold", _OUT / 2),
    )


@reads("DetectionOutput")
def detection_output(layer: LayerBuilder) -> None:
    """Decode boxes, drop those that better ones overlap, and give a fixed number of rows; rows not needed hold -1."""
    location, confidence, priors = layer.inputs(3)
    detector = _detector(layer)
    count = layer.shape(priors)[-1] // 4
    batch = layer.shape(location)[0]
    _check_detector(layer, detector, batch, count)
    layer.fix_batch("detections are sorted image by image")
    kinds = 1 if detector.shared else detector.classes
    places = layer.step("location", Reshape((batch, count, kinds, 4)), location)
    boxes = _decode(layer, detector, places, layer.step("priors", Reshape((1, 2, count, 1, 4)), priors))
    scores = layer.step(
        "scores", Transpose((0, 2, 1)), layer.step("confidence", Reshape((batch, count, detector.classes)), confidence)
    )
    labels = [label for label in range(detector.classes) if label != detector.background]
    if len(labels) < detector.classes:
        labels_at = layer.integers("labels", np.array(labels, np.int32))
        scores = layer.step("foreground", Gather(1), scores, labels_at)
        boxes = boxes if detector.shared else layer.step("foreground_boxes", Gather(2), boxes, labels_at)
    kept = _suppressed(layer, detector, boxes, scores)
    images = [
        _rows_of_image(layer, image, detector, labels, _sample(layer, "boxes", boxes, image, batch),
                       _sample(layer, "kept", kept, image, batch))
        for image in range(batch)
    ]  # fmt: skip
    total = images[0] if batch == 1 else layer.step("rows", Concat(0), *images)
    rows = layer.shape(total)[0]
    layer.note(f"gives {rows} rows whatever it finds, where Caffe gives one a detection; those left over hold -1")
    layer.emit(Reshape((1, 1, *layer.shape(total))), total)


def _check_detector(layer: LayerBuilder, detector: Detector, batch: int, count: int) -> None:
    location, confidence, _ = (layer.shape(value) for value in layer.bottoms)
    kinds = 1 if detector.shared else detector.classes
    fits = count >= 1 and detector.classes >= 1 and math.prod(location) == batch * count * kinds * 4
    if not fits or confidence[0] != batch or math.prod(confidence) != batch * count * detector.classes:
        raise layer.malformed(
            f"locations {location} and scores {confidence} don't fit {count} priors and {detector.classes} classes; "
            "a fork whose PriorBox lays others (FaceBoxes) needs a plugin"
        )
    if detector.code not in ("CORNER", "CENTER_SIZE", "CORNER_SIZE"):
        raise layer.unsupported(f"boxes coded as {detector.code}")
    if max(detector.classes, detector.classes * count) > MOST_NUMBERS:
        raise layer.malformed(f"{detector.classes} classes of {count} boxes")
    if detector.classes == 1 and detector.background == 0:
        raise layer.malformed("its only class is the background")


def _half(layer: LayerBuilder, what: str, value: str, *, second: bool) -> str:
    """Cut one of two halves of the last axis: left and top, or right and bottom."""
    return layer.step(what, Slice((layer.rank(value) - 1,), (2 if second else 0,), (4 if second else 2,)), value)


def _decode(layer: LayerBuilder, detector: Detector, places: str, priors: str) -> str:
    """Turn locations `[N, B, K, 4]` into corners (DecodeBBox); priors are `[1, 2, B, 1, 4]`, boxes and variances."""

    def prior(what: str, row: int) -> str:
        cut = layer.step(f"{what}_row", Slice((1,), (row,), (row + 1,)), priors)
        return layer.step(what, Reshape((1, *layer.shape(priors)[2:])), cut)

    corners = prior("prior_boxes", 0)
    if not detector.variance_in_target:
        places = layer.step("varied", _MUL, places, prior("variances", 1))
    low, high = (
        _half(layer, f"prior_{name}", corners, second=second) for name, second in (("low", False), ("high", True))
    )
    first, last = (
        _half(layer, f"place_{name}", places, second=second) for name, second in (("low", False), ("high", True))
    )
    if detector.code == "CORNER":
        return layer.step("boxes", _ADD, places, corners)
    size = layer.step("prior_size", _SUB, high, low)
    moved = layer.step("moved", _MUL, first, size)
    if detector.code == "CORNER_SIZE":
        ends = (
            layer.step("low", _ADD, moved, low),
            layer.step("high", _ADD, layer.step("moved_high", _MUL, last, size), high),
        )
        return layer.step("boxes", Concat(3), *ends)
    centre = layer.scaled("prior_centre", layer.step("prior_sum", _ADD, low, high), 0.5)
    centre = layer.step("centre", _ADD, moved, centre)
    extent = layer.step("extent", _MUL, layer.step("growth", Unary(UnaryFunction.EXP), last), size)
    half = layer.scaled("half", extent, 0.5)
    return layer.step("boxes", Concat(3), layer.step("low", _SUB, centre, half), layer.step("high", _ADD, centre, half))


def _suppressed(layer: LayerBuilder, detector: Detector, boxes: str, scores: str) -> str:
    """Return the scores `[N, C, B]`, those of boxes that are out replaced (ApplyNMSFast)."""
    batch, classes, count = layer.shape(scores)
    out = layer.constant("out", _OUT)
    suppression = NonMaxSuppression(detector.overlap, detector.threshold)
    if detector.shared:
        flat = layer.step("flat_boxes", Reshape((batch, count, 4)), boxes)
        kept = layer.step("kept", suppression, flat, scores)
    else:
        # Each class has boxes of its own, so each is a sample of its own.
        turned = layer.step("turned_boxes", Transpose((0, 2, 1, 3)), boxes)
        flat = layer.step("flat_boxes", Reshape((batch * classes, count, 4)), turned)
        apart = layer.step("apart", Reshape((batch * classes, 1, count)), scores)
        kept = layer.step("kept", Reshape((batch, classes, count)), layer.step("kept_apart", suppression, flat, apart))
    remaining = layer.step("remaining", Where(), kept, scores, out)
    if not 0 < detector.per_class < count:
        return remaining
    # What is not among a class's best can't have suppressed any of them, so it is as well dropped afterwards.
    best = layer.inner("best")
    layer.add(TopK(detector.per_class, 2), [scores], [best, layer.inner("best_places")])
    least = layer.step("least", Slice((2,), (detector.per_class - 1,), (detector.per_class,)), best)
    among = layer.step("among_best", Compare(CompareFunction.GREATER_EQUAL), scores, least)
    return layer.step("remaining_best", Where(), among, remaining, out)


def _sample(layer: LayerBuilder, what: str, value: str, image: int, batch: int) -> str:
    """Cut one image out of a batch, and drop the axis."""
    cut = value if batch == 1 else layer.step(f"{what}_{image}_cut", Slice((0,), (image,), (image + 1,)), value)
    return layer.step(f"{what}_{image}", Reshape(layer.shape(value)[1:]), cut)


def _rows_of_image(
    layer: LayerBuilder, image: int, detector: Detector, labels: list[int], boxes: str, scores: str
) -> str:
    """Return the rows `[K, 7]` of one image: its number, label, score and corners, by label and falling score."""
    classes, count = layer.shape(scores)
    most = classes * (min(detector.per_class, count) if detector.per_class > 0 else count)
    rows = min(detector.per_image, most) if detector.per_image > -1 else most

    def step(what: str, op: Binary | Compare | Gather | Reshape | Where | Cast | Unary | Concat, *inputs: str) -> str:
        return layer.step(f"{what}_{image}", op, *inputs)

    def constant(what: str, numbers: NDArray[np.float64] | float) -> str:
        return layer.constant(f"{what}_{image}", numbers)

    best, places = layer.inner(f"best_scores_{image}"), layer.inner(f"best_places_{image}")
    layer.add(TopK(rows, 0), [step("flat_scores", Reshape((classes * count,)), scores)], [best, places])
    # Whole numbers in float32, exact up to 2 ** 24; half a step keeps the quotient off the whole numbers.
    numbers = step("numbers", Cast(DType.FLOAT32), places)
    shifted = step("shifted", _ADD, numbers, constant("half_step", 0.5))
    quotient = step("quotient", _MUL, shifted, constant("per_box", 1 / count))
    label = step("class", Unary(UnaryFunction.FLOOR), quotient)
    box = step("box_number", _SUB, numbers, step("class_start", _MUL, label, constant("boxes_a_class", float(count))))
    if detector.shared:
        corners = step(
            "corners", Gather(0), step("all_boxes", Reshape((count, 4)), boxes), step("box", Cast(DType.INT32), box)
        )
    else:
        by_box = step("box_start", _MUL, box, constant("classes", float(classes)))
        place = step("place", Cast(DType.INT32), step("place_number", _ADD, by_box, label))
        corners = step("corners", Gather(0), step("all_boxes", Reshape((count * classes, 4)), boxes), place)
    names = constant("label_names", np.array(labels, np.float64))
    named = step("label", Gather(0), names, step("class_at", Cast(DType.INT32), label))
    columns = [
        constant("image", np.full((rows, 1), image, np.float64)),
        step("label_column", Reshape((rows, 1)), named),
        step("score_column", Reshape((rows, 1)), best),
        corners,
    ]
    found = step("found", Compare(CompareFunction.GREATER), best, constant("least_score", _OUT / 2))
    empty = constant("empty", np.array([[image, *[-1] * 6]], np.float64))
    full = step(
        "rows", Where(), step("found_column", Reshape((rows, 1)), found), step("table", Concat(1), *columns), empty
    )
    # Sorted by class, and within each as they are; what was not found goes to the end.
    order = step("order", Where(), found, label, constant("beyond", float(classes)))
    scaled = step("order_scaled", _MUL, order, constant("row_count", -float(rows)))
    keys = step("keys", _SUB, scaled, constant("row_numbers", np.arange(rows, dtype=np.float64)))
    sorted_rows = layer.inner(f"sorted_{image}")
    layer.add(TopK(rows, 0), [keys], [layer.inner(f"sorted_keys_{image}"), sorted_rows])
    return step("sorted_table", Gather(0), full, sorted_rows)


# Yolov3DetectionOutput gives every detection that is left; an artifact needs a limit.
MOST_DETECTIONS = 1000


@reads("Yolov3DetectionOutput")
def yolov3_detection_output(layer: LayerBuilder) -> None:
    """Decode YOLOv3's grids of one image, drop boxes that better ones overlap, and give up to 1000 rows, then -1."""
    param = layer.param("yolov3_detection_output_param")
    grids, count = param.integer("mask_group_num"), param.integer("num_box")
    classes = param.integer("num_classes")
    mask, biases, scales = param.integers("mask"), param.numbers("biases"), param.integers("anchors_scale")
    bottoms = layer.inputs(grids)
    fits = len(mask) >= grids * count and len(scales) >= grids and classes > 0 and mask
    if not fits or 2 * max(mask) + 1 >= len(biases) or len(mask) // grids < count:
        raise layer.malformed(f"{len(mask)} masks, {len(biases)} biases and {len(scales)} scales for {grids} grids")
    parts = []
    for index, grid in enumerate(bottoms):
        shape = layer.shape(grid)
        if len(shape) != 4 or shape[:2] != (1, count * (5 + classes)) or shape[2] != shape[3]:
            raise layer.malformed(f"a grid of shape {shape} for one image, {count} boxes and {classes} classes")
        if shape[2] * shape[3] * count > MOST_NUMBERS:
            raise layer.malformed(f"{count} boxes at each of {shape[2]} x {shape[3]} places")
        first = index * (len(mask) // grids)
        anchors = np.array([biases[2 * box : 2 * box + 2] for box in mask[first : first + count]])
        parts.append(_decode_grid(layer, index, grid, count, anchors / (shape[2] * scales[index])))
    layer.fix_batch("detections of one image are sorted")
    corners, confidence = (layer.step(what, Concat(0), *(part[at] for part in parts)) if grids > 1 else parts[0][at]
                           for at, what in enumerate(("corners", "confidence")))  # fmt: skip
    _emit_yolo_rows(layer, corners, confidence, param.number("confidence_threshold"), param.number("nms_threshold"))


def _decode_grid(
    layer: LayerBuilder, index: int, grid: str, count: int, anchors: NDArray[np.float64]
) -> tuple[str, str]:
    """Return the corners `[B, 4]` and the confidence in each class `[B, C]` of a grid's boxes."""

    def step(what: str, op: Binary | Concat | Reshape | Slice | Transpose | Unary, *inputs: str) -> str:
        return layer.step(f"{what}_{index}", op, *inputs)

    _, channels, side, _ = layer.shape(grid)
    apart = step("apart", Reshape((count, channels // count, side * side)), grid)
    rows = step("rows", Reshape((-1, channels // count)), step("turned", Transpose((0, 2, 1)), apart))
    opened = step("opened", Unary(UnaryFunction.SIGMOID), rows)
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(1, -1, 2)
    start = layer.constant(f"cells_{index}", np.tile(cells, (count, 1, 1)).reshape(-1, 2) / side)
    share = layer.scaled(f"share_{index}", step("offset", Slice((1,), (0,), (2,)), opened), 1 / side)
    centre = step("centre", _ADD, share, start)
    growth = step("growth", Unary(UnaryFunction.EXP), step("stretch", Slice((1,), (2,), (4,)), rows))
    halves = layer.constant(f"half_anchors_{index}", np.repeat(anchors / 2, side * side, axis=0))
    half = step("half", _MUL, growth, halves)
    corners = step("corners", Concat(1), step("low", _SUB, centre, half), step("high", _ADD, centre, half))
    objectness = step("objectness", Slice((1,), (4,), (5,)), opened)
    return corners, step("confidence", _MUL, step("classes", Slice((1,), (5,), (None,)), opened), objectness)


def _emit_yolo_rows(layer: LayerBuilder, corners: str, confidence: str, threshold: float, overlap: float) -> None:
    """Emit rows of image, label, confidence and corners, by falling confidence.

    Suppression goes over all classes together, so of a box's classes only the surest can stay.
    """
    total = layer.shape(corners)[0]
    rows = min(total, MOST_DETECTIONS)
    surest = layer.step("surest", Reduce(ReduceFunction.MAX, (1,), keepdims=False), confidence)
    label = layer.step("surest_class", ArgMax(1, keepdims=False), confidence)
    apart = layer.step("boxes_of_image", Reshape((1, total, 4)), corners)
    scores = layer.step("scores_of_image", Reshape((1, 1, total)), surest)
    kept = layer.step("kept", NonMaxSuppression(overlap, threshold), apart, scores)
    out = layer.constant("out", _OUT)
    remaining = layer.step("remaining", Where(), layer.step("is_kept", Reshape((total,)), kept), surest, out)
    best, places = layer.inner("best"), layer.inner("places")
    layer.add(TopK(rows, 0), [remaining], [best, places])
    named = layer.step("label_number", Cast(DType.FLOAT32), layer.step("label", Gather(0), label, places))
    columns = [
        layer.constant("image", np.zeros((rows, 1))),
        layer.step("label_column", Reshape((rows, 1)), layer.step("named", _ADD, named, layer.constant("first", 1.0))),
        layer.step("score_column", Reshape((rows, 1)), best),
        layer.step("best_corners", Gather(0), corners, places),
    ]
    found = layer.step("found", Compare(CompareFunction.GREATER), best, layer.constant("least_score", _OUT / 2))
    empty = layer.constant("empty", np.array([[0.0, *[-1] * 6]]))
    table = layer.step("table", Concat(1), *columns)
    full = layer.step("rows", Where(), layer.step("found_column", Reshape((rows, 1)), found), table, empty)
    layer.note(f"gives {rows} rows whatever it finds, where Caffe gives one a detection; those left over hold -1")
    layer.emit(Reshape((1, 1, rows, 7)), full)
