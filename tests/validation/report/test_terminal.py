"""What a report looks like on a terminal: every verdict, finding and figure is in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from demitasse.ir.graph import Status
from demitasse_validation.report import (
    ArtifactReport,
    Class,
    Finding,
    LayerResult,
    Ranked,
    RankResult,
    Report,
    RuntimeReport,
    Severity,
)
from demitasse_validation.report.terminal import to_text


def layer(name: str, passed: bool | None, metrics: Mapping[str, float] | None = None, **more: object) -> LayerResult:
    limits = {"relative_to_peak": 1e-4} if metrics is not None else None
    status = Status.COMPARED if metrics is not None else Status.FOLDED
    made = LayerResult(name, "Convolution", name, f"net.prototxt:3, layer {name!r}", status, passed)
    return replace(made, metrics=metrics, limits=limits, **more)  # type: ignore[arg-type]


def figures(relative: float) -> dict[str, float]:
    return {"relative_to_peak": relative, "sqnr_db": -20 * math.log10(relative), "max_abs": relative, "nonfinite": 0.0}


def artifact(name: str, layers: tuple[LayerResult, ...], *findings: Finding) -> ArtifactReport:
    best = (Class(1, "cat", 0.75), Class(0, "dog", 0.25))
    ranked = Ranked("cat.jpg", best, best, 0.5, 1e-5)
    return ArtifactReport(
        name=name,
        path=f"out/{name}",
        target="onnx",
        bytes=23_700_000,
        runtime="ONNX Runtime 1.0 (CPU)",
        coverage={"compared": 2, "folded": 1},
        layers=layers,
        outputs=(layer("prob", True, figures(1e-7)),),
        ranks=(RankResult("prob", 5, 1, 1, 1.0, 0.2, 1.0, (ranked,)),),
        divergence=(),
        findings=findings,
        seconds=1.25,
    )


@pytest.fixture
def report() -> Report:
    folded = layer("bn1", None, into="conv1")
    sound = (layer("conv1", True, figures(2e-6), together_with=("bn1",)), folded, layer("fc", True, figures(1e-6)))
    broken = (layer("conv1", True, figures(2e-6)), folded, layer("fc", False, figures(0.25)))
    fault = Finding(Severity.FAILURE, "divergence", "first diverges at layer 'fc', net.prototxt:3", "fc")
    return Report(
        tool="demitasse 1",
        source_format="caffe",
        source=({"name": "net.prototxt", "sha256": "00", "bytes": 1},),
        inputs={"kind": "images", "samples": ["cat.jpg"], "preprocessing": None},
        environment={"python": "3.11"},
        evaluator="evaluator",
        runtimes=(RuntimeReport("opencv", "OpenCV 4.1 (CPU)", sound, (), 0.5),),
        artifacts=(artifact("net.onnx", sound), artifact("net.tflite", broken, fault)),
        findings=(Finding(Severity.WARNING, "other-source", "net.onnx was made from another net.prototxt"),),
        seconds=3.5,
    )


def test_a_report_shows_verdicts_findings_and_worst_layers(report: Report) -> None:
    text = to_text(report)
    lines = text.splitlines()
    assert any(line.split()[:2] == ["ok", "net.onnx"] for line in lines)
    assert any(line.split()[:2] == ["FAIL", "net.tflite"] for line in lines)
    assert any(line.split()[:3] == ["ok", "(OpenCV", "4.1)"] for line in lines)
    assert "FAIL    net.tflite: first diverges at layer 'fc', net.prototxt:3" in text
    assert "warning net.onnx was made from another net.prototxt" in text
    assert "worst layers of net.tflite" in text
    assert "worst layers of net.onnx" not in text
    assert "23.7 MB" in text
    assert lines[-1].startswith("Failed: net.tflite (3.5 s)")


def test_every_layer_has_a_row_and_every_artifact_a_column(report: Report) -> None:
    text = to_text(report, every_layer=True)
    rows = {line.split()[0]: line.split() for line in text.partition("every layer")[2].splitlines() if line.strip()}
    assert rows["conv1"] == ["conv1", "Convolution", "2.0e-06", "2.0e-06"]
    assert rows["bn1"] == ["bn1", "Convolution", "folded", "folded"]
    assert rows["fc"] == ["fc", "Convolution", "1.0e-06", "2.5e-01"]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_report_fits_any_width(report: Report, width: int) -> None:
    assert max(map(len, to_text(report, width=width).splitlines())) <= width


def test_a_good_report_says_so(report: Report) -> None:
    good = replace(report, artifacts=report.artifacts[:1], findings=())
    assert good.passed
    assert "Every gate holds (3.5 s)." in to_text(good)
