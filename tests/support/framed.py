"""Drawings that tests of the evaluation know everything about."""

import numpy as np

from ragaf_jax.batch import Truth
from ragaf_jax.palette import PALETTE_RGB


def framed_halves(rng, count=6, side=64):
    """Halves in two colours that differ, a black line around and between them."""
    colors = np.stack([rng.permutation(np.arange(1, 11))[:2] for _ in range(count)])
    images = np.full((count, side, side, 3), 255, np.uint8)
    labels = np.zeros((count, side, side), np.uint8)
    sketch = np.full((count, side, side), 255, np.uint8)
    first, middle, last = side // 6, side // 2 - 1, side - side // 6 - 2
    for line in (first, middle, last):
        sketch[:, first : last + 2, line : line + 2] = 0
    for line in (first, last):
        sketch[:, line : line + 2, first : last + 2] = 0
    labels[:, first + 2 : last, first + 2 : middle] = 1
    labels[:, first + 2 : last, middle + 2 : last] = 2
    for i, pair in enumerate(colors):
        for part, color in enumerate(pair, 1):
            images[i][labels[i] == part] = PALETTE_RGB[color]
    images[sketch == 0] = 0
    captions = tuple(f"drawing {i} | <b>" for i in range(count))
    keys = tuple(f"key{i}" for i in range(count))
    return Truth(images, sketch, labels, colors.astype(np.int32), captions, keys)
