"""Ranges of tensors, against what the evaluator computes for the same samples."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from cases import Case, case
from demitasse.errors import UsageError
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph, Origin
from demitasse.ir.ops import TensorType, Unary, UnaryFunction
from demitasse.ir.weights import Array
from demitasse.quantize.calibrate import calibrate
from demitasse.samples import Samples
from demitasse.targets import TARGETS, lower, simplify

Sample = dict[str, Array]


def lowered(one: Case) -> Graph:
    return lower(simplify(one.graph), TARGETS["tflite-int8"])


def samples_of(one: Case, count: int) -> list[Sample]:
    """Returns samples in the source's layout, the second one reaching farther than the others."""
    factors = [1.0, 3.0, *[0.5] * count][:count]
    return [{name: array * np.float32(factor) for name, array in one.inputs.items()} for factor in factors]


def exponential() -> Graph:
    graph = Graph("exponential")
    graph.add_input("x", TensorType((1, 4)))
    graph.outputs.append(graph.add(Unary(UnaryFunction.EXP), ["x"], "y", Origin("y", "Exp")))
    return graph


@pytest.mark.parametrize("name", ["residual_net", "inception", "squeeze_and_excite", "deconv_grouped"])
def test_ranges_are_the_extremes_over_all_samples(name: str) -> None:
    one = case(name)
    graph, samples = lowered(one), samples_of(one, 3)
    ranges = calibrate(graph, samples)
    values = [evaluate(one.graph, sample) for sample in samples]
    shared = graph.values.keys() & one.graph.values.keys()
    assert len(shared) > 1
    for value in shared:
        low, high = min(each[value].min() for each in values), max(each[value].max() for each in values)
        assert ranges[value] == pytest.approx((low, high), rel=1e-4, abs=1e-5), value


def test_what_the_writer_adds_has_a_range_too() -> None:
    one = case("conv_strided")
    ranges = calibrate(lowered(one), [one.inputs])
    assert "y/padded" in ranges


def test_samples_are_dropped_one_by_one() -> None:
    one = case("residual_net")
    alive: list[weakref.ref[Array]] = []

    def samples() -> Iterator[Sample]:
        for sample in samples_of(one, 4):
            copy = sample["data"].copy()
            assert sum(reference() is not None for reference in alive) <= 1
            alive.append(weakref.ref(copy))
            yield {"data": copy}

    calls: list[tuple[int, int]] = []
    calibrate(lowered(one), samples(), lambda done, total: calls.append((done, total)))
    assert calls == [(1, 0), (2, 0), (3, 0), (4, 0)]


def test_progress_knows_the_end_where_there_is_one() -> None:
    one = case("residual_net")
    calls: list[tuple[int, int]] = []
    calibrate(lowered(one), samples_of(one, 2), lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "nothing to calibrate with"),
        ([{"x": np.ones((1, 3), np.float32)}], r"sample 1 .*'x' has shape \[1, 3\], the input takes \[1, 4\]"),
        ([{}], "sample 1 .*no array for input 'x'"),
        ([{"x": np.ones((1, 4), np.float32), "z": np.ones(1)}], "array 'z', which is no input"),
        ([{"x": np.array([[1, 2, np.nan, 3]], np.float32)}], "'x' holds values that are not finite"),
        ([{"x": np.ones((1, 4), np.float32)}, {"x": np.full((1, 4), 90, np.float32)}], "sample 2: 'y' becomes inf"),
    ],
)
def test_samples_that_would_spoil_the_ranges_are_refused(samples: list[Sample], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        calibrate(exponential(), samples)


def test_a_bad_sample_is_named() -> None:
    arrays = np.zeros((3, 1, 4), np.float32)
    arrays[2, 0, 1] = np.inf
    samples = Samples(("a.png", "b.png", "c.png"), lambda index: {"x": arrays[index]})
    with pytest.raises(UsageError, match=r"c\.png can't be used .*not finite"):
        calibrate(exponential(), samples)
