"""Estimates what float32 rounding does to every blob of a net, on the inputs that are compared.

The evaluator computes the net once more in float32. How far that is from its float64 results shows how the net
amplifies rounding: a softmax of logits in the thousands turns 1e-7 of them into 1e-4 of a probability, and a net
without such a layer keeps a hundred times less. Another float32 runtime sums in another order, so its own error is
another sample of the same size, and some multiple of the estimate bounds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph
from demitasse.ir.ops import Resize
from demitasse.ir.weights import Array
from demitasse_validation.tolerances import Rule

__all__ = ["Rounding"]

# Another order of summing, blocked products and fused operations are allowed so many times the evaluator's own error.
TIMES = 64.0

# What is allowed without any estimate, in shares of the peak: a blob that is exact here by luck needn't be elsewhere.
LEAST_SHARE = 2e-5

# A coordinate of a resize is computed in float32 too: off by some units in the last place of the image's size, each of
# which moves a result by up to twice the peak.
UNITS = 4 * 2.0**-23


class Rounding:
    """Collects the largest differences between the evaluator's float32 and float64 results over all samples."""

    def __init__(self, graph: Graph) -> None:
        from threadpoolctl import ThreadpoolController

        self.graph = graph
        self._largest: dict[str, float] = {}
        self._coordinates = _coordinates(graph)
        self._pools = ThreadpoolController()

    def add(self, feeds: Mapping[str, Array], reference: Mapping[str, Array]) -> None:
        """Compute one step in float32; `reference` holds the float64 results."""
        wanted = [name for name, array in reference.items() if array.dtype.kind == "f" and name in self.graph.values]
        with self._pools.limit(limits=1, user_api="blas"):
            results = evaluate(self.graph, feeds, dtype=np.float32, keep=wanted)
        for name in wanted:
            with np.errstate(invalid="ignore", over="ignore"):
                difference = results.pop(name) - reference[name]
                error = float(max(difference.max(initial=0.0), -difference.min(initial=0.0)))
            if np.isfinite(error):
                self._largest[name] = max(self._largest.get(name, 0.0), error)

    def allowed(self, blob: str) -> float:
        """Say how far float32 may move a blob; 0 where that isn't known."""
        return TIMES * self._largest.get(blob, 0.0)

    def rule(self, blob: str, rule: Rule, peak: float) -> Rule:
        """Derive the limits of a rule for real numbers from the estimate; other rules stay as they are."""
        if blob not in self._largest or not rule.limits.keys() <= {"relative_to_peak", "max_abs"} or peak == 0:
            return rule
        estimate = self._largest[blob]
        allowed = TIMES * estimate + self._coordinates.get(blob, 0.0) * peak
        limits = dict(rule.limits)
        if "relative_to_peak" in limits:
            limits["relative_to_peak"] = max(LEAST_SHARE, allowed / peak)
        if "max_abs" in limits:
            limits["max_abs"] = max(limits["max_abs"], allowed)
        reason = f"float32 rounding moves this blob by {estimate / peak:.1e} of its peak in the evaluator"
        return replace(rule, limits=MappingProxyType(limits), reason=f"{reason}; {TIMES:.0f} times that is allowed")


def _coordinates(graph: Graph) -> dict[str, float]:
    """Say for all that depends on a resize how far its coordinates' rounding moves it, in shares of the peak."""
    shares: dict[str, float] = {}
    for node in graph.nodes:
        share = max((shares.get(name, 0.0) for name in node.inputs), default=0.0)
        if isinstance(node.op, Resize):
            share += UNITS * max(graph.type(node.inputs[0]).shape + graph.type(node.outputs[0]).shape)
        if share:
            shares.update(dict.fromkeys(node.outputs, share))
    return shares
