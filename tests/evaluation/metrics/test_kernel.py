"""KID and CMMD against their definitions, pair by pair."""

import itertools

import numpy as np
import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.metrics import kernel
from ragaf_jax.evaluation.metrics.kernel import cmmd, polynomial_mmd2


def two_sets(rng, n=13, m=9, d=6):
    return np.abs(rng.normal(size=(n, d))), np.abs(rng.normal(0.3, 1.2, (m, d)))


def polynomial(x, y):
    return (x @ y / len(x) + 1) ** 3


def gaussian(x, y):
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    return np.exp(-np.square(x - y).sum() / 200)


def mean_of(function, first, second):
    return np.mean([function(x, y) for x in first for y in second])


def mean_of_others(function, rows):
    return np.mean([function(x, y) for x, y in itertools.permutations(rows, 2)])


def test_unbiased_estimate_by_its_definition(rng):
    first, second = two_sets(rng)
    expected = (
        mean_of_others(polynomial, first)
        + mean_of_others(polynomial, second)
        - 2 * mean_of(polynomial, first, second)
    )
    np.testing.assert_allclose(polynomial_mmd2(first, second), expected, rtol=1e-9)


def test_cmmd_by_its_definition(rng):
    first, second = two_sets(rng)
    expected = (
        mean_of(gaussian, first, first)
        + mean_of(gaussian, second, second)
        - 2 * mean_of(gaussian, first, second)
    )
    np.testing.assert_allclose(cmmd(first, second), 1000 * expected, rtol=1e-9)


@pytest.mark.parametrize("metric", [polynomial_mmd2, cmmd])
def test_blocks_symmetry_and_order_change_nothing(rng, metric, monkeypatch):
    first, second = two_sets(rng, 23, 31)
    distance = metric(first, second)
    monkeypatch.setattr(kernel, "BLOCK", 7)
    for other in (
        metric(first, second),
        metric(second, first),
        metric(rng.permutation(first), rng.permutation(second)),
    ):
        np.testing.assert_allclose(other, distance, rtol=1e-9)


def test_the_unbiased_estimate_is_about_nothing_for_alike_sets(rng):
    values = [polynomial_mmd2(*rng.normal(size=(2, 12, 5))) for _ in range(400)]
    assert abs(np.mean(values)) < 5 * np.std(values) / 20
    assert np.min(values) < 0


def test_cmmd_of_a_set_with_itself_is_nothing(rng):
    rows = rng.normal(size=(20, 8))
    assert abs(cmmd(rows, rng.permutation(rows))) < 1e-11
    # Only directions count, and the farthest apart are opposite.
    assert abs(cmmd(rows, rows * rng.uniform(0.1, 9, (20, 1)))) < 1e-11
    assert cmmd(rows[:1], -rows[:1]) == pytest.approx(2000 * (1 - np.exp(-0.02)))


def test_wrong_sets_are_named(rng):
    first, second = two_sets(rng)
    with pytest.raises(UserError, match="needs 2"):
        polynomial_mmd2(first[:1], second)
    with pytest.raises(UserError, match="has 0 example"):
        cmmd(first[:0], second)
    second[4] = 0
    with pytest.raises(UserError, match="number 4 is zero"):
        cmmd(first, second)
    second[2, 0] = np.nan
    with pytest.raises(UserError, match="not finite, such as number 2"):
        polynomial_mmd2(first, second)
