"""Layers of detectors (SSD, R-CNN, YOLO forks)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from demitasse.ir.ops import Identity, Size
from demitasse.readers.caffe.builder import LayerBuilder
from demitasse.readers.caffe.params import Params
from demitasse.readers.caffe.registry import reads


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
    ratios = [1.0]
    for ratio in param.numbers("aspect_ratio"):
        if ratio <= 0:
            raise layer.malformed(f"aspect_ratio {ratio} has to be positive")
        if all(abs(ratio - known) >= 1e-6 for known in ratios):
            ratios += [ratio, 1 / ratio] if param.flag("flip") else [ratio]
    boxes = []
    for index, side in enumerate(smallest):
        boxes.append((side, side))
        if largest:
            boxes.append((math.sqrt(side * largest[index]),) * 2)
        boxes += [(side * math.sqrt(ratio), side / math.sqrt(ratio)) for ratio in ratios[1:]]
    return np.array(boxes)


def _prior_variance(layer: LayerBuilder, param: Params) -> NDArray[np.float64]:
    variance = param.numbers("variance") or (0.1,)
    if len(variance) not in (1, 4) or min(variance) <= 0:
        raise layer.malformed(f"variance {variance} has to be one positive number, or four")
    return np.array(variance)
