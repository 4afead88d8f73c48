"""Inputs to time a model on: seeded noise, at the batch that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from demitasse.errors import MalformedModel, UsageError
from demitasse.ir.document import Document
from demitasse.ir.weights import Array
from demitasse.targets import target_of
from demitasse_validation.runtimes import TensorSpec

__all__ = ["batch_axes", "batched", "document_at", "fixed_batch", "noise"]


def document_at(path: Path) -> Document | None:
    """Read what an artifact says of itself; None where another tool wrote it."""
    target = target_of(path)
    try:
        return None if target is None else target.read_document(path)
    except (MalformedModel, OSError):  # whether the file is sound is for its runtime to say
        return None


def batch_axes(document: Document | None, inputs: Mapping[str, TensorSpec]) -> dict[str, int]:
    """Map the inputs that have a batch to the axis that it stands on: what the document says, or else the first."""
    if document is None:
        return {name: 0 for name, spec in inputs.items() if spec.shape}
    ports = {port.tensor: port for port in document.inputs}
    return {name: ports[name].axes.index(0) for name in inputs if name in ports and 0 in ports[name].axes}


def fixed_batch(axes: Mapping[str, int], inputs: Mapping[str, TensorSpec]) -> int | None:
    """Return the batch that a model was made for; None where it takes any."""
    return next((size for name, axis in axes.items() if (size := inputs[name].shape[axis]) is not None), None)


def batched(
    where: str, axes: Mapping[str, int], inputs: Mapping[str, TensorSpec], batch: int
) -> dict[str, tuple[int, ...]]:
    """Return every input's shape at a batch.

    Raises:
        UsageError: the batch is fixed at another size, or a dimension besides it is free.
    """
    fixed = fixed_batch(axes, inputs)
    if fixed not in (None, batch):
        raise UsageError(f"{where}: takes a batch of {fixed} only; convert it with --batch dynamic or --batch {batch}")
    shapes = {}
    for name, spec in inputs.items():
        shape = tuple(batch if axis == axes.get(name) else dim for axis, dim in enumerate(spec.shape))
        if None in shape:
            raise UsageError(f"{where}: input {name!r} ({spec}) has free dimensions; convert it with --input-shape")
        shapes[name] = tuple(dim for dim in shape if dim is not None)
    return shapes


def noise(inputs: Mapping[str, TensorSpec], shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Array]:
    """Make seeded inputs: normal for real numbers, all values for 8-bit ones, zeros for indices of unknown range."""
    random = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for name, shape in shapes.items():
        dtype = np.dtype(inputs[name].dtype)
        if dtype.kind == "f":
            feeds[name] = random.standard_normal(shape, np.float32).astype(dtype, copy=False)
        elif dtype.itemsize == 1 and dtype.kind in "iu":
            limits = np.iinfo(dtype)
            feeds[name] = random.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        else:
            feeds[name] = np.zeros(shape, dtype)
    return feeds
