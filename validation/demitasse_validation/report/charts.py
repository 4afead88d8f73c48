"""Lays out a report's charts: where lines, bars and marks go, in the units of an SVG's viewBox.

Nothing is drawn here: a template does that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from demitasse.ir.graph import Status
from demitasse_validation.report import ArtifactReport, LayerResult, Ranked
from demitasse_validation.report.figures import bound, counted, number, share_used
from demitasse_validation.report.matrix import Matrix, Row, cell_text

__all__ = [
    "ERROR",
    "SHARE",
    "Chart",
    "Histogram",
    "Margins",
    "Mark",
    "Measure",
    "Speeds",
    "Staircase",
    "Tick",
    "grade",
    "histograms",
    "margins",
    "speeds",
    "staircase",
]

# More columns than this are narrower than a pixel: neighbours are drawn as one, the worst of them.
MOST_COLUMNS = 1000
# More explanations than this make a page heavy.
MOST_HOVERS = 600


class Tick(NamedTuple):
    """A place on an axis, and what stands there."""

    at: float
    text: str


class Mark(NamedTuple):
    """A point that is drawn by itself, and what it says when pointed at."""

    x: float
    y: float
    text: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """The frame of a chart: the plot lies between `left` and `right`, `top` and `bottom`."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float


def grade(layer: LayerResult | None) -> str:
    """Grade a result: `fail`, `g0` to `g4` by the share of its tolerance that it uses up, or how it is accounted for.

    The steps are 1 %, 10 %, 50 % and 80 % of the tolerance; what nothing limits is `free`.
    """
    if layer is None:
        return "absent"
    if layer.passed is False:
        return "fail"
    if not layer.metrics:
        return "absent" if layer.status is Status.COMPARED else layer.status.value
    if not layer.limits:
        return "free"
    share = share_used(layer)
    return f"g{sum(share >= step for step in (0.01, 0.1, 0.5, 0.8))}"


# --- axes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _LogAxis:
    """Maps positive figures to a length by their decade; zero and what isn't finite have bands of their own."""

    low: int
    high: int
    start: float  # where `low` is drawn
    end: float  # where `high` is drawn

    @classmethod
    def around(cls, values: Iterable[float], start: float, end: float) -> _LogAxis:
        exponents = [math.log10(value) for value in values if 0 < value < math.inf]
        low, high = math.floor(min(exponents, default=-1.0)), math.ceil(max(exponents, default=0.0))
        return cls(low, max(high, low + 1), start, end)

    def at(self, value: float) -> float:
        if value == 0:
            share = -0.04
        elif not math.isfinite(value):
            share = 1.04
        else:
            share = (math.log10(value) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, most: int = 10) -> list[Tick]:
        step = -(-(self.high - self.low) // most)
        return [Tick(self.at(10.0**power), _decade(power)) for power in range(self.low, self.high + 1, step)]


def _decade(power: int) -> str:
    return f"{10.0**power:g}" if -2 <= power <= 3 else f"1e{power}"


def _at(value: float) -> str:
    """Spell a length with one digit, and none where it is whole."""
    return f"{value:.1f}".removesuffix(".0")


# --- error along the net ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """The accumulated error of a column, as a path of steps; `local` is a path of dots, each layer by itself."""

    title: str
    is_artifact: bool
    path: str
    local: str


class Limit(NamedTuple):
    """The tolerance of the layers, as a path of steps, and the height at which it ends."""

    path: str
    text: str
    y: float


@dataclass(frozen=True, slots=True)
class Strip:
    """A row below the chart: a column's layers by grade, one path a grade."""

    title: str
    y: float
    paths: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Hover:
    """What a column of the chart says when pointed at."""

    x: str
    width: str
    text: str


@dataclass(frozen=True, slots=True)
class Staircase:
    """The error of every layer in the source's order, on a logarithmic scale."""

    frame: Chart
    ticks: Sequence[Tick]
    places: Sequence[Tick]
    lines: Sequence[Line]
    limits: Sequence[Limit]
    flags: Sequence[Mark]
    strips: Sequence[Strip]
    hovers: Sequence[Hover]
    strip_height: float
    has_zero: bool
    has_nonfinite: bool


STRIP = 13.0


class Measure(NamedTuple):
    """What a staircase shows of a layer: its figure, the figure's limit, and what the layer alone makes of it."""

    title: str
    of: Callable[[LayerResult], float | None]
    limit: Callable[[LayerResult], float | None]
    local: Callable[[LayerResult], float | None]


ERROR = Measure(
    "largest error / peak of the layer",
    lambda layer: (layer.metrics or {}).get("relative_to_peak"),
    lambda layer: (layer.limits or {}).get("relative_to_peak") if layer.metrics else None,
    lambda layer: (layer.local or {}).get("relative_to_peak"),
)
SHARE = Measure(
    "share of the layer's tolerance that is used up",
    lambda layer: share_used(layer) if layer.metrics and layer.limits else None,
    lambda layer: 1.0 if layer.metrics and layer.limits else None,
    lambda layer: None,  # noqa: ARG005 - a tolerance is for what has accumulated
)


def staircase(matrix: Matrix, measure: Measure = ERROR) -> Staircase | None:
    """Lay out a figure along the net, or None where no layer of it was measured."""
    results = [result for row in matrix.rows for result in row.results if result is not None]
    values = [value for result in results for value in (measure.of(result), measure.local(result)) if value is not None]
    limits = [limit for result in results for limit in [measure.limit(result)] if limit is not None]
    if not values:
        return None
    height = 330.0
    frame = Chart(1160, height + 26 + (STRIP + 4) * len(matrix.columns), 58, 1152, 16, height - 16)
    # Below a limit there is always room, so that a line that keeps it is seen to keep it.
    axis = _LogAxis.around([*values, *limits, *(limit / 10 for limit in limits)], frame.bottom, frame.top)
    groups = _groups(matrix.rows)
    step = (frame.right - frame.left) / len(groups)
    edges = [frame.left + step * place for place in range(len(groups) + 1)]
    lines, flags, strips = [], [], []
    limit_paths: dict[str, Limit] = {}
    for place, column in enumerate(matrix.columns):
        cells = [[row.results[place] for row in group] for group in groups]
        path = _steps(cells, edges, axis, measure.of)
        lines.append(Line(column.title, column.is_artifact, path, _dots(cells, edges, axis, measure.local)))
        limit = _steps(cells, edges, axis, measure.limit)
        if limit:
            found = [measure.limit(result) for cell in cells for result in cell if result is not None]
            last = [value for value in found if value is not None][-1]
            limit_paths.setdefault(limit, Limit(limit, f"limit {bound(last)}", axis.at(last)))
        strips.append(Strip(column.title, height + 22 + (STRIP + 4) * place, _graded(cells, edges)))
        if isinstance(column.part, ArtifactReport):
            flags += _flags(column.title, column.part.divergence, groups, cells, edges, axis, measure)
    return Staircase(
        frame=frame,
        ticks=axis.ticks(),
        places=_places(groups, edges),
        lines=lines,
        limits=list(limit_paths.values()),
        flags=flags,
        strips=strips,
        hovers=_hovers(matrix, groups, edges) if len(groups) <= MOST_HOVERS else [],
        strip_height=STRIP,
        has_zero=0 in values,
        has_nonfinite=not all(map(math.isfinite, values)),
    )


def _groups(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """Put neighbours together where there are more rows than a chart has room for."""
    size = -(-len(rows) // MOST_COLUMNS)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


Cells = Sequence[Sequence[LayerResult | None]]


def _worst_of(cell: Sequence[LayerResult | None], value: Callable[[LayerResult], float | None]) -> float | None:
    found = [figure for result in cell if result is not None for figure in [value(result)] if figure is not None]
    return max(found, key=lambda figure: math.inf if math.isnan(figure) else figure, default=None)


def _steps(cells: Cells, edges: Sequence[float], axis: _LogAxis, value: Callable[[LayerResult], float | None]) -> str:
    """Draw a level line a layer, up to its end: layers that were folded into it lie before it."""
    parts: list[str] = []
    for place, cell in enumerate(cells):
        figure = _worst_of(cell, value)
        if figure is None:
            continue
        y = _at(axis.at(figure))
        parts.append(f"M{_at(edges[0])} {y}" if not parts else f"V{y}")
        parts.append(f"H{_at(edges[place + 1])}")
    # Runs of layers on the same level need no points between them.
    kept: list[str] = []
    for part in parts:
        if kept and part[0] == "V" and part == _level(kept):
            continue
        if kept and part[0] == "H" and kept[-1][0] == "H":
            kept.pop()
        kept.append(part)
    return "".join(kept)


def _level(parts: Sequence[str]) -> str:
    """Return the height at which a path stands, as the command that goes there."""
    for part in reversed(parts):
        if part[0] == "V":
            return part
        if part[0] == "M":
            return f"V{part.split()[1]}"
    return ""


def _dots(cells: Cells, edges: Sequence[float], axis: _LogAxis, value: Callable[[LayerResult], float | None]) -> str:
    """Draw a dot a layer whose own error was measured: a line of no length with round ends."""
    parts = []
    for place, cell in enumerate(cells):
        figure = _worst_of(cell, value)
        if figure is not None:
            parts.append(f"M{_at((edges[place] + edges[place + 1]) / 2)} {_at(axis.at(figure))}h0")
    return "".join(parts)


# All that `grade` says, from what tells least to what is worst.
GRADES = ("absent", *(status.value for status in Status), "free", "g0", "g1", "g2", "g3", "g4", "fail")


def _graded(cells: Cells, edges: Sequence[float]) -> Mapping[str, str]:
    """Draw a column's layers as blocks, neighbours of one grade as one block; the worst of a group counts."""
    blocks: dict[str, list[str]] = {}
    start = 0
    grades = [max((grade(result) for result in cell), key=GRADES.index) for cell in cells]
    for place, current in enumerate(grades, 1):
        if place == len(grades) or grades[place] != current:
            width = _at(edges[place] - edges[start])
            blocks.setdefault(current, []).append(f"M{_at(edges[start])} 0h{width}v{_at(STRIP)}h-{width}z")
            start = place
    return {name: "".join(paths) for name, paths in blocks.items() if name != "absent"}


def _flags(
    title: str,
    divergence: Sequence[str],
    groups: Sequence[Sequence[Row]],
    cells: Cells,
    edges: Sequence[float],
    axis: _LogAxis,
    measure: Measure,
) -> list[Mark]:
    """Mark where an artifact goes astray."""
    marks = []
    for place, (group, cell) in enumerate(zip(groups, cells, strict=True)):
        for row, result in zip(group, cell, strict=True):
            if row.layer.blob in divergence and result is not None and result.metrics and result.passed is False:
                value = measure.of(result)
                y = axis.at(math.nan if value is None else value)
                first = "first divergence" if row.layer.blob == divergence[0] else "diverges"
                x = (edges[place] + edges[place + 1]) / 2
                marks.append(Mark(round(x, 1), y, f"{title}: {first} at {row.layer.layer}", first.partition(" ")[0]))
    return marks


def _places(groups: Sequence[Sequence[Row]], edges: Sequence[float]) -> list[Tick]:
    """Number the layers along the axis, some twelve of them."""
    step = max(1, round(len(groups) / 12))
    for nice in (1, 2, 5, 10, 20, 25, 50, 100, 200):
        if nice >= step:
            step = nice
            break
    return [
        Tick(round((edges[place] + edges[place + 1]) / 2, 1), str(groups[place][0].place))
        for place in range(step - 1 if step > 1 else 0, len(groups), step)
    ]


def _hovers(matrix: Matrix, groups: Sequence[Sequence[Row]], edges: Sequence[float]) -> list[Hover]:
    hovers = []
    for place, group in enumerate(groups):
        row = group[0]
        lines = [f"{row.place}  {row.layer.layer} ({row.layer.type})"]
        lines += [
            f"{column.title}: {cell_text(result)}{' FAILS' if result.passed is False else ''}"
            for column, result in zip(matrix.columns, row.results, strict=True)
            if result is not None
        ]
        hovers.append(Hover(_at(edges[place]), _at(edges[place + 1] - edges[place]), "\n".join(lines)))
    return hovers


# --- how errors are spread -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bar:
    """So many layers between two figures; `failing` of them, drawn below, fail."""

    x: float
    width: float
    height: float
    failing_height: float
    text: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many layers have an error of which size."""

    frame: Chart
    bars: Sequence[Bar]
    ticks: Sequence[Tick]
    limit: float | None
    most: int


def histograms(artifacts: Sequence[ArtifactReport], metric: str = "relative_to_peak") -> list[Histogram | None]:
    """Lay out one histogram an artifact, all on the same axis; None where nothing was measured."""
    values = [
        layer.metrics[metric]
        for artifact in artifacts
        for layer in artifact.layers
        if layer.metrics and metric in layer.metrics
    ]
    frame = Chart(480, 118, 6, 474, 12, 98)
    axis = _LogAxis.around(values, frame.left + 14, frame.right - 14)
    return [_histogram(artifact, axis, frame, metric) for artifact in artifacts]


def _histogram(artifact: ArtifactReport, axis: _LogAxis, frame: Chart, metric: str) -> Histogram | None:
    layers = [layer for layer in artifact.layers if layer.metrics and metric in layer.metrics]
    if not layers:
        return None
    # Three bins a decade keep the shape of a few hundred layers visible.
    edges = [axis.low + place / 3 for place in range(3 * (axis.high - axis.low) + 1)]
    counts: dict[int, list[int]] = {}
    for layer in layers:
        value = (layer.metrics or {})[metric]
        place = _bin(value, edges)
        count = counts.setdefault(place, [0, 0])
        count[0] += 1
        count[1] += layer.passed is False
    most = max(total for total, _ in counts.values())
    room = frame.bottom - frame.top
    bars = [
        Bar(
            *_bar_span(place, edges, axis),
            round(room * total / most, 1),
            round(room * failing / most, 1),
            f"{counted(total, 'layer')} {_bar_text(place, edges)}{f', {failing} fail' if failing else ''}",
        )
        for place, (total, failing) in sorted(counts.items())
    ]
    limits = {layer.limits[metric] for layer in layers if layer.limits and metric in layer.limits}
    limit = axis.at(min(limits)) if limits and axis.low <= math.log10(min(limits) or 1e-300) <= axis.high else None
    return Histogram(frame, bars, axis.ticks(7), limit, most)


def _bin(value: float, edges: Sequence[float]) -> int:
    """Return the bin of a figure: -1 for none at all, one past the last for what isn't finite."""
    if value == 0:
        return -1
    if not math.isfinite(value):
        return len(edges) - 1
    return max(0, min(len(edges) - 2, int((math.log10(value) - edges[0]) * 3)))


def _bar_span(place: int, edges: Sequence[float], axis: _LogAxis) -> tuple[float, float]:
    width = (axis.end - axis.start) / (len(edges) - 1)
    return round(axis.start + place * width + 0.5, 1), round(width - 1, 1)


def _bar_text(place: int, edges: Sequence[float]) -> str:
    if place < 0:
        return "without any error"
    if place > len(edges) - 2:
        return "with NaN or infinity"
    return f"between {number(10 ** edges[place])} and {number(10 ** edges[place + 1])}"


# --- margins ---------------------------------------------------------------------------------------------------


# Marks nearer to each other than this are drawn as one.
MARK = 4.0


@dataclass(frozen=True, slots=True)
class MarginRow:
    """The samples of one output in one artifact, by the source's lead of its best class."""

    title: str
    y: float
    marks: Sequence[Mark]
    noise: float | None


@dataclass(frozen=True, slots=True)
class Margins:
    """Which samples change their best class, and how wide the source's lead was there."""

    frame: Chart
    rows: Sequence[MarginRow]
    ticks: Sequence[Tick]


def margins(rankings: Sequence[tuple[str, Sequence[Ranked]]]) -> Margins | None:
    """Lay out a row for each titled list of ranked samples, or None where none is ranked."""
    samples = [ranked for _, all_ranked in rankings for ranked in all_ranked if math.isfinite(ranked.margin)]
    if not samples:
        return None
    row_height = 22.0
    frame = Chart(1160, row_height * len(rankings) + 34, 230, 1146, 6, row_height * len(rankings) + 6)
    figures = [ranked.margin for ranked in samples] + [ranked.noise for ranked in samples]
    axis = _LogAxis.around(figures, frame.left + 16, frame.right - 16)
    rows = []
    for place, (title, all_ranked) in enumerate(rankings):
        y = frame.top + row_height * (place + 0.5)
        marks = _margin_marks(all_ranked, axis, y)
        noise = max((ranked.noise for ranked in all_ranked), default=0.0)
        rows.append(MarginRow(title, y, marks, axis.at(noise) if noise > 0 else None))
    return Margins(frame, rows, axis.ticks())


def _margin_marks(all_ranked: Sequence[Ranked], axis: _LogAxis, y: float) -> list[Mark]:
    """Mark every sample; those of one kind that would cover each other are one mark. Faults are drawn last, on top."""
    places: dict[tuple[str, float], list[Ranked]] = {}
    for ranked in all_ranked:
        if math.isfinite(ranked.margin):
            x = axis.at(ranked.margin)
            places.setdefault((_margin_kind(ranked), x - x % MARK), []).append(ranked)
    marks = [
        Mark(
            axis.at(found[0].margin),
            y,
            _margin_text(found[0]) + (f", and {len(found) - 1} more like it" if len(found) > 1 else ""),
            kind,
        )
        for (kind, _), found in places.items()
    ]
    return sorted(marks, key=lambda mark: ("agrees", "flip", "fault").index(mark.kind))


def _margin_kind(ranked: Ranked) -> str:
    return "fault" if ranked.is_fault else "agrees" if ranked.agrees else "flip"


def _margin_text(ranked: Ranked) -> str:
    expected = ranked.expected[0].label if ranked.expected else "NaN"
    given = ranked.given[0].label if ranked.given else "NaN"
    which = expected if ranked.agrees else f"{given} instead of {expected}"
    return f"{ranked.sample}: {which}, lead {number(ranked.margin)}"


# --- speed -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpeedLine:
    """The batches of one artifact on one device."""

    title: str
    path: str
    marks: Sequence[Mark] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Speeds:
    """Throughput over latency: up and to the left is better."""

    frame: Chart
    lines: Sequence[SpeedLine]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]


def speeds(measurements: Sequence[Mapping[str, Any]]) -> Speeds | None:
    """Lay out the valid measurements, or None where no artifact was measured at more than one batch."""
    valid = [each for each in measurements if each.get("verdict") != "INVALID"]
    points = [each for each in valid if each.get("median", 0) > 0 and each.get("throughput", 0) > 0]
    where = ("artifact", "device") if len({each.get("device") for each in points}) > 1 else ("artifact",)
    sweeps: dict[str, list[Mapping[str, Any]]] = {}
    for each in sorted(points, key=lambda each: int(each.get("batch", 1))):
        sweeps.setdefault(" on ".join(str(each[key]) for key in where if each.get(key)), []).append(each)
    if all(len(sweep) < 2 for sweep in sweeps.values()):
        return None
    frame = Chart(560, 280, 56, 548, 12, 246)
    x_axis = _LogAxis.around([each["median"] * 1e3 for each in points], frame.left + 8, frame.right - 8)
    y_axis = _LogAxis.around([each["throughput"] for each in points], frame.bottom - 8, frame.top + 8)
    lines = []
    for title, sweep in sweeps.items():
        marks = [_speed_mark(each, x_axis, y_axis) for each in sweep]
        lines.append(SpeedLine(title, "M" + "L".join(f"{_at(mark.x)} {_at(mark.y)}" for mark in marks), marks))
    return Speeds(frame, lines, x_axis.ticks(), y_axis.ticks())


def _speed_mark(each: Mapping[str, Any], x_axis: _LogAxis, y_axis: _LogAxis) -> Mark:
    batch, latency = str(each.get("batch", 1)), each["median"] * 1e3
    text = f"batch {batch}: {number(latency)} ms, {number(each['throughput'])} a second"
    return Mark(x_axis.at(latency), y_axis.at(each["throughput"]), text, batch)
