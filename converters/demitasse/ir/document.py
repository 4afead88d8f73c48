"""The document that every artifact carries about itself, as JSON.

It says which source the artifact was made from (by hash), with which options, what preprocessing its input expects,
and for every result of every source layer which tensor holds it. Validation aligns by it alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from demitasse.errors import MalformedModel
from demitasse.ir.graph import Graph, Origin, Storage, provenance
from demitasse.ir.ops import DType, Shape

__all__ = ["SCHEMA", "BlobRecord", "Document", "Port", "SourceFile", "blob_records", "describe"]

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that the artifact was made from."""

    name: str
    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> SourceFile:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(path.name, digest, path.stat().st_size)


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the artifact.

    `name` is the source's name; `tensor` what the artifact calls it; `shape` the artifact's shape, its first dimension
    null where the batch is dynamic; `axes` and `view` are the `Storage` that relates it to the source's blob.
    """

    name: str
    tensor: str
    shape: tuple[int | None, ...]
    dtype: str
    axes: tuple[int, ...]
    view: Shape | None = None

    @property
    def storage(self) -> Storage:
        return Storage(self.axes, self.view)


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """Says what became of one result of a source layer; `tensor` is null where it is nowhere in the artifact."""

    layer: str
    type: str
    blob: str
    status: str
    tensor: str | None
    axes: tuple[int, ...] | None
    view: Shape | None = None
    where: str = ""

    @property
    def storage(self) -> Storage | None:
        return None if self.axes is None else Storage(self.axes, self.view)


@dataclass(frozen=True, slots=True)
class Document:
    """Everything that an artifact says about itself."""

    target: str
    tool: str
    source_format: str
    source_layout: str
    source: tuple[SourceFile, ...]
    options: Mapping[str, Any]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    provenance: tuple[BlobRecord, ...]
    preprocessing: Mapping[str, Any] | None = None
    labels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    schema: int = field(default=SCHEMA)

    def to_json(self) -> str:
        """Serialize; the same document always gives the same text."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Document:
        """Parse what `to_json` wrote.

        Raises:
            MalformedModel: the text isn't such a document.
        """
        try:
            data = json.loads(text)
            if data["schema"] != SCHEMA:
                raise MalformedModel(
                    f"its document has schema {data['schema']}, this version reads {SCHEMA}", where=where
                )
            data["source"] = tuple(SourceFile(**entry) for entry in data["source"])
            data["inputs"] = tuple(Port(**_tuples(entry)) for entry in data["inputs"])
            data["outputs"] = tuple(Port(**_tuples(entry)) for entry in data["outputs"])
            data["provenance"] = tuple(BlobRecord(**_tuples(entry)) for entry in data["provenance"])
            data["notes"] = tuple(data["notes"])
            data["labels"] = None if data["labels"] is None else tuple(data["labels"])
            return cls(**data)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise MalformedModel(f"its document is damaged: {error!r}", where=where) from error

    def with_tensors(self, names: Mapping[str, str]) -> Document:
        """Rename tensors as the artifact names them; a name that is not in the map stays."""
        return replace(
            self,
            inputs=tuple(replace(port, tensor=names.get(port.tensor, port.tensor)) for port in self.inputs),
            outputs=tuple(replace(port, tensor=names.get(port.tensor, port.tensor)) for port in self.outputs),
            provenance=tuple(
                replace(record, tensor=names.get(record.tensor, record.tensor)) if record.tensor else record
                for record in self.provenance
            ),
        )


def _tuples(entry: dict[str, Any]) -> dict[str, Any]:
    """Turn the lists of a parsed JSON object into tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


def _port(graph: Graph, name: str) -> Port:
    value = graph.values[name]
    shape: tuple[int | None, ...] = value.type.shape
    if graph.batch_is_dynamic and shape:
        shape = (None, *shape[1:])
    return Port(name, name, shape, DType(value.type.dtype).value, value.storage.axes, value.storage.view)


def _place(origin: Origin) -> str:
    """Spell where a layer stands, without the folder: the same source gives the same document wherever it lies."""
    name = re.split(r"[/\\\\]", origin.file)[-1]
    return replace(origin, file=name).where


def blob_records(graph: Graph) -> tuple[BlobRecord, ...]:
    """Say of every result of every source layer which value of a lowered graph holds it, or what became of it."""
    return tuple(
        BlobRecord(
            layer=record.origin.layer,
            type=record.origin.kind,
            blob=record.blob,
            status=record.status.value,
            tensor=record.value,
            axes=record.storage.axes if record.storage else None,
            view=record.storage.view if record.storage else None,
            where=_place(record.origin),
        )
        for record in provenance(graph)
    )


def describe(
    graph: Graph,
    *,
    target: str,
    tool: str,
    source_format: str,
    source: tuple[SourceFile, ...],
    options: Mapping[str, Any],
    preprocessing: Mapping[str, Any] | None = None,
    labels: tuple[str, ...] | None = None,
) -> Document:
    """Describe a lowered graph; tensors are named as its values are."""
    return Document(
        target=target,
        tool=tool,
        source_format=source_format,
        source_layout=graph.layout.value,
        source=source,
        options=dict(options),
        inputs=tuple(_port(graph, name) for name in graph.inputs),
        outputs=tuple(_port(graph, name) for name in graph.outputs),
        provenance=blob_records(graph),
        preprocessing=preprocessing,
        labels=labels,
        notes=tuple(graph.notes),
    )
