"""Bootstrap intervals: textbook width, true coverage, and what clusters do to both."""

import numpy as np
import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.statistics.bootstrap import bootstrap_interval


@pytest.fixture
def rng():
    """The same numbers in every run: other samples may exceed the bounds below by chance."""
    return np.random.default_rng(0)


def test_independent_values_give_the_normal_interval(rng):
    values = rng.normal(3, 2, 400)
    interval = bootstrap_interval(values, rng=rng)
    error = values.std() / 20
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_groups_resample_whole_drawings(rng):
    """Values that only repeat their drawing carry no more than one value per drawing."""
    drawings = rng.normal(size=100)
    repeated, groups = drawings.repeat(9), np.arange(100).repeat(9)
    alone = bootstrap_interval(drawings, rng=rng)
    clustered = bootstrap_interval(repeated, groups, rng=rng)
    naive = bootstrap_interval(repeated, rng=rng)
    width, clustered_width, naive_width = (i.high - i.low for i in (alone, clustered, naive))
    assert clustered_width == pytest.approx(width, rel=0.06)
    assert naive_width == pytest.approx(width / 3, rel=0.06)


def test_a_large_drawing_counts_with_all_its_values(rng):
    """The interval is about the mean of the values, 0.1, not about the mean of groups, 0.5."""
    values, groups = np.repeat([1.0, 0.0], [40, 360]), np.arange(80).repeat([1] * 40 + [9] * 40)
    interval = bootstrap_interval(values, groups, rng=rng)
    assert interval.value == pytest.approx(0.1)
    assert 0.05 < interval.low < 0.1 < interval.high < 0.2


def test_covers_the_truth_as_often_as_it_says(rng):
    """Clusters of unlike sizes with a common shift each; the truth is 0."""
    hits = 0
    for _ in range(200):
        sizes = rng.integers(1, 6, 60)
        groups = np.arange(60).repeat(sizes)
        values = rng.normal(size=60)[groups] + rng.normal(size=len(groups))
        interval = bootstrap_interval(values, groups, 0.9, rng=rng, resamples=400)
        hits += interval.low <= 0 <= interval.high
    # 180 expected; five standard deviations either side.
    assert 158 <= hits <= 200


def test_names_and_order_of_groups_do_not_matter(rng):
    values, groups = rng.normal(size=50), rng.integers(0, 9, 50)
    names = np.array([f"drawing {'zyxwvutsr'[g]}" for g in groups])
    order = rng.permutation(50)
    first = bootstrap_interval(values, groups, rng=np.random.default_rng(5))
    renamed = bootstrap_interval(values, 8 - groups, rng=rng)
    shuffled = bootstrap_interval(values[order], names[order], rng=np.random.default_rng(6))
    for other in (renamed, shuffled):
        np.testing.assert_allclose(other, first, atol=0.08)


def test_same_generator_same_interval(rng):
    values = rng.normal(size=30)
    runs = [bootstrap_interval(values, rng=np.random.default_rng(1)) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0].low < runs[0].value < runs[0].high


def test_more_confidence_is_wider(rng):
    values = rng.normal(size=60)
    low, high = (bootstrap_interval(values, confidence=c, rng=rng) for c in (0.5, 0.99))
    assert high.low < low.low <= low.high < high.high


def test_one_value_or_one_group_is_its_own_interval(rng):
    assert bootstrap_interval([0.25], rng=rng) == (0.25, 0.25, 0.25)
    assert bootstrap_interval([0.0, 1.0], ["a", "a"], rng=rng) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    "values, groups, confidence, words",
    [
        ([], None, 0.95, "got 0"),
        ([1.0, np.nan], None, 0.95, "1 of them"),
        ([1.0, 2.0], [0], 0.95, "2 values have 1 groups"),
        ([1.0, 2.0], None, 95.0, "confidence is 95"),
    ],
)
def test_wrong_input_is_named(rng, values, groups, confidence, words):
    with pytest.raises(UserError, match=words):
        bootstrap_interval(values, groups, confidence, rng=rng)
