"""Agreement of a partition with the true partition."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class RegionScores(NamedTuple):
    """Agreement over the counted pixels.

    Attributes:
        rand: adjusted Rand index (Hubert and Arabie 1985, eq. 5), 1 for equal partitions, about 0
            for unrelated ones.
        iou: the unweighted mean over true regions of the best intersection over union with a found
            region, 0 … 1.
        covering: the same, weighted by size (Arbeláez et al. 2011, §3.1.3).
        leak: share of pixels outside the true region with the largest overlap of their found
            region: 1 − achievable segmentation accuracy (Liu et al. 2011, §4.1).
        found: number of regions found.
        true: number of true regions.
    """

    rand: float
    iou: float
    covering: float
    leak: float
    found: int
    true: int


def score_regions(
    found: Int[np.ndarray, "h w"], true: Int[np.ndarray, "h w"], counted: Bool[np.ndarray, "h w"]
) -> RegionScores:
    """Compares two label maps (labels ≥ 0) where `counted` is true, which is at least one pixel."""
    overlap = _contingency(found[counted], true[counted])
    size_found, size_true, total = overlap.sum(1), overlap.sum(0), overlap.sum()
    union = size_found[:, None] + size_true[None] - overlap
    best = (overlap / union).max(0)
    return RegionScores(
        rand=_adjusted_rand_index(overlap),
        iou=float(best.mean()),
        covering=float(size_true @ best / total),
        leak=float(1 - overlap.max(1).sum() / total),
        found=len(size_found),
        true=len(size_true),
    )


def _contingency(
    found: Int[np.ndarray, " pixels"], true: Int[np.ndarray, " pixels"]
) -> Int[np.ndarray, "f t"]:
    """Pixel counts by found and true region, without empty regions."""
    width = int(true.max()) + 1
    counts = np.bincount(found.astype(np.int64) * width + true)
    counts = np.pad(counts, (0, -len(counts) % width)).reshape(-1, width)
    return counts[counts.any(1)][:, counts.any(0)]


def _adjusted_rand_index(overlap: Int[np.ndarray, "f t"]) -> float:
    both, one, other, every = (
        _pairs(count).sum()
        for count in (overlap, overlap.sum(1), overlap.sum(0), overlap.sum(keepdims=True))
    )
    if one == other and one in (0, every):  # one region each, or one pixel per region
        return 1.0
    chance = one * other / every
    return float((both - chance) / ((one + other) / 2 - chance))


def _pairs(count: Int[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return count * (count - 1.0) / 2
