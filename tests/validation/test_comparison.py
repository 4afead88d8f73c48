"""Comparing artifacts with their source: sound ones pass, and each kind of fault is seen at the layer that has it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from demitasse.conversion import convert
from demitasse.errors import MissingDependency, UsageError
from demitasse.ir.document import Document
from demitasse.ir.graph import Status
from demitasse.ir.ops import Size
from demitasse.ir.preprocessing import ChannelOrder, Preprocessing
from demitasse_validation.comparison import compare
from demitasse_validation.inputs import Random
from demitasse_validation.report import ArtifactReport, Report, Severity
from demitasse_validation.tolerances import Rule, Tolerances

pytest.importorskip("cv2")

LABELS = tuple("abcdefghij")
CONTRACT = Preprocessing(ChannelOrder.BGR, resize=Size(24, 24), crop=Size(20, 20), mean=(104, 117, 123), scale=(0.02,))


class Net:
    """A golden net and its artifacts, which tests may break."""

    def __init__(self, golden: Path, name: str, folder: Path) -> None:
        self.source = golden / "caffe" / name / "net.prototxt"
        self.weights = golden / "caffe" / name / "net.caffemodel"
        self.io = golden / "caffe" / name / "io.npz"
        manifest = convert(self.source, self.weights, out=folder / "made", to=["onnx", "tflite"], labels=LABELS)
        self.onnx, self.tflite = (artifact.path for artifact in manifest.artifacts)

    def compare(self, *artifacts: Path, **options: Any) -> Report:
        given = {"inputs": Random(2, seed=1)} | options
        return compare(artifacts or [self.onnx, self.tflite], self.source, self.weights, **given)


@pytest.fixture
def residual(golden: Path, tmp_path: Path) -> Net:
    return Net(golden, "residual_net", tmp_path)


@pytest.fixture
def inception(golden: Path, tmp_path: Path) -> Net:
    return Net(golden, "inception_block", tmp_path)


def kinds(report: Report | ArtifactReport, severity: Severity = Severity.FAILURE) -> list[str]:
    return [finding.kind for finding in report.findings if finding.severity is severity]


def edit(path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path


def with_weight(name: str, change: Callable[[Any], Any]) -> Callable[[onnx.ModelProto], None]:
    """Makes an edit that replaces an initializer by what `change` makes of it."""

    def apply(model: onnx.ModelProto) -> None:
        (tensor,) = [each for each in model.graph.initializer if each.name == name]
        array = np.array(change(numpy_helper.to_array(tensor).copy()), np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return apply


def node_of(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    node: onnx.NodeProto
    (node,) = [each for each in model.graph.node if output in each.output]
    return node


def set_attribute(output: str, name: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    def apply(model: onnx.ModelProto) -> None:
        node = node_of(model, output)
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return apply


def with_document(change: Callable[[Document], Document]) -> Callable[[onnx.ModelProto], None]:
    def apply(model: onnx.ModelProto) -> None:
        (entry,) = [each for each in model.metadata_props if each.key == "demitasse"]
        entry.value = change(Document.from_json(entry.value, where="net.onnx")).to_json()

    return apply


def without_relu(model: onnx.ModelProto) -> None:
    node = node_of(model, "2bx")
    node.op_type = "Identity"


def spoiled(array: Any, place: tuple[int, ...], value: float) -> Any:
    array[place] = value
    return array


def swapped(array: Any) -> Any:
    return array[[1, 0, *range(2, len(array))]]


# --- sound artifacts ---


@pytest.mark.parametrize(
    "name", ["residual_net", "inception_block", "fc_after_conv", "slice_points", "bn_scale_inplace"]
)
def test_a_sound_artifact_passes(golden: Path, tmp_path: Path, name: str) -> None:
    report = Net(golden, name, tmp_path).compare()
    assert report.passed
    assert report.exit_status == 0
    assert not kinds(report)
    for artifact in report.artifacts:
        assert set(artifact.coverage) <= {"compared", "folded", "identity"}
        assert artifact.coverage["compared"] > 0
        measured = [layer for layer in artifact.layers if layer.metrics]
        assert max(layer.metrics["relative_to_peak"] for layer in measured if layer.metrics) < 1e-5
        assert artifact.outputs
        assert not artifact.divergence


def test_the_source_is_run_twice(residual: Net) -> None:
    report = residual.compare(residual.onnx)
    (witness,) = report.runtimes
    assert witness.runtime.startswith("OpenCV")
    assert all(layer.passed and layer.metrics for layer in witness.layers)
    alone = residual.compare(residual.onnx, independent=False)
    assert not alone.runtimes
    assert kinds(alone, Severity.NOTE) == ["no-second-opinion"]


def test_a_source_that_only_the_evaluator_runs_says_so(zoo: Path, tmp_path: Path) -> None:
    source = zoo / "keras" / "openmv_mnist_cnn" / "model.h5"
    made = convert(source, out=tmp_path / "mnist.onnx")
    report = compare([made.artifacts[0].path], source, inputs=Random(1))
    assert report.passed
    assert kinds(report, Severity.WARNING) == ["no-second-opinion"]


def test_folded_layers_say_into_what(residual: Net) -> None:
    (artifact,) = residual.compare(residual.onnx).artifacts
    layers = {layer.layer: layer for layer in artifact.layers}
    assert layers["c1"].status is Status.FOLDED
    assert layers["c1"].into == "c1@s1"
    assert layers["c1"].metrics is None
    assert layers["s1"].together_with == ("c1", "b1")


def test_inputs_of_the_user_are_taken_in_the_sources_layout(residual: Net, tmp_path: Path) -> None:
    data = np.load(residual.io)["in:data"]
    np.savez(tmp_path / "inputs.npz", data=np.concatenate([data, data[:, ::-1], -data]))
    report = residual.compare(inputs=tmp_path / "inputs.npz")
    assert report.passed
    assert len(report.inputs["samples"]) == 3


def test_an_artifact_of_another_batch_is_fed_as_it_wants(residual: Net, tmp_path: Path) -> None:
    made = convert(residual.source, residual.weights, out=tmp_path / "four.onnx", batch=4)
    report = residual.compare(made.artifacts[0].path, residual.onnx, inputs=Random(6))
    assert report.passed
    assert [artifact.ranks[0].samples for artifact in report.artifacts] == [6, 6]


def test_a_report_is_json(residual: Net) -> None:
    data = json.loads(residual.compare(top=3).to_json(), parse_constant=pytest.fail)
    assert data["schema"] == 1
    assert data["passed"] is True
    assert [artifact["passed"] for artifact in data["artifacts"]] == [True, True]
    ranked = data["artifacts"][0]["ranks"][0]["ranked"]
    assert len(ranked) == 2
    assert len(ranked[0]["expected"]) == 3
    assert ranked[0]["expected"][0]["label"] in LABELS


# --- faults ---

# An edit of an artifact, and the layers of which one has to be named: those that share the tensor.
WEIGHT_FAULTS = {
    "one weight of a kernel scaled": (
        with_weight("2bx/kernel", lambda kernel: kernel * np.float32(1.01)),
        "sc2bx",
    ),
    "one channel zeroed": (with_weight("c1/kernel", lambda kernel: spoiled(kernel, (3,), 0)), "s1"),
    "two channels swapped": (with_weight("2ay/kernel", swapped), "sc2ay"),
    "rows permuted": (with_weight("fc/kernel", lambda kernel: kernel[::-1]), "fc"),
    "bias dropped": (with_weight("2ax/bias", np.zeros_like), "sc2ax"),
    "square kernel transposed": (with_weight("2by/kernel", lambda kernel: kernel.swapaxes(2, 3)), "sc2by"),
    "one exponent flipped": (with_weight("fc/kernel", lambda kernel: spoiled(kernel, (2, 3), 64.0)), "fc"),
    "pad shifted": (set_attribute("2ay", "pads", [0, 1, 2, 1]), "sc2ay"),
    "relu lost": (without_relu, "rl2bx"),
    "softmax over the wrong axis": (set_attribute("prob", "axis", 0), "prob"),
}


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_the_faulty_layer_is_named(residual: Net, fault: str) -> None:
    change, layer = WEIGHT_FAULTS[fault]
    report = residual.compare(edit(residual.onnx, change), residual.tflite)
    broken, sound = report.artifacts
    assert report.exit_status == 1
    assert not broken.passed
    assert sound.passed
    assert all(witness.passed for witness in report.runtimes)
    first = next(finding for finding in broken.findings if finding.kind == "divergence")
    assert first.layer == layer
    assert f"layer {layer!r} (" in first.message
    assert "net.prototxt:" in first.message
    assert len(broken.divergence) == 1


def test_branches_in_the_wrong_order_are_seen_where_they_join(inception: Net) -> None:
    edit(inception.onnx, lambda model: swap_inputs(model, "cat"))
    (artifact,) = inception.compare(inception.onnx).artifacts
    assert artifact.divergence == ("cat",)


def swap_inputs(model: onnx.ModelProto, output: str) -> None:
    node = node_of(model, output)
    names = [*node.input[1:], node.input[0]]
    del node.input[:]
    node.input.extend(names)


def test_faults_in_two_branches_are_told_apart(inception: Net) -> None:
    edit(inception.onnx, with_weight("i1/bias", lambda bias: bias + 1))
    edit(inception.onnx, with_weight("ipp/bias", lambda bias: bias + 1))
    (artifact,) = inception.compare(inception.onnx).artifacts
    assert artifact.divergence == ("i1", "ipp")
    messages = [finding.message for finding in artifact.findings if finding.kind == "divergence"]
    assert messages[0].startswith("first diverges at layer 'i1'")
    assert messages[1].startswith("diverges independently at layer 'ipp'")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_fails_first(residual: Net, value: float) -> None:
    edit(residual.onnx, with_weight("2ax/kernel", lambda kernel: spoiled(kernel, (1, 2, 0, 0), value)))
    report = residual.compare(residual.onnx)
    (artifact,) = report.artifacts
    assert kinds(artifact)[0] == "nonfinite"
    assert artifact.findings[0].layer == "sc2ax"
    assert "values are NaN or infinite" in artifact.findings[0].message
    json.loads(report.to_json(), parse_constant=pytest.fail)


def test_a_fault_in_tflite_is_named_too(residual: Net) -> None:
    kernel = numpy_helper.to_array(
        next(each for each in onnx.load(residual.onnx).graph.initializer if each.name == "2bx/kernel")
    )
    stored = np.ascontiguousarray(kernel.transpose(0, 2, 3, 1))
    data = residual.tflite.read_bytes()
    assert data.count(stored.tobytes()) == 1
    residual.tflite.write_bytes(data.replace(stored.tobytes(), swapped(stored).tobytes()))
    sound, broken = residual.compare().artifacts
    assert sound.passed
    assert broken.divergence == ("2bx",)
    first = next(finding for finding in broken.findings if finding.kind == "divergence")
    assert first.message.startswith("first diverges at layers 2bx + bn2bx + sc2bx + rl2bx (one tensor there)")
    assert {"output", "top1"} & set(kinds(broken))


def test_outputs_are_measured_in_the_deployed_file(residual: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers may come from other kernels than the ones that users run."""
    from demitasse_validation.runtimes.onnx import OnnxRunner

    run = OnnxRunner.run
    monkeypatch.setattr(OnnxRunner, "run", lambda self, feeds: {n: a + 1e-3 for n, a in run(self, feeds).items()})
    (artifact,) = residual.compare(residual.onnx).artifacts
    assert all(layer.passed is not False for layer in artifact.layers)
    assert kinds(artifact) == ["output"]
    assert "output 'prob': max error 0.001, allowed 1e-05" in artifact.findings[0].message


# --- the map ---


def dropping(blob: str) -> Callable[[Document], Document]:
    return lambda document: replace(
        document, provenance=tuple(record for record in document.provenance if record.blob != blob)
    )


def changing(blob: str, /, **fields: Any) -> Callable[[Document], Document]:
    return lambda document: replace(
        document,
        provenance=tuple(
            replace(record, **fields) if record.blob == blob else record for record in document.provenance
        ),
    )


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (dropping("p1"), "unmapped", "blob 'p1': not accounted for: the artifact's map doesn't mention it"),
        (changing("p1", tensor="absent"), "unmapped", "tensor 'absent': the file has no such tensor"),
        (changing("p1", axes=None), "unmapped", "names no tensor for it"),
        (changing("p1", status="unmapped"), "unmapped", "the conversion lost track of it"),
        (changing("p1", status="unused"), "unmapped", "an output depends on it"),
        (changing("p1", blob="pool"), "stranger", "blob 'pool' of layer 'p1', which the source doesn't have"),
        (changing("p1", tensor="c1"), "shape", "its shape is"),
        (changing("2ax", tensor="2bx"), "divergence", "first diverges at layer 'rl2ax'"),
        (changing("2ax", axes=(0, 1, 3, 2)), "divergence", "first diverges at layer 'rl2ax'"),
    ],
)
def test_a_map_that_lies_is_found_out(
    residual: Net, change: Callable[[Document], Document], kind: str, message: str
) -> None:
    edit(residual.onnx, with_document(change))
    (artifact,) = residual.compare(residual.onnx).artifacts
    assert any(finding.kind == kind and message in finding.message for finding in artifact.findings)
    assert not artifact.passed


def test_a_map_that_hides_everything_still_has_outputs(residual: Net) -> None:
    edit(residual.onnx, with_weight("c1/kernel", lambda kernel: kernel * 2))
    edit(
        residual.onnx,
        with_document(
            lambda document: replace(
                document,
                provenance=tuple(replace(r, status="folded", axes=None, tensor="prob") for r in document.provenance),
            )
        ),
    )
    (artifact,) = residual.compare(residual.onnx).artifacts
    assert "output" in kinds(artifact)


# --- inputs and outputs ---


def rename_output(model: onnx.ModelProto) -> None:
    node_of(model, "prob").output[0] = "other"
    model.graph.output[0].name = "other"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (rename_output, {"missing-output", "extra-output"}),
        (lambda model: model.graph.output.append(onnx.ValueInfoProto(name="fc")), {"extra-output"}),
        (
            with_document(lambda document: replace(document, outputs=())),
            {"missing-output", "extra-output"},
        ),
        (
            with_document(lambda d: replace(d, outputs=tuple(replace(port, dtype="float64") for port in d.outputs))),
            {"dtype"},
        ),
        (
            with_document(lambda d: replace(d, outputs=tuple(replace(port, shape=(None, 9)) for port in d.outputs))),
            {"shape"},
        ),
    ],
)
def test_another_interface_than_promised_fails(
    residual: Net, change: Callable[[onnx.ModelProto], None], expected: set[str]
) -> None:
    (artifact,) = residual.compare(edit(residual.onnx, change)).artifacts
    assert expected <= set(kinds(artifact))


# --- sources of truth ---


def test_a_source_that_is_misread_is_told_apart(residual: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The artifact agrees with the project's own reading, and an independent runtime with neither."""
    from demitasse_validation.runtimes.opencv import OpenCvRunner

    other = tmp_path / "other.prototxt"
    text = residual.source.read_text("utf-8").replace("stride: 2", "stride: 1")
    other.write_text(text.replace("pool: MAX", "pool: AVE"))
    init = OpenCvRunner.__init__
    monkeypatch.setattr(OpenCvRunner, "__init__", lambda self, source, *rest, **more: init(self, other, *rest, **more))
    report = residual.compare(residual.onnx)
    assert report.artifacts[0].passed
    assert not report.passed
    assert {finding.kind for finding in report.runtimes[0].findings} == {"source-disagreement"}


def test_another_source_is_noticed(residual: Net, tmp_path: Path) -> None:
    source = tmp_path / "net.prototxt"
    source.write_text("# edited\n" + residual.source.read_text("utf-8"))
    report = compare([residual.onnx], source, residual.weights, inputs=Random(1))
    assert report.passed
    assert [finding.kind for finding in report.findings] == ["other-source"]
    assert "made from another net.prototxt" in report.findings[0].message


def test_a_net_that_opencv_can_not_run_says_so(golden: Path, tmp_path: Path) -> None:
    report = Net(golden, "act_threshold", tmp_path).compare()
    assert report.passed
    assert [finding.kind for finding in report.runtimes[0].findings] == ["no-second-opinion"]
    assert all("Can't create layer" in layer.note for layer in report.runtimes[0].layers if layer.passed is None)


def test_a_missing_runtime_is_an_error(residual: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MissingDependency, match=r"demitasse\[caffe\]"):
        residual.compare(residual.onnx)
    assert residual.compare(residual.onnx, independent=False).passed


# --- noise ---


def test_noise_for_a_table_picks_what_the_table_has(golden: Path, tmp_path: Path) -> None:
    report = Net(golden, "embed", tmp_path).compare(inputs=Random(8))
    assert report.passed
    layers = {layer.layer: layer for layer in report.artifacts[0].layers}
    assert layers["e"].metrics is not None


def test_noise_that_suits_no_net_is_refused_with_a_way_out(golden: Path, tmp_path: Path) -> None:
    source = golden / "caffe-forks" / "roi_pooling" / "deploy.prototxt"
    made = convert(source, out=tmp_path / "roi.onnx")
    with pytest.raises(UsageError, match=r"random inputs don't suit this net: .*give --inputs FILE.npz"):
        compare([made.artifacts[0].path], source, inputs=Random(1))


# --- tolerances ---


def test_a_tolerance_with_a_reason_is_applied(residual: Net) -> None:
    edit(residual.onnx, with_weight("2bx/kernel", lambda kernel: kernel * np.float32(1.001)))
    loose = Rule({"relative_to_peak": 0.1}, "known", target="onnx")
    strict_here = Rule({"relative_to_peak": 1e-6}, "tight", layer="p1", target="tflite")
    unused = Rule({"max_abs": 1.0}, "gone", layer="absent")
    (artifact,) = residual.compare(residual.onnx).artifacts
    assert artifact.divergence == ("2bx@sc2bx",)
    tolerances = Tolerances(overrides=(loose, strict_here, unused))
    report = residual.compare(residual.onnx, tolerances=tolerances)
    assert report.passed
    assert [finding.kind for finding in report.findings] == ["unused-tolerance"] * 2
    reasons = {layer.reason for layer in report.artifacts[0].layers if layer.metrics}
    assert reasons == {"known"}


# --- images ---


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (30 + index, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


IMAGE_NET = """
name: "images"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 10 dim: 3 dim: 20 dim: 20 } } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "relu" type: "ReLU" bottom: "pool" top: "pool" relu_param { negative_slope: 0.1 } }
layer { name: "global" type: "Pooling" bottom: "pool" top: "global" pooling_param { pool: AVE global_pooling: true } }
layer { name: "prob" type: "Softmax" bottom: "global" top: "prob" }
"""


@pytest.fixture
def image_net(tmp_path: Path) -> Path:
    path = tmp_path / "images.prototxt"
    path.write_text(IMAGE_NET)
    return path


@pytest.mark.parametrize("fold", [False, True])
def test_images_go_through_the_contract(image_net: Path, photographs: Path, tmp_path: Path, fold: bool) -> None:
    made = convert(
        image_net, out=tmp_path / "made", to=["onnx", "tflite"], preprocessing=CONTRACT, fold=fold, labels="bgr"
    )
    paths = [artifact.path for artifact in made.artifacts]
    report = compare(paths, image_net, inputs=photographs)
    assert [finding for artifact in report.artifacts for finding in artifact.findings] == []
    assert report.passed
    assert report.inputs["samples"] == ["0.png", "1.png", "2.png"]
    assert report.artifacts[0].ranks[0].agreeing == 3
    assert report.inputs["preprocessing"] == CONTRACT.to_dict()
    assert compare(paths, image_net, inputs=Random(2), preprocessing=CONTRACT).passed


def test_the_contract_of_the_artifact_is_used(image_net: Path, photographs: Path, tmp_path: Path) -> None:
    made = convert(image_net, out=tmp_path / "net.onnx", preprocessing=CONTRACT)
    path = made.artifacts[0].path
    assert compare([path], image_net, inputs=photographs).inputs["preprocessing"] == CONTRACT.to_dict()
    other = replace(CONTRACT, channels=ChannelOrder.RGB)
    report = compare([path], image_net, inputs=photographs, preprocessing=other)
    assert [finding.kind for finding in report.findings] == ["other-preprocessing"]


# --- calls that can't be ---


def test_a_bad_call_is_refused(residual: Net, photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name an artifact"):
        compare([], residual.source, residual.weights)
    with pytest.raises(UsageError, match="no such file"):
        residual.compare(tmp_path / "absent.onnx")
    with pytest.raises(UsageError, match="no artifact's name ends like this"):
        residual.compare(residual.weights)
    with pytest.raises(UsageError, match="nothing says how images are prepared"):
        residual.compare(inputs=photographs)
    np.savez(tmp_path / "bad.npz", data=np.zeros((1, 3, 3, 3), np.float32))
    with pytest.raises(UsageError, match="array 'data' has shape"):
        residual.compare(inputs=tmp_path / "bad.npz")
    with pytest.raises(UsageError, match="0 random inputs"):
        residual.compare(inputs=Random(0))


def test_a_damaged_image_is_named(image_net: Path, photographs: Path, tmp_path: Path) -> None:
    made = convert(image_net, out=tmp_path / "net.onnx", preprocessing=CONTRACT)
    shutil.copyfile(image_net, photographs / "broken.png")
    with pytest.raises(UsageError, match=r"broken.png: not an image"):
        compare([made.artifacts[0].path], image_net, inputs=photographs)
