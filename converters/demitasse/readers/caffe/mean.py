"""Read mean images: `mean.binaryproto`, a BlobProto of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demitasse.errors import MalformedModel
from demitasse.readers.caffe.message import Source
from demitasse.readers.caffe.weights import blob_of, map_file
from demitasse.readers.caffe.wire import decode

__all__ = ["find_mean", "read_mean"]


def read_mean(path: Path) -> NDArray[np.float32]:
    """Read a mean image as float32 `[C, H, W]`, channels in the net's order (BGR).

    Raises:
        MalformedModel: the file is missing, damaged, or no mean image.
    """
    message = decode(map_file(path), "BlobProto", Source(str(path), "byte"))
    array = blob_of(message, str(path)).array
    image = array[0] if array.ndim == 4 and array.shape[0] == 1 else array
    if image.ndim != 3 or image.size == 0:
        raise MalformedModel(f"holds an array of shape {array.shape}, not a mean image [C, H, W]", where=str(path))
    return np.asarray(image, np.float32)


def find_mean(folder: Path, name: str) -> NDArray[np.float32] | None:
    """Read the mean image that a net in `folder` names, if a file of that name lies beside it.

    Paths in a net are those of the machine that it was trained on, so only the name counts.
    """
    path = folder / Path(name).name
    return read_mean(path) if Path(name).name and path.is_file() else None
