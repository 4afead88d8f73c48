"""Carry small nets that a real Caffe ran through every format, and compare every blob with what Caffe computed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from demitasse.conversion import convert
from demitasse.ir.graph import Graph
from demitasse.ir.weights import Array
from demitasse.readers import read
from demitasse.targets import TARGETS
from demitasse_validation.runtimes import open_runner

GOLDEN = Path(__file__).parent / "golden"

NETS = sorted(path.parent.relative_to(GOLDEN).as_posix() for path in GOLDEN.glob("caffe/*/net.prototxt"))

# Nets that a format can't hold, each with what its error says. A row that has become untrue fails its test.
LIMITS: dict[tuple[str, str], str] = {}

# A blob agrees if it is within this share of its largest element: float32 rounding, with room for another order of
# additions in a reduction.
TOLERANCE = 1e-4


@cache
def source(net: str) -> Graph:
    return read(GOLDEN / net / "net.prototxt", weights_of(net))


def weights_of(net: str) -> Path | None:
    path = GOLDEN / net / "net.caffemodel"
    return path if path.exists() else None


def blobs(net: str, kind: str) -> dict[str, Array]:
    with np.load(GOLDEN / net / "io.npz") as arrays:
        return {name.removeprefix(kind): arrays[name] for name in arrays.files if name.startswith(kind)}


def assert_close(name: str, actual: Array, expected: Array) -> None:
    assert actual.shape == expected.shape, name
    peak = max(float(np.abs(expected).max()), 1e-6)
    assert np.isfinite(actual).all(), name
    assert np.abs(actual - expected).max() <= TOLERANCE * peak, name


@pytest.mark.parametrize("target", ["onnx", "tflite", "savedmodel"])
@pytest.mark.parametrize("net", NETS)
def test_an_artifact_computes_what_caffe_computed(
    net: str, target: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if (net, target) in LIMITS:
        request.applymarker(pytest.mark.xfail(reason=LIMITS[net, target], strict=True))
    if target == "savedmodel":
        pytest.importorskip("tensorflow")
    path = tmp_path / f"net{TARGETS[target].suffix}"

    manifest = convert(GOLDEN / net / "net.prototxt", weights_of(net), out=path)

    document = TARGETS[target].read_document(path)
    assert document is not None
    assert document.provenance == manifest.provenance[target]
    assert "unmapped" not in {record.status for record in document.provenance}
    feeds = {
        port.tensor: np.ascontiguousarray(port.storage.store(blobs(net, "in:")[port.name])) for port in document.inputs
    }
    runner = open_runner(path)
    outputs = runner.run(feeds)
    expected = blobs(net, "out:")
    for port in document.outputs:
        assert_close(port.name, port.storage.restore(outputs[port.tensor]), expected[port.name])
    held = {record.tensor: record for record in document.provenance if record.storage is not None and record.tensor}
    layers = runner.run_layers(feeds, held)
    for tensor, record in held.items():
        if record.blob in expected and record.storage is not None:
            assert_close(record.blob, record.storage.restore(layers[tensor]), expected[record.blob])
