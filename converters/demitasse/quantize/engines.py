"""Run a lowered graph as it is deployed, with every tensor that it computes in reach."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from demitasse.errors import UsageError
from demitasse.ir.graph import Graph
from demitasse.ir.weights import Array
from demitasse.samples import Sample
from demitasse.writers.onnx.assemble import assemble as assemble_onnx
from demitasse.writers.onnx.assemble import parts
from demitasse.writers.onnx.stream import write_model
from demitasse.writers.tflite.assemble import assemble as assemble_tflite

__all__ = ["Engine", "EngineKind", "cores", "open_artifact", "open_engine", "open_real", "stored_inputs"]


class EngineKind(enum.Enum):
    """Names the runtime that a graph was lowered for."""

    LITERT = "litert"
    ONNX_RUNTIME = "onnxruntime"


class Engine(Protocol):
    """Runs one model on stored inputs."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the real-valued tensors that the model gives, and those that it takes."""

    def show(self, feeds: Mapping[str, Array], take: Callable[[str, Array], None], pool: Executor) -> None:
        """Hand these tensors to `take`, several at once on a pool; none of them may be kept."""


def open_engine(graph: Graph, kind: EngineKind, folder: Path) -> Engine:
    """Write a graph as a float model into `folder` and open it; a run gives every real-valued tensor."""
    if kind is EngineKind.LITERT:
        path = folder / "all.tflite"
        with path.open("wb") as file:
            assemble_tflite(graph, integer=True).write(file, keep_all=True)
        return LiteRtEngine(path)
    path = folder / "all.onnx"
    draft = assemble_onnx(graph, None)
    write_model(path, parts(draft, None), draft.initializers, graph.weights)
    return OnnxEngine(path, keep_all=True)


def open_real(graph: Graph, kind: EngineKind, folder: Path) -> Engine:
    """Write a graph as a float model into `folder` and open it; a run gives its outputs."""
    path = folder / f"real{'.tflite' if kind is EngineKind.LITERT else '.onnx'}"
    if kind is EngineKind.LITERT:
        with path.open("wb") as file:
            assemble_tflite(graph).write(file)
    else:
        draft = assemble_onnx(graph, None)
        write_model(path, parts(draft, None), draft.initializers, graph.weights)
    return open_artifact(path)


def open_artifact(path: Path) -> Engine:
    """Open a written model; a run gives its outputs."""
    return LiteRtEngine(path) if path.suffix == ".tflite" else OnnxEngine(path)


class LiteRtEngine:
    """Runs a model in LiteRT with XNNPACK."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(str(path), num_threads=cores())
        self._interpreter.allocate_tensors()
        self._inputs = {detail["name"]: detail["index"] for detail in self._interpreter.get_input_details()}
        details = (*self._interpreter.get_input_details(), *self._interpreter.get_output_details())
        self._views: dict[str, Callable[[], Array]] = {
            detail["name"]: self._interpreter.tensor(detail["index"])
            for detail in details
            if np.dtype(detail["dtype"]).kind == "f"
        }

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self._invoke(feeds)
        return {name: view().copy() for name, view in self._views.items()}

    def show(self, feeds: Mapping[str, Array], take: Callable[[str, Array], None], pool: Executor) -> None:
        self._invoke(feeds)
        # LiteRT refuses to run again while anybody holds a view of a tensor. Only names are given to the pool, which
        # keeps what it is given for a while; views are gone when `take` returns.
        list(pool.map(lambda name: take(name, self._views[name]()), self._views))

    def _invoke(self, feeds: Mapping[str, Array]) -> None:
        for name, array in feeds.items():
            self._interpreter.set_tensor(self._inputs[name], array)
        self._interpreter.invoke()


class OnnxEngine:
    """Runs a model in ONNX Runtime on the processor."""

    def __init__(self, path: Path, *, keep_all: bool = False) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = cores()
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        model = _with_all_outputs(path) if keep_all else str(path)
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._outputs = [port.name for port in self._session.get_outputs() if port.type == "tensor(float)"]
        self._reals = {port.name for port in self._session.get_inputs() if port.type == "tensor(float)"}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        # Asked for no outputs, a session gives all.
        arrays = self._session.run(self._outputs, dict(feeds)) if self._outputs else []
        results = dict(zip(self._outputs, arrays, strict=True))
        return {name: array for name, array in feeds.items() if name in self._reals} | results

    def show(self, feeds: Mapping[str, Array], take: Callable[[str, Array], None], pool: Executor) -> None:
        results = self.run(feeds)
        list(pool.map(take, results.keys(), results.values()))


def _with_all_outputs(path: Path) -> bytes:
    """Return a model whose every value is an output.

    They are appended: a protobuf message followed by another of its type is their merger.
    https://protobuf.dev/programming-guides/encoding/#last-one-wins
    """
    import onnx as library

    graph = library.load(path, load_external_data=False).graph
    outputs = {value.name for value in graph.output}
    more = library.ModelProto()
    names = (name for node in graph.node for name in node.output if name and name not in outputs)
    more.graph.output.extend(library.ValueInfoProto(name=name) for name in names)
    appended: bytes = more.SerializeToString()
    return path.read_bytes() + appended


def stored_inputs(graph: Graph, sample: Sample, where: str) -> dict[str, Array]:
    """Return a sample as the graph stores its inputs.

    Raises:
        UsageError: it doesn't fit the graph, or holds a number that isn't finite; all faults are listed.
    """
    faults = [f"it has no array for input {name!r}" for name in graph.inputs if name not in sample]
    faults += [f"it has an array {name!r}, which is no input" for name in sample if name not in graph.inputs]
    result = {}
    for name in graph.inputs:
        if name not in sample:
            continue
        found = list(_faults(name, sample[name], _source_shape(graph, name)))
        faults += found
        if not found:
            value = graph.values[name]
            result[name] = np.ascontiguousarray(value.storage.store(np.asarray(sample[name])), value.type.dtype.value)
    if faults:
        raise UsageError(f"{where} can't be used for calibration: {'; '.join(faults)}")
    return result


def _source_shape(graph: Graph, name: str) -> tuple[int, ...]:
    """Return the shape that an input has in the source."""
    value = graph.values[name]
    stored = value.type.shape
    return stored if value.storage.view is not None else tuple(stored[axis] for axis in np.argsort(value.storage.axes))


def _faults(name: str, array: Array, shape: tuple[int, ...]) -> Iterable[str]:
    if array.shape != shape:
        yield f"array {name!r} has shape {list(array.shape)}, the input takes {list(shape)}"
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        yield f"array {name!r} holds values that are not finite"


def cores() -> int:
    """Count the processor's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
