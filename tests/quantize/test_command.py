"""What `demitasse convert` says of 8-bit artifacts: goals met and missed, trade curves, recipes and notes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demitasse.cli import main
from demitasse.ir.document import Document
from demitasse.quantize.processor import may_saturate
from demitasse.targets import target_of

pytestmark = pytest.mark.usefixtures("golden")


@pytest.fixture
def source(golden: Path) -> list[str]:
    return [str(golden / "caffe" / "residual_net" / f"net.{suffix}") for suffix in ("prototxt", "caffemodel")]


def noise(folder: Path, source: list[str], count: int = 36, factor: float = 1.0) -> str:
    """Writes samples for calibration; returns their place."""
    shape = np.load(Path(source[0]).with_name("io.npz"))["in:data"].shape[1:]
    rows = np.random.default_rng(3).standard_normal((count, *shape)).astype(np.float32)
    np.savez(folder / "noise.npz", data=rows * np.float32(factor))
    return str(folder / "noise.npz")


def document_of(path: Path) -> Document:
    target = target_of(path)
    assert target is not None
    document = target.read_document(path)
    assert document is not None
    return document


def converted(source: list[str], out: Path, *options: str) -> int:
    return main(["convert", *source, "-o", str(out), *options])


def test_a_missed_goal_is_told_and_the_best_found_is_written(
    source: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.int8.tflite"
    call = ("--calibration", noise(tmp_path, source), "--int8-target", "sqnr=500")
    assert converted(source, out, *call, "--json") == 1
    diagnosis: dict[str, Any] = json.loads(capsys.readouterr().out)["int8"]["tflite-int8"]
    assert diagnosis["met"] is False
    assert diagnosis["chosen"]["sqnr"] == max(point["sqnr"] for point in diagnosis["curve"]) < 500
    assert document_of(out).options["int8"]["real"] == diagnosis["chosen"]["real"]
    assert converted(source, out, *call) == 1
    text = capsys.readouterr().out
    assert "sqnr=500 on 12 held-back samples: NOT met; the best found is kept" in text
    assert text.count("<- chosen") == 1
    assert len([line for line in text.splitlines() if line.split()[:1] and line.split()[0].isdecimal()]) == len(
        diagnosis["curve"]
    )


def test_a_recipe_is_written_where_a_goal_is_met_and_read_without_one(
    source: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, recipe = tmp_path / "a.int8.tflite", tmp_path / "b.int8.tflite", tmp_path / "recipe.json"
    call = ("--calibration", noise(tmp_path, source), "--recipe", str(recipe))
    assert converted(source, first, *call, "--int8-target", "sqnr=45", "--json") == 0
    chosen = json.loads(capsys.readouterr().out)["int8"]["tflite-int8"]["chosen"]["real"]
    assert chosen
    assert json.loads(recipe.read_text())["real"] == {"tflite-int8": chosen}
    assert converted(source, second, *call) == 0
    assert document_of(second).options["int8"]["real"] == chosen


def test_a_met_goal_needs_no_ranking(source: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ("--calibration", noise(tmp_path, source), "--int8-target", "sqnr=5", "--json")
    assert converted(source, tmp_path / "net.int8.tflite", *call) == 0
    diagnosis = json.loads(capsys.readouterr().out)["int8"]["tflite-int8"]
    assert (diagnosis["ranking"], diagnosis["chosen"]["real"], len(diagnosis["curve"])) == ([], [], 1)


@pytest.mark.parametrize(
    ("options", "recorded"),
    [
        ((), {"equalize": True, "bias_correction": True, "compensate": True, "calibrate": "auto"}),
        (
            ("--no-equalize", "--no-bias-correction", "--no-compensate", "--calibrate", "mse"),
            {"equalize": False, "bias_correction": False, "compensate": False},
        ),
    ],
)
def test_what_was_asked_for_is_recorded(
    options: tuple[str, ...], recorded: dict[str, Any], source: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "net.int8.tflite"
    assert converted(source, out, "--calibration", noise(tmp_path, source), "-q", *options) == 0
    assert document_of(out).options["int8"].items() >= recorded.items()


@pytest.mark.parametrize(("machine", "recorded"), [("x86_64", "uint8"), ("aarch64", "int8")])
def test_onnx_integers_have_a_sign_where_the_processor_prefers_it(
    machine: str, recorded: str, source: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    out, call = tmp_path / "net.int8.onnx", ("--calibration", noise(tmp_path, source), "-q")
    assert converted(source, out, *call) == 0
    assert document_of(out).options["int8"]["activations"] == recorded
    assert converted(source, out, *call, "--int8-activations", "signed", "--int8-io") == 0
    assert document_of(out).options["int8"]["activations"] == "int8"
    assert converted(source, tmp_path / "net.int8.tflite", *call) == 0
    assert "activations" not in document_of(tmp_path / "net.int8.tflite").options["int8"]


@pytest.mark.parametrize(("flags", "notes"), [("avx2 fma", 1), ("avx2 avx512_vnni", 0), ("avx2 avx_vnni", 0)])
def test_sums_that_may_saturate_are_noted(
    flags: str,
    notes: int,
    source: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    assert may_saturate("x86_64", cpuinfo) is bool(notes)
    assert not may_saturate("aarch64", cpuinfo)
    assert not may_saturate("x86_64", tmp_path / "none")
    monkeypatch.setattr("demitasse.quantize.processor.may_saturate", lambda: may_saturate("x86_64", cpuinfo))
    call = ("--calibration", noise(tmp_path, source), "--int8-activations")
    assert converted(source, tmp_path / "net.int8.onnx", *call, "unsigned") == 0
    assert capsys.readouterr().out.count("this processor has no VNNI") == notes
    assert converted(source, tmp_path / "net.int8.onnx", *call, "signed") == 0
    assert "VNNI" not in capsys.readouterr().out
