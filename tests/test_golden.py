"""Carry small nets that real builds of Caffe ran through every format, and compare every blob with Caffe's."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from demitasse.conversion import convert
from demitasse.errors import Unsupported
from demitasse.ir.weights import Array
from demitasse.targets import TARGETS
from demitasse_validation.runtimes import open_runner
from golden_nets import CASES, Case, arrays_of


class Limit(NamedTuple):
    """A net that a format can't hold, and a word of what the refusal says."""

    net: str
    target: str
    says: str


# A row that has become untrue fails its test.
LIMITS = (
    Limit("caffe-forks/filter", "onnx", "Filter"),
    Limit("caffe-forks/filter", "tflite", "Filter"),
    Limit("caffe-forks/filter", "savedmodel", "Filter"),
    Limit("caffe-forks/roi_pooling", "tflite", "pools regions"),
    Limit("caffe-forks/roi_pooling", "savedmodel", "pools regions"),
)

# A blob agrees if it is within this share of its largest element: float32 rounding, with room for another order of
# additions in a reduction.
TOLERANCE = 1e-4


def assert_close(name: str, actual: Array, expected: Array) -> None:
    assert actual.shape == expected.shape, name
    peak = max(float(np.abs(expected).max()), 1e-6)
    assert np.isfinite(actual).all(), name
    assert np.abs(actual - expected).max() <= TOLERANCE * peak, name


@pytest.mark.parametrize("target", ["onnx", "tflite", "savedmodel"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_artifact_computes_what_caffe_computed(case: Case, target: str, tmp_path: Path) -> None:
    if target == "savedmodel":
        pytest.importorskip("tensorflow")
    path = tmp_path / f"net{TARGETS[target].suffix}"
    reading = {"stages": case.stages} if case.stages else {}
    limit = next((limit for limit in LIMITS if (limit.net, limit.target) == (case.name, target)), None)
    if limit is not None:
        with pytest.raises(Unsupported, match=limit.says):
            convert(case.structure, case.weights, out=path, reading=reading)
        assert not path.exists()
        return

    manifest = convert(case.structure, case.weights, out=path, reading=reading)

    document = TARGETS[target].read_document(path)
    assert document is not None
    assert document.provenance == manifest.provenance[target]
    assert "unmapped" not in {record.status for record in document.provenance}
    inputs, blobs = arrays_of(case)
    feeds = {port.tensor: np.ascontiguousarray(port.storage.store(inputs[port.name])) for port in document.inputs}
    runner = open_runner(path)
    outputs = runner.run(feeds)
    for port in document.outputs:
        result = port.storage.restore(outputs[port.tensor])
        assert_close(port.name, result, blobs[port.name])
        assert result.argmax() == blobs[port.name].argmax(), port.name
    held = {record.tensor: record for record in document.provenance if record.storage is not None and record.tensor}
    layers = runner.run_layers(feeds, held)
    for tensor, record in held.items():
        if record.blob in blobs and record.storage is not None:
            assert_close(record.blob, record.storage.restore(layers[tensor]), blobs[record.blob])


def test_no_more_is_refused_than_is_told() -> None:
    assert {(limit.net, limit.target) for limit in LIMITS if limit.target == "onnx"} == {("caffe-forks/filter", "onnx")}
    assert {limit.net for limit in LIMITS} <= {case.name for case in CASES}
