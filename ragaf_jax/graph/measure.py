"""Sizes, places and borders of the regions of a label map."""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from ragaf_jax.graph.regions import Regions


class Measures(NamedTuple):
    """All as shares of the page: x of its width, y (down) of its height, areas of its area.

    Boundaries are shares of the length of the page's frame.
    """

    centroid: Float[np.ndarray, "n 2"]  # x, y
    box: Float[np.ndarray, "n 4"]  # x0, y0, x1, y1
    area: Float[np.ndarray, " n"]
    perimeter: Float[np.ndarray, " n"]  # borders to other regions and to outside the page
    compactness: Float[np.ndarray, " n"]  # 4π area / perimeter² in pixels, 1 for a disc
    shared_boundary: Float[np.ndarray, "n n"]
    adjacent: Bool[np.ndarray, "n n"]  # regions with two pixels side by side
    contained: Bool[np.ndarray, "n n"]  # [i, j]: i lies in the filled outline of j
    background: Bool[np.ndarray, " n"]


def measure_regions(regions: Regions) -> Measures:
    """Measure every region of a page of h × w pixels."""
    labels, n = regions.labels, regions.n
    height, width = labels.shape
    centroid_x, x0, x1, area = _profile(labels.T, n)
    centroid_y, y0, y1, _ = _profile(labels, n)
    box = np.stack([x0, y0, x1, y1], axis=1)

    boundary, adjacent = _boundaries(labels, n)
    perimeter = boundary.sum(1)[:n]
    frame = 2 * (height + width)
    return Measures(
        centroid=np.stack([centroid_x / width, centroid_y / height], axis=1),
        box=box / (width, height, width, height),
        area=area / (height * width),
        perimeter=perimeter / frame,
        # A region of a few pixels can exceed a disc's: the estimated perimeter is that of a
        # smooth shape, the area that of squares.
        compactness=np.minimum(4 * math.pi * area / perimeter**2, 1.0),
        shared_boundary=boundary[:n, :n] / frame,
        adjacent=adjacent,
        contained=_contained(labels, box, area),
        background=regions.background,
    )


def _profile(
    labels: Int32[np.ndarray, "rows columns"], n: int
) -> tuple[
    Float[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]
]:
    """Each region's mean row (of its pixels' centres), first row, last row + 1, and area, in px."""
    rows = labels.shape[0]
    counts = np.bincount((np.arange(rows)[:, None] * n + labels).ravel(), minlength=rows * n)
    counts = counts.reshape(rows, n)
    area = counts.sum(0)
    # Doubled, so that sums are integers and a mirrored page gives the mirrored value.
    mean = (2 * np.arange(rows) + 1) @ counts / (2 * area)
    present = counts > 0
    return mean, present.argmax(0), rows - present[::-1].argmax(0), area


def _boundaries(
    labels: Int32[np.ndarray, "h w"], n: int
) -> tuple[Float[np.ndarray, "m m"], Bool[np.ndarray, "n n"]]:
    """Lengths of all common boundaries, px, outside the page being region n; and who touches whom.

    The Cauchy–Crofton estimate in four directions: π/8 · (transitions along rows and columns +
    transitions along both diagonals / √2), which barely depends on a boundary's direction.
    """
    page = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=n)
    across = _transitions(page[:, :-1], page[:, 1:], n) + _transitions(page[:-1], page[1:], n)
    diagonal = _transitions(page[:-1, :-1], page[1:, 1:], n)
    diagonal += _transitions(page[:-1, 1:], page[1:, :-1], n)
    return math.pi / 8 * (across + diagonal / math.sqrt(2)), across[:n, :n] > 0


def _transitions(one: np.ndarray, other: np.ndarray, n: int) -> Int[np.ndarray, "m m"]:
    """Symmetric counts of unlike labels at the same place of two maps."""
    unlike = one != other
    pairs = one[unlike] * (n + 1) + other[unlike]
    counts = np.bincount(pairs, minlength=(n + 1) ** 2).reshape(n + 1, n + 1)
    return counts + counts.T


def _contained(
    labels: Int32[np.ndarray, "h w"], box: Int[np.ndarray, "n 4"], area: Int[np.ndarray, " n"]
) -> Bool[np.ndarray, "n n"]:
    """[i, j]: region i lies within region j with its holes filled (j 8-connected).

    The surroundings of i then do too: what is filled besides j itself is closed in by j.
    """
    # What is closed in keeps at least one pixel away from the sides of the outer box.
    inside = (box[:, None, :2] > box[None, :, :2]) & (box[:, None, 2:] < box[None, :, 2:])
    candidates = inside.all(-1)
    contained = np.zeros_like(candidates)
    for outer in np.flatnonzero(candidates.any(0)):
        x0, y0, x1, y1 = box[outer]
        crop = labels[y0:y1, x0:x1]
        filled = (crop == outer).astype(np.uint8)
        # The box's sides belong to the outline or to what lies outside it: one flood from a
        # margin around the box finds all that is not closed in.
        filled = cv2.copyMakeBorder(filled, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        cv2.floodFill(filled, None, (0, 0), 2)
        closed_in = crop[filled[1:-1, 1:-1] == 0]
        contained[:, outer] = np.bincount(closed_in, minlength=len(area)) == area
    return contained
