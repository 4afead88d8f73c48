"""Comparing quantized artifacts: noise is expected, and faults still stand out at the layer that has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from demitasse.conversion import convert
from demitasse_validation.comparison import compare
from demitasse_validation.inputs import Random
from demitasse_validation.report import ArtifactReport, Report

pytest.importorskip("cv2")


@pytest.fixture
def source(golden: Path) -> Path:
    return golden / "caffe" / "residual_net"


@pytest.fixture
def artifact(source: Path, tmp_path: Path) -> Path:
    shape = np.load(source / "io.npz")["in:data"].shape
    noise = np.random.default_rng(3).standard_normal((64, *shape[1:])).astype(np.float32)
    np.savez(tmp_path / "noise.npz", data=noise)
    path = tmp_path / "net.int8.tflite"
    convert(source / "net.prototxt", source / "net.caffemodel", out=path, calibration=tmp_path / "noise.npz")
    return path


def compared(artifact: Path, source: Path) -> tuple[Report, ArtifactReport]:
    report = compare([artifact], source / "net.prototxt", source / "net.caffemodel", inputs=Random(4, seed=5))
    return report, report.artifacts[0]


def edit(path: Path, name: str, change: Callable[[Any], None]) -> None:
    """Changes the tensor of a name, its quantization included, and writes the file anew."""
    import flatbuffers

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(path.read_bytes())))
    (tensor,) = [each for each in model.subgraphs[0].tensors if each.name.decode() == name]
    change(tensor.quantization)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


def scaled(factor: float) -> Callable[[Any], None]:
    def change(quantization: Any) -> None:
        quantization.scale = [scale * factor for scale in quantization.scale]

    return change


def rolled(quantization: Any) -> None:
    quantization.scale = [*quantization.scale[1:], quantization.scale[0]]


def test_a_sound_quantized_artifact_passes(artifact: Path, source: Path) -> None:
    report, result = compared(artifact, source)
    assert report.passed
    assert result.target == "tflite-int8"
    noise = {layer.blob: layer.metrics["sqnr_db"] for layer in result.layers if layer.metrics}
    assert all(15 < decibels < 60 for blob, decibels in noise.items() if blob != "data"), noise
    assert all(
        layer.limits and "sqnr_db" in layer.limits for layer in result.layers if layer.metrics and layer.blob != "prob"
    )


@pytest.mark.parametrize(
    ("tensor", "change", "blob"),
    [
        ("2bx/kernel", scaled(1.5), "2bx"),
        ("fc/kernel", rolled, "fc"),
        # Its maker rounds to coarser steps and its reader's bias doubles: there the numbers go wrong.
        ("2bx", scaled(2), "2by"),
        # A quarter of the range: most of it saturates.
        ("2ay", scaled(0.25), "2ay"),
    ],
)
def test_a_fault_stands_out_of_the_noise(
    artifact: Path, source: Path, tensor: str, change: Callable[[Any], None], blob: str
) -> None:
    edit(artifact, tensor, change)
    report, result = compared(artifact, source)
    assert report.exit_status == 1
    assert result.divergence[0] == blob
