"""What a benchmark found, as data: the one source of the table, the JSON, the plot, and later comparisons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from demitasse.errors import UsageError
from demitasse_validation.benchmark.placement import Placement
from demitasse_validation.benchmark.statistics import Interval, estimate_median, percentile, percentile_bound
from demitasse_validation.benchmark.verdicts import Judgement, Verdict

__all__ = ["SCHEMA", "Comparison", "Failure", "Latency", "Plan", "Report", "Result", "load"]

# Raised whenever a field changes its name or meaning; new fields leave it.
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """How a benchmark measures.

    Attributes:
        seconds: for how long, at least, each model is timed at each batch, host to host.
        samples: how many calls of each there must be at least, unless that takes `PATIENCE` times as long.
        rounds: into how many blocks that time is divided; each round times every model once. Slow models fill it in
            fewer, as a block is a call at least.
        threads: of each runtime on the CPU.
        margin: the share below which a difference counts for nothing.
        allow_fallback: whether a model may leave the device that was asked for, in part.
        tf32: see `engines.Settings`.
        seed: of the inputs and of the bootstrap.
    """

    seconds: float
    threads: int
    samples: int = 64
    rounds: int = 40
    margin: float = 0.05
    allow_fallback: bool = False
    tf32: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of single calls; a percentile is None where the samples are too few for it.

    Attributes:
        median: with the interval that the blocks, not the single samples, stand for.
        p90_bound: what p90 doesn't exceed at 99 % confidence: LoadGen's early-stopping estimate.
        blocks: the median of each block, in the order of the rounds.
    """

    count: int
    seconds: float
    median: Interval
    p90: float | None
    p90_bound: float | None
    p99: float | None
    blocks: tuple[float, ...]

    @property
    def mean(self) -> float:
        return self.seconds / self.count

    @classmethod
    def of(cls, blocks: Sequence[Sequence[float]], seed: int) -> Latency:
        """Sum up blocks of samples."""
        samples = np.concatenate([np.asarray(block, np.float64) for block in blocks])
        medians = [float(np.median(block)) for block in blocks]
        return cls(
            count=len(samples),
            seconds=float(samples.sum()),
            median=estimate_median(medians, seed),
            p90=percentile(samples, 0.9),
            p90_bound=percentile_bound(samples, 0.9),
            p99=percentile(samples, 0.99),
            blocks=tuple(medians),
        )


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of one model in one engine at one batch.

    Attributes:
        latency: host to host: what a caller waits for.
        compute: with inputs and outputs bound to the device.
        import_seconds: of the runtime's own start, in a fresh process.
        first_seconds: of the first inference, which is where runtimes choose and compile kernels.
        host_memory: the most bytes of the process, runtime and model together.
        device_memory: the most bytes on the card; None without one, and where nothing tells.
        bytes: the model's size on disk.
        faults: why the figures don't mean what they seem to; the run is INVALID if there are any.
    """

    artifact: str
    engine: str
    runtime: str
    device: str
    batch: int
    threads: int
    latency: Latency
    compute: Latency
    import_seconds: float
    load_seconds: float
    first_seconds: float
    host_memory: int
    device_memory: int | None
    bytes: int
    placement: Placement
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What makes two results of different days comparable."""
        return self.artifact, self.engine, self.batch, self.threads

    @property
    def name(self) -> str:
        """The model and its engine, as people are told of it."""
        return f"{self.artifact} in {self.engine}"

    @property
    def is_valid(self) -> bool:
        return not self.faults

    @property
    def throughput(self) -> float:
        """Samples a second, host to host, one batch after the other."""
        return self.batch / self.latency.mean

    def speed(self, judgement: Judgement | None = None) -> dict[str, Any]:
        """Return the figures that a row of a validation's report has room for, in seconds."""
        percentiles = {"90": self.latency.p90, "99": self.latency.p99}
        verdict = judgement.verdict.value if judgement else ""
        return {
            "artifact": self.artifact,
            "runtime": self.runtime,
            "device": self.device,
            "batch": self.batch,
            "median": self.latency.median.value,
            "bounds": [self.latency.median.low, self.latency.median.high],
            "percentiles": {percent: value for percent, value in percentiles.items() if value is not None},
            "throughput": self.throughput,
            "load": self.load_seconds,
            "first": self.first_seconds,
            "verdict": verdict if self.is_valid else Verdict.INVALID.value,
            "reason": "; ".join(self.faults) or (judgement.reason if judgement else ""),
        }

    def __str__(self) -> str:
        if not self.is_valid:
            return f"INVALID: {'; '.join(self.faults)}"
        median, low, high = (f"{1e3 * value:.3g}" for value in self.latency.median)
        batch = "" if self.batch == 1 else f", batch {self.batch}"
        where = f"{self.threads} threads, CPU" if self.device == "cpu" else self.device.upper()
        return f"{median} ms p50 ({low}-{high}), {self.throughput:.0f} images/s{batch}, {where}"


@dataclass(frozen=True, slots=True)
class Failure:
    """A model that loaded and then could not be timed at a batch, and why: its runtime's own words."""

    artifact: str
    engine: str
    batch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """The latency of one result over that of another, and what may be said of it.

    `contender` and `baseline` are names for people; `ratio` is None where there is nothing to divide.
    """

    contender: str
    baseline: str
    batch: int
    ratio: Interval | None
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a benchmark found.

    Attributes:
        machine: what tells this machine from another; only figures of the same machine are set against each other.
        noise: at each batch, how much the first model differs from itself, as a share; the A/A noise floor.
        yardstick: seconds of a fixed piece of arithmetic, a block a round: how fast the machine itself was.
        comparisons: of this run, with the first model.
        regressions: with a stored run.
    """

    tool: str
    machine: Mapping[str, Any]
    environment: Mapping[str, str]
    plan: Plan
    results: tuple[Result, ...]
    noise: Mapping[int, float]
    yardstick: tuple[float, ...]
    failures: tuple[Failure, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    regressions: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = ()
    schema: int = field(default=SCHEMA)

    @property
    def exit_status(self) -> int:
        """1 if a figure is invalid or missing, or something is slower than it was when it was stored."""
        slower = any(each.judgement.verdict is Verdict.SLOWER for each in self.regressions)
        return int(slower or bool(self.failures) or not all(result.is_valid for result in self.results))

    def speeds(self) -> list[dict[str, Any]]:
        """Return a row a result, as `report.write.write_report` shows them beside a validation's figures."""
        verdicts = {(each.contender, each.batch): each.judgement for each in self.comparisons}
        return [result.speed(verdicts.get((result.name, result.batch))) for result in self.results]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain dicts, lists, strings and numbers; `load` reads them again."""
        plain = asdict(self, dict_factory=_plain)
        plain["noise"] = {str(batch): noise for batch, noise in self.noise.items()}
        for written, result in zip(plain["results"], self.results, strict=True):
            written |= {"throughput": result.throughput, "verdict": "VALID" if result.is_valid else "INVALID"}
        return plain

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)


def _plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value.value if isinstance(value, Verdict) else value for key, value in pairs}


def load(path: Path) -> Report:
    """Read a report that was stored as JSON; what it compared then is left out.

    Raises:
        UsageError: the file can't be read, or is no such report.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["schema"] != SCHEMA:
            raise UsageError(f"{path}: has schema {data['schema']}, this version reads {SCHEMA}; store a new result")
        return Report(
            tool=data["tool"],
            machine=data["machine"],
            environment=data["environment"],
            plan=Plan(**data["plan"]),
            results=tuple(_result(entry) for entry in data["results"]),
            noise={int(batch): float(noise) for batch, noise in data["noise"].items()},
            yardstick=tuple(map(float, data["yardstick"])),
            notes=tuple(data["notes"]),
        )
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from error
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: is no stored benchmark: {error!r}") from error


def _result(entry: dict[str, Any]) -> Result:
    known = {name: entry[name] for name in Result.__dataclass_fields__}
    latencies = {name: _latency(entry[name]) for name in ("latency", "compute")}
    placement = Placement(**entry["placement"] | {"strays": tuple(entry["placement"]["strays"])})
    words = {name: tuple(entry[name]) for name in ("faults", "notes")}
    return Result(**known | latencies | words | {"placement": placement})


def _latency(entry: dict[str, Any]) -> Latency:
    median = Interval(*map(float, entry["median"]))
    return Latency(**entry | {"median": median, "blocks": tuple(map(float, entry["blocks"]))})
