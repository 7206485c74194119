"""The Inception score by entropies, and at its two ends."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.metrics.inception_score import inception_score


@pytest.mark.parametrize("splits", [1, 4, 10])
def test_is_the_information_between_picture_and_class(rng, splits):
    """Runs as torch-fidelity cuts them: from i n // splits to (i + 1) n // splits."""
    logits = rng.normal(0, 3, (23, 7)).astype(np.float32)
    order = np.random.default_rng(5).permutation(23)
    given = softmax(logits[order].astype(np.float64), axis=1)
    scores = []
    for i in range(splits):
        run = given[i * 23 // splits : (i + 1) * 23 // splits]
        scores.append(np.exp(entropy(run.mean(0)) - entropy(run, axis=1).mean()))
    score = inception_score(logits, rng=np.random.default_rng(5), splits=splits)
    np.testing.assert_allclose(score, (np.mean(scores), np.std(scores)), rtol=1e-9, atol=1e-12)


def test_from_one_to_the_number_of_classes(rng):
    sure = 1e4 * np.eye(6)[rng.permutation(np.arange(60) % 6)]
    np.testing.assert_allclose(inception_score(sure, rng=rng, splits=1), (6, 0), rtol=1e-12)
    np.testing.assert_allclose(inception_score(0 * sure, rng=rng), (1, 0), atol=1e-12)
    # All sure, and all of one class.
    np.testing.assert_allclose(inception_score(sure[:1].repeat(20, 0), rng=rng), (1, 0), atol=1e-12)


def test_order_scale_of_probabilities_and_names_of_classes(rng):
    logits = rng.normal(0, 2, (30, 5))
    mean = inception_score(logits, rng=rng, splits=1).mean
    for other in (
        rng.permutation(logits),
        rng.permutation(logits, axis=1),
        logits + rng.normal(size=(30, 1)),
    ):
        np.testing.assert_allclose(inception_score(other, rng=rng, splits=1).mean, mean, rtol=1e-9)


def test_wrong_input_is_named(rng):
    logits = rng.normal(size=(4, 3))
    for splits in (0, 5):
        with pytest.raises(UserError, match=f"4 examples.*{splits} splits"):
            inception_score(logits, rng=rng, splits=splits)
    logits[1, 1] = np.nan
    with pytest.raises(UserError, match="not finite, such as number 1"):
        inception_score(logits, rng=rng, splits=1)
