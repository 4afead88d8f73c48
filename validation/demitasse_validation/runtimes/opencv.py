"""Runs Caffe nets in OpenCV's own Caffe importer: an independent opinion on what the source means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from demitasse.errors import MissingDependency
from demitasse.ir.graph import Graph
from demitasse.ir.weights import Array
from demitasse_validation.runtimes import check_feeds
from demitasse_validation.runtimes.evaluator import specs

__all__ = ["OpenCvRunner"]


class OpenCvRunner:
    """Runs a prototxt and a caffemodel in OpenCV 4, every layer for itself.

    OpenCV knows results by their layers, so values that an in-place layer overwrites are there too. Fusion and Winograd
    convolution are off: each layer is computed as it stands. What OpenCV can't run is no error here: `missing` tells
    the reason, as this runtime only supports findings about the others.

    Raises:
        MissingDependency: OpenCV isn't installed, or is a release without the Caffe importer.
    """

    def __init__(self, source: Path, weights: Path | None, graph: Graph, *, threads: int | None = None) -> None:
        try:
            import cv2
        except ImportError as error:
            raise MissingDependency("the independent runtime for Caffe nets", "cv2", "caffe") from error
        if not hasattr(cv2.dnn, "readNetFromCaffe"):
            raise MissingDependency("OpenCV 5 reads no Caffe nets: the independent runtime", "cv2 (4)", "caffe")
        self.graph = graph
        self.runtime = f"OpenCV {cv2.__version__} (CPU)"
        self.inputs = specs(graph, graph.inputs)
        self.outputs = specs(graph, graph.outputs)
        self._threads = threads
        self._places = {
            blob: (layer.origin.layer, place) for layer in graph.layers for place, blob in enumerate(layer.outputs)
        }
        counts = Counter(layer.origin.layer for layer in graph.layers)
        self._namesakes = frozenset(name for name, count in counts.items() if count > 1)
        self._layers: frozenset[str] = frozenset()
        self._refusal = ""
        self._net: Any = None
        try:
            with _quiet():
                self._net = cv2.dnn.readNetFromCaffe(str(source), str(weights or ""))
        except cv2.error as error:
            self._refusal = _reason(error)
            return
        self._net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        self._net.enableFusion(False)
        self._net.enableWinograd(False)
        self._layers = frozenset(self._net.getLayerNames())

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self.run_layers(feeds, self.outputs)

    def run_layers(self, feeds: Mapping[str, Array], tensors: Iterable[str]) -> dict[str, Array]:
        import cv2

        check_feeds(self.graph.name, self.inputs, feeds)
        wanted = list(dict.fromkeys(tensors))
        absent = self.missing(wanted)
        results = {name: feeds[name] for name in wanted if name in feeds}
        computed = [name for name in wanted if name not in absent and name not in feeds]
        layers = list(dict.fromkeys(self._places[name][0] for name in computed))
        if not layers:
            return results
        try:
            with _quiet(), self._limited_threads():
                for name, array in feeds.items():
                    self._net.setInput(np.ascontiguousarray(array), name)
                given = dict(zip(layers, self._net.forwardAndRetrieve(layers), strict=True))
        except cv2.error as error:
            self._refusal = _reason(error)
            return results
        for name in computed:
            layer, place = self._places[name]
            if place < len(given[layer]):
                results[name] = self._shaped(name, given[layer][place])
        return results

    def missing(self, tensors: Iterable[str]) -> dict[str, str]:
        absent = {}
        for name in tensors:
            if name in self.graph.inputs:
                continue
            if self._refusal:
                absent[name] = f"OpenCV can't run this net: {self._refusal}"
            elif name not in self._places:
                absent[name] = "no layer of the source gives it"
            elif self._places[name][0] not in self._layers:
                absent[name] = "OpenCV's importer drops this layer"
            elif self._places[name][0] in self._namesakes:
                absent[name] = "OpenCV can't tell layers of the same name apart"
        return absent

    def _shaped(self, name: str, array: Array) -> Array:
        """Give blobs of rank 0 or 1 their shape back: OpenCV's matrices have two dimensions at least."""
        rank = self.graph.type(name).rank
        return array.reshape([-1] if rank == 1 else []) if rank < 2 and array.ndim == 2 else array

    @contextmanager
    def _limited_threads(self) -> Iterator[None]:
        """Limit OpenCV's threads for a run; the setting is one for the whole process, so it is put back."""
        import cv2

        before = cv2.getNumThreads()
        if self._threads is not None:
            cv2.setNumThreads(self._threads)
        try:
            yield
        finally:
            cv2.setNumThreads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep OpenCV from writing to stderr what it raises as well; the level is one for the whole process."""
    import cv2

    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


def _reason(error: Exception) -> str:
    """Cut OpenCV's message, `OpenCV(4.11) /file.cpp:12: error: (-2:kind) reason in function 'f'`, to the reason."""
    text = str(error).split("error: (", 1)[-1]
    return " ".join(text.split(") ", 1)[-1].split())
