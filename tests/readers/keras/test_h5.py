from __future__ import annotations

import mmap
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from conftest import GOLDEN
from demitasse.errors import MalformedModel, Unsupported, UsageError
from demitasse.readers.keras import read
from demitasse.readers.keras.h5 import H5File, map_file
from keras_files import dense_net, dense_weights, write_archive, write_h5

X = np.ones((1, 3), np.float32)


def _open(path: Path) -> H5File:
    return H5File(map_file(path), path.name, path)


def _kernel(path: Path) -> np.ndarray[Any, Any]:
    """Reads the net of one Dense layer, and returns its kernel as Keras has it."""
    return read(path).weights["dense/kernel"].T


def test_a_kernel_that_lies_in_one_piece_is_a_view_of_the_mapped_file(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "net.h5", dense_net(), dense_weights())
    owner: Any = read(path).weights["dense/kernel"]
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert isinstance(owner.obj, mmap.mmap)


@pytest.mark.parametrize(
    "storage",
    [
        {"chunks": (2, 2), "compression": "gzip"},
        {"chunks": (3, 1), "compression": "lzf", "shuffle": True, "fletcher32": True},
        {"dtype": "f2"},
        {"dtype": ">f4"},
        {"dtype": "f8"},
    ],
    ids=str,
)
def test_a_kernel_is_read_however_it_is_stored(storage: dict[str, Any], tmp_path: Path) -> None:
    path = write_h5(tmp_path / "net.h5", dense_net(), dense_weights())
    expected = dense_weights()["dense"][0][1]
    with h5py.File(path, "a") as file:
        group = file["model_weights/dense/dense"]
        del group["kernel:0"]
        group.create_dataset("kernel:0", data=expected, **storage)
    kernel = _kernel(path)
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, expected)


def test_bfloat16_of_an_archive_is_widened(tmp_path: Path) -> None:
    halves = np.array([[1.0, -2.5], [0.375, 3e4], [0, 1e-3]], np.float32).view(np.uint32) >> 16
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        for index, array in enumerate([halves.astype(np.uint16), np.zeros(2, np.uint16)]):
            stored = file.create_dataset(f"layers/dense/vars/{index}", data=array.view("V2"))
            stored.attrs["dtype"] = "bfloat16"
    path = write_archive(tmp_path / "net.keras", dense_net(), weights=(tmp_path / "weights.h5").read_bytes())
    np.testing.assert_array_equal(_kernel(path), (halves << 16).astype(np.uint32).view(np.float32))


def test_a_file_that_is_open_elsewhere_is_read(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "net.h5", dense_net(), dense_weights())
    with h5py.File(path, "r", locking=True):
        assert read(path).weights["dense/kernel"].shape == (2, 3)


def test_names_too_long_for_one_attribute_come_in_parts(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "net.h5", dense_net(), dense_weights())
    with h5py.File(path, "a") as file:
        attributes = file["model_weights"].attrs
        del attributes["layer_names"]
        attributes["layer_names0"] = np.array([b"x"])
        attributes["layer_names1"] = np.array([b"dense"])
        file["model_weights"].create_group("x").attrs["weight_names"] = np.array([], "S1")
    assert read(path).weights["dense/kernel"].shape == (2, 3)


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_strings_are_found_in_all_of_hdf5s_layouts(version: str, tmp_path: Path) -> None:
    path = tmp_path / "strings.h5"
    names = ["a", "bb" * 3000, "", "ü"]
    with h5py.File(path, "w", libver=version) as file:
        file.create_group("group").attrs["names"] = names
        file["group"].attrs["one"] = "alone"
        file["group"].attrs["fixed"] = np.array([b"c", b"dd"])
        file["group"].attrs["more"] = names * 50
    group = _open(path).root.group("group")
    assert group.texts("names") == names
    assert group.texts("more") == names * 50
    assert group.texts("fixed") == ["c", "dd"]
    assert group.text("one") == "alone"
    assert group.texts("none") is None


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"{", b"[1]", b"hello", b"\x00" * 5000])
def test_what_is_no_keras_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    path.write_bytes(content)
    with pytest.raises(MalformedModel):
        read(path)


@pytest.mark.parametrize("name", ["tf_keras_nested.h5", "tf_keras_attention.keras"])
def test_a_damaged_file_is_refused_or_read_but_never_crashes(name: str, tmp_path: Path) -> None:
    content = (GOLDEN / "keras" / name).read_bytes()
    path = tmp_path / name
    for seed in range(40):
        chance = random.Random(seed)
        damaged = bytearray(content)
        if seed % 4 == 0:
            del damaged[chance.randrange(len(damaged)) :]
        for _ in range(chance.choice([1, 5, 50])):
            damaged[chance.randrange(min(len(damaged), 4000))] = chance.randrange(256)
        path.write_bytes(damaged)
        with suppress(MalformedModel, Unsupported, UsageError):
            assert read(path).nodes
