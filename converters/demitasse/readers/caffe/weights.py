"""Read parameter blobs from whatever file holds them: binary or text caffemodel, or HDF5 snapshot.

The kind of a file is told by its content. What isn't a weight file at all is refused with what it is instead,
and what would help. Numbers stay in the mapped file wherever they lie there in one piece.
"""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from demitasse.errors import MalformedModel
from demitasse.readers.caffe import prototxt, wire
from demitasse.readers.caffe.message import Array, Message, Source, Word
from demitasse.readers.caffe.upgrade import upgraded_layers

__all__ = ["Blob", "LayerWeights", "WeightFile", "blob_of", "map_file", "read_structure", "read_weights"]

_MAX_AXES = 32  # kMaxBlobAxes in include/caffe/blob.hpp
_DEFLATE_RATIO = 1032
"""The most that deflate, the densest of HDF5's own filters, can pack: https://zlib.net/zlib_tech.html."""
_NUMBER_FIELDS: dict[str, np.dtype[Any]] = {"data": np.dtype("<f4"), "double_data": np.dtype("<f8")}
_RAW_TYPES: dict[str, np.dtype[Any]] = {
    "FLOAT16": np.dtype("<f2"),
    "FLOAT": np.dtype("<f4"),
    "DOUBLE": np.dtype("<f8"),
}
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True, eq=False)
class Blob:
    """One parameter blob of a layer.

    Attributes:
        array: the numbers in the stored shape and type (float32, float64 or float16, little endian),
        read-only. Usually a
            view into the mapped file: it may be unaligned, and strided for files of the unpacked era; cast or
            copy at the point of use.
        legacy: the file told the shape as num, channels, height, width. Such shapes are right-aligned: a bias
        is
            (1, 1, 1, N), the weights of an InnerProduct (1, 1, M, N).
        where: where the blob stands, for error messages.
        name: the name under which `param { name }` shares it; empty if it isn't shared.
    """

    array: Array
    legacy: bool
    where: str
    name: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The stored shape; 4-D for legacy blobs."""
        return self.array.shape


@dataclass(frozen=True)
class LayerWeights:
    """The blobs that a file holds for one layer, by index; a snapshot leaves out those that another layer owns."""

    name: str
    type: str
    blobs: dict[int, Blob]


@dataclass(frozen=True)
class WeightFile:
    """All layers of a weight file in its order; `structure` is the net that a caffemodel carries besides."""

    path: Path
    layers: list[LayerWeights] = field(default_factory=list)
    structure: Message | None = None


def read_weights(path: Path, *, structure: bool = False) -> WeightFile:
    """Read a weight file; with `structure`, also the net that it carries.

    Raises:
        MalformedModel: if it is missing, empty, damaged, or something else.
    """
    data = map_file(path)
    if _is_hdf5(data):
        return WeightFile(path, list(_snapshot(path, data)))
    _refuse_strangers(data, path)
    if path.suffix == ".solverstate":
        _refuse(path, "a solver state, which has no weights; the .caffemodel of the same snapshot has them")
    if _looks_like_text(data):
        net = prototxt.parse(data, str(path))
        _refuse_without_layers(net, path, "text")
        if not any("blobs" in layer for layer in upgraded_layers(net)):
            _refuse(
                path, "a net's structure (a prototxt) without weights; give the .caffemodel that was trained with it"
            )
    else:
        net = wire.decode(data, "NetParameter", Source(str(path), "byte"), blocks=structure)
        _refuse_without_layers(net, path, "binary")
    return WeightFile(path, [_layer_weights(layer) for layer in upgraded_layers(net)], net)


def read_structure(path: Path) -> Message:
    """Read a prototxt.

    Raises:
        MalformedModel: if it is missing, empty, something else, or has a syntax error.
    """
    data = map_file(path)
    if _is_hdf5(data):
        _refuse(path, "an HDF5 file where a prototxt is expected; name the prototxt first, then the weights")
    _refuse_strangers(data, path)
    if bytes(data[:2]) in (b"\xff\xfe", b"\xfe\xff"):
        _refuse(path, "UTF-16 text; save it as UTF-8")
    if not _looks_like_text(data, strict=False):
        _refuse(path, "a binary file where a prototxt is expected; name the prototxt first, then the weights")
    net = prototxt.parse(data, str(path))
    if "name" not in net:  # a name alone makes an empty net, which is valid
        _refuse_without_layers(net, path, "text")
    return net


def map_file(path: Path) -> memoryview:
    """Map a file into memory, read-only; nothing is read before it is looked at.

    Raises:
        MalformedModel: if there is no such file, it can't be opened, or it is empty.
    """
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        _refuse(path, "no such file", says_what=False)
    except IsADirectoryError:
        _refuse(path, "a folder; name a file in it")
    except ValueError:
        _refuse(path, "an empty file; its download or copy failed")
    except OSError as error:
        _refuse(path, f"can't be read ({error.strerror})", says_what=False)


def _layer_weights(layer: Message) -> LayerWeights:
    name, kind = (_text(layer, key) for key in ("name", "type"))
    blobs = enumerate(layer.messages("blobs"))
    return LayerWeights(name, kind, {index: blob_of(blob, f"layer {name!r}, blob {index}") for index, blob in blobs})


def blob_of(message: Message, owner: str) -> Blob:
    """Read one BlobProto, binary or text.

    Raises:
        MalformedModel: if its shape and its numbers don't agree.
    """
    where = f"{message.where()}, {owner}"
    shape, legacy = _shape(message, where)
    numbers = _numbers(message, where)
    if math.prod(shape) != numbers.size:
        spelled = "x".join(map(str, shape)) or "()"
        raise MalformedModel(
            f"the shape {spelled} is of {math.prod(shape)} numbers, but {numbers.size} are there", where=where
        )
    return Blob(numbers.reshape(shape), legacy, where)


def _shape(message: Message, where: str) -> tuple[tuple[int, ...], bool]:
    """Return a blob's shape, and whether it was told in the four legacy fields."""
    told = message.merged("shape")
    legacy = told is None and any(key in message for key in ("num", "channels", "height", "width"))
    if legacy:
        entries = [message.last(key) for key in ("num", "channels", "height", "width")]
        sizes = [entry.value if entry is not None else 0 for entry in entries]
    else:
        sizes = [entry.value for entry in told.all("dim")] if told is not None else []
    shape = tuple(size for size in sizes if isinstance(size, int) and 0 <= size < 2**31)
    if len(shape) < len(sizes) or len(sizes) > _MAX_AXES:
        raise MalformedModel(f"{sizes[: _MAX_AXES + 1]} is no shape of a blob", where=where)
    return shape, legacy


def _numbers(message: Message, where: str) -> Array:
    """Return a blob's numbers from whichever field holds them."""
    raw = message.last("raw_data")
    if raw is not None and isinstance(raw.value, memoryview):
        return _raw_numbers(message, raw.value, where)
    parts: list[Array] = []
    for name, dtype in _NUMBER_FIELDS.items():
        for entry in message.all(name):
            value = entry.value
            if isinstance(value, Word):
                value = _special(value, where)
            if isinstance(value, np.ndarray) and message.source.unit == "byte":
                parts.append(value)
            elif isinstance(value, np.ndarray | int | float):
                with np.errstate(over="ignore"):
                    numbers: Array = np.asarray(value, np.float64).astype(dtype)
                parts.append(numbers.reshape(-1))
            else:
                raise MalformedModel(f"{name} has something other than numbers", where=where)
        if parts:
            break
    if not parts:
        return np.zeros(0, np.float32)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _special(word: Word, where: str) -> float:
    if word.lower() in ("nan", "inf", "infinity"):
        return float(word)
    raise MalformedModel(f"{word} among a blob's numbers", where=where)


def _raw_numbers(message: Message, raw: memoryview, where: str) -> Array:
    """View the bytes of NVCaffe's blobs, which hold half, single or double precision."""
    entry = message.last("raw_data_type")
    kind = str(entry.value) if entry is not None else "DOUBLE"
    if kind not in _RAW_TYPES:
        raise MalformedModel(f"raw_data of type {kind}; FLOAT16, FLOAT and DOUBLE are read", where=where)
    if len(raw) % _RAW_TYPES[kind].itemsize:
        raise MalformedModel(f"{len(raw)} bytes of raw_data aren't a whole number of {kind}", where=where)
    return np.frombuffer(raw, _RAW_TYPES[kind])


def _snapshot(path: Path, data: memoryview) -> Iterator[LayerWeights]:
    """Read an HDF5 snapshot, `/data/LAYER/INDEX` (Net::ToHDF5 in src/caffe/net.cpp).

    Only what lies in the file itself is read: links to elsewhere, virtual datasets and shapes that the file
    can't hold are refused.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if "data" not in file or not isinstance(file.get("data", getlink=True), h5py.HardLink):
                _refuse(path, f"an HDF5 file without /data, {_other_hdf5(file)}")
            if not isinstance(file["data"], h5py.Group):
                _refuse(path, "an HDF5 file with training data, not weights")
            yield from _Snapshot(path, data).layers(file["data"], "")
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise MalformedModel(f"the HDF5 file is damaged or cut short ({error})", where=str(path)) from error


def _other_hdf5(file: Any) -> str:
    """Say what an HDF5 file without /data is."""
    if "model_weights" in file or "layer_names" in file.attrs or "model_config" in file.attrs:
        return "a Keras model"
    if "learned_net" in file:
        return "a solver state; the .caffemodel.h5 of the same snapshot has the weights"
    return "and so no Caffe snapshot"


@dataclass(frozen=True)
class _Snapshot:
    """Walks the groups below /data, each of them once."""

    path: Path
    data: memoryview
    seen: set[int] = field(default_factory=set)

    def layers(self, group: Any, name: str) -> Iterator[LayerWeights]:
        """Read the blobs of a group, a layer's, and of the groups in it, which slashes in a layer's name make."""
        import h5py

        address = h5py.h5o.get_info(group.id).addr
        if address in self.seen:
            raise MalformedModel("a group that stands in several places", where=f"{self.path}, /data/{name}")
        self.seen.add(address)
        blobs: dict[int, Blob] = {}
        for key in group:
            inner = f"{name}/{key}" if name else key
            where = f"{self.path}, /data/{inner}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise MalformedModel("a link to elsewhere; only what lies in the file itself is read", where=where)
            item = group[key]
            if isinstance(item, h5py.Group) and inner.count("/") < _MAX_AXES:
                yield from self.layers(item, inner)
            elif isinstance(item, h5py.Dataset) and re.fullmatch(r"\d{1,4}", key, re.ASCII) and name:
                blobs[int(key)] = Blob(_dataset(item, self.data, where), legacy=False, where=where)
            else:
                raise MalformedModel("no parameter blob: these are numbered", where=where)
        if blobs:
            yield LayerWeights(name, "", blobs)


def _dataset(dataset: Any, data: memoryview, where: str) -> Array:
    """View a dataset in the mapped file, or unpack it if it is stored in pieces."""
    dtype: np.dtype[Any] = dataset.dtype
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise MalformedModel(f"numbers of type {dtype}; floating point is read", where=where)
    if dataset.is_virtual or dataset.external:
        raise MalformedModel("a dataset kept in other files; only what lies in the file itself is read", where=where)
    size = math.prod(dataset.shape or ()) * dtype.itemsize
    stored = dataset.id.get_storage_size()
    offset = dataset.id.get_offset()
    if offset is not None and dataset.chunks is None:
        if size > stored or offset + size > len(data):
            raise MalformedModel(f"{size} bytes are claimed, more than the file holds", where=where)
        flat = np.frombuffer(data[offset : offset + size], dtype)
        return flat.astype(dtype.newbyteorder("<"), copy=False).reshape(dataset.shape)
    if size > stored * (_DEFLATE_RATIO if dataset.chunks else 1) or stored > len(data):
        raise MalformedModel(f"{size} bytes are claimed, but {stored} stored", where=where)
    loaded: Array = np.asarray(dataset[()], dtype.newbyteorder("<"))
    loaded.flags.writeable = False
    return loaded


def _is_hdf5(data: memoryview) -> bool:
    """Look for HDF5's signature where the format allows it: at 0, or behind a user block of 512, 1024, ... bytes."""
    offset = 0
    while offset + 8 <= len(data) and offset <= 2**20:
        if data[offset : offset + 8] == _HDF5_SIGNATURE:
            return True
        offset = offset * 2 or 512
    return False


_TEXTS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch it with: git lfs pull"),
    (b"<!doctype", "an HTML page, not a model: its download got an error or login page"),
    (b"<html", "an HTML page, not a model: its download got an error or login page"),
    (b"<?xml", "an XML file, not a Caffe file; a download may have got an error page"),
    (b"{", "a JSON file, not a Caffe file"),
)
_BINARIES = (
    (b"PK\x03\x04", "a ZIP archive (or a PyTorch or Keras file); unpack an archive first"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"\x80\x02", "a Python pickle, which is never loaded"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x89PNG", "a picture"),
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")


def _refuse_strangers(data: memoryview, path: Path) -> None:
    """Say what a file is that can't be Caffe's, by its first bytes."""
    head = bytes(data[:256])
    text = b"" if _CONTROL.search(head) else head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, what in _TEXTS:
        if text.startswith(start):
            _refuse(path, what)
    for start, what in _BINARIES:
        if head.startswith(start):
            _refuse(path, what)


_NET_START = re.compile(rb"(?:\s++|#[^\n]*+\n)*+(?:name|layers?|input\w*|state|force_backward|debug_info)\s*+[:{<]")


def _looks_like_text(data: memoryview, *, strict: bool = True) -> bool:
    """Tell text from binary: no control characters near the start, and (strictly) a field of a net to begin with."""
    head = bytes(data[:4096]).removeprefix(b"\xef\xbb\xbf")
    if len(_CONTROL.findall(head)) * 50 > len(head):  # a stray one is for the parser to report, with its place
        return False
    return not strict or _NET_START.match(head) is not None


def _refuse_without_layers(net: Message, path: Path, notation: str) -> None:
    """Say what a file is that parses, but has no layers."""
    if "layer" in net or "layers" in net:
        return
    if any(key in net for key in ("net", "train_net", "base_lr", "solver_mode")):
        _refuse(path, "a solver's settings; give the net that they name")
    if notation == "text":
        _refuse(path, "a text, but no net: it has no layers")
    _refuse(path, "no caffemodel: it has no layers (a mean file or a solver state has none either)")


def _refuse(path: Path, what: str, *, says_what: bool = True) -> NoReturn:
    raise MalformedModel(f"this is {what}" if says_what else what, where=str(path))


def _text(message: Message, name: str) -> str:
    entry = message.last(name)
    return entry.value if entry is not None and isinstance(entry.value, str) else ""
