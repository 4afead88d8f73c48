"""Make pictures with the statistics of photographs, for a machine that has none at hand.

Each picture is a landscape: a sky and a ground of fractal noise (amplitude falling as 1 / frequency, the spectrum of
natural images: Field 1987), shaded discs and boxes before it, and the light, contrast and colours of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["make_pictures"]

Floats = npt.NDArray[np.float64]

SIZE = (288, 384)


def make_pictures(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Write `count` pictures as PNG files, the same for the same seed, and return their paths."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(count):
        path = folder / f"picture_{index:03}.png"
        Image.fromarray(_picture(np.random.default_rng([seed, index]))).save(path, compress_level=1)
        paths.append(path)
    return paths


def _picture(random: np.random.Generator) -> npt.NDArray[np.uint8]:
    height, width = SIZE
    rows, columns = np.mgrid[0:height, 0:width] / max(SIZE)
    horizon = random.uniform(0.2, 0.6) + 0.08 * _fractal(random)
    sky, ground, accent = random.uniform(0, 1, (3, 3))
    below = (rows > horizon)[..., None]
    image = np.where(below, ground + 0.25 * _fractal(random)[..., None], sky + 0.10 * _fractal(random)[..., None])
    image = image + rows[..., None] * random.uniform(-0.4, 0.4, 3)
    for _ in range(random.integers(1, 7)):
        image = _with_object(image, rows, columns, accent, random)
    image = 0.5 + (image - image.mean()) * random.uniform(0.4, 1.3) + random.uniform(-0.2, 0.2)
    image += random.normal(0, random.uniform(0.0, 0.03), image.shape)
    return np.asarray(np.clip(image, 0, 1) * 255, np.uint8)


def _with_object(image: Floats, rows: Floats, columns: Floats, accent: Floats, random: np.random.Generator) -> Floats:
    """Lay a shaded, textured disc or box over a picture."""
    place = random.uniform(0.1, 0.9, 2) * (SIZE[0] / max(SIZE), 1.0)
    size = random.uniform(0.03, 0.22)
    down, right = (rows - place[0]) / size, (columns - place[1]) / (size * random.uniform(0.6, 1.7))
    distance = np.hypot(down, right) if random.random() < 0.6 else np.maximum(abs(down), abs(right))
    light = 1.0 - 0.5 * np.clip(down * 0.7 + right * 0.5, -1, 1)
    colour = np.clip(accent + random.normal(0, 0.3, 3), 0, 1)
    surface = colour * light[..., None] + 0.15 * _fractal(random)[..., None]
    cover = np.clip((1.0 - distance) * 30, 0, 1)[..., None]
    return np.asarray(image * (1 - cover) + surface * cover, np.float64)


def _fractal(random: np.random.Generator) -> Floats:
    """Make noise whose amplitude falls as 1 / frequency, of mean 0 and deviation 1."""
    height, width = SIZE
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(random.standard_normal(SIZE)) / frequency
    noise = np.fft.irfft2(spectrum, SIZE)
    return np.asarray((noise - noise.mean()) / noise.std())
