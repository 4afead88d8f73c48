"""Shows a benchmark on a terminal, with rich. Returns what to print; prints nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from demitasse_validation.benchmark.results import Comparison, Report, Result
from demitasse_validation.benchmark.scenarios import Scenario, scenarios
from demitasse_validation.benchmark.statistics import Interval, samples_needed
from demitasse_validation.benchmark.verdicts import Verdict

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
    from rich.table import Table
    from rich.text import Text

__all__ = ["render"]

STYLES: Mapping[Verdict, str] = {
    Verdict.FASTER: "green",
    Verdict.SLOWER: "red",
    Verdict.SAME: "",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.INVALID: "bold red",
}

# Wider than any table, and narrower than what rich allocates blanks for.
NO_BOUND = 10_000

# Columns of words; numbers stand on the right.
LEFT = {"model", "engine", "runtime", "verdict", "nodes", "scenario", "LoadGen would object"}


def render(report: Report) -> Group:
    """Return the whole report: times, costs, scenarios, then every verdict in words, and what to bear in mind."""
    from rich.console import Group

    parts: list[RenderableType] = []
    if report.results:
        parts += [_times(report), _costs(report), _scenarios(report)]
    parts += _words(report)
    return Group(*parts)


def _times(report: Report) -> _FittingTable:
    title = f"host to host, {report.plan.threads} threads, at least {report.plan.seconds:g} s each"
    table = _FittingTable(
        title,
        "model, engine, batch, p50 ms, its 95 %, p90, p99, compute only, images/s, × first, verdict",
        spare="its 95 %, p99, compute only, p90, engine",
    )
    compared = {(each.contender, each.batch): each for each in report.comparisons}
    first: set[int] = set()
    for result in report.results:
        comparison = compared.get((result.name, result.batch))
        median = result.latency.median
        table.add_row(
            result.artifact,
            result.engine,
            str(result.batch),
            _milliseconds(median.value),
            f"{_milliseconds(median.low)}-{_milliseconds(median.high)}",
            _percentile(result, 0.9),
            _percentile(result, 0.99),
            _milliseconds(result.compute.median.value),
            f"{result.throughput:.3g}" if result.throughput < 100 else f"{result.throughput:.0f}",
            _ratio(comparison.ratio) if comparison else "1",
            _mark(result, comparison, report.noise.get(result.batch) if result.batch not in first else None),
        )
        first.add(result.batch)
    return table


def _costs(report: Report) -> _FittingTable:
    table = _FittingTable(
        "what it costs, each in a fresh process",
        "model, runtime, batch, size, import, load, first run, memory, on the card, nodes",
        spare="import, runtime, batch, nodes",
    )
    for result in report.results:
        table.add_row(
            result.artifact,
            result.runtime,
            str(result.batch),
            _bytes(result.bytes),
            f"{result.import_seconds:.1f} s",
            f"{1e3 * result.load_seconds:.0f} ms",
            f"{1e3 * result.first_seconds:.0f} ms",
            _bytes(result.host_memory),
            "" if result.device_memory is None else _bytes(result.device_memory),
            result.placement.summary,
        )
    return table


def _scenarios(report: Report) -> _FittingTable:
    table = _FittingTable(
        "MLPerf scenarios", "scenario, model, engine, batch, figure, LoadGen would object", spare="engine"
    )
    for scenario in scenarios(report):
        table.add_row(
            scenario.name,
            scenario.artifact,
            scenario.engine,
            str(scenario.batch),
            _figure(scenario),
            ", ".join(scenario.objections) or "nothing",
        )
    return table


def _words(report: Report) -> Iterator[Text]:
    for result in report.results:
        name = f"{result.name} at batch {result.batch}"
        yield from (_line(Verdict.INVALID.value, STYLES[Verdict.INVALID], name, fault) for fault in result.faults)
        yield from (_line("note", "dim", name, note) for note in result.notes)
    for failure in report.failures:
        name = f"{failure.artifact} in {failure.engine} at batch {failure.batch}"
        yield _line("FAILED", "bold red", name, failure.reason)
    for each in (*report.comparisons, *report.regressions):
        judgement = each.judgement
        advice = f"; {judgement.advice}" if judgement.advice else ""
        name = f"{each.contender} against {each.baseline}, batch {each.batch}"
        yield _line(judgement.verdict.value, STYLES[judgement.verdict], name, judgement.reason + advice)
    for batch, noise in report.noise.items():
        yield _line("noise", "dim", "", f"at batch {batch}, the first model differs from itself by up to {noise:.1%}")
    yield from (_line("note", "dim", "", note) for note in report.notes)


def _line(word: str, style: str, name: str, text: str) -> Text:
    from rich.text import Text

    line = Text()
    line.append(f"{word:<12} ", style)
    line.append(f"{name}: {text}" if name else text)
    return line


class _FittingTable:
    """A table that leaves out columns until what is left fits the terminal without breaking words.

    `spare` names those that can be missed, the first to go first; a column without anything in it goes at once.
    """

    def __init__(self, title: str, columns: str, *, spare: str) -> None:
        self._title = title
        self._columns = columns.split(", ")
        self._spare = spare.split(", ")
        self._rows: list[tuple[str | Text, ...]] = []

    def add_row(self, *cells: str | Text) -> None:
        self._rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.measure import Measurement

        empty = {name for place, name in enumerate(self._columns) if not any(str(row[place]) for row in self._rows)}
        tables = [self._table(empty | set(self._spare[:count])) for count in range(len(self._spare) + 1)]
        unbound = options.update(max_width=NO_BOUND)
        widths = (Measurement.get(console, unbound, table).maximum for table in tables)
        fitting = (table for table, width in zip(tables, widths, strict=True) if width <= options.max_width)
        yield next(fitting, tables[-1])

    def _table(self, without: Collection[str]) -> Table:
        from rich import box
        from rich.table import Table

        table = Table(title=self._title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        places = [place for place, name in enumerate(self._columns) if name not in without]
        for place in places:
            name = self._columns[place]
            table.add_column(name, overflow="fold", justify="left" if name in LEFT else "right")
        for row in self._rows:
            table.add_row(*(row[place] for place in places))
        return table


def _mark(result: Result, comparison: Comparison | None, noise: float | None) -> Text:
    from rich.text import Text

    if not result.is_valid:
        return Text(Verdict.INVALID.value, STYLES[Verdict.INVALID])
    if comparison is not None:
        verdict = comparison.judgement.verdict
        return Text(verdict.value, STYLES[verdict])
    return Text("first" if noise is None else f"first, noise {noise:.1%}", "dim")


def _percentile(result: Result, p: float) -> str:
    value = result.latency.p90 if p == 0.9 else result.latency.p99
    return _milliseconds(value) if value is not None else f"{result.latency.count} of {samples_needed(p)}"


def _ratio(ratio: Interval | None) -> str:
    return "" if ratio is None else f"{ratio.value:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"


def _figure(scenario: Scenario) -> str:
    if scenario.figure is None:
        return ""
    if scenario.name == "SingleStream":
        return f"p90 ≤ {_milliseconds(scenario.figure)} ms"
    return f"{scenario.figure:.4g} images/s"


def _milliseconds(seconds: float) -> str:
    milliseconds = 1e3 * seconds
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
