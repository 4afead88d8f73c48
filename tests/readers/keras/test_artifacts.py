"""Every layer, as Keras computes it, and as the artifacts that are made of its file do in runtimes of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from demitasse.conversion import convert
from demitasse.ir.ops import Layout
from demitasse.readers.keras import read
from demitasse_validation.runtimes import open_runner
from keras_models import MODELS, OLDER, inputs_for, outputs_of, randomized

keras = pytest.importorskip("keras")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*HDF5 file:UserWarning", "ignore:.*saving your model")
@pytest.mark.parametrize("name", [name for name in MODELS if name not in OLDER])
def test_a_layer_computes_in_every_format_what_keras_computes(name: str, tmp_path: Path) -> None:
    keras.backend.clear_session()
    model = randomized(MODELS[name](keras))
    inputs = inputs_for(model)
    expected = outputs_of(model, inputs)
    source = tmp_path / "net.h5"
    model.save(source)
    graph = read(source)
    for suffix in ("onnx", "tflite", "savedmodel"):
        artifact = tmp_path / f"net.{suffix}"
        convert(source, out=artifact, io_layout=Layout.CHANNELS_LAST)
        results = open_runner(artifact).run(dict(zip(graph.inputs, inputs, strict=True)))
        for output, want in zip(graph.outputs, expected, strict=True):
            np.testing.assert_allclose(results[output], want, rtol=0, atol=2e-5 * max(np.abs(want).max(), 1e-6))
