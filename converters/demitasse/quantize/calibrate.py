"""Find the range of every tensor that a net computes, over sample inputs.

The net runs as it is deployed: as a float TFLite model in LiteRT with XNNPACK, every tensor made an output, so that
what the writer adds (padded images, sums before an activation) gets its range too. Minima and maxima are taken over all
samples; a moving average, which quantizers commonly use, cuts off what is rare and costs 8 to 15 dB on small nets.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from typing import TypeAlias

import numpy as np

from demitasse.errors import UsageError
from demitasse.ir.graph import Graph
from demitasse.ir.weights import Array
from demitasse.samples import Sample, Samples
from demitasse.writers.tflite.assemble import assemble

__all__ = ["Range", "Ranges", "calibrate"]

Range: TypeAlias = tuple[float, float]
Ranges: TypeAlias = dict[str, Range]


def calibrate(graph: Graph, samples: Iterable[Sample], progress: Callable[[int, int], None] | None = None) -> Ranges:
    """Return the smallest and the largest element of each real-valued tensor over all samples.

    Args:
        graph: lowered for TFLite. Its batch is that of a sample; a dynamic one stands for 1.
        samples: one array an input each, in the source's layout. They are made, used and dropped one by one.
        progress: called after each sample with the number done and the number of all (0 if unknown).

    Raises:
        UsageError: there are no samples, one doesn't fit the graph, or one holds or gives a number that isn't finite.
    """
    total = len(samples) if isinstance(samples, Sized) else 0
    ranges: Ranges = {}
    with tempfile.TemporaryDirectory(prefix="demitasse-") as folder:
        runner = _Runner(graph, Path(folder) / "all.tflite")
        done = 0
        for done, sample in enumerate(samples, 1):
            where = samples.names[done - 1] if isinstance(samples, Samples) else f"calibration sample {done}"
            runner.update(ranges, sample, where)
            if progress is not None:
                progress(done, total)
    if not done:
        raise UsageError("there is nothing to calibrate with: give one sample at least, better a hundred")
    return ranges


class _Runner:
    """Runs a graph in LiteRT with all of its tensors as outputs."""

    def __init__(self, graph: Graph, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.graph = graph
        with path.open("wb") as file:
            assemble(graph, integer=True).write(file, keep_all=True)
        self._interpreter = Interpreter(str(path), num_threads=_cores())
        self._interpreter.allocate_tensors()
        self._inputs = {detail["name"]: detail for detail in self._interpreter.get_input_details()}
        details = (*self._interpreter.get_input_details(), *self._interpreter.get_output_details())
        self._views: dict[str, Callable[[], Array]] = {
            detail["name"]: self._interpreter.tensor(detail["index"])
            for detail in details
            if np.dtype(detail["dtype"]).kind == "f"
        }

    def update(self, ranges: Ranges, sample: Sample, where: str) -> None:
        """Run one sample and widen the ranges by what it gives."""
        for name, stored in self._stored(sample, where).items():
            self._interpreter.set_tensor(self._inputs[name]["index"], stored)
        self._interpreter.invoke()
        for name, view in self._views.items():
            low, high = _extremes(view())
            if not np.isfinite((low, high)).all():
                raise UsageError(f"{where}: {name!r} becomes infinite or not a number; INT8 needs finite values")
            before = ranges.get(name, (low, high))
            ranges[name] = (min(low, before[0]), max(high, before[1]))

    def _stored(self, sample: Sample, where: str) -> dict[str, Array]:
        """Return the sample as the graph stores its inputs."""
        faults = [f"it has no array for input {name!r}" for name in self.graph.inputs if name not in sample]
        faults += [f"it has an array {name!r}, which is no input" for name in sample if name not in self.graph.inputs]
        result = {}
        for name in self.graph.inputs:
            if name not in sample:
                continue
            faults += _faults(name, sample[name], self._source_shape(name))
            if not faults:
                stored = self.graph.values[name].storage.store(np.asarray(sample[name]))
                result[name] = np.ascontiguousarray(stored, self._inputs[name]["dtype"])
        if faults:
            raise UsageError(f"{where} can't be used for calibration: {'; '.join(faults)}")
        return result

    def _source_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape that an input has in the source."""
        value = self.graph.values[name]
        stored = tuple(map(int, self._inputs[name]["shape"]))
        if value.storage.view is not None:
            return stored
        return tuple(stored[axis] for axis in np.argsort(value.storage.axes))


def _faults(name: str, array: Array, shape: tuple[int, ...]) -> Iterable[str]:
    if array.shape != shape:
        yield f"array {name!r} has shape {list(array.shape)}, the input takes {list(shape)}"
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        yield f"array {name!r} holds values that are not finite"


def _extremes(array: Array) -> Range:
    return float(array.min()), float(array.max())


def _cores() -> int:
    """Count the processor's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
