"""Writes a report as one HTML page that needs nothing else: style, charts and thumbnails are inside.

The page asks no network for anything (its own policy forbids it), works without scripts, and stays under a megabyte:
a larger net first loses explanations, then samples, then the rows of its best layers, and the page says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from demitasse.ir.graph import Status
from demitasse.ir.preprocessing import Preprocessing
from demitasse_validation.report import ArtifactReport, Class, Finding, LayerResult, Ranked, RankResult, Report
from demitasse_validation.report import figures as spelled
from demitasse_validation.report.charts import ERROR, SHARE, Histogram, grade, histograms, margins, speeds, staircase
from demitasse_validation.report.matrix import Matrix, Row, cell_text
from demitasse_validation.report.thumbnails import sample_images, thumbnail

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["LIMIT", "to_html"]

LIMIT = 1_000_000

# How many findings of one artifact, and how many of its worst layers, a page shows.
MOST_FINDINGS, WORST = 40, 8

# The most characters of a name or a message: what a person writes is shorter, what a damaged file holds may not be.
NAME, MESSAGE = 160, 1500


class _Scope(NamedTuple):
    """How much a page shows: rows of the matrix, whether its cells explain themselves, and samples."""

    rows: int
    explains: bool
    samples: int


# From everything to what fits in any case.
SCOPES = (
    _Scope(3000, True, 32),
    _Scope(3000, False, 32),
    _Scope(1500, False, 16),
    _Scope(600, False, 12),
    _Scope(200, False, 8),
    _Scope(50, False, 4),
    _Scope(0, False, 0),
)


def to_html(
    report: Report,
    *,
    images: Iterable[Path] = (),
    benchmark: Sequence[Mapping[str, Any]] = (),
    limit: int = LIMIT,
) -> str:
    """Return the report as an HTML page of at most `limit` bytes.

    Args:
        report: what a validation found.
        images: the files that the samples were made from; those that are shown become thumbnails.
        benchmark: measurements of the artifacts, a row each: `artifact`, `runtime`, `device`, `batch`, the `median` and
            its `bounds` in seconds, `throughput`, and what there is of `percentiles`, `load`, `first`, `verdict` and
            `reason`; see `demitasse_validation.benchmark.Report.speeds`.
        limit: bytes; only a page of very many artifacts can be larger.
    """
    template = _environment().get_template("report.html.j2")
    matrix = Matrix.of(report)
    facts = _facts(report, matrix, benchmark)
    pictures = _Pictures(report, images)
    page = ""
    for scope in SCOPES:
        samples = _samples(report, scope.samples, pictures)
        page = template.render(facts, scope=scope, rows=_rows(matrix, scope), strips=samples)
        if len(page.encode("utf-8", "replace")) <= limit:
            break
    return page


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("demitasse_validation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"name": _short, "message": lambda text: _short(text, MESSAGE), "ms": _milliseconds}
    environment.globals |= {name: getattr(spelled, name) for name in spelled.__all__}
    environment.globals |= {"key_figure": _key_figure}
    return environment


def _short(text: str, most: int = NAME) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1e3 * seconds:.2f}" if seconds < 1e-3 else f"{1e3 * seconds:.1f}"


def _facts(report: Report, matrix: Matrix, benchmark: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Gather what every scope shows."""
    artifacts = list(zip(spelled.titles(report), report.artifacts, strict=True))
    rankings = [
        (f"{ranks.output} in {title}" if len(artifact.ranks) > 1 else title, ranks.ranked)
        for title, artifact in artifacts
        for ranks in artifact.ranks
    ]
    return {
        "report": report,
        "artifacts": artifacts,
        "coverage": [_coverage(artifact) for artifact in report.artifacts],
        "findings": _finding_groups(report),
        "matrix": matrix,
        "charts": [(measure.title, chart) for measure in (ERROR, SHARE) if (chart := staircase(matrix, measure))],
        "cards": _worst_cards(report),
        "margins": margins(rankings),
        "benchmark": benchmark,
        "speeds": speeds(benchmark),
    }


# --- summary and findings --------------------------------------------------------------------------------------


class _Share(NamedTuple):
    """A part of the source's blobs, in percent of all."""

    status: str
    blobs: int
    percent: float


def _coverage(artifact: ArtifactReport) -> list[_Share]:
    total = sum(artifact.coverage.values()) or 1
    order = [status.value for status in Status]
    counts = sorted(artifact.coverage.items(), key=lambda item: order.index(item[0]) if item[0] in order else 99)
    return [_Share(status, count, 100 * count / total) for status, count in counts if count]


class _FindingGroup(NamedTuple):
    """The findings of one part, worst first, and how many more there are."""

    title: str
    findings: Sequence[Finding]
    more: int


def _finding_groups(report: Report) -> list[_FindingGroup]:
    groups = [("the whole validation", report.findings)]
    groups += [(title, each.findings) for title, each in zip(spelled.titles(report), report.artifacts, strict=True)]
    groups += [(f"source: {each.name}", each.findings) for each in report.runtimes]
    return [
        _FindingGroup(title, spelled.by_severity(findings)[:MOST_FINDINGS], max(0, len(findings) - MOST_FINDINGS))
        for title, findings in groups
        if findings
    ]


def _key_figure(layer: LayerResult) -> str:
    name = spelled.key_metric(layer)
    return spelled.figure(name, (layer.metrics or {}).get(name, math.nan))


# --- worst layers ----------------------------------------------------------------------------------------------


class _WorstLayer(NamedTuple):
    """A layer, and how long the bar of its tolerance is, in percent; over 100 is drawn as full."""

    layer: LayerResult
    percent: float


class _Card(NamedTuple):
    """The worst layers of an artifact, and how the errors of all of them are spread."""

    title: str
    passed: bool
    layers: Sequence[_WorstLayer]
    histogram: Histogram | None


def _worst_cards(report: Report) -> list[_Card]:
    spreads = histograms(report.artifacts)
    cards = []
    for title, artifact, spread in zip(spelled.titles(report), report.artifacts, spreads, strict=True):
        layers = [
            _WorstLayer(layer, round(min(100.0, 100 * spelled.share_used(layer)), 1))
            for layer in spelled.worst(artifact.layers, WORST)
        ]
        cards.append(_Card(title, artifact.passed, layers, spread))
    return cards


# --- the matrix ------------------------------------------------------------------------------------------------


class _Cell(NamedTuple):
    """A cell of the matrix: its grade, its text, and what it says when pointed at."""

    grade: str
    text: str
    tip: str


class _TableRow(NamedTuple):
    """A row of the matrix as it is shown; `order` sorts worse rows first."""

    row: Row
    line: str
    kind: str
    order: float
    cells: Sequence[_Cell]


def _rows(matrix: Matrix, scope: _Scope) -> list[_TableRow]:
    places = matrix.places
    rows = matrix.rows if len(matrix.rows) <= scope.rows else matrix.worst_rows(scope.rows)
    return [
        _TableRow(
            row,
            spelled.line_of(row.layer),
            "x" if row.fails else "m" if row.is_measured else "f",
            round(min(row.share, 1e9), 6) if row.is_measured or row.fails else -1,
            [_cell(result, places, explains=scope.explains) for result in row.results],
        )
        for row in rows
    ]


def _cell(result: LayerResult | None, places: Mapping[str, int], *, explains: bool) -> _Cell:
    """Fill a cell; what went into another blob points at that blob's row."""
    if result is None:
        return _Cell("absent", "", "")
    text = _short(cell_text(result), 40)
    if result.into is not None and result.into in places and not result.metrics:
        text = f"in {places[result.into]}"
    return _Cell(grade(result), text, _tip(result) if explains else "")


def _tip(result: LayerResult) -> str:
    """Explain a cell: figures, limits, where it is worst, what else is in the tensor."""
    if not result.metrics:
        what = f"{result.status.value} into {result.into}" if result.into else ""
        return _short(result.note or what)
    lines = [spelled.describe(result.metrics)]
    if result.local:
        lines.append(f"alone: {spelled.describe(result.local)}")
    if result.role is not None:
        lines.append(f"role: {result.role.value}")
    if result.together_with:
        lines.append(_short(spelled.named_together(result)))
    if result.worst_sample:
        lines.append(f"worst on {_short(result.worst_sample)}")
    if result.note:
        lines.append(_short(result.note))
    return "\n".join(lines)


# --- best classes ----------------------------------------------------------------------------------------------


class _ShownClass(NamedTuple):
    """A class in a list, how far its bar reaches in percent, and whether the source has it at the same place."""

    place: int
    label: str
    score: str
    percent: float | None
    change: str


class _Ranking(NamedTuple):
    """The best classes of a sample in one artifact: `agrees`, `flip` within noise, or `fault`."""

    title: str
    kind: str
    classes: Sequence[_ShownClass]


class _Strip(NamedTuple):
    """A sample and one output's best classes, in the source and in every artifact."""

    sample: str
    output: str
    picture: str | None
    margin: float
    noise: float
    source: Sequence[_ShownClass]
    rankings: Sequence[_Ranking]


@dataclass
class _Pictures:
    """Thumbnails of the samples, made when they are first shown."""

    report: Report
    images: Iterable[Path]

    def __post_init__(self) -> None:
        self._paths = sample_images(self.report, self.images)
        self._made: dict[int, str | None] = {}
        contract = self.report.inputs.get("preprocessing")
        self._contract = Preprocessing.from_dict(contract, where="the report") if contract else None

    def of(self, place: int) -> str | None:
        if place not in self._made and place in self._paths:
            self._made[place] = thumbnail(self._paths[place], self._contract)
        return self._made.get(place)


def _samples(report: Report, most: int, pictures: _Pictures) -> list[_Strip]:
    """Show those samples on which an artifact differs, then those on which the source itself nearly does."""
    outputs: dict[str, list[tuple[str, RankResult]]] = {}
    for title, artifact in zip(spelled.titles(report), report.artifacts, strict=True):
        for ranks in artifact.ranks:
            outputs.setdefault(ranks.output, []).append((title, ranks))
    strips = []
    for output, columns in outputs.items():
        places = range(max(len(ranks.ranked) for _, ranks in columns))
        rankings = {
            place: [(title, ranks.ranked[place]) for title, ranks in columns if place < len(ranks.ranked)]
            for place in places
        }
        chosen = sorted(places, key=lambda place: _interest([ranked for _, ranked in rankings[place]]))[:most]
        strips += [_strip(output, rankings[place], pictures.of(place)) for place in chosen]
    return strips


def _interest(rankings: Sequence[Ranked]) -> tuple[bool, bool, float]:
    margin = min(ranked.margin if math.isfinite(ranked.margin) else -1.0 for ranked in rankings)
    return not any(each.is_fault for each in rankings), all(each.agrees for each in rankings), margin


def _strip(output: str, rankings: Sequence[tuple[str, Ranked]], picture: str | None) -> _Strip:
    first = rankings[0][1]
    return _Strip(
        first.sample,
        output,
        picture,
        first.margin,
        max(ranked.noise for _, ranked in rankings),
        _classes(first.expected, first.expected),
        [
            _Ranking(
                title,
                "fault" if ranked.is_fault else "agrees" if ranked.agrees else "flip",
                _classes(ranked.given, ranked.expected),
            )
            for title, ranked in rankings
        ],
    )


def _classes(given: Sequence[Class] | None, expected: Sequence[Class] | None) -> list[_ShownClass]:
    """List classes beside the source's: `same`, `moved` to another place, or `new` among the best."""
    if given is None:
        return []
    wanted = [each.place for each in expected or ()]
    are_shares = all(0 <= each.score <= 1.001 for each in (*given, *(expected or ())))
    shown = []
    for place, each in enumerate(given):
        same = place < len(wanted) and wanted[place] == each.place
        change = "same" if same else "moved" if each.place in wanted else "new"
        percent = round(100 * each.score, 1) if are_shares else None
        shown.append(_ShownClass(each.place, _short(each.label, 40), spelled.score(each.score), percent, change))
    return shown
