"""Assemble a TFLite file: a small flatbuffer, then the constants one after another.

A flatbuffer refers to its vectors by forward offsets, so a `Buffer` table may point to bytes far behind all tables. The
tables are built with an empty vector in the place of each constant; then each such offset is made to point behind the
tables, where the constants are written as they are asked for. Nothing holds a second copy of the weights.

Format: https://flatbuffers.dev/internals and `schema.fbs` of TFLite, where `Buffer.data` is aligned to 16 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from demitasse.errors import InvalidGraph
from demitasse.ir.weights import Array

__all__ = ["ALIGNMENT", "FILE_IDENTIFIER", "MAX_BYTES", "Constant", "read_metadata", "write_flatbuffer"]

ALIGNMENT = 16
FILE_IDENTIFIER = b"TFL3"
MAX_BYTES = 2**31 - 1  # flatbuffers.h: FLATBUFFERS_MAX_BUFFER_SIZE, the reach of a signed 32-bit offset

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Constant:
    """The content of one buffer: its size in bytes, and a function that gives it when it is written."""

    size: int
    fetch: Callable[[], Array]


def write_flatbuffer(schema: Any, model: Any, constants: Sequence[Constant | None], file: BinaryIO) -> None:
    """Write a `ModelT` and the constants of its buffers; `constants[i]` belongs to `model.buffers[i]`.

    Raises:
        InvalidGraph: a constant isn't of the size that was announced for it.
    """
    tables = _pack(schema, model, constants)
    places = list(_places(len(tables), constants))
    _point(schema, tables, places)
    file.write(tables)
    position = len(tables)
    for constant, place in zip(constants, places, strict=True):
        if constant is None:
            continue
        content = np.ascontiguousarray(constant.fetch())
        if content.nbytes != constant.size:
            raise InvalidGraph(f"a constant of {constant.size} bytes turned out to have {content.nbytes}")
        file.write(bytes(place - position))
        file.write(_LENGTH.pack(constant.size))
        file.write(content.reshape(-1).view(np.uint8).data)
        position = place + _LENGTH.size + constant.size


def _pack(schema: Any, model: Any, constants: Sequence[Constant | None]) -> bytearray:
    """Build the tables, with an empty vector where a constant belongs."""
    import flatbuffers

    model.buffers = [schema.BufferT() for _ in constants]
    for buffer, constant in zip(model.buffers, constants, strict=True):
        buffer.data = None if constant is None else np.zeros(0, np.uint8)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=FILE_IDENTIFIER)
    return bytearray(builder.Output())


def _places(start: int, constants: Sequence[Constant | None]) -> Iterator[int]:
    """Yield where the vector of each constant begins: its length, then its aligned elements."""
    position = start
    for constant in constants:
        position += -(position + _LENGTH.size) % ALIGNMENT if constant is not None else 0
        yield position
        if constant is not None:
            position += _LENGTH.size + constant.size


def _point(schema: Any, tables: bytearray, places: Sequence[int]) -> None:
    """Make the `data` offset of each buffer that has one point to its place behind the tables."""
    root = schema.Model.GetRootAs(tables, 0)
    for index, place in enumerate(places):
        table = root.Buffers(index)._tab
        field = table.Offset(4)  # the first field of `table Buffer` is `data`
        if field:
            at = table.Pos + field
            _LENGTH.pack_into(tables, at, place - at)


def read_metadata(schema: Any, content: Any, name: str) -> bytes | None:
    """Read a named metadata buffer of a model; None if it has none of this name.

    Raises:
        ValueError: the content is no TFLite model, or damaged.
    """
    try:
        if not schema.Model.ModelBufferHasIdentifier(content, 0):
            raise ValueError(f"it has no file identifier {FILE_IDENTIFIER.decode()}")
        model = schema.Model.GetRootAs(content, 0)
        if model.MetadataLength() > len(content):
            raise ValueError("it promises more metadata than it has bytes")
        for entry in map(model.Metadata, range(model.MetadataLength())):
            if entry.Name() == name.encode():
                buffer = model.Buffers(entry.Buffer())
                return b"" if buffer.DataIsNone() else bytes(buffer.DataAsNumpy())
    except (struct.error, IndexError, OverflowError, TypeError, AttributeError) as error:
        raise ValueError(f"its tables are damaged: {error}") from error
    return None
