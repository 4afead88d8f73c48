"""Find the range of every tensor that a net computes, over sample inputs.

The net runs as it is deployed: as a float model in LiteRT or ONNX Runtime, every tensor made an output, so that what
the writer adds (padded images, sums before an activation) gets its range too. Samples are made, used and dropped one by
one, the next one while the net runs; tensors are counted on all cores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from demitasse.errors import UsageError
from demitasse.ir.graph import Graph
from demitasse.ir.weights import Array
from demitasse.quantize.engines import EngineKind, cores, open_engine, stored_inputs
from demitasse.quantize.histogram import Histogram
from demitasse.quantize.kernels import Moments
from demitasse.quantize.ranges import METHODS, Method, Range, Ranges, squared_error
from demitasse.samples import Sample, Samples

__all__ = ["Histograms", "Method", "Range", "Ranges", "calibrate", "choose", "observe"]

Histograms = dict[str, Histogram]
Progress = Callable[[int, int], None]


def calibrate(
    graph: Graph,
    samples: Iterable[Sample],
    progress: Progress | None = None,
    *,
    method: Method = Method.MIN_MAX,
    engine: EngineKind = EngineKind.LITERT,
) -> Ranges:
    """Return the range of each real-valued tensor.

    Args:
        graph: lowered for the format that the engine runs. Its batch is that of a sample; a dynamic one stands for 1.
        samples: one array an input each, in the source's layout.
        progress: called after each sample with the number done and the number of all (0 if unknown).
        method: how ranges are chosen.
        engine: the runtime.

    Raises:
        UsageError: there are no samples, one doesn't fit the graph, or one holds or gives a number that isn't finite.
    """
    histograms = observe(graph, samples, progress, engine=engine, count=method is not Method.MIN_MAX)
    return choose(histograms, method, whole=(*graph.inputs, *graph.outputs))


def choose(histograms: Histograms, method: Method, *, whole: Collection[str] = ()) -> Ranges:
    """Choose a range for each tensor.

    Args:
        histograms: what `observe` counted.
        method: `auto` takes for each tensor the range, of all methods, with the least measured squared error.
        whole: tensors that keep all of their range: the largest elements of inputs and outputs are the ones that count.
    """
    ranges = {}
    for name, histogram in histograms.items():
        if name in whole:
            ranges[name] = METHODS[Method.MIN_MAX](histogram)
        elif method is Method.AUTO:
            candidates = [choose_one(histogram) for choose_one in METHODS.values()]
            ranges[name] = min(candidates, key=partial(_error, histogram))
        else:
            ranges[name] = METHODS[method](histogram)
    return ranges


def observe(
    graph: Graph,
    samples: Iterable[Sample],
    progress: Progress | None = None,
    *,
    engine: EngineKind = EngineKind.LITERT,
    count: bool = True,
    moments: Moments | None = None,
) -> Histograms:
    """Return the distribution of each real-valued tensor; without `count`, its extremes alone.

    `moments` takes in what products read, in the same run.

    Raises:
        UsageError: see `calibrate`.
    """
    total = len(samples) if isinstance(samples, Sized) else 0
    histograms: Histograms = {}
    done = 0
    with (
        tempfile.TemporaryDirectory(prefix="demitasse-") as folder,
        ThreadPoolExecutor(cores()) as pool,
    ):
        runner = open_engine(graph, engine, Path(folder))
        axis = 1 if engine is EngineKind.ONNX_RUNTIME else -1

        def take(name: str, array: Array) -> None:
            histograms.setdefault(name, Histogram(axis)).add(array, count=count)
            if moments is not None:
                moments.add(name, array)

        for done, (where, sample) in enumerate(_named(samples), 1):
            runner.show(stored_inputs(graph, sample, where), take, pool)
            for name, histogram in histograms.items():
                if not np.isfinite((histogram.low, histogram.high)).all():
                    raise UsageError(f"{where}: {name!r} becomes infinite or not a number; INT8 needs finite values")
            del sample
            if progress is not None:
                progress(done, total)
    if not done:
        raise UsageError("there is nothing to calibrate with: give one sample at least, better a hundred")
    return histograms


def _error(histogram: Histogram, range: Range) -> float:
    return float(squared_error(histogram, *range))


def _named(samples: Iterable[Sample]) -> Iterator[tuple[str, Sample]]:
    """Give each sample with its name; those that can be made by number are made one ahead of use."""
    if not isinstance(samples, Samples):
        for place, sample in enumerate(samples, 1):
            yield f"calibration sample {place}", sample
        return
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(samples.make, 0) if len(samples) else None
        for place, name in enumerate(samples.names):
            sample = waiting.result() if waiting else samples.make(place)
            waiting = pool.submit(samples.make, place + 1) if place + 1 < len(samples) else None
            yield name, sample
