"""A model that is timed, as the one who times sees it: asked for blocks of samples, in turn with others.

`EngineLane` is the real one, at a worker in a process of its own; tests bring lanes whose samples are drawn from a
distribution.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from demitasse.errors import MalformedModel, UsageError
from demitasse_validation.benchmark.clock import Warmth
from demitasse_validation.benchmark.engines import EngineKind, Settings
from demitasse_validation.benchmark.placement import Placement

__all__ = ["EngineLane", "Lane", "Loaded", "Memory", "Process", "RuntimeDied", "Worker", "answered", "why_absent"]

# How long a worker may think about something that has no length of its own, such as building TensorRT's engine.
PATIENCE = 600.0

# How much of what a dying runtime wrote is shown.
LAST_LINES = 5


class RuntimeDied(UsageError):
    """Says that the process of a runtime ended or fell silent while it was at work."""


class Loaded(NamedTuple):
    """What is known once a model is loaded; `batch` is the one that it was made for, None if it takes any."""

    runtime: str
    batch: int | None
    import_seconds: float
    load_seconds: float


class Memory(NamedTuple):
    """The most bytes that were held, on the host and on the device; None where nothing tells."""

    host: int
    device: int | None


class Lane(Protocol):
    """Gives samples; `what` is `run` (host to host) or `compute` (what is bound stays on the device)."""

    def warm(self, what: str, limit: float) -> Warmth:
        """Warm up for at most `limit` seconds."""
        ...

    def block(self, what: str, seconds: float) -> list[float]:
        """Return the seconds of single calls that fill at least the given time."""
        ...


class Worker(Protocol):
    """Answers questions about one model; see `worker.Desk` for the questions."""

    def ask(self, question: str, /, **details: Any) -> dict[str, Any]:
        """Return the answer.

        Raises:
            MalformedModel, UsageError: as the model's engine raises them.
            RuntimeDied: there will be no answers any more.
        """
        ...

    def close(self) -> None:
        """Let the worker go; it has nothing to save."""
        ...


class Process:
    """A worker in a process of its own."""

    def __init__(self, settings: Settings) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._process = subprocess.Popen(
            # -P: the folder that the user stands in is no place to import from.
            [sys.executable, "-P", "-m", "demitasse_validation.benchmark.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | _variables(settings),
        )
        self._received = b""

    def ask(self, question: str, /, **details: Any) -> dict[str, Any]:
        request = json.dumps({"ask": question, **details}) + "\n"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died(question) from None
        return answered(json.loads(self._read_line(question)))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _read_line(self, question: str) -> bytes:
        assert self._process.stdout is not None
        descriptor, end = self._process.stdout.fileno(), time.monotonic() + PATIENCE
        while b"\n" not in self._received:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
            more = os.read(descriptor, 1 << 20) if ready else b""
            if not more:
                raise self._died(question)
            self._received += more
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _died(self, question: str) -> RuntimeDied:
        try:
            how = f"ended with status {self._process.wait(timeout=1)}"
        except subprocess.TimeoutExpired:
            how = f"did not answer within {PATIENCE:.0f} s"
        self._log.seek(0)
        said = self._log.read().decode("utf-8", "replace").splitlines()[-LAST_LINES:]
        return RuntimeDied("\n  ".join([f"the runtime's process {how} when asked to {question}", *said]))


def answered(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer, or raise the error that it is."""
    if "error" in answer:
        raise (MalformedModel if answer["error"] == "MalformedModel" else UsageError)(answer["message"])
    return answer


class EngineLane:
    """An engine and a model, at a worker's."""

    def __init__(self, kind: EngineKind, path: Path, settings: Settings, worker: Worker) -> None:
        self.kind = kind
        self.path = path
        self._settings = settings
        self._worker = worker

    def absent(self) -> str | None:
        """Say why the engine can't run here; None if it can."""
        reason: str | None = self._worker.ask("absent", place=self.kind.place, options=dict(self.kind.options))[
            "reason"
        ]
        return reason

    def load(self) -> Loaded:
        try:
            answer = self._worker.ask(
                "load",
                place=self.kind.place,
                options=dict(self.kind.options),
                runtime=self.kind.runtime,
                path=str(self.path),
                settings=self._settings.to_dict(),
            )
        except RuntimeDied as error:
            raise RuntimeDied(f"{self.path}: in {self.kind.name}, {error}") from error
        return Loaded(**answer)

    def prepare(self, batch: int, seed: int) -> float:
        """Make inputs, run for the first time, and return the seconds that this took."""
        return float(self._worker.ask("prepare", batch=batch, seed=seed)["first_seconds"])

    def warm(self, what: str, limit: float) -> Warmth:
        return Warmth(**self._worker.ask("warm", what=what, limit=limit))

    def block(self, what: str, seconds: float) -> list[float]:
        samples: list[float] = self._worker.ask("block", what=what, seconds=seconds)["samples"]
        return samples

    def placement(self) -> Placement:
        answer = self._worker.ask("placement")
        return Placement(answer["counts"], tuple(answer["strays"]), answer["evidence"])

    def memory(self) -> Memory:
        return Memory(**self._worker.ask("memory"))


def why_absent(kind: EngineKind, workers: Callable[[Settings], Worker] = Process) -> str | None:
    """Say why an engine can't run on this machine, as a process of its own finds out; None if it can."""
    settings = Settings(threads=1)
    with closing(workers(settings)) as worker:
        return EngineLane(kind, Path(), settings, worker).absent()


def _variables(settings: Settings) -> Mapping[str, str]:
    """Return what must be set before a runtime is loaded: threads of numpy's BLAS, silence, and the card's precision.

    https://docs.nvidia.com/deeplearning/tensorrt/latest/reference/environment-variables.html
    """
    threads = str(settings.threads)
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1"}
    precision = {} if settings.tf32 else {"NVIDIA_TF32_OVERRIDE": "0"}
    blas = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    # OpenBLAS's threads sleep as soon as they have nothing to do, not after 2^26 ticks of another's turn.
    return blas | {"OPENBLAS_THREAD_TIMEOUT": "4"} | quiet | precision
