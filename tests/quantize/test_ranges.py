"""Distributions that are counted in one pass, and the ranges that each method makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from demitasse.ir.weights import Array
from demitasse.quantize.calibrate import choose
from demitasse.quantize.histogram import MOST, Histogram
from demitasse.quantize.ranges import METHODS, Method, squared_error

RANDOM = np.random.default_rng(5)


def counted(*arrays: Array) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        parts = np.array_split(array, -(-array.size // MOST)) if array.ndim == 1 else [array]
        for part in parts:
            histogram.add(part.astype(np.float32))
    return histogram


def quantized(values: Array, low: float, high: float) -> Array:
    step = (high - low) / 255
    zero = np.rint(-low / step)
    return np.asarray((np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step)


def test_bins_widen_as_samples_reach_farther() -> None:
    small, large = RANDOM.normal(0, 1, 4000), RANDOM.normal(0, 100, 4000)
    one, other = counted(small, large), counted(large, small)
    assert (one.low, one.high, one.width) == (other.low, other.high, other.width)
    assert one.counts.sum() == 8000
    edges = np.arange(-4096, 4097) * one.width
    exact = np.histogram(np.concatenate([small, large]), edges)[0]
    # An element at an edge may fall on either side of it in float32.
    np.testing.assert_allclose(other.counts.cumsum(), exact.cumsum(), atol=1)


def test_memory_and_counts_are_bounded_and_extremes_are_not() -> None:
    values = RANDOM.normal(0, 1, 5 * MOST)
    values[1] = 50
    histogram = Histogram()
    histogram.add(values.astype(np.float32))
    assert histogram.counts.sum() <= MOST
    assert histogram.high == 50


@pytest.mark.parametrize("side", [13, 15, 16, 35, 45])
def test_elements_that_are_counted_stand_everywhere(side: int) -> None:
    """A border that is zero must not be all that is seen, whatever the width."""
    image = np.ones((1, 1 + 3 * MOST // side**2, side, side), np.float32)
    image[..., 0] = image[..., 0, :] = 0
    histogram = Histogram(channel_axis=1)
    histogram.add(image)
    seen = histogram.counts.sum()
    assert MOST / 5 < seen <= MOST
    share = histogram.counts[len(histogram.counts) // 2 + 1 :].sum() / seen
    assert share == pytest.approx(image.mean(), abs=0.02)
    last = Histogram()
    last.add(image.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(last.means, image.mean((0, 2, 3)), atol=0.05)


def test_channels_have_their_means() -> None:
    image = RANDOM.normal(0, 1, (1, 6, 5, 3)) + np.array([1, 2, 3])
    np.testing.assert_allclose(counted(image, image).means, image.mean((0, 1, 2)), rtol=1e-5)
    first = Histogram(channel_axis=1)
    first.add(image.transpose(0, 3, 1, 2).astype(np.float32))
    np.testing.assert_allclose(first.means, image.mean((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("limits", [(-4.0, 4.0), (-1.0, 2.0), (0.0, 3.0)])
def test_the_error_of_a_range_is_what_quantizing_with_it_gives(limits: tuple[float, float]) -> None:
    values = RANDOM.normal(0, 1, 60000)
    error = np.square(quantized(values, *limits) - values).mean()
    assert float(squared_error(counted(values), *limits)) == pytest.approx(error, rel=0.05)


def test_each_method_does_what_it_says() -> None:
    values = RANDOM.normal(0, 1, 2 * MOST)
    values[:3] = 40, -2, 3
    histogram = counted(values[:MOST], values[MOST:])
    ranges = {method: METHODS[method](histogram) for method in METHODS}
    assert ranges[Method.MIN_MAX] == pytest.approx((values.min(), 40))
    assert ranges[Method.MOVING_AVERAGE][1] == pytest.approx(0.95 * 40 + 0.05 * values[MOST:].max(), rel=1e-5)
    assert ranges[Method.PERCENTILE][1] == pytest.approx(np.percentile(values, 99.99), rel=0.05)
    assert ranges[Method.MSE][1] < 40
    assert ranges[Method.ENTROPY][1] < 40


def test_auto_takes_the_least_error_and_spares_ports() -> None:
    values = np.append(RANDOM.normal(0, 1, 60000), 60)
    histograms = {"x": counted(values), "port": counted(values)}
    ranges = choose(histograms, Method.AUTO, whole=["port"])
    errors = [squared_error(histograms["x"], *METHODS[method](histograms["x"])) for method in METHODS]
    assert float(squared_error(histograms["x"], *ranges["x"])) == min(map(float, errors))
    assert ranges["port"] == METHODS[Method.MIN_MAX](histograms["port"])


def test_zeros_alone_have_a_range() -> None:
    for choose_one in METHODS.values():
        assert choose_one(counted(np.zeros(10))) == (0.0, 0.0)
