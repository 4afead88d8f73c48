"""What a validation found, as data: the one source of every form in which a report is shown.

Nothing here computes or prints. `Report.to_dict` is the versioned form that scripts read; figures that JSON has no
numbers for are the strings "nan", "inf" and "-inf".
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from demitasse.ir.graph import Status

__all__ = [
    "SCHEMA",
    "ArtifactReport",
    "Class",
    "Finding",
    "LayerResult",
    "RankResult",
    "Ranked",
    "Report",
    "Role",
    "RuntimeReport",
    "Severity",
]

# Raised whenever a field changes its name or meaning; new fields leave it.
SCHEMA = 1


class Severity(enum.Enum):
    """Says what a finding means for the verdict."""

    FAILURE = "failure"
    WARNING = "warning"
    NOTE = "note"


class Role(enum.Enum):
    """Says what part a layer that is off has in its error: it makes it, makes it larger, or is only fed with it."""

    SOURCE = "source"
    AMPLIFIER = "amplifier"
    VICTIM = "victim"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a reader of the report has to know; `kind` is stable, for scripts, `message` is for people."""

    severity: Severity
    kind: str
    message: str
    layer: str | None = None


@dataclass(frozen=True, slots=True)
class LayerResult:
    """Says how one blob of the source compares.

    `status` says how it is found in the artifact: only what has figures was measured. `passed` is None where nothing
    was measured and nothing is wrong with that. `together_with` names the layers whose results were folded into this
    one, so that a fault here may be theirs; `into` the blob that this one was folded into or shares its elements with.
    `metrics` measure what all layers up to this one have accumulated; `local`, where it was measured, this layer alone,
    fed with the reference's inputs.
    """

    layer: str
    type: str
    blob: str
    where: str
    status: Status
    passed: bool | None
    tensor: str | None = None
    into: str | None = None
    together_with: tuple[str, ...] = ()
    metrics: Mapping[str, float] | None = None
    limits: Mapping[str, float] | None = None
    reason: str = ""
    worst_sample: str | None = None
    note: str = ""
    local: Mapping[str, float] | None = None
    role: Role | None = None


@dataclass(frozen=True, slots=True)
class Class:
    """A class that a net ranks: its place in the output, its label, and its score."""

    place: int
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Ranked:
    """The best classes of one sample, as the source and as the artifact rank them; None where scores hold a NaN.

    `margin` is the source's lead of its best class over the second. `noise` is the margin below which another winner
    is no fault: what rounding moves such leads by on the other samples.
    """

    sample: str
    expected: tuple[Class, ...] | None
    given: tuple[Class, ...] | None
    margin: float
    noise: float

    @property
    def agrees(self) -> bool:
        return bool(self.expected and self.given and self.expected[0].place == self.given[0].place)

    @property
    def is_fault(self) -> bool:
        return not self.agrees and not self.margin <= self.noise

    @property
    def overlap(self) -> float:
        """The share of the source's best classes that are among the artifact's."""
        if not self.expected or not self.given:
            return 0.0
        return len({c.place for c in self.expected} & {c.place for c in self.given}) / len(self.expected)


@dataclass(frozen=True, slots=True)
class RankResult:
    """How the best classes of an output agree over all samples; `low` and `high` bound the share at 95 %."""

    output: str
    top: int
    samples: int
    agreeing: int
    overlap: float
    low: float
    high: float
    ranked: tuple[Ranked, ...]


@dataclass(frozen=True, slots=True)
class RuntimeReport:
    """What an independent runtime of the source says of the evaluator's results, layer by layer."""

    name: str
    runtime: str
    layers: tuple[LayerResult, ...]
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        return _holds(self.findings)


@dataclass(frozen=True, slots=True)
class ArtifactReport:
    """What was found about one artifact.

    `coverage` counts the source's blobs by status. `divergence` names the failing blobs that no other failing one leads
    to, in topological order: the first is where to look.
    """

    name: str
    path: str
    target: str
    bytes: int
    runtime: str
    coverage: Mapping[str, int]
    layers: tuple[LayerResult, ...]
    outputs: tuple[LayerResult, ...]
    ranks: tuple[RankResult, ...]
    divergence: tuple[str, ...]
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        return _holds(self.findings)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a validation found."""

    tool: str
    source_format: str
    source: tuple[Mapping[str, Any], ...]
    inputs: Mapping[str, Any]
    environment: Mapping[str, str]
    evaluator: str
    runtimes: tuple[RuntimeReport, ...]
    artifacts: tuple[ArtifactReport, ...]
    findings: tuple[Finding, ...]
    seconds: float
    schema: int = SCHEMA

    @property
    def passed(self) -> bool:
        """Whether every gate holds: of every artifact, and of the source's runtimes among themselves."""
        return _holds(self.findings) and all(
            [each.passed for each in self.runtimes] + [each.passed for each in self.artifacts]
        )

    @property
    def exit_status(self) -> int:
        return 0 if self.passed else 1

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain dicts, lists, strings and finite numbers."""
        plain: dict[str, Any] = _plain(self)
        return plain

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)


def _holds(findings: tuple[Finding, ...]) -> bool:
    return all(finding.severity is not Severity.FAILURE for finding in findings)


def _plain(value: Any) -> Any:
    """Turn records into what JSON can hold; a record's verdict, where it has one, comes first."""
    if is_dataclass(value) and not isinstance(value, type):
        entries = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        verdict = {"passed": value.passed} if isinstance(value, Report | ArtifactReport | RuntimeReport) else {}
        return verdict | entries
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
