"""The metrics, on pairs that are good and on pairs that are bad in the ways that conversions go bad."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from demitasse_validation import metrics
from demitasse_validation.metrics import METRICS, Sums, kl_divergence, rank, wilson

Floats = npt.NDArray[np.float32]

# Large enough for several blocks, and not a multiple of one.
REFERENCE = np.random.default_rng(0).standard_normal((2, 5, 60, 61)).astype(np.float32)


def with_nan(x: Floats) -> Floats:
    x[1, 4, 59, 60] = np.nan
    return x


def with_infinity(x: Floats) -> Floats:
    x[0, 0, 0, 0] = -np.inf
    return x


def with_a_dead_channel(x: Floats) -> Floats:
    x[:, 3] = 0
    return x


BAD: dict[str, Callable[[Floats], Floats]] = {
    "nan": with_nan,
    "infinity": with_infinity,
    "scaled": lambda x: x * np.float32(1.01),
    "channels permuted": lambda x: x[:, [1, 0, 2, 3, 4]],
    "zeros": np.zeros_like,
    "one dead channel": with_a_dead_channel,
    "shifted by one": lambda x: np.roll(x, 1, axis=-1),
}

# A limit that a sound float32 artifact keeps with ease.
LIMITS = {
    "relative_to_peak": 1e-4,
    "max_abs": 1e-4,
    "mean_abs": 1e-5,
    "cosine": 1 - 1e-9,
    "sqnr_db": 80.0,
    "psnr_db": 80.0,
    "nonfinite": 0.0,
}
# What a metric can't see by its nature.
BLIND = {("cosine", "scaled")} | {("nonfinite", fault) for fault in BAD if fault not in {"nan", "infinity"}}


def measured(name: str, reference: Floats, candidate: Floats) -> float:
    return METRICS[name].of(Sums.of(reference, candidate))


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_candidate_gets_the_best_value(name: str) -> None:
    metric = METRICS[name]
    best = measured(name, REFERENCE, REFERENCE.copy())
    assert best == pytest.approx(metric.best)
    assert metric.holds(best, LIMITS[name])
    assert metric.slack(best, LIMITS[name]) <= 1


@pytest.mark.parametrize("name", METRICS)
def test_float_rounding_is_accepted(name: str) -> None:
    rounded = np.nextafter(REFERENCE, np.float32(9))
    assert METRICS[name].holds(measured(name, REFERENCE, rounded), LIMITS[name])


@pytest.mark.parametrize(
    ("name", "fault"), [(name, fault) for name in METRICS for fault in BAD if (name, fault) not in BLIND]
)
def test_a_bad_candidate_is_seen(name: str, fault: str) -> None:
    value = measured(name, REFERENCE, BAD[fault](REFERENCE.copy()))
    assert not METRICS[name].holds(value, LIMITS[name])
    assert METRICS[name].slack(value, LIMITS[name]) > 1


def test_the_figures_are_right() -> None:
    reference = np.array([[3.0, -4.0]], np.float32)
    candidate = np.array([[3.0, -3.0]], np.float32)
    assert measured("relative_to_peak", reference, candidate) == 0.25
    assert measured("max_abs", reference, candidate) == 1
    assert measured("mean_abs", reference, candidate) == 0.5
    assert measured("cosine", reference, candidate) == pytest.approx(21 / (5 * math.sqrt(18)))
    assert measured("sqnr_db", reference, candidate) == pytest.approx(10 * math.log10(25))
    assert measured("psnr_db", reference, candidate) == pytest.approx(10 * math.log10(32))


@pytest.mark.parametrize("fault", BAD)
def test_adding_up_images_is_measuring_all_at_once(fault: str) -> None:
    candidate = BAD[fault](REFERENCE.copy())
    whole = Sums.of(REFERENCE, candidate)
    parts = Sums.of(REFERENCE[:1], candidate[:1]) + Sums.of(REFERENCE[1:], candidate[1:])
    for metric in METRICS.values():
        assert metric.of(parts) == pytest.approx(metric.of(whole), nan_ok=True)


def test_a_nan_survives_every_sum() -> None:
    """Whichever image holds it."""
    sick = Sums.of(REFERENCE, with_nan(REFERENCE.copy()))
    well = Sums.of(REFERENCE, REFERENCE)
    for total in (sick + well, well + sick, well + sick + well):
        assert total.nonfinite == 1
        assert math.isnan(METRICS["relative_to_peak"].of(total))
        assert not METRICS["sqnr_db"].holds(METRICS["sqnr_db"].of(total), -math.inf)


def test_a_nan_in_the_reference_excuses_nothing() -> None:
    sums = Sums.of(with_nan(REFERENCE.copy()), with_nan(REFERENCE.copy()))
    assert sums.reference_nonfinite == sums.nonfinite == 1
    assert not METRICS["max_abs"].holds(METRICS["max_abs"].of(sums), math.inf)


def test_silence_is_only_like_silence() -> None:
    zeros = np.zeros((1, 8), np.float32)
    noise = np.full((1, 8), 1e-6, np.float32)
    for name, metric in METRICS.items():
        assert measured(name, zeros, zeros) == metric.best
    assert measured("relative_to_peak", zeros, noise) == math.inf
    assert measured("cosine", zeros, noise) == 0
    assert measured("sqnr_db", zeros, noise) == -math.inf


def test_shapes_are_never_made_to_fit() -> None:
    for other in (REFERENCE.reshape(2, 5, -1), REFERENCE.transpose(0, 1, 3, 2), REFERENCE[:1]):
        with pytest.raises(ValueError, match=r"shapes .* differ"):
            Sums.of(REFERENCE, other)
        with pytest.raises(ValueError, match=r"shapes .* differ"):
            kl_divergence(REFERENCE, other)


def test_the_order_in_memory_does_not_matter() -> None:
    strided = np.ascontiguousarray(REFERENCE.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert Sums.of(REFERENCE, strided).max_abs == 0
    assert REFERENCE.size > metrics.BLOCK


def test_divergence_of_distributions() -> None:
    p = np.array([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])
    assert kl_divergence(p, p) == 0
    q = np.array([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25]])
    assert kl_divergence(p, q) == pytest.approx(0.25 * math.log(0.5) + 0.5 * math.log(2))
    assert kl_divergence(p, np.array([[1.0, 0.0, 0.0], [0.25, 0.25, 0.5]])) == math.inf
    assert math.isnan(kl_divergence(p, np.array([[0.5, 0.5, 0.0], [np.nan, 0.25, 0.5]])))
    assert math.isnan(kl_divergence(p, np.array([[0.5, 0.5, -0.1], [0.25, 0.25, 0.5]])))


def test_ranks_are_stable_and_refuse_nan() -> None:
    ranking = rank(np.array([0.1, 0.4, 0.1, 0.4]), 3)
    assert ranking is not None
    assert ranking.places == (1, 3, 0)
    assert ranking.margin == 0
    single = rank(np.array([0.7]), 5)
    assert single is not None
    assert single.margin == math.inf
    assert rank(np.array([0.1, np.nan]), 1) is None


def test_wilson_bounds() -> None:
    assert wilson(0, 0) == (0, 1)
    assert wilson(16, 16) == pytest.approx((0.8064, 1.0), abs=1e-4)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
