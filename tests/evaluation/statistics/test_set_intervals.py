"""Intervals of whole sets: a mean's as the textbook has it, and true coverage for the others."""

import numpy as np
import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.metrics.frechet import frechet_distance
from ragaf_jax.evaluation.metrics.inception_score import inception_score
from ragaf_jax.evaluation.metrics.kernel import cmmd, polynomial_mmd2
from ragaf_jax.evaluation.statistics.set_intervals import set_interval


def mean(values):
    return float(np.mean(values))


def test_a_mean_has_the_normal_interval(rng):
    values = rng.normal(3, 2, 401)
    interval = set_interval(mean, values, rng=rng, resamples=4000)
    error = values.std() / 20
    assert interval.value == values.mean()
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_the_spread_is_laid_about_the_value_in_reverse(rng):
    """Where halves lie far above their mean, the expectation may lie far below the value."""
    values = rng.exponential(size=40)
    interval = set_interval(lambda x: mean(x) ** 6, values, rng=rng, resamples=2000)
    below, above = interval.value - interval.low, interval.high - interval.value
    assert below > 1.3 * above > 0


def test_rows_of_all_sets_stay_together_and_come_once(rng):
    seen = []

    def look(first, second):
        assert (first == second[:, 0]).all() and len(set(first)) == len(first)
        seen.append(len(first))
        return 0.0

    rows = np.arange(11.0)
    set_interval(look, rows, np.stack([rows, -rows], -1), rng=rng, resamples=3)
    assert seen == [11, 5, 5, 5]


def scores(logits):
    return inception_score(logits, rng=np.random.default_rng(0), splits=1).mean


# A metric, and how to draw its sets: FID of fewer examples than features and of more.
CASES = {
    "FID, n < d": (frechet_distance, (40, 60)),
    "FID, n > d": (frechet_distance, (60, 8)),
    "KID": (polynomial_mmd2, (40, 10)),
    "CMMD": (cmmd, (40, 10)),
    "Inception score": (scores, (60, 8)),
}


@pytest.fixture
def rng():
    """The same numbers in every run: coverage on other samples may pass a bound by chance."""
    return np.random.default_rng(0)


def draw(metric, rng, n, d):
    """A generated and a real set that belong together, row by row."""
    real = np.abs(rng.normal(size=(n, d)))
    made = 0.6 * real + 0.7 * np.abs(rng.normal(0.2, 1.3, (n, d)))
    return (3 * made,) if metric is scores else (made, real)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "FID, n < d",
        pytest.param("FID, n > d", marks=pytest.mark.products),
        "KID",
        pytest.param("CMMD", marks=pytest.mark.products),
        "Inception score",
    ],
)
def test_covers_the_expectation_as_often_as_it_says(rng, name):
    metric, shape = CASES[name]
    truth = np.mean([metric(*draw(metric, rng, *shape)) for _ in range(1000)])
    hits = 0
    for _ in range(200):
        interval = set_interval(
            metric, *draw(metric, rng, *shape), confidence=0.9, rng=rng, resamples=60
        )
        hits += interval.low <= truth <= interval.high
    # 180 expected; five standard deviations either side, and what 60 resamples lose.
    assert 152 <= hits <= 200


def test_what_is_enclosed_is_held_fixed(rng):
    real, made = rng.normal(size=(2, 60, 4))
    both = set_interval(frechet_distance, made, real, rng=rng, resamples=300)
    given = set_interval(lambda x: frechet_distance(x, real), made, rng=rng, resamples=300)
    assert both.value == given.value
    assert both.low < given.low < given.value < given.high < both.high


def test_the_difference_of_two_runs_is_a_metric(rng):
    """Runs that are nearly the same differ by less than either is sure."""
    real, first = rng.normal(size=(2, 80, 4))
    second = first + rng.normal(0, 0.05, first.shape)
    alone = set_interval(frechet_distance, first, real, rng=rng, resamples=200)
    paired = set_interval(
        lambda a, b, real: frechet_distance(a, real) - frechet_distance(b, real),
        *(first, second, real),
        rng=rng,
        resamples=200,
    )
    assert paired.value == frechet_distance(first, real) - frechet_distance(second, real)
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_same_generator_same_interval(rng):
    values = rng.normal(size=30)
    runs = [set_interval(mean, values, rng=np.random.default_rng(1)) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0].low < runs[0].value < runs[0].high


def test_more_confidence_is_wider(rng):
    values = rng.normal(size=60)
    low, high = (set_interval(mean, values, confidence=c, rng=rng) for c in (0.5, 0.99))
    assert high.low < low.low <= low.high < high.high


def test_one_example_is_its_own_interval(rng):
    assert set_interval(mean, np.array([0.25]), rng=rng) == (0.25, 0.25, 0.25)


def test_wrong_input_is_named(rng):
    values = rng.normal(size=3)
    with pytest.raises(UserError, match="confidence is 95"):
        set_interval(mean, values, confidence=95.0, rng=rng)
