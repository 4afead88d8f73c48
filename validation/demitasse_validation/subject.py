"""One artifact under validation: what it promises, what it gives, and what that amounts to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from demitasse.errors import UsageError
from demitasse.ir.document import Document, Port
from demitasse.ir.graph import Graph, Status, Storage
from demitasse.ir.weights import Array
from demitasse_validation.align import Alignment, Link, align, is_foreign, is_undocumented, sources_of_divergence
from demitasse_validation.conduct import Conduct
from demitasse_validation.diagnosis import Alone
from demitasse_validation.equalized import Equalization
from demitasse_validation.health import Health
from demitasse_validation.inputs import Step as Samples
from demitasse_validation.local import Locals, Step
from demitasse_validation.precision import Precision
from demitasse_validation.ranks import Ranks, blob_kind, channel_axis, class_axis
from demitasse_validation.report import ArtifactReport, Finding, LayerResult, Ranked, Role, Severity
from demitasse_validation.rounding import Rounding
from demitasse_validation.runtimes import Runner, TensorSpec
from demitasse_validation.stored_kernels import StoredKernels
from demitasse_validation.tally import Tally, describe_excess
from demitasse_validation.tolerances import Rule, Tolerances
from demitasse_validation.truth import Truth

__all__ = ["Subject"]

# In how many steps a run looks at each channel, runs everything twice, and compares a sample alone with it in a batch.
CLOSE_LOOKS = 2

# What the writers add to the name of a real input or output for the numbers that its integers stand for.
QUANTIZED = ("_quantized", "/dequantized")

# How much larger, in shares of the peak, an error leaves an amplifier than it came.
AMPLIFIED = 3.0


@dataclass
class Subject:
    """An artifact, its document, its runtime, and the sums over the samples that it has been run on.

    `labels` are those that ranks are shown with; `top` is how many classes they show.
    """

    path: Path
    document: Document
    runner: Runner
    graph: Graph
    tolerances: Tolerances
    top: int
    labels: Sequence[str] | None
    alignment: Alignment = field(init=False)
    used_rules: list[Rule] = field(default_factory=list)
    seconds: float = 0.0
    rounding: Rounding | None = None

    def __post_init__(self) -> None:
        tensors = [record.tensor for record in self.document.provenance if record.tensor and record.axes is not None]
        self.alignment = align(self.graph, self.document, self.runner.missing(tensors))
        self._layers = {link.blob: Tally() for link in self.alignment.links if link.storage is not None}
        self._outputs = {port.name: Tally() for port in self._comparable_outputs()}
        self._interface = tuple(self._interface_faults())
        self._health = {name: Health(channel_axis(self.graph, name)) for name in self.blobs}
        names = {link.tensor: link.origin.layer for link in self._measured() if link.tensor}
        self._conduct = Conduct(self.runner, self._may_stack(), names)
        self._steps = 0
        self._integers: dict[str, str] = {}  # real tensors that are quantized for their readers, and those
        self._held = self._steps_of_tensors()
        self._equalization = self._read_equalization()
        self._locals = None if is_foreign(self.document) else self._make_locals()
        self._ranks: list[Ranks] = []
        for port in self._comparable_outputs():
            axis = class_axis(self.graph, port.name, self.labels)
            if axis is not None:
                kind, rule = blob_kind(self.graph, port.name), self._rule(port.name, [port.name])
                is_stated = rule in self.tolerances.overrides and rule.top1_margin > 0
                self._ranks.append(Ranks(port.name, axis, self.top, self.labels, rule, kind, is_stated))

    # --- what it takes ---

    @property
    def folds_preprocessing(self) -> bool:
        """Whether it takes pixels where the source takes prepared values."""
        return bool(self.document.options.get("fold_preprocessing"))

    @property
    def is_float32(self) -> bool:
        """Whether it stores and computes in float32, so that rounding to that explains all that it may be off."""
        return Precision.of(self.document.target).bits == 32

    @property
    def blobs(self) -> frozenset[str]:
        """The source's blobs that it is compared by."""
        return frozenset(self._layers) | frozenset(self._outputs)

    def batch(self, stacked: Collection[str]) -> int:
        """Return how many samples it takes at once; 1 where it takes any number."""
        sizes = set()
        for port in self.document.inputs:
            spec = self.runner.inputs.get(port.tensor)
            if port.name in stacked and spec is not None and 0 in port.axes:
                size = spec.shape[port.axes.index(0)]
                sizes.add(1 if size is None else size)
        return max(sizes, default=1)

    @property
    def can_run(self) -> bool:
        """Whether its inputs are what its document says."""
        return all(port.tensor in self.runner.inputs for port in self.document.inputs)

    def _feeds(self, step: Samples) -> dict[str, Array]:
        feeds = {}
        for port in self.document.inputs:
            array = step.feeds.get(port.name)
            if array is None:
                raise UsageError(f"{self.path}: its input {port.name!r} is no input of the source")
            if self.folds_preprocessing:
                if step.pixels is None:
                    raise UsageError(f"{self.path}: takes pixels; compare it on images or on random inputs")
                array = step.pixels
            dtype = self.runner.inputs[port.tensor].dtype
            feeds[port.tensor] = np.ascontiguousarray(port.storage.store(array), dtype)
        return feeds

    # --- what it gives ---

    def add(self, step: Samples, reference: Truth) -> None:
        """Run one step and measure everything in it against the source's values."""
        feeds = self._feeds(step)
        start = time.perf_counter()
        outputs = self.runner.run(feeds)
        if self._steps < CLOSE_LOOKS:
            self._conduct.add(feeds, outputs)
        layers = self.runner.run_layers(feeds, self._wanted())
        self.seconds += time.perf_counter() - start
        given = {}
        for link in self._measured():
            if link.tensor is not None and link.tensor in layers and link.storage is not None:
                expected = reference[link.blob]
                restored = _restored(
                    layers[link.tensor], link.storage, expected, may_reshape=link.status is Status.IDENTITY
                )
                given[link.blob] = restored
                restored = self._equalization.undone(link.blob, restored)
                self._layers[link.blob].add(expected, restored, step.label, reference.size(link.blob))
                if self._steps < CLOSE_LOOKS:
                    self._health[link.blob].add(expected, restored)
        if self._locals is not None and self._steps < CLOSE_LOOKS:
            equalized = {name: self._equalization.applied(name, array) for name, array in reference.items()}
            inner = {name: layers[name] for name in self._locals.inner if name in layers}
            self._locals.add(step.feeds, {**given, **inner}, {**self._read(layers, reference), **inner}, equalized)
        restored_outputs = {}
        for port in self._comparable_outputs():
            expected = reference[port.name]
            restored = _restored(outputs[port.tensor], port.storage, expected, may_reshape=False)
            self._outputs[port.name].add(expected, restored, step.label, reference.size(port.name))
            restored_outputs[port.name] = restored
        self._steps += 1
        for ranks in self._ranks:
            if restored_outputs[ranks.output].shape == reference[ranks.output].shape:
                ranks.add(step.names, reference[ranks.output], restored_outputs[ranks.output])

    def _wanted(self) -> list[str]:
        wanted = [link.tensor for link in self._measured() if link.tensor]
        return [*wanted, *self._integers.values(), *(self._locals.inner if self._locals is not None else ())]

    def _read(self, layers: Mapping[str, Array], reference: Mapping[str, Array]) -> dict[str, Array]:
        """Return what the artifact computed with, in the source's order: the integers of what is quantized for it."""
        return {
            link.blob: _restored(
                layers[self._integers.get(link.tensor, link.tensor)],
                link.storage,
                reference[link.blob],
                may_reshape=link.status is Status.IDENTITY,
            )
            for link in self._measured()
            if link.tensor is not None and link.tensor in layers and link.storage is not None
        }

    def alone(self, blob: str, step: Samples, reference: Mapping[str, Array]) -> Alone | None:
        """Run one step again, and return a layer as it computed it; None where it can't be taken alone."""
        if self._locals is None or blob not in self._locals.nodes:
            return None
        feeds = self._feeds(step)
        given = self._read(self.runner.run_layers(feeds, self._wanted()), reference)
        if blob not in given:
            return None
        nodes, operands = self._locals.nodes[blob], self._locals.operands(blob, step.feeds, given)
        alone = Alone(nodes, operands, given[blob], given[blob], channel_axis(self.graph, blob))
        return replace(alone, expected=alone.run())

    @property
    def lowered(self) -> Graph:
        """The graph that `alone` takes its nodes from."""
        return self.graph if self._locals is None else self._locals.graph

    def _steps_of_tensors(self) -> dict[str, Step]:
        """Map the tensors that are integers to their steps; a real input or output has a tensor of integers beside."""
        found: dict[str, Step] = {}
        for link in self._measured():
            if link.tensor is None:
                continue
            names = [*(f"{link.tensor}{suffix}" for suffix in QUANTIZED), link.tensor]
            present = [name for name in names if name not in self.runner.missing(names)]
            if len(present) > 1:
                self._integers[link.tensor] = present[0]
            step = next((each for each in map(self._step_of, present) if each is not None), None)
            if step is not None:
                found[link.tensor] = step
        return found

    def _step_of(self, tensor: str) -> Step | None:
        """Return the step of a tensor of integers."""
        quantization = getattr(self.runner, "quantization", None)
        if quantization is None or self.runner.missing([tensor]):
            return None
        known = quantization(tensor)
        if known is None or known.scale.size != 1:
            return None
        limits, scale, zero = np.iinfo(known.dtype), float(known.scale[0]), int(known.zero_point[0])
        return Step(scale, (limits.min - zero) * scale, (limits.max - zero) * scale)

    def _read_equalization(self) -> Equalization:
        try:
            return Equalization.of(self.graph, self.document)
        except UsageError as error:
            raise UsageError(f"{self.path}: {error}") from error

    def _make_locals(self) -> Locals:
        links = [link for link in self._measured() if self.graph.type(link.blob).rank]
        fed = {link.blob: self._held[link.tensor] for link in links if link.tensor in self._held}
        steps = {
            link.blob: fed[link.blob]
            for link in links
            if link.blob in fed and (link.tensor in self.runner.outputs or link.tensor not in self._integers)
        }
        axes = {link.blob: channel_axis(self.graph, link.blob) for link in links}
        settings = self.document.options.get("int8")
        corrected = isinstance(settings, Mapping) and bool(settings.get("bias_correction"))
        copied = frozenset(link.blob for link in links if link.tensor in self._integers)
        return Locals(
            self._equalization.graph,
            self.document.target,
            steps,
            fed,
            axes,
            step_of=self._step_of,
            is_there=lambda name: not self.runner.missing([name]),
            copied=copied,
            corrected=corrected,
            kernels=StoredKernels.of(self.runner, self.document),
        )

    def _may_stack(self) -> bool:
        """Whether every input takes any number of samples at once, along the first axis of the artifact's tensor."""
        specs = [self.runner.inputs.get(port.tensor) for port in self.document.inputs]
        return all(spec is not None and spec.shape and spec.shape[0] is None for spec in specs)

    def _measured(self) -> Iterator[Link]:
        return (link for link in self.alignment.links if link.blob in self._layers)

    def _comparable_outputs(self) -> list[Port]:
        return [
            port
            for port in self.document.outputs
            if port.tensor in self.runner.outputs and port.name in self.graph.values
        ]

    # --- what that amounts to ---

    def report(self) -> ArtifactReport:
        """Judge everything that was added."""
        layers = tuple(self._layer_result(link) for link in self.alignment.links)
        outputs = tuple(self._output_result(port) for port in self._comparable_outputs())
        failing = {result.blob for result in layers if result.passed is False and result.metrics}
        divergence = self._divergence(layers, failing)
        layers = tuple(self._with_role(result, layers, failing) for result in layers)
        ranks = tuple(ranks.result(self._least_lead(ranks.output)) for ranks in self._ranks)
        findings = [
            *self._interface,
            *health_findings(layers, outputs),
            *divergence_findings(layers, divergence),
            *self._ailments(),
            *self._conduct.findings(),
            *self._map_findings(),
            *self._undocumented(),
            *(
                Finding(Severity.FAILURE, "output", f"output {result.blob!r}: {fault_of(result)}", result.layer)
                for result in outputs
                if result.passed is False
            ),
            *(finding for each in ranks for finding in _rank_findings(each.output, each.ranked)),
            *(Finding(Severity.NOTE, "approximation", note) for note in self.document.notes),
        ]
        if not any(tally.sums.count for tally in (*self._layers.values(), *self._outputs.values())):
            findings.append(Finding(Severity.FAILURE, "unmeasured", "nothing of it could be measured"))
        size = sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())
        return ArtifactReport(
            name=self.path.name,
            path=str(self.path),
            target=self.document.target,
            bytes=size or self.path.stat().st_size,
            runtime=self.runner.runtime,
            coverage=Counter(link.status.value for link in self.alignment.links),
            layers=layers,
            outputs=outputs,
            ranks=ranks,
            divergence=divergence,
            findings=tuple(findings),
            seconds=self.seconds,
        )

    def _least_lead(self, output: str) -> float:
        """Say which lead of a class over another float32 alone may turn around: both may move."""
        return 2 * self.rounding.allowed(output) if self.rounding is not None and self.is_float32 else 0.0

    def _divergence(self, layers: Sequence[LayerResult], failing: Collection[str]) -> tuple[str, ...]:
        """Name the blobs to look at first: those whose layer is wrong by itself, or else the first that fail."""
        first = sources_of_divergence(self.graph, failing)
        alone = {result.blob for result in layers if result.blob in failing and self._fault_alone(result.blob)}
        return tuple(blob for blob in dict.fromkeys(result.blob for result in layers) if blob in {*first, *alone})

    def _fault_alone(self, blob: str) -> str:
        return "" if self._locals is None else self._locals.fault(blob)

    def _with_role(self, result: LayerResult, layers: Sequence[LayerResult], failing: Collection[str]) -> LayerResult:
        """Say what part a layer that is off has in its error."""
        if result.blob not in failing or not result.metrics:
            return result
        if self._fault_alone(result.blob) or self._locals is None or result.blob not in self._locals.errors:
            return replace(result, role=Role.SOURCE if self._fault_alone(result.blob) else None)
        share = {each.blob: each.metrics["relative_to_peak"] for each in layers if each.metrics}
        fed = [share[name] for name in self._fed_by(result.blob) if name in share]
        grew = result.metrics["relative_to_peak"] > AMPLIFIED * max(fed, default=0.0)
        return replace(result, role=Role.AMPLIFIER if grew else Role.VICTIM)

    def _fed_by(self, blob: str) -> tuple[str, ...]:
        return next((layer.inputs for layer in self.graph.layers if blob in layer.outputs), ())

    def _rule(self, blob: str, names: Sequence[str]) -> Rule:
        rule = self.tolerances.rule(self.document.target, names, blob_kind(self.graph, blob))
        self.used_rules.append(rule)
        return rule

    def _layer_result(self, link: Link) -> LayerResult:
        result = LayerResult(
            layer=link.origin.layer,
            type=link.origin.kind,
            blob=link.blob,
            where=link.origin.where,
            status=link.status,
            passed=False if link.status is Status.UNMAPPED else None,
            tensor=link.tensor,
            into=link.into,
            note=link.reason,
        )
        if link.blob not in self._layers:
            return result
        return self._judged(result, self._layers[link.blob])

    def _output_result(self, port: Port) -> LayerResult:
        link = next((link for link in self.alignment.links if link.blob == port.name), None)
        return self._judged(
            LayerResult(
                layer=link.origin.layer if link else port.name,
                type=link.origin.kind if link else "",
                blob=port.name,
                where=link.origin.where if link else "",
                status=Status.COMPARED,
                passed=None,
                tensor=port.tensor,
            ),
            self._outputs[port.name],
        )

    def _judged(self, result: LayerResult, tally: Tally) -> LayerResult:
        rule = self._rule(result.blob, [result.layer, result.blob])
        if self._locals is not None and rule in self.tolerances.rules:
            rule = self._locals.rule(result.blob, rule)
        if self.rounding is not None and self.is_float32 and rule in self.tolerances.rules:
            rule = self.rounding.rule(result.blob, rule, tally.sums.peak)
        judgement = tally.judge(rule)
        error = self._locals.errors.get(result.blob) if self._locals is not None else None
        alone = self._fault_alone(result.blob) if tally is self._layers.get(result.blob) else ""
        if judgement.passed and alone and rule in self.tolerances.overrides:
            alone = ""  # who allowed the layer's error allowed its cause
        return replace(
            result,
            passed=judgement.passed and not alone,
            local=error.figures if error is not None and error.sums.count else None,
            together_with=self.alignment.folded_into(result.blob),
            metrics=judgement.metrics,
            limits=dict(rule.limits),
            reason=rule.reason,
            worst_sample=tally.worst_sample,
            note=judgement.fault or (alone if judgement.passed else "") or result.note,
        )

    # --- findings ---

    def _ailments(self) -> Iterator[Finding]:
        """Report what no tolerance excuses, at the first layer that has it."""
        seen: set[str] = set()
        for link in self.alignment.links:
            for kind, message in self._health[link.blob].ailments() if link.blob in self._layers else ():
                if kind not in seen:
                    seen.add(kind)
                    severity = Severity.WARNING if kind == "denormal" else Severity.FAILURE
                    where = f"{link.origin.where}, blob {link.blob!r}"
                    yield Finding(severity, kind, f"{where}: {message}", link.origin.layer)

    def _interface_faults(self) -> Iterator[Finding]:
        """Compare what the document promises of inputs and outputs with what the file has and the source needs."""
        yield from _port_faults("input", self.document.inputs, self.runner.inputs, self.graph.inputs)
        wanted = self.document.options.get("outputs") or self.graph.outputs
        yield from _port_faults("output", self.document.outputs, self.runner.outputs, wanted)

    def _undocumented(self) -> Iterator[Finding]:
        """Say how little a comparison without a map proves."""
        if is_undocumented(self.document):
            measured, outputs = len(self._layers), len(self._outputs)
            message = (
                f"it carries no document: {outputs} outputs and {measured - outputs} mapped layers were compared, the "
                f"other {len(self.alignment.links) - measured} blobs of the source weren't; on inputs unlike these it "
                "may compute something else"
            )
            yield Finding(Severity.WARNING, "no-document", message)

    def _map_findings(self) -> Iterator[Finding]:
        unmapped = [link for link in self.alignment.links if link.status is Status.UNMAPPED]
        for link in unmapped:
            message = f"{link.origin.where}, blob {link.blob!r}: not accounted for: {link.reason}"
            yield Finding(Severity.FAILURE, "unmapped", message, link.origin.layer)
        for record in self.alignment.strangers:
            message = f"its map speaks of blob {record.blob!r} of layer {record.layer!r}, which the source doesn't have"
            yield Finding(Severity.FAILURE, "stranger", message, record.layer)


def _restored(stored: Array, storage: Storage, expected: Array, *, may_reshape: bool) -> Array:
    """Bring a stored tensor into the source's order, as the artifact's document says it is stored.

    A tensor that doesn't fit its own record comes back as it is: its shape then tells. One that shares its elements
    with a blob of another shape (a Flatten is the same elements, seen otherwise) takes that shape.
    """
    try:
        restored = storage.restore(stored)
    except ValueError:
        return stored
    if may_reshape and restored.size == expected.size:
        return restored.reshape(expected.shape)
    return restored


def _port_faults(
    what: str, ports: Sequence[Port], specs: Mapping[str, TensorSpec], wanted: Sequence[str]
) -> Iterator[Finding]:
    named = {port.name for port in ports}
    for name in wanted:
        if name not in named:
            yield Finding(Severity.FAILURE, f"missing-{what}", f"it lacks the source's {what} {name!r}", name)
    tensors = {port.tensor: port for port in ports}
    for tensor in specs:
        if tensor not in tensors:
            message = f"it has an {what} {tensor!r} that its document doesn't know"
            yield Finding(Severity.FAILURE, f"extra-{what}", message)
    for tensor, port in tensors.items():
        if tensor not in specs:
            message = f"its document promises an {what} {tensor!r} that the file doesn't have"
            yield Finding(Severity.FAILURE, f"missing-{what}", message, port.name)
            continue
        spec = specs[tensor]
        if port.dtype not in {spec.dtype, spec.integer}:
            message = f"{what} {tensor!r} is {spec.integer or spec.dtype}, its document says {port.dtype}"
            yield Finding(Severity.FAILURE, "dtype", message, port.name)
        if not _same_shape(port.shape, spec.shape):
            promised = TensorSpec(port.shape, spec.dtype)
            yield Finding(Severity.FAILURE, "shape", f"{what} {tensor!r} is {spec}, its document says {promised}")


def _same_shape(promised: tuple[int | None, ...], given: tuple[int | None, ...]) -> bool:
    """Compare shapes; a dimension that a runtime doesn't know may be any."""
    return len(promised) == len(given) and all(b is None or a == b for a, b in zip(promised, given, strict=True))


def fault_of(result: LayerResult) -> str:
    excess = describe_excess(result.metrics, result.limits)
    at = f" (worst on {result.worst_sample})" if result.worst_sample else ""
    return (result.note or excess) + at


def health_findings(layers: Sequence[LayerResult], outputs: Sequence[LayerResult]) -> Iterator[Finding]:
    """Report what isn't finite, and what has another shape: the first such layer, before any figure."""
    for kind, bad in (
        ("nonfinite", [each for each in (*layers, *outputs) if each.metrics and each.metrics["nonfinite"]]),
        ("shape", [each for each in (*layers, *outputs) if each.metrics is not None and not each.metrics]),
    ):
        if bad:
            first, others = bad[0], len(bad) - 1
            more = f", and in {others} more" if others else ""
            message = f"{first.where or first.blob}, blob {first.blob!r}: {fault_of(first)}{more}"
            yield Finding(Severity.FAILURE, kind, message, first.layer)


def divergence_findings(layers: Sequence[LayerResult], divergence: Sequence[str]) -> Iterator[Finding]:
    """Name where the artifact first goes astray, and how many layers follow."""
    failing = [result for result in layers if result.passed is False and result.metrics]
    by_blob = {result.blob: result for result in failing}
    for place, blob in enumerate(divergence):
        result = by_blob[blob]
        parts = [*result.together_with, result.layer]
        names = f"layer {result.layer!r}" if len(parts) == 1 else f"layers {' + '.join(parts)} (one tensor there)"
        first = "first diverges" if place == 0 else "diverges independently"
        followers = f"; {len(failing) - len(divergence)} later layers follow" if place == 0 else ""
        message = f"{first} at {names}, {result.where}: {fault_of(result)}{followers}"
        yield Finding(Severity.FAILURE, "divergence", message, result.layer)


def _rank_findings(output: str, ranked: Sequence[Ranked]) -> Iterator[Finding]:
    flips = [each for each in ranked if each.is_fault]
    if flips:
        worst = max(flips, key=lambda each: each.margin)
        expected = worst.expected[0].label if worst.expected else "NaN"
        given = worst.given[0].label if worst.given else "NaN"
        message = (
            f"output {output!r}: the best class differs on {len(flips)} of {len(ranked)} samples: {worst.sample} is "
            f"{given!r} instead of {expected!r}, whose lead is {worst.margin:.3g}"
        )
        yield Finding(Severity.FAILURE, "top1", message)
