"""Artifacts that take and give integers are compared like others: their runtimes convert at the ports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from demitasse.conversion import convert
from demitasse.quantize.artifact import Settings
from demitasse.readers import read
from demitasse_validation.runtimes import open_runner
from demitasse_validation.runtimes.evaluator import EvaluatorRunner


@pytest.mark.parametrize(
    ("name", "signed", "integer"),
    [("net.int8.onnx", False, "uint8"), ("net.int8.onnx", True, "int8"), ("net.int8.tflite", None, "int8")],
)
def test_ports_of_integers_are_fed_and_read_as_real_numbers(
    name: str, signed: bool | None, integer: str, golden: Path, tmp_path: Path
) -> None:
    source = [golden / "caffe" / "residual_net" / f"net.{suffix}" for suffix in ("prototxt", "caffemodel")]
    shape = np.load(source[0].with_name("io.npz"))["in:data"].shape
    rows = np.random.default_rng(3).standard_normal((32, *shape[1:])).astype(np.float32)
    np.savez(tmp_path / "noise.npz", data=rows)
    path = tmp_path / name
    convert(*source, out=path, calibration=tmp_path / "noise.npz", int8_io=True, quantization=Settings(signed=signed))
    runner = open_runner(path, threads=1)
    ((port, spec),), ((output, given),) = runner.inputs.items(), runner.outputs.items()
    assert (spec.dtype, spec.integer, given.dtype, given.integer) == ("float32", integer, "float32", integer)
    feed = rows[:1] if path.suffix == ".onnx" else rows[:1].transpose(0, 2, 3, 1)
    found = runner.run({port: np.ascontiguousarray(feed)})[output]
    expected = EvaluatorRunner(read(*source)).run({"data": rows[:1]})["prob"]
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=0.02)
    layers = runner.run_layers({port: np.ascontiguousarray(feed)}, [port, output])
    np.testing.assert_allclose(layers[output], found, atol=1.01 / 256)
