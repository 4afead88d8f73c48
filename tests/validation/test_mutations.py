"""Faults that a converter could have, put into a net on purpose: the sharp ones of `benchmarks/mutations.py`.

A fault has to fail the validation, at the layer that has it, and where a hypothesis explains it, in the right words.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demitasse.cli import main
from demitasse.conversion import convert
from demitasse.errors import UsageError
from demitasse.ir.document import Document, SourceFile, describe
from demitasse.ir.graph import Graph
from demitasse.passes import with_batch
from demitasse.quantize.calibrate import calibrate
from demitasse.quantize.engines import EngineKind
from demitasse.readers import read
from demitasse.targets import TARGETS, lower, simplify
from demitasse_validation.baseline import Baseline
from demitasse_validation.comparison import compare
from demitasse_validation.inputs import Random, inputs_for
from demitasse_validation.mapping import Places
from demitasse_validation.report import ArtifactReport, Report, Role, Severity
from faults import (
    GRAPH_FAULTS,
    INPUT_FAULTS,
    ONNX_FAULTS,
    TFLITE_FAULTS,
    Fault,
    FileFault,
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

FAULTS = {fault.name: fault for fault in GRAPH_FAULTS}


class Bench:
    """A golden net in one format, to be broken."""

    def __init__(self, golden: Path, name: str, target: str, folder: Path) -> None:
        self.source = golden / "caffe" / name / "net.prototxt"
        self.weights = golden / "caffe" / name / "net.caffemodel"
        self.target, self.folder = TARGETS[target], folder
        self.graph = with_batch(read(self.source, self.weights), 1, dynamic=self.target.batch is None)

    def document(self, lowered: Graph) -> Document:
        files = (SourceFile.of(self.source), SourceFile.of(self.weights))
        return describe(lowered, target=self.target.name, tool="test", source_format="caffe", source=files, options={})

    def write(self, lowered: Graph, document: Document) -> Path:
        path = self.folder / f"net{self.target.suffix}"
        ranges = []
        if self.target.calibrated:
            samples = [step.feeds for step in inputs_for(self.graph, Random(32, seed=3), None).steps(1)]
            ranges = [calibrate(lowered, samples, engine=EngineKind(self.target.engine))]
        self.target.write(lowered, path, document, *ranges)
        return path

    def sound(self) -> Path:
        lowered = lower(simplify(self.graph), self.target)
        return self.write(lowered, self.document(lowered))

    def broken(self, fault: Fault, layer: str) -> Path:
        """Write the net with a fault in the first node of a layer that can have it."""
        honest = lower(simplify(self.graph), self.target)
        graph = self.graph if fault.stage is Stage.READER else honest
        node, edit = next((node, edit) for node, edit in sites(graph, fault) if node.origin.layer == layer)
        changed = faulty(graph, node, edit)
        if fault.stage is Stage.WRITER:
            return self.write(changed, self.document(honest))
        lowered = lower(simplify(changed), self.target)
        return self.write(lowered, self.document(lowered))

    def compare(self, path: Path, **options: Any) -> Report:
        given: dict[str, Any] = {"inputs": Random(3, seed=2), "independent": False} | options
        return compare([path], self.source, self.weights, **given)


def first(report: ArtifactReport) -> str | None:
    """Return the layer that is named first, unless it is none."""
    failures = [finding for finding in report.findings if finding.severity is Severity.FAILURE]
    return failures[0].layer if failures else None


def said(report: Report) -> str:
    return " ".join(finding.message for finding in report.artifacts[0].findings if finding.kind == "diagnosis")


@pytest.mark.parametrize("target", ["onnx", "tflite", "tflite-f16"])
@pytest.mark.parametrize(
    ("net", "fault", "layer", "named", "words"),
    [
        ("residual_net", "kernel scaled by 1 %", "2ay", "sc2ay", ""),
        ("residual_net", "kernel rounded to 4 bits", "2ay", "sc2ay", ""),
        ("residual_net", "wrong branch added", "e2a", "e2a", ""),
        ("residual_net", "NaN at one place", "p1", "p1", ""),
        ("residual_net", "infinity at one place", "gp", "gp", ""),
        ("residual_net", "dead channel", "p1", "p1", ""),
        ("residual_net", "batch-dependent result", "p1", "p1", ""),
        ("residual_net", "result scaled by 0.2 %", "gp", "gp", "everything is 1.002 times as large"),
        ("residual_net", "label order", "prob", "prob", "channels are permuted: 0 holds 9"),
        ("inception_block", "square kernel transposed", "i3", "i3", "its kernel is transposed"),
        ("inception_block", "concat order swapped", "cat", "cat", "channels are permuted"),
        ("inception_block", "LRN alpha not divided", "lrn", "lrn", "alpha isn't divided by the window's size"),
        ("inception_block", "pad shifted", "ip", "ip", "a line of padding moved"),
        ("inception_block", "flattened channels last", "cls", "cls", "flattened channels last"),
        ("inception_block", "softmax axis", "sm", "sm", "it runs along axis 0 instead of 1"),
        ("fc_after_conv", "activation lost", "r", "r", "the activation is left out"),
        ("eltwise_coeff3", "a bit flipped in an exponent", "d", "e", ""),
    ],
)
def test_a_fault_is_named_where_it_is(
    golden: Path, tmp_path: Path, target: str, net: str, fault: str, layer: str, named: str, words: str
) -> None:
    bench = Bench(golden, net, target, tmp_path)
    report = bench.compare(bench.broken(FAULTS[fault], layer))
    (artifact,) = report.artifacts
    assert report.exit_status == 1
    results = [result for result in artifact.layers if result.layer == first(artifact)]
    assert named in {name for result in results for name in (result.layer, *result.together_with)}
    assert words in said(report)


@pytest.mark.parametrize("target", ["onnx", "tflite"])
@pytest.mark.parametrize(
    ("net", "fault", "layer", "words"),
    [
        ("residual_net", "batch-norm eps", "b1", "the eps of its batch normalization is 0.001 for 1e-05"),
        ("pool_max_ceil", "ceil to floor", "p", "sizes are rounded down where they are to be rounded up"),
        ("pool_ave_ceil", "ceil to floor", "p", "sizes are rounded down where they are to be rounded up"),
        ("conv_basic", "pad shifted", "c", "a line of padding moved from the start to the end of spatial axis 0"),
        ("conv_basic", "channels of a result rolled", "c", "channels are permuted: 0 holds"),
        ("fc_after_conv", "label order", "p", "channels are permuted: 0 holds"),
        ("conv_valid_even_input", "H and W of a result swapped", "c", "height and width are swapped"),
        ("residual_net", "batch-norm eps", "bn2ax", "the eps of its batch normalization is 0.001 for 1e-05"),
        ("residual_net", "kernel rounded to 4 bits", "2ay", ""),
        ("residual_net", "kernel of another layer", "2ax", ""),
        ("residual_net", "infinity at one place", "gp", ""),
        ("residual_net", "NaN at one place", "gp", ""),
    ],
)
def test_what_is_wrong_is_told_in_words(
    golden: Path, tmp_path: Path, target: str, net: str, fault: str, layer: str, words: str
) -> None:
    bench = Bench(golden, net, target, tmp_path)
    report = bench.compare(bench.broken(FAULTS[fault], layer))
    assert report.exit_status == 1
    assert words in said(report)
    assert words or not said(report)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("BGR for RGB", "BGR for RGB"),
        ("H and W swapped", "height for width and width for height"),
        ("mean missing", "0.5, 1, 1.5 is added to the channels of its input, as if a mean weren't subtracted"),
        ("input scale wrong", "half the input"),
        ("mirrored", "mirrored"),
        ("upside down", "upside down"),
        ("NCHW read as NHWC", "NCHW numbers for NHWC"),
        ("shifted by a pixel", "shifted by +1 pixel"),
    ],
)
def test_a_misread_input_is_told_in_words(golden: Path, tmp_path: Path, fault: str, words: str) -> None:
    bench = Bench(golden, "conv_valid_even_input", "onnx", tmp_path)
    (kind,) = [each for each in INPUT_FAULTS if each.name == fault]
    chain = kind.chain(bench.graph.type("data").shape)
    assert chain is not None
    lowered = lower(simplify(input_changed(bench.graph, "data", chain)), bench.target)
    report = bench.compare(bench.write(lowered, bench.document(lowered)))
    assert report.exit_status == 1
    assert first(report.artifacts[0]) == "c"
    assert words in said(report)


def test_a_source_an_amplifier_and_victims_are_told_apart(golden: Path, tmp_path: Path) -> None:
    bench = Bench(golden, "residual_net", "onnx", tmp_path)
    (artifact,) = bench.compare(bench.broken(FAULTS["kernel scaled by 1 %"], "2ay")).artifacts
    roles = {result.blob: result.role for result in artifact.layers if result.role}
    assert [blob for blob, role in roles.items() if role is Role.SOURCE] == ["2ay"]
    assert roles["e2a"] in {Role.VICTIM, Role.AMPLIFIER}
    local = {result.blob: result.local["relative_to_peak"] for result in artifact.layers if result.local}
    assert local["2ay"] > 1e-3
    assert max(share for blob, share in local.items() if blob != "2ay") < 1e-5


def test_a_bundle_shows_the_fault_by_itself(golden: Path, tmp_path: Path) -> None:
    import onnxruntime

    bench = Bench(golden, "inception_block", "onnx", tmp_path)
    path = bench.broken(FAULTS["square kernel transposed"], "i3")
    bench.compare(path, bundle=tmp_path / "bundle")
    folder = tmp_path / "bundle"
    assert {each.name for each in folder.iterdir()} == {
        "README.md", "expected.npz", "given.npz", "inputs.npz", "layer.onnx", "report.json",
    }  # fmt: skip
    session = onnxruntime.InferenceSession(folder / "layer.onnx", providers=["CPUExecutionProvider"])
    (result,) = session.run(None, dict(np.load(folder / "inputs.npz")))
    expected, given = np.load(folder / "expected.npz")["i3"], np.load(folder / "given.npz")["i3"]
    assert np.abs(result - expected).max() < 1e-5
    assert np.abs(given - expected).max() > 1e-2
    assert "its kernel is transposed" in (folder / "README.md").read_text("utf-8")


# --- formats of few bits ---

FEW_BITS = ("tflite-int8", "onnx-int8", "tflite-16x8", "tflite-dynamic", "onnx-f16")


@pytest.mark.parametrize("target", FEW_BITS)
@pytest.mark.parametrize("net", ["residual_net", "inception_block", "act_prelu", "act_clip"])
def test_what_few_bits_round_is_no_fault(golden: Path, tmp_path: Path, target: str, net: str) -> None:
    bench = Bench(golden, net, target, tmp_path)
    assert bench.compare(bench.sound()).passed


@pytest.mark.parametrize("target", FEW_BITS)
@pytest.mark.parametrize(
    ("net", "fault", "layer"),
    [
        ("residual_net", "kernel scaled by 1 %", "2ay"),
        ("residual_net", "bias shifted by one channel", "fc"),
        ("act_prelu", "one element off", "a"),
        ("inception_block", "LRN k", "lrn"),
    ],
)
def test_a_fault_is_told_from_few_bits(
    golden: Path, tmp_path: Path, target: str, net: str, fault: str, layer: str
) -> None:
    bench = Bench(golden, net, target, tmp_path)
    report = bench.compare(bench.broken(FAULTS[fault], layer))
    (artifact,) = report.artifacts
    assert report.exit_status == 1
    results = [result for result in artifact.layers if result.layer == first(artifact)]
    assert layer in {name for result in results for name in (result.layer, *result.together_with)}


@pytest.mark.parametrize("fault", TFLITE_FAULTS + ONNX_FAULTS, ids=lambda fault: fault.name)
def test_a_fault_in_integers_is_named(golden: Path, tmp_path: Path, fault: FileFault) -> None:
    is_onnx = fault in ONNX_FAULTS
    bench = Bench(golden, "fc_after_conv", "onnx-int8" if is_onnx else "tflite-int8", tmp_path)
    path = bench.sound()
    blobs = {"c@c": "c", "c": "r", "f": "f", "p": "p"}  # tensors, and the layers that give them
    parse, find = (onnx_model, onnx_sites) if is_onnx else (tflite_model, tflite_sites)
    places: list[Any] = list(find(parse(path.read_bytes()), fault, blobs))
    caught = set()
    for place, seen in places:
        model = parse(path.read_bytes())
        if fault.change(model, place):
            broken = tmp_path / f"broken{bench.target.suffix}"
            broken.write_bytes(model.SerializeToString() if is_onnx else tflite_bytes(model))
            (artifact,) = bench.compare(broken).artifacts
            if not artifact.passed:
                caught.add(first(artifact))
                assert first(artifact) in {blobs[name] for name in seen} | {"data"}
    # A scale or zero point that both sides share changes nothing but which numbers there can be.
    assert caught or "zero point off by one" in fault.name or not is_onnx


# --- baselines and artifacts without a document ---


@pytest.fixture
def sound(golden: Path, tmp_path: Path) -> Bench:
    bench = Bench(golden, "residual_net", "onnx", tmp_path)
    lowered = lower(simplify(bench.graph), bench.target)
    bench.write(lowered, bench.document(lowered))
    return bench


def test_a_worse_run_than_the_baseline_fails(sound: Bench, tmp_path: Path) -> None:
    report = sound.compare(sound.folder / "net.onnx")
    accepted = Baseline({}).updated(report)
    accepted.save(tmp_path / "baseline.json")
    loaded = Baseline.load(tmp_path / "baseline.json")
    assert loaded.applied(report).passed
    ((run, blobs),) = loaded.runs.items()
    better = {name: {**figures, "relative_to_peak": 0.5} for name, figures in blobs.items()}
    notes = Baseline({run: better}).applied(report).artifacts[0].findings
    assert [finding.kind for finding in notes] == ["baseline-better"]
    loose = sound.broken(FAULTS["kernel scaled by 1 %"], "2ay")
    worse = sound.compare(loose, baseline=loaded)
    assert "baseline-worse" in {finding.kind for finding in worse.artifacts[0].findings}
    other = sound.compare(loose, baseline=loaded, inputs=Random(1, seed=9))
    assert "no-baseline" in {finding.kind for finding in other.artifacts[0].findings}


def test_a_damaged_baseline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(UsageError, match="is no baseline"):
        Baseline.load(tmp_path / "b.json")


def undocumented(bench: Bench) -> Path:
    import onnx

    model = onnx.load(bench.folder / "net.onnx")
    del model.metadata_props[:]
    onnx.save(model, bench.folder / "net.onnx")
    return bench.folder / "net.onnx"


def test_an_artifact_without_a_document_is_compared_at_its_outputs(sound: Bench) -> None:
    report = sound.compare(undocumented(sound))
    assert report.passed
    (artifact,) = report.artifacts
    assert artifact.coverage == {"compared": 1, "internal": 26}
    (warning,) = [finding for finding in artifact.findings if finding.kind == "no-document"]
    assert "1 outputs and 0 mapped layers were compared" in warning.message


def test_a_map_joins_more_layers(sound: Bench, tmp_path: Path) -> None:
    places = tmp_path / "map.toml"
    places.write_text('[layers]\n"2ay" = { tensor = "2ay" }\np1 = { tensor = "p1", axes = [0, 1, 2, 3] }\n')
    report = sound.compare(undocumented(sound), places=Places.load(places))
    assert report.passed
    assert report.artifacts[0].coverage["compared"] == 3
    places.write_text("[layer]\nx = 1\n[inputs]\ndata = { axes = [0, 0] }\n")
    with pytest.raises(UsageError, match=r"(?s)'layer' is no table.*inputs.data: needs a tensor"):
        Places.load(places)


def test_what_can_not_be_told_without_a_map_is_asked_for(golden: Path, tmp_path: Path) -> None:
    source = golden / "caffe" / "residual_net"
    made = convert(source / "net.prototxt", source / "net.caffemodel", out=tmp_path / "net.tflite")
    model = tflite_model(made.artifacts[0].path.read_bytes())
    model.metadata = []
    made.artifacts[0].path.write_bytes(tflite_bytes(model))
    with pytest.raises(UsageError, match=r"its input 'data' is float32\[.*give its axes in --map FILE"):
        compare([made.artifacts[0].path], source / "net.prototxt", source / "net.caffemodel", inputs=Random(1))
    places = Places.load(_map(tmp_path))
    report = compare(
        [made.artifacts[0].path], source / "net.prototxt", source / "net.caffemodel", inputs=Random(1), places=places
    )
    assert report.passed


def _map(folder: Path) -> Path:
    path = folder / "map.toml"
    path.write_text('[inputs]\ndata = { tensor = "data", axes = [0, 2, 3, 1] }\n')
    return path


def test_the_command_line_keeps_and_applies_a_baseline(
    sound: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.onnx"
    shutil.copyfile(sound.folder / "net.onnx", copy)
    call = ["validate", str(copy), "--against", str(sound.source), str(sound.weights), "--random", "1", "-q"]
    baseline = ["--baseline", str(tmp_path / "baseline.json")]
    assert main([*call, "--update-baseline"]) == 2
    assert main([*call, *baseline, "--update-baseline"]) == 0
    assert (tmp_path / "baseline.json").exists()
    assert main([*call, *baseline]) == 0
    shutil.copyfile(sound.broken(FAULTS["kernel scaled by 1 %"], "2ay"), copy)
    assert main([*call, *baseline, "--bundle", str(tmp_path / "bundle")]) == 1
    assert (tmp_path / "bundle" / "README.md").exists()
    assert "accepted in" in " ".join(capsys.readouterr().out.split())


def test_each_exit_status(sound: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, against = sound.folder / "net.onnx", ["--against", str(sound.source), str(sound.weights)]
    call = ["validate", str(artifact), *against, "--random", "1", "-q", "--report"]
    assert main([*call, str(tmp_path / "0")]) == 0
    assert main(["validate", str(tmp_path / "absent.onnx"), *against]) == 2
    sound.broken(FAULTS["kernel scaled by 1 %"], "2ay")
    assert main([*call, str(tmp_path / "1")]) == 1
    for status in ("0", "1"):
        names = {path.name for path in (tmp_path / status).iterdir()}
        assert names == {"report.html", "report.json", "report.md", "junit.xml"}

    def broken(*arguments: Any, **options: Any) -> Report:
        raise RuntimeError("a bug")

    monkeypatch.setattr("demitasse_validation.comparison.compare", broken)
    monkeypatch.setattr("demitasse_validation.compare", broken)
    assert main([*call, str(tmp_path / "3")]) == 3
    assert not (tmp_path / "3").exists()
