"""Matches the regions of an edited sketch with those of the sketch before."""

import numpy as np

from ragaf_jax.sampling.numbered import NumberedRegions

# Least intersection over union of two regions that count as the same one. A stroke through the
# middle of a region leaves a half of it, which still does.
LEAST_OVERLAP = 0.25


def match_regions(before: NumberedRegions, after: NumberedRegions) -> dict[int, int]:
    """Pairs each region with the one that overlaps it most, best pairs first, each region once.

    Background is paired with background only: the inside of a frame that is drawn around the page
    is not the sky of before.

    Args:
      before, after: partitions of pages of the same size.

    Returns:
      Numbers in `after`, by those in `before`; regions that no longer exist are left out.
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
