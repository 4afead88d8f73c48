"""Adds up how one blob compares over all samples, and judges it by its tolerance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from demitasse.ir.weights import Array
from demitasse_validation.metrics import METRICS, Size, Sums
from demitasse_validation.tolerances import Rule

__all__ = ["Judgement", "Tally", "describe_excess"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The figures of a blob, whether they keep its tolerance, and what is wrong apart from the figures."""

    metrics: Mapping[str, float]
    passed: bool
    fault: str


@dataclass
class Tally:
    """Sums over the samples so far; `worst_sample` is the one with the largest error, or the first NaN."""

    sums: Sums = field(default_factory=Sums)
    worst_sample: str | None = None
    fault: str = ""
    _worst: float = -1.0

    def add(self, reference: Array, candidate: Array, sample: str, size: Size | None = None) -> None:
        """Measure one more result; another shape than the reference's is a fault, and nothing is measured then.

        `size` is the reference's, where it is known already.
        """
        if candidate.shape != reference.shape:
            self.fault = f"its shape is {list(candidate.shape)} instead of {list(reference.shape)} (sample {sample})"
            return
        sums = Sums.of(reference, candidate, size)
        self.sums += sums
        error = math.inf if math.isnan(sums.max_abs) else sums.max_abs
        if error > self._worst:
            self._worst, self.worst_sample = error, sample

    def judge(self, rule: Rule) -> Judgement:
        """Compare the figures with a rule's limits; anything that isn't finite fails whatever the limits."""
        if self.fault or self.sums.count == 0:
            return Judgement({}, passed=False, fault=self.fault or "it was never computed")
        metrics = {name: metric.of(self.sums) for name, metric in METRICS.items()}
        kept = all(METRICS[name].holds(metrics[name], limit) for name, limit in rule.limits.items())
        finite = self.sums.nonfinite == 0 and self.sums.reference_nonfinite == 0
        fault = "" if self.sums.reference_nonfinite == 0 else "the source itself computes NaN or infinity here"
        return Judgement(metrics, passed=kept and finite, fault=fault)


def describe_excess(metrics: Mapping[str, float] | None, limits: Mapping[str, float] | None) -> str:
    """Say in words which limits are broken: `max error / peak 0.0123, allowed 0.0001`."""
    metrics, limits = metrics or {}, limits or {}
    if metrics.get("nonfinite"):
        return f"{metrics['nonfinite']:.0f} values are NaN or infinite"
    broken = [
        f"{METRICS[name].title} {metrics[name]:.3g}{f' {METRICS[name].unit}'.rstrip()}, allowed {limit:.3g}"
        for name, limit in limits.items()
        if name in metrics and not METRICS[name].holds(metrics[name], limit)
    ]
    return "; ".join(broken)
