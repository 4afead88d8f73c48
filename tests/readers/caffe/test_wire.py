"""The wire decoder: equal to protobuf's library on real files, without copies, and unmoved by hostile ones."""

from __future__ import annotations

import os
import random
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from caffe_encoder import blob, field, fixed32, layer, net, packed, tag, unpacked, varint
from caffe_protobuf import assert_same, net_parameter
from demitasse.errors import MalformedModel
from demitasse.readers.caffe import weights, wire
from demitasse.readers.caffe.message import Message, Source, Unknown
from demitasse.readers.caffe.net import read_net
from demitasse.readers.caffe.schema import message_spec
from demitasse.readers.caffe.weights import read_weights
from demitasse.readers.caffe.wire import decode

SOURCE = Source("net.caffemodel", "byte")
NUMBERS = np.linspace(-1, 1, 12, dtype=np.float32)


def decoded(data: bytes, message: str = "NetParameter") -> Message:
    return decode(memoryview(data), message, SOURCE)


def caffemodels(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.caffemodel"))


def test_golden_files_hold_what_protobuf_finds(golden: Path) -> None:
    files = caffemodels(golden)
    assert len(files) > 50
    for path in files:
        theirs = net_parameter().FromString(path.read_bytes())
        assert_same(theirs, decoded(path.read_bytes()), message_spec("NetParameter"))


@pytest.mark.slow
def test_real_files_hold_what_protobuf_finds(zoo: Path) -> None:
    for path in caffemodels(zoo):
        theirs = net_parameter().FromString(path.read_bytes())
        assert_same(theirs, decoded(path.read_bytes()), message_spec("NetParameter"))


def one_blob(data: bytes, tmp_path: Path) -> NDArray[Any]:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(net(layer("fc", "InnerProduct", data)))
    return read_weights(path).layers[0].blobs[0].array


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (packed(NUMBERS), "<f4"),
        (unpacked(NUMBERS), "<f4"),
        (unpacked(NUMBERS[:5]) + packed(NUMBERS[5:9]) + unpacked(NUMBERS[9:]), "<f4"),
        (field(8, NUMBERS.astype("<f8").tobytes()), "<f8"),
        (field(10, 2) + field(12, NUMBERS.astype("<f2").tobytes()), "<f2"),
        (field(10, 1) + field(12, NUMBERS.tobytes()), "<f4"),
        (field(6, NUMBERS[::-1].tobytes()) + packed(NUMBERS), "<f4"),
        (unpacked(NUMBERS).replace(tag(5, 5), tag(6, 5)) + packed(NUMBERS), "<f4"),
    ],
    ids=["packed", "unpacked", "mixed", "double_data", "raw_half", "raw_single", "diff", "unpacked_diff"],
)
def test_numbers_in_all_their_containers(data: bytes, dtype: str, tmp_path: Path) -> None:
    array = one_blob(blob((3, 4), data), tmp_path)
    assert array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(array, NUMBERS.astype(dtype).reshape(3, 4))


@pytest.mark.parametrize("encode", [packed, unpacked])
@pytest.mark.parametrize("shift", range(4))
def test_numbers_are_views_of_the_file_at_any_alignment(encode: Any, shift: int) -> None:
    data = field(1, "n" * shift) + layer("fc", "InnerProduct", blob((12,), encode(NUMBERS)))
    message = decoded(data)
    (part,) = message.messages("layer")[0].messages("blobs")[0].all("data")
    assert isinstance(part.value, np.ndarray)
    assert np.shares_memory(part.value, np.frombuffer(data, np.uint8))
    np.testing.assert_array_equal(part.value, NUMBERS)


def test_a_layer_beyond_two_gibibytes_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.caffemodel"
    count = 2**29 + 2**20
    numbers = tag(5, 2) + varint(4 * count)
    around = blob((count,), numbers)
    first = tag(7, 2) + varint(len(around) + 4 * count) + around
    head = field(1, "first") + field(2, "InnerProduct") + first
    start = tag(100, 2) + varint(len(head) + 4 * count) + head
    with path.open("wb") as file:
        file.write(start)
        file.seek(4 * count, os.SEEK_CUR)
        file.write(layer("last", "InnerProduct", blob((12,), packed(NUMBERS))))
    if path.stat().st_blocks * 512 > 2**20:
        pytest.skip("the file system has no sparse files")
    tracemalloc.start()
    huge, last = read_weights(path).layers
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    assert huge.blobs[0].shape == (count,)
    assert huge.blobs[0].array[-1] == 0
    np.testing.assert_array_equal(last.blobs[0].array, NUMBERS)


def test_unknown_fields_are_kept_and_shown() -> None:
    found = decoded(field(1, "n") + field(150, b"\x1d\x00") + field(151, 7) + tag(152, 3) + tag(152, 4))
    unknown = [entry.value for entry in found if isinstance(entry.value, Unknown)]
    assert [(entry.number, entry.wire_type) for entry in unknown] == [(150, 2), (151, 0), (152, 3)]
    assert str(unknown[0]) == "field 150, wire type 2: 1d 00"


def test_a_forks_block_is_known_by_its_layers_type() -> None:
    """Number 147 is swish_param in BVLC Caffe, and something else in each fork."""
    interp = decoded(layer("up", "Interp", extra=field(147, field(1, 33)))).messages("layer")[0]
    assert interp.messages("interp_param")[0].all("height")[0].value == 33
    swish = decoded(layer("act", "Swish", extra=field(147, fixed32(1, 0.5)))).messages("layer")[0]
    assert swish.messages("swish_param")[0].all("beta")[0].value == 0.5
    stranger = decoded(layer("x", "Mystery", extra=field(121, b"\xff\xff"))).messages("layer")[0]
    assert isinstance(stranger.all("#121")[0].value, Unknown)


@pytest.mark.parametrize(
    ("data", "place", "what"),
    [
        (tag(1, 2) + varint(2**63) + b"x", 0, "field 1 claims 9223372036854775808 bytes, but 1 are left"),
        (b"\xff" * 11, 0, "a number of more than 10 bytes"),
        (field(1, "net") + b"\xa2", 5, "the data ends within a number"),
        (tag(0, 0) + b"\x01", 0, "0 is no field number"),
        (tag(1, 7), 1, "7 is no wire type"),
        (tag(1, 4), 1, "a group ends that never began"),
        (tag(9, 3) * 200, 100, "groups aren't nested properly"),
        (tag(9, 3) + field(1, 1) + tag(8, 4), 3, "groups aren't nested properly"),
        (layer("fc", "InnerProduct", blob((1,), tag(5, 5) + b"abc")), 28, "field 5 claims 4 bytes, but 3 are left"),
        (layer("fc", "InnerProduct", blob((1,), field(5, b"abc"))), 30, "3 bytes aren't a whole number of float32"),
    ],
)
def test_damage_is_reported_with_its_place(data: bytes, place: int, what: str) -> None:
    with pytest.raises(MalformedModel, match=re.escape(what)) as caught:
        decoded(data)
    assert caught.value.where == f"net.caffemodel, byte {place}"


def test_more_fields_than_any_net_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_MAX_FIELDS", 100)
    decoded(field(4, 1) * 100)
    with pytest.raises(MalformedModel, match="more than 100 fields"):
        decoded(field(4, 1) * 101)
    with pytest.raises(MalformedModel, match="more than 100 fields"):
        decoded(field(8, field(1, b"\x01" * 100)))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (blob((3, 5), packed(NUMBERS)), "the shape 3x5 is of 15 numbers, but 12 are there"),
        (blob((2**31 - 1,) * 9, packed(NUMBERS)), "numbers, but 12 are there"),
        (blob((-3, -4), packed(NUMBERS)), "[-3, -4] is no shape of a blob"),
        (blob((1,) * 33, packed(NUMBERS)), "is no shape of a blob"),
        (packed(NUMBERS), "the shape () is of 1 numbers, but 12 are there"),
        (field(10, 3) + field(12, NUMBERS.tobytes()), "raw_data of type INT"),
        (field(10, 2) + field(12, b"odd"), "3 bytes of raw_data aren't a whole number of FLOAT16"),
    ],
)
def test_a_blob_whose_parts_disagree_is_refused_by_name(data: bytes, what: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedModel, match=re.escape(what)) as caught:
        one_blob(data, tmp_path)
    assert "layer 'fc', blob 0" in str(caught.value.where)


def mutated(data: bytes, random_: random.Random) -> bytes:
    """Damages a file at one or a few places: bytes changed, cut, repeated, put in, or the rest cut off."""
    hostile = (b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x0f", b"{", b"}", b"<", b"[", b'"', b"'", b"\\", b"#", b"-")
    result = bytearray(data)
    for _ in range(random_.choice((1, 1, 1, 2, 4))):
        at, length = random_.randrange(len(result) + 1), random_.choice((1, 2, 8, 64))
        match random_.randrange(6):
            case 0:
                result[at : at + 1] = random_.randbytes(1)
            case 1:
                del result[at : at + length]
            case 2:
                result[at:at] = random_.randbytes(length)
            case 3:
                other = random_.randrange(len(result) + 1)
                result[at:at] = result[other : other + 4 * length]
            case 4:
                result[at:at] = random_.choice(hostile)
            case _:
                del result[at:]
    return bytes(result)


@pytest.mark.parametrize("suffix", [".prototxt", ".caffemodel"])
def test_damaged_files_are_read_or_refused_and_nothing_else(
    suffix: str, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMITASSE_FUZZ_ROUNDS sets how many damaged files of each kind are tried."""
    rounds = int(os.environ.get("DEMITASSE_FUZZ_ROUNDS", "2000"))
    originals = [path.read_bytes() for path in sorted(golden.rglob(f"*{suffix}")) if path.stat().st_size < 20_000]
    random_ = random.Random(rounds)
    damaged = memoryview(b"")
    monkeypatch.setattr(weights, "map_file", lambda path: damaged)
    path = Path(f"damaged{suffix}")
    read = 0
    refused: list[MalformedModel] = []
    for _ in range(rounds):
        damaged = memoryview(mutated(random_.choice(originals), random_))
        try:
            found = read_net(path, None) if suffix == ".prototxt" else read_net(None, path)
            for one in found.layers:
                one.unread()
                for name in one.message.fields:
                    one.params.all(name)
            read += 1
        except MalformedModel as error:
            refused.append(error)
    assert read > rounds / 50
    assert all(error.where is not None or "\n" in str(error) for error in refused)
