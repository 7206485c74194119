"""α and β in numbers: means and spread over real regions, background apart."""

import numpy as np
import pytest
from fakes import random_batch, tiny_config

from ragaf_jax.evaluation.statistics.bootstrap import bootstrap_interval
from ragaf_jax.evaluation.statistics.fusion_balance import balance, region_balance


def drawn(rng):
    """Random α and β at three timesteps; those of padding regions are no numbers."""
    batch = random_batch(rng, tiny_config(2), 5)
    counts = batch.graph.n_node[:, 0]
    alpha = rng.random((3, 5, batch.graph.nodes.shape[1]))
    for i, count in enumerate(counts):
        alpha[:, i, count:] = np.nan
    return batch, counts, np.stack([alpha, 1 - alpha], -1).astype(np.float32)


def test_every_real_region_is_there_once(rng):
    batch, counts, fusion = drawn(rng)
    regions = region_balance(fusion, batch.graph)
    assert np.bincount(regions.drawing).tolist() == counts.tolist()
    assert np.isfinite(regions.alpha).all()
    expected = np.concatenate([fusion[:, i, :count, 0] for i, count in enumerate(counts)], 1)
    np.testing.assert_array_equal(regions.alpha, expected.astype(np.float64))
    # Region 0 of each random graph is the background.
    first = np.flatnonzero(regions.background)
    np.testing.assert_array_equal(regions.drawing[first], np.arange(5))
    np.testing.assert_array_equal(regions.alpha[:, first], fusion[:, :, 0, 0])


def test_means_and_spread_are_over_regions(rng):
    batch, counts, fusion = drawn(rng)
    regions = region_balance(fusion, batch.graph)
    others = regions.alpha[:, ~regions.background]
    found = balance(others)
    assert found.regions == counts.sum() - 5
    for level in range(3):
        values = [float(x) for i, n in enumerate(counts) for x in fusion[level, i, 1:n, 0]]
        assert found.alpha[level] == pytest.approx(np.mean(values))
        assert found.beta[level] == pytest.approx(1 - np.mean(values))
        assert found.sd[level] == pytest.approx(np.std(values))
    interval = bootstrap_interval(others[0], regions.drawing[~regions.background], rng=rng)
    assert interval.low <= found.alpha[0] <= interval.high


def test_on_paper():
    found = balance(np.array([[0.2, 0.4], [1.0, 1.0]]))
    assert found.regions == 2
    np.testing.assert_allclose(found.alpha, [0.3, 1.0])
    np.testing.assert_allclose(found.beta, [0.7, 0.0])
    np.testing.assert_allclose(found.sd, [0.1, 0.0])
    assert balance(np.zeros((4, 0))) is None
