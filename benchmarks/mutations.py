"""Break artifacts on purpose, let the validator find out, and write docs/mutations.md.

Every kind of fault (tests/faults.py) is put into every net and format that can have it. A fault counts if it moves an
output by more than rounding does, which is measured without the validator:

- In formats of real numbers, the faulty artifact's outputs are compared with the sound one's: 1e-4 of the peak is what
  float32 runtimes may disagree by.
- Where an artifact holds integers, putting a fault in moves what all numbers behind it are rounded to, and that is not
  the fault's doing. So a fault of the net is measured in the net itself, in float64, and counts if that is more than
  the sound artifact is off from its source, or than half a step of 8 bits. A fault of the file has no such net: it
  counts if the faulty artifact is off from the source by more than twice that, as rounding otherwise moves it as far.

A fault that counts has to fail the validation, and the first layer named has to be the faulty one. Sound artifacts, on
other seeds and in other batches, have to pass.

    python benchmarks/mutations.py [--nets NAME,...] [--targets onnx,tflite] [--sites 1] [--clean 250] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

from demitasse.errors import DemitasseError  # noqa: E402
from demitasse.ir.document import Document, SourceFile, describe  # noqa: E402
from demitasse.ir.evaluate import evaluate  # noqa: E402
from demitasse.ir.graph import Graph, Node, Status  # noqa: E402
from demitasse.ir.ops import Cast, DType, Layout, Reshape  # noqa: E402
from demitasse.passes import can_change_batch, with_batch  # noqa: E402
from demitasse.readers import read, source_format  # noqa: E402
from demitasse.targets import TARGETS, lower, simplify  # noqa: E402
from demitasse_validation.comparison import compare  # noqa: E402
from demitasse_validation.inputs import Random, inputs_for  # noqa: E402
from demitasse_validation.report import ArtifactReport, Severity  # noqa: E402
from demitasse_validation.runtimes import open_runner  # noqa: E402
from demitasse_validation.subject import QUANTIZED  # noqa: E402
from faults import (  # noqa: E402
    GRAPH_FAULTS,
    INPUT_FAULTS,
    ONNX_FAULTS,
    TFLITE_FAULTS,
    Edit,
    Stage,
    faulty,
    input_changed,
    onnx_model,
    onnx_sites,
    sites,
    tflite_bytes,
    tflite_model,
    tflite_sites,
)

Arrays = Mapping[str, npt.NDArray[Any]]

GOLDEN = REPOSITORY / "tests" / "golden" / "caffe"
GOLDEN_NETS = (
    "residual_net",
    "inception_block",
    "fc_after_conv",
    "fcn_skip",
    "bn_scale_inplace",
    "eltwise_coeff3",
    "slice_points",
    "pool_ave_pad",
    "lrn_across",
    "conv_grouped",
    "act_prelu",
    "act_chain_inplace",
)
CAFFE_NETS = ("mtcnn_det2", "samplenet_cifar10", "hyperlpr_hfine")
KERAS_NETS = ("openmv_mnist_cnn", "mlperftiny_resnet8_cifar10")
FORMATS = (
    "onnx",
    "onnx-f16",
    "onnx-int8",
    "tflite",
    "tflite-f16",
    "tflite-dynamic",
    "tflite-int8",
    "tflite-16x8",
    "savedmodel",
)
# Those that hold integers.
INTEGERS = frozenset({"onnx-int8", "tflite-dynamic", "tflite-int8", "tflite-16x8"})
# TensorFlow takes a second for each small model: it is asked about some of the nets.
SAVED_MODEL_NETS = ("residual_net", "fc_after_conv", "fcn_skip", "eltwise_coeff3", "slice_points", "pool_ave_pad")
INTEGERS_EXPLAINED = (
    "In integers, putting a fault in moves what all numbers behind it are rounded to, which isn't the fault's doing. "
    "So a fault of the net is measured in the net itself, in float64, and counts if it moves an output by more than "
    "the sound artifact is off from its source, or than half a step of 8 bits. A fault of the file has no such net: it "
    "counts if the faulty artifact is off from the source by more than twice that, as rounding differently moves it."
)
# What 8 bits may be off by, in shares of what an output spans.
HALF_STEP = 0.5 / 255
# What float32 runtimes may disagree by, in shares of an output's peak.
FLOAT_TOLERANCE = 1e-4
SEED = 11
# What is compared, and what rounding is measured on besides: its largest effect takes more than two samples to see.
SAMPLES, MORE = Random(2, seed=SEED), Random(8, seed=SEED + 1)


@dataclass(frozen=True)
class Net:
    """A source to be broken."""

    name: str
    source: Path
    weights: Path | None


@dataclass(frozen=True)
class Mutant:
    """A faulty artifact: where it is, and which layers may be named for it; none where any is right.

    `moved` is how far the fault moves the net's outputs in float64, where it is one of the net.
    """

    fault: str
    group: str
    path: Path
    layers: frozenset[str]
    moved: float | None = None


@dataclass
class Outcome:
    """What became of a mutant: how far it moves an output (1 is its peak), whether it was caught, what was named.

    `noise` is how far rounding may move it; 0 for formats of real numbers.
    """

    net: str
    target: str
    fault: str
    group: str
    moved: float
    noise: float
    caught: bool
    right: bool
    named: str
    wanted: str

    @property
    def counts(self) -> bool:
        """Whether the fault moves an output by more than rounding does."""
        return self.moved > max(FLOAT_TOLERANCE, self.noise)


def nets(zoo: Path) -> list[Net]:
    """List the nets to break: the project's own, and trained ones where there is a zoo."""
    found = [Net(name, GOLDEN / name / "net.prototxt", GOLDEN / name / "net.caffemodel") for name in GOLDEN_NETS]
    for name in CAFFE_NETS:
        folder = zoo / "caffe" / name
        if folder.is_dir():
            found.append(Net(name, folder / "deploy.prototxt", folder / "weights.caffemodel"))
    for name in KERAS_NETS:
        found += [Net(name, path, None) for path in sorted((zoo / "keras" / name).glob("model.h5"))]
    return found


# --- making ----------------------------------------------------------------------------------------------------


class Maker:
    """Writes sound and faulty artifacts of one net in one format."""

    def __init__(self, net: Net, target: str, folder: Path, batch: int | None = None) -> None:
        self.net, self.target, self.folder = net, TARGETS[target], folder
        self.source = read(net.source, net.weights)
        if can_change_batch(self.source) is None:
            self.source = with_batch(self.source, batch or 1, dynamic=batch is None and self.target.batch is None)
        self.honest = lower(simplify(self.source), self.target)
        self.document = self.describe(self.honest)
        self.batch = batch or 1
        self._truth: list[Arrays] | None = None

    def describe(self, lowered: Graph) -> Document:
        files = tuple(SourceFile.of(path) for path in (self.net.source, self.net.weights) if path is not None)
        return describe(
            lowered,
            target=self.target.name,
            tool="mutations",
            source_format=source_format(self.net.source),
            source=files,
            options={},
        )

    def write(self, lowered: Graph, document: Document, name: str) -> Path:
        """Write an artifact.

        Raises:
            DemitasseError: the format can't hold it.
        """
        path = self.folder / f"{name}{self.target.suffix}"
        offences = self.target.offences(lowered)
        if offences:
            raise NotApplicable
        if not self.target.calibrated:
            self.target.write(lowered, path, document)
            return path
        from demitasse.quantize.calibrate import calibrate
        from demitasse.quantize.engines import EngineKind

        given = inputs_for(self.source, Random(48, seed=3), None)
        samples = [step.feeds for step in given.steps(self.batch)]
        ranges = calibrate(lowered, samples, engine=EngineKind(self.target.engine))
        self.target.write(lowered, path, document, ranges)
        return path

    def sound(self, name: str = "sound") -> Path:
        return self.write(self.honest, self.document, name)

    def mutants(self, most: int, only: str | None) -> Iterator[Mutant]:
        """Write faulty artifacts: of each kind of fault at most so many."""
        made = 0
        for fault in GRAPH_FAULTS:
            if (only and only not in fault.name) or (self.target.batch == 1 and fault.name.startswith("batch-dep")):
                continue
            graph = self.source if fault.stage is Stage.READER else self.honest
            for node, edit in _chosen(sites(graph, fault), most, f"{self.net.name}{fault.name}"):
                made += 1
                mutant = self._graph_mutant(fault.name, fault.group, graph, node, edit, made)
                if mutant is not None:
                    yield mutant
        for kind in INPUT_FAULTS:
            if only and only not in kind.name:
                continue
            for name in self.source.inputs:
                made += 1
                mutant = self._input_mutant(kind, name, made)
                if mutant is not None:
                    yield mutant
        if not only:
            yield from self._interfaces()
        if self.target.calibrated:
            yield from self._files(most, only)

    def _graph_mutant(self, name: str, group: str, graph: Graph, node: Node, edit: Edit, number: int) -> Mutant | None:
        try:
            broken = faulty(graph, node, edit)
            if graph is self.source:
                broken = lower(simplify(broken), self.target)
                path = self.write(broken, self.describe(broken), f"m{number}")
            else:
                path = self.write(broken, self.document, f"m{number}")
        except (DemitasseError, NotApplicable):  # what follows can't take what the faulty layer gives
            return None
        layers = {record.layer for record in self.document.provenance if record.tensor in node.outputs}
        return Mutant(name, group, path, frozenset({node.origin.layer, *layers}), self._moved(broken))

    def _moved(self, broken: Graph) -> float | None:
        """Say how far a faulty net is from the sound one in float64; None where the artifacts themselves tell."""
        if self.target.name not in INTEGERS:
            return None
        if self._truth is None:
            self._truth = list(self._evaluated(self.honest))
        return max(moved(*both) for both in zip(self._truth, self._evaluated(broken), strict=True))

    def _evaluated(self, graph: Graph) -> Iterator[Arrays]:
        ports = {port.name: port for port in self.document.inputs}
        for step in inputs_for(self.source, Random(2, seed=SEED), None).steps(1):
            feeds = {name: ports[name].storage.store(array) for name, array in step.feeds.items()}
            yield evaluate(graph, feeds, keep=list(graph.outputs))

    def _input_mutant(self, kind: Any, name: str, number: int) -> Mutant | None:
        chain = kind.chain(self.source.type(name).shape)
        if chain is None or self.source.layout is not Layout.CHANNELS_FIRST:
            return None
        try:
            broken = lower(simplify(input_changed(self.source, name, chain)), self.target)
            path = self.write(broken, self.describe(broken), f"m{number}")
        except (DemitasseError, NotApplicable):
            return None
        readers = {node.origin.layer for node in self.source.consumers().get(name, [])}
        return Mutant(kind.name, kind.group, path, frozenset(readers), self._moved(broken))

    def _interfaces(self) -> Iterator[Mutant]:
        """Artifacts with other outputs than they promise."""
        blobs = [record.tensor for record in self.document.provenance if record.status == "compared"]
        inner = [name for name in blobs if name and name not in (*self.honest.outputs, *self.honest.inputs)]
        plans: list[tuple[str, Graph]] = []
        if len(self.honest.outputs) > 1:
            plans.append(("second output missing", _with_outputs(self.honest, self.honest.outputs[:-1])))
        if inner:
            plans.append(("an output more", _with_outputs(self.honest, [*self.honest.outputs, inner[0]])))
        last = self.honest.outputs[0]
        node = self.honest.producers().get(last)
        if node is not None and self.honest.type(last).dtype.is_float:
            shape = self.honest.type(last).shape
            plans.append(("output of another type", faulty(self.honest, node, Edit(after=[(Cast(DType.INT32), [0])]))))
            more = Reshape((0, 1, *shape[1:]))
            plans.append(("output of another shape", faulty(self.honest, node, Edit(after=[(more, [0])]))))
        for number, (name, broken) in enumerate(plans):
            try:
                yield Mutant(name, "interface", self.write(broken, self.document, f"i{number}"), frozenset())
            except (DemitasseError, NotApplicable):
                continue

    def _files(self, most: int, only: str | None) -> Iterator[Mutant]:
        data = self.sound("file").read_bytes()
        records = {record.tensor: record.layer for record in self.document.provenance if record.status == "compared"}
        # An input's integers are told by a name of their own.
        inner = {f"{name}{suffix}": records.get(name) for name in self.honest.inputs for suffix in QUANTIZED}
        records |= {name: layer for name, layer in inner.items() if layer is not None}
        is_onnx = self.target.suffix.endswith("onnx")
        parse, faults = (onnx_model, ONNX_FAULTS) if is_onnx else (tflite_model, TFLITE_FAULTS)
        for number, fault in enumerate(faults):
            if only and only not in fault.name:
                continue
            known = [name for name in records if name]
            found: list[Any] = list((onnx_sites if is_onnx else tflite_sites)(parse(data), fault, known))
            for place, seen in _chosen([each for each in found if each[1]], most, f"{self.net.name}{fault.name}"):
                model = parse(data)
                try:
                    changed = fault.change(model, place)
                except ValueError:  # integers of another size
                    continue
                if changed:
                    path = self.folder / f"f{number}-{zlib.crc32(str(place).encode())}{self.target.suffix}"
                    path.write_bytes(model.SerializeToString() if is_onnx else tflite_bytes(model))
                    yield Mutant(fault.name, fault.group, path, frozenset(records[name] for name in seen))


class NotApplicable(Exception):
    """A format can't hold a fault."""


def _with_outputs(graph: Graph, outputs: Sequence[str]) -> Graph:
    result = replace(graph)
    result.outputs = list(outputs)
    return result


def _chosen(found: list[Any], most: int, key: str) -> list[Any]:
    """Choose some of the places, the same ones in every run."""
    if len(found) <= most:
        return found
    random = np.random.default_rng(zlib.crc32(key.encode()))
    return [found[index] for index in sorted(random.choice(len(found), most, replace=False))]


# --- judging ---------------------------------------------------------------------------------------------------


def outputs(maker: Maker, path: Path, batch: int, samples: Random = SAMPLES) -> Arrays | None:
    """Run an artifact by itself, without the validator; None if its runtime refuses it."""
    given = inputs_for(maker.source, samples, None)
    try:
        runner = open_runner(path, threads=_threads(maker))
        results: dict[str, list[npt.NDArray[Any]]] = defaultdict(list)
        for step in given.steps(batch):
            feeds = {
                port.tensor: np.ascontiguousarray(
                    port.storage.store(step.feeds[port.name]), runner.inputs[port.tensor].dtype
                )
                for port in maker.document.inputs
            }
            for name, array in runner.run(feeds).items():
                results[name].append(np.array(array))
    except (DemitasseError, KeyError):
        return None
    return {name: np.stack(arrays) for name, arrays in results.items()}


def _threads(maker: Maker) -> int | None:
    """Limit threads, where a runtime takes that for each model."""
    return None if maker.target.name == "savedmodel" else 1


def moved(sound: Arrays | None, broken: Arrays | None) -> float:
    """Say how far outputs are moved, in shares of their peaks."""
    if sound is None or broken is None or sound.keys() != broken.keys():
        return float("inf")
    worst = 0.0
    for name, array in sound.items():
        other = broken[name]
        if other.shape != array.shape or other.dtype != array.dtype or not np.isfinite(other).all():
            return float("inf")
        peak = max(float(np.abs(array).max()), 1e-30)
        worst = max(worst, float(np.abs(other.astype(np.float64) - array).max()) / peak)
    return worst


def off(maker: Maker, given: Arrays | None, least: float = 0.0, samples: Random = SAMPLES) -> float:
    """Say how far an artifact's outputs are from the source's, in shares of their peaks.

    `least` is what they are taken to be off by at least, in shares of what they span.
    """
    worst = 0.0
    steps = list(inputs_for(maker.source, samples, None).steps(1))
    for port in maker.document.outputs:
        if given is None or port.tensor not in given:
            return float("inf")
        for place, step in enumerate(steps):
            exact = evaluate(maker.source, step.feeds, keep=[port.name])[port.name]
            array = port.storage.restore(given[port.tensor][place])
            if array.shape != exact.shape or not np.isfinite(array).all():
                return float("inf")
            error = max(float(np.abs(array - exact).max()), least * float(exact.max() - exact.min()))
            worst = max(worst, error / max(float(np.abs(exact).max()), 1e-30))
    return worst


def named(report: ArtifactReport) -> frozenset[str]:
    """Return the layers that the report names first: one, and what was folded into it."""
    for finding in report.findings:
        if finding.severity is Severity.FAILURE and finding.layer is not None:
            results = [each for each in report.layers if each.layer == finding.layer and each.status is Status.COMPARED]
            return frozenset({finding.layer, *(name for result in results for name in result.together_with)})
    return frozenset()


def judge(maker: Maker, mutants: Sequence[Mutant]) -> list[Outcome]:
    """Validate mutants, and measure what they do."""
    dynamic = maker.source.batch_is_dynamic
    batches = (1, 2) if dynamic else (1,)
    sound_path = maker.sound()
    sound = {batch: outputs(maker, sound_path, batch) for batch in batches}
    noise, least = 0.0, HALF_STEP if maker.target.name.endswith("int8") else 0.0
    if maker.target.name in INTEGERS:
        noise = max(off(maker, sound[1], least), off(maker, outputs(maker, sound_path, 1, MORE), least, MORE))
    outcomes = []
    runnable = [(mutant, {batch: outputs(maker, mutant.path, batch) for batch in batches}) for mutant in mutants]
    runnable = [(mutant, results) for mutant, results in runnable if all(results.values())]
    for start in range(0, len(runnable), 8):
        group = [mutant for mutant, _ in runnable[start : start + 8]]
        report = compare(
            [mutant.path for mutant in group],
            maker.net.source,
            maker.net.weights,
            inputs=Random(2, seed=SEED),
            independent=False,
            threads=_threads(maker),
        )
        for (mutant, results), result in zip(runnable[start : start + 8], report.artifacts, strict=True):
            distance = mutant.moved
            if distance is None and mutant.group == "int8":
                distance = off(maker, results[1])
            elif distance is None:
                distance = max(moved(sound[batch], results[batch]) for batch in batches)
            names = named(result)
            outcomes.append(
                Outcome(
                    maker.net.name,
                    maker.target.name,
                    mutant.fault,
                    mutant.group,
                    distance,
                    noise if mutant.moved is not None else 2 * noise,
                    not result.passed,
                    not mutant.layers or bool(names & mutant.layers),
                    " + ".join(sorted(names)),
                    " + ".join(sorted(mutant.layers)),
                )
            )
    return outcomes


def clean_runs(maker: Maker, seeds: Sequence[int]) -> Iterator[tuple[str, list[str]]]:
    """Validate sound artifacts on other inputs, in other batches; yield what was said against each."""
    for seed in seeds:
        batch = 1 + seed % 4 if seed % 4 and can_change_batch(maker.source) is None else None
        now = maker if batch is None else Maker(maker.net, maker.target.name, maker.folder, batch)
        report = compare(
            [now.sound("clean")],
            maker.net.source,
            maker.net.weights,
            inputs=Random(1 + seed % 5, seed=seed),
            independent=False,
            threads=_threads(maker),
        )
        failures = [each.message for each in report.artifacts[0].findings if each.severity is Severity.FAILURE]
        yield f"{maker.net.name} {maker.target.name} seed {seed} batch {batch or 'any'}", failures


# --- the page --------------------------------------------------------------------------------------------------


def page(outcomes: Sequence[Outcome], clean: int, alarms: Sequence[str], command: str) -> str:
    """Write the score table."""
    counting = [each for each in outcomes if each.counts]
    kinds = sorted({each.fault for each in outcomes})
    lines = [
        "# How well the validator catches faults",
        "",
        f"    {command}",
        "",
        (
            f"{len(kinds)} kinds of fault, put into {len({each.net for each in outcomes})} nets and "
            f"{len({each.target for each in outcomes})} formats: {len(outcomes)} faulty artifacts. "
            f"{len(counting)} of them count: they move an output by more than {FLOAT_TOLERANCE:g} of its peak, and "
            "where an artifact holds integers by more than rounding does, which is measured without the validator."
        ),
        "",
        INTEGERS_EXPLAINED,
        "",
        "| | faults that count | caught | right layer named first |",
        "|---|---|---|---|",
    ]
    floats = [each for each in counting if each.target not in INTEGERS]
    integers = [each for each in counting if each.target in INTEGERS]
    lines += [_row("float formats", floats), _row("formats of integers", integers), _row("all", counting)]
    others = [each for each in outcomes if not each.counts]
    lines += ["", f"Of the other {len(others)}, {sum(each.caught for each in others)} were caught too."]
    lines += ["", f"Clean runs: {clean}. False alarms: {len(alarms)}."]
    lines += ["", "## By format", "", "| | faults that count | caught | right layer named first |", "|---|---|---|---|"]
    lines += [_row(name, [each for each in counting if each.target == name]) for name in FORMATS]
    lines += ["", "## By kind", "", "| | faults that count | caught | right layer named first |", "|---|---|---|---|"]
    lines += [_row(kind, [each for each in counting if each.fault == kind]) for kind in kinds]
    missed = [each for each in counting if not each.caught]
    if missed:
        lines += ["", "## Missed", "", "| net | format | fault | moves an output by |", "|---|---|---|---|"]
        lines += [f"| {each.net} | {each.target} | {each.fault} | {each.moved:.2g} |" for each in missed]
    wrong = [each for each in counting if each.caught and not each.right]
    if wrong:
        lines += ["", "## Another layer named", "", "| net | format | fault | in | named |", "|---|---|---|---|---|"]
        lines += [f"| {each.net} | {each.target} | {each.fault} | {each.wanted} | {each.named} |" for each in wrong]
    if alarms:
        lines += ["", "## False alarms", "", *(f"* {alarm}" for alarm in alarms)]
    return "\n".join(lines) + "\n"


def _row(name: str, outcomes: Sequence[Outcome]) -> str:
    caught = [each for each in outcomes if each.caught]
    right = [each for each in caught if each.right]
    return f"| {name} | {len(outcomes)} | {_share(caught, outcomes)} | {_share(right, caught)} |"


def _share(part: Sequence[Outcome], whole: Sequence[Outcome]) -> str:
    return f"{len(part)} ({100 * len(part) / len(whole):.1f} %)" if whole else ""


def main() -> int:
    """Break, judge and write the page; status 1 where a fault went unseen or a sound artifact failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=REPOSITORY.parent / "shared" / "zoo")
    parser.add_argument("--nets", help="only these, with commas")
    parser.add_argument("--targets", default=",".join(FORMATS))
    parser.add_argument("--only", help="only faults with this in their name")
    parser.add_argument("--sites", type=int, default=1, help="places of each kind of fault in a net")
    parser.add_argument("--clean", type=int, default=250, help="clean runs")
    parser.add_argument("--json", type=Path, help="write every outcome there")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "mutations.md")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    chosen = [net for net in nets(arguments.zoo) if not arguments.nets or net.name in arguments.nets.split(",")]
    targets = arguments.targets.split(",")
    outcomes: list[Outcome] = []
    alarms: list[str] = []
    clean = 0
    each_clean = -(-arguments.clean // max(1, len(chosen) * len(targets)))
    for net in chosen:
        for target in targets:
            if target == "savedmodel" and net.name not in SAVED_MODEL_NETS:
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    maker = Maker(net, target, Path(folder))
                    maker.sound()
                except (DemitasseError, NotApplicable) as error:
                    print(f"{net.name} {target}: {error!r}", flush=True)
                    continue
                found = judge(maker, list(maker.mutants(arguments.sites, arguments.only)))
                outcomes += found
                seeds = range(len(outcomes), len(outcomes) + each_clean) if arguments.clean else ()
                for name, failures in clean_runs(maker, seeds):
                    clean += 1
                    if failures:
                        alarms.append(f"{name}: {failures[0]}")
            counting = [each for each in found if each.counts]
            caught = [each for each in counting if each.caught]
            print(
                f"{net.name} {target}: {len(found)} made, {len(counting)} count, {len(caught)} caught, "
                f"{sum(each.right for each in caught)} right, {len(alarms)} false alarms so far",
                flush=True,
            )
    command = "python benchmarks/mutations.py" + (f" --sites {arguments.sites}" if arguments.sites != 1 else "")
    arguments.output.write_text(page(outcomes, clean, alarms, command), "utf-8")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(each) for each in outcomes], indent=1), "utf-8")
    counting = [each for each in outcomes if each.counts]
    return 0 if all(each.caught for each in counting) and not alarms else 1


if __name__ == "__main__":
    raise SystemExit(main())
