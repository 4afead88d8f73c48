"""The runtimes that are timed, each in a tight loop of its own: a table of them, and what all of them can do.

A class of engines opens a model with `(path, settings, **options)`; its `absent(**options)` says why it can't on this
machine, by what was looked for and not found, or None. An engine's `run` does what a caller waits for: numbers in from
the host's memory, results back in it. `compute` does only the work between: its inputs and outputs stay bound where the
device keeps them, and it returns when the device is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from demitasse.errors import UsageError
from demitasse_validation.benchmark.placement import Placement

__all__ = ["ENGINES", "YARDSTICK", "Engine", "EngineKind", "Settings", "engines_for"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How engines run.

    Attributes:
        threads: of one run on the CPU.
        tf32: whether a graphics card may round the factors of float32 products to 10 bits of fraction, which is
            faster; without it the figures are for the arithmetic that validation checks.
        weights: the second file of a source that has two.
    """

    threads: int
    tf32: bool = False
    weights: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


# What Demitasse depends on in any case.
CORE_RUNTIMES = frozenset({"onnxruntime", "ai_edge_litert.interpreter", "numpy"})


class Engine(Protocol):
    """Times one model in one runtime.

    `runtime` names the software, its version and the device. `batch` is the one that the model was made for; None if it
    takes any. `prepare` comes before `run`, `compute` and `placement`.
    """

    runtime: str
    batch: int | None

    def prepare(self, batch: int, seed: int) -> None:
        """Make inputs for a batch, and give them and the outputs their places.

        Raises:
            UsageError: the model takes no such batch.
        """
        ...

    def run(self) -> None:
        """Take the inputs from the host's memory, compute, and bring every output back there."""
        ...

    def compute(self) -> None:
        """Compute on inputs that are in place, and leave the outputs where they are; return when that is done."""
        ...

    def placement(self) -> Placement:
        """Prove where the nodes run."""
        ...

    def device_memory(self) -> int | None:
        """Return the most bytes that the runtime held on the device; None where it keeps no account."""
        ...


@dataclass(frozen=True, slots=True)
class EngineKind:
    """A row of the table: a runtime on a device.

    Attributes:
        name: what `--engine` calls it.
        device: `cpu` or `gpu`.
        suffixes: of the files that it runs.
        place: the module and class; imported when such a file is met.
        runtime: the module that brings the runtime.
        options: what the class takes besides.
        on_request: whether it runs only when it is named.
    """

    name: str
    device: str
    suffixes: tuple[str, ...]
    place: tuple[str, str]
    runtime: str
    options: Mapping[str, Any] = field(default_factory=dict)
    on_request: bool = False

    @property
    def is_always_there(self) -> bool:
        """Whether it needs nothing besides the packages that Demitasse itself needs."""
        return self.device == "cpu" and self.runtime in CORE_RUNTIMES


_PACKAGE = "demitasse_validation.benchmark.engines"


def _onnxruntime(name: str, device: str, provider: str) -> EngineKind:
    place = (f"{_PACKAGE}.onnx", "OnnxEngine")
    return EngineKind(name, device, (".onnx",), place, "onnxruntime", {"provider": provider})


def _litert(name: str, device: str, module: str, of: str) -> EngineKind:
    return EngineKind(name, device, (".tflite",), (f"{_PACKAGE}.{module}", of), "ai_edge_litert.interpreter")


def _tensorflow(name: str, device: str, *, xla: bool) -> EngineKind:
    place = (f"{_PACKAGE}.tensorflow", "TensorFlowEngine")
    options = {"device": device.upper(), "xla": xla}
    return EngineKind(name, device, (".savedmodel",), place, "tensorflow", options, on_request=xla)


ENGINES: Mapping[str, EngineKind] = {
    kind.name: kind
    for kind in (
        _onnxruntime("onnxruntime", "cpu", "CPUExecutionProvider"),
        _onnxruntime("onnxruntime-cuda", "gpu", "CUDAExecutionProvider"),
        _onnxruntime("onnxruntime-tensorrt", "gpu", "TensorrtExecutionProvider"),
        _litert("litert", "cpu", "litert", "LiteRtEngine"),
        _litert("litert-gpu", "gpu", "litert_gpu", "LiteRtGpuEngine"),
        _tensorflow("tensorflow", "cpu", xla=False),
        _tensorflow("tensorflow-gpu", "gpu", xla=False),
        _tensorflow("tensorflow-xla", "cpu", xla=True),
        _tensorflow("tensorflow-xla-gpu", "gpu", xla=True),
        EngineKind("opencv", "cpu", (".prototxt",), (f"{_PACKAGE}.opencv", "OpenCvEngine"), "cv2"),
    )
}

# Runs no file: it times the machine.
YARDSTICK = EngineKind("yardstick", "cpu", (), (f"{_PACKAGE}.yardstick", "Yardstick"), "numpy")


def engines_for(path: Path, device: str, names: tuple[str, ...] = ()) -> tuple[EngineKind, ...]:
    """Return the engines that run such a file on a device: those named, or else all that need no naming.

    Raises:
        UsageError: no engine runs files of that suffix, or a name is none.
    """
    unknown = [name for name in names if name not in ENGINES]
    if unknown:
        raise UsageError(f"there is no engine {', '.join(map(repr, unknown))}; there are {', '.join(ENGINES)}")
    fitting = [kind for kind in ENGINES.values() if path.suffix in kind.suffixes]
    if not fitting:
        known = ", ".join(sorted({suffix for kind in ENGINES.values() for suffix in kind.suffixes}))
        raise UsageError(f"{path}: nothing here runs files ending in {path.suffix!r}; known are {known}")
    return tuple(
        kind for kind in fitting if kind.device == device and (kind.name in names if names else not kind.on_request)
    )
