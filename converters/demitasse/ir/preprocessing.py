"""The preprocessing contract: what happens to a photograph before the net sees it.

One record serves calibration, prediction, validation and benchmarks; it comes from flags, a model card, a TOML file or the
source itself (`transform_param`), and every artifact carries it. Most "wrong after conversion" reports are a mean, a
scale or a channel order that got lost, so nothing here is guessed.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from demitasse.ir.ops import Size

__all__ = ["ChannelOrder", "Preprocessing", "ResizeMode"]


class ChannelOrder(enum.Enum):
    """Names the order of the colour channels that the net expects."""

    RGB = "rgb"
    BGR = "bgr"
    GRAY = "gray"


class ResizeMode(enum.Enum):
    """Says what resizing does to the aspect ratio."""

    SQUASH = "squash"  # both sides take the given size, as Caffe's tools do
    SHORTEST_SIDE = "shortest_side"  # the shorter side takes the given size, the ratio stays


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Describes `(channels(crop(resize(image))) - mean) * scale`, the image's values running from 0 to 255.

    `mean` holds one value a channel, in the net's channel order; `mean_image` (float32 `[C, H, W]`, cut to the crop)
    takes its place where the source subtracts an image. `scale` holds one value, or one a channel.
    """

    channels: ChannelOrder = ChannelOrder.RGB
    resize: Size | None = None
    resize_mode: ResizeMode = ResizeMode.SQUASH
    crop: Size | None = None
    mean: tuple[float, ...] = ()
    mean_image: npt.NDArray[np.float32] | None = None
    scale: tuple[float, ...] = (1.0,)
