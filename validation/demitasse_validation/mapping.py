"""Describes artifacts that carry no document: by a map that the user gives, or by names that are the same.

Nothing is guessed: an input or output of another name or shape than the source's needs an entry in the map.

    [inputs]
    data = { tensor = "serving_default_input:0", axes = [0, 2, 3, 1] }
    [outputs]
    prob = { tensor = "StatefulPartitionedCall:0" }
    [layers]
    conv1 = { tensor = "model/conv1/Relu", axes = [0, 2, 3, 1] }

`axes[i]` is the axis of the source's blob that the artifact stores as its axis `i`; without them the order is the same.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demitasse.errors import UsageError
from demitasse.ir.document import BlobRecord, Document, Port
from demitasse.ir.graph import Graph, Status, Storage
from demitasse.targets import target_of
from demitasse_validation.align import UNDOCUMENTED
from demitasse_validation.runtimes import Runner, TensorSpec

__all__ = ["Places", "undocumented"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a blob is in an artifact; None for `axes` is the source's own order."""

    tensor: str
    axes: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Places:
    """What a user says of an artifact: where the source's inputs, outputs and layers are."""

    inputs: Mapping[str, Place] = field(default_factory=dict)
    outputs: Mapping[str, Place] = field(default_factory=dict)
    layers: Mapping[str, Place] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Places:
        """Read a map from a TOML file.

        Raises:
            UsageError: the file can't be read or has other entries than a map has; all faults are listed.
        """
        try:
            data = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: can't be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path}: not TOML: {error}") from error
        faults = [
            f"{name!r} is no table of a map; there are inputs, outputs, layers" for name in data if name not in KINDS
        ]
        tables: dict[str, dict[str, Place]] = {}
        for kind in KINDS:
            table = data.get(kind, {})
            entries = table.items() if isinstance(table, dict) else ()
            faults += [f"{kind}.{name}: {fault}" for name, entry in entries for fault in _faults(entry)]
            tables[kind] = {} if faults else {name: _place(entry) for name, entry in entries}
        if faults:
            raise UsageError("\n".join(f"{path}: {fault}" for fault in faults))
        return cls(**tables)


KINDS = ("inputs", "outputs", "layers")


def _faults(entry: Any) -> list[str]:
    if not isinstance(entry, dict) or not isinstance(entry.get("tensor"), str):
        return ['needs a tensor, such as { tensor = "conv1", axes = [0, 2, 3, 1] }']
    axes = entry.get("axes")
    faults = [f"{key!r} is no key of it; there are tensor, axes" for key in entry if key not in {"tensor", "axes"}]
    if axes is not None and (
        not isinstance(axes, list) or sorted(map(str, axes)) != sorted(map(str, range(len(axes))))
    ):
        faults.append(f"axes {axes!r} don't name each axis once")
    return faults


def _place(entry: Mapping[str, Any]) -> Place:
    return Place(entry["tensor"], tuple(entry["axes"]) if "axes" in entry else None)


def undocumented(path: Path, graph: Graph, runner: Runner, places: Places) -> Document:
    """Describe an artifact that says nothing of itself.

    Raises:
        UsageError: the map names what isn't there, or an input or output can't be told without a map; all are listed.
    """
    target = target_of(path)
    if target is None:
        raise UsageError(f"{path}: no artifact's name ends like this")
    faults: list[str] = []
    inputs = _ports("input", graph, graph.inputs, runner.inputs, places.inputs, faults)
    outputs = _ports("output", graph, graph.outputs, runner.outputs, places.outputs, faults)
    blobs = {blob for layer in graph.layers for blob in layer.outputs}
    faults += [f"the source has no blob {name!r}" for name in places.layers if name not in blobs]
    for name, place in places.layers.items():
        if name in graph.values and place.axes and len(place.axes) != graph.type(name).rank:
            faults.append(f"blob {name!r} has {graph.type(name).rank} axes, the map gives {len(place.axes)}")
    if faults:
        raise UsageError("\n".join(f"{path}: carries no document, and {fault}" for fault in faults))
    found = {port.name: Place(port.tensor, port.axes) for port in outputs} | dict(places.layers)
    records = tuple(
        _record(graph, layer.origin.layer, layer.origin.kind, layer.origin.where, blob, found.get(blob))
        for layer in graph.layers
        for blob in layer.outputs
    )
    return Document(
        target=target.name,
        tool="unknown",
        source_format="unknown",
        source_layout=graph.layout.value,
        source=(),
        options={UNDOCUMENTED: True},
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        provenance=records,
    )


def _ports(
    what: str,
    graph: Graph,
    names: list[str],
    specs: Mapping[str, TensorSpec],
    places: Mapping[str, Place],
    faults: list[str],
) -> list[Port]:
    faults += [f"the source has no {what} {name!r}" for name in places if name not in names]
    ports = []
    for name in names:
        place = places.get(name) or Place(name)
        spec = specs.get(place.tensor)
        shape = graph.type(name).shape
        axes = place.axes or tuple(range(len(shape)))
        if spec is None:
            has = ", ".join(f"{tensor!r} ({each})" for tensor, each in specs.items())
            faults.append(f"has no {what} {place.tensor!r} for the source's; it has {has}: say which in --map FILE")
            continue
        stored = tuple(shape[axis] for axis in axes) if len(axes) == len(shape) else ()
        loose = 1 if graph.batch_is_dynamic else 0
        if len(stored) != len(spec.shape) or any(
            b is not None and a != b for a, b in list(zip(stored, spec.shape, strict=True))[loose:]
        ):
            faults.append(
                f"its {what} {place.tensor!r} is {spec}, the source's {list(shape)}: give its axes in --map FILE"
            )
            continue
        ports.append(Port(name, place.tensor, spec.shape, spec.integer or spec.dtype, axes))
    return ports


def _record(graph: Graph, layer: str, kind: str, where: str, blob: str, place: Place | None) -> BlobRecord:
    if place is None or blob not in graph.values:
        return BlobRecord(layer, kind, blob, Status.INTERNAL.value, None, None, where=where)
    axes = place.axes or Storage.identity(graph.type(blob).rank).axes
    return BlobRecord(layer, kind, blob, Status.COMPARED.value, place.tensor, axes, where=where)
