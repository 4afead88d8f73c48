"""Write protobuf's wire format, as much of it as building Caffe files for tests takes."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

__all__ = ["blob", "field", "fixed32", "layer", "net", "packed", "tag", "unpacked", "varint"]


def varint(value: int) -> bytes:
    """Encode a whole number; a negative one as its 64-bit complement."""
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def field(number: int, value: int | str | bytes) -> bytes:
    """Encode a whole number as a varint, and text or bytes (a message, packed numbers) with their length."""
    if isinstance(value, int):
        return tag(number, 0) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return tag(number, 2) + varint(len(data)) + data


def fixed32(number: int, value: float) -> bytes:
    return tag(number, 5) + struct.pack("<f", value)


def packed(array: NDArray[Any]) -> bytes:
    """Encode a blob's numbers as `data`, all in one field."""
    return field(5, array.astype("<f4").tobytes())


def unpacked(array: NDArray[Any]) -> bytes:
    """Encode a blob's numbers as `data`, each in a field of its own, as files of 2014 have them."""
    return b"".join(fixed32(5, value) for value in array.ravel().tolist())


def blob(shape: Iterable[int], data: bytes, *, legacy: bool = False) -> bytes:
    """Encode a BlobProto around its encoded numbers; `legacy` as num, channels, height, width."""
    sizes = tuple(shape)
    if legacy:
        return b"".join(field(index + 1, size) for index, size in enumerate(sizes)) + data
    return field(7, field(1, b"".join(map(varint, sizes)))) + data


def layer(name: str, kind: str, *blobs: bytes, bottom: str = "", top: str = "", extra: bytes = b"") -> bytes:
    """Encode a layer of a current net, ready to be joined into a NetParameter."""
    wired = (field(3, bottom) if bottom else b"") + (field(4, top) if top else b"")
    return field(100, field(1, name) + field(2, kind) + wired + b"".join(field(7, one) for one in blobs) + extra)


def net(*layers: bytes, name: str = "net") -> bytes:
    """Join encoded layers into a NetParameter."""
    return field(1, name) + b"".join(layers)
