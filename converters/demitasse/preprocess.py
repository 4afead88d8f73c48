"""Finds, reads and prepares photographs by the preprocessing contract.

Every part that feeds images to a net (calibration, prediction, validation, benchmarks) goes through `apply`, so none
can differ from another. `fit` and `normalize` are its two halves: where the arithmetic is folded into an artifact, the
artifact takes what `fit` gives.
"""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from demitasse.errors import UsageError
from demitasse.ir.ops import Layout, Shape, Size
from demitasse.ir.preprocessing import ChannelOrder, Preprocessing, ResizeMode

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "apply",
    "fit",
    "for_input",
    "from_flags",
    "from_toml",
    "images_in",
    "load_image",
    "mean_for",
    "normalize",
]

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# What counts as an image in a folder; a file that is named outright may have any suffix.
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"})

# 500 MB as RGB, more than any camera gives; a small file that unpacks to more is an attack or a mistake.
MAX_PIXELS = 178_956_970


# --- the contract, from what people write -------------------------------------------------------------------


def from_flags(
    *,
    base: Preprocessing | None = None,
    mean: Sequence[float] | Floats | None = None,
    scale: float | Sequence[float] | None = None,
    channels: str | None = None,
    resize: int | Sequence[int] | None = None,
    crop: int | Sequence[int] | None = None,
    resize_mode: str | None = None,
    filter: str | None = None,
) -> Preprocessing:
    """Put a contract together from its pieces, over `base` where there is one.

    `mean` is one value a channel, or a mean image `[C, H, W]`; a size is one number, or height and width.

    Raises:
        UsageError: a piece holds something else than it should, or pieces contradict each other; all are listed.
    """
    is_image = isinstance(mean, np.ndarray) and mean.ndim > 1
    given = {
        "channels": channels,
        "resize": resize,
        "crop": crop,
        "scale": scale,
        "resize_mode": resize_mode,
        "filter": filter,
        "mean": None if mean is None or is_image else [float(value) for value in mean],
    }
    data = (base or Preprocessing()).to_dict() if mean is None else _without_mean(base or Preprocessing())
    data |= {name: value for name, value in given.items() if value is not None}
    if not is_image:
        return Preprocessing.from_dict(data, where="these options")
    contract = Preprocessing.from_dict(data, where="these options")
    return replace(contract, mean_image=np.asarray(mean, np.float32))


def _without_mean(contract: Preprocessing) -> dict[str, Any]:
    return replace(contract, mean=(), mean_image=None).to_dict()


def from_toml(path: Path, *, read_mean: Callable[[Path], Floats] | None = None) -> Preprocessing:
    """Read a contract from a TOML file, or from the table `[preprocessing]` of one (a model card).

    `mean` may name a file beside the TOML file: an `.npy` array `[C, H, W]`, or whatever `read_mean` reads
    (`mean.binaryproto`).

    Raises:
        UsageError: the file can't be read, isn't TOML, or says something that a contract doesn't have.
    """
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: can't be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not TOML: {error}") from error
    data = data.get("preprocessing", data)
    if not isinstance(data, dict):
        raise UsageError(f"{path}: 'preprocessing' must be a table")
    if not isinstance(data.get("mean"), str):
        return Preprocessing.from_dict(data, where=str(path))
    image = _mean_file(path.parent / data.pop("mean"), read_mean)
    return replace(Preprocessing.from_dict(data, where=str(path)), mean_image=image)


def _mean_file(path: Path, read_mean: Callable[[Path], Floats] | None) -> Floats:
    if path.suffix != ".npy" and read_mean is not None:
        return read_mean(path)
    if path.suffix != ".npy":
        raise UsageError(f"{path}: a mean image is read from an .npy file")
    try:
        return np.asarray(np.load(path, allow_pickle=False), np.float32)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path}: not a readable .npy array: {error}") from error


def for_input(contract: Preprocessing, shape: Shape, layout: Layout) -> Preprocessing:
    """Check a contract against the input that it has to fill, and complete it.

    Where the contract neither resizes nor crops, images are resized to the input (squashed).

    Raises:
        UsageError: the input is no image, or the contract gives images of another size or number of channels.
    """
    if len(shape) != 4:
        raise UsageError(f"an input of shape {list(shape)} takes no images; give its arrays in an .npz file")
    channels = shape[layout.channel_axis(4)]
    height, width = (shape[axis] for axis in layout.spatial_axes(4))
    if contract.channels.count != channels:
        wanted = "gray" if channels == 1 else "rgb or bgr" if channels == 3 else None
        help_text = f"say that its channels are {wanted}" if wanted else "give its arrays in an .npz file"
        raise UsageError(
            f"the net takes {channels} channel(s), and the preprocessing gives {contract.channels.count} "
            f"({contract.channels.value}); {help_text}"
        )
    result = contract.crop or (contract.resize if contract.resize_mode is ResizeMode.SQUASH else None)
    if contract.crop is None and contract.resize is None:
        return replace(contract, resize=Size(height, width))
    if result != Size(height, width):
        gives = "any ratio" if result is None else f"{result.height} x {result.width}"
        raise UsageError(
            f"the net takes images of {height} x {width}, and the preprocessing gives {gives}; set its "
            f"crop, or its resize, to {height} x {width}"
        )
    return contract


# --- images -------------------------------------------------------------------------------------------------


def images_in(source: Path) -> list[Path]:
    """List the images of a folder (and the folders below), of a .txt list, or the one image that is named.

    A folder's images are those files whose suffix says so, hidden ones apart, sorted by their path. A list has one
    path a line, relative to the list's own folder; empty lines and lines that begin with `#` don't count, and a class
    number after the path (Caffe's `ImageData` lists) is left out.

    Raises:
        UsageError: there is nothing of that name, there are no images in it, or listed files are missing (all named).
    """
    if source.is_dir():
        found = sorted(
            (
                path
                for path in source.rglob("*")
                if path.suffix.lower() in IMAGE_SUFFIXES
                and not any(part.startswith(".") for part in path.relative_to(source).parts)
                and path.is_file()
            ),
            key=lambda path: path.relative_to(source).as_posix(),
        )
        if not found:
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise UsageError(f"{source}: there are no images in this folder (files ending in {kinds})")
        return found
    if not source.is_file():
        raise UsageError(f"{source}: there is no such file or folder")
    return _listed(source) if source.suffix.lower() == ".txt" else [source]


def _listed(source: Path) -> list[Path]:
    try:
        lines = source.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{source}: can't be read as a list of paths: {error}") from error
    found, missing = [], []
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        path = source.parent / name
        head, _, label = name.rpartition(" ")
        if not path.is_file() and head and label.strip().isdecimal():
            path = source.parent / head.strip()
        if path.is_file():
            found.append(path)
        else:
            missing.append(f"{source}:{number}: there is no file {path}")
    if missing:
        raise UsageError("\n".join(missing))
    if not found:
        raise UsageError(f"{source}: the list names no images")
    return found


def load_image(path: Path) -> Pixels:
    """Read an image as `[H, W, 3]` RGB, values 0 to 255.

    The pixels are turned upright as the EXIF orientation says; an alpha channel is dropped, not blended; a palette is
    looked up; gray is repeated; of 16 bits the upper 8 are kept; of several frames the first is taken. So OpenCV's
    `imread`, which Caffe's own tools use, reads them too.

    Raises:
        UsageError: the file is missing, is no image, is cut short, is larger than `MAX_PIXELS`, or holds pixels without
            a fixed range (floats, 32-bit integers).
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UsageError(f"{path}: {image.width} x {image.height} pixels are too many")
                if image.mode in {"I", "F"}:
                    raise UsageError(
                        f"{path}: its pixels are 32-bit numbers without a fixed range; save it with 8 or 16 bits"
                    )
                upright: Image.Image = ImageOps.exif_transpose(image)
                return np.asarray(_rgb(upright), np.uint8)
    except UnidentifiedImageError as error:
        raise UsageError(f"{path}: not an image that can be read") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        # Pillow's decoders raise each of these for damaged files.
        raise UsageError(f"{path}: not a readable image: {error}") from error


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB; Pillow itself would clip 16-bit gray to 255 instead of scaling it."""
    if not image.mode.startswith("I;16"):
        return image.convert("RGB")
    from PIL import Image

    high = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
    return Image.fromarray(high).convert("RGB")


def fit(image: Pixels, contract: Preprocessing) -> Pixels:
    """Resize and crop an image `[H, W, 3]`: the contract's part that works on pixels.

    Raises:
        UsageError: the crop doesn't fit into the image.
    """
    from PIL import Image

    if contract.resize is not None:
        size = contract.resize
        if contract.resize_mode is ResizeMode.SHORTEST_SIDE:
            size = _keeping_ratio(size.height, *image.shape[:2])
        if size != image.shape[:2]:
            # An adaptive size may leave the limit that the file kept to.
            if size.height * size.width > MAX_PIXELS:
                raise UsageError(f"resizing to {size.height} x {size.width} makes too many pixels")
            resample = Image.Resampling[contract.filter.name]
            image = np.asarray(Image.fromarray(image).resize((size.width, size.height), resample))
    return image if contract.crop is None else _centre(image, contract.crop)


def _keeping_ratio(shortest: int, height: int, width: int) -> Size:
    """Size an image so that its shorter side is `shortest`; the longer side is rounded down, as torchvision does."""
    if height <= width:
        return Size(shortest, shortest * width // height)
    return Size(shortest * height // width, shortest)


def _centre(image: npt.NDArray[Any], crop: Size) -> npt.NDArray[Any]:
    """Cut the middle out of `[H, W, ...]`; an odd rest goes to the end, as in Caffe's `data_transformer.cpp`."""
    height, width = image.shape[:2]
    if crop.height > height or crop.width > width:
        raise UsageError(
            f"a crop of {crop.height} x {crop.width} doesn't fit into an image of {height} x {width}; resize it first"
        )
    top, left = (height - crop.height) // 2, (width - crop.width) // 2
    return image[top : top + crop.height, left : left + crop.width]


def normalize(pixels: Pixels, contract: Preprocessing, layout: Layout) -> Floats:
    """Turn fitted pixels `[H, W, 3]` into a net's input `[1, C, H, W]` or `[1, H, W, C]`: channels, mean, scale.

    Gray is `0.299 R + 0.587 G + 0.114 B` (ITU-R BT.601), rounded to whole values, as Pillow and OpenCV do.

    Raises:
        UsageError: the mean image fits neither the pixels nor a larger image that they could be cut from.
    """
    values = _in_order(pixels, contract.channels)
    if contract.mean:
        values -= np.array(contract.mean, np.float32)
    if contract.mean_image is not None:
        values -= mean_for(contract.mean_image, Size(*pixels.shape[:2]))
    if contract.scale != (1.0,):
        values *= np.array(contract.scale, np.float32)
    batch = values[np.newaxis]
    if layout is Layout.CHANNELS_FIRST:
        batch = batch.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(batch)


def _in_order(pixels: Pixels, channels: ChannelOrder) -> Floats:
    """Return the channels that the net expects, as floats."""
    match channels:
        case ChannelOrder.RGB:
            return pixels.astype(np.float32)
        case ChannelOrder.BGR:
            return pixels[..., ::-1].astype(np.float32)
        case ChannelOrder.GRAY:
            # Fixed-point weights as in Pillow: they sum to 2 ** 16, so gray stays exactly what it is.
            luma = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
            return ((luma + 0x8000) >> 16).astype(np.float32)[..., np.newaxis]


def mean_for(mean_image: Floats, size: Size) -> Floats:
    """Cut a mean image `[C, H, W]` to the crop, at the place where the image was cut, and return `[H, W, C]`."""
    height, width = mean_image.shape[1:]
    if size.height > height or size.width > width:
        raise UsageError(f"a mean image of {height} x {width} doesn't cover an input of {size.height} x {size.width}")
    return _centre(mean_image.transpose(1, 2, 0), size)


def apply(image: Pixels, contract: Preprocessing, layout: Layout) -> Floats:
    """Prepare an image `[H, W, 3]` RGB for a net: a batch of one, `[1, C, H, W]` or `[1, H, W, C]`, float32.

    Raises:
        UsageError: crop or mean image don't fit the image.
    """
    return normalize(fit(image, contract), contract, layout)
