"""Runs a source in the project's own evaluator, which computes what every operation means, in float64."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph
from demitasse.ir.weights import Array
from demitasse_validation.runtimes import TensorSpec, check_feeds

__all__ = ["EvaluatorRunner", "specs"]


def specs(graph: Graph, names: Iterable[str]) -> dict[str, TensorSpec]:
    """Describe inputs or outputs of a graph."""
    found = {}
    for name in names:
        shape: tuple[int | None, ...]
        shape, dtype = graph.type(name)
        if graph.batch_is_dynamic and shape:
            shape = (None, *shape[1:])
        found[name] = TensorSpec(shape, dtype.value)
    return found


class EvaluatorRunner:
    """Computes a graph's values in float64, so that its own rounding is far below any other runtime's.

    It multiplies its matrices on one thread: they are blocks that fit a core's cache, and handing them around costs
    more than it gains (open_nsfw on two idle cores: 0.13 s on one thread, 0.27 s on two; beside other work far more).
    """

    def __init__(self, graph: Graph) -> None:
        from threadpoolctl import ThreadpoolController

        self.graph = graph
        self.runtime = f"Demitasse's evaluator (numpy {np.__version__}, float64)"
        self.inputs = specs(graph, graph.inputs)
        self.outputs = specs(graph, graph.outputs)
        self._pools = ThreadpoolController()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self.run_layers(feeds, self.outputs)

    def run_layers(self, feeds: Mapping[str, Array], tensors: Iterable[str]) -> dict[str, Array]:
        check_feeds(self.graph.name, self.inputs, feeds)
        with self._pools.limit(limits=1, user_api="blas"):
            return evaluate(self.graph, feeds, keep=[name for name in tensors if name in self.graph.values])

    def missing(self, tensors: Iterable[str]) -> dict[str, str]:
        return {name: "the graph has no such value" for name in tensors if name not in self.graph.values}
