"""Writes a report as Markdown for a comment on a pull request: the verdict on top, the rest folded away.

GitHub refuses a comment of more than 65,536 characters, so there is a limit on the bytes; what finds no room is left
out from the end of the lists, and the page says so. Names come from model files and so are quoted: none can become a
link, a mention or a tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from demitasse_validation.report import ArtifactReport, Class, Finding, LayerResult, RankResult, Report, Severity
from demitasse_validation.report.figures import (
    DIAGNOSIS,
    agreement,
    by_severity,
    counted,
    covered,
    figure,
    key_metric,
    local_figure,
    measured,
    number,
    preprocessing_text,
    score,
    seconds,
    share_text,
    size,
    titles,
    tolerance_groups,
    verdict,
    worst,
)
from demitasse_validation.report.matrix import Matrix, cell_text

__all__ = ["LIMIT", "to_markdown"]

LIMIT = 60_000

# Kept free for the notes on what was left out, and for closing tags.
RESERVE = 600

WORDS = {Severity.FAILURE: "❌", Severity.WARNING: "⚠️", Severity.NOTE: "note:"}

# A net that is wholly wrong has findings by the hundred; the report's other files hold them all.
MOST_FINDINGS = 20

# The most characters of a name or a message: what a person writes is shorter, what a damaged file holds may not be.
NAME, MESSAGE = 80, 400


def to_markdown(report: Report, *, limit: int = LIMIT) -> str:
    """Return the report as GitHub-flavoured Markdown of at most `limit` bytes, the most important first."""
    page = _Page(limit)
    _head(page, report)
    _findings(page, report)
    artifacts = list(zip(titles(report), report.artifacts, strict=True))
    for title, artifact in sorted(artifacts, key=lambda each: each[1].passed):
        _worst_layers(page, title, artifact)
    _best_classes(page, artifacts)
    _facts(page, report)
    _every_layer(page, report)
    return page.text()


class _Page:
    """Collects blocks as long as there is room; a table loses its last rows before it is left out."""

    def __init__(self, limit: int) -> None:
        self._blocks: list[str] = []
        self._room = limit - RESERVE
        self._left_out: list[str] = []

    def add(self, block: str, what: str) -> None:
        """Append a block, or note that `what` found no room."""
        if not self._take(block):
            self._left_out.append(what)

    def add_table(self, heads: Sequence[str], rows: Iterable[Sequence[str]], what: str, *, summary: str = "") -> None:
        """Append a table with as many rows as find room; with a `summary` it is folded behind that."""
        lines = [f"| {' | '.join(heads)} |", f"|{'|'.join(' --- ' for _ in heads)}|"]
        before, after = (f"<details><summary>{summary}</summary>\n\n", "\n\n</details>") if summary else ("", "")
        room = self._room - _bytes(before + after + "\n".join(lines)) - 120
        shown, missing = 0, 0
        for row in rows:
            line = f"| {' | '.join(row)} |"
            room -= _bytes(line) + 1
            if missing or room < 0:
                missing += 1
                continue
            lines.append(line)
            shown += 1
        if not shown:
            if missing:
                self._left_out.append(what)
            return
        cut = f"\n\n*{missing} more rows have no room here.*" if missing else ""
        self._take(before + "\n".join(lines) + cut + after)

    def _take(self, block: str) -> bool:
        cost = _bytes(block) + 2
        if cost > self._room:
            return False
        self._room -= cost
        self._blocks.append(block)
        return True

    def text(self) -> str:
        blocks = [*self._blocks]
        if self._left_out:
            names = list(dict.fromkeys(self._left_out))
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            blocks.append(f"*No room here for {', '.join(names[:5])}{more}: see report.html or report.json.*")
        return "\n\n".join(blocks) + "\n"


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


# --- text that comes from files --------------------------------------------------------------------------------


def _cut(text: str, most: int) -> str:
    text = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "\ufffd", " ".join(text.split()))
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _code(name: str) -> str:
    """Quote a name, for text and table cells; a pipe would end the cell even in code."""
    name = _cut(name, NAME).replace("|", "\\|")
    if not name:
        return ""
    longest = max((len(run) for run in re.findall("`+", name)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{name}{pad}{fence}"


def _plain(text: str, most: int = MESSAGE) -> str:
    """Quote free text: no character of it means anything to Markdown, and no `@name` or `#1` refers to anything."""
    text = re.sub(r"([\\`*\[\]|~$])", r"\\\1", _cut(text, most))
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([@#]|:(?=//)|www(?=\.))", "\\1\u2060", text)


# --- sections --------------------------------------------------------------------------------------------------


def _mark(passed: bool | None) -> str:
    return "" if passed is None else "✅" if passed else "❌"


def _worst_text(layers: Iterable[LayerResult]) -> str:
    found = worst(layers, 1)
    if not found:
        return "nothing measured"
    return f"{_figure(found[0])} at {_code(found[0].layer)}"


def _figure(layer: LayerResult) -> str:
    name = key_metric(layer)
    return figure(name, (layer.metrics or {}).get(name, float("nan")))


def _head(page: _Page, report: Report) -> None:
    sources = " + ".join(_code(str(file["name"])) for file in report.source)
    samples = report.inputs["samples"]
    page.add(f"## {_mark(report.passed)} {_plain(verdict(report))}", "the verdict")
    page.add(
        f"{sources} ({_plain(report.source_format)}) on {counted(len(samples), 'sample')} "
        f"({_plain(str(report.inputs['kind']))}), {seconds(report.seconds)}, {_plain(report.tool)}",
        "the source",
    )
    rows = [
        (
            _mark(artifact.passed),
            _code(title),
            _worst_text(artifact.layers),
            _worst_text(artifact.outputs),
            "<br>".join(f"{ranks.agreeing} of {ranks.samples}" for ranks in artifact.ranks),
            covered(artifact),
            size(artifact.bytes).replace(" ", "\u00a0"),
        )
        for title, artifact in zip(titles(report), report.artifacts, strict=True)
    ]
    rows += [
        (_mark(each.passed), f"source in {_plain(each.runtime)}", _worst_text(each.layers), "", "", computed, "")
        for each in report.runtimes
        for computed in [f"{len(measured(each.layers))} of {len(each.layers)}"]
    ]
    heads = ("", "", "worst layer", "worst output", "best class agrees", "blobs compared", "size")
    page.add_table(heads, rows, "artifacts")


def _findings(page: _Page, report: Report) -> None:
    """Say first where each artifact goes astray, then what else fails or warns; notes are folded away."""
    groups = [("", report.findings)]
    groups += [(title, each.findings) for title, each in zip(titles(report), report.artifacts, strict=True)]
    groups += [(runtime.name, runtime.findings) for runtime in report.runtimes]
    firsts: list[str] = []
    loud: list[str] = []
    quiet: list[str] = []
    for title, findings in groups:
        leads = next((finding for finding in findings if finding.kind == "divergence"), None)
        for finding in by_severity(findings):
            if finding is leads or (leads is not None and finding.kind == DIAGNOSIS):
                firsts.append(f"> {WORDS[finding.severity]} {_code(title)} {_plain(finding.message)}")
            else:
                (quiet if finding.severity is Severity.NOTE else loud).append(_finding_line(title, finding))
    for line in firsts[:MOST_FINDINGS]:
        page.add(line, "where artifacts diverge")
    if loud:
        page.add("\n".join(["### Findings", "", *loud[:MOST_FINDINGS]]), "findings")
    rest = max(0, len(firsts) - MOST_FINDINGS) + max(0, len(loud) - MOST_FINDINGS)
    if rest:
        page.add(f"*{rest} more findings are in report.json.*", "findings")
    if quiet:
        lines = "\n".join(quiet[:MOST_FINDINGS])
        more = f"\n\n*{len(quiet) - MOST_FINDINGS} more are in report.json.*" if len(quiet) > MOST_FINDINGS else ""
        page.add(f"<details><summary>Notes ({len(quiet)})</summary>\n\n{lines}{more}\n\n</details>", "notes")


def _finding_line(title: str, finding: Finding) -> str:
    who = f"{_code(title)}: " if title else ""
    return f"- {WORDS[finding.severity]} {who}{_plain(finding.message)}"


def _worst_layers(page: _Page, title: str, artifact: ArtifactReport) -> None:
    """Show the worst layers: openly where the artifact fails, else folded away."""
    layers = worst(artifact.layers, 5 if artifact.passed else 10)
    with_local = any(layer.local for layer in layers)
    rows = [
        (
            _mark(layer.passed),
            _with_others(layer),
            _plain(layer.type),
            _figure(layer),
            *([local_figure(layer)] if with_local else []),
            share_text(layer),
            figure("sqnr_db", (layer.metrics or {}).get("sqnr_db", float("nan"))).replace(" ", "\u00a0"),
            _code(layer.worst_sample or ""),
        )
        for layer in layers
    ]
    alone = ["alone"] if with_local else []
    heads = ("", "layer", "type", "error", *alone, "of its tolerance", "SQNR", "worst sample")
    what = f"the worst layers of {_code(title)}"
    if not artifact.passed:
        page.add(f"### Worst layers of {_code(title)}", what)
    summary = f"Worst layers of {_html(title)}" if artifact.passed else ""
    page.add_table(heads, rows, what, summary=summary)


def _with_others(layer: LayerResult) -> str:
    """Name a layer, and how many others are in the same tensor."""
    others = len(layer.together_with)
    return f"{_code(layer.layer)}{f' + {others} folded in' if others else ''}"


def _html(text: str) -> str:
    """Quote text inside a tag, where Markdown means nothing to some renderers and all to others."""
    return f"<code>{re.sub('[<>&@`*_|]', lambda found: f'&#{ord(found[0])};', _cut(text, NAME))}</code>"


def _best_classes(page: _Page, artifacts: Sequence[tuple[str, ArtifactReport]]) -> None:
    """Show how the best classes agree, and behind that each sample where they don't."""
    every = [(title, ranks) for title, artifact in artifacts for ranks in artifact.ranks]
    rows = [
        (_code(title), _code(ranks.output), agreement(ranks), f"top {ranks.top}: {100 * ranks.overlap:.0f} %")
        for title, ranks in every
    ]
    if rows:
        page.add("### Best classes", "best classes")
        page.add_table(("artifact", "output", "same best class", "overlap"), rows, "best classes")
    for title, ranks in every:
        _differing(page, title, ranks)


def _differing(page: _Page, title: str, ranks: RankResult) -> None:
    differing = sorted((each for each in ranks.ranked if not each.agrees), key=lambda each: not each.is_fault)
    rows = [
        (
            "❌" if each.is_fault else "≈",
            _code(each.sample),
            _class(each.expected),
            _class(each.given),
            number(each.margin),
            number(each.noise),
        )
        for each in differing
    ]
    heads = ("", "sample", "source", "artifact", "source's lead", "noise below")
    summary = f"{counted(len(rows), 'sample')} with another best class of {_html(ranks.output)} in {_html(title)}"
    page.add_table(heads, rows, "best classes", summary=summary)


def _class(classes: Sequence[Class] | None) -> str:
    return f"{_code(classes[0].label)} {score(classes[0].score)}" if classes else "NaN"


def _facts(page: _Page, report: Report) -> None:
    """Fold away what the figures rest on: files, preprocessing, tolerances, machine."""
    rows = [("source", f"{_code(str(each['name']))} {_code(str(each['sha256']))}") for each in report.source]
    rows += [(_code(title), _plain(each.runtime)) for title, each in zip(titles(report), report.artifacts, strict=True)]
    rows += [("evaluator", _plain(report.evaluator))]
    rows += [(f"preprocessing: {name}", _plain(value)) for name, value in preprocessing_text(report).items()]
    rows += [(_plain(name), _plain(value)) for name, value in report.environment.items()]
    page.add_table(("", ""), rows, "provenance and environment", summary="Provenance and environment")
    applied = [
        (_code(title), _plain(limits), str(count), _plain(reason))
        for title, artifact in zip(titles(report), report.artifacts, strict=True)
        for (limits, reason), count in tolerance_groups(artifact.layers).items()
    ]
    page.add_table(("artifact", "limit", "layers", "reason"), applied, "tolerances", summary="Tolerances")


def _every_layer(page: _Page, report: Report) -> None:
    """Fold the matrix away at the end, where it gets the room that is left; what was measured nowhere is counted."""
    matrix = Matrix.of(report)
    artifacts = [place for place, column in enumerate(matrix.columns) if column.is_artifact]
    shown = [row for row in matrix.rows if any(_is_shown(row.results[place]) for place in artifacts)]
    rows = [
        (
            str(row.place),
            _code(row.layer.blob),
            _plain(row.layer.type),
            *(_matrix_cell(row.results[place]) for place in artifacts),
        )
        for row in shown
    ]
    heads = ("", "blob", "type", *(_code(matrix.columns[place].title) for place in artifacts))
    others = len(matrix.rows) - len(shown)
    summary = f"Every layer ({len(shown)} compared{f', {others} folded or unused' if others else ''})"
    page.add_table(heads, rows, "the layers", summary=summary)


def _is_shown(result: LayerResult | None) -> bool:
    return result is not None and (bool(result.metrics) or result.passed is False)


def _matrix_cell(result: LayerResult | None) -> str:
    if result is not None and result.into is not None and not result.metrics:
        return f"in {_code(result.into)}"
    return f"{'❌ ' if result is not None and result.passed is False else ''}{cell_text(result)}"
