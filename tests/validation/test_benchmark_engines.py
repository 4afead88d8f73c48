"""Every engine on real files, and those for graphics cards on a card that is only imagined. No time is judged."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fake_cards
from demitasse.conversion import convert
from demitasse.errors import MalformedModel, UsageError
from demitasse_validation.benchmark import Plan, Report, benchmark, devices, measure, select
from demitasse_validation.benchmark.engines import ENGINES, YARDSTICK, Engine, EngineKind, Settings
from demitasse_validation.benchmark.engines.litert import delegated
from demitasse_validation.benchmark.feeds import batch_axes, batched, fixed_batch, noise
from demitasse_validation.benchmark.lane import EngineLane, Process, RuntimeDied, answered
from demitasse_validation.benchmark.machine import differences, fingerprint
from demitasse_validation.benchmark.selection import labels
from demitasse_validation.benchmark.worker import Desk
from demitasse_validation.runtimes import TensorSpec
from fake_cards import CPU, CUDA, Card

ONE_THREAD = Settings(threads=1)
QUICK = Plan(seconds=0.002, threads=1, samples=1, rounds=2)


class DeskNextDoor:
    """A worker in this process, where tests can put a card that isn't there."""

    def __init__(self, settings: Settings) -> None:
        self._desk = Desk()

    def ask(self, question: str, /, **details: Any) -> dict[str, Any]:
        request = json.loads(json.dumps({"ask": question, **details}))
        return answered(json.loads(json.dumps(self._desk.answer(request))))

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def artifacts(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small net as .onnx, .tflite and .savedmodel of any batch, and its source."""
    folder = golden / "caffe" / "residual_net"
    source, weights = folder / "net.prototxt", folder / "net.caffemodel"
    targets = ["onnx", "tflite", "savedmodel"]
    made = convert(source, weights, out=tmp_path_factory.mktemp("made"), to=targets, batch="dynamic")
    return {each.path.suffix: each.path for each in made.artifacts} | {".prototxt": source, ".caffemodel": weights}


def opened(kind: EngineKind, path: Path, settings: Settings = ONE_THREAD) -> Engine:
    module, name = kind.place
    engine: Engine = getattr(importlib.import_module(module), name)(path, settings, **kind.options)
    return engine


# --- engines on the CPU ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["onnxruntime", "litert", "opencv"])
@pytest.mark.parametrize("batch", [1, 3])
def test_an_engine_runs_a_real_file_at_any_batch(name: str, batch: int, artifacts: Mapping[str, Path]) -> None:
    kind = ENGINES[name]
    settings = replace(ONE_THREAD, weights=str(artifacts[".caffemodel"]))
    engine = opened(kind, artifacts[kind.suffixes[0]], settings)
    assert engine.batch is None
    engine.prepare(batch, seed=0)
    engine.run()
    engine.compute()
    assert not engine.placement().fell_back
    assert sum(engine.placement().counts.values()) > 5
    assert engine.device_memory() is None


def test_litert_runs_the_whole_net_in_xnnpack(artifacts: Mapping[str, Path]) -> None:
    engine = opened(ENGINES["litert"], artifacts[".tflite"])
    engine.prepare(1, 0)
    assert engine.placement().summary.endswith("in XNNPACK")


def test_tensorflow_runs_in_a_process_of_its_own(artifacts: Mapping[str, Path]) -> None:
    line = str(benchmark(artifacts[".savedmodel"], seconds=0.01, threads=1))
    assert " ms p50 (" in line
    assert line.endswith("images/s, 1 threads, CPU")


def test_what_a_delegate_takes_over_is_followed_from_its_outputs_to_its_inputs() -> None:
    operators = [
        {"index": 0, "op_name": "CONV_2D", "inputs": [0, 9], "outputs": [1]},
        {"index": 1, "op_name": "GATHER", "inputs": [1], "outputs": [2]},
        {"index": 2, "op_name": "RELU", "inputs": [2], "outputs": [3]},
        {"index": 3, "op_name": "SOFTMAX", "inputs": [3], "outputs": [4]},
        {"index": 4, "op_name": "DELEGATE", "inputs": [0, 9], "outputs": [1]},
        {"index": 5, "op_name": "DELEGATE", "inputs": [2], "outputs": [4]},
    ]
    found = {node.type: node.place for node in delegated(operators, "XNNPACK", "kernels")}
    assert found == {"CONV_2D": "XNNPACK", "GATHER": "kernels", "RELU": "XNNPACK", "SOFTMAX": "XNNPACK"}


@pytest.mark.parametrize("name", ["onnxruntime", "litert"])
def test_a_damaged_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{ENGINES[name].suffixes[0]}"
    path.write_bytes(b"no model")
    with pytest.raises(MalformedModel, match="refuses it"):
        opened(ENGINES[name], path)


# --- inputs ----------------------------------------------------------------------------------------------------

SPECS = {"image": TensorSpec((None, 4, 4, 3), "float32"), "ids": TensorSpec((None, 2), "int64")}


def test_inputs_get_the_batch_and_values_that_no_model_chokes_on() -> None:
    axes = batch_axes(None, SPECS)
    shapes = batched("net.onnx", axes, SPECS, 5)
    feeds = noise(SPECS, shapes, 0)
    assert {name: array.shape for name, array in feeds.items()} == {"image": (5, 4, 4, 3), "ids": (5, 2)}
    assert not feeds["ids"].any()
    assert np.array_equal(feeds["image"], noise(SPECS, shapes, 0)["image"])
    pixels = noise({"p": TensorSpec((9, 99), "uint8")}, {"p": (9, 99)}, 0)["p"]
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_a_fixed_batch_and_a_free_dimension_are_refused_with_what_helps() -> None:
    fixed = {"x": TensorSpec((2, 3), "float32")}
    assert fixed_batch({"x": 0}, fixed) == 2
    with pytest.raises(UsageError, match="takes a batch of 2 only; convert it with --batch dynamic or --batch 8"):
        batched("net.onnx", {"x": 0}, fixed, 8)
    with pytest.raises(UsageError, match="free dimensions; convert it with --input-shape"):
        batched("net.onnx", {"x": 0}, {"x": TensorSpec((None, None), "float32")}, 8)


# --- workers ---------------------------------------------------------------------------------------------------


def test_a_process_says_what_a_model_costs(artifacts: Mapping[str, Path]) -> None:
    worker = Process(ONE_THREAD)
    lane = EngineLane(ENGINES["onnxruntime"], artifacts[".onnx"], ONE_THREAD, worker)
    loaded = lane.load()
    assert loaded.runtime.startswith("ONNX Runtime")
    assert min(loaded.import_seconds, loaded.load_seconds, lane.prepare(2, 0)) > 0
    assert lane.warm("run", 0.01).calls >= 3
    assert sum(lane.block("compute", 0.01)) >= 0.01
    # What the process needs for itself, and no more than this one has: the peak is the worker's own.
    assert 10**7 < lane.memory().host < 10**9
    worker.close()


def test_a_runtime_that_dies_is_told_with_its_last_words() -> None:
    died = replace(YARDSTICK, place=("benchmark_that_dies", "Engine"))
    worker = Process(ONE_THREAD)
    with pytest.raises(RuntimeDied, match=r"ended with status 1 when asked to load\n(.|\n)*ModuleNotFoundError"):
        EngineLane(died, Path("net.onnx"), ONE_THREAD, worker).load()
    with pytest.raises(RuntimeDied):
        worker.ask("memory")
    worker.close()


def test_what_a_runtime_prints_is_no_answer(artifacts: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text(
        "import os, sys\nprint('hello')\nos.write(1, b'{}\\n')\n"
        "from demitasse_validation.benchmark.engines.yardstick import Yardstick\n",
        "utf-8",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        worker = Process(ONE_THREAD)
    chatty = replace(YARDSTICK, place=("chatty", "Yardstick"))
    assert EngineLane(chatty, Path(), ONE_THREAD, worker).load().runtime.startswith("numpy")
    worker.close()


# --- devices ---------------------------------------------------------------------------------------------------


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_library", lambda name: False)
    monkeypatch.setenv("PATH", "")


def suffixed(*artifacts: Path) -> list[Path]:
    return [path for path in artifacts if path.suffix != ".savedmodel"]


def test_a_card_that_is_not_there_is_an_error_that_says_what_was_looked_for(
    no_card: None, artifacts: Mapping[str, Path]
) -> None:
    paths = [artifacts[suffix] for suffix in (".onnx", ".tflite", ".savedmodel")]
    with pytest.raises(UsageError) as caught:
        select(paths, device="gpu", workers=DeskNextDoor)
    text = str(caught.value)
    assert caught.value.exit_status == 2
    assert "net.onnx: onnxruntime-cuda: ONNX Runtime" in text
    assert "without CUDAExecutionProvider" in text
    assert "without TensorrtExecutionProvider" in text
    assert "net.tflite: litert-gpu: libvulkan.so.1 (the Vulkan loader) can't be loaded" in text
    assert "net.savedmodel: tensorflow-gpu: libcuda.so.1 (the NVIDIA driver) can't be loaded" in text


def test_auto_takes_the_cpu_where_there_is_no_card_and_says_so(no_card: None, artifacts: Mapping[str, Path]) -> None:
    (chosen,) = select([artifacts[".onnx"]], workers=DeskNextDoor)
    assert (chosen.kind.name, chosen.kind.device) == ("onnxruntime", "cpu")


@pytest.mark.parametrize(
    ("engines", "message"),
    [
        (["cuda"], "there is no engine 'cuda'; there are onnxruntime, "),
        (["litert"], "no engine of those named runs it"),
    ],
)
def test_engines_that_do_not_fit_are_refused(engines: list[str], message: str, artifacts: Mapping[str, Path]) -> None:
    with pytest.raises(UsageError, match=message):
        select([artifacts[".onnx"]], device="cpu", engines=engines, workers=DeskNextDoor)


def test_files_that_are_missing_or_unknown_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file:\n.*a.onnx\n.*b.onnx"):
        select([tmp_path / "a.onnx", tmp_path / "b.onnx"], device="cpu")
    (tmp_path / "net.h5").touch()
    with pytest.raises(UsageError, match=r"nothing here runs files ending in '.h5'; known are .onnx, "):
        select([tmp_path / "net.h5"], device="cpu")


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/a/x.onnx", "/a/y.onnx"], ["x.onnx", "y.onnx"]),
        (["/a/net.onnx", "/b/net.onnx", "/b/net.tflite"], ["a/net.onnx", "b/net.onnx", "net.tflite"]),
        (["/a/net.onnx", "/a/net.onnx"], ["net.onnx", "net.onnx (2)"]),
    ],
)
def test_models_of_one_name_are_told_apart(paths: list[str], expected: list[str]) -> None:
    assert labels(list(map(Path, paths))) == expected


def test_the_driver_is_asked_for_cards_and_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_cards.install_driver(monkeypatch, tmp_path, ["libcuda.so.1"])
    assert devices.cards() == (devices.Card("NVIDIA Imaginary 100", "560.35", 81559),)
    assert devices.memory_in_use() == 2**30
    assert devices.nvidia_absent() is None
    assert fingerprint()["cards"] == ["NVIDIA Imaginary 100, 81559 MiB"]
    assert differences(fingerprint(), fingerprint()) == []


@pytest.mark.parametrize("script", ["exit 9", "echo nonsense", "exec cat /dev/null"])
def test_a_driver_that_is_broken_has_no_card(script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_cards.install_driver(monkeypatch, tmp_path, ["libcuda.so.1"])
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n", "ascii")
    assert devices.cards() == ()
    assert "nvidia-smi lists no card" in (devices.nvidia_absent() or "")


# --- engines on a card -----------------------------------------------------------------------------------------


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Card:
    """A card, its driver, and runtimes that can use it."""
    card = Card()
    libraries = ["libcuda.so.1", "libnvinfer.so.10", "libvulkan.so.1"]
    fake_cards.install_driver(monkeypatch, tmp_path, libraries)
    fake_cards.install_onnxruntime(monkeypatch, card)
    fake_cards.install_litert(monkeypatch, card)
    fake_cards.install_tensorflow(monkeypatch, card)
    return card


# An engine, the file that it runs here, and what a call does: host to host, and bound to the card.
ON_CARD = [
    ("onnxruntime-cuda", ".onnx", ["to card", "run", "from card"], ["run", "wait"]),
    ("onnxruntime-tensorrt", ".onnx", ["to card", "run", "from card"], ["run", "wait"]),
    # LiteRT doesn't tell when it is done; reading the outputs waits for it.
    ("litert-gpu", ".tflite", ["to card", "run", "from card"], ["run", "from card"]),
    ("tensorflow-gpu", ".savedmodel", ["to /GPU:0", "run", "from card"], ["run", "wait"]),
]


@pytest.mark.parametrize(("name", "suffix", "host", "bound"), ON_CARD)
def test_host_to_host_copies_and_compute_only_does_not(
    name: str, suffix: str, host: list[str], bound: list[str], card: Card, artifacts: Mapping[str, Path]
) -> None:
    engine = opened(ENGINES[name], artifacts[suffix])
    engine.prepare(2, 0)
    card.take()
    engine.run()
    assert card.take() == host
    engine.compute()
    assert card.take() == bound


@pytest.mark.parametrize(("name", "suffix"), [row[:2] for row in ON_CARD])
@pytest.mark.parametrize("strays", [0, 1])
def test_a_fallback_to_the_cpu_is_caught(
    name: str, suffix: str, strays: int, card: Card, artifacts: Mapping[str, Path]
) -> None:
    card.strays = strays
    engine = opened(ENGINES[name], artifacts[suffix])
    engine.prepare(1, 0)
    placement = engine.placement()
    assert placement.fell_back == bool(strays)
    assert bool(placement.describe_strays()) == bool(strays)


def test_cards_compute_in_float32_unless_told_otherwise(card: Card, artifacts: Mapping[str, Path]) -> None:
    opened(ENGINES["onnxruntime-cuda"], artifacts[".onnx"])
    assert card.settings[CUDA] == {"use_tf32": "0"}
    opened(ENGINES["onnxruntime-cuda"], artifacts[".onnx"], replace(ONE_THREAD, tf32=True))
    assert card.settings[CUDA] == {"use_tf32": "1"}
    opened(ENGINES["litert-gpu"], artifacts[".tflite"])
    assert card.settings["gpu_options"] == {"enforce_f32": True}


def test_tensorflow_leaves_no_placement_to_chance(
    monkeypatch: pytest.MonkeyPatch, card: Card, artifacts: Mapping[str, Path]
) -> None:
    engine = opened(ENGINES["tensorflow-gpu"], artifacts[".savedmodel"])
    expected = {"soft placement": False, "tf32": False, "growth": True, "threads": 1}
    assert expected.items() <= card.settings.items()
    engine.prepare(1, 0)
    assert engine.device_memory() == 5 * 2**20
    opened(ENGINES["tensorflow"], artifacts[".savedmodel"])
    assert card.settings["visible"] == []
    fake_cards.install_tensorflow(monkeypatch, card, sees=0)
    with pytest.raises(UsageError, match="lists no GPU"):
        opened(ENGINES["tensorflow-gpu"], artifacts[".savedmodel"])


def test_a_provider_that_does_not_start_is_no_silent_cpu_run(
    monkeypatch: pytest.MonkeyPatch, card: Card, artifacts: Mapping[str, Path]
) -> None:
    fake_cards.install_onnxruntime(monkeypatch, card, starts=False)
    fake_cards.install_litert(monkeypatch, card, starts=False)
    for name, suffix, message in (
        ("onnxruntime-cuda", ".onnx", "could not start CUDAExecutionProvider, and would run on the CPU"),
        ("litert-gpu", ".tflite", "can't start its GPU accelerator: └ ERROR: No adapters found"),
    ):
        with pytest.raises(UsageError, match=message):
            opened(ENGINES[name], artifacts[suffix])
        with pytest.raises(UsageError, match=message):
            select([artifacts[suffix]], device="gpu", workers=DeskNextDoor)
        (chosen,) = select([artifacts[suffix]], workers=DeskNextDoor)
        assert chosen.kind.device == "cpu"


def test_an_accelerator_that_leaves_even_one_operation_to_the_cpu_is_none(
    card: Card, artifacts: Mapping[str, Path]
) -> None:
    card.strays = 3
    with pytest.raises(UsageError, match="it leaves a net of one operation to another device: the model"):
        select([artifacts[".tflite"]], device="gpu", workers=DeskNextDoor)


@pytest.mark.parametrize(
    ("libraries", "built", "reason"),
    [
        (["libcuda.so.1"], [CPU], "is built without CUDAExecutionProvider (it has CPUExecutionProvider)"),
        ([], [CUDA, CPU], "libcuda.so.1 (the NVIDIA driver) can't be loaded"),
        (["libcuda.so.1"], [CUDA, CPU], None),
    ],
)
def test_a_provider_needs_its_build_and_its_driver(
    libraries: list[str],
    built: list[str],
    reason: str | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    fake_cards.install_driver(monkeypatch, tmp_path, libraries)
    fake_cards.install_onnxruntime(monkeypatch, Card(), built)
    lane = EngineLane(ENGINES["onnxruntime-cuda"], Path(), ONE_THREAD, DeskNextDoor(ONE_THREAD))
    found = lane.absent()
    assert (found is None) == (reason is None)
    assert reason is None or reason in (found or "")


# --- whole runs ------------------------------------------------------------------------------------------------


def run(paths: list[Path], plan: Plan = QUICK, device: str = "gpu", batches: tuple[int, ...] = (1,)) -> Report:
    chosen = select(paths, device=device, workers=DeskNextDoor)
    return measure(chosen, plan, batches=batches, workers=DeskNextDoor)


def test_a_whole_run_on_a_card_is_valid_and_names_where_it_ran(card: Card, artifacts: Mapping[str, Path]) -> None:
    report = run([artifacts[".onnx"], artifacts[".savedmodel"], artifacts[".tflite"]])
    assert {result.engine: result.placement.summary for result in report.results} == {
        "onnxruntime-cuda": "all 3 in CUDAExecutionProvider",
        "onnxruntime-tensorrt": "all 3 in TensorrtExecutionProvider",
        "tensorflow-gpu": "all 3 in GPU:0",
        "litert-gpu": "all 1 in GPU",
    }
    assert report.exit_status == 0
    assert len(report.comparisons) == 3
    assert all(result.device == "gpu" and result.device_memory is not None for result in report.results)


def test_a_run_that_fell_back_is_invalid_unless_that_is_allowed(card: Card, artifacts: Mapping[str, Path]) -> None:
    chosen = select([artifacts[".onnx"], artifacts[".savedmodel"]], device="gpu", workers=DeskNextDoor)
    card.strays = 1
    report = measure(chosen, QUICK, workers=DeskNextDoor)
    assert report.exit_status == 1
    for result in report.results:
        assert not result.is_valid
        assert "did not run on the GPU: Softmax 'softmax' in CPU" in result.faults[0]
    assert {each.judgement.verdict.value for each in report.comparisons} == {"INVALID"}
    allowed = measure(chosen, replace(QUICK, allow_fallback=True), workers=DeskNextDoor)
    assert allowed.exit_status == 0
    assert "did not run on the GPU" in allowed.results[0].notes[0]


def test_a_batch_that_does_not_fit_on_the_card_fails_alone(card: Card, artifacts: Mapping[str, Path]) -> None:
    card.memory = 8
    report = run([artifacts[".onnx"], artifacts[".savedmodel"]], batches=(8, 16))
    assert {result.batch for result in report.results} == {8}
    reasons = {failure.engine: failure.reason for failure in report.failures}
    assert "Failed to allocate memory" in reasons["onnxruntime-cuda"]
    assert reasons["tensorflow-gpu"].endswith("OOM when allocating tensor")
    assert report.exit_status == 1


def test_a_fixed_batch_is_left_out_of_a_sweep(golden: Path, tmp_path: Path) -> None:
    folder = golden / "caffe" / "residual_net"
    for name, batch in (("one", 1), ("any", "dynamic")):
        convert(folder / "net.prototxt", folder / "net.caffemodel", out=tmp_path / f"{name}.onnx", batch=batch)
    paths = [tmp_path / "one.onnx", tmp_path / "any.onnx"]
    report = run(paths, device="cpu", batches=(1, 2))
    assert [result.key[::2] for result in report.results] == [("one.onnx", 1), ("any.onnx", 1), ("any.onnx", 2)]
    assert "one.onnx takes a batch of 1 only, and is left out at 2" in report.notes
    with pytest.raises(UsageError, match=r"nothing to time:(.|\n)*one.onnx takes a batch of 1 only"):
        run(paths[:1], device="cpu", batches=(4,))


def test_one_artifact_alone_says_why_it_can_not_be_timed(golden: Path, tmp_path: Path) -> None:
    folder = golden / "caffe" / "residual_net"
    convert(folder / "net.prototxt", folder / "net.caffemodel", out=tmp_path / "two.onnx", batch=2)
    with pytest.raises(UsageError, match="takes a batch of 2 only"):
        benchmark(tmp_path / "two.onnx", seconds=0.01)


# --- the command -----------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    from demitasse.cli import main

    def call(*arguments: object) -> int:
        return main(["benchmark", *map(str, arguments), "--seconds", "0.01", "--samples", "1", "--threads", "1", "-q"])

    return call


def test_the_command_times_stores_and_compares(
    quick: Callable[..., int], artifacts: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = artifacts[".prototxt"], artifacts[".caffemodel"]
    stored = tmp_path / "base.json"
    options = "--save", stored, "--report", tmp_path / "out", "--source", *source
    assert quick(artifacts[".onnx"], *options) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("onnxruntime", "opencv", "SingleStream", "Offline", "noise"))
    assert (tmp_path / "out" / "benchmark.svg").read_text("utf-8").startswith("<svg")
    # Margins as wide as this let no noise of a shared machine fail the test.
    assert quick(artifacts[".onnx"], "--against", stored, "--json", "--margin", "1000000") == 0
    data = json.loads(capsys.readouterr().out)
    assert [each["contender"] for each in data["regressions"]] == ["net.onnx in onnxruntime"]
    assert {each["name"] for each in data["scenarios"]} == {"SingleStream", "Offline"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "--batch 0: must be a whole number"),
        (["--batch", ","], "--batch ,: must be a whole number"),
        (["--margin", "-1"], "--margin -1: must be a number above 0"),
        (["--against", "absent.json"], "absent.json: can't be read"),
        (["--source", "a", "b", "c"], "--source takes a prototxt and its weights"),
        (["--engine", "cuda"], "there is no engine 'cuda'"),
    ],
)
def test_a_bad_call_is_status_2(
    options: list[str],
    message: str,
    quick: Callable[..., int],
    artifacts: Mapping[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert quick(artifacts[".onnx"], *options) == 2
    assert message in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_status_2(
    quick: Callable[..., int], artifacts: Mapping[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which("nvidia-smi") is not None:
        pytest.skip("there is a GPU")
    assert quick(artifacts[".onnx"], "--device", "gpu") == 2
    assert "can't run on a graphics card" in capsys.readouterr().err
