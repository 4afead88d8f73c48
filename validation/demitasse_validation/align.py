"""Joins the layers of a source to the tensors of an artifact, by the artifact's own provenance map and nothing else.

No name is matched by likeness, no tensor by its place or shape: what the map doesn't say is UNMAPPED, and that fails.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from demitasse.ir.document import BlobRecord, Document
from demitasse.ir.graph import Graph, Origin, Status, Storage, live_names
from demitasse.route import ROUTE

__all__ = ["UNDOCUMENTED", "Alignment", "Link", "align", "is_foreign", "is_undocumented", "sources_of_divergence"]


# The option of a document that was made for an artifact without one.
UNDOCUMENTED = "undocumented"


@dataclass(frozen=True, slots=True)
class Link:
    """Says where one result of a source layer is found in an artifact, or what became of it.

    `tensor` and `storage` are there for what can be measured. `into` names the blob that a folded one went into, or
    whose elements it shares. `reason` says why a blob is unmapped.
    """

    origin: Origin
    blob: str
    status: Status
    tensor: str | None = None
    storage: Storage | None = None
    into: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Alignment:
    """All links of an artifact, in the order of the source's layers, and records that fit no layer of the source."""

    links: tuple[Link, ...]
    strangers: tuple[BlobRecord, ...]

    def folded_into(self, blob: str) -> tuple[str, ...]:
        """Name the layers whose results went into a blob, in order."""
        return tuple(link.origin.layer for link in self.links if link.status is Status.FOLDED and link.into == blob)


def align(graph: Graph, document: Document, missing: Mapping[str, str]) -> Alignment:
    """Join a source graph to an artifact.

    Args:
        graph: the source as it was read.
        document: what the artifact says of itself.
        missing: tensors that its runtime can't provide, and why.
    """
    records = _by_layer(document)
    hides = is_foreign(document) or is_undocumented(document)
    needed = live_names(graph, [port.name for port in document.outputs])
    links = []
    for layer in graph.layers:
        entries = records.pop(layer.origin.layer, [])
        for place, blob in enumerate(layer.outputs):
            record = _take(entries, blob, place, folds=bool(document.options.get("fold_preprocessing")))
            link = _link(layer.origin, blob, record, missing, needed)
            if link.status is Status.INTERNAL and not hides:
                link = replace(link, status=Status.UNMAPPED, reason="only what another converter wrote may hide layers")
            links.append(link)
        if entries:
            records.setdefault(layer.origin.layer, entries)
    strangers = tuple(record for entries in records.values() for record in entries)
    return Alignment(_with_hosts(graph, links), strangers)


def is_foreign(document: Document) -> bool:
    """Tell whether other converters than ours made an artifact, so that only its outputs can be compared."""
    return document.options.get("route") == ROUTE


def is_undocumented(document: Document) -> bool:
    """Tell whether an artifact said nothing of itself: the user's map, or its outputs' names, are all there is."""
    return bool(document.options.get(UNDOCUMENTED))


def _by_layer(document: Document) -> dict[str, list[BlobRecord]]:
    records: dict[str, list[BlobRecord]] = {}
    for record in document.provenance:
        records.setdefault(record.layer, []).append(record)
    return records


def _take(entries: list[BlobRecord], blob: str, place: int, *, folds: bool) -> BlobRecord | None:
    """Remove and return a layer's record of a blob.

    Where preprocessing was folded, the input's blob is computed in the artifact, and the map calls it `blob@...`.
    """
    for entry in entries:
        if entry.blob == blob or (folds and place == 0 and entry.blob.startswith(f"{blob}@") and len(entries) == 1):
            entries.remove(entry)
            return entry
    return None


def _link(
    origin: Origin,
    blob: str,
    record: BlobRecord | None,
    missing: Mapping[str, str],
    needed: Collection[str],
) -> Link:
    """Judge one record: a claim that can't be checked doesn't count."""
    if record is None:
        return Link(origin, blob, Status.UNMAPPED, reason="the artifact's map doesn't mention it")
    status = Status(record.status)
    if status is Status.UNMAPPED:
        return Link(origin, blob, status, reason="the conversion lost track of it")
    if status is Status.UNUSED:
        if blob in needed:
            return Link(origin, blob, Status.UNMAPPED, reason="it is said to be unused, but an output depends on it")
        return Link(origin, blob, status)
    if status is Status.INTERNAL:
        return Link(origin, blob, status, reason="another converter placed it, and doesn't say where")
    if status is Status.FOLDED:
        return Link(origin, blob, status, tensor=record.tensor)
    if record.tensor is None or record.storage is None:
        return Link(origin, blob, Status.UNMAPPED, reason="the artifact's map names no tensor for it")
    if record.tensor in missing:
        return Link(origin, blob, Status.UNMAPPED, reason=f"tensor {record.tensor!r}: {missing[record.tensor]}")
    return Link(origin, blob, status, record.tensor, record.storage)


def _with_hosts(graph: Graph, links: Sequence[Link]) -> tuple[Link, ...]:
    """Name the blob that each folded or identical one ended in: the one that is compared in the same tensor.

    A folded one whose tensor is none of the source's (a branch that carries its coefficient) ended in the first blob
    behind it that is compared.
    """
    hosts = {link.tensor: link.blob for link in links if link.status is Status.COMPARED}
    compared = set(hosts.values())
    return tuple(
        replace(link, into=hosts.get(link.tensor) or (_next(graph, link.blob, compared) if link.tensor else None))
        if link.status in {Status.FOLDED, Status.IDENTITY}
        else link
        for link in links
    )


def _next(graph: Graph, blob: str, compared: Collection[str]) -> str | None:
    """Find the first blob that depends on another and is compared."""
    behind = {blob}
    for layer in graph.layers:
        if behind.intersection(layer.inputs):
            found = next((name for name in layer.outputs if name in compared), None)
            if found is not None:
                return found
            behind.update(layer.outputs)
    return None


def sources_of_divergence(graph: Graph, failing: Collection[str]) -> tuple[str, ...]:
    """Return the failing blobs that no other failing blob leads to, in the order of the source's layers."""
    tainted: set[str] = set()
    sources = []
    for layer in graph.layers:
        fed_badly = any(name in tainted for name in layer.inputs)
        bad = [name for name in layer.outputs if name in failing]
        if bad and not fed_badly:
            sources += bad
        if bad or fed_badly:
            tainted.update(layer.outputs)
    return tuple(sources)
