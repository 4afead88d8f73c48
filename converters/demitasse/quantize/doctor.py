"""Find the fewest layers of an 8-bit net that must stay real for it to keep its accuracy.

What 8 bits lose, they mostly lose in tensors: a tensor stays real where the layer that gives it and all that read it
do. Such groups of layers are ranked by what the net gains, for each layer in them, when one group alone stays real,
which is measured on a few samples. Then the first of the ranking are kept real, more and more of them, until the target
holds on all held-back samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from demitasse.errors import UsageError
from demitasse.ir.graph import Graph
from demitasse.ir.ops import Conv, ConvTranspose, Dense, MatMul
from demitasse.ir.weights import Array
from demitasse.quantize.engines import Engine, open_artifact

__all__ = ["Diagnosis", "Goal", "Point", "examine", "sqnr", "top1", "with_between"]

RANKING_SAMPLES = 8

_PRODUCTS = Conv | ConvTranspose | Dense | MatMul

Outputs = list[npt.NDArray[np.float64]]
Write = Callable[[Path, Sequence[str]], None]


@dataclass(frozen=True, slots=True)
class Goal:
    """What an 8-bit net must reach, measured against the real one: a part of equal winners, or decibels."""

    metric: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Goal:
        """Read `top1=0.99` or `sqnr=20`.

        Raises:
            UsageError: it is neither.
        """
        metric, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if metric == "top1" and 0 < value <= 1:
            return cls(metric, value)
        if metric == "sqnr" and 0 < value < math.inf:
            return cls(metric, value)
        raise UsageError(f"--int8-target {text}: write it as top1=0.99 or sqnr=20 (decibels)")

    def __str__(self) -> str:
        return f"{self.metric}={self.value:g}"


@dataclass(frozen=True, slots=True)
class Point:
    """A net with some layers real: how it was measured.

    Attributes:
        real: the results of these layers' nodes.
        top1: the part of held-back samples with the real net's winner.
        sqnr: signal to quantization noise of the worst output, in decibels.
        bytes: the artifact's size.
        milliseconds: the median time of a sample.
    """

    real: tuple[str, ...]
    top1: float
    sqnr: float
    bytes: int
    milliseconds: float

    def meets(self, goal: Goal) -> bool:
        return (self.top1 if goal.metric == "top1" else self.sqnr) >= goal.value


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was measured: tensors by what each layer around them gains in decibels, the trade curve, and the choice."""

    goal: Goal
    ranking: tuple[tuple[str, float], ...]
    curve: tuple[Point, ...]
    chosen: Point
    samples: int

    @property
    def met(self) -> bool:
        return self.chosen.meets(self.goal)


def examine(
    graph: Graph,
    goal: Goal,
    reference: Engine,
    feeds: Sequence[Mapping[str, Array]],
    write: Write,
    place: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Find the fewest layers that must stay real.

    Args:
        graph: lowered for the 8-bit target.
        goal: what must hold on the feeds.
        reference: the real net.
        feeds: held-back samples as the graph stores its inputs.
        write: writes the artifact to a path, with the nodes of some results real.
        place: a file name with the artifact's suffix, to write trials to.
        progress: called with the number of layers ranked so far and of all.
    """
    expected = _outputs(reference, feeds, graph.outputs)
    measured: dict[int, Point] = {}

    def trial(layers: Sequence[str], count: int = len(feeds)) -> Point:
        real = with_between(graph, layers)
        write(place, real)
        return _measure(place, real, feeds[:count], graph.outputs, [each[:count] for each in expected])

    measured[0] = trial(())
    ranking: list[tuple[str, float]] = []
    if not measured[0].meets(goal):
        few = min(RANKING_SAMPLES, len(feeds))
        base = trial((), few).sqnr
        groups = around(graph)
        for done, (name, layers) in enumerate(groups.items(), 1):
            ranking.append((name, (trial(layers, few).sqnr - base) / len(layers)))
            if progress is not None:
                progress(done, len(groups))
        ranking.sort(key=lambda entry: -entry[1])
        _search(goal, [groups[name] for name, _ in ranking], trial, measured)
    curve = tuple(measured[count] for count in sorted(measured))
    good = [point for point in curve if point.meets(goal)]
    best = max(curve, key=lambda point: (point.top1 if goal.metric == "top1" else point.sqnr, -len(point.real)))
    return Diagnosis(goal, tuple(ranking), curve, good[0] if good else best, len(feeds))


def around(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Map each input, and each result of a product, to the products that give and read it, by their results."""
    reached: dict[str, list[str]] = {name: [name] for name in graph.inputs}  # whose elements a value is made of
    groups: dict[str, list[str]] = {name: [] for name in graph.inputs}
    for node in graph.nodes:
        sources = list(dict.fromkeys(source for name in node.inputs for source in reached.get(name, ())))
        result = node.outputs[0]
        if isinstance(node.op, _PRODUCTS):
            for source in sources:
                groups[source].append(result)
            groups[result] = [result]
            sources = [result]
        reached |= dict.fromkeys(node.outputs, sources)
    return {name: tuple(layers) for name, layers in groups.items() if layers}


def with_between(graph: Graph, layers: Sequence[str]) -> tuple[str, ...]:
    """Add to products that stay real what stands between them alone: pools, sums and the like, all of it or none."""
    kept = set(layers)
    between = {node.outputs[0] for node in graph.nodes if not isinstance(node.op, _PRODUCTS)} if kept else set()
    producers, consumers = graph.producers(), graph.consumers()
    while True:
        stay = kept | between
        rounded = set()
        for node in graph.nodes:
            makers = [producers[name].outputs[0] for name in node.inputs if name in producers]
            readers = [reader.outputs[0] for name in node.outputs for reader in consumers.get(name, ())]
            if node.outputs[0] in between and not stay.issuperset((*makers, *readers)):
                rounded.add(node.outputs[0])
        if not rounded:
            return tuple(node.outputs[0] for node in graph.nodes if node.outputs[0] in stay)
        between -= rounded


def _search(
    goal: Goal, groups: Sequence[Sequence[str]], trial: Callable[[Sequence[str]], Point], measured: dict[int, Point]
) -> None:
    """Keep 1, 2, 4, ... groups real until the goal holds, then halve the gap to the last count that failed.

    One layer at least stays in 8 bits: with all of them real, any goal would be met, and nothing gained.
    """

    def layers(count: int) -> tuple[str, ...]:
        return tuple(dict.fromkeys(layer for group in groups[:count] for layer in group))

    def first(count: int) -> Point:
        return trial(layers(count))

    every = len(layers(len(groups)))
    most = sum(len(layers(count)) < every for count in range(1, len(groups) + 1))
    failed, count = 0, 1
    while True:
        count = min(count, most)
        if count == failed:
            return
        measured[count] = first(count)
        if measured[count].meets(goal):
            break
        failed, count = count, 2 * count
    while count - failed > 1:
        middle = (count + failed) // 2
        measured[middle] = first(middle)
        if measured[middle].meets(goal):
            count = middle
        else:
            failed = middle


def _measure(
    path: Path, real: tuple[str, ...], feeds: Sequence[Mapping[str, Array]], names: Sequence[str], expected: Outputs
) -> Point:
    engine = open_artifact(path)
    engine.run(feeds[0])
    times: list[float] = []
    found = _outputs(engine, feeds, names, times)
    pairs = list(zip(found, expected, strict=True))
    return Point(
        real,
        min((top1(*pair) for pair in pairs), default=0.0),
        min((sqnr(*pair) for pair in pairs), default=0.0),
        path.stat().st_size,
        float(np.median(times)) * 1e3,
    )


def _outputs(
    engine: Engine, feeds: Sequence[Mapping[str, Array]], names: Sequence[str], times: list[float] | None = None
) -> Outputs:
    """Run every sample; give the real-valued outputs, one row a sample."""
    rows: dict[str, list[Array]] = {}
    for feed in feeds:
        start = time.perf_counter()
        results = engine.run(feed)
        if times is not None:
            times.append(time.perf_counter() - start)
        for name in names:
            if name in results:
                rows.setdefault(name, []).append(results[name].reshape(-1).astype(np.float64))
    return [np.stack(each) for each in rows.values()]


def top1(found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> float:
    """Return the part of rows whose largest element stands at the same place; a row that isn't finite never agrees."""
    finite = np.isfinite(found).all(1) & np.isfinite(expected).all(1)
    return float(np.mean(finite & (found.argmax(1) == expected.argmax(1))))


def sqnr(found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> float:
    """Return the ratio of signal to quantization noise in decibels; minus infinity where a number isn't finite."""
    if not np.isfinite(found).all() or not np.isfinite(expected).all():
        return -math.inf
    noise, signal = float(np.square(found - expected).sum()), float(np.square(expected).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
