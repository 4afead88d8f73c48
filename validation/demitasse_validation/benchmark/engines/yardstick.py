"""Times a piece of arithmetic that never changes, so that figures of two days can be set against the machine itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from demitasse_validation.benchmark.engines import Settings
from demitasse_validation.benchmark.placement import Placement, place

__all__ = ["Yardstick"]

SIDE = 384


class Yardstick:
    """Multiplies two float32 matrices with numpy and walks over a few megabytes; some milliseconds on one core."""

    def __init__(self, path: Path, settings: Settings) -> None:
        del path, settings
        self.runtime = f"numpy {np.__version__}"
        self.batch = None
        random = np.random.default_rng(0)
        self._left, self._right = random.standard_normal((2, SIDE, SIDE), np.float32)
        self._out = np.empty((SIDE, SIDE), np.float32)
        self._long = random.standard_normal(1 << 20, np.float32)

    @classmethod
    def absent(cls) -> str | None:
        return None

    def prepare(self, batch: int, seed: int) -> None:
        del batch, seed
        self.run()

    def run(self) -> None:
        np.matmul(self._left, self._right, out=self._out)
        np.add(self._long, 1, out=self._long)

    def compute(self) -> None:
        self.run()

    def placement(self) -> Placement:
        return place([], [], "numpy")

    def device_memory(self) -> int | None:
        return None
