"""Decode protobuf's wire format from a mapped file, guided by the schema's tables.

Rules of the encoding: https://protobuf.dev/programming-guides/encoding. A blob's numbers are never touched:
they become numpy views into the file. Whatever a file says of its own lengths is checked against the bytes
that are there, nesting and the number of fields are limited, and any fault is a `MalformedModel` that names
the byte.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

from demitasse.errors import MalformedModel
from demitasse.readers.caffe.message import Array, Message, Source, Unknown, Value, Word
from demitasse.readers.caffe.schema import FieldSpec, Kind, MessageSpec, block_of_type, message_spec

__all__ = ["decode"]

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)

_MAX_FIELDS = 1_000_000
"""More than any net has (the deepest have some 50,000 fields); bounds the memory that a file of tiny ones takes."""

_MAX_DEPTH = 100
"""Nesting allowed in groups that are skipped; protobuf's own limit."""

_NUMBERS: dict[Kind, np.dtype[Any]] = {Kind.FLOATS: np.dtype("<f4"), Kind.DOUBLES: np.dtype("<f8")}
_DELIMITED = frozenset((Kind.MESSAGE, Kind.STRING, Kind.BYTES, *_NUMBERS))
_STRUCTURE = frozenset(("ParamSpec", "BlobProto", "NetStateRule", "V0LayerParameter"))
_LAST_COMMON_NUMBER = 146  # recurrent_param; forks number their own blocks from here on


def decode(data: memoryview, message: str, source: Source, *, blocks: bool = True) -> Message:
    """Decode a file's bytes as a message of the schema.

    Args:
        data: the bytes, as unsigned chars; arrays in the result are views of them.
        message: the schema's name of the message, such as `NetParameter`.
        source: names the file in errors; places are told in bytes.
        blocks: decode the layers' parameter blocks too. Without them a file is read for its weights alone, so
        that a
            fork's private parameters can't matter.

    Raises:
        MalformedModel: if the bytes aren't such a message.
    """
    return _Decoder(data, source, blocks).message(message_spec(message), 0, len(data))


class _Span(NamedTuple):
    """A length-delimited field, not yet looked into."""

    number: int
    start: int
    end: int


class _Decoder:
    def __init__(self, data: memoryview, source: Source, blocks: bool) -> None:
        self.data = data
        self.source = source
        self.blocks = blocks
        self.fields_left = _MAX_FIELDS

    def message(self, spec: MessageSpec, start: int, end: int) -> Message:
        """Decode one message; parameter blocks of a layer come last, when the layer's type is known."""
        found = Message(self.source, start)
        later: list[_Span] = []
        is_layer = spec.name in ("LayerParameter", "V1LayerParameter")
        position = start
        while position < end:
            at = position
            tag, position = self.varint(position, end)
            number, wire_type = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise self.fault(at, f"{number} is no field number")
            self.count(at, 1)
            field = spec.by_number.get(number)
            if wire_type == _BYTES:
                length, position = self.varint(position, end)
                if length > end - position:
                    raise self.fault(at, f"field {number} claims {length} bytes, but {end - position} are left")
                span = _Span(number, position, position + length)
                position = span.end
                if is_layer and (field is None or (field.message and field.message not in _STRUCTURE)):
                    later.append(span)
                else:
                    self.delimited(found, field, span)
            elif wire_type in (_FIXED32, _FIXED64):
                position = self.fixed(found, field, number, wire_type, at, position, end)
            else:
                position = self.scalar(found, field, number, wire_type, position, end)
        if self.blocks:
            self.add_blocks(found, spec, later)
        return found

    def delimited(self, found: Message, field: FieldSpec | None, span: _Span) -> None:
        """Add what a length-delimited field holds: a message, a string, bytes, or packed numbers."""
        if field is not None and field.kind is Kind.UNUSED:
            return
        if field is None or not (field.repeated or field.kind in _DELIMITED):
            found.add(f"#{span.number}", self.unknown(_BYTES, span), span.start)
        elif field.kind is Kind.MESSAGE:
            found.add(field.name, self.message(message_spec(field.message), span.start, span.end), span.start)
        elif field.kind in _NUMBERS:
            found.add(field.name, self.numbers(_NUMBERS[field.kind], span), span.start)
        elif field.kind is Kind.STRING:
            text = str(self.data[span.start : span.end], "utf-8", "backslashreplace")
            found.add(field.name, text, span.start)
        elif field.kind is Kind.BYTES:
            found.add(field.name, self.data[span.start : span.end], span.start)
        else:
            self.packed(found, field, span)

    def numbers(self, dtype: np.dtype[Any], span: _Span) -> Array:
        """View packed floats or doubles where they lie, aligned or not."""
        if (span.end - span.start) % dtype.itemsize:
            size = span.end - span.start
            raise self.fault(span.start, f"{size} bytes aren't a whole number of {dtype.name} values")
        return np.frombuffer(self.data[span.start : span.end], dtype)

    def packed(self, found: Message, field: FieldSpec, span: _Span) -> None:
        """Add the elements of a packed repeated field one by one; these are short (shapes, coefficients)."""
        position = span.start
        while position < span.end:
            at = position
            self.count(at, 1)
            if field.kind in (Kind.FLOAT, Kind.DOUBLE):
                size = 4 if field.kind is Kind.FLOAT else 8
                if span.end - position < size:
                    raise self.fault(at, f"{field.name} ends within a number")
                found.add(field.name, self.real(position, size), at)
                position += size
            else:
                raw, position = self.varint(position, span.end)
                found.add(field.name, _whole(raw, field), at)

    def fixed(
        self, found: Message, field: FieldSpec | None, number: int, wire_type: int, at: int, position: int, end: int
    ) -> int:
        """Add a number of fixed width, or a whole run of them where a blob's numbers were written one by one."""
        size = 4 if wire_type == _FIXED32 else 8
        if size > end - position:
            raise self.fault(at, f"field {number} claims {size} bytes, but {end - position} are left")
        kind = field.kind if field is not None else None
        if field is not None and kind in (Kind.FLOATS, Kind.DOUBLES, Kind.UNUSED):
            stride = position - at + size
            count = self.run_length(at, end, position - at, stride)
            expected = Kind.FLOATS if wire_type == _FIXED32 else Kind.DOUBLES
            if kind is expected:
                record = np.dtype([("tag", f"V{position - at}"), ("value", _NUMBERS[expected])])
                run = np.frombuffer(self.data[at : at + count * stride], record)
                found.add(field.name, run["value"], at)
            return at + count * stride
        if field is not None and kind is (Kind.FLOAT if wire_type == _FIXED32 else Kind.DOUBLE):
            found.add(field.name, self.real(position, size), at)
        else:
            found.add(f"#{number}", self.unknown(wire_type, _Span(number, position, position + size)), at)
        return position + size

    def run_length(self, at: int, end: int, tag_size: int, stride: int) -> int:
        """Count the records of equal tags from a place on, in time proportional to the count."""
        tag = np.frombuffer(self.data[at : at + tag_size], np.uint8)
        limit = (end - at) // stride
        count, step = 1, 16
        while count < limit:
            step = min(step * 4, 1 << 20, limit - count)
            chunk = np.frombuffer(self.data[at + count * stride : at + (count + step) * stride], np.uint8)
            same = (chunk.reshape(step, stride)[:, :tag_size] == tag).all(axis=1)
            if not same.all():
                return count + int(same.argmin())
            count += step
        return count

    def scalar(
        self, found: Message, field: FieldSpec | None, number: int, wire_type: int, position: int, end: int
    ) -> int:
        """Add a varint, or skip a group."""
        at = position
        if wire_type == _VARINT:
            raw, position = self.varint(position, end)
            if field is not None and (field.kind in _WHOLE or field.kind in (Kind.BOOL, Kind.ENUM)):
                found.add(field.name, _whole(raw, field), at)
            elif field is None or field.kind is not Kind.UNUSED:
                found.add(f"#{number}", self.unknown(wire_type, _Span(number, at, position)), at)
            return position
        if wire_type == _GROUP:
            position = self.skip_group(number, position, end)
            found.add(f"#{number}", self.unknown(wire_type, _Span(number, at, position)), at)
            return position
        what = "a group ends that never began" if wire_type == _GROUP_END else f"{wire_type} is no wire type"
        raise self.fault(at, what)

    def skip_group(self, number: int, position: int, end: int) -> int:
        """Return the place behind a group, an encoding that Caffe never used but a fork could."""
        open_groups = [number]
        while open_groups:
            at = position
            tag, position = self.varint(position, end)
            number, wire_type = tag >> 3, tag & 7
            if wire_type == _VARINT:
                _, position = self.varint(position, end)
            elif wire_type == _BYTES:
                length, position = self.varint(position, end)
                position += length
            elif wire_type in (_FIXED32, _FIXED64):
                position += 4 if wire_type == _FIXED32 else 8
            elif wire_type == _GROUP and len(open_groups) < _MAX_DEPTH:
                open_groups.append(number)
            elif wire_type == _GROUP_END and number == open_groups[-1]:
                open_groups.pop()
            else:
                raise self.fault(at, "groups aren't nested properly")
            if position > end:
                raise self.fault(at, f"field {number} runs past its group's end")
        return position

    def add_blocks(self, found: Message, spec: MessageSpec, spans: list[_Span]) -> None:
        """Decode a layer's parameter blocks; one that isn't what the schema says of its number is kept as it is.

        Forks gave numbers of their own choice to their blocks. Where the layer's type is known to carry a
        certain block, a number beyond the common ones is taken to be that block.
        """
        kind = found.last("type")
        own = block_of_type(kind.value) if kind is not None and isinstance(kind.value, str) else None
        for span in spans:
            field = spec.by_number.get(span.number)
            if own is not None and span.number > _LAST_COMMON_NUMBER:
                field = own
            try:
                self.delimited(found, field, span)
            except MalformedModel:
                found.add(f"#{span.number}", self.unknown(_BYTES, span), span.start)

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """Return an unsigned number of up to 64 bits, and the place behind it."""
        data = self.data
        value = shift = 0
        start = position
        while position < end:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, position
            shift += 7
            if shift == 70:
                raise self.fault(start, "a number of more than 10 bytes")
        raise self.fault(start, "the data ends within a number")

    def real(self, position: int, size: int) -> float:
        """Return one float or double."""
        value: float = struct.unpack_from("<f" if size == 4 else "<d", self.data, position)[0]
        return value

    def unknown(self, wire_type: int, span: _Span) -> Unknown:
        """Keep a field that the schema doesn't know."""
        return Unknown(span.number, wire_type, self.data[span.start : span.end])

    def count(self, at: int, fields: int) -> None:
        """Take fields off the budget."""
        self.fields_left -= fields
        if self.fields_left < 0:
            raise self.fault(at, f"more than {_MAX_FIELDS} fields: this is no net")

    def fault(self, at: int, message: str) -> MalformedModel:
        """Return the one error that this module raises."""
        return MalformedModel(f"{message}; the file is damaged, cut short, or no Caffe file", where=self.source.at(at))


_WHOLE = frozenset((Kind.INT32, Kind.INT64, Kind.UINT32, Kind.UINT64))


def _whole(raw: int, field: FieldSpec) -> Value:
    """Interpret a varint: two's complement for signed kinds, cut to 32 bits for narrow ones, as protobuf does."""
    kind = field.kind
    if kind is Kind.BOOL:
        return raw != 0
    if kind in (Kind.INT32, Kind.ENUM):
        raw = ((raw & 0xFFFF_FFFF) ^ 0x8000_0000) - 0x8000_0000
        if kind is Kind.ENUM and field.enum is not None:
            return next((Word(name) for name, number in field.enum.items() if number == raw), raw)
        return raw
    if kind is Kind.INT64:
        return (raw ^ (1 << 63)) - (1 << 63)
    return raw & 0xFFFF_FFFF if kind is Kind.UINT32 else raw
