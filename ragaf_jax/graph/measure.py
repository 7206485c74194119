"""Sizes, places and borders of the regions of a label map."""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Integer

from ragaf_jax.graph.regions import Regions
from ragaf_jax.graph.runs import find_runs


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
    centroid, box, area = _extents(labels, n)

    boundary, adjacent = _boundaries(labels, n)
    perimeter = boundary.sum(1)[:n]
    frame = 2 * (height + width)
    return Measures(
        centroid=centroid / (width, height),
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


def _extents(
    labels: Int32[np.ndarray, "h w"], n: int
) -> tuple[Float[np.ndarray, "n 2"], Int[np.ndarray, "n 4"], Float[np.ndarray, " n"]]:
    """Each region's mean pixel centre (x, y), bounding box (x0, y0, x1, y1) and area, in px."""
    label, start, length = find_runs(labels)
    y, x0 = np.divmod(start, labels.shape[1])
    x1 = x0 + length

    area = np.bincount(label, length, n)
    # Doubled sums of pixel centres: whole numbers, so that a mirrored page gives the mirrored mean.
    doubled = [np.bincount(label, length * centre, n) for centre in (x0 + x1, 2 * y + 1)]

    box = np.empty((4, n), np.intp)
    box[0], box[2] = labels.shape[1], 0
    np.minimum.at(box[0], label, x0)
    np.maximum.at(box[2], label, x1)
    # Runs come row by row; of several assignments to one place the last one holds.
    box[1][label[::-1]] = y[::-1]
    box[3][label] = y + 1
    return np.stack(doubled, axis=1) / (2 * area[:, None]), box.T, area


def _boundaries(
    labels: Int32[np.ndarray, "h w"], n: int
) -> tuple[Float[np.ndarray, "m m"], Bool[np.ndarray, "n n"]]:
    """Lengths of all common boundaries, px, outside the page being region n; and who touches whom.

    The Cauchy–Crofton estimate in four directions: π/8 · (transitions along rows and columns +
    transitions along both diagonals / √2), which barely depends on a boundary's direction.
    """
    small = labels.astype(np.uint8) if n < 256 else labels  # much faster to compare
    page = cv2.copyMakeBorder(small, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=n)
    below = page.shape[1]  # steps from a pixel to the one below it, in the flat page
    flat = page.ravel()
    across = _transitions(flat, 1, n) + _transitions(flat, below, n)
    diagonal = _transitions(flat, below + 1, n) + _transitions(flat, below - 1, n)
    return math.pi / 8 * (across + diagonal / math.sqrt(2)), across[:n, :n] > 0


def _transitions(flat: Integer[np.ndarray, " p"], step: int, n: int) -> Int[np.ndarray, "m m"]:
    """Symmetric counts of unlike labels so many steps apart.

    Steps from one side of the page to the other join two pixels of its margin, which are alike.
    """
    unlike = np.flatnonzero(flat[:-step] != flat[step:])
    pairs = flat[unlike].astype(np.intp) * (n + 1) + flat[unlike + step]
    counts = np.bincount(pairs, minlength=(n + 1) ** 2).reshape(n + 1, n + 1)
    return counts + counts.T


def _contained(
    labels: Int32[np.ndarray, "h w"], box: Int[np.ndarray, "n 4"], area: Float[np.ndarray, " n"]
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
