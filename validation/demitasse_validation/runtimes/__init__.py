"""Runs artifacts and sources, each in a runtime that the project did not write (the evaluator apart).

A runner knows nothing of provenance or layouts: it is asked for tensors by the names that its own file gives them, and
gives arrays in the order in which the file stores them. Comparing aligns them by the artifact's document.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from demitasse.errors import UsageError
from demitasse.ir.weights import Array

__all__ = ["ARTIFACT_RUNNERS", "Quantization", "Runner", "TensorSpec", "check_feeds", "open_runner"]


class TensorSpec(NamedTuple):
    """The shape and element type of an input or output; a dimension that may vary is None.

    A quantized one takes and gives float32; `integer` names the type that the file stores it in.
    """

    shape: tuple[int | None, ...]
    dtype: str
    integer: str | None = None

    def __str__(self) -> str:
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.dtype}[{dims}]"


@dataclass(frozen=True, slots=True)
class Quantization:
    """Relates integers to real numbers: `real = scale * (integer - zero_point)`.

    Where there are several scales, each belongs to one index along `axis`.
    """

    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int64]
    axis: int
    dtype: np.dtype[Any]

    def dequantize(self, integers: Array) -> Array:
        """Return the real numbers, as float32."""
        scale, zero_point = self._along(integers.ndim)
        reals: Array = integers.astype(np.float32)
        reals -= zero_point.astype(np.float32)
        reals *= scale.astype(np.float32)
        return reals

    def quantize(self, reals: Array) -> Array:
        """Return the nearest integers, limited to the type's range."""
        scale, zero_point = self._along(reals.ndim)
        limits = np.iinfo(self.dtype)
        integers: Array = np.rint(reals.astype(np.float64) / scale) + zero_point
        return np.clip(integers, limits.min, limits.max).astype(self.dtype)

    def _along(self, rank: int) -> tuple[Array, Array]:
        shape = [1] * rank
        if self.scale.size > 1:
            shape[self.axis] = self.scale.size
        # A file may give one zero point for all channels.
        zero_point = np.broadcast_to(self.zero_point, self.scale.shape)
        return self.scale.astype(np.float64).reshape(shape), zero_point.reshape(shape)


class Runner(Protocol):
    """Runs one model.

    `runtime` names the software, its version and the device, for a report. `inputs` and `outputs` are in the file's own
    order. Feeds are keyed by input name and hold real numbers for quantized inputs too; results likewise.
    """

    @property
    def runtime(self) -> str: ...

    @property
    def inputs(self) -> Mapping[str, TensorSpec]: ...

    @property
    def outputs(self) -> Mapping[str, TensorSpec]: ...

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the untouched file as it would be deployed, and return every output.

        Raises:
            UsageError: a feed is missing, or has another shape or type than the input.
        """
        ...

    def run_layers(self, feeds: Mapping[str, Array], tensors: Iterable[str]) -> dict[str, Array]:
        """Run with intermediate tensors kept, and return those asked for; what `missing` names is left out."""
        ...

    def missing(self, tensors: Iterable[str]) -> dict[str, str]:
        """Map each tensor that `run_layers` can't provide to the reason."""
        ...


def check_feeds(where: str, inputs: Mapping[str, TensorSpec], feeds: Mapping[str, Array]) -> None:
    """Compare feeds with a model's inputs: names, shapes (None takes any size), element types.

    Raises:
        UsageError: they differ; every difference is listed.
    """
    faults = [f"there is no input {name!r}" for name in feeds if name not in inputs]
    for name, spec in inputs.items():
        if name not in feeds:
            faults.append(f"input {name!r} ({spec}) is not fed")
            continue
        got = TensorSpec(feeds[name].shape, feeds[name].dtype.name)
        fits = len(got.shape) == len(spec.shape) and all(
            want in (None, dim) for dim, want in zip(got.shape, spec.shape, strict=True)
        )
        if not fits or got.dtype != spec.dtype:
            faults.append(f"input {name!r} takes {spec}, not {got}")
    if faults:
        raise UsageError(f"{where}: {'; '.join(faults)}")


# An artifact's suffix, and the class that runs it: imported when such a file is met.
ARTIFACT_RUNNERS: Mapping[str, tuple[str, str]] = {
    ".onnx": ("demitasse_validation.runtimes.onnx", "OnnxRunner"),
    ".tflite": ("demitasse_validation.runtimes.tflite", "TfliteRunner"),
    ".savedmodel": ("demitasse_validation.runtimes.tensorflow", "SavedModelRunner"),
}


def open_runner(path: Path, *, threads: int | None = None) -> Runner:
    """Load an artifact into the runtime that its suffix asks for.

    `threads` limits what the runtime uses for one run; None leaves its default.

    Raises:
        UsageError: there is no such file, or no runner for its suffix.
        MissingDependency: the runtime isn't installed.
        MalformedModel: the runtime refuses the file.
    """
    if path.suffix not in ARTIFACT_RUNNERS:
        known = ", ".join(sorted(ARTIFACT_RUNNERS))
        raise UsageError(f"{path}: no runtime for files ending in {path.suffix!r}; known are {known}")
    if not path.exists():
        raise UsageError(f"{path}: there is no such file")
    module, name = ARTIFACT_RUNNERS[path.suffix]
    runner: Runner = getattr(importlib.import_module(module), name)(path, threads=threads)
    return runner
