"""Tolerances: which rule decides, and what a file of overrides may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from demitasse.errors import UsageError
from demitasse.targets import TARGETS
from demitasse_validation.metrics import METRICS
from demitasse_validation.tolerances import DEFAULT, DEFAULTS, BlobKind, Rule, Tolerances

OVERRIDES = """
[[tolerance]]
layer = "conv5*"
target = "tflite-int8"
limits = { sqnr_db = 6, cosine = 0.9 }
reason = "its channels differ in range by 2^9"

[[tolerance]]
layer = "prob"
kind = "distribution"
limits = {}
top1_margin = 0.2
reason = "a toy net that nobody uses"
"""


@pytest.mark.parametrize("rule", DEFAULTS)
def test_every_default_has_a_reason_and_known_metrics(rule: Rule) -> None:
    assert len(rule.reason) > 20
    assert rule.limits.keys() <= METRICS.keys()


@pytest.mark.parametrize("target", [*TARGETS, "opencv", "pycaffe"])
@pytest.mark.parametrize("kind", BlobKind)
def test_a_default_fits_every_blob(target: str, kind: BlobKind) -> None:
    rule = DEFAULT.rule(target, ["conv1"], kind)
    assert rule.limits or kind in (BlobKind.INTEGERS, BlobKind.DETECTIONS)


@pytest.mark.parametrize(
    ("target", "kind", "limits"),
    [
        ("onnx", BlobKind.VALUES, {"relative_to_peak": 1e-4}),
        ("savedmodel", BlobKind.DISTRIBUTION, {"max_abs": 1e-5}),
        ("opencv", BlobKind.VALUES, {"relative_to_peak": 1e-4}),
        ("tflite", BlobKind.INTEGERS, {"max_abs": 0.0}),
        ("tflite-int8", BlobKind.INTEGERS, {}),
    ],
)
def test_the_defaults(target: str, kind: BlobKind, limits: dict[str, float]) -> None:
    assert DEFAULT.rule(target, ["conv1"], kind).limits == limits


def test_quantized_artifacts_are_judged_by_noise() -> None:
    assert DEFAULT.rule("tflite-int8", ["conv1"], BlobKind.VALUES).limits.keys() == {"sqnr_db"}
    assert DEFAULT.rule("tflite-int8", ["prob"], BlobKind.DISTRIBUTION).top1_margin == 0.1


def test_overrides_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tolerances.toml"
    path.write_text(OVERRIDES)
    tolerances = Tolerances.load(path)
    assert tolerances.rule("tflite-int8", ["conv5_3", "conv5"], BlobKind.VALUES).limits == {"sqnr_db": 6, "cosine": 0.9}
    assert tolerances.rule("tflite-int8", ["conv4", "conv4"], BlobKind.VALUES) in DEFAULTS
    assert tolerances.rule("onnx", ["conv5_3"], BlobKind.VALUES) in DEFAULTS
    prob = tolerances.rule("onnx", ["prob"], BlobKind.DISTRIBUTION)
    assert (dict(prob.limits), prob.top1_margin, prob.reason) == ({}, 0.2, "a toy net that nobody uses")
    path.write_text("")
    assert Tolerances.load(path) == DEFAULT


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[[tolerance]]\nlimits = { max_abs = 1 }", "number 1: it needs a reason"),
        ('[[tolerance]]\nlimits = { max_abs = 1 }\nreason = " "', "it needs a reason"),
        ('[[tolerance]]\nreason = "x"', "it needs limits"),
        ('[[tolerance]]\nreason = "x"\nlimits = { mse = 1 }', "'mse' is no metric; there are relative_to_peak"),
        ('[[tolerance]]\nreason = "x"\nlimits = { max_abs = "1" }', "max_abs must be a number, not '1'"),
        ('[[tolerance]]\nreason = "x"\nlimits = { max_abs = nan }', "max_abs must be a number"),
        ('[[tolerance]]\nreason = "x"\nlimits = {}\nlayers = "c"', "'layers' is no key of it"),
        ('[[tolerance]]\nreason = "x"\nlimits = {}\nkind = "big"', "kind must be one of values"),
        ("max_abs = 1", "tables \\[\\[tolerance\\]\\] and nowhere else"),
        ("tolerance = 1", "nowhere else"),
        ("[[tolerance]", "not TOML"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "tolerances.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"tolerances.toml: .*{fault}"):
        Tolerances.load(path)


def test_all_faults_of_a_file_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "tolerances.toml"
    path.write_text("[[tolerance]]\n[[tolerance]]\nlimits = {}\n")
    with pytest.raises(UsageError, match=r"(?s)number 1: it needs a reason.*number 1: .*limits.*number 2: it needs"):
        Tolerances.load(path)
    with pytest.raises(UsageError, match=r"absent.toml: can't be read"):
        Tolerances.load(tmp_path / "absent.toml")
