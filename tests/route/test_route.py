"""The second route for Keras files: Keras loads, TensorFlow writes, the document says so, and Keras measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demitasse.conversion import convert
from demitasse.errors import DemitasseError, Unsupported, UsageError
from demitasse.ir.graph import Status
from demitasse.ir.ops import Layout
from demitasse.route import KerasNet
from demitasse.route.proof import check
from demitasse.samples import seeded
from demitasse.targets import TARGETS
from demitasse_validation import compare

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")
import keras

pytestmark = pytest.mark.filterwarnings("ignore:.*HDF5 file")  # Keras would rather write its own format

PLUGIN = """
import keras

@keras.saving.register_keras_serializable("tests")
class Scaled(keras.layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer=keras.initializers.RandomNormal(seed=1))

    def call(self, x):
        return x * self.factor
"""

LAYERS = keras.layers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models: one of a class and a Lambda of its own, and one with two inputs and two outputs of odd names."""
    folder = tmp_path_factory.mktemp("keras")
    (folder / "plugin.py").write_text(PLUGIN, "utf-8")
    namespace: dict[str, Any] = {"__name__": "plugin"}
    exec(compile(PLUGIN, "plugin.py", "exec"), namespace)  # noqa: S102 - the text above
    keras.utils.set_random_seed(5)
    own = keras.Sequential(
        [
            keras.Input((9, 9, 3), name="image"),
            LAYERS.Conv2D(6, 3, name="conv"),
            LAYERS.BatchNormalization(name="bn"),
            namespace["Scaled"](name="scaled"),
            LAYERS.Lambda(lambda x: x * 2 + 1, name="lambda"),
            LAYERS.GlobalAveragePooling2D(name="pool"),
            LAYERS.Dense(4, activation="softmax", name="prob"),
        ],
        name="own",
    )
    own.get_layer("bn").set_weights([np.linspace(1, 2, 6), np.ones(6), np.linspace(-1, 1, 6), np.linspace(0.5, 2, 6)])
    own.save(folder / "own.h5")
    image, side = keras.Input((8, 8, 3), name="left-image"), keras.Input((4,), name="b.side", dtype="int32")
    shared = LAYERS.Dense(5, name="shared")
    x = LAYERS.GlobalAveragePooling2D(name="pooled")(LAYERS.Conv2D(5, 3, name="conv-1")(image))
    y = LAYERS.Flatten(name="flat")(LAYERS.Embedding(20, 5, name="words")(side))
    both = LAYERS.Concatenate(name="cat")([shared(x), shared(LAYERS.Dense(5, name="narrow")(y))])
    outputs = [LAYERS.Dense(2, name="b_out")(both), LAYERS.Dense(3, name="a-out")(both)]
    keras.Model([image, side], outputs, name="odd").save(folder / "odd.keras")
    return folder


def convert_own(folder: Path, out: Path, *targets: str, **options: Any) -> Any:
    return convert(
        folder / "own.h5", out=out, to=targets, route="tensorflow", plugins=[folder / "plugin.py"], **options
    )


def test_every_format_is_written_and_computes_what_keras_computes(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", image=np.random.default_rng(0).normal(0, 1, (8, 9, 9, 3)).astype(np.float32))
    targets = ("onnx", "tflite", "tflite-f16", "tflite-int8", "savedmodel")
    manifest = convert_own(folder, tmp_path / "out", *targets, calibration=tmp_path / "samples.npz", labels="abcd")
    report = compare(
        [artifact.path for artifact in manifest.artifacts],
        folder / "own.h5",
        inputs=tmp_path / "samples.npz",
        route="tensorflow",
        plugins=[folder / "plugin.py"],
    )
    assert report.passed, report.findings
    assert report.evaluator.startswith("Keras 3")
    assert [artifact.target for artifact in report.artifacts] == list(targets)
    for artifact in report.artifacts:
        assert {result.blob for result in artifact.outputs} == {"prob"}
        assert artifact.coverage["internal"] >= 5
        assert not artifact.coverage["unmapped"]
        assert len(artifact.ranks) == 1


def test_the_manifest_and_every_document_name_the_route(folder: Path, tmp_path: Path) -> None:
    manifest = convert_own(folder, tmp_path / "out", "onnx", "tflite")
    written = json.loads((tmp_path / "out" / "demitasse.json").read_text("utf-8"))
    assert written["options"]["route"] == "tensorflow"
    assert any("tf2onnx" in note and "layers can't" in note for note in written["notes"])
    for artifact in manifest.artifacts:
        document = TARGETS[artifact.target].read_document(artifact.path)
        assert document is not None
        assert document.options["route"] == "tensorflow"
        assert "Keras 3" in document.options["made_with"]
        known = {record.blob: record.status for record in document.provenance}
        assert known == {"image": "compared", "prob": "compared"} | dict.fromkeys(
            ("conv", "bn", "scaled", "lambda", "pool"), "internal"
        )


@pytest.mark.parametrize("batch", [None, 3])
def test_ports_keep_their_names_and_the_batch_is_as_asked_for(batch: int | None, folder: Path, tmp_path: Path) -> None:
    targets = ["onnx", "tflite", "savedmodel"]
    manifest = convert(folder / "odd.keras", out=tmp_path / "out", to=targets, route="tensorflow", batch=batch)
    for artifact in manifest.artifacts:
        document = TARGETS[artifact.target].read_document(artifact.path)
        assert document is not None
        assert [port.name for port in document.inputs] == ["left-image", "b.side"]
        assert [port.name for port in document.outputs] == ["b_out", "a-out"]
        assert document.inputs[0].shape == (batch, 8, 8, 3)
    paths = [artifact.path for artifact in manifest.artifacts]
    report = compare(paths, folder / "odd.keras", route="tensorflow")
    assert report.passed, report.findings
    assert all(len(artifact.outputs) == 2 for artifact in report.artifacts)


def test_a_model_is_cut_where_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    convert_own(folder, tmp_path / "cut.onnx", "onnx", outputs=["pool", "bn"])
    document = TARGETS["onnx"].read_document(tmp_path / "cut.onnx")
    assert document is not None
    assert [port.name for port in document.outputs] == ["pool", "bn"]
    plugins = [folder / "plugin.py"]
    assert compare([tmp_path / "cut.onnx"], folder / "own.h5", route="tensorflow", plugins=plugins).passed


def test_it_is_never_taken_silently(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="Lambda"):
        convert(folder / "own.h5", out=tmp_path / "own.onnx")
    convert_own(folder, tmp_path / "own.onnx", "onnx")
    with pytest.raises(UsageError, match=r"own.onnx: made by TensorFlow.* if you trust it, say --route tensorflow"):
        compare([tmp_path / "own.onnx"], folder / "own.h5")


def test_keras_is_a_second_opinion_on_what_the_reader_reads(folder: Path, tmp_path: Path) -> None:
    convert(folder / "odd.keras", out=tmp_path / "odd.onnx")
    report = compare([tmp_path / "odd.onnx"], folder / "odd.keras", route="tensorflow")
    assert report.passed, report.findings
    (opinion,) = report.runtimes
    assert opinion.name == "keras"
    measured = {layer.blob for layer in opinion.layers if layer.metrics}
    assert {"conv-1", "pooled", "shared", "shared:1", "cat", "b_out", "a-out"} <= measured
    alone = compare([tmp_path / "odd.onnx"], folder / "odd.keras")
    assert any("--route tensorflow adds Keras" in finding.message for finding in alone.findings)


def test_keras_gives_the_layers_of_a_model_inside_another(tmp_path: Path) -> None:
    inner_image = keras.Input((8, 8, 3), name="inner_image")
    inner = keras.Model(
        inner_image, LAYERS.ReLU(name="act")(LAYERS.Conv2D(4, 3, name="conv")(inner_image)), name="body"
    )
    image = keras.Input((8, 8, 3), name="image")
    x = LAYERS.GlobalAveragePooling2D(name="pool")(inner(image, training=False))
    keras.Model(image, LAYERS.Dense(3, name="y")(x)).save(tmp_path / "outer.keras")
    net = KerasNet(tmp_path / "outer.keras")
    assert net.blobs == {"image", "body", "body/conv", "body/act", "pool", "y"}
    results = net.run({"image": np.ones((1, 8, 8, 3), np.float32)}, net.blobs)
    np.testing.assert_array_equal(results["body/act"], np.maximum(results["body/conv"], 0))
    np.testing.assert_array_equal(results["body"], results["body/act"])
    convert(tmp_path / "outer.keras", out=tmp_path / "outer.onnx")
    (opinion,) = compare([tmp_path / "outer.onnx"], tmp_path / "outer.keras", route="tensorflow").runtimes
    assert {layer.blob for layer in opinion.layers if layer.metrics} >= {"body/conv", "body/act", "pool", "y"}


def test_routes_are_not_mixed(folder: Path, tmp_path: Path) -> None:
    source = folder / "odd.keras"
    convert(source, out=tmp_path / "ours.onnx")
    convert(source, out=tmp_path / "theirs.onnx", route="tensorflow")
    with pytest.raises(UsageError, match=r"theirs.onnx: made by another route than the rest"):
        compare([tmp_path / "ours.onnx", tmp_path / "theirs.onnx"], source, route="tensorflow")


def test_another_model_with_the_same_document_is_found_out(folder: Path, tmp_path: Path) -> None:
    import onnx

    convert(folder / "odd.keras", out=tmp_path / "odd.onnx", route="tensorflow")
    model = onnx.load(tmp_path / "odd.onnx")
    for weight in model.graph.initializer:
        array = onnx.numpy_helper.to_array(weight)
        if array.dtype == np.float32 and array.ndim == 2:
            weight.CopyFrom(onnx.numpy_helper.from_array(array * np.float32(1.1), weight.name))
    onnx.save(model, tmp_path / "odd.onnx")
    report = compare([tmp_path / "odd.onnx"], folder / "odd.keras", route="tensorflow")
    assert not report.passed
    assert {finding.kind for finding in report.artifacts[0].findings} >= {"output"}


def test_only_foreign_artifacts_may_hide_layers(folder: Path, tmp_path: Path) -> None:
    import onnx

    convert(folder / "odd.keras", out=tmp_path / "odd.onnx", route="tensorflow")
    model = onnx.load(tmp_path / "odd.onnx")
    (entry,) = model.metadata_props
    entry.value = entry.value.replace('"route":"tensorflow"', '"route":null')
    onnx.save(model, tmp_path / "odd.onnx")
    report = compare([tmp_path / "odd.onnx"], folder / "odd.keras")
    assert report.artifacts[0].coverage[Status.UNMAPPED.value] > 5
    assert not report.passed


@pytest.mark.parametrize(
    ("factor", "message"), [(np.nan, "it isn't finite"), (0.0, "off by 1 of its peak"), (1.01, "off by 0.0")]
)
def test_what_a_converter_gets_wrong_is_not_delivered(
    factor: float, message: str, folder: Path, tmp_path: Path
) -> None:
    import onnx

    convert(folder / "odd.keras", out=tmp_path / "odd.onnx", route="tensorflow", outputs=["pooled"])
    model = onnx.load(tmp_path / "odd.onnx")
    document = TARGETS["onnx"].read_document(tmp_path / "odd.onnx")
    assert document is not None
    for weight in model.graph.initializer:
        array = onnx.numpy_helper.to_array(weight)
        if array.dtype == np.float32:
            weight.CopyFrom(onnx.numpy_helper.from_array(array * np.float32(factor), weight.name))
    onnx.save(model, tmp_path / "odd.onnx")
    net = KerasNet(folder / "odd.keras", outputs=["pooled"])
    with pytest.raises(Unsupported, match=message):
        check(net, net.shaped(1), tmp_path / "odd.onnx", document, None)
    (tmp_path / "odd.onnx").write_bytes(b"no model")
    with pytest.raises(Unsupported, match="doesn't run"):
        check(net, net.shaped(1), tmp_path / "odd.onnx", document, None)


def test_a_failing_conversion_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise Unsupported("what the converter wrote doesn't compute what Keras computes", [])

    monkeypatch.setattr("demitasse.route.artifacts.check", fail)
    with pytest.raises(Unsupported):
        convert(folder / "odd.keras", out=tmp_path / "out", to=["onnx"], route="tensorflow")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"route": "pytorch"}, "there is no route 'pytorch'"),
        ({"fold": True, "io_layout": Layout.CHANNELS_FIRST}, "can't fold preprocessing; it keeps the layout"),
        ({"to": ["onnx", "weights"]}, "it writes no weights: leave --route away"),
        ({"plugins": [Path("absent.py")]}, "absent.py: there is no such plugin file"),
        ({"outputs": ["absent"]}, "has no layer absent; it has .*conv-1"),
        ({"input_shapes": {"left-image": (1, 9, 9, 3), "absent": (1,)}}, "no input 'absent'.*can't be"),
    ],
)
def test_what_it_cant_do_is_refused(options: dict[str, Any], message: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DemitasseError, match=message):
        convert(folder / "odd.keras", out=tmp_path / "out", **{"to": ["onnx"], "route": "tensorflow"} | options)
    assert not list(tmp_path.iterdir())


def test_a_caffe_net_has_one_route(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text("", "utf-8")
    with pytest.raises(UsageError, match=r"net.prototxt is no Keras file"):
        convert(tmp_path / "net.prototxt", out=tmp_path / "net.onnx", route="tensorflow")


def test_a_class_that_nobody_gave_is_named(folder: Path) -> None:
    # What another test registered with Keras would be found.
    registered = keras.saving.get_custom_objects()
    kept = dict(registered)
    registered.clear()
    try:
        with pytest.raises(UsageError, match=r"own.h5: Keras 3.* \(its own classes come with --plugin, .*Scaled"):
            KerasNet(folder / "own.h5")
    finally:
        registered.update(kept)


def test_open_sides_have_to_be_said(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((None, None, 3), name="x"), LAYERS.Conv2D(2, 3, name="y")])
    model.save(tmp_path / "open.keras")
    with pytest.raises(UsageError, match=r"input 'x' is \[None, None, None, 3\]: give its sides with --input-shape"):
        KerasNet(tmp_path / "open.keras")
    net = KerasNet(tmp_path / "open.keras", input_shapes={"x": (1, 6, 8, 3)})
    assert net.graph.type("y").shape == (1, 4, 6, 2)
    (sample,) = seeded({"x": net.graph.type("x")}, 1, 0)
    assert net.run(sample, ["y"])["y"].shape == (1, 4, 6, 2)


def test_a_fixed_batch_stays(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input(batch_shape=(4, 6), name="x"), LAYERS.Dense(3, name="y")])
    model.save(tmp_path / "fixed.keras")
    manifest = convert(tmp_path / "fixed.keras", out=tmp_path / "out", to=["onnx", "tflite"], route="tensorflow")
    for artifact in manifest.artifacts:
        document = TARGETS[artifact.target].read_document(artifact.path)
        assert document is not None
        assert document.inputs[0].shape == (4, 6)
    paths = [artifact.path for artifact in manifest.artifacts]
    assert compare(paths, tmp_path / "fixed.keras", route="tensorflow").passed


def test_a_model_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import keras\n\nclass Own(keras.Model):\n    def __init__(self, **o):\n        super().__init__(**o)\n"
        "        self.dense = keras.layers.Dense(2)\n    def call(self, x):\n        return self.dense(x)\n",
        "utf-8",
    )
    namespace: dict[str, Any] = {"__name__": "own"}
    exec((tmp_path / "own.py").read_text("utf-8"), namespace)  # noqa: S102 - the text above
    model = namespace["Own"]()
    model(np.zeros((1, 3), np.float32))
    model.save(tmp_path / "own.keras")
    with pytest.raises(Unsupported, match="it is no graph of layers"):
        KerasNet(tmp_path / "own.keras", plugins=[tmp_path / "own.py"])
