"""Measures how fast artifacts run, host to host: arrays in, arrays out, through each runtime's Python interface.

Artifacts take turns in short blocks, so that whatever slows the machine down for a while slows all of them. A
percentile is only given where there are enough runs for it; a median comes with the bounds that its samples support.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from demitasse.errors import UsageError
from demitasse.ir.weights import Array
from demitasse.targets import target_of
from demitasse_validation.environment import cpu_name
from demitasse_validation.runtimes import Runner, TensorSpec, open_runner

__all__ = ["DEVICES", "Bounds", "Measurement", "benchmark", "cores", "median_bounds"]

DEVICES = ("auto", "cpu", "gpu")

# The least number of runs from which a percentile may be told: MLPerf Inference's early stopping criterion for 99 %
# confidence. https://github.com/mlcommons/inference_policies/blob/master/inference_rules.adoc#early-stopping-criterion
ENOUGH_RUNS: Mapping[int, int] = {90: 64, 99: 662}

# A block of one artifact's runs, before the next one's turn; long enough that changing over doesn't count.
BLOCK_SECONDS = 0.1
LEAST_RUNS = 10
MOST_WARM_UP_SECONDS = 5.0


class Bounds(NamedTuple):
    """Two values between which a quantity lies, in seconds."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """How long one artifact takes with one batch, in seconds.

    `median` lies within `bounds` with 95 % confidence. `percentiles` holds those that the number of runs supports.
    `load` is opening the file, `first` the first run after that; `warm_up` counts the runs that were thrown away.
    """

    artifact: str
    target: str
    runtime: str
    device: str
    threads: int
    batch: int
    runs: int
    warm_up: int
    load: float
    first: float
    median: float
    bounds: Bounds
    fastest: float
    percentiles: Mapping[int, float]
    bytes: int

    @property
    def throughput(self) -> float:
        """Samples a second, one batch after the other."""
        return self.batch / self.median

    def to_dict(self) -> dict[str, Any]:
        """Return the measurement as JSON can hold it."""
        plain = asdict(self)
        plain["percentiles"] = {str(percent): value for percent, value in self.percentiles.items()}
        return plain | {"throughput": self.throughput, "bounds": list(self.bounds)}


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def benchmark(
    artifacts: Sequence[Path | str],
    *,
    device: str = "auto",
    batches: Sequence[int] = (1,),
    seconds: float = 2.0,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Measurement, ...]:
    """Measure the latency of artifacts.

    Args:
        artifacts: files or folders that `demitasse convert` wrote, or others of their formats.
        device: `cpu`, `gpu`, or `auto` for the best that there is; the measurement names it.
        batches: how many samples at a time; an artifact with a fixed batch is measured at that one alone.
        seconds: how long to measure each artifact and batch, warm-up apart.
        threads: how many threads a runtime may use; all cores by default.
        progress: called as the work goes on.

    Raises:
        UsageError: the device isn't there (the message says what was looked for), a file is missing, or an artifact
            has a fixed batch that none of `batches` is.
        MissingDependency, MalformedModel: see `demitasse_validation.runtimes.open_runner`.
    """
    check_device(device)
    if seconds <= 0 or not batches or min(batches) < 1:
        raise UsageError("a benchmark needs some seconds, and batches of 1 or more")
    contenders = [
        contender
        for path in map(Path, artifacts)
        for contender in _contenders(path, batches, threads or cores(), progress)
    ]
    while any(contender.wants_more(seconds) for contender in contenders):
        for contender in contenders:
            if contender.wants_more(seconds):
                contender.run_block()
        if progress is not None:
            done = sum(min(contender.measured, seconds) for contender in contenders)
            progress("benchmark", int(done * 10), int(len(contenders) * seconds * 10))
    return tuple(contender.result() for contender in contenders)


def check_device(device: str) -> None:
    """Make sure that the runtimes can use a device.

    Raises:
        UsageError: it is unknown, or a GPU is asked for that can't be used; the message says what was looked for.
    """
    if device not in DEVICES:
        raise UsageError(f"there is no device {device!r}; choose one of {', '.join(DEVICES)}")
    if device != "gpu":
        return
    import onnxruntime

    cards = sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))
    providers = onnxruntime.get_available_providers()
    raise UsageError(
        "no GPU can be measured here: looked for graphics cards in /dev/nvidia* and found "
        f"{', '.join(cards) or 'none'}; looked for an ONNX Runtime with CUDAExecutionProvider and found "
        f"{', '.join(providers)}; runtimes are measured on the CPU alone"
    )


@dataclass
class _Contender:
    """An artifact at one batch, ready to run, and the times of its runs so far."""

    path: Path
    runner: Runner
    feeds: Mapping[str, Array]
    batch: int
    threads: int
    load: float
    first: float = 0.0
    warm_up: int = 0
    times: list[float] = field(default_factory=list)
    measured: float = 0.0

    def once(self) -> float:
        start = time.perf_counter()
        self.runner.run(self.feeds)
        return time.perf_counter() - start

    def warm(self) -> None:
        """Run until the times stop falling: a block no faster than the one before it, or the most warm-up allowed."""
        self.first = self.once()
        self.warm_up = 1
        before, spent = math.inf, self.first
        while spent < MOST_WARM_UP_SECONDS:
            block = [self.once()]
            while sum(block) < BLOCK_SECONDS and len(block) < 100:
                block.append(self.once())
            self.warm_up += len(block)
            spent += sum(block)
            median = float(np.median(block))
            if median > 0.98 * before:
                return
            before = median

    def wants_more(self, seconds: float) -> bool:
        return self.measured < seconds or len(self.times) < LEAST_RUNS

    def run_block(self) -> None:
        spent = 0.0
        while spent < BLOCK_SECONDS:
            self.times.append(self.once())
            spent += self.times[-1]
        self.measured += spent

    def result(self) -> Measurement:
        times = np.sort(np.array(self.times))
        target = target_of(self.path)
        size = sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())
        return Measurement(
            artifact=self.path.name,
            target=target.name if target else self.path.suffix.removeprefix("."),
            runtime=self.runner.runtime,
            device=cpu_name(),
            threads=self.threads,
            batch=self.batch,
            runs=len(times),
            warm_up=self.warm_up,
            load=self.load,
            first=self.first,
            median=float(np.median(times)),
            bounds=median_bounds(times),
            fastest=float(times[0]),
            percentiles={
                percent: float(np.percentile(times, percent, method="higher"))
                for percent, least in ENOUGH_RUNS.items()
                if len(times) >= least
            },
            bytes=size or self.path.stat().st_size,
        )


def median_bounds(times: Sequence[float] | np.ndarray[Any, Any]) -> Bounds:
    """Return bounds of the median at 95 % confidence, whatever the distribution, from times in ascending order.

    The number of runs below the true median is binomial with p = 1/2; the bounds are the order statistics that leave
    2.5 % on each side, by the normal approximation (David and Nagaraja, Order Statistics, section 7.1).
    """
    count = len(times)
    reach = 1.96 * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2 - reach) - 1)
    high = min(count - 1, math.ceil(count / 2 + reach))
    return Bounds(float(times[low]), float(times[high]))


def _contenders(
    path: Path, batches: Sequence[int], threads: int, progress: Callable[[str, int, int], None] | None
) -> list[_Contender]:
    """Open an artifact once for each batch that it takes, and warm it up."""
    if progress is not None:
        progress(f"warm up {path.name}", 0, 0)
    # TensorFlow uses all cores unless told otherwise, and can be told only before its first use.
    limit = None if path.suffix == ".savedmodel" and threads == cores() else threads
    start = time.perf_counter()
    runner = open_runner(path, threads=limit)
    load = time.perf_counter() - start
    fixed = {spec.shape[0] for spec in runner.inputs.values() if spec.shape and spec.shape[0] is not None}
    usable = [batch for batch in batches if not fixed or batch in fixed]
    if not usable:
        wanted = ", ".join(map(str, batches))
        raise UsageError(f"{path}: takes {max(fixed)} samples at a time, not {wanted}; convert it with --batch dynamic")
    contenders = []
    for place, batch in enumerate(usable):
        # Each batch gets a runtime of its own: a change of shape in between would make one plan its memory anew.
        own = runner if place == 0 else open_runner(path, threads=limit)
        contender = _Contender(path, own, _noise(path, own.inputs, batch), batch, threads, load)
        contender.warm()
        contenders.append(contender)
    return contenders


def _noise(path: Path, inputs: Mapping[str, TensorSpec], batch: int) -> dict[str, Array]:
    random = np.random.default_rng(0)
    feeds = {}
    for name, spec in inputs.items():
        shape = tuple(batch if place == 0 and dim is None else dim for place, dim in enumerate(spec.shape))
        if None in shape:
            raise UsageError(f"{path}: input {name!r} has the shape {spec}; only its batch may be open")
        dims = [dim for dim in shape if dim is not None]
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            feeds[name] = random.standard_normal(dims).astype(dtype)
        else:
            feeds[name] = random.integers(0, 2 if dtype.kind == "b" else 16, dims).astype(dtype)
    return feeds
