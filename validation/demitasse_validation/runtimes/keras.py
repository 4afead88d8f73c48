"""Runs a Keras source in Keras itself, which runs what the file holds: only where the user says that it is trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from demitasse.ir.graph import Graph
from demitasse.ir.weights import Array
from demitasse.route import KerasNet
from demitasse_validation.runtimes import check_feeds
from demitasse_validation.runtimes.evaluator import specs

__all__ = ["KerasRunner"]


class KerasRunner:
    """Computes what the layers of a Keras model give, in float32.

    `graph` describes the inputs: the net's own graph, or what the project's reader made of the same file. Blobs are
    known by the names of their layers, which are the file's.
    """

    def __init__(self, net: KerasNet, graph: Graph) -> None:
        self._net = net
        self.runtime = net.made_with
        self._name = graph.name
        self.inputs = specs(graph, graph.inputs)
        self.outputs = specs(graph, graph.outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self.run_layers(feeds, self.outputs)

    def run_layers(self, feeds: Mapping[str, Array], tensors: Iterable[str]) -> dict[str, Array]:
        check_feeds(self._name, self.inputs, feeds)
        return self._net.run(feeds, tensors)

    def missing(self, tensors: Iterable[str]) -> dict[str, str]:
        return {name: "Keras has no layer of this name" for name in tensors if name not in self._net.blobs}
