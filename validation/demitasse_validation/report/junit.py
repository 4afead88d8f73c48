"""Writes a report as JUnit XML, which every continuous integration reads: a suite an artifact, a case a layer.

There is no standard; what is written here keeps to the part that Jenkins, GitLab, GitHub's reporters and junitparser
agree on. Names of suites and cases hold no figure, so that a server can follow a case from run to run.
https://github.com/jenkinsci/xunit-plugin/blob/master/src/main/resources/org/jenkinsci/plugins/xunit/types/model/xsd/junit-10.xsd
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from demitasse.ir.graph import Status
from demitasse_validation.report import (
    ArtifactReport,
    Finding,
    LayerResult,
    RankResult,
    Report,
    Severity,
)
from demitasse_validation.report.figures import agreement, describe, figure, named_together, titles
from demitasse_validation.tally import describe_excess

__all__ = ["to_junit"]

# What XML 1.0 can't hold, however it is written.
UNWRITABLE = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class _Case:
    """A test case: it failed, was skipped, or passed if it is neither; `layer` is the layer that it is about."""

    name: str
    failure: str = ""
    kind: str = ""
    details: str = ""
    skipped: str = ""
    layer: str | None = None
    seconds: float = 0.0


def to_junit(report: Report) -> str:
    """Return the report as XML; it has a failure exactly where the report has one."""
    root = ET.Element("testsuites", name="demitasse validate")
    suites = [_suite(root, "validation", [_gates(report.findings, [], 0.0)], report.findings, {"tool": report.tool})]
    for title, artifact in zip(titles(report), report.artifacts, strict=True):
        cases = _artifact_cases(artifact)
        facts = {"target": artifact.target, "runtime": artifact.runtime, "path": artifact.path}
        suites.append(_suite(root, title, cases, artifact.findings, facts))
    for runtime in report.runtimes:
        cases = list(_layer_cases(runtime.layers))
        cases.insert(0, _gates(runtime.findings, cases, runtime.seconds))
        suites.append(_suite(root, f"source: {runtime.name}", cases, runtime.findings, {"runtime": runtime.runtime}))
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in suites)))
    root.set("time", f"{report.seconds:.3f}")
    ET.indent(root, " ")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suite(
    root: ET.Element, name: str, cases: Sequence[_Case], findings: Iterable[Finding], facts: dict[str, str]
) -> ET.Element:
    """Append a suite; warnings and notes, which fail nothing, are what it says."""
    suite = ET.SubElement(
        root,
        "testsuite",
        name=_text(name),
        tests=str(len(cases)),
        failures=str(sum(bool(case.failure) for case in cases)),
        errors="0",
        skipped=str(sum(bool(case.skipped) for case in cases)),
        time=f"{sum(case.seconds for case in cases):.3f}",
    )
    properties = ET.SubElement(suite, "properties")
    for key, value in facts.items():
        ET.SubElement(properties, "property", name=key, value=_text(value))
    for case in cases:
        element = ET.SubElement(
            suite, "testcase", classname=_text(name), name=_text(case.name), time=f"{case.seconds:.3f}"
        )
        if case.failure:
            failure = ET.SubElement(element, "failure", type=case.kind, message=_text(case.failure))
            failure.text = _text(case.details)
        elif case.skipped:
            ET.SubElement(element, "skipped", message=_text(case.skipped))
    said = [f"{each.severity.value}: {each.message}" for each in findings if each.severity is not Severity.FAILURE]
    if said:
        ET.SubElement(suite, "system-out").text = _text("\n".join(said))
    return suite


def _text(text: str) -> str:
    return UNWRITABLE.sub("\ufffd", text)


# --- cases -----------------------------------------------------------------------------------------------------


def _artifact_cases(artifact: ArtifactReport) -> list[_Case]:
    cases = [
        *_output_cases(artifact.outputs),
        *(_rank_case(ranks) for ranks in artifact.ranks),
        *_layer_cases(artifact.layers),
    ]
    return [_gates(artifact.findings, cases, artifact.seconds), *cases]


def _gates(findings: Iterable[Finding], cases: Iterable[_Case], seconds: float) -> _Case:
    """Make the case of everything that is no single layer's: it fails by the failures that no other case shows."""
    shown = {case.layer for case in cases if case.failure and case.layer is not None}
    ranks_fail = any(case.kind == "top1" for case in cases)
    left = [
        finding
        for finding in findings
        if finding.severity is Severity.FAILURE
        and finding.layer not in shown
        and not (finding.kind == "top1" and ranks_fail)
    ]
    if not left:
        return _Case("gates", seconds=seconds)
    more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
    details = "\n".join(f"{finding.kind}: {finding.message}" for finding in left)
    return _Case("gates", left[0].message + more, left[0].kind, details, seconds=seconds)


def _output_cases(outputs: Iterable[LayerResult]) -> Iterator[_Case]:
    return (_case(f"output {output.blob}", output) for output in outputs)


def _layer_cases(layers: Sequence[LayerResult]) -> Iterator[_Case]:
    """Name cases by the layer, and by the blob as well where a layer has several."""
    results = Counter(layer.layer for layer in layers)
    for layer in layers:
        blob = f", blob {layer.blob}" if results[layer.layer] > 1 else ""
        yield _case(f"layer {layer.layer}{blob}", layer)


def _case(name: str, result: LayerResult) -> _Case:
    if result.passed is False:
        excess = result.note or describe_excess(result.metrics, result.limits) or "its figures are out of bounds"
        kind = "unmapped" if result.status is Status.UNMAPPED else "tolerance" if result.metrics else "unmeasured"
        return _Case(name, excess, kind, "\n".join(_details(result)), layer=result.layer)
    if result.metrics:
        return _Case(name, layer=result.layer)
    return _Case(name, skipped=_why_skipped(result), layer=result.layer)


def _why_skipped(result: LayerResult) -> str:
    if result.into is not None:
        return f"{result.status.value}: in {result.into}"
    return result.note or result.status.value


def _details(result: LayerResult) -> Iterator[str]:
    yield f"where: {result.where or result.layer}, blob {result.blob}"
    if result.together_with:
        yield f"one tensor holds: {named_together(result)}"
    if result.tensor:
        yield f"tensor: {result.tensor}"
    if result.metrics:
        yield f"figures: {describe(result.metrics)}"
    if result.local:
        yield f"this layer alone: {describe(result.local)}"
    if result.role is not None:
        yield f"role: {result.role.value}"
    if result.limits:
        limits = ", ".join(f"{name} {figure(name, limit)}" for name, limit in result.limits.items())
        yield f"limits: {limits} ({result.reason})"
    if result.worst_sample:
        yield f"worst sample: {result.worst_sample}"


def _rank_case(ranks: RankResult) -> _Case:
    name = f"best class of {ranks.output}"
    flips = [ranked for ranked in ranks.ranked if ranked.is_fault]
    if not flips:
        return _Case(name)
    details = [
        f"{each.sample}: {each.given[0].label if each.given else 'NaN'} instead of "
        f"{each.expected[0].label if each.expected else 'NaN'}, whose lead is {each.margin:.3g}"
        for each in flips
    ]
    message = f"differs on {len(flips)} of {ranks.samples} samples beyond noise; agrees on {agreement(ranks)}"
    return _Case(name, message, "top1", "\n".join(details))
