"""Runs TFLite artifacts in LiteRT on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from demitasse.errors import MalformedModel
from demitasse.ir.weights import Array
from demitasse_validation.runtimes import Quantization, TensorSpec, check_feeds

__all__ = ["Quantization", "TfliteRunner"]


@dataclass(frozen=True, slots=True)
class _Tensor:
    """What an interpreter knows of a tensor."""

    index: int
    spec: TensorSpec
    quantization: Quantization | None

    @classmethod
    def of(cls, detail: Mapping[str, Any]) -> _Tensor:
        signature = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
        shape = tuple(None if dim < 0 else int(dim) for dim in signature)
        dtype = np.dtype(detail["dtype"])
        parameters = detail["quantization_parameters"]
        if not len(parameters["scales"]) or dtype.kind not in "iu":
            return cls(detail["index"], TensorSpec(shape, dtype.name), None)
        quantization = Quantization(
            np.asarray(parameters["scales"], np.float32),
            np.asarray(parameters["zero_points"], np.int64),
            int(parameters["quantized_dimension"]),
            dtype,
        )
        return cls(detail["index"], TensorSpec(shape, "float32", dtype.name), quantization)

    def real(self, interpreter: Any) -> Array:
        """Read the tensor's numbers after a run."""
        stored: Array = interpreter.get_tensor(self.index)
        return stored if self.quantization is None else self.quantization.dequantize(stored)


class TfliteRunner:
    """Runs the file as it is deployed (XNNPACK) for its outputs, and in the built-in kernels for its layers.

    Tensors are known by their names in the file. Quantized ones are taken and given as real numbers;
    `run_layers_raw` gives the integers.

    Raises:
        MalformedModel: LiteRT refuses the file.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        from importlib.metadata import version

        self.path = path
        self.runtime = f"LiteRT {version('ai-edge-litert')} (CPU, XNNPACK)"
        self._threads = threads
        self._deployed = self._open(preserve=False)
        self._ports = {
            detail["name"]: _Tensor.of(detail)
            for detail in (*self._deployed.get_input_details(), *self._deployed.get_output_details())
        }
        self.inputs = {
            detail["name"]: self._ports[detail["name"]].spec for detail in self._deployed.get_input_details()
        }
        self.outputs = {
            detail["name"]: self._ports[detail["name"]].spec for detail in self._deployed.get_output_details()
        }
        self._preserving: Any = None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self._invoke(self._deployed, feeds)
        return {name: self._ports[name].real(self._deployed) for name in self.outputs}

    def run_layers(self, feeds: Mapping[str, Array], tensors: Iterable[str]) -> dict[str, Array]:
        wanted = self._run_preserving(feeds, tensors)
        return {name: tensor.real(self._preserving) for name, tensor in wanted.items()}

    def run_layers_raw(self, feeds: Mapping[str, Array], tensors: Iterable[str]) -> dict[str, Array]:
        """Do what `run_layers` does, and return tensors as they are stored: quantized ones as integers."""
        wanted = self._run_preserving(feeds, tensors)
        return {name: self._preserving.get_tensor(tensor.index) for name, tensor in wanted.items()}

    def quantization(self, tensor: str) -> Quantization | None:
        """Say how a tensor is quantized; None where it isn't.

        Raises:
            KeyError: there is no such tensor.
        """
        return self._tensors[tensor].quantization

    def constant(self, tensor: str) -> Array | None:
        """Return a tensor that the file holds, as real numbers; None where it holds none of that name."""
        if tensor not in self._tensors:
            return None
        try:
            return self._tensors[tensor].real(self._deployed)
        except ValueError:
            return None  # it is computed, and nothing has been yet

    def missing(self, tensors: Iterable[str]) -> dict[str, str]:
        return {name: "the file has no such tensor" for name in tensors if name not in self._tensors}

    @cached_property
    def _tensors(self) -> dict[str, _Tensor]:
        return {detail["name"]: _Tensor.of(detail) for detail in self._deployed.get_tensor_details() if detail["name"]}

    def _run_preserving(self, feeds: Mapping[str, Array], tensors: Iterable[str]) -> dict[str, _Tensor]:
        if self._preserving is None:
            self._preserving = self._open(preserve=True)
        self._invoke(self._preserving, feeds)
        return {name: self._tensors[name] for name in tensors if name in self._tensors}

    def _open(self, *, preserve: bool) -> Any:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if preserve else OpResolverType.AUTO
        try:
            interpreter = Interpreter(
                model_path=str(self.path),
                num_threads=self._threads,
                experimental_op_resolver_type=resolver,
                experimental_preserve_all_tensors=preserve,
            )
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise MalformedModel(f"LiteRT refuses it: {error}", where=str(self.path)) from error
        return interpreter

    def _invoke(self, interpreter: Any, feeds: Mapping[str, Array]) -> None:
        check_feeds(str(self.path), self.inputs, feeds)
        try:
            self._resize(interpreter, feeds)
            for name, array in feeds.items():
                port = self._ports[name]
                stored = array if port.quantization is None else port.quantization.quantize(array)
                interpreter.set_tensor(port.index, np.ascontiguousarray(stored))
            interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise MalformedModel(f"LiteRT can't run it: {error}", where=str(self.path)) from error

    def _resize(self, interpreter: Any, feeds: Mapping[str, Array]) -> None:
        """Give inputs of varying size the feeds' sizes; the interpreter plans its memory anew only if one changes."""
        changed = False
        for detail in interpreter.get_input_details():
            shape = feeds[detail["name"]].shape
            if tuple(detail["shape"]) != shape:
                interpreter.resize_tensor_input(detail["index"], shape, strict=True)
                changed = True
        if changed:
            interpreter.allocate_tensors()
