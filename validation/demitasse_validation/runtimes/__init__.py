"""Runs artifacts and sources, each in a runtime that the project did not write (the evaluator apart).

A runner knows nothing of provenance or layouts: it is asked for tensors by the names that its own file gives them, and
gives arrays in the order in which the file stores them. Comparing aligns them by the artifact's document.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from demitasse.errors import UsageError
from demitasse.ir.weights import Array

__all__ = ["ARTIFACT_RUNNERS", "Runner", "TensorSpec", "check_feeds", "open_runner"]


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
