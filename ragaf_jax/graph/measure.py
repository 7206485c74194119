"""Measures sizes, positions and borders of regions."""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from ragaf_jax.graph.blocks import page_side
from ragaf_jax.graph.containment import contained_regions
from ragaf_jax.graph.regions import Regions


class Measures(NamedTuple):
    """Measures of n regions as shares of the page.

    x is a share of the width, y (downwards) of the height, because "at the left" is the same place
    on pages of all proportions. Lengths have one unit along both axes, because a disc is as wide as
    high: boundaries are shares of the frame of the square with the page's area.
    """

    centroid: Float[np.ndarray, "n 2"]  # x, y
    box: Float[np.ndarray, "n 4"]  # x0, y0, x1, y1
    area: Float[np.ndarray, " n"]
    perimeter: Float[np.ndarray, " n"]  # borders to other regions and along the frame
    compactness: Float[np.ndarray, " n"]  # 4π area / perimeter² in pixels, 1 for a disc
    shared_boundary: Float[np.ndarray, "n n"]
    adjacent: Bool[np.ndarray, "n n"]  # regions with neighbouring pixels
    contained: Bool[np.ndarray, "n n"]  # [i, j]: i lies within the filled outline of j
    background: Bool[np.ndarray, " n"]
    sides: Float[np.ndarray, " 2"]  # the page's width and height, in `page_side`; 1 on a square


class _Corners(NamedTuple):
    """The 2 × 2 windows of a page with a margin of one pixel that contain several labels.

    Windows can wrap from the end of one row to the start of the next; both columns are margin.
    """

    pixel: Int[np.ndarray, " k"]  # of the upper left pixel in the flat map with margin
    upper_left: Int[np.ndarray, " k"]  # labels
    upper_right: Int[np.ndarray, " k"]
    lower_left: Int[np.ndarray, " k"]
    lower_right: Int[np.ndarray, " k"]


def measure_regions(regions: Regions) -> Measures:
    """Measure every region of a page."""
    n = regions.n
    height, width = regions.labels.shape
    # The outside of the page is region n. Labels of 8 bits are much faster to compare.
    labels = regions.labels.astype(np.uint8 if n < 256 else np.int32)
    page = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=n)
    corners = _find_corners(page)
    centroid, box, area = _extents(corners, page.shape[1], n)
    boundary, adjacent = _boundaries(corners, n)
    perimeter = boundary[:n].sum(1)
    side = page_side((height, width))
    frame = 4 * side
    return Measures(
        centroid=centroid / (width, height),
        box=box / (width, height, width, height),
        area=area / (height * width),
        perimeter=perimeter / frame,
        # Regions of few pixels can exceed 1: the estimate of the perimeter assumes a smooth
        # outline, but the area is that of squares.
        compactness=np.minimum(4 * math.pi * area / perimeter**2, 1.0),
        shared_boundary=boundary[:n, :n] / frame,
        adjacent=adjacent[:n, :n],
        contained=contained_regions(labels, box, area, adjacent),
        background=regions.background,
        sides=np.array((width, height)) / side,
    )


def _find_corners(page: Integer[np.ndarray, "rows columns"]) -> _Corners:
    flat, below = page.ravel(), page.shape[1]
    across = flat[1:] != flat[:-1]
    down = flat[below:] != flat[:-below]
    mixed = across[:-below] | across[below:]
    mixed |= down[:-1]
    index = np.flatnonzero(mixed)
    return _Corners(
        index, *(flat[index + step].astype(np.intp) for step in (0, 1, below, below + 1))
    )


def _extents(
    corners: _Corners, columns: int, n: int
) -> tuple[Float[np.ndarray, "n 2"], Int[np.ndarray, "n 4"], Float[np.ndarray, " n"]]:
    """Each region's mean pixel centre (x, y), bounding box (x0, y0, x1, y1) and area, in px."""
    # Runs of equal labels along rows: a run starts where upper left and upper right differ.
    starts = np.flatnonzero(corners.upper_left != corners.upper_right)
    label, index = corners.upper_right[starts], corners.pixel[starts]
    on_page = np.flatnonzero(label < n)  # the other runs are margin
    length = index[on_page + 1] - index[on_page]
    label, index = label[on_page], index[on_page]
    y, x0 = np.divmod(index - columns, columns)
    x1 = x0 + length

    area = np.bincount(label, length, n)
    # Sums of doubled pixel centres are integers, so that a mirrored page has the mirrored mean.
    centroid = np.empty((n, 2))
    centroid[:, 0] = np.bincount(label, length * (x0 + x1), n)
    centroid[:, 1] = np.bincount(label, length * (2 * y + 1), n)
    centroid /= 2 * area[:, None]

    box = np.empty((n, 4), np.intp)
    box[:, 0], box[:, 2] = columns, 0
    np.minimum.at(box[:, 0], label, x0)
    np.maximum.at(box[:, 2], label, x1)
    # Runs are ordered by row; the last of several assignments to one element holds.
    box[label[::-1], 1] = y[::-1]
    box[label, 3] = y + 1
    return centroid, box, area


def _boundaries(
    corners: _Corners, n: int
) -> tuple[Float[np.ndarray, "m m"], Bool[np.ndarray, "m m"]]:
    """Lengths of the common boundaries, px, and which regions are adjacent.

    The outside of the page is region n. The lengths are the Cauchy–Crofton estimate in four
    directions, π/8 · (transitions along rows and columns + transitions along both diagonals / √2).
    It depends little on a boundary's direction.
    """
    _, upper_left, upper_right, lower_left, lower_right = corners
    from_left, from_right = upper_left * (n + 1), upper_right * (n + 1)
    across = _transitions(n + 1, from_left + upper_right, from_left + lower_left)
    diagonal = _transitions(n + 1, from_left + lower_right, from_right + lower_left)
    return math.pi / 8 * (across + diagonal / math.sqrt(2)), across > 0


def _transitions(m: int, *pairs: Int[np.ndarray, " k"]) -> Int[np.ndarray, "m m"]:
    """Symmetric counts of the pairs of different labels; a pair i, j is given as i · m + j."""
    one, other = (np.bincount(pair, minlength=m * m) for pair in pairs)
    one += other
    one[:: m + 1] = 0
    counts = one.reshape(m, m)
    return counts + counts.T
