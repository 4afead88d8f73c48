"""One benchmark from end to end: processes are started, timed in turns, and their figures summed up and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from demitasse import __version__
from demitasse.errors import DemitasseError, UsageError
from demitasse_validation.benchmark import devices, machine
from demitasse_validation.benchmark.engines import YARDSTICK, Settings
from demitasse_validation.benchmark.interleave import COMPUTE, RUN, Track, interleave, paired_ratio
from demitasse_validation.benchmark.lane import EngineLane, Loaded, Process
from demitasse_validation.benchmark.placement import Placement
from demitasse_validation.benchmark.results import Comparison, Failure, Plan, Report, Result
from demitasse_validation.benchmark.selection import Contender, Workers, select
from demitasse_validation.benchmark.verdicts import Judgement, Verdict, invalid, judge, noise_of
from demitasse_validation.environment import environment

__all__ = ["benchmark", "measure"]

Progress = Callable[[str, int, int], None]


def benchmark(path: Path, *, seconds: float, batch: int = 1, device: str = "cpu", threads: int | None = None) -> Result:
    """Time one artifact, in the first engine that runs such files on the device; `str` of the result is a line.

    Args:
        path: an artifact: .onnx, .tflite or .savedmodel.
        seconds: for how long at least.
        batch: how many samples a call takes.
        device: `cpu`, `gpu`, or `auto`: a graphics card where there is one that the runtime can use.
        threads: of the runtime on the CPU; by default as many as there are processors.

    Raises:
        UsageError: there is no such file, the device isn't there, or the artifact can't be run at the batch.
        MalformedModel: the runtime refuses the artifact.
    """
    turn = _Turn(Plan(seconds, threads or machine.usable_cores()), batch)
    turn.time(select([Path(path)], device=device)[:1], with_noise=False)
    if not turn.results:
        raise UsageError("; ".join([*(failure.reason for failure in turn.failures), *turn.notes]))
    return turn.results[0]


def measure(
    chosen: Sequence[Contender],
    plan: Plan,
    *,
    batches: Sequence[int] = (1,),
    workers: Workers = Process,
    progress: Progress | None = None,
) -> Report:
    """Time models against each other at each batch; the first is the baseline, and is timed twice to show the noise.

    Args:
        chosen: what `select` found.
        plan: how to measure.
        batches: the sizes of the sweep; a model of a fixed batch is left out at others, and a note says so.
        workers: where models are timed: each in a process of its own.
        progress: called with what is being done, how much of it is done, and of how much.

    Raises:
        UsageError: no model takes any of the batches, or an engine doesn't start.
        MalformedModel: a runtime refuses a model.
    """
    activity, turns = machine.Activity(), []
    for batch in batches:
        turns.append(_Turn(plan, batch, workers, progress))
        turns[-1].time(chosen, with_noise=True)
    notes = [*machine.warnings(plan.threads), *(note for turn in turns for note in turn.notes)]
    if not any(turn.results or turn.failures for turn in turns):
        raise UsageError("\n  ".join(["there is nothing to time:", *notes]))
    if disturbed := activity.warning():
        notes.append(disturbed)
    return Report(
        tool=f"demitasse {__version__}",
        machine=machine.fingerprint(),
        environment=environment(),
        plan=plan,
        results=tuple(result for turn in turns for result in turn.results),
        noise={turn.batch: turn.noise for turn in turns if turn.noise is not None},
        yardstick=tuple(block for turn in turns for block in turn.yardstick),
        failures=tuple(failure for turn in turns for failure in turn.failures),
        comparisons=tuple(comparison for turn in turns for comparison in turn.comparisons),
        notes=tuple(notes),
    )


@dataclass
class _Started:
    """A model in a process that is ready to be timed."""

    contender: Contender
    lane: EngineLane
    track: Track
    loaded: Loaded
    first_seconds: float
    device_memory: int | None
    placement: Placement


class _Turn:
    """All models at one batch."""

    def __init__(self, plan: Plan, batch: int, workers: Workers = Process, progress: Progress | None = None) -> None:
        self.plan = plan
        self.batch = batch
        self.workers = workers
        self.progress = progress
        self.results: list[Result] = []
        self.failures: list[Failure] = []
        self.comparisons: list[Comparison] = []
        self.noise: float | None = None
        self.yardstick: tuple[float, ...] = ()
        self.notes: list[str] = []

    def time(self, chosen: Sequence[Contender], *, with_noise: bool) -> None:
        """Time all that take the batch; with the first one's twin and the yardstick beside them, if asked for."""
        with ExitStack() as stack:
            started = [each for contender in chosen if (each := self._start(stack, contender)) is not None]
            if not started:
                return
            tracks = [each.track for each in started]
            twin = self._start(stack, started[0].contender) if with_noise else None
            yardstick = Track(self._yardstick(stack), "the yardstick", (RUN,)) if with_noise else None
            if twin is not None:
                twin.track.calls = (RUN,)
                tracks.append(twin.track)
            interleave([*tracks, *([yardstick] if yardstick else [])], self.plan, self.progress)
            if twin is not None and twin.track.is_alive and tracks[0].is_alive:
                self.noise = noise_of(paired_ratio(twin.track, tracks[0], self.plan.seed))
            if yardstick is not None and yardstick.is_alive:
                self.yardstick = yardstick.latency(RUN, self.plan.seed).blocks
            self._sum_up(started)

    def _start(self, stack: ExitStack, contender: Contender) -> _Started | None:
        """Load a model and make it ready; None if it takes another batch, or can't run at this one."""
        if self.progress is not None:
            self.progress(f"load {contender.name}", 0, 0)
        on_card = contender.kind.device == "gpu"
        before = devices.memory_in_use() if on_card else None
        weights = None if contender.weights is None else str(contender.weights)
        settings = Settings(self.plan.threads, self.plan.tf32, weights)
        worker = stack.enter_context(closing(self.workers(settings)))
        lane = EngineLane(contender.kind, contender.path, settings, worker)
        loaded = lane.load()
        if loaded.batch not in (None, self.batch):
            name, fixed = contender.artifact, loaded.batch
            self.notes.append(f"{name} takes a batch of {fixed} only, and is left out at {self.batch}")
            return None
        try:
            first_seconds = lane.prepare(self.batch, self.plan.seed)
            placement = lane.placement()
        except DemitasseError as error:
            self._fail(contender, str(error))
            return None
        after = devices.memory_in_use() if on_card else None
        held = after - before if after is not None and before is not None else None
        return _Started(contender, lane, Track(lane, contender.name), loaded, first_seconds, held, placement)

    def _yardstick(self, stack: ExitStack) -> EngineLane:
        settings = Settings(self.plan.threads)
        lane = EngineLane(YARDSTICK, Path(), settings, stack.enter_context(closing(self.workers(settings))))
        lane.load()
        lane.prepare(1, self.plan.seed)
        return lane

    def _fail(self, contender: Contender, reason: str) -> None:
        self.failures.append(Failure(contender.artifact, contender.kind.name, self.batch, reason))

    def _sum_up(self, started: Sequence[_Started]) -> None:
        """Make results of those that came through, and compare them with the first."""
        results: list[Result | None] = []
        for each in started:
            if each.track.is_alive:
                results.append(self._result(each))
            else:
                self._fail(each.contender, each.track.failure)
                results.append(None)
        self.results = [result for result in results if result is not None]
        baseline = results[0]
        if baseline is not None:
            for each, result in zip(started[1:], results[1:], strict=True):
                if result is not None:
                    self.comparisons.append(self._comparison(each, result, started[0], baseline))

    def _result(self, started: _Started) -> Result:
        plan, kind = self.plan, started.contender.kind
        memory = started.lane.memory()
        placement, path = started.placement, started.contender.path
        where, strays = kind.device.upper(), placement.describe_strays()
        left = f"part of it did not run on the {where}: {strays}" if strays else ""
        faults = [f"{left}; --allow-fallback accepts that"] if left and not plan.allow_fallback else []
        if kind.device == "gpu" and not placement.counts:
            faults.append(f"the runtime tells nothing of where it ran ({placement.evidence})")
        notes = [left] if left and plan.allow_fallback else []
        if not started.track.settled:
            notes.append(f"still got faster after {plan.seconds:g} s of warming up; measure longer (--seconds)")
        return Result(
            artifact=started.contender.artifact,
            engine=kind.name,
            runtime=started.loaded.runtime,
            device=kind.device,
            batch=self.batch,
            threads=plan.threads,
            latency=started.track.latency(RUN, plan.seed),
            compute=started.track.latency(COMPUTE, plan.seed),
            import_seconds=started.loaded.import_seconds,
            load_seconds=started.loaded.load_seconds,
            first_seconds=started.first_seconds,
            host_memory=memory.host,
            device_memory=started.device_memory if memory.device is None else memory.device,
            bytes=_size(path, started.contender.weights),
            placement=placement,
            faults=tuple(faults),
            notes=tuple(notes),
        )

    def _comparison(self, one: _Started, result: Result, other: _Started, baseline: Result) -> Comparison:
        names = one.contender.name, other.contender.name
        for each, name in ((result, names[0]), (baseline, names[1])):
            if not each.is_valid:
                judgement = invalid(f"{name}: {'; '.join(each.faults)}", "make all of it run on the device")
                return Comparison(*names, self.batch, None, judgement)
        ratio = paired_ratio(one.track, other.track, self.plan.seed)
        if self.noise is None:
            unknown = Judgement(Verdict.INCONCLUSIVE, "the noise could not be measured: the twin failed", "run again")
            return Comparison(*names, self.batch, ratio, unknown)
        return Comparison(*names, self.batch, ratio, judge(ratio, self.noise, self.plan.margin))


def _size(path: Path, weights: Path | None) -> int:
    """Return how many bytes a model takes on disk: a file, all files of a folder, or a source's two."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size + (weights.stat().st_size if weights is not None else 0)
