"""Regions as connected components of the ink, as in the original research code."""

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from ragaf_jax.graph.nearest import fill_from_nearest


def ink_components(paper: UInt8[np.ndarray, "h w"], max_regions: int) -> Int32[np.ndarray, "h w"]:
    """8-connected components of the ink, numbered from 1; all paper is region 0.

    If there are more than `max_regions`, each smaller component joins the nearest larger one. The
    only neighbour of ink is paper, and merging with the paper would remove the component. `paper`
    is 1 on paper, 0 on ink.
    """
    count, components = cv2.connectedComponents(1 - paper, connectivity=8)
    if max_regions == 1:
        return np.zeros(paper.shape, np.int32)
    if count <= max_regions:
        return components
    areas = np.bincount(components.ravel(), minlength=count)
    by_area = 1 + np.argsort(-areas[1:], kind="stable")
    large = np.zeros(count, np.int32)
    large[by_area[: max_regions - 1]] = np.arange(1, max_regions)
    return _nearest_large(components, large)[components]


def _nearest_large(
    components: Int32[np.ndarray, "h w"], large: Int32[np.ndarray, " c"]
) -> Int32[np.ndarray, " c"]:
    """New label of every component: that of the nearest large one, which may be itself.

    `large` has new labels of the large components and 0 for the small ones.
    """
    nearest, distance = fill_from_nearest(large[components])
    pixels = np.flatnonzero((components > 0) & (large[components] == 0))
    small = components.ravel()[pixels]
    order = np.lexsort((distance.ravel()[pixels], small))
    small, pixels = small[order], pixels[order]
    first = np.flatnonzero(np.r_[True, small[1:] != small[:-1]])
    labels = large.copy()
    labels[small[first]] = nearest.ravel()[pixels[first]]
    return labels
