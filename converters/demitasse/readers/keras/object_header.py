"""Read from an HDF5 object header how long the strings of an attribute are, before the library takes memory for them.

HDF5 keeps strings of varying length in a heap, and in the attribute a reference to each. Many references may name the
same place of the heap, so a small file can hold an attribute that comes to terabytes; the library has no call that
tells. The layout is the HDF5 File Format Specification 3.0, sections IV.A.1 (object headers), IV.A.2.m (attributes)
and IV.A.2.q (continuations).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

__all__ = ["text_size"]

_ATTRIBUTE, _CONTINUATION = 0x0C, 0x10
_MOST_CHUNKS = 10_000

ReadBytes = Callable[[int, int], bytes]


def text_size(read: ReadBytes, address: int, name: bytes, count: int) -> int | None:
    """Add up the lengths of an attribute's strings.

    Args:
        read: returns the bytes at an offset of the file, as many as asked for, or fewer at its end.
        address: where the header of the object begins that has the attribute.
        name: the attribute's name.
        count: how many strings it has.

    Returns:
        The bytes that all of them come to; None where the header isn't laid out as h5py writes it.
    """
    try:
        for body in _attributes(read, address):
            found, data = _attribute(body)
            if found == name and len(data) >= 16 * count:
                # A reference is the string's length, the heap's address, and the index in it: 4 + 8 + 4 bytes.
                lengths: list[int] = [entry[0] for entry in struct.iter_unpack("<IQI", data[: 16 * count])]
                return sum(lengths)
    except struct.error:  # the header ends too early
        return None
    return None


def _attributes(read: ReadBytes, address: int) -> Iterator[bytes]:
    """Yield the bodies of an object's attribute messages, in all chunks of its header."""
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
            if kind == _ATTRIBUTE:
                yield body
            elif kind == _CONTINUATION and len(chunks) < _MOST_CHUNKS:
                further, extent = struct.unpack_from("<QQ", body)
                chunks.append((further + trim[0], extent - trim[1]))


def _attribute(body: bytes) -> tuple[bytes, bytes]:
    """Split an attribute message into its name and its data."""
    version, _, name_size, type_size, space_size = struct.unpack_from("<BBHHH", body)
    offset = 9 if version == 3 else 8
    name = body[offset : offset + name_size].rstrip(b"\x00")
    for size in (name_size, type_size, space_size):
        offset += -(-size // 8) * 8 if version == 1 else size
    return name, body[offset:]
