"""Checks of features: finite, float64, enough examples."""

import numpy as np
from jaxtyping import Float, Float64

from ragaf_jax.errors import UserError


def as_samples(features: Float[np.ndarray, "n d"], least: int = 1) -> Float64[np.ndarray, "n d"]:
    """The features in float64; UserError for fewer than `least` rows or values not finite."""
    if len(features) < least:
        raise UserError(
            f"the set has {len(features)} example(s) and the metric needs {least}; "
            "evaluate more images."
        )
    broken = np.flatnonzero(~np.isfinite(features).all(-1))
    if broken.size:
        raise UserError(
            f"the features of {broken.size} example(s) are not finite, such as number {broken[0]};"
            " check the images and the network's weights."
        )
    return features.astype(np.float64)


def as_directions(embeddings: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, "n d"]:
    """The embeddings scaled to length 1; UserError as in `as_samples`, and for one that is zero."""
    rows = as_samples(embeddings)
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    if not length.all():
        raise UserError(
            f"the embedding of example number {int(length.argmin())} is zero and has no direction; "
            "check the network's weights."
        )
    return rows / length
