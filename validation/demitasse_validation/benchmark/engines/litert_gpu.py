"""Times TFLite files in LiteRT on a graphics card, where the platform's package brings an accelerator for one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from demitasse.errors import MalformedModel, UsageError
from demitasse.ir.weights import Array
from demitasse_validation.benchmark import devices
from demitasse_validation.benchmark.engines import Settings
from demitasse_validation.benchmark.feeds import batch_axes, batched, document_at, fixed_batch, noise
from demitasse_validation.benchmark.placement import Node, Placement, place
from demitasse_validation.benchmark.trial import try_out
from demitasse_validation.runtimes import TensorSpec

__all__ = ["LiteRtGpuEngine"]

ACCELERATORS = ("libLiteRtGpuAccelerator", "libLiteRtWebGpuAccelerator", "libLiteRtMetalAccelerator")
CARD, EITHER = "GPU", "GPU or CPU"


class LiteRtGpuEngine:
    """Times a compiled model that has nothing but the card; if that won't do, one that has the CPU beside it.

    The runtime doesn't tell when the card is done, so `compute` reads the outputs back; the inputs stay on the card.

    Raises:
        MalformedModel: LiteRT refuses the file.
        UsageError: LiteRT can't start its accelerator.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        from importlib.metadata import version

        from ai_edge_litert.interpreter import Interpreter

        self.path = path
        self.runtime = f"LiteRT {version('ai-edge-litert')} (GPU)"
        self.settings = settings
        try:
            described = Interpreter(model_path=str(path), num_threads=1)
        except (ValueError, RuntimeError) as error:
            raise MalformedModel(f"LiteRT refuses it: {error}", where=str(path)) from error
        # With the CPU allowed, LiteRT calls a model accelerated that runs on the CPU altogether, for want of a card:
        # only one that was compiled without the CPU is proof.
        try:
            self._model, self._place = self._compiled(with_cpu=False), CARD
        except RuntimeError:
            try:
                self._model, self._place = self._compiled(with_cpu=True), EITHER
            except RuntimeError as error:
                raise UsageError(f"{path}: LiteRT can't start its GPU accelerator: {_reason(error)}") from error
        self._signature, names = next(iter(self._model.get_signature_list().items()))
        self._names: dict[str, list[str]] = names
        runner = described.get_signature_runner(self._signature)
        self.inputs = {name: _spec(detail) for name, detail in runner.get_input_details().items()}
        # The document knows inputs by their tensors' names; the compiled model by the signature's.
        tensors = {detail["name"]: name for name, detail in runner.get_input_details().items()}
        by_tensor = batch_axes(document_at(path), {tensor: self.inputs[name] for tensor, name in tensors.items()})
        self._axes = {tensors[tensor]: axis for tensor, axis in by_tensor.items()}
        self.batch = fixed_batch(self._axes, self.inputs)
        self._given: dict[str, Any] = {}
        self._gives: dict[str, tuple[Any, int, np.dtype[Any]]] = {}
        self._feeds: dict[str, Array] = {}

    @classmethod
    def absent(cls) -> str | None:
        found = importlib.util.find_spec("ai_edge_litert")
        folder = Path(found.origin or "").parent if found else Path()
        if not any(path.stem in ACCELERATORS for path in folder.glob("libLiteRt*")):
            return f"ai-edge-litert brings no GPU accelerator for this platform (looked for {', '.join(ACCELERATORS)})"
        return devices.vulkan_absent() or try_out(cls, ".tflite", Settings(threads=1))

    def prepare(self, batch: int, seed: int) -> None:
        shapes = batched(str(self.path), self._axes, self.inputs, batch)
        for name, shape in shapes.items():
            if None in self.inputs[name].shape:
                self._model.resize_input_tensor_by_name(self._signature, name, shape)
        self._feeds = noise(self.inputs, shapes, seed)
        for name, array in self._feeds.items():
            self._given[name] = self._model.create_input_buffer_by_name(self._signature, name)
            self._given[name].write(array)
        details = self._model.get_output_tensor_details(self._signature)
        for name in self._names["outputs"]:
            buffer = self._model.create_output_buffer_by_name(self._signature, name)
            size = int(np.prod(details[name]["shape"], dtype=np.int64))
            self._gives[name] = (buffer, size, np.dtype(details[name]["dtype"]))
        self.run()

    def run(self) -> None:
        for name, array in self._feeds.items():
            self._given[name].write(array)
        self.compute()

    def compute(self) -> None:
        outputs = {name: buffer for name, (buffer, _, _) in self._gives.items()}
        try:
            self._model.run_by_name(self._signature, self._given, outputs)
            for buffer, size, dtype in self._gives.values():
                buffer.read(size, dtype.type)
        except RuntimeError as error:
            raise MalformedModel(f"LiteRT can't run it: {_reason(error)}", where=str(self.path)) from error

    def placement(self) -> Placement:
        # LiteRT doesn't tell which nodes run where.
        where = self._place if self._model.is_fully_accelerated() else EITHER
        return place([Node(self._signature, "the model", where)], [CARD], "LiteRT compiled it for the GPU alone")

    def _compiled(self, *, with_cpu: bool) -> Any:
        from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, GpuOptions, HardwareAccelerator, Options

        options = Options(
            hardware_accelerators=HardwareAccelerator.GPU | (HardwareAccelerator.CPU if with_cpu else 0),
            cpu_options=CpuOptions(num_threads=self.settings.threads),
            gpu_options=GpuOptions(enforce_f32=True),  # the card's default is float16
        )
        return CompiledModel.from_file(str(self.path), options=options)

    def device_memory(self) -> int | None:
        return None


def _spec(detail: Any) -> TensorSpec:
    shape = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    return TensorSpec(tuple(None if dim < 0 else int(dim) for dim in shape), np.dtype(detail["dtype"]).name)


def _reason(error: Exception) -> str:
    """Return the innermost of the causes that LiteRT lists, a line each."""
    return str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
