"""Random numbers of a data set that nobody prepared."""

import numpy as np

from input_pipeline.inspection.statistics import Measured


def random_measured(rng, n=50, captions=120) -> Measured:
    """Of `n` records of up to 20 groups and 30 categories."""
    return Measured(
        groups=[f"g{i}" for i in rng.integers(0, 20, n)],
        categories=[f"c{i}" for i in rng.integers(0, 30, n)],
        sided=[("on the left", "on the right"), ("left alone", None), ("left alone", None)],
        regions=rng.integers(1, 33, n),
        regions_found=rng.integers(1, 60, n),
        edges=rng.integers(1, 400, n),
        ink_share=np.where(rng.random(n) < 0.2, 0.0, rng.random(n)),
        sizes=np.full((n, 2), 64),
        source_sizes=np.full((n, 2), 64),
        caption_tokens=rng.integers(2, 80, captions),
        unknown_words=rng.integers(0, 3, captions),
    )
