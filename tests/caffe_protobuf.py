"""Caffe's messages as protobuf's own library understands them: an independent reader to compare ours with.

The messages are described to the library from the reader's own table; what is compared is the parsing.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from demitasse.readers.caffe.message import Message, Unknown
from demitasse.readers.caffe.params import coerced
from demitasse.readers.caffe.schema import FieldSpec, Kind, MessageSpec, message_spec

__all__ = ["assert_same", "net_parameter"]

_BULK = (Kind.FLOATS, Kind.DOUBLES, Kind.UNUSED)


@cache
def net_parameter() -> Any:
    """Returns protobuf's class for NetParameter."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    names = ["NetParameter"]
    for name in names:  # grows with what the messages refer to
        fields = message_spec(name).by_name.values()
        _describe(file.message_type.add(name=name), name, fields)
        names += dict.fromkeys(field.message for field in fields if field.message and field.message not in names)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


def _describe(message: Any, name: str, fields: Any) -> None:
    for free_number, field in enumerate(fields, 5000):
        repeated = field.repeated or field.kind in _BULK
        described = message.field.add(name=field.name, number=field.number or free_number, label=3 if repeated else 1)
        if field.kind is Kind.MESSAGE:
            described.type, described.type_name = described.TYPE_MESSAGE, f".caffe.{field.message}"
        elif field.kind is Kind.ENUM:
            scope = message.nested_type.add(name=f"Of_{field.name}")
            values = scope.enum_type.add(name="Choice").value
            for word, number in (field.enum or {}).items():
                values.add(name=word, number=number)
            described.type, described.type_name = described.TYPE_ENUM, f".caffe.{name}.Of_{field.name}.Choice"
        else:
            kind = {Kind.FLOATS: "FLOAT", Kind.DOUBLES: "DOUBLE", Kind.UNUSED: "FLOAT"}.get(field.kind, field.kind.name)
            described.type = getattr(described, f"TYPE_{kind}")


def assert_same(theirs: Any, ours: Message, spec: MessageSpec) -> None:
    """Asserts that each field that the library found was found here too, with the same values."""
    for descriptor, value in theirs.ListFields():
        field = spec.by_name[descriptor.name]
        repeated = field.repeated or field.kind in _BULK
        expected = list(value) if repeated else [value]
        if field.message:
            merged = ours.merged(field.name)
            parts = ours.messages(field.name) if repeated else [merged] if merged else []
            assert len(parts) == len(expected), field.name
            for one, other in zip(expected, parts, strict=True):
                assert_same(one, other, message_spec(field.message))
        elif field.kind is not Kind.UNUSED:
            assert _values(ours, field, repeated) == _plain(expected, field), f"{ours.where(field.name)} {field.name}"


def _values(message: Message, field: FieldSpec, repeated: bool) -> list[Any]:
    found = [entry.value for entry in message.all(field.name) if not isinstance(entry.value, Unknown)]
    if field.kind in _BULK:
        return list(np.concatenate([np.atleast_1d(np.asarray(value)) for value in found]).astype(np.float64).tolist())
    if field.kind is Kind.BYTES:
        return [bytes(value) for value in found if isinstance(value, memoryview)]
    return [coerced(value, field.kind, field) for value in found][0 if repeated else -1 :]


def _plain(expected: list[Any], field: FieldSpec) -> list[Any]:
    if field.kind is Kind.ENUM:
        names = {number: name for name, number in (field.enum or {}).items()}
        return [names[number] for number in expected]
    return [float(value) for value in expected] if field.kind in (Kind.FLOAT, *_BULK) else expected
