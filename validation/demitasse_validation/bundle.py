"""Writes the least that shows a fault: one layer as a model of its own, what goes in, and what should come out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from demitasse import __version__
from demitasse.errors import DemitasseError, UsageError
from demitasse.ir.document import describe
from demitasse.ir.graph import Graph
from demitasse.ir.ops import DType, TensorType
from demitasse.ir.weights import Array
from demitasse.targets import TARGETS, lower, simplify
from demitasse_validation.diagnosis import Alone
from demitasse_validation.report import ArtifactReport

__all__ = ["subnet", "write_bundle"]

README = """# {layer}

`{artifact}` ({runtime}) goes wrong at {where}: {fault}

| file | what it holds |
|---|---|
| {model} | the layer alone, as Demitasse {version} writes it |
| inputs.npz | what the artifact fed the layer with, in the source's layout |
| expected.npz | what the layer makes of that, computed in float64 |
| given.npz | what the artifact made of it |
| report.json | the figures |

{diagnosis}
"""


def subnet(graph: Graph, alone: Alone) -> Graph:
    """Build a graph of a layer's nodes alone: what goes in are its inputs."""
    result = Graph("repro", layout=graph.layout)
    made = {name for node in alone.nodes for name in node.outputs}
    for node in alone.nodes:
        for name in node.inputs:
            if name not in made and name not in graph.weights and name not in result.values:
                array = alone.values[name]
                dtype = DType.FLOAT32 if array.dtype.kind == "f" else DType(array.dtype.name)
                result.add_input(name, TensorType(array.shape, dtype))
        result.adopt(graph, node)
    result.outputs = [alone.nodes[-1].outputs[0]]
    return result


def write_bundle(
    folder: Path, graph: Graph, alone: Alone, report: ArtifactReport, fault: str, diagnosis: str
) -> list[Path]:
    """Write a folder that shows one artifact's first fault, and return its files.

    Raises:
        UsageError: the folder can't be written.
    """
    net = subnet(graph, alone)
    blob = net.outputs[0]
    result = next((each for each in report.layers if each.blob == blob), None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        model = _write_model(folder, net, report.target)
        inputs = {name: np.asarray(alone.values[name], _stored(alone.values[name])) for name in net.inputs}
        _save(folder / "inputs.npz", inputs)
        _save(folder / "expected.npz", {blob: alone.expected})
        _save(folder / "given.npz", {blob: alone.given})
        facts = {"artifact": report.path, "blob": blob, "local": dict(result.local or {}) if result else {}}
        (folder / "report.json").write_text(
            json.dumps({k: _plain(v) for k, v in facts.items()}, indent=1) + "\n", "utf-8"
        )
        text = README.format(
            layer=result.layer if result else blob,
            artifact=report.name,
            runtime=report.runtime,
            where=result.where if result else blob,
            fault=fault,
            model=model,
            version=__version__,
            diagnosis=f"A hypothesis that explains it: {diagnosis}."
            if diagnosis
            else "No known hypothesis explains it.",
        )
        (folder / "README.md").write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"{folder}: can't be written: {error.strerror}") from error
    return sorted(folder.iterdir())


def _write_model(folder: Path, net: Graph, target: str) -> str:
    """Write the layer in the artifact's own format, real numbers for integers, or in ONNX where that can't hold it."""
    names = {"tflite-int8": "tflite", "tflite-f16": "tflite", "savedmodel": "onnx"}
    for name in dict.fromkeys((names.get(target, target), "onnx")):
        each = TARGETS[name]
        try:
            lowered = lower(simplify(net), each)
            if each.offences(lowered):
                continue
            document = describe(
                lowered, target=name, tool=f"demitasse {__version__}", source_format="", source=(), options={}
            )
            each.write(lowered, folder / f"layer{each.suffix}", document)
            return f"layer{each.suffix}"
        except DemitasseError:
            continue
    return "(no format holds it)"


def _stored(array: Array) -> np.dtype[np.generic]:
    return np.dtype(np.float32) if array.dtype.kind == "f" else np.dtype(array.dtype)


def _save(path: Path, arrays: Mapping[str, Array]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
