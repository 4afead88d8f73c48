"""What other tools do, a command a job, each to be timed as a whole process: `python rivals.py JOB FILES`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def write_keras_resnet50(out: str) -> None:
    """Write Keras's own ResNet-50 with random weights as one H5 file."""
    import keras

    keras.utils.set_random_seed(0)
    keras.applications.ResNet50(weights=None).save(out)


def write_images(out: str, count: str = "8") -> None:
    """Write images of noise for calibration, as Keras's ResNet-50 takes them."""
    import numpy as np

    random = np.random.default_rng(0)
    np.save(out, random.normal(0, 60, (int(count), 224, 224, 3)).astype(np.float32))


def tf2onnx(source: str, out: str) -> None:
    """Convert a Keras file with tf2onnx."""
    import tensorflow
    import tf2onnx.convert

    model = _loaded(source)
    signature = (tensorflow.TensorSpec((None, 224, 224, 3), tensorflow.float32, name="input"),)
    function = tensorflow.function(model, input_signature=signature)
    tf2onnx.convert.from_function(function, input_signature=signature, opset=17, output_path=out)


def tflite(source: str, out: str) -> None:
    """Convert a Keras file with TFLiteConverter."""
    Path(out).write_bytes(_converter(source).convert())


def tflite_int8(source: str, images: str, out: str) -> None:
    """Quantize a Keras file to 8 bits with TFLiteConverter, calibrated on images."""
    import numpy as np
    import tensorflow

    given = np.load(images)

    def representative() -> Iterator[list[Any]]:
        yield from ([image[np.newaxis]] for image in given)

    converter = _converter(source)
    converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tensorflow.lite.OpsSet.TFLITE_BUILTINS_INT8]
    Path(out).write_bytes(converter.convert())


def savedmodel(source: str, out: str) -> None:
    """Export a Keras file as a SavedModel with Keras."""
    _loaded(source).export(out, verbose=False)


def opencv(prototxt: str, caffemodel: str) -> None:
    """Load a Caffe net into OpenCV's importer, and write nothing."""
    import cv2

    cv2.dnn.readNetFromCaffe(prototxt, caffemodel)


def _loaded(source: str) -> Any:
    import keras

    return keras.saving.load_model(source, compile=False)


def _converter(source: str) -> Any:
    import tensorflow

    return tensorflow.lite.TFLiteConverter.from_keras_model(_loaded(source))


JOBS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (write_keras_resnet50, write_images, tf2onnx, tflite, tflite_int8, savedmodel, opencv)
}

if __name__ == "__main__":
    JOBS[sys.argv[1]](*sys.argv[2:])
