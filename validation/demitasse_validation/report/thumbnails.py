"""Makes small pictures of the samples that a validation ran on, to stand inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from demitasse.errors import UsageError
from demitasse.ir.preprocessing import Preprocessing
from demitasse.preprocess import fit, load_image
from demitasse_validation.report import Report

__all__ = ["sample_images", "thumbnail"]

# Pixels of the longer side: sharp at half the size on a dense screen.
SIDE = 144
QUALITY = 72


def sample_images(report: Report, images: Iterable[Path]) -> Mapping[int, Path]:
    """Say which image file each sample was made from, by the sample's place.

    Images in the samples' own order are taken by place, since files in different folders may share a name; others are
    found by their names. A sample without an image is left out.
    """
    given: Sequence[Path] = tuple(map(Path, images))
    samples: Sequence[str] = report.inputs["samples"]
    if [path.name for path in given] == list(samples):
        return dict(enumerate(given))
    by_name = {path.name: path for path in given}
    return {place: by_name[sample] for place, sample in enumerate(samples) if sample in by_name}


def thumbnail(path: Path, contract: Preprocessing | None) -> str | None:
    """Return an image as the net sees it (resized and cropped) as a JPEG in a data URI, or None where it can't be read.

    The part of the contract that works on values (mean, scale, order of channels) is left out.
    """
    from PIL import Image

    try:
        pixels = load_image(path)
        if contract is not None:
            pixels = fit(pixels, replace(contract, mean=(), mean_image=None))
    except UsageError:
        return None
    picture = Image.fromarray(pixels)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
