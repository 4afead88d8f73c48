"""The process that one engine runs in: alone with its model, so that its memory, threads and start are its own.

It is asked, a JSON object a line, on stdin, and answers likewise on what was its stdout; whatever a runtime prints goes
to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from demitasse.errors import DemitasseError
from demitasse_validation.benchmark import clock
from demitasse_validation.benchmark.engines import Engine, Settings

__all__ = ["Desk", "main"]


class Desk:
    """Answers what a worker can be asked, in order: load, prepare, and then the rest as often as wanted."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked; an error that Demitasse raises is an answer too."""
        questions: dict[str, Callable[..., dict[str, Any]]] = {
            "absent": self.absent,
            "load": self.load,
            "prepare": self.prepare,
            "warm": self.warm,
            "block": self.block,
            "placement": self.placement,
            "memory": self.memory,
        }
        arguments = {key: value for key, value in request.items() if key != "ask"}
        try:
            return questions[request["ask"]](**arguments)
        except DemitasseError as error:
            return {"error": type(error).__name__, "message": str(error)}

    @staticmethod
    def absent(place: list[str], options: Mapping[str, Any]) -> dict[str, Any]:
        """Say why an engine can't run here; null if it can."""
        return {"reason": _class(place).absent(**options)}

    def load(
        self, place: list[str], options: Mapping[str, Any], runtime: str, path: str, settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Import the runtime, load the model, and say how long each took."""
        made = _class(place)
        start = time.perf_counter()
        with suppress(ImportError):  # the engine says better what is missing
            importlib.import_module(runtime)
        imported = time.perf_counter()
        engine: Engine = made(Path(path), Settings(**settings), **options)
        self._engine = engine
        return {
            "runtime": engine.runtime,
            "batch": engine.batch,
            "import_seconds": imported - start,
            "load_seconds": time.perf_counter() - imported,
        }

    def prepare(self, batch: int, seed: int) -> dict[str, Any]:
        """Make inputs, and run for the first time."""
        engine = self._open()
        return {"first_seconds": clock.timed(lambda: engine.prepare(batch, seed))}

    def warm(self, what: str, limit: float) -> dict[str, Any]:
        """Warm up one of the two calls."""
        return clock.warm_up(self._call(what), limit)._asdict()

    def block(self, what: str, seconds: float) -> dict[str, Any]:
        """Time one of the two calls for a while."""
        return {"samples": clock.block(self._call(what), seconds)}

    def placement(self) -> dict[str, Any]:
        """Say where the nodes run."""
        return asdict(self._open().placement())

    def memory(self) -> dict[str, Any]:
        """Say what the process held at most."""
        return {"host": peak_memory(), "device": self._open().device_memory()}

    def _call(self, what: str) -> Callable[[], None]:
        engine = self._open()
        return {"run": engine.run, "compute": engine.compute}[what]

    def _open(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("asked before anything is loaded")
        return self._engine


def peak_memory() -> int:
    """Return the most bytes of memory that this process ever held, mapped files included.

    Linux's `ru_maxrss` also knows the process that started this one; `VmHWM` begins with the program itself.
    https://man7.org/linux/man-pages/man5/proc_pid_status.5.html
    """
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _class(place: list[str]) -> Any:
    module, name = place
    return getattr(importlib.import_module(module), name)


def main() -> None:
    """Answer until nobody asks any more."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    desk = Desk()
    for line in sys.stdin:
        json.dump(desk.answer(json.loads(line)), answers)
        answers.write("\n")
        answers.flush()


if __name__ == "__main__":
    main()
