"""α and β in numbers: means and spread over real regions, background apart."""

import numpy as np
import pytest
from fakes import random_batch, tiny_config

from ragaf_jax.evaluation.statistics.fusion_balance import (
    RegionBalance,
    fusion_summary,
    region_balance,
)


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
    found = fusion_summary(regions, (1.0, 0.5, 0.0))["drawn"]
    assert found["regions"] == counts.sum() - 5
    for level, (alpha, low, high) in enumerate(found["alpha"]):
        values = [float(x) for i, n in enumerate(counts) for x in fusion[level, i, 1:n, 0]]
        assert alpha == pytest.approx(np.mean(values))
        assert found["sd"][level] == pytest.approx(np.std(values))
        assert low <= alpha <= high


def test_on_paper():
    alpha = np.array([[0.2, 0.4], [1.0, 1.0]])
    regions = RegionBalance(np.arange(2), np.zeros(2, bool), alpha)
    found = fusion_summary(regions, (1.0, 0.0))
    assert found.keys() == {"levels", "all", "drawn"}  # without background
    assert found["all"] == found["drawn"] and found["all"]["regions"] == 2
    np.testing.assert_allclose([mean for mean, *_ in found["all"]["alpha"]], [0.3, 1.0])
    np.testing.assert_allclose(found["all"]["sd"], [0.1, 0.0], atol=1e-12)
    nothing = RegionBalance(np.arange(0), np.zeros(0, bool), np.zeros((4, 0)))
    assert fusion_summary(nothing, (1.0,)) == {"levels": [1.0]}
