"""Read .keras archives: a zip file with a description of the net, and its weights in HDF5.

Nothing is unpacked to disk, so no member can land outside its folder; members with such names are findings all the
same. A member that is stored as it is, as Keras does it, stays in the mapped file; a packed one is unpacked in memory
up to a limit.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath

from demitasse.errors import MalformedModel
from demitasse.readers.keras.dangers import Danger, Finding, is_pickle
from demitasse.readers.keras.h5 import BytesFile, Extent

__all__ = ["Archive", "is_zip"]

_SIGNATURE = b"PK\x03\x04"  # APPNOTE.TXT 6.3.10, 4.3.7: local file header
_EXPANSION = 100
"""The most bytes that a packed member may unpack to for each of its bytes: JSON packs at about 20 to 1."""
_ALWAYS_ALLOWED = 64 << 20
"""A packed member may unpack to this many bytes whatever its size."""
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)
"""What the zipfile module raises for damaged members, and for ways of packing or locking that it doesn't know."""
_READ = ("config.json", "metadata.json", "model.weights.h5")
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".dill")


def is_zip(extent: Extent) -> bool:
    """Tell whether a file starts as a zip file does."""
    return extent.bytes_at(0, len(_SIGNATURE)) == _SIGNATURE


class Archive:
    """The members of a .keras archive.

    Attributes:
        where: the file's name for messages.
        findings: what isn't safe in the archive itself; its members are looked at by whoever reads them.
    """

    def __init__(self, extent: Extent, where: str) -> None:
        """Read the list of members.

        Raises:
            MalformedModel: it is damaged, or a member is there twice, so that readers may differ on which counts.
        """
        self.where = where
        self._extent = extent
        try:
            self._zip = zipfile.ZipFile(BytesFile(extent))
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
            raise MalformedModel(f"damaged or truncated archive ({error})", where=where) from error
        self._members = {entry.filename: entry for entry in self._zip.infolist()}
        if len(self._members) != len(self._zip.infolist()):
            raise MalformedModel("the archive has two members of the same name", where=where)
        self.findings: tuple[Finding, ...] = tuple(self._inspect())

    def __contains__(self, name: str) -> bool:
        return name in self._members

    @property
    def names(self) -> list[str]:
        """The names of all members."""
        return list(self._members)

    def place(self, name: str) -> str:
        """Spell a member's place for messages."""
        return f"{self.where}, {name}"

    def member(self, name: str) -> Extent:
        """Return a member's content: a stretch of the mapped file where it is stored as it is.

        Raises:
            MalformedModel: there is no such member, or it is damaged, or unpacks to more than it may.
        """
        entry = self._members.get(name)
        if entry is None:
            raise MalformedModel(f"the archive has no member {name!r}", where=self.where)
        if entry.compress_type == zipfile.ZIP_STORED:
            return self._stored(entry)
        if entry.compress_type != zipfile.ZIP_DEFLATED:
            raise MalformedModel("packed in a way that Keras doesn't write", where=self.place(name))
        most = _most(entry)
        try:
            with self._zip.open(entry) as file:
                content = file.read(most + 1)
        except _DAMAGE as error:
            raise MalformedModel(f"damaged member ({error})", where=self.place(name)) from error
        if len(content) > most:
            raise MalformedModel(
                f"{Danger.COMPRESSION_BOMB.value}: {entry.compress_size} bytes unpack to more than {most}",
                where=self.place(name),
            )
        return Extent(content, 0, len(content))

    def _stored(self, entry: zipfile.ZipInfo) -> Extent:
        # The local header states the lengths of its name and extra field, which may differ from the central ones.
        header = self._extent.bytes_at(entry.header_offset, 30)
        names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = entry.header_offset + 30 + names
        if header[:4] != _SIGNATURE or start + entry.file_size > self._extent.size or entry.flag_bits & 1:
            raise MalformedModel("damaged or encrypted member", where=self.place(entry.filename))
        return Extent(self._extent.data, self._extent.start + start, entry.file_size)

    def _inspect(self) -> Iterator[Finding]:
        for name, entry in self._members.items():
            where = self.place(name)
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or ":" in name:
                yield Finding(Danger.ARCHIVE_PATH, where, "unpacked, it would land outside the archive's folder")
            if stat.S_ISLNK(entry.external_attr >> 16):
                yield Finding(Danger.SOFT_LINK, where, "unpacked, it would be a link to another file")
            if name in _READ and entry.compress_type != zipfile.ZIP_STORED and entry.file_size > _most(entry):
                detail = f"it says that {entry.compress_size} bytes unpack to {entry.file_size}"
                yield Finding(Danger.COMPRESSION_BOMB, where, detail)
            if path.suffix.lower() in _PICKLES or is_pickle(self._start(entry)):
                yield Finding(Danger.PICKLE, where, "it would run code when unpickled")

    def _start(self, entry: zipfile.ZipInfo) -> bytes:
        """Return the first bytes of a member; none where it can't be read."""
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return b""
        try:
            with self._zip.open(entry) as file:
                return file.read(16)
        except _DAMAGE:
            return b""


def _most(entry: zipfile.ZipInfo) -> int:
    return max(_ALWAYS_ALLOWED, _EXPANSION * entry.compress_size)
