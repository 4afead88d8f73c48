"""An engine that is slower than it need be: what the benchmark has to find."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from demitasse_validation.benchmark.engines import Settings
from demitasse_validation.benchmark.engines.onnx import OnnxEngine

__all__ = ["SlowedOnnxEngine"]


class SlowedOnnxEngine(OnnxEngine):
    """Sleeps after each call for a share of the time that the call took."""

    def __init__(self, path: Path, settings: Settings, *, share: float, **options: Any) -> None:
        super().__init__(path, settings, **options)
        self._share = share

    def run(self) -> None:
        start = time.perf_counter()
        super().run()
        time.sleep(self._share * (time.perf_counter() - start))
