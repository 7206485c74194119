"""KID and CMMD: the maximum mean discrepancy between two sets of features."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float64

from ragaf_jax.evaluation.metrics.features import as_directions, as_samples

BLOCK = 2048
"""Rows per block of the kernel matrix, which takes 32 MiB."""

BANDWIDTH, SCALE = 10.0, 1000.0
"""CMMD's σ and its scale factor (Jayasumana et al. 2024, sec. 4)."""

# A kernel as a function of dot products.
Kernel = Callable[[Float64[np.ndarray, "*shape"]], Float64[np.ndarray, "*shape"]]


def polynomial_mmd2(
    features: Float[np.ndarray, "n d"], reference: Float[np.ndarray, "m d"]
) -> float:
    """The unbiased estimate of MMD² under k(x, y) = (xᵀy / d + 1)³; about 0 for similar sets.

    Gretton et al. 2012, eq. 3, over all examples; may be negative. On Inception v3's pool features
    it is the KID (Bińkowski et al. 2018).

    Raises UserError for a set of fewer than two examples or with features that are not finite.
    """
    # Scaling by 1/√d divides dot products by d.
    x, y = (as_samples(rows, least=2) / np.sqrt(rows.shape[1]) for rows in (features, reference))
    across = _kernel_sum(_polynomial, x, y) / (len(x) * len(y))
    return _mean_of_others(_polynomial, x) + _mean_of_others(_polynomial, y) - 2 * across


def cmmd(embeddings: Float[np.ndarray, "n d"], reference: Float[np.ndarray, "m d"]) -> float:
    """CMMD (Jayasumana et al. 2024): 1000 × MMD² of CLIP's embeddings of images; 0 … 40.

    Under k(x, y) = exp(−‖x − y‖² / 2σ²), σ = 10, on embeddings of length 1. The biased estimate
    (Gretton et al. 2012, eq. 5), which is 0 for a set against itself.

    Raises UserError for an empty set and for embeddings that are zero or not finite.
    """
    x, y = as_directions(embeddings), as_directions(reference)
    within = sum(_kernel_sum(_gaussian, rows, rows) / len(rows) ** 2 for rows in (x, y))
    return SCALE * (within - 2 * _kernel_sum(_gaussian, x, y) / (len(x) * len(y)))


def _polynomial(dots: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    return (dots + 1) ** 3


def _gaussian(dots: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """For vectors of length 1, whose squared distance is 2 − 2 xᵀy."""
    return np.exp((dots - 1) / BANDWIDTH**2)


def _mean_of_others(kernel: Kernel, rows: Float64[np.ndarray, "n d"]) -> float:
    """The mean of the kernel over pairs of different rows."""
    diagonal = float(kernel(np.square(rows).sum(-1)).sum())
    return (_kernel_sum(kernel, rows, rows) - diagonal) / (len(rows) * (len(rows) - 1))


def _kernel_sum(
    kernel: Kernel, first: Float64[np.ndarray, "n d"], second: Float64[np.ndarray, "m d"]
) -> float:
    """The sum of the kernel over all pairs of rows, one of each set."""
    return sum(
        float(kernel(first[i : i + BLOCK] @ second[j : j + BLOCK].T).sum())
        for i in range(0, len(first), BLOCK)
        for j in range(0, len(second), BLOCK)
    )
