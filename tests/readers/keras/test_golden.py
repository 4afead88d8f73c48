from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import GOLDEN
from demitasse.ir.evaluate import evaluate
from demitasse.readers.keras import read

FILES = sorted(path for path in (GOLDEN / "keras").iterdir() if path.suffix in (".h5", ".keras"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_computes_what_the_keras_that_wrote_it_computed(path: Path) -> None:
    # A file of Keras 1 doesn't say what it ran on.
    graph = read(path, backend="theano" if path.stem == "keras1_theano" else None)
    with np.load(path.with_suffix(".npz")) as golden:
        inputs = [golden[f"in:{index}"] for index in range(len(graph.inputs))]
        outputs = [golden[f"out:{index}"] for index in range(len(graph.outputs))]
    types = [graph.type(name).dtype.value for name in graph.inputs]
    given = {name: array.astype(dtype) for name, array, dtype in zip(graph.inputs, inputs, types, strict=True)}
    values = evaluate(graph, given, keep=graph.outputs)
    assert graph.batch_is_dynamic
    for name, expected in zip(graph.outputs, outputs, strict=True):
        assert values[name].shape == expected.shape
        np.testing.assert_allclose(values[name], expected, rtol=0, atol=5e-6 * np.abs(expected).max())
