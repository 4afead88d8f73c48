"""The worked example of docs/plugins.md does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from demitasse import read
from demitasse.errors import Unsupported
from demitasse.ir.evaluate import evaluate
from keras_files import input_layer, layer, sequential, write_h5

DOCUMENT = Path(__file__).parent.parent / "docs" / "plugins.md"

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 1 dim: 3 } } }
layer { name: "g" type: "Gain" bottom: "data" top: "g" gain_param { gain: 2.5 offset: -1 %s } }
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    return example(tmp_path, "gain.py")


def example(folder: Path, name: str) -> Path:
    """Writes the document's example that begins with a file's name."""
    codes = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    (code,) = [code for code in codes if code.startswith(f"# {name}:")]
    path = folder / name
    path.write_text(code, "utf-8")
    return path


def prototxt(folder: Path, more: str = "") -> Path:
    path = folder / "net.prototxt"
    path.write_text(NET % more, "utf-8")
    return path


def test_a_plugin_reads_a_layer_that_nobody_else_knows(plugin: Path, tmp_path: Path) -> None:
    graph = read(prototxt(tmp_path), plugins=[plugin])
    data = np.arange(6, dtype=np.float32).reshape(1, 2, 1, 3)
    np.testing.assert_allclose(evaluate(graph, {"data": data})["g"], data * 2.5 - 1)


def test_without_it_the_error_lists_the_layers_fields(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"net\.prototxt:3, layer 'g' \(Gain\).*gain_param\.gain: 2\.5"):
        read(prototxt(tmp_path))


def test_a_field_that_the_plugin_does_not_read_is_an_error(plugin: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"gain_param\.twist: 3"):
        read(prototxt(tmp_path, "twist: 3"), plugins=[plugin])


def test_a_plugin_reads_a_keras_layer_that_nobody_else_knows(tmp_path: Path) -> None:
    config = sequential(input_layer("x", 3), layer("Swirl", "y", damped=True))
    rate = np.array([0.5, -1, 2], np.float32)
    net = write_h5(tmp_path / "net.h5", config, {"y": [("y/rate:0", rate)]})
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    graph = read(net, plugins=[example(tmp_path, "swirl.py")])
    np.testing.assert_allclose(evaluate(graph, {"x": x})["y"], x * np.exp(np.tanh(x * rate)), rtol=1e-6)
    with pytest.raises(Unsupported, match="no reader for 'Swirl'"):
        read(net)
