"""Times SavedModels in TensorFlow, as one concrete function, with soft placement off."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from demitasse.errors import MalformedModel, UsageError
from demitasse.ir.weights import Array
from demitasse.writers.saved_model.backend import import_tensorflow
from demitasse_validation.benchmark import devices
from demitasse_validation.benchmark.engines import Settings
from demitasse_validation.benchmark.feeds import batch_axes, batched, document_at, fixed_batch, noise
from demitasse_validation.benchmark.placement import Node, Placement, place
from demitasse_validation.runtimes import TensorSpec

__all__ = ["TensorFlowEngine"]

SIGNATURE = "serving_default"

# What only carries values over, into and out of a function.
CARRIERS = frozenset({"_Arg", "_Retval", "_Send", "_Recv", "_HostSend", "_HostRecv", "NoOp", "Const", "_DeviceRetval"})


class TensorFlowEngine:
    """Times the default signature; `xla` compiles it as a whole.

    Raises:
        MissingDependency: TensorFlow isn't installed.
        MalformedModel: TensorFlow refuses the folder, or it has no `serving_default`.
        UsageError: a graphics card is asked for and TensorFlow sees none.
    """

    def __init__(self, path: Path, settings: Settings, *, device: str = "CPU", xla: bool = False) -> None:
        self.path = path
        self._tensorflow = import_tensorflow("Timing a SavedModel")
        self._device = f"/{device}:0"
        self.runtime = f"TensorFlow {self._tensorflow.__version__} ({device}{', XLA' if xla else ''})"
        _configure(self._tensorflow, settings, device)
        self._signature = self._load()
        specs = self._signature.structured_input_signature[1]
        self.inputs = {name: _spec(spec) for name, spec in specs.items()}
        self._axes = batch_axes(self._document(), self.inputs)
        self.batch = fixed_batch(self._axes, self.inputs)
        self._call = self._compiled() if xla else self._signature
        self._feeds: dict[str, Array] = {}
        self._held: dict[str, Any] = {}
        self._nodes: list[Node] = []

    @classmethod
    def absent(cls, *, device: str = "CPU", xla: bool = False) -> str | None:
        del xla
        if importlib.util.find_spec("tensorflow") is None:
            return "TensorFlow isn't installed: pip install 'demitasse[tensorflow]'"
        if device == "CPU":
            return None
        if missing := devices.nvidia_absent():
            return missing
        tensorflow = import_tensorflow("Timing a SavedModel")
        if tensorflow.config.list_physical_devices("GPU"):
            return None
        return (
            f"TensorFlow {tensorflow.__version__} lists no GPU: its CUDA libraries don't load, or it is built without"
        )

    def prepare(self, batch: int, seed: int) -> None:
        shapes = batched(str(self.path), self._axes, self.inputs, batch)
        self._feeds = noise(self.inputs, shapes, seed)
        with self._tensorflow.device(self._device):
            self._held = {name: self._tensorflow.constant(array) for name, array in self._feeds.items()}
        self._nodes = self._noting_nodes()

    def run(self) -> None:
        with self._tensorflow.device(self._device):
            constant = self._tensorflow.constant
            for result in self._invoke({name: constant(array) for name, array in self._feeds.items()}).values():
                result.numpy()

    def compute(self) -> None:
        with self._tensorflow.device(self._device):
            self._invoke(self._held)
        self._tensorflow.test.experimental.sync_devices()

    def placement(self) -> Placement:
        return place(self._nodes, [self._device.removeprefix("/")], "TensorFlow's partitioned graphs")

    def device_memory(self) -> int | None:
        if "GPU" not in self._device:
            return None
        return int(self._tensorflow.config.experimental.get_memory_info(self._device.removeprefix("/"))["peak"])

    def _noting_nodes(self) -> list[Node]:
        """Run, and list the nodes as TensorFlow divides them among devices; it tells of first runs only."""
        # Not public, and unchanged since TensorFlow 2.0; nothing public tells what eager execution placed where.
        from tensorflow.python.eager import context

        context.enable_run_metadata()
        try:
            self.run()
            metadata = context.export_run_metadata()
        finally:
            context.disable_run_metadata()
        return [
            Node(node.name, node.op, node.device.rpartition("device:")[2])
            for graph in metadata.partition_graphs
            for node in graph.node
            if node.op not in CARRIERS
        ]

    def _invoke(self, arguments: dict[str, Any]) -> dict[str, Any]:
        errors = self._tensorflow.errors
        try:
            results: dict[str, Any] = self._call(**arguments)
        except (errors.OpError, ValueError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise MalformedModel(
                f"TensorFlow can't run it on {self._device}: {reason}", where=str(self.path)
            ) from error
        return results

    def _load(self) -> Any:
        errors = (OSError, ValueError, KeyError, AttributeError, self._tensorflow.errors.OpError)
        try:
            with self._tensorflow.device(self._device):
                self._loaded = self._tensorflow.saved_model.load(str(self.path))
        except errors as error:
            raise MalformedModel(f"TensorFlow refuses it: {error}", where=str(self.path)) from error
        if SIGNATURE not in self._loaded.signatures:
            found = ", ".join(sorted(self._loaded.signatures)) or "none"
            raise MalformedModel(f"it has no signature {SIGNATURE!r}; it has {found}", where=str(self.path))
        return self._loaded.signatures[SIGNATURE]

    def _document(self) -> Any:
        """Return the artifact's document if it calls the inputs as the signature's arguments are called."""
        document = document_at(self.path)
        named = {port.tensor for port in document.inputs} if document is not None else set()
        return document if named >= set(self.inputs) else None

    def _compiled(self) -> Any:
        signature, specs = self._signature, self._signature.structured_input_signature[1]
        function = self._tensorflow.function(signature, jit_compile=True, autograph=False)
        return function.get_concrete_function(**specs)


def _configure(tensorflow: Any, settings: Settings, device: str) -> None:
    """Set what holds for the whole process; each engine has one of its own."""
    config = tensorflow.config
    config.threading.set_intra_op_parallelism_threads(settings.threads)
    config.threading.set_inter_op_parallelism_threads(1)  # operators one after the other, as a limit means it
    config.set_soft_device_placement(False)
    config.experimental.enable_tensor_float_32_execution(settings.tf32)
    found = config.list_physical_devices("GPU")
    if device == "CPU":
        config.set_visible_devices([], "GPU")
    elif not found:
        raise UsageError(f"TensorFlow {tensorflow.__version__} lists no GPU")
    else:
        for card in found:  # else it takes all of the card's memory, and other processes get none
            config.experimental.set_memory_growth(card, True)


def _spec(spec: Any) -> TensorSpec:
    return TensorSpec(tuple(None if dim is None else int(dim) for dim in spec.shape.as_list()), spec.dtype.name)
