from __future__ import annotations

import base64
import json
import marshal
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from demitasse.errors import DemitasseError, MalformedModel, Unsupported, UsageError
from demitasse.ir.evaluate import evaluate
from demitasse.readers.keras import Danger, read, security_findings
from keras_files import (
    dense_net,
    dense_weights,
    functional,
    input_layer,
    layer,
    sequential,
    write_archive,
    write_h5,
)

Maker = Callable[[Path, Path], Path]  # takes a folder and the file that the payload would create


class _Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def _bytecode(trace: Path) -> str:
    """A compiled function that creates a file, as Keras stores Lambda layers."""
    code = compile(f"__import__('os').mkdir({str(trace)!r})", "payload", "exec")
    return base64.b64encode(marshal.dumps(code)).decode()


def _net_with(entry: dict[str, Any]) -> dict[str, Any]:
    return sequential(input_layer("x", 3), entry)


def lambda_bytecode(folder: Path, trace: Path) -> Path:
    entry = layer("Lambda", "evil", function=[_bytecode(trace), None, None], function_type="lambda")
    return write_h5(folder / "lambda.h5", _net_with(entry))


def lambda_of_keras3(folder: Path, trace: Path) -> Path:
    code = {"class_name": "__lambda__", "config": {"code": _bytecode(trace), "defaults": None, "closure": None}}
    return write_archive(folder / "lambda.keras", _net_with(layer("Lambda", "evil", function=code)))


def lambda_by_name(folder: Path, trace: Path) -> Path:
    entry = layer("Lambda", "evil", function="launch", module="os", function_type="function")
    return write_h5(folder / "function.h5", _net_with(entry))


def code_in_an_activation(folder: Path, trace: Path) -> Path:
    code = {"class_name": "__lambda__", "config": {"code": _bytecode(trace), "defaults": None, "closure": None}}
    return write_h5(folder / "activation.h5", _net_with(layer("Dense", "evil", units=2, activation=code)))


def foreign_module(folder: Path, trace: Path) -> Path:
    # CVE-2025-1550: Keras imported any module that a file named
    function = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
    return write_archive(folder / "module.keras", _net_with(layer("Activation", "evil", activation=function)))


def python_builtin(folder: Path, trace: Path) -> Path:
    entry = {**layer("exec", "evil"), "module": "builtins", "registered_name": None}
    return write_archive(folder / "builtin.keras", _net_with(entry))


def registered_class(folder: Path, trace: Path) -> Path:
    entry = {**layer("Swirl", "evil"), "module": "studio.layers", "registered_name": "studio>Swirl"}
    return write_archive(folder / "class.keras", _net_with(entry))


def registered_class_of_keras2(folder: Path, trace: Path) -> Path:
    return write_h5(folder / "class.h5", _net_with(layer("studio>Dense", "evil", units=2)))


def torch_module(folder: Path, trace: Path) -> Path:
    pickled = pickle.dumps(_Payload(trace)).decode("latin-1")
    return write_archive(folder / "torch.keras", _net_with(layer("TorchModuleWrapper", "evil", module=pickled)))


def saved_model_elsewhere(folder: Path, trace: Path) -> Path:
    return write_archive(folder / "smlayer.keras", _net_with(layer("TFSMLayer", "evil", filepath="/tmp/elsewhere")))


def vocabulary_elsewhere(folder: Path, trace: Path) -> Path:
    return write_archive(folder / "words.keras", _net_with(layer("StringLookup", "evil", vocabulary="/etc/passwd")))


def _with_array(path: Path, add: Callable[[h5py.Group], None]) -> Path:
    weights = dense_weights()
    write_h5(path, dense_net(), weights)
    with h5py.File(path, "a") as file:
        group = file["model_weights/dense/dense"]
        del group["kernel:0"]
        add(group)
    return path


def external_link(folder: Path, trace: Path) -> Path:
    def add(group: h5py.Group) -> None:
        group["kernel:0"] = h5py.ExternalLink("/etc/secrets.h5", "/data")

    return _with_array(folder / "link.h5", add)


def soft_link(folder: Path, trace: Path) -> Path:
    def add(group: h5py.Group) -> None:
        group["kernel:0"] = h5py.SoftLink("/model_weights/dense/dense/bias:0")

    return _with_array(folder / "soft.h5", add)


def virtual_dataset(folder: Path, trace: Path) -> Path:
    def add(group: h5py.Group) -> None:
        layout = h5py.VirtualLayout((3, 2), "f4")
        layout[:] = h5py.VirtualSource("/etc/secrets.h5", "data", shape=(3, 2))
        group.create_virtual_dataset("kernel:0", layout)

    return _with_array(folder / "virtual.h5", add)


def external_storage(folder: Path, trace: Path) -> Path:
    def add(group: h5py.Group) -> None:
        group.create_dataset("kernel:0", (3, 2), "f4", external=[("/etc/passwd", 0, 24)])

    return _with_array(folder / "external.h5", add)


def compression_bomb(folder: Path, trace: Path) -> Path:
    def add(group: h5py.Group) -> None:
        group.create_dataset("kernel:0", (1 << 17, 1 << 17), "f4", chunks=(1 << 10, 1 << 10), compression="gzip")

    return _with_array(folder / "bomb.h5", add)


def oversized(folder: Path, trace: Path) -> Path:
    def add(group: h5py.Group) -> None:
        group.create_dataset("kernel:0", (1 << 20, 1 << 20), "f4")  # never written, so it takes no room

    return _with_array(folder / "oversized.h5", add)


def foreign_filter(folder: Path, trace: Path) -> Path:
    def add(group: h5py.Group) -> None:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((3, 2))
        plist.set_filter(32999, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((3, 2))
        h5py.h5d.create(group.id, b"kernel:0", h5py.h5t.IEEE_F32LE, space, plist)

    return _with_array(folder / "filter.h5", add)


def pickle_in_an_array(folder: Path, trace: Path) -> Path:
    def add(group: h5py.Group) -> None:
        group["kernel:0"] = np.void(pickle.dumps(_Payload(trace), protocol=4))

    return _with_array(folder / "pickle.h5", add)


def pickle_in_an_attribute(folder: Path, trace: Path) -> Path:
    path = write_h5(folder / "attribute.h5", dense_net(), dense_weights())
    with h5py.File(path, "a") as file:
        file.attrs["custom_objects"] = np.void(pickle.dumps(_Payload(trace), protocol=4))
    return path


def pickle_for_a_model(folder: Path, trace: Path) -> Path:
    path = folder / "model.h5"
    path.write_bytes(pickle.dumps(_Payload(trace), protocol=4))
    return path


def zip_slip(folder: Path, trace: Path) -> Path:
    return write_archive(folder / "slip.keras", dense_net(), members={f"../../{trace.name}": b"x"})


def absolute_member(folder: Path, trace: Path) -> Path:
    return write_archive(folder / "absolute.keras", dense_net(), members={str(trace): b"x"})


def link_member(folder: Path, trace: Path) -> Path:
    path = write_archive(folder / "symlink.keras", dense_net())
    entry = zipfile.ZipInfo("assets")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, "/etc")
    return path


def pickle_member(folder: Path, trace: Path) -> Path:
    members = {"assets/objects": pickle.dumps(_Payload(trace), protocol=4)}
    return write_archive(folder / "member.keras", dense_net(), members=members)


DANGEROUS: list[tuple[Maker, Danger]] = [
    (lambda_bytecode, Danger.LAMBDA),
    (lambda_of_keras3, Danger.LAMBDA),
    (lambda_by_name, Danger.LAMBDA),
    (code_in_an_activation, Danger.LAMBDA),
    (foreign_module, Danger.USER_CLASS),
    (python_builtin, Danger.USER_CLASS),
    (registered_class, Danger.USER_CLASS),
    (registered_class_of_keras2, Danger.USER_CLASS),
    (torch_module, Danger.PICKLE),
    (saved_model_elsewhere, Danger.OTHER_FILE),
    (vocabulary_elsewhere, Danger.OTHER_FILE),
    (external_link, Danger.EXTERNAL_LINK),
    (soft_link, Danger.SOFT_LINK),
    (virtual_dataset, Danger.VIRTUAL_DATASET),
    (external_storage, Danger.EXTERNAL_STORAGE),
    (compression_bomb, Danger.COMPRESSION_BOMB),
    (oversized, Danger.OVERSIZED),
    (foreign_filter, Danger.FILTER_PLUGIN),
    (pickle_in_an_array, Danger.PICKLE),
    (pickle_in_an_attribute, Danger.PICKLE),
    (pickle_for_a_model, Danger.PICKLE),
    (zip_slip, Danger.ARCHIVE_PATH),
    (absolute_member, Danger.ARCHIVE_PATH),
    (link_member, Danger.SOFT_LINK),
    (pickle_member, Danger.PICKLE),
]


@pytest.mark.parametrize(("make", "danger"), DANGEROUS, ids=lambda value: getattr(value, "__name__", None))
def test_a_dangerous_file_is_refused_by_name_and_nothing_in_it_runs(
    make: Maker, danger: Danger, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    path = make(tmp_path, trace)
    with pytest.raises(DemitasseError, match=danger.value) as refusal:
        read(path)
    assert refusal.value.exit_status == 2
    assert danger in [finding.danger for finding in security_findings(path)]
    assert not trace.exists()


def test_harmless_files_have_no_findings(tmp_path: Path) -> None:
    whole = write_h5(tmp_path / "net.h5", dense_net(), dense_weights())
    architecture = tmp_path / "net.json"
    architecture.write_text(json.dumps(dense_net()))
    assert security_findings(whole) == security_findings(architecture) == []


def test_a_class_that_keras_registers_as_an_authors_is_no_danger(tmp_path: Path) -> None:
    entry = {**layer("CustomScaleLayer", "scale"), "registered_name": "Custom>CustomScaleLayer"}
    own = write_archive(tmp_path / "own.keras", _net_with({**entry, "module": "tf_keras.src.applications"}))
    other = write_archive(tmp_path / "other.keras", _net_with({**entry, "module": "studio.layers"}))
    assert security_findings(own) == []
    assert [finding.danger for finding in security_findings(other)] == [Danger.USER_CLASS]


def _echo(depth: int) -> dict[str, Any]:
    """Nets each of which calls the next one twice, down to a single layer."""
    relu = layer("Activation", "relu", activation="relu")
    net = functional([(input_layer("x", 3), []), (relu, [[["x", 0, 0, {}]]])], [["x", 0, 0]], [["relu", 0, 0]])
    for level in range(depth):
        inner = {**net, "config": {**net["config"], "name": f"net{level}"}}
        calls = [[["x", 0, 0, {}]], [[f"net{level}", 0, 0, {}]]]
        net = functional([(input_layer("x", 3), []), (inner, calls)], [["x", 0, 0]], [[f"net{level}", 1, 0]])
    return net


@pytest.mark.parametrize("number", [0, 3])
def test_free_blocks_in_a_circle_are_refused(number: int, tmp_path: Path) -> None:
    """The library would follow them for ever, in the root group and in others."""
    path = write_h5(tmp_path / "net.h5", dense_net(), dense_weights())
    content = bytearray(path.read_bytes())
    heaps = [match.start() for match in re.finditer(rb"HEAP\x00", bytes(content))]
    block, data = (int.from_bytes(content[heaps[number] + place :][:8], "little") for place in (16, 24))
    content[data + block : data + block + 8] = block.to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(MalformedModel, match="heap of names"):
        read(path)


def test_text_that_is_a_list_of_numbers_is_refused(tmp_path: Path) -> None:
    """The library would look for the list in a heap, and crashes where a damaged file has none."""
    path = write_h5(tmp_path / "net.h5", dense_net(), dense_weights())
    with h5py.File(path, "a") as file:
        numbers = np.empty(1, object)
        numbers[0] = np.arange(5, dtype=np.uint8)
        file.attrs.create("keras_version", numbers, dtype=h5py.vlen_dtype(np.uint8))
    with pytest.raises(MalformedModel, match="'keras_version': it holds something else than text"):
        read(path)


def test_a_heap_without_end_is_refused(tmp_path: Path) -> None:
    """The library would go round in it for ever: its next entry has no number and no size."""
    path = write_h5(tmp_path / "net.h5", dense_net(), dense_weights())
    with h5py.File(path, "a") as file:
        file["model_weights"].attrs["layer_names"] = ["dense"]
    content = bytearray(path.read_bytes())
    heap = int.from_bytes(content[(start := _reference(content, len("dense"))) + 4 : start + 12], "little")
    content[heap + 16 : heap + 32] = bytes(16)
    path.write_bytes(content)
    with pytest.raises(MalformedModel, match="in the heap"):
        read(path)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (_net_with(layer("BatchNormalization", "a", axis=[])), "isn't described as Keras does it"),
        (_net_with(layer("Dot", "a", axes="xy")), "'axes' is 'xy'"),
        (_net_with(input_layer("a", 3)), "a InputLayer that its net doesn't list"),
        (
            functional(
                [
                    (input_layer("x", 3), []),
                    (layer("TensorFlowOpLayer", "a", node_def={"op": "Add", "input": 3}), [[["x", 0, 0, {}]]]),
                ],
                [["x", 0, 0]],
                [["a", 0, 0]],
            ),
            "isn't described as Keras does it",
        ),
        (_echo(20), "more than 20,000 calls of layers"),
        (_net_with(layer("Dense", "a\x1b[2Jb", units=2)), "characters that can't be printed"),
        (sequential(input_layer("x", 3), layer("ReLU", "a"), layer("ReLU", "a")), "two layers of the same name"),
        (_net_with(layer("Rescaling", "a", scale=1e300)), "too large for float32"),
        (_net_with(layer("Dense", "a", units=1 << 40)), "don't fit"),
    ],
)
def test_a_description_that_asks_for_too_much_is_refused(config: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedModel, match=reason):
        read(write_h5(tmp_path / "net.h5", config, dense_weights()))


def test_a_packed_bomb_in_an_archive_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b'{"class_name": "' + b"x" * (200 << 20) + b'"}')
    with pytest.raises(MalformedModel, match=Danger.COMPRESSION_BOMB.value):
        read(path)


def test_strings_that_share_their_place_are_a_bomb(tmp_path: Path) -> None:
    config = dense_net() | {"padding": "x" * 100_000}
    path = write_h5(tmp_path / "net.h5", config, dense_weights())
    with h5py.File(path, "a") as file:
        file["model_weights"].attrs["layer_names"] = ["y" * 777] * 2000
    content = bytearray(path.read_bytes())
    whole = _reference(content, len(json.dumps(config)))
    names = _reference(content, 777)
    content[names : names + 16 * 2000] = content[whole : whole + 16] * 2000
    path.write_bytes(content)
    with pytest.raises(MalformedModel, match=Danger.COMPRESSION_BOMB.value):
        read(path)


def _reference(content: bytearray, length: int) -> int:
    """Finds the first reference to a string of a length: the length, and the place and number of a heap's entry."""
    place = content.find(length.to_bytes(4, "little"))
    while content[int.from_bytes(content[place + 4 : place + 12], "little") :][:4] != b"GCOL":
        place = content.find(length.to_bytes(4, "little"), place + 1)
    return place


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("x / 127.5 - 1", lambda x: x / 127.5 - 1),
        ("-x ** 2 + 3 * x", lambda x: -(x**2) + 3 * x),
        ("max(min(x, 6), 0) * sigmoid(x)", lambda x: np.clip(x, 0, 6) / (1 + np.exp(-x))),
        ("sqrt(abs(x)) + exp(-square(x)) + log(2 * 3)", lambda x: np.sqrt(abs(x)) + np.exp(-(x**2)) + np.log(6)),
        ("relu(tanh(x)) - [0.1, 0.2, -0.3]", lambda x: np.maximum(np.tanh(x), 0) - [0.1, 0.2, -0.3]),
    ],
)
def test_an_expression_stands_for_the_code_of_a_lambda_layer(
    expression: str, expected: Callable[[Any], Any], tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    x = np.random.default_rng(0).normal(size=(2, 3))
    graph = read(lambda_bytecode(tmp_path, trace), lambdas={"evil": expression})
    got = evaluate(graph, {"x": x})["evil"]
    np.testing.assert_allclose(got, expected(x), rtol=1e-6, atol=1e-7)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("__import__('os').system('true')", "Attribute"),
        ("open('x')", "the name 'open'"),
        ("x.real", "Attribute"),
        ("x[0]", "Subscript"),
        ("lambda: x", "Lambda"),
        ("[x for x in x]", "ListComp"),
        ("x if x else x", "IfExp"),
        ("x // 2", "the operator FloorDiv"),
        ("'a' * x", "Constant"),
        ("min(x)", "min of 1"),
        ("relu(x, y=x)", "Call"),
        ("y + 1", "the name 'y'"),
        ("x +", "no expression"),
        ("(" * 500 + "x" + ")" * 500, "no expression"),
        ("1e999", "too large"),
        ("9" * 3000, "longer than"),
    ],
)
def test_what_the_language_of_expressions_lacks_is_refused(expression: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=reason):
        read(lambda_bytecode(tmp_path, tmp_path / "trace"), lambdas={"evil": expression})


def test_an_expression_without_the_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="doesn't depend on its input"):
        read(lambda_bytecode(tmp_path, tmp_path / "trace"), lambdas={"evil": "1 + 2"})


def test_a_plugin_gives_an_authors_class_a_meaning(tmp_path: Path) -> None:
    plugin = tmp_path / "swirl.py"
    plugin.write_text(
        "from demitasse.readers.keras import LayerBuilder, reads\n\n\n"
        '@reads("Swirl")\ndef swirl(layer: LayerBuilder) -> str:\n    return layer.mul(layer.x, 2.0)\n'
    )
    graph = read(registered_class(tmp_path, tmp_path / "trace"), plugins=[plugin])
    np.testing.assert_array_equal(evaluate(graph, {"x": np.ones((1, 3))})["evil"], [[2, 2, 2]])
