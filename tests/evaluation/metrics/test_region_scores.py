"""Scores of a partition against their definitions, pixel by pixel and pair by pair."""

import itertools

import numpy as np
import pytest
from scipy.stats import hypergeom
from skimage.metrics import adapted_rand_error

from ragaf_jax.evaluation.metrics.region_scores import score_regions


@pytest.fixture
def maps(rng):
    """A function () → found labels, true labels, counted pixels: small, random, related."""

    def draw():
        shape = tuple(rng.integers(3, 7, 2))
        true = rng.integers(0, rng.integers(2, 5), shape)
        found = np.where(rng.random(shape) < rng.random(), true, rng.integers(0, 9, shape))
        counted = rng.random(shape) < 0.8
        counted[0, :2] = True
        return found * 3 + 1, true + 2, counted  # names need be neither dense nor from 0

    return draw


def pairs_together(labels):
    return np.array([a == b for a, b in itertools.combinations(labels.tolist(), 2)])


def test_rand_index_of_all_pairs(maps):
    for _ in range(40):
        found, true, counted = maps()
        one, other = (pairs_together(labels[counted]) for labels in (found, true))
        if (one == other).all() and (one == one[0]).all():
            continue  # both of them one region, or a region a pixel: see the last test
        expected = hypergeom(len(one), one.sum(), other.sum()).mean()  # of random partitions
        score = ((one & other).sum() - expected) / ((one.sum() + other.sum()) / 2 - expected)
        np.testing.assert_allclose(score_regions(found, true, counted).rand, score, atol=1e-12)


def test_rand_index_of_the_pairs_of_scikit_image(maps):
    """Its precision and recall are the shares of the pairs together that are so in both maps."""
    for _ in range(40):
        found, true, counted = maps()
        found, true = found[counted], true[counted]
        one, other = pairs_together(found).sum(), pairs_together(true).sum()
        every = len(true) * (len(true) - 1) / 2
        chance = one * other / every
        if 0 in (one, other) or (one + other) / 2 == chance:
            continue
        _, share_of_true, share_of_found = adapted_rand_error(true, found, ignore_labels=())
        np.testing.assert_allclose(share_of_true * other, share_of_found * one, atol=1e-12)
        score = (share_of_true * other - chance) / ((one + other) / 2 - chance)
        everywhere = np.ones((1, len(true)), bool)
        scores = score_regions(found[None], true[None], everywhere)
        np.testing.assert_allclose(scores.rand, score, atol=1e-12)


def test_iou_covering_and_leak_by_their_definitions(maps):
    for _ in range(40):
        found, true, counted = maps()
        scores = score_regions(found, true, counted)
        found_regions = [set(np.flatnonzero((found == n) & counted)) for n in np.unique(found)]
        true_regions = [set(np.flatnonzero((true == n) & counted)) for n in np.unique(true)]
        found_regions, true_regions = (
            [region for region in regions if region] for regions in (found_regions, true_regions)
        )
        assert (scores.found, scores.true) == (len(found_regions), len(true_regions))
        best = [
            max(len(region & other) / len(region | other) for other in found_regions)
            for region in true_regions
        ]
        covering = np.dot(best, [len(region) for region in true_regions])
        kept = sum(max(len(region & other) for other in true_regions) for region in found_regions)
        np.testing.assert_allclose(scores.iou, np.mean(best), rtol=1e-12)
        np.testing.assert_allclose(scores.covering, covering / counted.sum(), rtol=1e-12)
        np.testing.assert_allclose(scores.leak, 1 - kept / counted.sum(), atol=1e-12)


def test_the_best_and_the_worst(rng):
    page = np.repeat(np.arange(4), 25).reshape(10, 10)
    everywhere = np.ones(page.shape, bool)
    assert score_regions(5 - page, page, everywhere) == (1, 1, 1, 0, 4, 4)
    whole = score_regions(np.zeros_like(page), page, everywhere)
    np.testing.assert_allclose(whole, (0, 0.25, 0.25, 0.75, 1, 4))
    for alike in (np.zeros_like(page), np.arange(100).reshape(10, 10)):
        assert score_regions(alike, alike, everywhere).rand == 1
    unrelated = [
        score_regions(rng.integers(0, 4, page.shape), page, everywhere).rand for _ in range(200)
    ]
    assert abs(np.mean(unrelated)) < 0.01
