"""Compares artifacts with what a real Caffe computed: compare_golden.py IO.NPZ ARTIFACT...

It imports nothing of Demitasse, so that a fault there cannot hide itself. The net has one image input and one
image output; ONNX keeps Caffe's NCHW, TFLite has NHWC.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from onnxruntime import InferenceSession

TOLERANCE = 1e-5  # of the output's peak; float32 sums of a few dozen products differ by less


def run(artifact: Path, x: np.ndarray) -> np.ndarray:
    """Returns the artifact's output for `x`, both NCHW."""
    if artifact.suffix == ".onnx":
        session = InferenceSession(artifact, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])
    runner = Interpreter(str(artifact)).get_signature_runner()
    (name,) = runner.get_input_details()
    (y,) = runner(**{name: np.ascontiguousarray(x.transpose(0, 2, 3, 1))}).values()
    return np.asarray(y).transpose(0, 3, 1, 2)


def main(golden: str, *artifacts: str) -> str | None:
    """Prints an error an artifact; returns a message for the ones that are off."""
    with np.load(golden) as arrays:
        (x,) = (arrays[name] for name in arrays if name.startswith("in:"))
        (expected,) = (arrays[name] for name in arrays if name.startswith("out:"))
    off = []
    for artifact in artifacts:
        y = run(Path(artifact), x)
        error = np.abs(y - expected).max() / np.abs(expected).max() if y.shape == expected.shape else np.nan
        print(f"{artifact}: {error:.1e} of the peak")
        if not error <= TOLERANCE:
            off.append(artifact)
    return f"not what Caffe computed: {', '.join(off)}" if off else None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
