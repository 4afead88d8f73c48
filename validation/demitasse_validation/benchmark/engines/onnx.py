"""Times ONNX files in ONNX Runtime, with inputs and outputs bound to the device's memory."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from demitasse.errors import MalformedModel, UsageError
from demitasse.ir.weights import Array
from demitasse_validation.benchmark import devices
from demitasse_validation.benchmark.engines import Settings
from demitasse_validation.benchmark.feeds import batch_axes, batched, document_at, fixed_batch, noise
from demitasse_validation.benchmark.placement import Node, Placement, place
from demitasse_validation.benchmark.trial import try_out
from demitasse_validation.runtimes import TensorSpec
from demitasse_validation.runtimes.onnx import DTYPES, ERRORS

__all__ = ["OnnxEngine"]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

# What TensorRT can't run goes to CUDA: still on the card.
ON_CARD = {CPU: (), CUDA: (CUDA,), TENSORRT: (TENSORRT, CUDA)}

TENSORRT_LIBRARY = "libnvinfer.so.10"

# Lists the nodes of each provider; ONNX Runtime knows this since 1.24, before that only its profile tells.
RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"


class OnnxEngine:
    """Times a session of one provider.

    Raises:
        MalformedModel: ONNX Runtime refuses the file.
        UsageError: the provider didn't start, and ONNX Runtime went on without it.
    """

    def __init__(self, path: Path, settings: Settings, *, provider: str = CPU) -> None:
        import onnxruntime

        self.path = path
        self.provider = provider
        self.settings = settings
        self._device = "cpu" if provider == CPU else "cuda"
        if provider != CPU and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # finds CUDA and cuDNN where pip put them
        label = provider.removesuffix("ExecutionProvider").replace("Tensorrt", "TensorRT")
        self.runtime = f"ONNX Runtime {onnxruntime.__version__} ({label})"
        self._session = self._open(profile_to=None)
        if provider not in self._session.get_providers():
            raise UsageError(
                f"{path}: ONNX Runtime could not start {provider}, and would run on the CPU; its CUDA, cuDNN or "
                "TensorRT libraries don't fit (see https://onnxruntime.ai/docs/execution-providers)"
            )
        ports = self._session.get_inputs()
        self.inputs = {port.name: self._spec(port) for port in ports}
        self._axes = batch_axes(document_at(path), self.inputs)
        self.batch = fixed_batch(self._axes, self.inputs)
        self._outputs = [port.name for port in self._session.get_outputs()]
        self._feeds: dict[str, Array] = {}
        self._binding: Any = None

    @classmethod
    def absent(cls, *, provider: str = CPU) -> str | None:
        if provider == CPU:
            return None
        import onnxruntime

        built = onnxruntime.get_available_providers()
        if provider not in built:
            return (
                f"ONNX Runtime {onnxruntime.__version__} is built without {provider} (it has {', '.join(built)}): "
                "onnxruntime-gpu must be installed in place of onnxruntime"
            )
        if provider == TENSORRT and not devices.has_library(TENSORRT_LIBRARY):
            return f"{TENSORRT_LIBRARY} (TensorRT) can't be loaded"
        return devices.nvidia_absent() or try_out(cls, ".onnx", Settings(threads=1), provider=provider)

    def prepare(self, batch: int, seed: int) -> None:
        shapes = batched(str(self.path), self._axes, self.inputs, batch)
        self._feeds = noise(self.inputs, shapes, seed)
        self._binding = self._session.io_binding()
        for name, array in self._feeds.items():
            self._bind_input(name, array)
        for name in self._outputs:
            self._binding.bind_output(name, self._device)
        self.compute()

    def run(self) -> None:
        try:
            self._session.run(self._outputs, self._feeds)
        except self._errors as error:
            raise MalformedModel(f"ONNX Runtime can't run it: {error}", where=str(self.path)) from error

    def compute(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
        except self._errors as error:
            raise MalformedModel(f"ONNX Runtime can't run it: {error}", where=str(self.path)) from error

    def placement(self) -> Placement:
        wanted = ON_CARD[self.provider] or (CPU,)
        if hasattr(self._session, "get_provider_graph_assignment_info"):
            parts = self._session.get_provider_graph_assignment_info()
            nodes = [Node(node.name, node.op_type, part.ep_name) for part in parts for node in part.get_nodes()]
            return place(nodes, wanted, "ONNX Runtime's graph assignment")
        return place(self._profiled(), wanted, "ONNX Runtime's profile")

    def device_memory(self) -> int | None:
        return None

    def _profiled(self) -> Iterator[Node]:
        """Run once in a session that writes a profile, and read each node's provider from it."""
        with tempfile.TemporaryDirectory() as folder:
            session = self._open(profile_to=str(Path(folder) / "profile"))
            session.run(self._outputs, self._feeds)
            events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        for event in events:
            details = event.get("args", {})
            if event.get("cat") == "Node" and "provider" in details:
                name = event["name"].removesuffix("_kernel_time")
                yield Node(name, details.get("op_name", "?"), details["provider"])

    def _bind_input(self, name: str, array: Array) -> None:
        import onnxruntime

        if self._device == "cpu":
            self._binding.bind_cpu_input(name, array)
        else:
            held = onnxruntime.OrtValue.ortvalue_from_numpy(array, self._device, 0)
            self._binding.bind_ortvalue_input(name, held)

    def _open(self, profile_to: str | None) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised
        options.intra_op_num_threads = self.settings.threads
        if profile_to is not None:
            options.enable_profiling, options.profile_file_prefix = True, profile_to
        elif hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
            options.add_session_config_entry(RECORD_ASSIGNMENT, "1")
        providers = [(name, self._provider_options(name)) for name in ON_CARD[self.provider]]
        try:
            session = onnxruntime.InferenceSession(str(self.path), options, providers=[*providers, CPU])
        except self._errors as error:
            raise MalformedModel(f"ONNX Runtime refuses it: {error}", where=str(self.path)) from error
        session.disable_fallback()  # a run that fails on the card must not be repeated on the CPU
        return session

    def _provider_options(self, provider: str) -> dict[str, str]:
        # TensorRT follows NVIDIA_TF32_OVERRIDE, which the process was started with.
        return {"use_tf32": str(int(self.settings.tf32))} if provider == CUDA else {}

    @cached_property
    def _errors(self) -> tuple[type[Exception], ...]:
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        return tuple(getattr(state, name) for name in ERRORS if hasattr(state, name))

    def _spec(self, port: Any) -> TensorSpec:
        if port.type not in DTYPES:
            raise MalformedModel(f"{port.name!r} is a {port.type}, not a tensor of numbers", where=str(self.path))
        return TensorSpec(tuple(dim if isinstance(dim, int) else None for dim in port.shape), DTYPES[port.type])
