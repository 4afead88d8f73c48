"""An independent runtime of the source: what it computes, measured by the evaluator.

Where the two disagree the project misreads the source, or the runtime does. Neither is the artifact's fault, so it is a
finding of its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from demitasse.ir.graph import Graph, SourceLayer, Status
from demitasse.ir.weights import Array
from demitasse_validation.align import sources_of_divergence
from demitasse_validation.inputs import Step
from demitasse_validation.ranks import blob_kind
from demitasse_validation.report import Finding, LayerResult, RuntimeReport, Severity
from demitasse_validation.rounding import Rounding
from demitasse_validation.runtimes import Runner
from demitasse_validation.subject import divergence_findings, health_findings
from demitasse_validation.tally import Tally
from demitasse_validation.tolerances import Rule, Tolerances
from demitasse_validation.truth import Truth

__all__ = ["Witness"]


@dataclass
class Witness:
    """A runtime of the source and the sums over the samples that it has been run on.

    `name` is what tolerances call it: `opencv`, `pycaffe`.
    """

    name: str
    runner: Runner
    graph: Graph
    tolerances: Tolerances
    used_rules: list[Rule] = field(default_factory=list)
    seconds: float = 0.0
    rounding: Rounding | None = None

    def __post_init__(self) -> None:
        self._tallies: dict[str, Tally] = {}
        blobs = (blob for layer in self.graph.layers for blob in layer.outputs)
        self._all = [blob for blob in blobs if blob in self.graph.values]

    @property
    def blobs(self) -> frozenset[str]:
        """The source's blobs that it gives."""
        return frozenset(self._all) - self.runner.missing(self._all).keys()

    def add(self, step: Step, reference: Truth) -> None:
        """Run one step and measure every blob that the runtime gives."""
        start = time.perf_counter()
        results = self._run(step, reference)
        self.seconds += time.perf_counter() - start
        for name, array in results.items():
            self._tallies.setdefault(name, Tally()).add(reference[name], array, step.label, reference.size(name))

    def _run(self, step: Step, reference: Truth) -> Mapping[str, Array]:
        """Run one step; a runtime that cut the net gets what it doesn't compute from the evaluator."""
        before = self._cut
        fed = {name: reference[name] for name in before}
        results = self.runner.run_layers({**step.feeds, **fed}, self.blobs)
        return results if self._cut == before else self._run(step, reference)

    @property
    def _cut(self) -> tuple[str, ...]:
        return tuple(getattr(self.runner, "cut", ()))

    def report(self) -> RuntimeReport:
        """Judge everything that was added, and say which layers the runtime lacks."""
        absent = self.runner.missing(self._all)
        behind = self._behind_cuts()
        layers = tuple(
            self._result(layer, blob, absent.get(blob, ""), behind.get(blob, ""))
            for layer in self.graph.layers
            for blob in layer.outputs
            if blob in self.graph.values
        )
        failing = {result.blob for result in layers if result.passed is False and result.metrics}
        found = [
            *health_findings(layers, ()),
            *divergence_findings(layers, sources_of_divergence(self.graph, failing)),
        ]
        findings = [
            replace(
                finding,
                kind="source-disagreement",
                message=f"{self.runner.runtime} and the evaluator disagree on the source: {finding.message}",
            )
            for finding in found
        ]
        if absent:
            nothing = self._tallies.keys() <= set(self.graph.inputs)
            layers_lacked = f"{'every layer' if nothing else f'{len(absent)} of {len(self._all)} blobs'}"
            reasons = "; ".join(dict.fromkeys(absent.values()))
            message = f"{self.runner.runtime} gives no second opinion on {layers_lacked}: {reasons}"
            severity = Severity.WARNING if nothing else Severity.NOTE
            findings.append(Finding(severity, "no-second-opinion", message))
        if behind:
            fed = ", ".join(map(repr, self._cut))
            message = f"{self.runner.runtime} ran without what it lacks: {len(behind)} blobs follow from {fed} as given"
            findings.append(Finding(Severity.NOTE, "cut", f"{message} by the evaluator"))
        return RuntimeReport(self.name, self.runner.runtime, layers, tuple(findings), self.seconds)

    def _behind_cuts(self) -> dict[str, str]:
        """Say of each blob that depends on one which the evaluator gave from which."""
        behind: dict[str, tuple[str, ...]] = {name: (name,) for name in self._cut}
        for layer in self.graph.layers:
            from_which = tuple(dict.fromkeys(each for name in layer.inputs for each in behind.get(name, ())))
            if from_which:
                behind |= {name: from_which for name in layer.outputs if name not in behind}
        return {
            name: f"computed from the evaluator's {', '.join(map(repr, origins))}"
            for name, origins in behind.items()
            if name not in self._cut
        }

    def _result(self, layer: SourceLayer, blob: str, absent: str, behind: str) -> LayerResult:
        result = LayerResult(
            layer=layer.origin.layer,
            type=layer.origin.kind,
            blob=blob,
            where=layer.origin.where,
            status=Status.COMPARED,
            passed=None,
            note=absent,
        )
        if blob not in self._tallies:
            return result
        rule = self.tolerances.rule(self.name, [layer.origin.layer, blob], blob_kind(self.graph, blob))
        self.used_rules.append(rule)
        if self.rounding is not None and rule in self.tolerances.rules:
            derived = self.rounding.rule(blob, rule, self._tallies[blob].sums.peak)
            # Foreign runtimes approximate more (OpenCV's exponential, its Winograd convolutions): never tighter.
            wider = any(derived.limits[name] > limit for name, limit in rule.limits.items())
            rule = derived if wider else rule
        judgement = self._tallies[blob].judge(rule)
        return replace(
            result,
            passed=judgement.passed,
            metrics=judgement.metrics,
            limits=dict(rule.limits),
            reason=rule.reason,
            worst_sample=self._tallies[blob].worst_sample,
            note=judgement.fault or behind,
        )
