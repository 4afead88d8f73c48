"""Runs ONNX artifacts in ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from demitasse.errors import MalformedModel
from demitasse.ir.weights import Array
from demitasse_validation.runtimes import Quantization, TensorSpec, check_feeds

__all__ = ["OnnxRunner"]

# ONNX Runtime's names for element types, and numpy's.
DTYPES: Mapping[str, str] = {
    f"tensor({name})": dtype
    for name, dtype in (
        ("float", "float32"),
        ("double", "float64"),
        *((same, same) for same in ("float16", "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32")),
        ("int64", "int64"),
        ("uint64", "uint64"),
    )
}

# What ONNX Runtime raises; each class derives from Exception alone.
ERRORS = (
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NoSuchFile",
    "NotImplemented",
    "RuntimeException",
)


class OnnxRunner:
    """Runs the untouched file for its outputs, and a copy in memory with more outputs for its layers.

    The copy runs as it is written, without the rewriting that ONNX Runtime does on load, so every tensor that is asked
    for is really computed. Arithmetic is float32 throughout: none of the runtime's fast-math options is set. Inputs and
    outputs that are integers with a scale are taken and given as real numbers.

    Raises:
        MalformedModel: ONNX Runtime refuses the file.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        import onnxruntime

        self.path = path
        self.runtime = f"ONNX Runtime {onnxruntime.__version__} (CPU)"
        self._threads = threads
        self._session = self._open(path)
        self._quantized: dict[str, Quantization] = {}
        self.inputs = self._specs(self._session.get_inputs())
        self.outputs = self._specs(self._session.get_outputs())
        self._extended: Any = None
        self._extended_names: frozenset[str] = frozenset()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        check_feeds(str(self.path), self.inputs, feeds)
        return self._run(self._session, list(self.outputs), feeds)

    def run_layers(self, feeds: Mapping[str, Array], tensors: Iterable[str]) -> dict[str, Array]:
        check_feeds(str(self.path), self.inputs, feeds)
        wanted = dict.fromkeys(tensors)
        results = {name: np.asarray(feeds[name]) for name in wanted if name in feeds}
        computed = [name for name in wanted if name in self._tensors and name not in feeds]
        if self._extended is None or not self._extended_names.issuperset(computed):
            self._extended_names = frozenset(computed)
            self._extended = self._open(self._with_outputs(computed))
        return results | self._run(self._extended, computed, feeds)

    def missing(self, tensors: Iterable[str]) -> dict[str, str]:
        return {name: "the file has no such tensor" for name in tensors if name not in self._tensors}

    def quantization(self, tensor: str) -> Quantization | None:
        """Say how a tensor is quantized that `QuantizeLinear` and `DequantizeLinear` give; None where it isn't.

        Both may say something else, as in a faulty file: it is the first that decides what numbers there can be.
        """
        if tensor in self._quantized:
            return self._quantized[tensor]
        reader = next((node for node in self._graph.node if tensor in node.output), None)
        if reader is None or reader.op_type != "DequantizeLinear":
            return None
        maker = next((node for node in self._graph.node if reader.input[0] in node.output), None)
        if maker is None or maker.op_type != "QuantizeLinear":
            return None
        return self._stepped(maker)

    def _stepped(self, node: Any) -> Quantization | None:
        """Return the steps of a conversion with one step for all elements."""
        known = self._steps(node)
        return known if known is not None and known.scale.size == 1 else None

    def _steps(self, node: Any) -> Quantization | None:
        """Return the steps of a conversion; None where the file doesn't hold them."""
        scale, zero = (self._constant(name) for name in node.input[1:3])
        if scale is None or zero is None:
            return None
        axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
        return Quantization(scale.ravel().astype(np.float32), zero.ravel().astype(np.int64), axis, zero.dtype)

    def _port(self, name: str) -> Quantization | None:
        """Return the steps of an input that `DequantizeLinear` reads, or an output that `QuantizeLinear` gives."""
        for node in self._graph.node:
            reads = node.op_type == "DequantizeLinear" and node.input[0] == name
            if reads or (node.op_type == "QuantizeLinear" and name in node.output):
                return self._stepped(node)
        return None

    def constant(self, tensor: str) -> Array | None:
        """Return a tensor that the file holds, as real numbers; None where it holds none of that name."""
        integers = self._constant(tensor)
        if integers is None:
            return None
        reader = next((node for node in self._graph.node if tensor in node.input[:1]), None)
        if reader is None or reader.op_type != "DequantizeLinear":
            return integers
        steps = self._steps(reader)
        return None if steps is None else steps.dequantize(integers)

    def _constant(self, name: str) -> Array | None:
        from onnx.numpy_helper import to_array

        return to_array(self._initializers[name]) if name in self._initializers else None

    @cached_property
    def _initializers(self) -> Mapping[str, Any]:
        return {each.name: each for each in self._graph.initializer}

    @cached_property
    def _graph(self) -> Any:
        import onnx

        return onnx.load(self.path, load_external_data=False).graph

    @cached_property
    def _tensors(self) -> frozenset[str]:
        """The names of everything that the graph computes, reads or holds."""
        graph = self._graph
        given = (*graph.input, *graph.initializer)
        return frozenset(value.name for value in given) | {name for node in graph.node for name in node.output if name}

    def _with_outputs(self, names: Iterable[str]) -> bytes:
        """Return the file with more graph outputs.

        They are appended, not parsed into it: a protobuf message followed by another of its type is their merger.
        https://protobuf.dev/programming-guides/encoding/#last-one-wins
        """
        import onnx

        more = onnx.ModelProto()
        more.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in self.outputs)
        appended: bytes = more.SerializeToString()
        return self.path.read_bytes() + appended

    def _open(self, model: Path | bytes) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised; nothing is written to stderr beside it
        options.intra_op_num_threads = self._threads or 0
        if isinstance(model, bytes):
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(self.path.parent)
            )
        try:
            return onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
            )
        except self._errors as error:
            raise MalformedModel(f"ONNX Runtime refuses it: {error}", where=str(self.path)) from error

    def _run(self, session: Any, names: list[str], feeds: Mapping[str, Array]) -> dict[str, Array]:
        if not names:
            return {}
        stored = {
            name: self._quantized[name].quantize(array) if name in self._quantized else array
            for name, array in feeds.items()
        }
        try:
            results = dict(zip(names, session.run(names, stored), strict=True))
        except self._errors as error:
            raise MalformedModel(f"ONNX Runtime can't run it: {error}", where=str(self.path)) from error
        return {
            name: self._quantized[name].dequantize(array) if name in self._quantized else array
            for name, array in results.items()
        }

    @cached_property
    def _errors(self) -> tuple[type[Exception], ...]:
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        return tuple(getattr(state, name) for name in ERRORS if hasattr(state, name))

    def _specs(self, ports: Iterable[Any]) -> dict[str, TensorSpec]:
        specs = {}
        for port in ports:
            if port.type not in DTYPES:
                raise MalformedModel(f"{port.name!r} is a {port.type}, not a tensor of numbers", where=str(self.path))
            shape = tuple(dim if isinstance(dim, int) else None for dim in port.shape)
            steps = self._port(port.name) if DTYPES[port.type] in {"int8", "uint8"} else None
            if steps is None:
                specs[port.name] = TensorSpec(shape, DTYPES[port.type])
            else:
                self._quantized[port.name] = steps
                specs[port.name] = TensorSpec(shape, "float32", DTYPES[port.type])
        return specs
