"""Hold what a Caffe file says, field by field, whichever notation it was written in.

Text (prototxt) and binary (caffemodel) both become a tree of `Message`: field names as caffe.proto spells
them, values as they were written, and the place of each. Nothing is dropped: a field that no schema names
keeps its own name (text) or its number (binary, spelled `#123`). What a value means is decided by whoever
reads it, with the schema's help.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Field", "Message", "Source", "Unknown", "Value", "Word", "shown"]

Array: TypeAlias = "NDArray[np.float16 | np.float32 | np.float64]"


class Word(str):
    """Stands for a bare identifier of the text format: an enum's value, `true`, `inf`; never a quoted string."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Unknown:
    """Keeps a binary field that the schema doesn't name: its number, its wire type and its raw bytes (a view)."""

    number: int
    wire_type: int
    raw: memoryview

    def __str__(self) -> str:
        head = bytes(self.raw[:16]).hex(" ")
        rest = f" ... ({len(self.raw)} bytes)" if len(self.raw) > 16 else ""
        return f"field {self.number}, wire type {self.wire_type}: {head}{rest}"


@dataclass(frozen=True, slots=True)
class Source:
    """Names a file and the unit in which places in it are told: lines of text, or bytes."""

    path: str
    unit: Literal["line", "byte"]

    def at(self, position: int) -> str:
        """Spell a place as the user would look for it: `net.prototxt:12`, or `net.caffemodel, byte 1234`."""
        return f"{self.path}:{position}" if self.unit == "line" else f"{self.path}, byte {position}"


Value: TypeAlias = "int | float | bool | str | memoryview | Word | Array | Message | Unknown"


@dataclass(frozen=True, slots=True)
class Field:
    """One occurrence of a field: its value, and the line (text) or byte offset (binary) where it stands."""

    name: str
    value: Value
    position: int


@dataclass(frozen=True, slots=True)
class Message:
    """A group of fields in the order of their first appearance; each name holds every occurrence, in order."""

    source: Source
    position: int = 0
    fields: dict[str, list[Field]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def __iter__(self) -> Iterator[Field]:
        """Yield every occurrence of every field, grouped by name."""
        for group in self.fields.values():
            yield from group

    def all(self, name: str) -> list[Field]:
        """Return every occurrence of a field; none if it isn't there."""
        return self.fields.get(name, [])

    def last(self, name: str) -> Field | None:
        """Return the occurrence that counts for a field that isn't repeated: the last one, as in protobuf."""
        group = self.fields.get(name)
        return group[-1] if group else None

    def messages(self, name: str) -> list[Message]:
        """Return the occurrences of a field that are messages."""
        return [entry.value for entry in self.all(name) if isinstance(entry.value, Message)]

    def where(self, name: str | None = None) -> str:
        """Spell the place of a field, or of the message itself where the field isn't there."""
        entry = self.last(name) if name is not None else None
        return self.source.at(entry.position if entry else self.position)

    def add(self, name: str, value: Value, position: int) -> None:
        """Append an occurrence; for the parsers and upgrades that build a message, before anyone reads it."""
        self.fields.setdefault(name, []).append(Field(name, value, position))

    def extend(self, name: str, entries: Iterable[Field]) -> None:
        """Append occurrences under a name of this message, keeping their values and places."""
        for entry in entries:
            self.add(name, entry.value, entry.position)

    def merged(self, name: str) -> Message | None:
        """Join the occurrences of a sub-message that isn't repeated into one, as protobuf's wire format does."""
        parts = self.messages(name)
        if len(parts) < 2:
            return parts[0] if parts else None
        joined = Message(parts[0].source, parts[0].position)
        for part in parts:
            for key, group in part.fields.items():
                joined.extend(key, group)
        return joined


def shown(value: Value) -> str:
    """Spell a value the way a prototxt would, shortened to what fits an error message."""
    if isinstance(value, Message):
        return "{ " + " ".join(f"{entry.name}: {shown(entry.value)}" for entry in value) + " }"
    if isinstance(value, np.ndarray):
        return f"[{value.size} numbers]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Word | Unknown):
        return str(value)
    if isinstance(value, memoryview):
        return f"[{len(value)} bytes]"
    if isinstance(value, str):
        text = repr(value)
        return text if len(text) <= 60 else text[:57] + "..."
    return repr(value)
