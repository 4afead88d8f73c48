"""Shows a report on a terminal, with rich: verdicts, findings, layers. It returns what to print, and prints nothing."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from demitasse_validation.metrics import METRICS
from demitasse_validation.report import ArtifactReport, Finding, LayerResult, Report, Severity
from demitasse_validation.report.figures import by_severity, covered, key_metric, measured, named_together, size, worst

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text


__all__ = ["layer_table", "render", "summary_table", "to_text"]

STYLES: Mapping[Severity, str] = {Severity.FAILURE: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}
WORDS: Mapping[Severity, str] = {Severity.FAILURE: "FAIL", Severity.WARNING: "warning", Severity.NOTE: "note"}

# How many findings of one artifact are printed; the report's files hold all of them.
MOST_FINDINGS = 10


def render(report: Report, *, every_layer: bool = False, worst: int = 5) -> Group:
    """Return the whole report for a terminal: a row an artifact, all findings, and its layers.

    `every_layer` shows one row a source layer with a column an artifact; else each failing or quantized artifact shows
    its `worst` layers.
    """
    from rich.console import Group

    parts: list[RenderableType] = [summary_table(report), *_findings(report)]
    if every_layer:
        parts.append(layer_table(report))
    else:
        parts += [_worst_table(artifact, worst) for artifact in report.artifacts if _is_of_interest(artifact)]
    parts.append(_verdict(report))
    return Group(*parts)


def to_text(report: Report, *, every_layer: bool = False, width: int = 120) -> str:
    """Return the same as plain text."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(render(report, every_layer=every_layer))
    return captured.get()


def summary_table(report: Report) -> Table:
    """Return one row for each runtime of the source and each artifact."""
    from rich import box
    from rich.table import Table

    samples = len(report.inputs["samples"])
    title = f"{report.source_format} source on {samples} samples ({report.inputs['kind']})"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("", "", "layers", "worst layer", "outputs", "best class", "size", "time"):
        right = column in {"size", "time"}
        width = 8 if column in {"worst layer", "outputs"} else None
        whole = not column or right
        table.add_column(column, justify="right" if right else "left", no_wrap=whole, min_width=width)
    for runtime in report.runtimes:
        count = f"{len(measured(runtime.layers))} of {len(runtime.layers)}"
        what = f"({runtime.runtime.partition(' (')[0]})"
        table.add_row(_mark(runtime.passed), what, count, _worst(runtime.layers), "", "", "", _time(runtime.seconds))
    for artifact in report.artifacts:
        table.add_row(
            _mark(artifact.passed),
            artifact.name,
            covered(artifact),
            _worst(artifact.layers),
            _worst(artifact.outputs),
            "\n".join(f"{ranks.agreeing} of {ranks.samples}" for ranks in artifact.ranks),
            size(artifact.bytes),
            _time(artifact.seconds),
        )
    return table


def layer_table(report: Report) -> Table:
    """Return one row a result of a source layer, with its figure in each artifact."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title="every layer", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("type", overflow="fold")
    for artifact in report.artifacts:
        table.add_column(artifact.name, justify="right", overflow="fold", min_width=8)
    by_key = [{(layer.layer, layer.blob): layer for layer in artifact.layers} for artifact in report.artifacts]
    for key, first in by_key[0].items() if by_key else ():
        cells = [_cell(layers[key]) if key in layers else Text("") for layers in by_key]
        table.add_row(key[0], first.type, *cells)
    return table


def _worst_table(artifact: ArtifactReport, count: int) -> Table:
    from rich import box
    from rich.table import Table

    title = f"worst layers of {artifact.name}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "layer", "type", "blob", "max error / peak", "SQNR", "worst sample"):
        table.add_column(column, overflow="fold")
    for layer in worst(artifact.layers, count):
        metrics = layer.metrics or {}
        table.add_row(
            _mark(layer.passed is not False),
            named_together(layer),
            layer.type,
            layer.blob,
            _figure("relative_to_peak", metrics),
            _figure("sqnr_db", metrics),
            layer.worst_sample or "",
        )
    return table


def _is_of_interest(artifact: ArtifactReport) -> bool:
    """Say whether an artifact's layers are worth a table: it fails, or it is judged by noise."""
    return not artifact.passed or any("sqnr_db" in (layer.limits or {}) for layer in artifact.layers)


def _findings(report: Report) -> Iterator[Text]:
    groups = [("", report.findings)]
    groups += [(runtime.name, runtime.findings) for runtime in report.runtimes]
    groups += [(artifact.name, artifact.findings) for artifact in report.artifacts]
    for name, findings in groups:
        ordered = by_severity(findings)
        yield from (_line(name, finding) for finding in ordered[:MOST_FINDINGS])
        if len(ordered) > MOST_FINDINGS:
            from rich.text import Text

            yield Text(f"{name}: {len(ordered) - MOST_FINDINGS} more findings", "dim")


def _line(name: str, finding: Finding) -> Text:
    from rich.text import Text

    line = Text()
    line.append(f"{WORDS[finding.severity]:<7} ", STYLES[finding.severity])
    line.append(f"{name}: {finding.message}" if name else finding.message)
    return line


def _verdict(report: Report) -> Text:
    from rich.text import Text

    failed = [part.name for part in report.artifacts if not part.passed]
    failed += [f"the source in {part.name}" for part in report.runtimes if not part.passed]
    if report.passed:
        return Text(f"Every gate holds ({report.seconds:.1f} s).", "bold green")
    return Text(f"Failed: {', '.join(failed) or 'see above'} ({report.seconds:.1f} s).", "bold red")


def _mark(passed: bool) -> Text:
    from rich.text import Text

    return Text("ok", "green") if passed else Text("FAIL", "bold red")


def _worst(layers: Iterable[LayerResult]) -> str:
    found = worst(layers, 1)
    if not found:
        return "nothing measured"
    return f"{_figure(key_metric(found[0]), found[0].metrics or {})}\n{found[0].layer}"


def _figure(name: str, metrics: Mapping[str, float]) -> str:
    value = metrics.get(name, math.nan)
    return f"{value:.1f} dB" if METRICS[name].unit == "dB" else f"{value:.1e}"


def _cell(layer: LayerResult) -> Text:
    from rich.text import Text

    if layer.metrics:
        return Text(_figure(key_metric(layer), layer.metrics), "" if layer.passed else "bold red")
    if layer.passed is False:
        return Text(layer.status.value, "bold red")
    return Text(layer.status.value, "dim")


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s"
