"""Two runs on the same examples: the p-value by all signs, and how often it cries wolf."""

import itertools

import numpy as np
import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.statistics.bootstrap import bootstrap_interval
from ragaf_jax.evaluation.statistics.paired import paired_difference


def test_p_is_the_share_of_signs_as_extreme(rng):
    for shift in (0.0, 0.4):
        first, second = rng.normal(size=(2, 10)) + [[shift], [0]]
        difference = first - second
        signs = np.array(list(itertools.product((-1, 1), repeat=10)))
        exact = np.mean(abs(signs @ difference) >= abs(difference.sum()) - 1e-9)
        p = paired_difference(first, second, rng=rng, resamples=20_000).p_value
        assert p == pytest.approx(exact, abs=5 * np.sqrt(exact / 20_000) + 1e-4)


def test_interval_is_that_of_the_differences(rng):
    first, second = rng.normal(size=(2, 40))
    groups = rng.integers(0, 12, 40)
    result = paired_difference(first, second, groups, rng=np.random.default_rng(3))
    expected = bootstrap_interval(first - second, groups, rng=np.random.default_rng(3))
    assert result.interval == expected


def test_what_is_common_to_both_runs_does_not_count(rng):
    """Examples differ far more than runs do; unpaired, nothing would be seen."""
    hard = rng.normal(0, 10, 60)
    first, second = hard + 0.5 + rng.normal(0, 0.2, 60), hard + rng.normal(0, 0.2, 60)
    interval, p = paired_difference(first, second, rng=rng, resamples=2000)
    assert interval.low > 0.3 and interval.high < 0.7
    assert p == 1 / 2001


def test_no_difference_is_seldom_found():
    """Also in values that are alike within a drawing. One fixed sample: a p-value is a draw."""
    rng, values = np.random.default_rng(0), []
    for _ in range(300):
        runs = rng.normal(size=(2, 15)).repeat(4, 1)
        groups = np.arange(15).repeat(4)
        values.append(paired_difference(*runs, groups, rng=rng, resamples=200).p_value)
    # Uniform: 30 of 300 under a tenth and 150 under a half, five standard deviations either side.
    assert np.sum(np.array(values) <= 0.1) <= 56
    assert 107 <= np.sum(np.array(values) <= 0.5) <= 193


def test_without_its_groups_repetition_passes_for_evidence(rng):
    runs = rng.normal(size=(2, 8)).repeat(50, 1)
    runs[0] += 0.8
    groups = np.arange(8).repeat(50)
    alone, grouped = (paired_difference(*runs, g, rng=rng) for g in (None, groups))
    assert alone.p_value < grouped.p_value
    assert grouped.p_value >= 2 / 2**8 / 2


def test_turning_the_runs_round_turns_the_sign(rng):
    runs = rng.normal(size=(2, 30))
    there = paired_difference(*runs, rng=np.random.default_rng(4))
    back = paired_difference(*runs[::-1], rng=np.random.default_rng(4))
    assert there.p_value == back.p_value
    np.testing.assert_allclose(there.interval.value, -back.interval.value)


def test_the_same_values_twice_are_no_difference(rng):
    values = rng.normal(size=20)
    assert paired_difference(values, values, rng=rng) == ((0, 0, 0), 1)


def test_wrong_input_is_named(rng):
    with pytest.raises(UserError, match="3 and 2 values"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0], rng=rng)
    with pytest.raises(UserError, match="1 of them not finite"):
        paired_difference([1.0, np.nan], [1.0, 2.0], rng=rng)
    with pytest.raises(UserError, match="2 values have 1 groups"):
        paired_difference([1.0, 2.0], [1.0, 2.0], [0], rng=rng)
