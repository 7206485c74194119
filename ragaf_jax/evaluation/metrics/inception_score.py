"""Inception score: confident classes per image, diverse classes over all images."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax, rel_entr

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.metrics.features import as_samples


class InceptionScore(NamedTuple):
    """The mean and the population standard deviation over splits."""

    mean: float
    sd: float


def inception_score(
    logits: Float[np.ndarray, "n classes"], *, rng: np.random.Generator, splits: int = 10
) -> InceptionScore:
    """exp(mean KL(p(y | x) ‖ p(y))) (Salimans et al. 2016, sec. 4), 1 … number of classes.

    As in torch-fidelity, the examples are shuffled and cut into splits of equal length ± 1, and
    p(y) is a split's mean. It measures fidelity to ImageNet's classes, not to sketch or prompt.

    rng: for the shuffle. splits: their number.

    Raises UserError for fewer examples than splits or logits that are not finite.
    """
    logits = as_samples(logits)
    if not 1 <= splits <= len(logits):
        raise UserError(
            f"{len(logits)} examples cannot be cut into {splits} splits; "
            f"choose splits from 1 to {len(logits)}."
        )
    given = np.exp(log_softmax(logits[rng.permutation(len(logits))], axis=-1))
    ends = np.arange(splits + 1) * len(given) // splits
    scores = [
        np.exp(rel_entr(run, run.mean(0, keepdims=True)).sum(-1).mean())
        for run in np.split(given, ends[1:-1])
    ]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))
