"""Lets a test suite demand that an artifact is still the same model as its source.

    from demitasse_validation.testing import assert_same_model

    def test_the_exported_net_is_the_trained_net():
        assert_same_model("net.onnx", "deploy.prototxt", "net.caffemodel", inputs="photographs/")

`demitasse_validation.pytest_plugin` gives the same as a fixture, which keeps the reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from demitasse.preprocess import images_in
from demitasse_validation.comparison import compare
from demitasse_validation.inputs import Random
from demitasse_validation.report import ArtifactReport, Finding, Report, Severity
from demitasse_validation.report.figures import (
    DIAGNOSIS,
    by_severity,
    counted,
    figure,
    key_metric,
    line_of,
    named_together,
    share_text,
    titles,
    worst,
)
from demitasse_validation.report.write import write_report
from demitasse_validation.tolerances import DEFAULT, Tolerances

__all__ = ["assert_same_model", "explain"]

# How many findings and layers of an artifact a message shows: enough to know where to look.
MOST_FINDINGS, WORST = 6, 5


def assert_same_model(
    artifact: Path | str | Sequence[Path | str],
    source: Path | str,
    weights: Path | str | None = None,
    *,
    inputs: Path | str | Random | Sequence[Path] | None = None,
    tolerances: Tolerances | Path | str = DEFAULT,
    report: Path | str | None = None,
    **options: Any,
) -> Report:
    """Compare artifacts with their source, layer by layer, and fail where `demitasse validate` would.

    Args:
        artifact: one that `demitasse convert` wrote, or several.
        source: what it was made from; see `demitasse.readers.read`.
        weights: the file with the weights, where the source doesn't hold them.
        inputs: images, arrays or `Random`; see `demitasse_validation.compare`. A few random inputs by default.
        tolerances: rules, or the TOML file that holds them.
        report: a folder that receives the report's files, whether the artifact passes or not.
        **options: whatever else `demitasse_validation.compare` takes.

    Returns:
        The report, for assertions of the caller's own.

    Raises:
        AssertionError: a gate fails; the message says where the artifact first diverges.
        UsageError, MissingDependency, MalformedModel, Unsupported: see `demitasse_validation.compare`.
    """
    __tracebackhide__ = True
    artifacts = [artifact] if isinstance(artifact, str | Path) else list(artifact)
    rules = tolerances if isinstance(tolerances, Tolerances) else Tolerances.load(Path(tolerances))
    found = compare(artifacts, source, weights, inputs=inputs, tolerances=rules, **options)
    written = [] if report is None else write_report(found, report, images=_images(found, inputs))
    if not found.passed:
        page = [f"report: {path}" for path in written if path.suffix == ".html"]
        raise AssertionError("\n".join([explain(found), *page]))
    return found


def _images(report: Report, inputs: Path | str | Random | Sequence[Path] | None) -> Sequence[Path]:
    """Return the files that the samples were made from, if they were images."""
    if report.inputs["kind"] != "images" or inputs is None or isinstance(inputs, Random):
        return ()
    return images_in(Path(inputs)) if isinstance(inputs, str | Path) else list(inputs)


def explain(report: Report) -> str:
    """Say in a few lines what fails, where it begins, and which layers are worst."""
    source = report.source[0]["name"]
    samples = f"{counted(len(report.inputs['samples']), 'sample')} ({report.inputs['kind']})"
    lines = list(_failures(report.findings))
    for title, artifact in zip(titles(report), report.artifacts, strict=True):
        if not artifact.passed:
            lines += [f"{title} is not the same model as {source}, on {samples}:", *_failures(artifact.findings)]
            lines += _worst_layers(artifact)
    for runtime in report.runtimes:
        if not runtime.passed:
            lines += [f"{source} is read differently by {runtime.runtime}:", *_failures(runtime.findings)]
    return "\n".join(lines)


def _failures(findings: Iterable[Finding]) -> Iterator[str]:
    said = by_severity(findings)
    failures = [each for each in said if each.severity is Severity.FAILURE or each.kind == DIAGNOSIS]
    yield from (f"  {finding.message}" for finding in failures[:MOST_FINDINGS])
    if len(failures) > MOST_FINDINGS:
        yield f"  and {len(failures) - MOST_FINDINGS} more"


def _worst_layers(artifact: ArtifactReport) -> Iterator[str]:
    failing = [layer for layer in worst(artifact.layers, WORST) if layer.passed is False]
    if failing:
        yield "  worst layers, and how often their tolerance fits into their error:"
    for layer in failing:
        name = key_metric(layer)
        value = figure(name, (layer.metrics or {}).get(name, float("nan")))
        line = f", line {line_of(layer)}" if line_of(layer) else ""
        yield f"    {value:>8} {share_text(layer):>8}  {named_together(layer)} ({layer.type}{line})"
