"""Read HDF5 files that strangers made: groups, attributes and arrays, and nothing that lies or points outside of them.

`H5File` looks at every object of a file before anything is read from it, and lists what isn't safe (`findings`). Only
hard links are ever followed. Arrays that lie in the file in one piece are views into the mapped file; the others are
read when they are asked for. Every size that the file states is bounded before memory is taken for it.
"""

from __future__ import annotations

import io
import math
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from demitasse.errors import MalformedModel
from demitasse.ir.ops import Shape
from demitasse.ir.weights import Array
from demitasse.readers.keras.dangers import Danger, Finding, is_pickle
from demitasse.readers.keras.heap_strings import HeapStrings, check_group

if TYPE_CHECKING:
    import h5py

__all__ = ["BytesFile", "Extent", "H5File", "H5Group", "StoredArray", "is_hdf5", "map_file"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"  # HDF5 File Format Specification 3.0, II.A
_EXPANSION = 100
"""The most bytes that packed arrays may unpack to for each byte of the file: weights pack at 10 to 1 when nine in ten
are zero, while gzip gives 1000 to 1 for nothing but zeros (https://zlib.net/zlib_tech.html)."""
_ALWAYS_ALLOWED = 64 << 20
"""What is stored packed may unpack to this many bytes whatever the file's size."""
_BUILT_IN_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}

Buffer: TypeAlias = mmap.mmap | bytes


@dataclass(frozen=True)
class Extent:
    """A stretch of a mapped file, or of bytes in memory, which holds a whole HDF5 file."""

    data: Buffer
    start: int
    size: int

    def bytes_at(self, offset: int, count: int) -> bytes:
        """Copy some bytes; fewer where the stretch ends before."""
        count = max(0, min(count, self.size - offset))
        return self.data[self.start + offset : self.start + offset + count]


def map_file(path: Path) -> Extent:
    """Map a file into memory, read-only.

    Raises:
        MalformedModel: it is empty, a folder, or can't be opened.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise MalformedModel("the file is empty", where=str(path)) from error
    except OSError as error:
        raise MalformedModel(f"the file can't be opened: {error.strerror}", where=str(path)) from error
    return Extent(data, 0, len(data))


def _root_address(extent: Extent) -> int:
    """Return where the header of the root group begins, as the superblock says (II.A to II.D)."""
    version = extent.bytes_at(8, 1)
    place = {b"\x00": 64, b"\x01": 68}.get(version, 36)
    return int.from_bytes(extent.bytes_at(place, 8), "little")


def is_hdf5(extent: Extent) -> bool:
    """Tell whether a file starts as an HDF5 file does."""
    return extent.bytes_at(0, len(_SIGNATURE)) == _SIGNATURE


@dataclass(frozen=True, eq=False)
class StoredArray:
    """An array of a file: its name, shape and element type, and `read`, which gives a view or reads a copy."""

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    read: Callable[[], Array]


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn what h5py raises for damaged files into MalformedModel."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        reason = str(error.args[0] if error.args else error)
        raise MalformedModel(f"damaged or truncated HDF5 file ({reason})", where=where) from error


class H5File:
    """An HDF5 file that is looked through before anything is read from it.

    Attributes:
        where: the file's name for messages.
        extent: its bytes.
        heap: the strings in it.
        findings: everything in it that isn't safe.
    """

    def __init__(self, extent: Extent, where: str, path: Path | None = None) -> None:
        """Open a file, and look at all of its objects.

        Args:
            extent: the file's bytes.
            where: the file's name for messages.
            path: the file, where `extent` is the whole of it.

        Raises:
            MalformedModel: it is damaged.
        """
        self.where = where
        self.extent = extent
        self.heap = HeapStrings(extent.bytes_at)
        self._path = path
        with _reading(where):
            check_group(extent.bytes_at, _root_address(extent))
            self._file = self._open()
            inspection = _Inspection(self._file, extent, where)
            self.findings: tuple[Finding, ...] = tuple(inspection.findings())
            self._objects = inspection.objects

    def _open(self) -> h5py.File:
        import h5py

        if self._path is not None:
            # Who has the same file open with other flags, in this process, keeps HDF5 from opening it by its path.
            with suppress(OSError):
                return h5py.File(self._path, "r", locking=False)
        return h5py.File(BytesFile(self.extent), "r")

    def close(self) -> None:
        """Let go of the file; arrays can be read all the same."""
        self._objects.clear()
        self._file.close()

    def reread(self, path: str) -> Array:
        """Read the array at a path from the root; the file need not be open."""
        with _reading(f"{self.where}, {path}"), self._open() as file:
            return np.asarray(file[path][()])

    @property
    def root(self) -> H5Group:
        """The group that all others hang on."""
        return H5Group(self, self._file, "")

    def find(self, path: str) -> h5py.Group | h5py.Dataset | None:
        """Return the group or dataset at a path from the root that consists of hard links; None where there is none."""
        import h5py

        found = self._objects.get(path)
        if isinstance(found, h5py.h5g.GroupID):
            return h5py.Group(found)
        return h5py.Dataset(found) if isinstance(found, h5py.h5d.DatasetID) else None  # a type may have a name too

    def view(self, offset: int, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """View an array that lies in the file in one piece; `offset` counts from the file's start."""
        flat: Array = np.frombuffer(self.extent.data, dtype, math.prod(shape), self.extent.start + offset)
        return flat.reshape(shape)


class H5Group:
    """A group of an HDF5 file, of which only what hangs on hard links can be reached."""

    def __init__(self, file: H5File, group: h5py.Group, path: str) -> None:
        self._file = file
        self._group = group
        self._path = path

    @property
    def where(self) -> str:
        """The group's place for messages."""
        return f"{self._file.where}, {self._path or '/'}"

    @property
    def names(self) -> list[str]:
        """The names of the groups and arrays in the group."""
        with _reading(self.where):
            return list(self._group)

    def find_group(self, path: str) -> H5Group | None:
        """Return the group at a path below this one, `a/b`; None where there is none."""
        import h5py

        whole = self._below(path)
        found = self._file.find(whole)
        return H5Group(self._file, found, whole) if isinstance(found, h5py.Group) else None

    def group(self, path: str) -> H5Group:
        """Return the group at a path below this one.

        Raises:
            MalformedModel: there is none.
        """
        found = self.find_group(path)
        if found is None:
            raise MalformedModel(f"there is no group {path[:100]!r} in it", where=self.where)
        return found

    def array(self, path: str) -> StoredArray:
        """Return the array at a path below this group.

        Raises:
            MalformedModel: there is none, or it holds no numbers.
        """
        import h5py

        whole = self._below(path)
        found = self._file.find(whole)
        where = f"{self._file.where}, {whole}"
        if not isinstance(found, h5py.Dataset) or found.shape is None:
            raise MalformedModel("there is no array of that name", where=where)
        with _reading(where):
            dtype, shape = found.dtype, tuple(map(int, found.shape))
            if _may_be_bfloat16(found) and H5Group(self._file, found, whole).text("dtype") == "bfloat16":
                return StoredArray(path, shape, np.dtype(np.float32), lambda: _widened(self._file.reread(whole)))
            if dtype.kind not in "fiub":
                raise MalformedModel(f"it holds elements of the type {dtype}, and not numbers", where=where)
            offset = found.id.get_offset() if dtype.kind != "b" else None
        if offset is not None and 0 not in shape:
            return StoredArray(path, shape, dtype, lambda: self._file.view(offset, shape, dtype))
        return StoredArray(path, shape, dtype, lambda: self._file.reread(whole))

    def _below(self, path: str) -> str:
        return f"{self._path}/{'/'.join(filter(None, path.split('/')))}"

    # --- attributes -----------------------------------------------------------------------------------------------

    def text(self, name: str) -> str | None:
        """Return an attribute that is one string; None where there is none.

        Raises:
            MalformedModel: it is something else, or no UTF-8.
        """
        values = self._strings(name)
        if values is None:
            return None
        if len(values) != 1:
            raise MalformedModel(f"the attribute {name!r} is not one string", where=self.where)
        return values[0]

    def texts(self, name: str) -> list[str] | None:
        """Return an attribute that is a list of strings; None where there is none.

        A list too long for one attribute is stored as `name0`, `name1`, ...: HDF5 limits attributes to 64 KiB.
        """
        whole = self._strings(name)
        if whole is not None:
            return whole
        parts: list[str] = []
        count = 0
        while (part := self._strings(f"{name}{count}")) is not None:
            parts += part
            count += 1
        return parts if count else None

    def _strings(self, name: str) -> list[str] | None:
        where = f"{self.where}, attribute {name!r}"
        with _reading(where):
            if name not in self._group.attrs:
                return None
            values = self._heap_strings(name, where)
            if values is None:
                value = self._group.attrs[name]
                values = [value] if isinstance(value, str | bytes) else np.ravel(value).tolist()
        return [_decoded(entry, where) for entry in values]

    def _heap_strings(self, name: str, where: str) -> list[Any] | None:
        """Return an attribute's strings of varying length; None where they are of fixed length.

        Raises:
            MalformedModel: it would take more memory than a file of this size can ask for, holds no text, or can't be
                read without the library, which crashes on damaged heaps.
        """
        import h5py

        attribute = h5py.h5a.open(self._group.id, name.encode())
        count = attribute.get_space().get_simple_extent_npoints()
        kind = attribute.get_type()
        extent = self._file.extent
        most = max(extent.size, _ALWAYS_ALLOWED)
        size = count * kind.get_size()
        if size <= extent.size:
            if count == 0:  # an empty list has whatever type
                return []
            if kind.get_class() not in (h5py.h5t.STRING, h5py.h5t.OPAQUE):
                raise MalformedModel("it holds something else than text", where=where)
            if kind.get_class() == h5py.h5t.OPAQUE or not kind.is_variable_str():
                return None
            address = h5py.h5o.get_info(self._group.id).addr
            try:
                found = self._file.heap.strings(address, name.encode(), count, most)
            except OverflowError as error:
                size = int(error.args[0])
            else:
                if found is None:  # the library would read them, and crashes where a reference to a heap is damaged
                    raise MalformedModel("its text is stored as no Keras stores it, or damaged", where=where)
                return found
        raise MalformedModel(
            f"{Danger.COMPRESSION_BOMB.value}: its {count} entries would come to {size} bytes, and the file has "
            f"{extent.size}",
            where=where,
        )


def _decoded(entry: object, where: str) -> str:
    if isinstance(entry, bytes):
        try:
            return entry.decode()
        except UnicodeDecodeError as error:
            what = "a pickle, which is never read" if is_pickle(entry) else "no UTF-8 text"
            raise MalformedModel(f"it is {what}", where=where) from error
    if not isinstance(entry, str):
        raise MalformedModel("it holds something else than text", where=where)
    return entry


def _may_be_bfloat16(dataset: h5py.Dataset) -> bool:
    """Tell whether an array is of what Keras 3 stores for bfloat16, with a remark: two opaque bytes an element."""
    return dataset.dtype.itemsize == 2 and dataset.dtype.kind in "Vu"


def _widened(halves: Array) -> Array:
    """Read bfloat16, which is the upper half of a float32."""
    return (halves.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


@dataclass
class _Inspection:
    """Looks at every object of an open file once, without reading any array, and notes them by path in `objects`."""

    file: h5py.File
    extent: Extent
    where: str
    objects: dict[str, Any] = field(default_factory=dict)
    _unpacked: int = 0
    _seen: set[int] = field(default_factory=set)

    def findings(self) -> Iterator[Finding]:
        import h5py

        groups: list[tuple[Any, str]] = [(self.file.id, "")]
        while groups:
            group, path = groups.pop()
            yield from self._attributes(group, path or "/")
            for name in list(group):
                inner = f"{path}/{name.decode(errors='replace')}"
                finding = self._link(group, name, inner)
                if finding is not None:
                    yield finding
                    continue
                address = group.links.get_info(name).u
                check_group(self.extent.bytes_at, address)
                child = h5py.h5o.open(group, name)
                if address in self._seen:  # a second name of the same object, or a circle
                    continue
                self._seen.add(address)
                self.objects[inner] = child
                if isinstance(child, h5py.h5g.GroupID):
                    groups.append((child, inner))
                elif isinstance(child, h5py.h5d.DatasetID):
                    yield from self._dataset(child, inner)

    def _found(self, danger: Danger, path: str, detail: str) -> Finding:
        return Finding(danger, f"{self.where}, {path}", detail)

    def _link(self, group: Any, name: bytes, path: str) -> Finding | None:
        import h5py

        kind = group.links.get_info(name).type
        if kind == h5py.h5l.TYPE_HARD:
            return None
        if kind == h5py.h5l.TYPE_SOFT:
            target = group.links.get_val(name).decode(errors="replace")
            return self._found(Danger.SOFT_LINK, path, f"it points to {target!r}; Keras writes none")
        if kind == h5py.h5l.TYPE_EXTERNAL:
            file, target = (part.decode(errors="replace") for part in group.links.get_val(name))
            return self._found(Danger.EXTERNAL_LINK, path, f"it would read {target!r} of the file {file!r}")
        return self._found(Danger.EXTERNAL_LINK, path, f"a link of the unknown kind {kind}")

    def _attributes(self, group: Any, path: str) -> Iterator[Finding]:
        """Look for pickles in attributes of raw bytes."""
        import h5py

        for index in range(h5py.h5a.get_num_attrs(group)):
            attribute = h5py.h5a.open(group, index=index)
            if attribute.get_type().get_class() == h5py.h5t.OPAQUE and attribute.get_storage_size() <= self.extent.size:
                content = np.empty(attribute.shape, attribute.dtype)
                attribute.read(content)
                if is_pickle(content.tobytes()[:16]):
                    name = attribute.name.decode(errors="replace")
                    yield self._found(Danger.PICKLE, path, f"the attribute {name!r} would run code when unpickled")

    def _dataset(self, dataset: Any, path: str) -> Iterator[Finding]:
        import h5py

        plist = dataset.get_create_plist()
        layout = plist.get_layout()
        if layout == h5py.h5d.VIRTUAL:
            files = {plist.get_virtual_filename(index) for index in range(plist.get_virtual_count())}
            yield self._found(Danger.VIRTUAL_DATASET, path, f"its elements come from {', '.join(sorted(files))}")
            return
        if plist.get_external_count():
            file = plist.get_external(0)[0].decode(errors="replace")
            yield self._found(Danger.EXTERNAL_STORAGE, path, f"its elements would be read from the file {file!r}")
            return
        filters = [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]
        foreign = [str(number) for number in filters if number not in _BUILT_IN_FILTERS]
        if foreign:
            detail = f"HDF5 would load a library for filter {', '.join(foreign)}"
            yield self._found(Danger.FILTER_PLUGIN, path, detail)
        yield from self._size(dataset, layout, path)
        yield from self._pickle(dataset, path)

    def _size(self, dataset: Any, layout: int, path: str) -> Iterator[Finding]:
        import h5py

        logical = math.prod(dataset.shape) * dataset.get_type().get_size()
        if logical == 0:
            return
        if layout == h5py.h5d.CONTIGUOUS:
            offset = dataset.get_offset()
            if offset is None or offset + logical > self.extent.size:
                detail = f"its shape {dataset.shape} needs {logical} bytes, which the file of {self.extent.size} lacks"
                yield self._found(Danger.OVERSIZED, path, detail)
            return
        self._unpacked += logical
        most = max(_ALWAYS_ALLOWED, _EXPANSION * self.extent.size)
        if self._unpacked > most:
            self._unpacked = 0
            detail = f"its shape {dataset.shape} unpacks {dataset.get_storage_size()} bytes to {logical}; a file of "
            detail += f"{self.extent.size} bytes may unpack to {most} in all"
            yield self._found(Danger.COMPRESSION_BOMB, path, detail)

    def _pickle(self, dataset: Any, path: str) -> Iterator[Finding]:
        """Look at the first bytes of an array that holds no numbers, or bytes."""
        import h5py

        kind = dataset.get_type()
        raw = kind.get_class() in (h5py.h5t.OPAQUE, h5py.h5t.STRING) or kind.get_size() == 1
        offset = dataset.get_offset() if raw else None
        if offset is not None and is_pickle(self.extent.bytes_at(offset, 16)):
            yield self._found(Danger.PICKLE, path, "it would run code when unpickled")


class BytesFile(io.RawIOBase):
    """Gives h5py a stretch of a mapped file as a file of its own."""

    def __init__(self, extent: Extent) -> None:
        super().__init__()
        self._view = memoryview(extent.data)[extent.start : extent.start + extent.size]
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._view[self._place : self._place + len(buffer)]
        memoryview(buffer).cast("B")[: len(part)] = part
        self._place += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: len(self._view)}[whence]
        self._place = max(0, origin + offset)
        return self._place

    def tell(self) -> int:
        return self._place
