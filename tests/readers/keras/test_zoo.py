from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from demitasse.ir.evaluate import evaluate
from demitasse.readers.keras import read, security_findings

FILES = """
ethnicolr_census_lstm/model.h5
fer_mini_xception/model.hdf5
hyperlpr_keras/char_judgement.h5
hyperlpr_keras/char_judgement1.h5
hyperlpr_keras/char_rec.h5
hyperlpr_keras/plate_type.h5
mlperftiny_anomaly_fc_ae/model.hdf5
mlperftiny_resnet8_cifar10/model.h5
mlperftiny_resnet8_cifar10/model_trainedResnet.h5
mlperftiny_streaming_wakeword/model.h5
mlperftiny_streaming_wakeword/model_ref.h5
mlperftiny_vww_mobilenet025_96/model.h5
mobilenet_v1_025_128_imagenet_dequant/model.h5
mobilenet_v1_025_128_imagenet_dequant/model.keras
mobilenet_v2_10_224_imagenet_dequant/model.h5
oarriaga_big_xception/model.hdf5
openmv_mnist_cnn/model.h5
""".split()


@pytest.mark.parametrize("name", FILES)
def test_a_real_model_computes_what_keras_computed(name: str, zoo: Path) -> None:
    path = zoo / "keras" / name
    graph = read(path)
    with np.load(path.with_name(f"{path.stem}.golden.npz")) as golden:
        inputs = [golden[key] for key in golden.files if key.startswith("in:")]
        outputs = [golden[key] for key in golden.files if key.startswith("out:")]
        names = [key.split(":", 2)[2] for key in golden.files if key.startswith("in:")]
    assert graph.inputs == names
    values = evaluate(graph, dict(zip(graph.inputs, inputs, strict=True)), keep=graph.outputs)
    for name, expected in zip(graph.outputs, outputs, strict=True):
        np.testing.assert_allclose(values[name], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert security_findings(path) == []
