"""Equalized artifacts are compared with the source, layer by layer, by the factors that their documents record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demitasse.conversion import convert
from demitasse.errors import UsageError
from demitasse.ir.document import Document
from demitasse.readers import read
from demitasse.targets import TARGETS
from demitasse_validation.comparison import compare
from demitasse_validation.equalized import Equalization
from demitasse_validation.inputs import Random
from demitasse_validation.report import Report

pytest.importorskip("cv2")

TARGET = "tflite-int8"
INNER = "2bx"  # between two convolutions, in no sum
Exponents = dict[str, Any]


@pytest.fixture
def source(golden: Path) -> Path:
    return golden / "caffe" / "residual_net"


def documents(source: Path, path: Path) -> Document:
    shape = np.load(source / "io.npz")["in:data"].shape
    noise = np.random.default_rng(3).standard_normal((32, *shape[1:])).astype(np.float32)
    np.savez(path.parent / "noise.npz", data=noise)
    convert(source / "net.prototxt", source / "net.caffemodel", out=path, calibration=path.parent / "noise.npz")
    document = TARGETS[TARGET].read_document(path)
    assert document is not None
    return document


def recorded(document: Document) -> Exponents:
    return dict(document.options["int8"]["equalized"])


def with_record(path: Path, document: Document, exponents: Exponents) -> None:
    """Writes another record, of the same length, into an artifact."""
    old = document.to_json().encode()
    settings = {**document.options["int8"], "equalized": exponents}
    new = replace(document, options={**document.options, "int8": settings}).to_json().encode()
    content = path.read_bytes()
    assert content.count(old) == 1
    assert len(new) <= len(old)
    path.write_bytes(content.replace(old, new.ljust(len(old))))


def compared(path: Path, source: Path) -> Report:
    return compare([path], source / "net.prototxt", source / "net.caffemodel", inputs=Random(4, seed=5))


def test_a_sound_artifact_passes_with_every_layer_compared(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.int8.tflite"
    assert INNER in recorded(documents(source, path))
    report = compared(path, source)
    assert report.passed
    sizes = {layer.blob: layer.metrics["sqnr_db"] for layer in report.artifacts[0].layers if layer.metrics}
    assert len(sizes) > 5
    assert min(sizes.values()) > 15


def forgotten(exponents: Exponents) -> Exponents:
    return {name: each for name, each in exponents.items() if name != INNER}


def turned(exponents: Exponents) -> Exponents:
    return {**exponents, INNER: [*exponents[INNER][1:], exponents[INNER][0]]}


@pytest.mark.parametrize("change", [forgotten, turned])
def test_a_wrong_record_is_a_fault_of_its_layer(
    change: Callable[[Exponents], Exponents], source: Path, tmp_path: Path
) -> None:
    path = tmp_path / "net.int8.tflite"
    document = documents(source, path)
    with_record(path, document, change(recorded(document)))
    report = compared(path, source)
    assert not report.passed
    assert INNER in report.artifacts[0].divergence


@pytest.mark.parametrize("record", [{"2bx": [1]}, {"nowhere": [1, 2]}, {"2bx": "ab"}, [1]])
def test_a_record_of_another_net_is_refused(record: Any, source: Path, tmp_path: Path) -> None:
    document = documents(source, tmp_path / "net.int8.tflite")
    graph = read(source / "net.prototxt", source / "net.caffemodel")
    settings = {**document.options["int8"], "equalized": record}
    with pytest.raises(UsageError, match="equalized"):
        Equalization.of(graph, replace(document, options={**document.options, "int8": settings}))


def test_blobs_of_another_shape_are_left_to_the_report(source: Path, tmp_path: Path) -> None:
    document = documents(source, tmp_path / "net.int8.tflite")
    found = Equalization.of(read(source / "net.prototxt", source / "net.caffemodel"), document)
    name, factor = next(iter(found.factors.items()))
    array = np.ones((1, 99, 2, 2), np.float32)
    assert found.undone(name, array) is array
    fitting = np.ones((1, factor.size, 2, 2), np.float32)
    np.testing.assert_allclose(found.applied(name, found.undone(name, fitting)), fitting, rtol=1e-6)
