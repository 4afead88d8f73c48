"""Compares the best classes of a net's outputs, sample by sample: what a user of a classifier sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from demitasse.ir.graph import Graph
from demitasse.ir.ops import Softmax, Unary, UnaryFunction
from demitasse.ir.weights import Array
from demitasse_validation.metrics import Ranking, kl_divergence, rank, wilson
from demitasse_validation.report import Class, Ranked, RankResult
from demitasse_validation.tolerances import BlobKind, Rule

__all__ = ["Ranks", "blob_kind", "channel_axis", "class_axis", "named", "rows"]


def blob_kind(graph: Graph, name: str) -> BlobKind:
    """Say what the numbers of a blob are: a distribution is what a Softmax or a sigmoid gives as an output."""
    if not graph.type(name).dtype.is_float:
        return BlobKind.INTEGERS
    if name not in graph.outputs:
        return BlobKind.VALUES
    op = next((node.op for node in graph.nodes if name in node.outputs), None)
    is_sigmoid = isinstance(op, Unary) and op.function is UnaryFunction.SIGMOID
    return BlobKind.DISTRIBUTION if isinstance(op, Softmax) or is_sigmoid else BlobKind.VALUES


def channel_axis(graph: Graph, name: str) -> int:
    """Return the axis of a blob that tells one kind of number from another: an image's channels, a row's classes."""
    rank = graph.type(name).rank
    return graph.layout.channel_axis(rank) if rank > 2 else rank - 1


def class_axis(graph: Graph, name: str, labels: Sequence[str] | None) -> int | None:
    """Return the axis of an output along which classes are ranked, or None where it ranks none.

    An output ranks classes where a Softmax gives it, or where one of its dimensions has as many entries as there are
    labels, and it holds one such row a sample.
    """
    shape = graph.type(name).shape
    op = next((node.op for node in graph.nodes if name in node.outputs), None)
    if isinstance(op, Softmax):
        axis = op.axis
    elif labels and len(shape) > 1 and shape[1] == len(labels) and graph.type(name).dtype.is_float:
        axis = 1
    else:
        return None
    others = [dim for place, dim in enumerate(shape) if place not in {0, axis}]
    return axis if axis > 0 and shape[axis] > 1 and all(dim == 1 for dim in others) else None


def rows(array: Array, axis: int) -> Array:
    """Return an output as `[samples, classes]`."""
    return np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])


def named(ranking: Ranking | None, labels: Sequence[str] | None) -> tuple[Class, ...] | None:
    """Give the ranked classes their labels; without labels a class is called by its number."""
    if ranking is None:
        return None
    return tuple(
        Class(place, labels[place] if labels and place < len(labels) else str(place), score)
        for place, score in zip(ranking.places, ranking.scores, strict=True)
    )


@dataclass
class Ranks:
    """Collects the rankings of one output; `add` takes what source and artifact gave for some samples."""

    output: str
    axis: int
    top: int
    labels: Sequence[str] | None
    rule: Rule
    kind: BlobKind
    ranked: list[Ranked] = field(default_factory=list)
    divergence: float = 0.0

    def add(self, names: Sequence[str], expected: Array, given: Array) -> None:
        expected_rows, given_rows = rows(expected, self.axis), rows(given, self.axis)
        for name, scores, candidate in zip(names, expected_rows, given_rows, strict=False):
            ranking = rank(scores, self.top)
            scale = 1.0 if self.kind is BlobKind.DISTRIBUTION else float(np.abs(scores).max())
            self.ranked.append(
                Ranked(
                    name,
                    named(ranking, self.labels),
                    named(rank(candidate, self.top), self.labels),
                    float("nan") if ranking is None else ranking.margin,
                    self.rule.top1_margin * scale,
                )
            )
        if self.kind is BlobKind.DISTRIBUTION:
            divergence = kl_divergence(expected_rows, given_rows)
            self.divergence = divergence if not divergence <= self.divergence else self.divergence

    def result(self) -> RankResult:
        agreeing = sum(ranked.agrees for ranked in self.ranked)
        bounds = wilson(agreeing, len(self.ranked))
        overlap = float(np.mean([ranked.overlap for ranked in self.ranked])) if self.ranked else 0.0
        return RankResult(
            self.output, self.top, len(self.ranked), agreeing, overlap, bounds.low, bounds.high, tuple(self.ranked)
        )
