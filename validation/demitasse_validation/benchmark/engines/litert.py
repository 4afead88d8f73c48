"""Times TFLite files in LiteRT on the CPU, as they are deployed: with XNNPACK."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from demitasse.errors import MalformedModel
from demitasse.ir.weights import Array
from demitasse_validation.benchmark.engines import Settings
from demitasse_validation.benchmark.feeds import batch_axes, batched, document_at, fixed_batch, noise
from demitasse_validation.benchmark.placement import Node, Placement, place
from demitasse_validation.runtimes import TensorSpec

__all__ = ["LiteRtEngine", "delegated"]

XNNPACK, KERNELS = "XNNPACK", "LiteRT's own kernels"


class LiteRtEngine:
    """Times an interpreter; integer inputs are fed as the integers that the file takes.

    Raises:
        MalformedModel: LiteRT refuses the file.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        from importlib.metadata import version

        from ai_edge_litert.interpreter import Interpreter

        self.path = path
        self.runtime = f"LiteRT {version('ai-edge-litert')} (XNNPACK)"
        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=settings.threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise MalformedModel(f"LiteRT refuses it: {error}", where=str(path)) from error
        self._ports = {detail["name"]: detail for detail in self._interpreter.get_input_details()}
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]
        self.inputs = {name: _spec(detail) for name, detail in self._ports.items()}
        self._axes = batch_axes(document_at(path), self.inputs)
        self.batch = fixed_batch(self._axes, self.inputs)
        self._feeds: list[tuple[int, Array]] = []

    @classmethod
    def absent(cls) -> str | None:
        return None

    def prepare(self, batch: int, seed: int) -> None:
        shapes = batched(str(self.path), self._axes, self.inputs, batch)
        for name, shape in shapes.items():
            if tuple(self._ports[name]["shape"]) != shape:
                self._interpreter.resize_tensor_input(self._ports[name]["index"], shape, strict=True)
        self._interpreter.allocate_tensors()
        feeds = noise(self.inputs, shapes, seed)
        self._feeds = [(self._ports[name]["index"], array) for name, array in feeds.items()]
        self.run()

    def run(self) -> None:
        for index, array in self._feeds:
            self._interpreter.set_tensor(index, array)
        self.compute()
        for index in self._outputs:
            self._interpreter.get_tensor(index)

    def compute(self) -> None:
        try:
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise MalformedModel(f"LiteRT can't run it: {error}", where=str(self.path)) from error

    def placement(self) -> Placement:
        # What XNNPACK has no operator for runs in LiteRT's own kernels: slower, and on the same processor.
        nodes = delegated(self._interpreter._get_ops_details(), XNNPACK, KERNELS)
        return place(nodes, (XNNPACK, KERNELS), "LiteRT's execution plan")

    def device_memory(self) -> int | None:
        return None


def delegated(operators: Iterable[Mapping[str, Any]], delegate: str, otherwise: str) -> Iterator[Node]:
    """Tell which operators a delegate took over.

    LiteRT keeps them in its list and adds a DELEGATE for each part that was taken over, with that part's inputs and
    outputs: whatever lies between them, followed back from the outputs, is in it.
    """
    operators = list(operators)
    own = [operator for operator in operators if operator["op_name"] != "DELEGATE"]
    maker = {int(tensor): place_ for place_, operator in enumerate(own) for tensor in operator["outputs"]}
    taken: set[int] = set()
    for part in operators:
        if part["op_name"] == "DELEGATE":
            given = {int(tensor) for tensor in part["inputs"]}
            pending = [int(tensor) for tensor in part["outputs"]]
            while pending:
                tensor = pending.pop()
                if tensor in maker and tensor not in given and maker[tensor] not in taken:
                    taken.add(maker[tensor])
                    pending += map(int, own[maker[tensor]]["inputs"])
    for place_, operator in enumerate(own):
        yield Node(str(operator["index"]), operator["op_name"], delegate if place_ in taken else otherwise)


def _spec(detail: Mapping[str, Any]) -> TensorSpec:
    shape = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    return TensorSpec(tuple(None if dim < 0 else int(dim) for dim in shape), np.dtype(detail["dtype"]).name)
