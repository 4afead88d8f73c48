"""Compares the best classes of a net's outputs, sample by sample: what a user of a classifier sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from demitasse.ir.graph import Graph, detections
from demitasse.ir.ops import Softmax, Unary, UnaryFunction
from demitasse.ir.weights import Array
from demitasse_validation.metrics import Ranking, kl_divergence, rank, wilson
from demitasse_validation.report import Class, Ranked, RankResult
from demitasse_validation.tolerances import BlobKind, Rule

__all__ = ["Ranks", "blob_kind", "channel_axis", "class_axis", "named", "rows"]

# On how many other samples noise is measured at least, and how many times its root mean square a lead may be.
ENOUGH, NOISE_TIMES = 4, 4.0

# A probability below this is nothing: its logarithm says no more.
LEAST_PROBABILITY = 1e-30


def blob_kind(graph: Graph, name: str) -> BlobKind:
    """Say what the numbers of a blob are: a distribution is what a Softmax or a sigmoid gives as an output."""
    if not graph.type(name).dtype.is_float:
        return BlobKind.INTEGERS
    if name in detections(graph):
        return BlobKind.DETECTIONS
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


class _Sample(NamedTuple):
    """One sample's rankings; `lead` is the source's of its best class over the second, and `error` what it is off by.

    Both are in shares of the scale that `Ranks` measures on: logarithms of probabilities, or scores.
    """

    name: str
    expected: Ranking | None
    given: Ranking | None
    scale: float
    error: float


@dataclass
class Ranks:
    """Collects the rankings of one output; `add` takes what source and artifact gave for some samples.

    How far an artifact's rounding moves the lead of the best class over the second is measured: on all samples but the
    one that is judged, so that a flip doesn't excuse itself. Leads of probabilities are measured as differences of
    logarithms, which is where rounding moves undecided samples and decided ones alike. A handful of samples measures
    nothing: the rule's `top1_margin` stands in, as it does where an override states one.
    """

    output: str
    axis: int
    top: int
    labels: Sequence[str] | None
    rule: Rule
    kind: BlobKind
    is_stated: bool = False
    divergence: float = 0.0
    _samples: list[_Sample] = field(default_factory=list)

    def add(self, names: Sequence[str], expected: Array, given: Array) -> None:
        expected_rows, given_rows = rows(expected, self.axis), rows(given, self.axis)
        for name, scores, candidate in zip(names, expected_rows, given_rows, strict=False):
            scale = 1.0 if self.kind is BlobKind.DISTRIBUTION else float(np.abs(scores).max())
            ranking = rank(scores, self.top)
            error = float("nan") if ranking is None else self._lead_error(scores, candidate, scale)
            self._samples.append(_Sample(name, ranking, rank(candidate, self.top), scale, error))
        if self.kind is BlobKind.DISTRIBUTION:
            divergence = kl_divergence(expected_rows, given_rows)
            self.divergence = divergence if not divergence <= self.divergence else self.divergence

    def _lead_error(self, scores: Array, candidate: Array, scale: float) -> float:
        """Say how far the lead of the best class over the second is off; NaN where that can't be told."""
        best, second = np.argsort(-scores.astype(np.float64), kind="stable")[:2]
        pairs = np.array([[scores[best], scores[second]], [candidate[best], candidate[second]]], np.float64)
        if self.kind is BlobKind.DISTRIBUTION:
            if not (pairs > LEAST_PROBABILITY).all():
                return float("nan")
            pairs = np.log(pairs)
        leads = pairs[:, 0] - pairs[:, 1]
        return float(abs(leads[1] - leads[0])) / (1.0 if self.kind is BlobKind.DISTRIBUTION else scale or 1.0)

    def _noise(self, place: int) -> float:
        """Say how large a lead noise may turn around on one sample, in the unit of the scores."""
        sample = self._samples[place]
        stated = self.rule.top1_margin * sample.scale
        others = np.array([each.error for index, each in enumerate(self._samples) if index != place])
        others = others[np.isfinite(others)]
        if self.is_stated or len(others) < ENOUGH or sample.expected is None:
            return stated
        lead = NOISE_TIMES * float(np.sqrt(np.mean(np.square(others))))
        if self.kind is not BlobKind.DISTRIBUTION:
            return lead * sample.scale
        # Of two probabilities that sum to s, a difference d of their logarithms makes one of s tanh(d / 2).
        best, margin = sample.expected.scores[0], sample.expected.margin
        return (2 * best - margin) * float(np.tanh(lead / 2))

    def result(self, least: float = 0.0) -> RankResult:
        """Judge all samples; `least` is a lead that rounding may turn around whatever was measured."""
        judged = tuple(
            Ranked(
                sample.name,
                named(sample.expected, self.labels),
                named(sample.given, self.labels),
                float("nan") if sample.expected is None else sample.expected.margin,
                max(least, self._noise(place)),
            )
            for place, sample in enumerate(self._samples)
        )
        agreeing = sum(ranked.agrees for ranked in judged)
        bounds = wilson(agreeing, len(judged))
        overlap = float(np.mean([ranked.overlap for ranked in judged])) if judged else 0.0
        return RankResult(self.output, self.top, len(judged), agreeing, overlap, bounds.low, bounds.high, judged)
