"""CLIP score: agreement of an image with its text."""

import numpy as np
from jaxtyping import Float, Float64

from ragaf_jax.evaluation.metrics.features import as_directions


def clip_scores(
    images: Float[np.ndarray, "n d"], texts: Float[np.ndarray, "n d"]
) -> Float64[np.ndarray, " n"]:
    """100 · max(cos, 0) of CLIP's embeddings of each image and its text; 0 … 100, 100 is best.

    Hessel et al. 2021, sec. 3, with torchmetrics' factor 100 instead of 2.5. As in the paper, each
    score is clipped at 0; torchmetrics clips the mean.

    Raises UserError for embeddings that are zero or not finite.
    """
    cosine = (as_directions(images) * as_directions(texts)).sum(-1)
    return 100 * np.maximum(cosine, 0.0)
