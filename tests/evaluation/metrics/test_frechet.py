"""The Fréchet distance against its formula with matrix roots, and what must not change it."""

import numpy as np
import pytest
import scipy.linalg

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.metrics.frechet import frechet_distance


def two_sets(rng, n, m, d):
    """Two related sets, non-negative and correlated as pooled features are."""
    mixing = rng.normal(size=(d, d)) * rng.exponential(size=d) / np.sqrt(d)
    return tuple(
        np.maximum(rng.normal(size=(count, d)) @ mixing + shift, 0)
        for count, shift in ((n, 0.3), (m, 0.4))
    )


def by_roots(first, second, trace_of_root):
    covariances = [np.cov(rows, rowvar=False) for rows in (first, second)]
    gap = first.mean(0) - second.mean(0)
    rank = min(len(first), len(second), first.shape[1] + 1) - 1
    return gap @ gap + sum(map(np.trace, covariances)) - 2 * trace_of_root(*covariances, rank)


def of_product(one, other, _):
    """Tr (S₁S₂)^½ by Schur's method."""
    return np.trace(scipy.linalg.sqrtm(one @ other)).real


def symmetric(one, other, rank):
    """Tr (S₁^½ S₂ S₁^½)^½, the same trace by eigenvalues, which may be 0."""
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # Beyond the rank they are 0 but for rounding, the root of which would not be.
    squares = np.linalg.eigvalsh(root @ other @ root)[-rank:]
    return np.sqrt(np.maximum(squares, 0)).sum()


@pytest.mark.parametrize("n, m", [(150, 170), (150, 25), (25, 150), (16, 20), (65, 64), (2, 2)])
def test_is_the_formula_with_a_root(rng, n, m):
    sets = two_sets(rng, n, m, 64)
    np.testing.assert_allclose(frechet_distance(*sets), by_roots(*sets, symmetric), rtol=1e-7)


def test_is_the_formula_with_the_root_of_the_product(rng):
    sets = two_sets(rng, 150, 120, 64)
    np.testing.assert_allclose(frechet_distance(*sets), by_roots(*sets, of_product), rtol=1e-7)


@pytest.mark.parametrize(
    "n, m, d", [(300, 650, 512), pytest.param(1200, 2600, 2048, marks=pytest.mark.full_size)]
)
def test_at_the_width_of_inception(rng, n, m, d):
    first, second = two_sets(rng, n, m, d)
    expected = by_roots(first, second, symmetric)
    first, second = first.astype(np.float32), second.astype(np.float32)
    np.testing.assert_allclose(frechet_distance(first, second), expected, rtol=1e-5)


def test_gaussians_of_known_distance(rng):
    """Of uncorrelated coordinates: squared differences of means and of deviations."""
    means, deviations = rng.normal(size=(2, 3)), rng.uniform(0.5, 2, (2, 3))
    white = [np.linalg.qr(rows - rows.mean(0))[0] for rows in rng.normal(size=(2, 50, 3))]
    sets = np.stack(white) * np.sqrt(49) * deviations[:, None] + means[:, None]
    expected = (
        np.square(np.diff(means, axis=0)).sum() + np.square(np.diff(deviations, axis=0)).sum()
    )
    np.testing.assert_allclose(frechet_distance(*sets), expected, rtol=1e-9)


@pytest.mark.parametrize("n, d", [(40, 12), (12, 40), (2, 5), (9, 1)])
def test_a_set_is_at_no_distance_from_itself(rng, n, d):
    rows = rng.normal(3, 2, (n, d))
    scale = np.square(rows).sum()
    for same in (rows, rng.permutation(rows)):
        assert abs(frechet_distance(rows, same)) < 1e-13 * scale


@pytest.mark.parametrize("n, m, d", [(30, 50, 8), (8, 12, 30)])
def test_symmetry_order_scale_and_turning(rng, n, m, d):
    first, second = two_sets(rng, n, m, d)
    distance = frechet_distance(first, second)
    assert distance > 0
    turn, _ = np.linalg.qr(rng.normal(size=(d, d)))
    shift = rng.normal(size=d)
    for other in (
        frechet_distance(second, first),
        frechet_distance(rng.permutation(first), rng.permutation(second)),
        frechet_distance(3 * first, 3 * second) / 9,
        frechet_distance(first @ turn + shift, second @ turn + shift),
    ):
        np.testing.assert_allclose(other, distance, rtol=1e-9)


def test_a_shift_alone_is_its_squared_length(rng):
    rows, shift = rng.normal(size=(50, 20)), rng.normal(size=20)
    np.testing.assert_allclose(frechet_distance(rows, rows + shift), shift @ shift, rtol=1e-9)


def test_wrong_sets_are_named(rng):
    rows = rng.normal(size=(5, 3))
    with pytest.raises(UserError, match=r"1 example\(s\).*needs 2"):
        frechet_distance(rows[:1], rows)
    broken = rows.copy()
    broken[3, 1] = np.inf
    with pytest.raises(UserError, match="not finite, such as number 3"):
        frechet_distance(rows, broken)
