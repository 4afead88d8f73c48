"""Recurrent layers are compared as the artifact computes them: as one node, or step by step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from conftest import GOLDEN
from demitasse.conversion import convert
from demitasse.targets import TARGETS
from demitasse_validation.comparison import compare
from demitasse_validation.inputs import Random
from demitasse_validation.report import Severity

SOURCE = GOLDEN / "keras" / "keras1_bidirectional.h5"
FORMATS = [name for name, target in TARGETS.items() if not target.calibrated]


def failures(path: Path) -> set[str | None]:
    """Returns the layers at which something fails; None for what fails as a whole."""
    report = compare([path], SOURCE, inputs=Random(3, seed=1))
    findings = [*report.findings, *(each for artifact in report.artifacts for each in artifact.findings)]
    return {each.layer for each in findings if each.severity is Severity.FAILURE}


@pytest.mark.parametrize("name", FORMATS)
def test_sound_artifacts_pass(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{TARGETS[name].suffix}"
    convert(SOURCE, out=path)
    assert not failures(path)


def larger_kernel(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    (tensor,) = [each for each in model.graph.initializer if each.name == node.input[1]]
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(numpy_helper.to_array(tensor) * 1.02), tensor.name))


def other_functions(_: onnx.ModelProto, node: onnx.NodeProto) -> None:
    kept = [each for each in node.attribute if not each.name.startswith("activation")]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("activations", ["Sigmoid", "Tanh", "Relu"])])


def turned(_: onnx.ModelProto, node: onnx.NodeProto) -> None:
    kept = [each for each in node.attribute if each.name != "direction"]
    is_ahead = len(kept) == len(node.attribute)
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("direction", "reverse" if is_ahead else "forward")])


@pytest.mark.parametrize("change", [larger_kernel, other_functions, turned])
def test_a_wrong_cell_fails_at_its_layer(
    change: Callable[[onnx.ModelProto, onnx.NodeProto], None], tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    convert(SOURCE, out=path)
    model = onnx.load(path)
    node = next(each for each in model.graph.node if each.op_type == "LSTM")
    change(model, node)
    onnx.save(model, path)
    assert node.name.partition("@")[0] in failures(path)
