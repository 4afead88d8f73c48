"""Which engines run which models on the device that is asked for; what can't run says what was looked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from demitasse.errors import UsageError
from demitasse_validation.benchmark import devices
from demitasse_validation.benchmark.engines import EngineKind, Settings, engines_for
from demitasse_validation.benchmark.lane import Process, Worker, why_absent

__all__ = ["DEVICES", "Contender", "Workers", "labels", "select"]

DEVICES = ("auto", "cpu", "gpu")

Workers = Callable[[Settings], Worker]


@dataclass(frozen=True, slots=True)
class Contender:
    """A model and the engine that it is timed in.

    Attributes:
        weights: the second file of a source that has two.
        label: what the model is called in a report; the file's name unless several share it.
    """

    path: Path
    kind: EngineKind
    weights: Path | None = None
    label: str = ""

    @property
    def artifact(self) -> str:
        return self.label or self.path.name

    @property
    def name(self) -> str:
        return f"{self.artifact} in {self.kind.name}"


def select(
    artifacts: Sequence[Path],
    *,
    source: Path | None = None,
    weights: Path | None = None,
    device: str = "auto",
    engines: Sequence[str] = (),
    workers: Workers = Process,
) -> list[Contender]:
    """Pair every artifact with the engines that run it on a device.

    Args:
        artifacts: the models; of each, every engine that fits.
        source: a Caffe net, which OpenCV is timed on as a yardstick; it runs on the CPU, whatever the device.
        weights: the source's weights.
        device: `cpu`, `gpu`, or `auto`: a graphics card for each model that an engine can use one for.
        engines: names of `engines.ENGINES`; by default all that run without being asked for.
        workers: where engines find out whether they can run.

    Raises:
        UsageError: a file is missing or of no known kind, no engine of those named runs it, or the device isn't there;
            all that is wrong is listed.
    """
    given = [path for path in (*artifacts, source, weights) if path is not None]
    if missing := [path for path in given if not path.exists()]:
        raise UsageError("\n  ".join(["there is no such file:", *map(str, missing)]))
    search = _Search(tuple(engines), workers)
    chosen = [
        replace(contender, label=label)
        for path, label in zip(artifacts, labels(artifacts), strict=True)
        for contender in search.find(path, device)
    ]
    if source is not None:
        chosen += [Contender(source, each.kind, weights) for each in search.find(source, "cpu")]
    if search.faults:
        where = "on a graphics card" if device == "gpu" else "here"
        raise UsageError("\n  ".join([f"can't run {where}:", *search.faults]))
    return chosen


def labels(paths: Sequence[Path]) -> list[str]:
    """Call each file by its name, with as many of its folders as tell it from others, and count one given twice."""
    found: list[str] = []
    for path in paths:
        others = {other.absolute() for other in paths} - {path.absolute()}
        parts = path.absolute().parts
        length = 1
        while any(other.parts[-length:] == parts[-length:] for other in others):
            length += 1
        found.append("/".join(parts[-length:]))
    counted = [found[: place + 1].count(label) for place, label in enumerate(found)]
    return [label if count == 1 else f"{label} ({count})" for label, count in zip(found, counted, strict=True)]


class _Search:
    """Looks for engines; each is asked once whether it can run on this machine."""

    def __init__(self, names: tuple[str, ...], workers: Workers) -> None:
        self.names = names
        self.workers = workers
        self.faults: list[str] = []
        self._absent: dict[str, str | None] = {}

    def find(self, path: Path, device: str) -> list[Contender]:
        reasons: list[str] = []
        if device == "auto":
            # Without any driver there is no need to ask each engine.
            places = ("cpu",) if devices.nvidia_absent() and devices.vulkan_absent() else ("gpu", "cpu")
        else:
            places = (device,)
        for where in places:
            kinds = engines_for(path, where, self.names)
            usable = [kind for kind in kinds if self._reason(kind) is None]
            if usable:
                return [Contender(path, kind) for kind in usable]
            reasons += [f"{kind.name}: {self._reason(kind)}" for kind in kinds]
        self.faults += [f"{path}: {reason}" for reason in reasons or ["no engine of those named runs it there"]]
        return []

    def _reason(self, kind: EngineKind) -> str | None:
        if kind.name not in self._absent:
            self._absent[kind.name] = None if kind.is_always_there else why_absent(kind, self.workers)
        return self._absent[kind.name]
