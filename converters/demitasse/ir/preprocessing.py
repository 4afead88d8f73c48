"""The preprocessing contract: what happens to a photograph before the net sees it.

One record serves calibration, prediction, validation and benchmarks; it comes from flags, a model card, a TOML file or
the source itself (`transform_param`), and every artifact carries it. Most "wrong after conversion" reports are a mean,
a scale or a channel order that got lost, so nothing here is guessed. `demitasse.preprocess` applies it.
"""

from __future__ import annotations

import base64
import binascii
import enum
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from demitasse.errors import UsageError
from demitasse.ir.ops import Size

__all__ = ["ChannelOrder", "ImageFilter", "Preprocessing", "ResizeMode"]

# A mean image of 8192 x 8192 in colour; larger ones are taken for a damaged document.
MAX_MEAN_ELEMENTS = 3 * 8192 * 8192

Choice = TypeVar("Choice", bound=enum.Enum)


class ChannelOrder(enum.Enum):
    """Names the order of the colour channels that the net expects."""

    RGB = "rgb"
    BGR = "bgr"
    GRAY = "gray"

    @property
    def count(self) -> int:
        return 1 if self is ChannelOrder.GRAY else 3


class ResizeMode(enum.Enum):
    """Says what resizing does to the aspect ratio."""

    SQUASH = "squash"  # both sides take the given size, as Caffe's tools do
    SHORTEST_SIDE = "shortest_side"  # the shorter side takes the given size, the ratio stays


class ImageFilter(enum.Enum):
    """Names how resizing makes new pixels; all but `NEAREST` widen with the factor when shrinking (antialiasing)."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"
    BOX = "box"
    NEAREST = "nearest"


@dataclass(frozen=True, slots=True, eq=False)
class Preprocessing:
    """Describes `(channels(crop(resize(image))) - mean) * scale`, the image's values running from 0 to 255.

    `mean` holds one value for all channels or one a channel, in the net's channel order; `mean_image` (float32 `[C, H,
    W]`, of the crop's size or of the size before cropping) takes its place where the source subtracts an image. `scale`
    holds one value, or one a channel. The crop is taken from the centre, rounded towards the top left.

    Raises:
        UsageError: the fields contradict each other.
    """

    channels: ChannelOrder = ChannelOrder.RGB
    resize: Size | None = None
    resize_mode: ResizeMode = ResizeMode.SQUASH
    crop: Size | None = None
    mean: tuple[float, ...] = ()
    mean_image: npt.NDArray[np.float32] | None = None
    scale: tuple[float, ...] = (1.0,)
    filter: ImageFilter = ImageFilter.BILINEAR

    def __post_init__(self) -> None:
        faults = [*self._size_faults(), *self._value_faults()]
        if faults:
            raise UsageError(f"this preprocessing can't be: {'; '.join(faults)}")

    def _size_faults(self) -> list[str]:
        faults = []
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            if size is not None and min(size) < 1:
                faults.append(f"{name} to {size.height} x {size.width} leaves no image")
        resize, crop = self.resize, self.crop
        if resize is None:
            return faults
        if self.resize_mode is ResizeMode.SHORTEST_SIDE and resize.height != resize.width:
            faults.append("resizing the shortest side takes one number, not two")
        if crop is not None and (crop.height > resize.height or crop.width > resize.width):
            faults.append(f"a crop of {crop.height} x {crop.width} doesn't fit into {resize.height} x {resize.width}")
        return faults

    def _value_faults(self) -> list[str]:
        faults = []
        count = self.channels.count
        if self.mean and self.mean_image is not None:
            faults.append("there is a mean a channel and a mean image; give one")
        if len(self.mean) not in {0, 1, count}:
            faults.append(f"the mean has {len(self.mean)} values for {count} channel(s)")
        if len(self.scale) not in {1, count}:
            faults.append(f"the scale has {len(self.scale)} values for {count} channel(s)")
        if not all(map(math.isfinite, (*self.mean, *self.scale))) or 0 in self.scale:
            faults.append("mean and scale must be finite, and no scale 0")
        if self.mean_image is not None:
            if self.mean_image.ndim != 3 or self.mean_image.shape[0] != count:
                faults.append(f"the mean image has shape {self.mean_image.shape}, not [{count}, H, W]")
            elif not np.isfinite(self.mean_image).all():
                faults.append("the mean image is not finite everywhere")
        return faults

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Preprocessing):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.channels, self.resize, self.resize_mode, self.crop, self.mean, self.scale, self.filter))

    def to_dict(self) -> dict[str, Any]:
        """Return the contract as JSON can hold it; a mean image becomes base64 of zlib of little-endian float32."""
        return {
            "channels": self.channels.value,
            "resize": None if self.resize is None else list(self.resize),
            "resize_mode": self.resize_mode.value,
            "crop": None if self.crop is None else list(self.crop),
            "mean": list(self.mean),
            "mean_image": None if self.mean_image is None else _packed(self.mean_image),
            "scale": list(self.scale),
            "filter": self.filter.value,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str) -> Preprocessing:
        """Read what `to_dict` wrote, or a table of a TOML file; a field left out keeps its default.

        A size may be one number for both sides, mean and scale one number.

        Raises:
            UsageError: a field is unknown or holds something else; all are listed, after `where`.
        """
        faults = [f"{name!r} is no field of it" for name in data if name not in FIELDS]
        values: dict[str, Any] = {}
        for name, parse in FIELDS.items():
            if data.get(name) is None:
                continue
            try:
                values[name] = parse(data[name])
            except (TypeError, ValueError, KeyError, zlib.error, binascii.Error) as error:
                faults.append(f"{name} can't be {_short(data[name])}: {error}")
        if faults:
            raise UsageError(f"{where}: preprocessing: {'; '.join(faults)}")
        try:
            return cls(**values)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _packed(image: npt.NDArray[np.float32]) -> dict[str, Any]:
    raw = np.ascontiguousarray(image, "<f4").tobytes()
    return {"shape": list(image.shape), "data": base64.b64encode(zlib.compress(raw, 9)).decode("ascii")}


def _unpacked(value: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    shape = tuple(int(dim) for dim in value["shape"])
    count = math.prod(shape)
    if min(shape, default=0) < 1 or count > MAX_MEAN_ELEMENTS:
        raise ValueError(f"its shape is {shape}")
    inflate = zlib.decompressobj()
    raw = inflate.decompress(base64.b64decode(value["data"], validate=True), count * 4)
    if len(raw) != count * 4 or inflate.unconsumed_tail:
        raise ValueError(f"its data doesn't fill the shape {shape}")
    return np.frombuffer(raw, "<f4").reshape(shape).astype(np.float32, copy=False)


def _choice(kind: type[Choice], value: object) -> Choice:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"choose one of {', '.join(str(member.value) for member in kind)}") from None


def _size(value: Any) -> Size:
    if isinstance(value, int) and not isinstance(value, bool):
        return Size(value, value)
    sides = [side for side in value if isinstance(side, int) and not isinstance(side, bool)]
    if len(sides) != len(value) or len(sides) != 2:
        raise ValueError("give one number, or a height and a width")
    return Size(*sides)


def _numbers(value: Any) -> tuple[float, ...]:
    entries = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(entry, bool | str) for entry in entries):
        raise ValueError("give numbers")
    return tuple(float(entry) for entry in entries)


# How each field is read from a document or a TOML file.
FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "channels": lambda value: _choice(ChannelOrder, value),
    "resize": _size,
    "resize_mode": lambda value: _choice(ResizeMode, value),
    "crop": _size,
    "mean": _numbers,
    "mean_image": _unpacked,
    "scale": _numbers,
    "filter": lambda value: _choice(ImageFilter, value),
}
