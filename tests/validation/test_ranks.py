"""Rankings: noise is measured on the other samples, and a flip is judged by it."""

from __future__ import annotations

import numpy as np
import pytest

from demitasse.ir.weights import Array
from demitasse_validation.ranks import Ranks
from demitasse_validation.tolerances import BlobKind, Rule

RULE = Rule({}, "any", top1_margin=0.1)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def ranks(logits: Array, given: Array, *, is_stated: bool = False) -> Ranks:
    """Rank two samples' logits, as probabilities; each row is one sample."""
    found = Ranks("prob", 1, 3, None, RULE, BlobKind.DISTRIBUTION, is_stated)
    found.add([str(place) for place in range(len(logits))], softmax(logits), softmax(given))
    return found


@pytest.fixture
def logits() -> Array:
    rng = np.random.default_rng(0)
    leads = np.linspace(1, 8, 12)
    return np.stack([leads, 0 * leads, -3 + rng.random(12)], axis=1)


@pytest.mark.parametrize(("lead", "is_fault"), [(0.02, False), (0.5, True)])
def test_a_flip_is_judged_by_the_noise_of_the_other_samples(logits: Array, lead: float, is_fault: bool) -> None:
    given = logits + np.random.default_rng(1).normal(0, 0.02, logits.shape)
    logits[3, :2] = lead, 0
    given[3, :2] = 0, lead
    result = ranks(logits, given).result()
    flip = result.ranked[3]
    assert not flip.agrees
    assert flip.is_fault == is_fault
    assert 0.01 < flip.noise < 0.08
    assert all(ranked.agrees for place, ranked in enumerate(result.ranked) if place != 3)


def test_a_handful_of_samples_measures_nothing(logits: Array) -> None:
    result = ranks(logits[:4], logits[:4]).result()
    assert {ranked.noise for ranked in result.ranked} == {0.1}
    assert {ranked.noise for ranked in ranks(logits, logits).result(1e-6).ranked} == {1e-6}


def test_a_stated_margin_stands(logits: Array) -> None:
    assert {ranked.noise for ranked in ranks(logits, logits, is_stated=True).result().ranked} == {0.1}


def test_scores_are_measured_in_shares_of_the_largest() -> None:
    scores = np.array([[10.0, 5.0, 1.0]] * 6)
    given = scores + np.array([0.01, -0.01, 0.0])
    found = Ranks("fc", 1, 3, None, RULE, BlobKind.VALUES)
    found.add(list("abcdef"), scores, given)
    assert [ranked.noise for ranked in found.result().ranked] == pytest.approx([4 * 0.02] * 6)
