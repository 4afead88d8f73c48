"""Measuring speed: what is measured, what is said about it, and what is refused. No time itself is judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from demitasse.conversion import convert
from demitasse.errors import UsageError
from demitasse_validation.latency import ENOUGH_RUNS, Bounds, benchmark, cores, median_bounds
from demitasse_validation.report.terminal import latency_table


@pytest.fixture
def artifacts(golden: Path, tmp_path: Path) -> list[Path]:
    folder = golden / "caffe" / "residual_net"
    made = convert(folder / "net.prototxt", folder / "net.caffemodel", out=tmp_path / "made", to=["onnx", "tflite"])
    return [artifact.path for artifact in made.artifacts]


def test_every_artifact_is_measured_at_every_batch(artifacts: list[Path]) -> None:
    told: list[tuple[str, int, int]] = []
    results = benchmark(artifacts, batches=(1, 3), seconds=0.02, threads=1, progress=lambda *step: told.append(step))
    assert [(each.artifact, each.batch) for each in results] == [
        ("net.onnx", 1),
        ("net.onnx", 3),
        ("net.tflite", 1),
        ("net.tflite", 3),
    ]
    for each in results:
        assert each.runs >= 10
        assert each.warm_up > 1
        assert 0 < each.fastest <= each.bounds.low <= each.median <= each.bounds.high
        assert each.throughput == each.batch / each.median
        assert each.threads == 1
        assert each.device
        assert all(each.runs >= ENOUGH_RUNS[percent] for percent in each.percentiles)
        json.dumps(each.to_dict(), allow_nan=False)
    assert told[-1][1:] == (0, 0) or told[-1][1] <= told[-1][2]
    assert latency_table(results).row_count == 4


def test_a_fixed_batch_is_measured_alone(golden: Path, tmp_path: Path) -> None:
    folder = golden / "caffe" / "residual_net"
    convert(folder / "net.prototxt", folder / "net.caffemodel", out=tmp_path / "two.onnx", batch=2)
    (result,) = benchmark([tmp_path / "two.onnx"], batches=(1, 2), seconds=0.01)
    assert result.batch == 2
    assert result.threads == cores()
    with pytest.raises(UsageError, match="takes 2 samples at a time, not 1, 8; convert it with --batch dynamic"):
        benchmark([tmp_path / "two.onnx"], batches=(1, 8), seconds=0.01)


def test_a_gpu_that_is_not_there_is_never_replaced_silently(artifacts: list[Path]) -> None:
    with pytest.raises(UsageError, match=r"no GPU .*looked for graphics cards .*CUDAExecutionProvider") as caught:
        benchmark(artifacts, device="gpu")
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"device": "tpu"}, "no device 'tpu'; choose one of auto, cpu, gpu"),
        ({"seconds": 0}, "some seconds"),
        ({"batches": (0,)}, "1 or more"),
    ],
)
def test_a_bad_call_is_refused(artifacts: list[Path], options: dict[str, object], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        benchmark(artifacts, **options)  # type: ignore[arg-type]


def test_bounds_hold_the_median_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    true = float(np.log(2))  # of the exponential distribution, as skewed as latencies are
    for runs in (10, 30, 200):
        samples = np.sort(random.exponential(size=(2000, runs)), axis=1)
        hits = [bounds.low <= true <= bounds.high for bounds in map(median_bounds, samples)]
        assert np.mean(hits) >= 0.95
    assert median_bounds([1.0]) == Bounds(1.0, 1.0)
