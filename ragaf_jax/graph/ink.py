"""Regions as connected ink components, as in the original research code."""

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from ragaf_jax.graph.nearest import fill_from_nearest


def ink_pieces(paper: UInt8[np.ndarray, "h w"], max_regions: int) -> Int32[np.ndarray, "h w"]:
    """8-connected pieces of the ink, numbered from 1; all the paper is region 0.

    Beyond `max_regions`, the smaller pieces join the nearest of the larger ones: a piece of ink
    has no neighbour but the paper, and to join that would be to drop it.

    Args:
        paper: 1 on paper, 0 on ink.
    """
    count, pieces = cv2.connectedComponents(1 - paper, connectivity=8)
    if max_regions == 1:
        return np.zeros(paper.shape, np.int32)
    if count <= max_regions:
        return pieces
    areas = np.bincount(pieces.ravel(), minlength=count)
    by_area = 1 + np.argsort(-areas[1:], kind="stable")
    kept = np.zeros(count, np.int32)
    kept[by_area[: max_regions - 1]] = np.arange(1, max_regions)
    return _nearest_kept(pieces, kept)[pieces]


def _nearest_kept(
    pieces: Int32[np.ndarray, "h w"], kept: Int32[np.ndarray, " c"]
) -> Int32[np.ndarray, " c"]:
    """New name of every piece: its own if kept, else that of the kept piece nearest to it."""
    near, distance = fill_from_nearest(kept[pieces])
    orphan = np.flatnonzero((pieces > 0) & (kept[pieces] == 0))
    piece = pieces.ravel()[orphan]
    order = np.lexsort((distance.ravel()[orphan], piece))
    piece, orphan = piece[order], orphan[order]
    first = np.flatnonzero(np.r_[True, piece[1:] != piece[:-1]])
    names = kept.copy()
    names[piece[first]] = near.ravel()[orphan[first]]
    return names
