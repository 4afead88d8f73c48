"""Times a Caffe net in OpenCV's own importer: what the source costs before anything is converted."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from demitasse.errors import MalformedModel, MissingDependency, UsageError
from demitasse.ir.weights import Array
from demitasse_validation.benchmark.engines import Settings
from demitasse_validation.benchmark.feeds import batched, noise
from demitasse_validation.benchmark.placement import Node, Placement, place
from demitasse_validation.runtimes import TensorSpec

__all__ = ["OpenCvEngine"]


class OpenCvEngine:
    """Times a net as OpenCV deploys it: fused, with Winograd convolution, on the CPU.

    Raises:
        MissingDependency: OpenCV isn't installed, or is a release without the Caffe importer.
        MalformedModel: OpenCV refuses the net.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        from demitasse.readers import read

        try:
            import cv2
        except ImportError as error:
            raise MissingDependency("Timing a Caffe net", "cv2", "caffe") from error
        if not hasattr(cv2.dnn, "readNetFromCaffe"):
            raise MissingDependency("OpenCV 5 reads no Caffe nets: timing one", "cv2 (4)", "caffe")
        self.path = path
        self.batch = None
        self.runtime = f"OpenCV {cv2.__version__}"
        self._error = cv2.error
        cv2.setNumThreads(settings.threads)
        try:
            self._net: Any = cv2.dnn.readNetFromCaffe(str(path), settings.weights or "")
        except cv2.error as error:
            raise MalformedModel(f"OpenCV refuses it: {error}", where=str(path)) from error
        self._net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        weights = None if settings.weights is None else Path(settings.weights)
        graph = read(path, weights)
        self.inputs = {name: TensorSpec((None, *graph.type(name).shape[1:]), "float32") for name in graph.inputs}
        self._outputs = self._net.getUnconnectedOutLayersNames()
        self._feeds: dict[str, Array] = {}

    @classmethod
    def absent(cls) -> str | None:
        return None if importlib.util.find_spec("cv2") else "OpenCV isn't installed: pip install 'demitasse[caffe]'"

    def prepare(self, batch: int, seed: int) -> None:
        shapes = batched(str(self.path), dict.fromkeys(self.inputs, 0), self.inputs, batch)
        self._feeds = noise(self.inputs, shapes, seed)
        self.run()

    def run(self) -> None:
        for name, array in self._feeds.items():
            self._net.setInput(array, name)
        self.compute()

    def compute(self) -> None:
        try:
            self._net.forward(self._outputs)
        except self._error as error:
            raise UsageError(f"{self.path}: OpenCV can't run it: {error}") from error

    def placement(self) -> Placement:
        nodes = [Node(name, self._net.getLayer(name).type, "OpenCV on the CPU") for name in self._net.getLayerNames()]
        return place(nodes, ["OpenCV on the CPU"], "the only backend that was asked for")

    def device_memory(self) -> int | None:
        return None
