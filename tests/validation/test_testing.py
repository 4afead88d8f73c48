"""Demanding in a test that an artifact is still its source: as a function, and as pytest's fixture."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import reports
from demitasse.conversion import convert
from demitasse.errors import UsageError
from demitasse.ir.ops import Size
from demitasse.ir.preprocessing import ChannelOrder, Preprocessing
from demitasse_validation.inputs import Random
from demitasse_validation.report import RuntimeReport
from demitasse_validation.testing import assert_same_model, explain

pytest.importorskip("cv2")


IMAGE_NET = """
name: "colours"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 20 dim: 20 } } }
layer { name: "mean" type: "Pooling" bottom: "data" top: "mean" pooling_param { pool: AVE global_pooling: true } }
layer { name: "prob" type: "Softmax" bottom: "mean" top: "prob" }
"""
CONTRACT = Preprocessing(ChannelOrder.BGR, resize=Size(24, 24), crop=Size(20, 20), mean=(104, 117, 123))


class Net(NamedTuple):
    """A golden net, a sound artifact of it, and one in which two channels of layer `2bx` are swapped."""

    source: Path
    weights: Path
    sound: Path
    broken: Path


@pytest.fixture(scope="module")
def net(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Net:
    folder = tmp_path_factory.mktemp("net")
    made = Net(
        golden / "caffe" / "residual_net" / "net.prototxt",
        golden / "caffe" / "residual_net" / "net.caffemodel",
        folder / "net.onnx",
        folder / "broken.onnx",
    )
    convert(made.source, made.weights, out=made.sound)
    model = onnx.load(made.sound)
    (kernel,) = [each for each in model.graph.initializer if each.name == "2bx/kernel"]
    kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel)[[1, 0, 2, 3]], kernel.name))
    onnx.save(model, made.broken)
    return made


def test_a_sound_artifact_passes_and_the_report_comes_back(net: Net) -> None:
    report = assert_same_model(net.sound, net.source, net.weights, inputs=Random(2))
    assert report.passed
    assert [artifact.name for artifact in report.artifacts] == ["net.onnx"]


def test_a_broken_one_fails_and_the_message_names_the_layer(net: Net, tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as failed:
        assert_same_model([net.sound, net.broken], net.source, net.weights, inputs=Random(2), report=tmp_path)
    lines = str(failed.value).splitlines()
    assert lines[0] == "broken.onnx is not the same model as net.prototxt, on 2 samples (noise):"
    assert "first diverges at layers 2bx + bn2bx + sc2bx" in lines[1]
    (worst,) = [line for line in lines if line.endswith("rl2bx (ReLU, line 20)")]
    assert re.fullmatch(r" +[\d.]+ +[\d,]+ ×  rl2bx \(ReLU, line 20\)", worst)
    assert lines[-1] == f"report: {tmp_path / 'report.html'}"
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["passed"] is False
    assert not [line for line in lines if line.startswith("net.onnx")]


def test_tolerances_may_be_a_file_and_options_go_to_the_comparison(net: Net, tmp_path: Path) -> None:
    rules = tmp_path / "tolerances.toml"
    limits = "limits = { relative_to_peak = inf }\ntop1_margin = 10\nreason = 'being retrained'"
    rules.write_text(f"[[tolerance]]\ntarget = 'onnx'\n{limits}\n")
    report = assert_same_model(
        net.broken, net.source, net.weights, inputs=Random(1), tolerances=rules, independent=False
    )
    assert not report.runtimes
    rules.write_text("[[tolerance]]\nlimits = {}\n")
    with pytest.raises(UsageError, match="it needs a reason"):
        assert_same_model(net.broken, net.source, net.weights, tolerances=rules)


def test_images_are_in_the_report(tmp_path: Path) -> None:
    source = tmp_path / "net.prototxt"
    source.write_text(IMAGE_NET)
    convert(source, out=tmp_path / "net.onnx", preprocessing=CONTRACT)
    folder = tmp_path / "images"
    folder.mkdir()
    for name, level in (("dark.png", 20), ("light.png", 200)):
        Image.new("RGB", (40, 30), (level, level, level)).save(folder / name)
    assert_same_model(tmp_path / "net.onnx", source, inputs=folder, report=tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert page.count('src="data:image/jpeg;base64,') == 2


def test_every_part_that_fails_is_explained() -> None:
    sound = reports.artifact("net.onnx", [reports.compared("a", 1e-6)])
    misread = RuntimeReport(
        "opencv", "OpenCV 4.1 (CPU)", (), (reports.failure("source-disagreement", "they differ"),), 1
    )
    whole = (reports.failure("whole", "the call is odd"),)
    assert explain(reports.report(sound, runtimes=(misread,), findings=whole)).splitlines() == [
        "  the call is odd",
        "net.prototxt is read differently by OpenCV 4.1 (CPU):",
        "  they differ",
    ]
    assert "  and 994 more" in explain(reports.large(3000, 1))


def test_the_fixture_keeps_a_report_a_test(net: Net, tmp_path: Path) -> None:
    test = tmp_path / "test_models.py"
    test.write_text(
        "import pytest\n"
        "from demitasse_validation import Random\n"
        f"@pytest.mark.parametrize('artifact', [{str(net.sound)!r}, {str(net.broken)!r}], ids=['sound', 'broken'])\n"
        "def test_same(assert_same_model, artifact):\n"
        f"    assert_same_model(artifact, {str(net.source)!r}, {str(net.weights)!r}, inputs=Random(1))\n"
    )
    call = [sys.executable, "-m", "pytest", "-p", "demitasse_validation.pytest_plugin", "-p", "no:cacheprovider", "-q"]
    done = subprocess.run(
        [*call, str(test), "--model-reports", str(tmp_path / "kept")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "first diverges at layers 2bx + bn2bx + sc2bx" in done.stdout
    # What fails is the test's own line, not one inside the helper.
    assert "def compare(" not in done.stdout
    kept = {path.name: json.loads((path / "report.json").read_text("utf-8")) for path in (tmp_path / "kept").iterdir()}
    assert {name: data["passed"] for name, data in kept.items()} == {
        "test_models.py-test_same-broken": False,
        "test_models.py-test_same-sound": True,
    }
