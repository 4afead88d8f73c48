"""The command line: what it prints, what it exits with, and that a failed call leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demitasse import read
from demitasse.cli import main

GOLDEN = Path(__file__).parent / "golden" / "caffe"
CONV = (str(GOLDEN / "conv_basic" / "net.prototxt"), str(GOLDEN / "conv_basic" / "net.caffemodel"))

IMAGE_NET = tuple(str(GOLDEN / "conv_valid_even_input" / name) for name in ("net.prototxt", "net.caffemodel"))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder that a call may write to; what it holds afterwards shows what the call left behind."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a call that must be refused, and return its message."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['demitasse', '--help']\n"
        "from demitasse.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('HEAVY', sorted({'numpy', 'onnx', 'tensorflow', 'rich', 'PIL', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("HEAVY []\n")


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_conversion_imports_neither_tensorflow_nor_a_runtime(suffix: str, work: Path) -> None:
    call = ["convert", *CONV, "-o", str(work / f"net.{suffix}")]
    code = (
        f"import sys\nfrom demitasse.cli import main\nassert main({call!r}) == 0\n"
        "print('HEAVY', sorted({'tensorflow', 'onnxruntime', 'cv2', 'keras', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("HEAVY []\n")


def test_a_folder_receives_artifacts_and_a_manifest(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", *CONV, "-o", str(work / "out"), "--to", "onnx,tflite,weights", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert sorted(path.name for path in (work / "out").iterdir()) == [
        "demitasse.json",
        "net.onnx",
        "net.safetensors",
        "net.tflite",
    ]
    assert [artifact["target"] for artifact in said["artifacts"]] == ["onnx", "tflite", "weights"]
    assert left_in(work) == ["out"]


def test_runtimes_that_talk_on_loading_are_not_heard(work: Path) -> None:
    pytest.importorskip("tensorflow")
    command = [sys.executable, "-m", "demitasse"]
    convert = [*command, "convert", *CONV, "-o", str(work / "out"), "--to", "tflite,savedmodel"]
    validate = [*command, "validate", str(work / "out"), "--against", *CONV, "--random", "1"]
    for call in (convert, validate):
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        assert done.stderr == ""


def test_the_same_input_gives_the_same_bytes_wherever_it_lies(work: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(GOLDEN / "residual_net", work / name)
        source = [str(work / name / file) for file in ("net.prototxt", "net.caffemodel")]
        assert main(["convert", *source, "-o", str(work / name / "out"), "--to", "onnx,tflite", "-q"]) == 0
    for file in ("net.onnx", "net.tflite", "demitasse.json"):
        assert (work / "one" / "out" / file).read_bytes() == (work / "two" / "out" / file).read_bytes(), file


@pytest.mark.parametrize("glob", ["out", "out/*"])
def test_an_artifact_agrees_with_its_source(glob: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    assert main(["convert", *CONV, "-o", str(work / "out"), "--to", "onnx,tflite", "-q"]) == 0
    artifacts = [str(path) for path in work.glob(glob)]  # the manifest too
    call = ["validate", *artifacts, "--against", *CONV, "--random", "2", "--report", str(work / "report")]
    assert main([*call, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["passed"] is True
    assert len(said["artifacts"]) == 2
    assert json.loads((work / "report" / "report.json").read_text())["passed"] is True


def test_figures_of_a_benchmark_stand_in_the_report(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, times, report = str(work / "net.onnx"), str(work / "times.json"), work / "report"
    assert main(["convert", *CONV, "-o", net, "-q"]) == 0
    assert main(["benchmark", net, "--seconds", "0.1", "--save", times, "-q", "--json"]) == 0
    capsys.readouterr()
    call = ["validate", net, "--against", *CONV, "--random", "1", "--benchmark", times]
    assert main(call) == 2
    assert "--benchmark needs --report DIR" in capsys.readouterr().err
    assert main([*call, "--report", str(report), "--json"]) == 0
    text = (report / "report.html").read_text("utf-8")
    assert 'id="speed"' in text
    assert json.loads(Path(times).read_text("utf-8"))["results"][0]["runtime"] in text


def test_an_artifact_of_another_net_fails_its_validation(work: Path) -> None:
    pytest.importorskip("cv2")
    other = [str(GOLDEN / "conv_basic" / "net.prototxt"), str(work / "other.caffemodel")]
    data = Path(CONV[1]).read_bytes()
    first = read(*CONV).weights["c/kernel"].ravel()[:1]
    Path(other[1]).write_bytes(data.replace(first.tobytes(), (first + 7).tobytes(), 1))
    assert main(["convert", *CONV, "-o", str(work / "net.onnx"), "-q"]) == 0
    assert main(["validate", str(work / "net.onnx"), "--against", *other, "-q"]) == 1


def damaged(work: Path, kind: str) -> list[str]:
    """Write a bad source of some kind, and return the arguments that name it."""
    prototxt, caffemodel = Path(CONV[0]), Path(CONV[1])
    bad = work.parent / "bad.caffemodel"
    match kind:
        case "missing":
            return [CONV[0], str(work.parent / "nothing.caffemodel")]
        case "truncated":
            bad.write_bytes(caffemodel.read_bytes()[:-7])
        case "random":
            bad.write_bytes(np.random.default_rng(0).bytes(5000))
        case "empty":
            bad.write_bytes(b"")
        case "prototxt":
            bad.write_bytes(prototxt.read_bytes())
        case "other_net":
            return [CONV[0], str(GOLDEN / "fc_axis2" / "net.caffemodel")]
        case "syntax":
            broken = work.parent / "bad.prototxt"
            broken.write_text(prototxt.read_text().replace("num_output:", "num_output", 1))
            return [str(broken), CONV[1]]
        case "unknown_layers":
            broken = work.parent / "bad.prototxt"
            more = "".join(
                f'layer {{ name: "{name}" type: "{kind}" bottom: "data" top: "{name}" }}\n'
                for name, kind in (("magic", "Abracadabra"), ("wonder", "Simsalabim"))
            )
            broken.write_text(prototxt.read_text() + more)
            return [str(broken), CONV[1]]
    return [CONV[0], str(bad)]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("missing", ["nothing.caffemodel"]),
        ("truncated", ["bad.caffemodel", "byte"]),
        ("random", ["bad.caffemodel"]),
        ("empty", ["bad.caffemodel", "empty"]),
        ("prototxt", ["bad.caffemodel"]),
        ("other_net", ["conv"]),
        ("syntax", ["bad.prototxt:"]),
        ("unknown_layers", ["Abracadabra", "Simsalabim"]),
    ],
)
def test_a_bad_source_is_refused(
    kind: str, expected: list[str], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(["convert", *damaged(work, kind), "-o", str(work / "net.onnx")], capsys)
    for part in expected:
        assert part in message
    assert left_in(work) == []


def images(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for index, name in enumerate(names):
        random = np.random.default_rng(index)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / name)
    return folder


def test_bad_calibration_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["convert", *IMAGE_NET, "-o", str(work / "net.int8.tflite")]
    assert "--calibration" in refused(call, capsys)
    empty = images(work.parent / "empty")
    assert "no images" in refused([*call, "--calibration", str(empty), "--channels", "bgr"], capsys)
    mixed = images(work.parent / "mixed", "a.png", "b.png")
    (mixed / "broken.png").write_bytes((mixed / "a.png").read_bytes()[:200])
    assert "broken.png" in refused([*call, "--calibration", str(mixed), "--channels", "bgr"], capsys)
    assert "--preprocess" in refused([*call, "--calibration", str(mixed)], capsys)
    assert left_in(work) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-o", "{work}/none/net.onnx"], "does not exist"),
        (["-o", "{work}/file/net.onnx"], "not a folder"),
        (["-o", "{work}/file", "--to", "onnx"], "is a file"),
        (["-o", "{work}/out", "--to", "onxx"], "unknown target onxx"),
        (["-o", "{work}/net.onnx", "--to", "tflite"], "name a folder"),
        (["-o", "{work}/net.onnx", "--outputs", "nothing"], "nothing"),
        (["-o", "{work}/net.onnx", "--input-shape", "data=1,3"], "rank 3"),
        (["-o", "{work}/net.onnx", "--opset", "3"], "opset"),
        (["-o", "{work}/net.onnx", "--batch", "none"], "--batch"),
        (["-o", "{work}/net.onnx", "--mean", "a,b"], "--mean"),
        (["-o", "{work}/net.onnx", "--labels", "{work}/nothing.txt"], "nothing.txt"),
    ],
)
def test_a_bad_call_is_refused(
    arguments: list[str], expected: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "file").write_text("not a folder")
    message = refused(["convert", *CONV, *[each.format(work=work) for each in arguments]], capsys)
    assert expected in message
    assert left_in(work) == ["file"]


def test_an_interrupted_run_leaves_nothing(work: Path) -> None:
    """Stops a conversion while it writes: the weights' file is a pipe that never ends, so it can't finish before."""
    code = (
        "import sys, time\nfrom demitasse import targets\nfrom demitasse.cli import main\n"
        "def write(*arguments, **options):\n"
        "    arguments[2].write_bytes(b'half')\n    print('writing', flush=True)\n    time.sleep(60)\n"
        "targets.Target.write = write\n"
        f"sys.exit(main({['convert', *CONV, '-o', str(work / 'net.onnx')]!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
    process.communicate()
    assert left_in(work) == []


def test_inspect_lists_layers_without_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", CONV[0], "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["inputs"] == {"data": [1, 3, 8, 8]} or said["inputs"]
    assert {row["type"] for row in said["layers"]} >= {"Convolution"}
    assert said["parameters"] > 0


def test_inspect_lists_layers_of_a_keras_architecture(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = [
        {"class_name": "InputLayer", "config": {"name": "in", "batch_input_shape": [None, 8, 8, 3]}},
        {"class_name": "Conv2D", "config": {"name": "conv", "filters": 4, "kernel_size": [3, 3], "padding": "same"}},
        {"class_name": "BatchNormalization", "config": {"name": "norm", "axis": [3]}},
    ]
    net = {"class_name": "Sequential", "keras_version": "2.4.0", "config": {"name": "net", "layers": layers}}
    (work / "net.json").write_text(json.dumps(net))
    assert main(["inspect", str(work / "net.json"), "--explain", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["type"] for row in said["layers"]] == ["InputLayer", "Conv2D", "BatchNormalization"]
    assert [row["parameters"] for row in said["layers"]] == [0, (3 * 3 * 3 + 1) * 4, 4 * 4]
    assert "holds none" in refused(["convert", str(work / "net.json"), "-o", str(work / "net.onnx")], capsys)


def test_inspect_explains_what_each_target_makes_of_a_trap(capsys: pytest.CaptureFixture[str]) -> None:
    net = GOLDEN / "pool_ave_ceil_clip"
    assert main(["inspect", str(net / "net.prototxt"), "--explain", "--json"]) == 0
    (trap, *_) = json.loads(capsys.readouterr().out)["traps"]
    assert "net.prototxt:3" in trap["where"]
    assert trap["targets"]["onnx"] == trap["targets"]["tflite"] == "exact"


def test_a_bug_of_ours_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("demitasse.conversion.convert", broken)
    assert main(["convert", *CONV, "-o", "net.onnx"]) == 3
    assert "please report" in capsys.readouterr().err
