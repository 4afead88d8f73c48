"""A graphics card that isn't there: the parts of ONNX Runtime, LiteRT and TensorFlow that talk to one, and the driver's
own tool. They compute nothing; they note what is copied to and from the card, what runs where, and what is waited for.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from demitasse_validation.benchmark import devices

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@dataclass
class Card:
    """What happens on the card, in order: `to card`, `from card`, `run`, `wait`.

    `strays` is how many of the three nodes of every model it leaves to the CPU; `memory` how many images fit.
    """

    strays: int = 0
    memory: int = 64
    log: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def take(self) -> list[str]:
        """Return what was noted, and forget it."""
        noted, self.log = self.log, []
        return noted

    def places(self, here: str, there: str) -> list[tuple[str, str]]:
        """Return the nodes' types and where each ran."""
        kinds = ["Conv", "Relu", "Softmax"]
        kept = len(kinds) - self.strays
        return [(kind, here if place < kept else there) for place, kind in enumerate(kinds)]


# --- the driver ------------------------------------------------------------------------------------------------

NVIDIA_SMI = """#!/bin/sh
case "$1" in
    --query-gpu=memory.used) echo 1024 ;;
    *) echo "NVIDIA Imaginary 100, 560.35, 81559" ;;
esac
"""


def install_driver(monkeypatch: pytest.MonkeyPatch, folder: Path, libraries: Sequence[str]) -> None:
    """Put the driver's tool on the PATH, and let the named libraries be found."""
    tool = folder / "nvidia-smi"
    tool.write_text(NVIDIA_SMI, "ascii")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(devices, "has_library", lambda name: name in libraries)


# --- ONNX Runtime ----------------------------------------------------------------------------------------------


class RuntimeException(Exception):
    """What ONNX Runtime raises."""


class Binding:
    """Inputs and outputs that stay on the card."""

    batch = 0

    def __init__(self, card: Card) -> None:
        self.card = card

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.batch = len(value)

    def bind_output(self, name: str, device: str) -> None:
        self.card.log.append(f"bind {name} to {device}")

    def synchronize_outputs(self) -> None:
        self.card.log.append("wait")


class Session:
    """A net with an input `data` of any batch, and an output `y`.

    Where its providers don't start, it goes on without them, as the real one does.
    """

    card: Card
    starts: bool

    def __init__(self, path: str, options: Any, providers: Sequence[Any]) -> None:
        named = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        self.card.settings |= dict(provider for provider in providers if not isinstance(provider, str))
        self.providers = named if self.starts else [CPU]

    def get_providers(self) -> list[str]:
        return self.providers

    def disable_fallback(self) -> None:
        self.card.log.append("no fallback")

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="data", shape=["batch", 3], type="tensor(float)")]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="y", shape=["batch", 3], type="tensor(float)")]

    def io_binding(self) -> Binding:
        return Binding(self.card)

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        self.card.log.append("to card")
        self._run(len(feeds["data"]))
        self.card.log.append("from card")
        return [feeds["data"]]

    def run_with_iobinding(self, binding: Binding) -> None:
        self._run(binding.batch)

    def _run(self, batch: int) -> None:
        if batch > self.card.memory:
            raise RuntimeException("Failed to allocate memory for requested buffer")
        self.card.log.append("run")

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [Part(provider, kind) for kind, provider in self.card.places(self.providers[0], CPU)]


@dataclass
class Part:
    """A part of a net that a provider took over: one node."""

    ep_name: str
    kind: str

    def get_nodes(self) -> list[Any]:
        return [SimpleNamespace(name=self.kind.lower(), op_type=self.kind)]


class SessionOptions:
    """Settings that nothing reads."""

    def add_session_config_entry(self, key: str, value: str) -> None:
        pass


def install_onnxruntime(
    monkeypatch: pytest.MonkeyPatch, card: Card, built: Sequence[str] = (TENSORRT, CUDA, CPU), *, starts: bool = True
) -> None:
    """Replace ONNX Runtime; `starts` is whether its providers for the card do."""

    def from_numpy(array: Any, device: str, number: int) -> Any:
        card.log.append(f"to {device}:{number}")
        return array

    module = ModuleType("onnxruntime")
    capi, state = ModuleType("onnxruntime.capi"), ModuleType("onnxruntime.capi.onnxruntime_pybind11_state")
    vars(state)["RuntimeException"] = RuntimeException
    vars(capi)["onnxruntime_pybind11_state"] = state
    vars(module).update(
        __version__="9.9",
        InferenceSession=type("InferenceSession", (Session,), {"card": card, "starts": starts}),
        OrtValue=SimpleNamespace(ortvalue_from_numpy=from_numpy),
        SessionOptions=SessionOptions,
        get_available_providers=lambda: list(built),
        capi=capi,
    )
    for each in (module, capi, state):
        monkeypatch.setitem(sys.modules, each.__name__, each)


# --- LiteRT ----------------------------------------------------------------------------------------------------


@dataclass
class Buffer:
    """An input or output of a compiled model."""

    card: Card

    def write(self, array: Any) -> None:
        self.card.log.append("to card")

    def read(self, count: int, dtype: Any) -> Any:
        self.card.log.append("from card")
        return np.zeros(count, dtype)


class CompiledModel:
    """A model on the card; what it takes and gives is read from the file by the real interpreter."""

    card: Card
    starts: bool

    def __init__(self, signatures: Mapping[str, Any]) -> None:
        self.signatures = signatures

    @classmethod
    def from_file(cls, path: str, options: Any) -> CompiledModel:
        from ai_edge_litert.interpreter import Interpreter

        if not cls.starts:
            raise RuntimeError("ERROR: [compiled_model.h:1961]\n└ ERROR: No adapters found")
        if cls.card.strays and not options.hardware_accelerators & 1:
            raise RuntimeError("ERROR: [compiled_model.h:1961]\n└ Some ops are not accelerated.")
        cls.card.settings |= vars(options)
        return cls(Interpreter(model_path=path).get_signature_list())

    def get_signature_list(self) -> Mapping[str, Any]:
        return self.signatures

    def get_output_tensor_details(self, signature: str) -> Mapping[str, Any]:
        names = self.signatures[signature]["outputs"]
        return {name: {"shape": [1, 3], "dtype": "float32"} for name in names}

    def resize_input_tensor_by_name(self, signature: str, name: str, dims: Sequence[int]) -> None:
        self.card.log.append(f"resize {name} to {list(dims)}")

    def create_input_buffer_by_name(self, signature: str, name: str) -> Buffer:
        return Buffer(self.card)

    create_output_buffer_by_name = create_input_buffer_by_name

    def run_by_name(self, signature: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        self.card.log.append("run")

    def is_fully_accelerated(self) -> bool:
        return True  # which the real one says, too, of a model that runs on the CPU altogether


def install_litert(monkeypatch: pytest.MonkeyPatch, card: Card, *, starts: bool = True) -> None:
    """Replace LiteRT's compiled models; `starts` is whether its accelerator does."""
    module = ModuleType("ai_edge_litert.compiled_model")
    vars(module).update(
        CompiledModel=type("CompiledModel", (CompiledModel,), {"card": card, "starts": starts}),
        CpuOptions=lambda **options: options,
        GpuOptions=lambda **options: options,
        Options=SimpleNamespace,
        HardwareAccelerator=SimpleNamespace(CPU=1, GPU=2),
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)


# --- TensorFlow ------------------------------------------------------------------------------------------------


class OpError(Exception):
    """What TensorFlow raises."""


def install_tensorflow(monkeypatch: pytest.MonkeyPatch, card: Card, *, sees: int = 1) -> None:
    """Replace TensorFlow; its nets have an input `x` of any batch and an output `y`. It sees so many cards."""
    here: list[str] = []

    class Tensor:
        def __init__(self, batch: int) -> None:
            self.batch = batch

        def numpy(self) -> Any:
            card.log.append("from card")
            return np.zeros(self.batch)

    @contextlib.contextmanager
    def device(name: str) -> Iterator[None]:
        here.append(name)
        yield
        here.pop()

    def constant(array: Any) -> Tensor:
        card.log.append(f"to {here[-1]}")
        return Tensor(len(array))

    class Signature:
        structured_input_signature = (
            (),
            {
                "x": SimpleNamespace(
                    shape=SimpleNamespace(as_list=lambda: [None, 3]), dtype=SimpleNamespace(name="float32")
                )
            },
        )

        def __call__(self, x: Tensor) -> dict[str, Tensor]:
            if x.batch > card.memory:
                raise OpError("OOM when allocating tensor\nwith a long explanation")
            card.log.append("run")
            return {"y": x}

    def metadata() -> Any:
        nodes = [
            SimpleNamespace(name=kind.lower(), op=kind, device=f"/job:localhost/replica:0/task:0/device:{place}")
            for kind, place in [*card.places("GPU:0", "CPU:0"), ("_Arg", "CPU:0")]
        ]
        return SimpleNamespace(partition_graphs=[SimpleNamespace(node=nodes)])

    note = card.settings.__setitem__
    config = SimpleNamespace(
        list_physical_devices=lambda kind: [f"{kind}:{place}" for place in range(sees)],
        set_soft_device_placement=lambda on: note("soft placement", on),
        set_visible_devices=lambda found, kind: note("visible", found),
        threading=SimpleNamespace(
            set_intra_op_parallelism_threads=lambda threads: note("threads", threads),
            set_inter_op_parallelism_threads=lambda threads: None,
        ),
        experimental=SimpleNamespace(
            enable_tensor_float_32_execution=lambda on: note("tf32", on),
            set_memory_growth=lambda found, on: note("growth", on),
            get_memory_info=lambda found: {"peak": 5 * 2**20},
        ),
    )
    module, context = ModuleType("tensorflow"), ModuleType("tensorflow.python.eager.context")
    vars(context).update(
        enable_run_metadata=lambda: None, disable_run_metadata=lambda: None, export_run_metadata=metadata
    )
    vars(module).update(
        __version__="9.9",
        config=config,
        constant=constant,
        device=device,
        errors=SimpleNamespace(OpError=OpError),
        saved_model=SimpleNamespace(
            load=lambda path: SimpleNamespace(signatures={"serving_default": Signature()}),
        ),
        test=SimpleNamespace(experimental=SimpleNamespace(sync_devices=lambda: card.log.append("wait"))),
    )
    packages = [ModuleType("tensorflow.python"), ModuleType("tensorflow.python.eager")]
    vars(packages[1])["context"] = context
    module.__spec__ = ModuleSpec("tensorflow", None)
    for each in (module, *packages, context):
        monkeypatch.setitem(sys.modules, each.__name__, each)
