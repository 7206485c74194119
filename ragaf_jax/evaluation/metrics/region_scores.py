"""Agreement of a partition with the true one."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class RegionScores(NamedTuple):
    """Agreement over the pixels that count.

    Attributes:
        rand: adjusted Rand index (Hubert and Arabie 1985, eq. 5), 1 for the same partition, about 0
            for an unrelated one.
        iou: the mean over the true regions, small ones like large ones, of the best intersection
            over union that a found one has with it, 0 … 1.
        covering: the same, each true region counting by its size (Arbeláez et al. 2011, §3.1.3).
        leak: share of the pixels outside the true region that their found one mostly lies in:
            1 − achievable segmentation accuracy (Liu et al. 2011, §4.1).
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
    found: Int[np.ndarray, "h w"],
    true: Int[np.ndarray, "h w"],
    counted: Bool[np.ndarray, "h w"],
) -> RegionScores:
    """Compare two label maps (labels ≥ 0) where `counted`, which holds in at least one pixel."""
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
    """Pixels in each found and each true region; only regions that have any."""
    width = int(true.max()) + 1
    counts = np.bincount(found.astype(np.int64) * width + true)
    counts = np.pad(counts, (0, -len(counts) % width)).reshape(-1, width)
    return counts[counts.any(1)][:, counts.any(0)]


def _adjusted_rand_index(overlap: Int[np.ndarray, "f t"]) -> float:
    both, one, other, every = (
        _pairs(count).sum()
        for count in (overlap, overlap.sum(1), overlap.sum(0), overlap.sum(keepdims=True))
    )
    if one == other and one in (0, every):  # one region on both sides, or a pixel in each
        return 1.0
    chance = one * other / every
    return float((both - chance) / ((one + other) / 2 - chance))


def _pairs(count: Int[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return count * (count - 1.0) / 2
