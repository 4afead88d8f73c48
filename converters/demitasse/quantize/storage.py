"""Store calibrations and recipes as JSON, so that a net is calibrated and examined once."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from demitasse.errors import UsageError
from demitasse.ir.graph import Graph
from demitasse.ir.weights import Array
from demitasse.quantize.equalize import Exponents
from demitasse.quantize.ranges import Ranges

__all__ = ["Calibration", "Recipe", "load_calibration", "load_recipe", "save_calibration", "save_recipe"]

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Calibration:
    """What samples told of a lowered graph.

    Attributes:
        ranges: with which range each tensor is stored.
        means: the mean of each tensor's channels.
        notes: what was odd about the samples or the ranges.
        equalized: by what channels of the graph have to be multiplied for these ranges to be theirs.
        up: which weights of kernels are rounded up, the others of these kernels being rounded down.
    """

    ranges: Ranges
    means: Mapping[str, Array]
    notes: tuple[str, ...] = ()
    equalized: Exponents = field(default_factory=dict)
    up: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which results of a net's nodes are computed with real numbers in an 8-bit artifact, by target."""

    real: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def save_calibration(path: Path, target: str, graph: Graph, calibration: Calibration) -> None:
    """Add a target's calibration to a file, which is made where there is none.

    Raises:
        UsageError: the file is there and can't be read as calibrations, or can't be written.
    """
    data: dict[str, Any] = {"schema": SCHEMA, "ranges": {}}
    if path.exists():
        data = _load(path, "ranges")
    data["ranges"][target] = {
        "net": _digest(graph),
        "tensors": {name: list(map(float, limits)) for name, limits in calibration.ranges.items()},
        "means": {name: [float(f"{mean:.9g}") for mean in means] for name, means in calibration.means.items()},
        "notes": list(calibration.notes),
        "equalized": {name: list(exponents) for name, exponents in calibration.equalized.items()},
        "up": {name: base64.b64encode(np.packbits(up).tobytes()).decode() for name, up in calibration.up.items()},
    }
    _save(path, data)


def load_calibration(path: Path, target: str, graph: Graph) -> Calibration | None:
    """Read a target's calibration; None if there is no file, or none for this target in it.

    Raises:
        UsageError: the file holds no calibrations, or those of another net.
    """
    if not path.exists():
        return None
    entry = _load(path, "ranges")["ranges"].get(target)
    if entry is None:
        return None
    try:
        if entry["net"] != _digest(graph):
            raise UsageError(f"{path}: its ranges are those of another net; name another file, or calibrate anew")
        ranges = {name: (float(low), float(high)) for name, (low, high) in entry["tensors"].items()}
        means = {name: np.array(means, np.float32) for name, means in entry["means"].items()}
        finite = all(math.isfinite(limit) for pair in ranges.values() for limit in pair)
        if not finite or not all(np.isfinite(array).all() for array in means.values()):
            raise UsageError(f"{path}: it holds numbers that aren't finite")
        equalized = {name: tuple(map(int, exponents)) for name, exponents in entry.get("equalized", {}).items()}
        up = {name: _bits(bits, graph, name) for name, bits in entry.get("up", {}).items()}
        return Calibration(ranges, means, tuple(map(str, entry["notes"])), equalized, up)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: its ranges are damaged: {error!r}") from error


def _bits(text: str, graph: Graph, name: str) -> Array:
    """Read a bit for each weight of a kernel.

    Raises:
        KeyError: the graph has no such kernel.
        ValueError: the bits aren't as many as its weights.
    """
    shape = graph.weights.type(name).shape
    packed = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    if len(packed) != -(-math.prod(shape) // 8):
        raise ValueError(f"{name!r} has other weights")
    return np.unpackbits(packed, count=math.prod(shape)).astype(bool).reshape(shape)


def save_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe.

    Raises:
        UsageError: it can't be written.
    """
    _save(path, {"schema": SCHEMA, "real": {target: list(names) for target, names in recipe.real.items()}})


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        UsageError: the file can't be read, or is none.
    """
    data = _load(path, "real")["real"]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in data.values()):
        raise UsageError(f"{path}: a recipe lists names by target")
    return Recipe({target: tuple(names) for target, names in data.items()})


def _load(path: Path, key: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: can't be read: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get(key), dict):
        raise UsageError(f"{path}: it isn't a file that this version wrote: no {key!r} of schema {SCHEMA}")
    return data


def _save(path: Path, data: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: can't be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _digest(graph: Graph) -> str:
    """Identify a lowered graph by its operations, names and shapes, and a sample of its weights."""
    lines = [f"{node.op!r} {node.inputs} {node.outputs}" for node in graph.nodes]
    lines += [f"{name} {value.type}" for name, value in graph.values.items()]
    digest = hashlib.sha256("\n".join(lines).encode())
    for name in graph.weights:
        # Biases and slopes are small and tell nets of one architecture apart.
        if graph.weights.type(name).rank == 1:
            digest.update(np.ascontiguousarray(graph.weights[name]).tobytes())
    return digest.hexdigest()
