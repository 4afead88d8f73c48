"""Comparing nets that choose boxes: constants are accounted for, and ties that few bits make are no faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe_encoder as encode
from demitasse.conversion import convert
from demitasse_validation.comparison import compare

PRIORS = 3  # a place: two sizes, and one flipped ratio... of which a box each is laid

HEAD = """
layer {{ name: "{name}_loc" type: "Convolution" bottom: "{name}" top: "{name}_loc"
  convolution_param {{ num_output: {boxes} kernel_size: 1 }} }}
layer {{ name: "{name}_conf" type: "Convolution" bottom: "{name}" top: "{name}_conf"
  convolution_param {{ num_output: {scores} kernel_size: 1 }} }}
layer {{ name: "{name}_loc_last" type: "Permute" bottom: "{name}_loc" top: "{name}_loc_last"
  permute_param {{ order: 0 order: 2 order: 3 order: 1 }} }}
layer {{ name: "{name}_conf_last" type: "Permute" bottom: "{name}_conf" top: "{name}_conf_last"
  permute_param {{ order: 0 order: 2 order: 3 order: 1 }} }}
layer {{ name: "{name}_loc_flat" type: "Flatten" bottom: "{name}_loc_last" top: "{name}_loc_flat" }}
layer {{ name: "{name}_conf_flat" type: "Flatten" bottom: "{name}_conf_last" top: "{name}_conf_flat" }}
layer {{ name: "{name}_priors" type: "PriorBox" bottom: "{name}" bottom: "data" top: "{name}_priors"
  prior_box_param {{ min_size: {size} max_size: {larger} aspect_ratio: 2 flip: false
    variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 }} }}
"""

TAIL = """
layer { name: "loc" type: "Concat" bottom: "a_loc_flat" bottom: "b_loc_flat" top: "loc" }
layer { name: "conf" type: "Concat" bottom: "a_conf_flat" bottom: "b_conf_flat" top: "conf" }
layer { name: "priors" type: "Concat" bottom: "a_priors" bottom: "b_priors" top: "priors" concat_param { axis: 2 } }
layer { name: "rows" type: "Reshape" bottom: "conf" top: "rows" reshape_param { shape { dim: 0 dim: -1 dim: 2 } } }
layer { name: "scores" type: "Softmax" bottom: "rows" top: "scores" softmax_param { axis: 2 } }
layer { name: "flat" type: "Flatten" bottom: "scores" top: "flat" }
layer { name: "found" type: "DetectionOutput" bottom: "loc" bottom: "flat" bottom: "priors" top: "found"
  detection_output_param { num_classes: 2 nms_param { nms_threshold: 0.45 top_k: 40 } code_type: CENTER_SIZE
    keep_top_k: 20 confidence_threshold: 0.3 } }
"""

NET = """
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 1 dim: 3 dim: 32 dim: 32 }} }} }}
layer {{ name: "norm" type: "BatchNorm" bottom: "data" top: "norm" }}
layer {{ name: "a" type: "Convolution" bottom: "norm" top: "a"
  convolution_param {{ num_output: 8 kernel_size: 3 pad: 1 stride: 4 }} }}
layer {{ name: "b" type: "Convolution" bottom: "a" top: "b"
  convolution_param {{ num_output: 8 kernel_size: 3 pad: 1 stride: 2 }} }}
{heads}
{tail}
"""


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, Path]:
    """Writes a single-shot detector of two scales with random weights."""
    random = np.random.default_rng(11)

    def layer(name: str, kind: str, *shapes: tuple[int, ...], low: float = -0.5) -> bytes:
        arrays = [random.uniform(low, 0.5, shape).astype(np.float32) for shape in shapes]
        return encode.layer(name, kind, *(encode.blob(array.shape, encode.packed(array)) for array in arrays))

    boxes, scores = 4 * PRIORS, 2 * PRIORS
    heads = "".join(
        HEAD.format(name=name, boxes=boxes, scores=scores, size=size, larger=2 * size)
        for name, size in (("a", 6), ("b", 14))
    )
    (tmp_path / "net.prototxt").write_text(NET.format(heads=heads, tail=TAIL))
    convolutions = [("a", 8, 3, 3), ("b", 8, 8, 3)]
    convolutions += [
        (f"{name}_{head}", count, 8, 1) for name in "ab" for head, count in (("loc", boxes), ("conf", scores))
    ]
    layers = [layer(name, "Convolution", (out, into, side, side), (out,)) for name, out, into, side in convolutions]
    layers.append(layer("norm", "BatchNorm", (3,), (3,), (1,), low=0.1))
    (tmp_path / "net.caffemodel").write_bytes(encode.net(*layers))
    return tmp_path / "net.prototxt", tmp_path / "net.caffemodel"


def test_a_detector_passes_in_every_format(source: tuple[Path, Path], tmp_path: Path) -> None:
    images = np.random.default_rng(3).normal(0, 1, (24, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "images.npz", data=images)
    targets = ["onnx", "tflite", "tflite-f16", "tflite-int8", "onnx-int8", "tflite-dynamic"]
    convert(*source, out=tmp_path / "out", to=targets, calibration=tmp_path / "images.npz")
    artifacts = sorted((tmp_path / "out").glob("net.*"))
    report = compare(artifacts, *source, inputs=tmp_path / "images.npz", independent=False)
    failures = [
        (artifact.name, finding.message)
        for artifact in report.artifacts
        for finding in artifact.findings
        if finding.severity.value == "failure"
    ]
    assert not failures
    assert len(report.artifacts) == len(targets)
    for artifact in report.artifacts:
        assert artifact.coverage["unmapped"] == 0
        assert {layer.blob for layer in artifact.layers} >= {"a_priors", "priors", "found"}
