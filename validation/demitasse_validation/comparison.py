"""Compares artifacts with their source, layer by layer, on the same inputs.

The evaluator's float64 results are the measure. An independent runtime of the source is measured by them as well, so
that a source which the project misreads is not proven right by artifacts that share the mistake. Everything runs one
step at a time (one sample, or as many as an artifact takes at once), and only sums are kept from step to step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from demitasse import __version__
from demitasse.errors import MissingDependency, UsageError
from demitasse.ir.document import Document, SourceFile
from demitasse.ir.graph import Graph
from demitasse.ir.ops import Shape
from demitasse.ir.preprocessing import Preprocessing
from demitasse.ir.weights import Array
from demitasse.passes.batch import can_change_batch, with_batch
from demitasse.readers import read, source_format
from demitasse.route import ROUTE, KerasNet
from demitasse.targets import target_of
from demitasse_validation.align import is_foreign
from demitasse_validation.baseline import Baseline
from demitasse_validation.bundle import write_bundle
from demitasse_validation.diagnosis import COARSE, CONSTANTS, NEAR, Alone, explain_input, explain_layer
from demitasse_validation.environment import environment
from demitasse_validation.inputs import Inputs, Random, Step, inputs_for
from demitasse_validation.mapping import Places, undocumented
from demitasse_validation.report import ArtifactReport, Finding, Report, Severity
from demitasse_validation.rounding import Rounding
from demitasse_validation.runtimes import Runner, open_runner
from demitasse_validation.runtimes.evaluator import EvaluatorRunner
from demitasse_validation.runtimes.keras import KerasRunner
from demitasse_validation.subject import Subject
from demitasse_validation.tolerances import DEFAULT, Rule, Tolerances
from demitasse_validation.truth import Truth
from demitasse_validation.witness import Witness

__all__ = ["Progress", "compare", "document_of"]

# Told what is being done, how many steps of it are done, and how many there are.
Progress: TypeAlias = Callable[[str, int, int], None]


def compare(
    artifacts: Sequence[Path | str],
    source: Path | str,
    weights: Path | str | None = None,
    *,
    inputs: Path | str | Random | Sequence[Path] | None = None,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] | None = None,
    top: int = 5,
    tolerances: Tolerances = DEFAULT,
    independent: bool = True,
    threads: int | None = None,
    plugins: Iterable[Path] = (),
    route: str | None = None,
    places: Places | None = None,
    baseline: Baseline | None = None,
    bundle: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Run artifacts and their source on the same inputs and compare every layer and output.

    Args:
        artifacts: files or folders that `demitasse convert` wrote. One that carries no document is compared at its
            outputs only, and at the layers that `places` names.
        source: what they were made from; see `demitasse.readers.read`.
        weights: the file with the weights, where the source doesn't hold them.
        inputs: a folder of images, a list of them (.txt), one image, or arrays in the source's layout (.npz, .npy); a
            sequence of image files; or `Random`. None takes a few random inputs.
        preprocessing: how images become inputs; by default what the artifacts carry, or else what the source says.
        labels: names of the classes; by default those that the artifacts carry.
        top: how many classes a sample's ranking shows.
        tolerances: by default the rules of `tolerances.DEFAULTS` alone.
        independent: whether to run the source in a runtime besides the evaluator.
        threads: limits what each runtime uses; None leaves its own default.
        plugins: Python files with readers for further layer types; they are run.
        route: "tensorflow" lets Keras load the source, which runs what is in it. Artifacts that were made by that route
            are measured by Keras; for others it is a second opinion on the source.
        places: where the source's blobs are in an artifact that carries no document.
        baseline: figures of an accepted run: a worse one fails.
        bundle: a folder that receives, of each artifact that fails, its first wrong layer as a model of its own with
            what goes in and what should come out.
        progress: called as the work goes on.

    Raises:
        UsageError: an artifact or input is missing or doesn't fit, or one without a document can't be told apart.
        MissingDependency: a runtime that is needed isn't installed. None is skipped silently.
        MalformedModel, Unsupported: see `demitasse.errors`.
    """
    start = time.perf_counter()
    source, weights = Path(source), None if weights is None else Path(weights)
    carried = {Path(path): _document(Path(path)) for path in artifacts}
    documents = {path: document for path, document in carried.items() if document is not None}
    if not carried:
        raise UsageError("there is nothing to compare: name an artifact")
    net = _keras_net(source, weights, documents, plugins, route)
    foreign = net is not None and any(map(is_foreign, documents.values()))
    graph = net.graph if net is not None and foreign else _read(source, weights, documents, plugins)
    contract = preprocessing or _carried_contract(documents) or graph.preprocessing
    given = inputs_for(graph, Random() if inputs is None else inputs, contract)
    runners = {path: open_runner(path, threads=threads) for path in carried}
    for path in carried.keys() - documents.keys():
        documents[path] = undocumented(path, graph, runners[path], places or Places())
    subjects = [
        Subject(path, documents[path], runners[path], graph, tolerances, top, labels or documents[path].labels)
        for path in carried
    ]
    witnesses = [
        Witness(name, runner, graph, tolerances)
        for name, runner in (_independent(source, weights, graph, threads) if independent else ())
    ]
    reference: Runner = EvaluatorRunner(graph)
    if net is not None:
        runner = KerasRunner(net, graph)
        reference = runner if foreign else reference
        witnesses += [] if foreign else [Witness("keras", runner, graph, tolerances)]
    rounding = None if foreign else Rounding(graph)
    for subject in subjects:
        subject.rounding = rounding
    for witness in witnesses:
        witness.rounding = rounding
    run = _Run(graph, given, subjects, witnesses, progress, reference, rounding)
    run.everything()
    files = tuple(SourceFile.of(path) for path in (source, weights) if path is not None)
    reports = tuple(run.explained(subject, subject.report(), bundle, rest=len(subjects) > 1) for subject in subjects)
    opinions = tuple(witness.report() for witness in witnesses)
    used = [rule for rules in ([s.used_rules for s in subjects] + [w.used_rules for w in witnesses]) for rule in rules]
    report = Report(
        tool=f"demitasse {__version__}",
        source_format=source_format(source),
        source=tuple(asdict(file) for file in files),
        inputs={
            "kind": given.kind,
            "samples": list(given.names),
            "preprocessing": given.preprocessing.to_dict() if given.preprocessing else None,
        },
        environment=environment(),
        evaluator=reference.runtime,
        runtimes=opinions,
        artifacts=reports,
        findings=(
            *_findings(documents, files, contract, tolerances, used),
            *_lone_evaluator(source_format(source), wanted=independent, found=bool(witnesses) or foreign),
        ),
        seconds=time.perf_counter() - start,
    )
    return report if baseline is None else baseline.applied(report)


def _document(path: Path) -> Document | None:
    """Read what an artifact says about itself; None if it says nothing."""
    target = target_of(path)
    if target is None:
        raise UsageError(f"{path}: no artifact's name ends like this")
    if not path.exists():
        raise UsageError(f"{path}: there is no such file")
    return target.read_document(path)


def document_of(path: Path) -> Document:
    """Read what an artifact says about itself.

    Raises:
        UsageError: there is no such file, its suffix is no target's, or it carries no document.
        MalformedModel: the file or its document is damaged.
    """
    document = _document(path)
    if document is None:
        raise UsageError(
            f"{path}: carries no document, so nothing says what its inputs and outputs are; only artifacts that "
            "demitasse wrote can be run on images"
        )
    return document


def _read(source: Path, weights: Path | None, documents: Mapping[Path, Document], plugins: Iterable[Path]) -> Graph:
    """Read the source with the input shapes that the artifacts were made with, and free its batch where it can be."""
    shapes: dict[str, Shape] = {}
    for path, document in documents.items():
        for name, shape in document.options.get("input_shapes", {}).items():
            if shapes.setdefault(name, tuple(shape))[1:] != tuple(shape)[1:]:
                raise UsageError(f"{path}: was made for another shape of input {name!r} than the other artifacts")
    readings = (each.options.get("reading") for each in documents.values())
    said: Mapping[str, Any] = next((each for each in readings if each), {})
    # An artifact may come from anybody: of what it says, only what can't name a file or run anything is passed on.
    reading = {name: said[name] for name in ("phase", "level", "stages", "lambdas", "backend") if name in said}
    graph = read(source, weights, input_shapes=shapes or None, plugins=plugins, **reading)
    return with_batch(graph, 1, dynamic=True) if can_change_batch(graph) is None else graph


def _keras_net(
    source: Path, weights: Path | None, documents: Mapping[Path, Document], plugins: Iterable[Path], route: str | None
) -> KerasNet | None:
    """Let Keras load the source, where the user says that it may.

    Raises:
        UsageError: an artifact can only be measured by Keras, and the user doesn't say so; or both ways are mixed.
    """
    foreign = [str(path) for path, document in documents.items() if is_foreign(document)]
    if route is None:
        if foreign:
            raise UsageError(
                f"{', '.join(foreign)}: made by TensorFlow; Keras has to load the source to compare, which runs "
                "what is in it: if you trust it, say --route tensorflow"
            )
        return None
    if route != ROUTE:
        raise UsageError(f"there is no route {route!r}; the other way is {ROUTE!r}")
    if source_format(source) != "keras":
        raise UsageError(f"{source}: is no Keras file, and Keras can't load it; leave --route away")
    if foreign and len(foreign) < len(documents):
        raise UsageError(f"{', '.join(foreign)}: made by another route than the rest; compare them by themselves")
    options = next(iter(documents.values())).options
    shapes = {name: tuple(shape) for name, shape in options.get("input_shapes", {}).items()}
    outputs = options.get("outputs") if foreign else None
    return KerasNet(source, weights, plugins=plugins, input_shapes=shapes, outputs=outputs)


def _carried_contract(documents: Mapping[Path, Document]) -> Preprocessing | None:
    """Return the preprocessing of the first artifact that carries any."""
    contracts = (_contract_of(path, document) for path, document in documents.items())
    return next((contract for contract in contracts if contract is not None), None)


def _contract_of(path: Path, document: Document) -> Preprocessing | None:
    """Return all that happens to an image: in an artifact that folds the arithmetic, what was folded is an option."""
    carried = document.options.get("fold_preprocessing") or document.preprocessing
    return None if carried is None else Preprocessing.from_dict(carried, where=str(path))


def _independent(source: Path, weights: Path | None, graph: Graph, threads: int | None) -> Iterator[tuple[str, Runner]]:
    """Open the runtimes that read the source by themselves: OpenCV for Caffe nets, and Caffe where it is installed."""
    if source_format(source) != "caffe":
        return
    from demitasse_validation.runtimes.opencv import OpenCvRunner
    from demitasse_validation.runtimes.pycaffe import PyCaffeRunner, is_installed

    try:
        yield "opencv", OpenCvRunner(source, weights, graph, threads=threads)
    except MissingDependency:
        if not is_installed():
            raise
    if is_installed():
        yield "pycaffe", PyCaffeRunner(source, weights, graph, threads=threads)


# --- the run ---------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """A whole validation: every step once through what measures, then through all that is measured by it."""

    graph: Graph
    inputs: Inputs
    subjects: Sequence[Subject]
    witnesses: Sequence[Witness]
    progress: Progress | None
    reference: Runner
    rounding: Rounding | None

    def everything(self) -> None:
        """Run all samples, for each number of them that artifacts take at once; the witnesses join the first round.

        BLAS has one thread for it: what is multiplied here fits a core's cache, and handing it around costs more.
        """
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, "blas"):
            self._everything()

    def _everything(self) -> None:
        rounds: dict[int, list[Subject]] = {}
        for subject in self.subjects:
            if subject.can_run:
                rounds.setdefault(subject.batch(self.inputs.stacked), []).append(subject)
        total = sum(-(-len(self.inputs) // batch) for batch in rounds)
        done = 0
        for place, (batch, subjects) in enumerate(sorted(rounds.items())):
            for step in self.inputs.steps(batch):
                self._tell(done, total)
                self._step(step, subjects, self.witnesses if place == 0 else (), is_first_round=place == 0)
                done += 1
        self._tell(done, total)

    def explained(self, subject: Subject, report: ArtifactReport, bundle: Path | None, *, rest: bool) -> ArtifactReport:
        """Try what may be wrong with the first layer that is, add the words to the findings, and write the bundle."""
        misshapen = [each.blob for each in report.layers if each.metrics is not None and not each.metrics]
        suspects = [*report.divergence, *misshapen]
        if not suspects or isinstance(self.reference, KerasRunner):
            return report
        blob = suspects[0]
        step = next(iter(self.inputs.steps(subject.batch(self.inputs.stacked))))
        reference = self._reference(step, subject.blobs)
        alone = subject.alone(blob, step, reference)
        if alone is None:
            return report
        near = NEAR if subject.is_float32 else COARSE
        words = explain_layer(alone, near=near)
        if words in {"", CONSTANTS}:
            words = self._explain_input(step, blob, reference, alone, near) or words
        first = next((each for each in report.findings if each.kind in {"divergence", "shape"}), None)
        if bundle is not None:
            folder = bundle / report.name if rest else bundle
            write_bundle(folder, subject.lowered, alone, report, first.message if first else "", words)
        if not words:
            return report
        layer = first.layer if first else None
        message = f"tried, and it explains the numbers of layer {layer!r}: {words}"
        return replace(report, findings=(*report.findings, Finding(Severity.NOTE, "diagnosis", message, layer)))

    def _explain_input(self, step: Step, blob: str, reference: Mapping[str, Array], alone: Alone, near: float) -> str:
        """Say how the input is misread, where a layer that reads it is the first that is wrong."""
        names = [name for node in alone.nodes for name in node.inputs if name in self.graph.inputs]
        if len(self.graph.inputs) != 1 or not names or blob not in reference:
            return ""
        name = names[0]

        def run(image: Array) -> Array:
            return self.reference.run_layers({name: image}, [blob])[blob]

        image = step.feeds[name]
        return explain_input(run, image, reference[blob], alone.given, self.graph.layout, near=near)

    def _tell(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress("compare", done, total)

    def _step(
        self, step: Step, subjects: Sequence[Subject], witnesses: Sequence[Witness], *, is_first_round: bool
    ) -> None:
        wanted = frozenset[str]().union(*[s.blobs for s in subjects], *[w.blobs for w in witnesses])
        reference = Truth(self._reference(step, wanted))
        if is_first_round and self.rounding is not None and (witnesses or any(s.is_float32 for s in subjects)):
            self.rounding.add(step.feeds, reference)
        for witness in witnesses:
            witness.add(step, reference)
        for subject in subjects:
            subject.add(step, reference)

    def _reference(self, step: Step, wanted: Collection[str]) -> Mapping[str, Array]:
        try:
            return self.reference.run_layers(step.feeds, wanted)
        except UsageError as error:
            if not self.inputs.kind.startswith("noise"):
                raise
            raise UsageError(f"random inputs don't suit this net: {error}; give --inputs FILE.npz") from error


def _lone_evaluator(format_name: str, *, wanted: bool, found: bool) -> Iterator[Finding]:
    """Say where the evaluator's reading of the source is all that there is."""
    if not found:
        other = "--route tensorflow adds Keras, if you trust the file" if format_name == "keras" else ""
        reason = (other or f"there is no other runtime for {format_name} sources") if wanted else "as asked for"
        message = f"the source was run in the evaluator alone ({reason}): a source that is misread would not be noticed"
        yield Finding(Severity.WARNING if wanted else Severity.NOTE, "no-second-opinion", message)


def _findings(
    documents: Mapping[Path, Document],
    files: Sequence[SourceFile],
    contract: Preprocessing | None,
    tolerances: Tolerances,
    used: Collection[Rule],
) -> Iterator[Finding]:
    """Report what concerns the call as a whole."""
    hashes = {file.sha256 for file in files}
    for path, document in documents.items():
        others = [file.name for file in document.source if file.sha256 not in hashes]
        if others:
            message = f"{path.name} was made from another {' and '.join(others)} than it is compared with"
            yield Finding(Severity.WARNING, "other-source", message)
        carried = _contract_of(path, document)
        if contract is not None and carried is not None and carried != contract:
            message = f"{path.name} carries another preprocessing than it is compared with"
            yield Finding(Severity.WARNING, "other-preprocessing", message)
    for rule in tolerances.overrides:
        if rule not in used:
            message = f"the tolerance for layer {rule.layer!r} and target {rule.target!r} applies to nothing here"
            yield Finding(Severity.WARNING, "unused-tolerance", message)
