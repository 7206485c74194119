"""Matches the regions of an edited sketch with those before the edit."""

import numpy as np

from ragaf_jax.sampling.numbered import NumberedRegions

# Least intersection over union of matching regions. A stroke that halves a region leaves 0.5.
LEAST_OVERLAP = 0.25


def match_regions(before: NumberedRegions, after: NumberedRegions) -> dict[int, int]:
    """Pairs regions greedily by falling intersection over union, each region once.

    Background matches background only: the inside of a new frame around the page is no background.

    Args:
      before, after: partitions of pages of the same size.

    Returns:
      Numbers in `after` by numbers in `before`, without regions that no longer exist.
    """
    old, new = before.regions, after.regions
    pairs = (old.labels * new.n + new.labels).ravel()
    shared = np.bincount(pairs, minlength=old.n * new.n).reshape(old.n, new.n)
    union = shared.sum(1, keepdims=True) + shared.sum(0, keepdims=True) - shared
    overlap = np.where(old.background[:, None] == new.background, shared / union, 0)
    found: dict[int, int] = {}
    for pair in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = divmod(int(pair), new.n)
        if overlap[i, j] < LEAST_OVERLAP:
            break
        one, other = before.numbers[i], after.numbers[j]
        if one not in found and other not in found.values():
            found[one] = other
    return found
