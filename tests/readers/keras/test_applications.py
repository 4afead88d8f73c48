from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demitasse.ir.evaluate import evaluate
from demitasse.readers.keras import read

keras = pytest.importorskip("keras")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*HDF5 file:UserWarning", "ignore:.*saving your model"),
]


def with_statistics(model: Any) -> Any:
    """Gives the batch statistics of a model random numbers, and returns the model."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        role, shape = weight.path.rpartition("/")[2], tuple(weight.shape)
        if role == "moving_variance":
            weight.assign(random.uniform(0.5, 1.5, shape))
        elif role in ("moving_mean", "beta", "bias"):
            weight.assign(random.normal(0, 0.1, shape))
    return model


@pytest.mark.parametrize(
    "name",
    ["MobileNet", "MobileNetV3Small", "EfficientNetB0", "DenseNet121", "ConvNeXtTiny", "NASNetMobile", "ResNet50"],
)
def test_an_application_computes_what_keras_computes(name: str, tmp_path: Path) -> None:
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    build = getattr(keras.applications, name)
    model = with_statistics(build(weights=None, input_shape=(96, 96, 3), classifier_activation=None))
    image = np.random.default_rng(1).uniform(0, 255, (2, 96, 96, 3)).astype(np.float32)
    expected = np.asarray(model(image))
    for file in ("net.h5", "net.keras"):
        model.save(tmp_path / file)
        graph = read(tmp_path / file)
        values = evaluate(graph, {graph.inputs[0]: image}, keep=graph.outputs)
        np.testing.assert_allclose(values[graph.outputs[0]], expected, rtol=0, atol=2e-5 * np.abs(expected).max())
