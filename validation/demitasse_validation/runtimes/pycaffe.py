"""Runs Caffe nets in Caffe itself, where its Python module is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from demitasse.errors import MalformedModel, MissingDependency
from demitasse.ir.graph import Graph
from demitasse.ir.weights import Array
from demitasse_validation.runtimes import check_feeds
from demitasse_validation.runtimes.evaluator import specs

__all__ = ["PyCaffeRunner", "is_installed"]


def is_installed() -> bool:
    """Tell whether Caffe's Python module can be imported.

    A mere folder of that name beside the user, Caffe's sources say, could be imported too: as a package of nothing.
    """
    found = importlib.util.find_spec("caffe")
    return found is not None and found.origin is not None


class PyCaffeRunner:
    """Runs a prototxt and a caffemodel in Caffe, layer by layer, so that what in-place layers overwrite is seen too.

    Raises:
        MissingDependency: pycaffe isn't installed.
        MalformedModel: Caffe refuses the net. (Where Caffe aborts the process instead, nothing can be caught.)
    """

    def __init__(self, source: Path, weights: Path | None, graph: Graph, *, threads: int | None = None) -> None:
        if not is_installed():
            raise MissingDependency("running Caffe itself", "caffe", "caffe")
        import caffe

        del threads  # Caffe leaves threads to its BLAS
        caffe.set_mode_cpu()
        self.graph = graph
        self.runtime = f"Caffe {getattr(caffe, '__version__', '(unknown version)')} (CPU)"
        self.inputs = specs(graph, graph.inputs)
        self.outputs = specs(graph, graph.outputs)
        try:
            given = {} if weights is None else {"weights": str(weights)}
            self._net = caffe.Net(str(source), caffe.TEST, **given)
        except RuntimeError as error:
            raise MalformedModel(f"Caffe refuses it: {error}", where=str(source)) from error
        # For each layer, the names that the graph has for what it writes: in the order of its tops.
        self._writes = {layer.origin.layer: layer.outputs for layer in graph.layers}
        self._values = {name for layer in self._net._layer_names for name in self._writes.get(layer, ())}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self.run_layers(feeds, self.outputs)

    def run_layers(self, feeds: Mapping[str, Array], tensors: Iterable[str]) -> dict[str, Array]:
        check_feeds(self.graph.name, self.inputs, feeds)
        wanted = set(tensors)
        for name, array in feeds.items():
            self._net.blobs[name].reshape(*array.shape)
            self._net.blobs[name].data[...] = array
        self._net.reshape()
        results = {name: np.asarray(feeds[name]) for name in wanted & feeds.keys()}
        for layer in self._net._layer_names:
            self._net.forward(start=layer, end=layer)
            for blob, name in zip(self._net.top_names[layer], self._writes.get(layer, ()), strict=False):
                if name in wanted and name not in feeds:
                    results[name] = self._net.blobs[blob].data.copy()
        return results

    def missing(self, tensors: Iterable[str]) -> dict[str, str]:
        return {
            name: "no layer of the source gives it"
            for name in tensors
            if name not in self._values and name not in self.graph.inputs
        }
