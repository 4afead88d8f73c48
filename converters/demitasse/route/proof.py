"""Runs what a foreign converter wrote, once, and compares it with Keras: a quick proof, before any validation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from demitasse.errors import Offence, Unsupported
from demitasse.ir.document import Document
from demitasse.ir.graph import Graph
from demitasse.ir.weights import Array
from demitasse.route.net import KerasNet, saying_what_failed
from demitasse.samples import Samples

__all__ = ["check"]

MOST_DISTANCE = {"onnx": 1e-3, "savedmodel": 1e-3, "tflite": 1e-3, "tflite-f16": 5e-2}
"""How far an output may be off in units of its peak; INT8 has to be finite."""


def check(net: KerasNet, graph: Graph, path: Path, document: Document, samples: Samples | None) -> None:
    """Run an artifact and Keras on the same inputs.

    Raises:
        Unsupported: outputs are missing, have another shape, aren't finite, or are off; all are listed.
    """
    feeds = _feeds(graph, samples)
    expected = net.run(feeds, graph.outputs)
    named = {port.tensor: feeds[port.name] for port in document.inputs}
    with saying_what_failed(f"{document.target}: the file that was written doesn't run", Unsupported, *_faults(path)):
        results = _RUNS[path.suffix](path, named)
    offences = []
    for port in document.outputs:
        fault = _fault(expected[port.name], results.get(port.tensor), MOST_DISTANCE.get(document.target))
        if fault:
            offences.append(Offence(f"{document.target}, output {port.name!r}", fault))
    if offences:
        raise Unsupported("what the converter wrote doesn't compute what Keras computes", offences)


def _feeds(graph: Graph, samples: Samples | None) -> dict[str, Array]:
    """Return inputs for one run: of the first sample where there is one, else noise, and zeros for indices."""
    first = next(iter(samples), {}) if samples is not None else {}
    random = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for name in graph.inputs:
        shape, dtype = graph.type(name)
        if name in first:
            feeds[name] = np.resize(first[name], shape)
        elif dtype.is_float:
            feeds[name] = random.standard_normal(shape).astype(np.float32)
        else:
            feeds[name] = np.zeros(shape, dtype.value)
    return feeds


def _fault(expected: Array, got: Array | None, most: float | None) -> str:
    """Say what is wrong with an output; nothing, if nothing is."""
    if got is None:
        return "the file has no such output"
    if got.shape != expected.shape:
        return f"it is {list(got.shape)}, and {list(expected.shape)} in Keras"
    finite = np.isfinite(expected)
    if not np.isfinite(got[finite]).all():
        return "it isn't finite"
    if most is None or not finite.any():
        return ""
    peak = float(np.abs(expected[finite]).max())
    distance = float(np.abs(got[finite].astype(np.float64) - expected[finite]).max()) / (peak or 1)
    return "" if distance <= most else f"it is off by {distance:.2g} of its peak"


def _run_onnx(path: Path, feeds: Mapping[str, Array]) -> dict[str, Array]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _run_tflite(path: Path, feeds: Mapping[str, Array]) -> dict[str, Array]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    inputs = {detail["name"]: detail for detail in interpreter.get_input_details()}
    for name, array in feeds.items():
        if tuple(inputs[name]["shape"]) != array.shape:
            interpreter.resize_tensor_input(inputs[name]["index"], array.shape, strict=True)
    interpreter.allocate_tensors()
    for name, array in feeds.items():
        interpreter.set_tensor(inputs[name]["index"], _integers(array, inputs[name]))
    interpreter.invoke()
    outputs = interpreter.get_output_details()
    return {detail["name"]: _reals(interpreter.get_tensor(detail["index"]), detail) for detail in outputs}


def _integers(array: Array, detail: Mapping[str, Any]) -> Array:
    scale, zero_point = detail["quantization"]
    if not scale:
        return array
    limits = np.iinfo(detail["dtype"])
    integers: Array = np.clip(np.rint(array / scale) + zero_point, limits.min, limits.max)
    return integers.astype(detail["dtype"])


def _reals(array: Array, detail: Mapping[str, Any]) -> Array:
    scale, zero_point = detail["quantization"]
    reals: Array = (array.astype(np.float32) - zero_point) * scale if scale else array
    return reals


def _run_saved_model(path: Path, feeds: Mapping[str, Array]) -> dict[str, Array]:
    import tensorflow

    signature = tensorflow.saved_model.load(str(path)).signatures["serving_default"]
    # Python's arguments are identifiers; TensorFlow replaces whatever else a name holds.
    arguments = dict(zip(sorted(signature.structured_input_signature[1]), sorted(feeds), strict=True))
    results = signature(**{argument: tensorflow.constant(feeds[name]) for argument, name in arguments.items()})
    return {name: result.numpy() for name, result in results.items()}


_RUNS = {".onnx": _run_onnx, ".tflite": _run_tflite, ".savedmodel": _run_saved_model}


def _faults(path: Path) -> tuple[type[Exception], ...]:
    """Return what the file's runtime raises of its own."""
    if path.suffix != ".onnx":
        return ()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(each for each in vars(state).values() if isinstance(each, type) and issubclass(each, Exception))
