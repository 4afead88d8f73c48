"""Stream an ONNX model to disk, one weight at a time.

The Protocol Buffers library serializes a message as a whole: it would hold every weight, and then all of them once more
as bytes. But a message is the concatenation of its fields, and the length of a weight is known before it is
computed. So the library serializes the small parts, and the weights go between them straight from the arrays that hold
them. The bytes are those that the library itself would write for the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from demitasse.errors import InvalidGraph
from demitasse.ir.weights import Array, WeightMap
from demitasse.writers.onnx.draft import Initializer, element_type
from demitasse.writers.onnx.wire import field_key

__all__ = ["MESSAGE_LIMIT", "Parts", "write_model"]

MESSAGE_LIMIT = 2**31 - 1
"""The most bytes that a Protocol Buffers message may have (https://protobuf.dev/programming-guides/proto-limits)."""

INLINE_LIMIT = 1024
"""Weights of fewer bytes stay in the model where the others go to a file of their own, as with onnx's own tools."""

ALIGNMENT = 65536
"""Weights of this many bytes and more start at a multiple of it in a file of their own, so that any system can map
them: no system's granularity is coarser (Windows)."""

MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_RAW_DATA = 7, 5, 9
"""Field numbers of `ModelProto`, `GraphProto` and `TensorProto` (onnx.proto)."""

Elements: TypeAlias = npt.NDArray[np.uint8]


class Parts(NamedTuple):
    """A serialized model but for its weights: the fields before and after them, in the order of their numbers."""

    model_head: bytes
    graph_head: bytes
    graph_tail: bytes
    model_tail: bytes


class Record(NamedTuple):
    """A weight's `TensorProto`: the bytes before its elements, and how many bytes these take.

    Elements that lie in a file of their own start at `offset` in it, and `header` is the whole message.
    """

    initializer: Initializer
    header: bytes
    size: int
    offset: int | None = None

    @property
    def length(self) -> int:
        return len(self.header) + (self.size if self.offset is None else 0)


def write_model(
    path: Path,
    parts: Parts,
    initializers: Mapping[str, list[Initializer]],
    weights: WeightMap,
    *,
    message_limit: int = MESSAGE_LIMIT,
) -> None:
    """Write a model to `path`; where its weights make it too long a message, they go to `<name>.data` beside it.

    Each weight is fetched once, written and dropped. Both files appear whole or not at all.

    Raises:
        InvalidGraph: a weight isn't of the type that it was announced with.
    """
    records = {name: [_inline(one) for one in held] for name, held in initializers.items()}
    if len(_before(parts, records)) + _after(parts, records) <= message_limit:
        with _replacing(path) as file:
            _write(file, parts, records, weights)
        return
    data = path.with_name(f"{path.name}.data")
    # Contexts are left in reverse order: when the model appears, its weights are there.
    with _replacing(path) as file, _replacing(data) as external:
        _write(file, parts, _placed(initializers, data.name), weights, external)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file under a temporary name in the same folder, and give it its own name if all goes well."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write(
    file: BinaryIO,
    parts: Parts,
    records: Mapping[str, list[Record]],
    weights: WeightMap,
    external: BinaryIO | None = None,
) -> None:
    file.write(_before(parts, records))
    for name, held in records.items():
        wanted = any(record.initializer.content is None for record in held)
        array = weights[name] if wanted else None
        for record in held:
            elements = _elements(array, record.initializer)
            file.write(field_key(GRAPH_INITIALIZER, record.length))
            file.write(record.header)
            if record.offset is None:
                file.write(elements.data)
            elif external is not None:
                external.seek(record.offset)
                external.write(elements.data)
    file.write(parts.graph_tail)
    file.write(parts.model_tail)


def _before(parts: Parts, records: Mapping[str, list[Record]]) -> bytes:
    """Serialize everything that stands before the first weight."""
    graph = len(parts.graph_head) + _after(parts, records) - len(parts.model_tail)
    return parts.model_head + field_key(MODEL_GRAPH, graph) + parts.graph_head


def _after(parts: Parts, records: Mapping[str, list[Record]]) -> int:
    """Count the bytes from the first weight to the end of the model."""
    lengths = [record.length for held in records.values() for record in held]
    weights = sum(len(field_key(GRAPH_INITIALIZER, length)) + length for length in lengths)
    return weights + len(parts.graph_tail) + len(parts.model_tail)


def _elements(array: Array | None, initializer: Initializer) -> Elements:
    """View the elements of a weight as the bytes that the artifact holds, copied only if they lie otherwise."""
    if initializer.content is not None or array is None:
        array = np.asarray(initializer.content)
    else:
        array = initializer.ordered(array)
    if array.shape != initializer.type.shape or array.dtype.name != initializer.dtype.name:
        raise InvalidGraph(
            f"weight {initializer.name!r} was announced as {initializer.type}"
            f" and came as {array.dtype.name}{list(array.shape)}"
        )
    little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return little_endian.reshape(-1).view(np.uint8)


def _inline(initializer: Initializer) -> Record:
    """Announce a weight whose elements lie in the model: they are the last field of its message."""
    from onnx import TensorProto

    data_type = element_type(initializer.dtype)
    header = TensorProto(dims=initializer.type.shape, data_type=data_type, name=initializer.name).SerializeToString()
    return Record(initializer, header + field_key(TENSOR_RAW_DATA, initializer.size), initializer.size)


def _placed(initializers: Mapping[str, list[Initializer]], location: str) -> dict[str, list[Record]]:
    """Give each weight, but for the smallest, its place in a file of their own."""
    end = 0
    records: dict[str, list[Record]] = {}
    for name, held in initializers.items():
        records[name] = []
        for initializer in held:
            size = initializer.size
            if size < INLINE_LIMIT:
                records[name].append(_inline(initializer))
                continue
            offset = end + (-end % ALIGNMENT if size >= ALIGNMENT else 0)
            records[name].append(_external(initializer, location, offset, size))
            end = offset + size
    return records


def _external(initializer: Initializer, location: str, offset: int, size: int) -> Record:
    """Announce a weight whose elements lie in a file of their own."""
    from onnx import StringStringEntryProto, TensorProto

    place = {"location": location, "offset": str(offset), "length": str(size)}
    tensor = TensorProto(
        dims=initializer.type.shape,
        data_type=element_type(initializer.dtype),
        name=initializer.name,
        external_data=[StringStringEntryProto(key=key, value=value) for key, value in place.items()],
        data_location=TensorProto.EXTERNAL,
    )
    return Record(initializer, tensor.SerializeToString(), size, offset)
