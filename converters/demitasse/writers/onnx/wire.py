"""Write and read the fields of a Protocol Buffers message by hand, without holding the message.

Source of the encoding: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from typing import BinaryIO

__all__ = ["field_key", "read_fields"]

VARINT, LENGTH_DELIMITED = 0, 2
"""Wire types of a field whose content ends by itself, and of one that tells its length."""

FIXED = {1: 8, 5: 4}
"""Bytes of the wire types that always have as many."""


def field_key(number: int, length: int) -> bytes:
    """Serialize what stands before the bytes of a field: its number, its wire type, and their count."""
    return _varint(number << 3 | LENGTH_DELIMITED) + _varint(length)


def read_fields(file: BinaryIO, size: int, wanted: Container[int]) -> Iterator[tuple[int, bytes]]:
    """Read the strings, bytes and messages of the wanted field numbers from a message of `size` bytes.

    Raises:
        ValueError: the bytes are no message.
    """
    while (start := file.tell()) < size:
        number, wire_type = divmod(_read_varint(file), 8)
        if wire_type == VARINT:
            _read_varint(file)
            continue
        if number == 0 or wire_type not in (LENGTH_DELIMITED, *FIXED):
            raise ValueError(f"no field starts at byte {start}")
        length = FIXED[wire_type] if wire_type in FIXED else _read_varint(file)
        if length > size - file.tell():
            raise ValueError(f"the field at byte {start} ends beyond the end of the file")
        if number in wanted and wire_type == LENGTH_DELIMITED:
            yield number, file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)


def _varint(number: int) -> bytes:
    """Serialize an unsigned integer: seven bits a byte, the lowest first, each byte but the last marked."""
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def _read_varint(file: BinaryIO) -> int:
    number = 0
    for shift in range(0, 64, 7):
        octet = file.read(1)
        if not octet:
            raise ValueError("the file ends within a field")
        number |= (octet[0] & 0x7F) << shift
        if octet[0] < 0x80:
            return number
    raise ValueError(f"no integer ends at byte {file.tell()}")
