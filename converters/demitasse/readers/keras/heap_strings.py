"""Read strings of varying length out of an HDF5 file without the library.

HDF5 keeps such strings in heaps, and in the attribute a reference to each. Many references may name the same place of a
heap, so a small file can hold an attribute that comes to terabytes; and in a damaged heap the library may search for
ever. Here every step goes forward, and what would be read is added up first. The layout is the HDF5 File Format
Specification 3.0, sections III.E (global heaps), IV.A.1 (object headers), IV.A.2.m (attributes) and IV.A.2.q
(continuations).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

__all__ = ["HeapStrings", "check_group"]

_ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE = 0x0C, 0x10, 0x11
_NO_MORE = 1  # ends a local heap's list of free blocks
_HEAP = b"GCOL\x01"
"""What a global heap begins with."""
_MOST_CHUNKS = 10_000

ReadBytes: TypeAlias = Callable[[int, int], bytes]


class _Reference(NamedTuple):
    """Where a string lies: its length, the address of its heap, and its number there."""

    length: int
    heap: int
    number: int


@dataclass
class HeapStrings:
    """Reads attributes of strings; `read` returns the bytes at an offset of the file, or fewer at its end."""

    read: ReadBytes
    _heaps: dict[int, dict[int, tuple[int, int]]] = field(default_factory=dict)

    def strings(self, address: int, name: bytes, count: int, most: int) -> list[bytes] | None:
        """Read an attribute of strings.

        Args:
            address: where the header of the object begins that has the attribute.
            name: the attribute's name.
            count: how many strings it has.
            most: how many bytes they may come to.

        Returns:
            The strings; None where the header isn't laid out as h5py writes it.

        Raises:
            OverflowError: they come to more than `most` bytes; the error holds how many.
            ValueError: the heap lacks one.
        """
        references = self._references(address, name, count)
        if references is None:
            return None
        total = sum(reference.length for reference in references)
        if total > most:
            raise OverflowError(total)
        found = []
        for length, heap, number in references:
            if length == 0:
                found.append(b"")
                continue
            place, size = self._objects(heap).get(number, (0, -1))
            if size < length:
                raise ValueError(f"there is no string {number} in the heap at {heap}")
            found.append(self.read(place, length))
        return found

    def _references(self, address: int, name: bytes, count: int) -> list[_Reference] | None:
        try:
            for body in _attributes(self.read, address):
                found, data = _split(body)
                if found == name and len(data) >= 16 * count:
                    return [_Reference(*entry) for entry in struct.iter_unpack("<IQI", data[: 16 * count])]
        except struct.error:  # the header ends too early
            return None
        return None

    def _objects(self, address: int) -> dict[int, tuple[int, int]]:
        """Map the numbers of a heap's objects to their places and sizes."""
        if address not in self._heaps:
            self._heaps[address] = dict(self._walk(address))
        return self._heaps[address]

    def _walk(self, address: int) -> Iterator[tuple[int, tuple[int, int]]]:
        head = self.read(address, 16)
        if head[:5] != _HEAP or len(head) < 16:
            return
        end = address + int.from_bytes(head[8:], "little")
        place = address + 16
        while place + 16 <= end:
            entry = self.read(place, 16)
            index, size = int.from_bytes(entry[:2], "little"), int.from_bytes(entry[8:], "little")
            if len(entry) < 16 or index == 0:  # the free space comes last
                return
            yield index, (place + 16, size)
            place += 16 + -(-size // 8) * 8


def check_group(read: ReadBytes, address: int) -> None:
    """Raise ValueError if the library would search for ever in the heap of a group's names (III.D, IV.A.2.r).

    It follows the heap's list of free blocks to its end, and a damaged one may come back to where it was.
    """
    try:
        for kind, body in _messages(read, address):
            if kind != _SYMBOL_TABLE:
                continue
            (heap,) = struct.unpack_from("<8xQ", body)
            signature, size, block, data = struct.unpack("<4s4xQQQ", read(heap, 32))
            seen: set[int] = set()
            while signature == b"HEAP" and block != _NO_MORE and block < size:
                if block in seen:
                    raise ValueError(f"the heap of names at {heap} is damaged")
                seen.add(block)
                (block,) = struct.unpack("<Q", read(data + block, 8))
    except struct.error:  # something ends too early, as the library will notice
        return


def _attributes(read: ReadBytes, address: int) -> Iterator[bytes]:
    """Yield the bodies of an object's attribute messages."""
    return (body for kind, body in _messages(read, address) if kind == _ATTRIBUTE)


def _messages(read: ReadBytes, address: int) -> Iterator[tuple[int, bytes]]:
    """Yield the kinds and bodies of an object's messages, in all chunks of its header."""
    start = read(address, 16)
    if start[:1] == b"\x01":
        order, head = "<HHB3x", 8
        chunks = [(address + 16, *struct.unpack_from("<I", start, 8))]
        trim = (0, 0)
    elif start[:5] == b"OHDR\x02":
        flags = start[5]
        prefix = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(read(address + prefix, width), "little")
        order, head = "<BHB", 6 if flags & 0x04 else 4
        chunks = [(address + prefix + width, size)]
        trim = (4, 8)  # a further chunk has a signature, and a checksum at its end
    else:
        return
    for place, size in chunks:
        chunk = read(place, size)
        offset = 0
        while offset + head <= len(chunk):
            kind, length, _ = struct.unpack_from(order, chunk, offset)
            body = chunk[offset + head : offset + head + length]
            offset += head + length
            if kind != _CONTINUATION:
                yield kind, body
            elif len(chunks) < _MOST_CHUNKS:
                further, extent = struct.unpack_from("<QQ", body)
                chunks.append((further + trim[0], extent - trim[1]))


def _split(body: bytes) -> tuple[bytes, bytes]:
    """Split an attribute message into its name and its data."""
    version, _, name_size, type_size, space_size = struct.unpack_from("<BBHHH", body)
    offset = 9 if version == 3 else 8
    name = body[offset : offset + name_size].rstrip(b"\x00")
    for size in (name_size, type_size, space_size):
        offset += -(-size // 8) * 8 if version == 1 else size
    return name, body[offset:]
