"""The CLIP score: a cosine, cut at nothing."""

import numpy as np
import pytest
from scipy.spatial.distance import cosine

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.metrics.clip_score import clip_scores


def test_is_the_cosine_where_it_is_positive(rng):
    pictures, texts = rng.normal(size=(2, 30, 8)).astype(np.float32)
    expected = [100 * max(0.0, 1 - cosine(*pair)) for pair in zip(pictures, texts, strict=True)]
    scores = clip_scores(pictures, texts)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    assert (scores == 0).any() and (scores > 0).any()


def test_ends_scale_and_order(rng):
    pictures, texts = rng.normal(size=(2, 9, 5))
    np.testing.assert_allclose(clip_scores(pictures, 3 * pictures), 100)
    assert not clip_scores(pictures, -pictures).any()
    order, scale = rng.permutation(9), rng.uniform(0.1, 9, (9, 1))
    scores = clip_scores(pictures, texts)
    np.testing.assert_allclose(clip_scores(texts, pictures), scores)
    np.testing.assert_allclose(clip_scores(scale * pictures, texts), scores, atol=1e-12)
    np.testing.assert_allclose(clip_scores(pictures[order], texts[order]), scores[order])


def test_an_embedding_without_direction_is_named(rng):
    pictures, texts = rng.normal(size=(2, 3, 5))
    texts[2] = 0
    with pytest.raises(UserError, match="number 2 is zero"):
        clip_scores(pictures, texts)
