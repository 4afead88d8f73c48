"""Arranges a report's layers as a table: a row a result of the source, a column an artifact or source runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from demitasse.ir.graph import Status
from demitasse_validation.report import ArtifactReport, LayerResult, Report, RuntimeReport
from demitasse_validation.report.figures import figure, key_metric, share_used, titles

__all__ = ["Column", "Matrix", "Row", "cell_text"]


@dataclass(frozen=True, slots=True)
class Column:
    """An artifact, or a runtime of the source, and what it is called."""

    title: str
    part: ArtifactReport | RuntimeReport

    @property
    def is_artifact(self) -> bool:
        return isinstance(self.part, ArtifactReport)


@dataclass(frozen=True, slots=True)
class Row:
    """One result of a source layer, by its place in the source (from 1), and how each column has it, if at all."""

    place: int
    layer: LayerResult
    results: tuple[LayerResult | None, ...]

    @property
    def fails(self) -> bool:
        return any(result is not None and result.passed is False for result in self.results)

    @property
    def is_measured(self) -> bool:
        return any(result is not None and result.metrics for result in self.results)

    @property
    def share(self) -> float:
        """How much of its tolerance it uses up where that is most."""
        return max((share_used(result) for result in self.results if result is not None), default=0.0)


@dataclass(frozen=True, slots=True)
class Matrix:
    """All results of the source's layers, in its order."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def places(self) -> Mapping[str, int]:
        """The place of the row of each blob."""
        return {row.layer.blob: row.place for row in self.rows}

    @classmethod
    def of(cls, report: Report) -> Matrix:
        """Join the columns by layer and blob; artifacts come first, then the source's runtimes."""
        columns = [Column(title, part) for title, part in zip(titles(report), report.artifacts, strict=True)]
        columns += [Column(f"source: {runtime.name}", runtime) for runtime in report.runtimes]
        found = [{(layer.layer, layer.blob): layer for layer in column.part.layers} for column in columns]
        # Every part that knows the layers lists all of them in the source's order.
        keys: dict[tuple[str, str], LayerResult] = {}
        for results in sorted(found, key=len, reverse=True):
            for key, result in results.items():
                keys.setdefault(key, result)
        rows = [
            Row(place, first, tuple(results.get(key) for results in found))
            for place, (key, first) in enumerate(keys.items(), 1)
        ]
        return cls(tuple(columns), tuple(rows))

    def worst_rows(self, count: int) -> Sequence[Row]:
        """Return so many rows, the worst, in the source's order."""
        ranked = sorted(self.rows, key=lambda row: (row.fails, row.is_measured, row.share), reverse=True)
        return sorted(ranked[:count], key=lambda row: row.place)


def cell_text(result: LayerResult | None) -> str:
    """Say in a word how an artifact has a result: its figure, or what became of it."""
    if result is None:
        return ""
    if result.metrics:
        name = key_metric(result)
        return figure(name, result.metrics.get(name, math.nan))
    if result.passed is False:
        return result.status.value if result.status is Status.UNMAPPED else "not measured"
    if result.into is not None:
        return f"in {result.into}"
    return "–" if result.status is Status.COMPARED else result.status.value
