"""junit.xml: what a continuous integration server reads of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

import reports
from demitasse.ir.graph import Status
from demitasse_validation.report import Report, RuntimeReport
from demitasse_validation.report.junit import to_junit
from reports import HOSTILE, artifact, compared, failure, ranking, ranks, report, unmeasured

REPORTS = {"mixed": reports.mixed(), "hostile": reports.hostile(), "large": reports.large(40, 3)}


def parse(report: Report) -> ET.Element:
    return ET.fromstring(to_junit(report).encode())


def outcomes(suite: ET.Element) -> dict[str, str]:
    """Return what became of each case of a suite, in order."""
    return {
        case.get("name", ""): next((child.tag for child in case if child.tag != "system-out"), "passed")
        for case in suite.iter("testcase")
    }


def suite(root: ET.Element, name: str) -> ET.Element:
    (found,) = [each for each in root if each.get("name") == name]
    return found


@pytest.mark.parametrize("name", REPORTS)
def test_every_suite_counts_its_cases(name: str) -> None:
    root = parse(REPORTS[name])
    for each in [root, *root]:
        assert int(each.get("tests", -1)) == len(list(each.iter("testcase")))
        assert int(each.get("failures", -1)) == len(list(each.iter("failure")))
        assert each.get("errors") == "0"
        if each is not root:
            assert int(each.get("skipped", -1)) == len(list(each.iter("skipped")))


# What Jenkins's strict reader (xunit-plugin's junit-10.xsd) accepts, and the others read: attributes, then children.
ACCEPTED = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "time", "tests", "failures", "errors", "skipped"},
        {"properties", "testcase", "system-out"},
    ),
    "testcase": ({"name", "time", "classname"}, {"failure", "skipped"}),
    "failure": ({"type", "message"}, set()),
    "skipped": ({"message"}, set()),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "system-out": (set(), set()),
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_strict_reader_accepts_it(name: str) -> None:
    for element in parse(REPORTS[name]).iter():
        attributes, children = ACCEPTED[element.tag]
        assert set(element.attrib) <= attributes
        assert {child.tag for child in element} <= children
        assert re.fullmatch(r"\d+\.\d{3}", element.get("time", "0.000"))


@pytest.mark.parametrize("name", REPORTS)
def test_no_two_cases_have_the_same_name(name: str) -> None:
    cases = [(case.get("classname"), case.get("name")) for case in parse(REPORTS[name]).iter("testcase")]
    assert len(cases) == len(set(cases))


def test_a_case_a_layer_in_the_sources_order() -> None:
    root = parse(reports.mixed())
    assert [each.get("name") for each in root] == ["validation", "net.onnx", "net.tflite", "source: opencv"]
    assert outcomes(suite(root, "net.onnx")) == {
        "gates": "passed",
        "output prob": "passed",
        "best class of prob": "passed",
        "layer conv1": "passed",
        "layer bn1": "skipped",
        "layer data": "passed",
        "layer split": "skipped",
        "layer fc": "passed",
    }
    assert outcomes(suite(root, "net.tflite")) == {
        "gates": "failure",
        "output prob": "passed",
        "best class of prob": "failure",
        "layer conv1": "failure",
        "layer bn1": "skipped",
        "layer data": "failure",
        "layer split": "failure",
        "layer fc": "passed",
    }


def test_a_failure_holds_the_figures() -> None:
    cases = {case.get("name"): case for case in suite(parse(reports.mixed()), "net.tflite").iter("testcase")}
    (found,) = cases["layer conv1"].iter("failure")
    assert found.get("message") == "max error / peak 0.25, allowed 0.0001"
    text = found.text or ""
    for part in ("net.prototxt:3", "SQNR 12.0 dB", "this layer alone: max error / peak 0.2", "role: source", "cat.jpg"):
        assert part in text
    (gates,) = cases["gates"].iter("failure")
    assert gates.get("message") == "it lacks the source's output 'aux'"
    (skipped,) = cases["layer bn1"].iter("skipped")
    assert skipped.get("message") == "folded: in conv1"


def failing() -> Iterator[Report]:
    """Make one report for each place that a failure can be at."""
    sound = artifact("net.onnx", [compared("conv1", 1e-6)])
    yield report(replace(sound, layers=(compared("conv1", 1.0),), findings=(failure("divergence", "x", "conv1"),)))
    yield report(replace(sound, layers=(unmeasured("a", Status.UNMAPPED),), findings=(failure("unmapped", "x", "a"),)))
    yield report(replace(sound, outputs=(compared("prob", 1.0),), findings=(failure("output", "x", "prob"),)))
    flips = (ranks(ranking("cat.jpg", other=True)),)
    yield report(replace(sound, ranks=flips, findings=(failure("top1", "x"),)))
    yield report(replace(sound, findings=(failure("a-kind-that-came-later", "x"),)))
    yield report(replace(sound, findings=(failure("a-kind-that-came-later", "x", "conv1"),)))
    yield report(sound, findings=(failure("whole", "x"),))
    yield report(sound, runtimes=(RuntimeReport("opencv", "OpenCV", sound.layers, (failure("d", "x", "conv1"),), 1.0),))


@pytest.mark.parametrize("failing", list(failing()))
def test_whatever_fails_a_report_fails_a_case(failing: Report) -> None:
    root = parse(failing)
    assert not failing.passed
    assert [each.get("name") for each in root if each.get("failures") != "0"]
    assert root.get("failures") == "1"


def test_a_sound_report_has_no_failure() -> None:
    root = parse(report(artifact("net.onnx", [compared("conv1", 1e-6)])))
    assert root.get("failures") == "0"
    assert not list(root.iter("failure"))


def test_names_hold_no_figures_and_bytes_are_the_same_each_time() -> None:
    before, after = reports.large(10, 2), reports.large(10, 2)
    assert to_junit(before) == to_junit(after)
    worse = replace(
        before.artifacts[0], layers=tuple(compared(each.layer, 1e-5) for each in before.artifacts[0].layers)
    )
    names = [[case.get("name") for case in parse(each).iter("testcase")] for each in (before, report(worse))]
    assert names[1][1:] == names[0][1 : len(names[1])]


def test_a_layer_with_several_results_has_a_case_for_each() -> None:
    layers = [replace(compared("slice", 1e-6), blob=blob) for blob in ("a", "b")]
    cases = outcomes(suite(parse(report(artifact("net.onnx", layers))), "net.onnx"))
    assert {"layer slice, blob a", "layer slice, blob b"} <= set(cases)


def test_artifacts_of_one_name_are_told_apart_by_their_paths() -> None:
    twins = [artifact("net.onnx", [], path=f"{folder}/net.onnx") for folder in ("old", "new")]
    assert [each.get("name") for each in parse(report(*twins))] == ["validation", "old/net.onnx", "new/net.onnx"]


def test_what_xml_cannot_hold_is_replaced() -> None:
    text = to_junit(reports.hostile())
    text.encode()
    assert not any(character in text for character in "\x00\x1b\ud800")
    names = [case.get("name", "") for case in ET.fromstring(text).iter("testcase")]
    assert any("<script>alert(1)</script>" in name for name in names)
    assert HOSTILE not in text
