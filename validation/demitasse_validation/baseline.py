"""Holds the figures of an accepted run, so that a later one is measured by them: worse fails, better is offered.

The file is JSON, is made by `--update-baseline`, and is reviewed and committed like code. Figures are kept by the
hashes of the source's files, the artifact's target, and the inputs: those of another source, or other images, say
nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from demitasse.errors import UsageError
from demitasse_validation.metrics import METRICS
from demitasse_validation.report import ArtifactReport, Finding, LayerResult, Report, Severity

__all__ = ["Baseline"]

SCHEMA = 1

# The figures that are kept: what is judged by shares of the peak, and by decibels where there is noise.
KEPT = ("relative_to_peak", "sqnr_db")

# Other processors and library versions sum in another order: an error below the floor, or within a factor of 4 of what
# was accepted, is no change. 8-bit arithmetic is nearly exact: 1 dB is one.
FLOOR, FACTOR, DECIBELS = 1e-5, 4.0, 1.0


@dataclass(frozen=True, slots=True)
class Baseline:
    """The accepted figures: run -> blob -> metric -> value. `where` is the file, for messages."""

    runs: Mapping[str, Mapping[str, Mapping[str, float]]]
    where: str = "the baseline"

    @classmethod
    def load(cls, path: Path) -> Baseline:
        """Read a baseline; a file that isn't there is an empty one.

        Raises:
            UsageError: the file can't be read, or is no baseline of this version.
        """
        if not path.exists():
            return cls({}, str(path))
        try:
            data = json.loads(path.read_text("utf-8"))
            if data["schema"] != SCHEMA:
                raise UsageError(f"{path}: has schema {data['schema']}, this version reads {SCHEMA}")
            runs = {
                str(run): {str(blob): {str(k): float(v) for k, v in values.items()} for blob, values in blobs.items()}
                for run, blobs in data["runs"].items()
            }
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: can't be read: {error}") from error
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise UsageError(f"{path}: is no baseline: {error!r}; --update-baseline writes one") from error
        return cls(runs, str(path))

    def save(self, path: Path) -> None:
        """Write the file, complete or not at all.

        Raises:
            UsageError: it can't be written.
        """
        runs = {
            run: {blob: {k: _plain(v) for k, v in f.items()} for blob, f in b.items()} for run, b in self.runs.items()
        }
        text = json.dumps({"schema": SCHEMA, "runs": runs}, indent=1, sort_keys=True) + "\n"
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_text(text, "utf-8")
            partial.replace(path)
        except OSError as error:
            raise UsageError(f"{path}: can't be written: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)

    def updated(self, report: Report) -> Baseline:
        """Take over the figures of a report; those of other sources and inputs stay."""
        runs = {_key(report, artifact): _figures(artifact) for artifact in report.artifacts}
        return replace(self, runs={**self.runs, **runs})

    def applied(self, report: Report) -> Report:
        """Add to each artifact's findings how it compares with what was accepted."""
        artifacts = tuple(
            replace(artifact, findings=(*artifact.findings, *self._findings(report, artifact)))
            for artifact in report.artifacts
        )
        return replace(report, artifacts=artifacts)

    def _findings(self, report: Report, artifact: ArtifactReport) -> Iterator[Finding]:
        accepted = self.runs.get(_key(report, artifact))
        if accepted is None:
            message = f"{self.where} holds no figures for this source, target and inputs; --update-baseline adds them"
            yield Finding(Severity.WARNING, "no-baseline", message)
            return
        figures = _figures(artifact)
        layers = {result.blob: result.layer for result in (*artifact.layers, *artifact.outputs)}
        for blob in accepted:
            if blob not in figures:
                message = f"blob {blob!r} was measured when {self.where} was made, and isn't any more"
                yield Finding(Severity.FAILURE, "baseline-worse", message, blob)
        better = []
        for blob, values in figures.items():
            for name, value in values.items():
                was = accepted.get(blob, {}).get(name)
                change = 0 if was is None else _change(name, was, value)
                if was is not None and change < 0:
                    metric = METRICS[name]
                    message = f"blob {blob!r}: {metric.title} {value:.3g}, {was:.3g} was accepted in {self.where}"
                    yield Finding(Severity.FAILURE, "baseline-worse", message, layers.get(blob.removeprefix("output ")))
                elif change > 0:
                    better.append(blob)
        if better:
            message = (
                f"{len(set(better))} blobs are better than accepted, {better[0]!r} first; --update-baseline keeps that"
            )
            yield Finding(Severity.NOTE, "baseline-better", message)


def _key(report: Report, artifact: ArtifactReport) -> str:
    """Name a run by what its figures depend on."""
    hashes = sorted(str(file["sha256"]) for file in report.source)
    inputs = json.dumps(report.to_dict()["inputs"], sort_keys=True)
    return f"{artifact.target} {hashlib.sha256(' '.join([*hashes, inputs]).encode()).hexdigest()[:32]}"


def _figures(artifact: ArtifactReport) -> dict[str, dict[str, float]]:
    def of(result: LayerResult) -> dict[str, float]:
        return {name: value for name, value in (result.metrics or {}).items() if name in KEPT}

    layers = {result.blob: of(result) for result in artifact.layers if result.metrics}
    return layers | {f"output {result.blob}": of(result) for result in artifact.outputs if result.metrics}


def _change(name: str, was: float, value: float) -> int:
    """Return -1 for worse, 1 for better, 0 for no change that counts."""
    if math.isnan(value) or math.isnan(was):
        return 0 if math.isnan(was) else -1
    if name == "sqnr_db":
        # Where the noise is that of float32 the other figure speaks.
        if min(was, value) > 80 or was == value:
            return 0
        return -1 if value < was - DECIBELS else 1 if value > was + DECIBELS else 0
    if max(was, value) <= FLOOR:
        return 0
    return -1 if value > FACTOR * max(was, FLOOR / FACTOR) else 1 if was > FACTOR * max(value, FLOOR / FACTOR) else 0


def _plain(value: float) -> Any:
    return value if math.isfinite(value) else str(value)
