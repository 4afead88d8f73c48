"""Emit what detectors end with."""

from __future__ import annotations

import numpy as np

from demitasse.ir import ops
from demitasse.ir.graph import Node
from demitasse.ir.ops import DType
from demitasse.writers.tflite.lowering import Lowering
from demitasse.writers.tflite.model import TENSOR_TYPES, Tensor

__all__ = ["emit_non_max_suppression"]


def emit_non_max_suppression(to: Lowering, op: ops.NonMaxSuppression, node: Node) -> None:
    """Emit `NON_MAX_SUPPRESSION_V4` for each class of each sample, and turn the places that it gives into a mask.

    The operator orders boxes of equal score as its heap happens to, and holds an overlap that equals the threshold
    against a box (tflite/kernels/internal/reference/non_max_suppression.h).
    """
    boxes, scores = map(to.read, node.inputs)
    y = to.result(node)
    batch, classes, count = scores.shape
    masks = []
    for sample in range(batch):
        corners = _piece(to, boxes, y, "boxes", (sample, 0, 0), (count, 4))
        for label in range(classes):
            row = _piece(to, scores, y, "scores", (sample, label, 0), (count,))
            masks.append(_mask(to, op, corners, row, y))
    side = to.temporary(y, "masks", (batch * classes, count), dtype=DType.FLOAT32)
    to.model.operator("PACK", masks, [side], options="PackOptions", valuesCount=len(masks), axis=0)
    shaped = to.reshape(side, to.temporary(y, "kept", y.shape, dtype=DType.FLOAT32))
    to.model.operator("GREATER", [shaped, to.small(y, "zero", 0, DType.FLOAT32)], [y], options="GreaterOptions")


def _piece(to: Lowering, x: Tensor, y: Tensor, what: str, begins: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Cut a piece out, leading axes of size 1 dropped."""
    size = (1,) * (x.rank - len(shape)) + shape
    if size != x.shape:
        x = to.sliced(x, begins, to.temporary(y, f"{what}_cut", size, dtype=DType.FLOAT32))
    return to.reshape(x, to.temporary(y, what, shape, dtype=DType.FLOAT32))


def _mask(to: Lowering, op: ops.NonMaxSuppression, boxes: Tensor, scores: Tensor, y: Tensor) -> Tensor:
    """Return ones at the boxes that are kept; the places behind the last one add zeros to the first box."""
    count = scores.shape[0]
    places = to.temporary(y, "places", (count,), dtype=DType.INT32)
    found = to.temporary(y, "found", (), dtype=DType.INT32)
    limits = [
        to.small(y, "most", count),
        to.small(y, "overlap", op.overlap_threshold, DType.FLOAT32),
        to.small(y, "least", op.score_threshold, DType.FLOAT32),
    ]
    options = "NonMaxSuppressionV4Options"
    to.model.operator("NON_MAX_SUPPRESSION_V4", [boxes, scores, *limits], [places, found], options=options)
    valid = to.temporary(y, "valid", (count,), dtype=DType.BOOL)
    to.model.operator("LESS", [to.small(y, "order", np.arange(count)), found], [valid], options="LessOptions")
    ones = to.temporary(y, "ones", (count,), dtype=DType.FLOAT32)
    types = {"inDataType": TENSOR_TYPES[DType.BOOL], "outDataType": TENSOR_TYPES[DType.FLOAT32]}
    to.model.operator("CAST", [valid], [ones], options="CastOptions", **types)
    column = to.reshape(places, to.temporary(y, "column", (count, 1), dtype=DType.INT32))
    mask = to.temporary(y, "mask", (count,), dtype=DType.FLOAT32)
    to.model.operator("SCATTER_ND", [column, ones, to.small(y, "count", [count])], [mask], options="ScatterNdOptions")
    return mask
