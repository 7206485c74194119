"""FID: the Fréchet distance between Gaussians fitted to two sets of features."""

import numpy as np
from jaxtyping import Float, Float64

from ragaf_jax.evaluation.metrics.features import as_samples


def frechet_distance(
    features: Float[np.ndarray, "n d"], reference: Float[np.ndarray, "m d"]
) -> float:
    """‖μ₁ − μ₂‖² + Tr(S₁ + S₂ − 2 (S₁S₂)^½), with covariances of divisor n − 1; 0 … ∞, 0 is best.

    On Inception v3's pool features it is the FID (Heusel et al. 2017, eq. 6). It decreases with the
    number of examples (Chong & Forsyth 2020): compare only sets of one size.

    With S = AᵀA for either set, the nonzero eigenvalues of S₁S₂ are those of MᵀM, M = A₁A₂ᵀ. So the
    trace of the root is the sum of M's singular values. Unlike the root of a singular product, this
    is exact for covariances of any rank.

    Raises UserError for a set of fewer than two examples or with features that are not finite.
    """
    features, reference = (as_samples(rows, least=2) for rows in (features, reference))
    between = features.mean(0) - reference.mean(0)
    first, second = _root(features), _root(reference)
    own = np.square(first).sum() + np.square(second).sum()
    return float(between @ between + own - 2 * np.linalg.norm(first @ second.T, "nuc"))


def _root(features: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "k d"]:
    """A with AᵀA the covariance and at most d rows, so the cost is bounded by d³."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    return np.linalg.qr(centred, mode="r")  # type: ignore[return-value]  # the stub knows no modes
