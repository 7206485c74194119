"""CLIP score: how well an image matches its text."""

import numpy as np
from jaxtyping import Float, Float64

from ragaf_jax.evaluation.metrics.features import as_directions


def clip_scores(
    pictures: Float[np.ndarray, "n d"], texts: Float[np.ndarray, "n d"]
) -> Float64[np.ndarray, " n"]:
    """100 · max(cos, 0) of CLIP's embeddings of each picture and its text; 0 … 100, 100 is best.

    Hessel et al. 2021, sec. 3, with the factor 100 that torchmetrics has, not the paper's 2.5. Here
    every example's score is cut at 0, as the paper has it; torchmetrics cuts the mean of all.

    Raises UserError for embeddings that are zero or not finite.
    """
    cosine = (as_directions(pictures) * as_directions(texts)).sum(-1)
    return 100 * np.maximum(cosine, 0.0)
