"""Writes a report's files into a folder: report.json, junit.xml, report.md and report.html."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from demitasse.errors import UsageError
from demitasse_validation.report import Report
from demitasse_validation.report.html import to_html
from demitasse_validation.report.junit import to_junit
from demitasse_validation.report.markdown import to_markdown

__all__ = ["write_report"]


def write_report(
    report: Report,
    folder: Path | str,
    *,
    images: Iterable[Path] = (),
    benchmark: Sequence[Mapping[str, Any]] = (),
) -> list[Path]:
    """Write all forms of a report, and return their paths.

    Everything is rendered before anything is written, and written under temporary names before anything is moved into
    place: no file is ever half written, and where there is no room for all of them an earlier report stays as it is.

    Args:
        report: what a validation found.
        folder: made where it doesn't exist; earlier reports in it are replaced, other files stay.
        images: the files that the samples were made from, for the page.
        benchmark: measurements of the artifacts, a row each: `artifact`, `runtime`, `device`, `batch`, the `median` and
            its `bounds` in seconds, `throughput`, and what there is of `percentiles`, `load`, `first`, `verdict` and
            `reason`; see `demitasse_validation.benchmark.Report.speeds`.

    Raises:
        UsageError: the folder can't be written.
    """
    folder = Path(folder)
    texts = {
        "report.json": report.to_json() + "\n",
        "junit.xml": to_junit(report),
        "report.md": to_markdown(report),
        "report.html": to_html(report, images=images, benchmark=benchmark),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as leftovers:
            moves = []
            for name, text in texts.items():
                partial = folder / f".{name}.partial"
                leftovers.callback(partial.unlink, missing_ok=True)
                partial.write_text(text, "utf-8", "replace", "\n")
                moves.append((partial, folder / name))
            for partial, path in moves:
                partial.replace(path)
    except OSError as error:
        raise UsageError(f"{folder}: the report can't be written: {error.strerror}") from error
    return [path for _, path in moves]
