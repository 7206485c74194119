"""Finds the regions that other regions enclose."""

import cv2
import numpy as np
from jaxtyping import Bool, Int, Integer, Real


def contained_regions(
    labels: Integer[np.ndarray, "h w"],
    box: Int[np.ndarray, "n 4"],
    area: Real[np.ndarray, " n"],
    adjacent: Bool[np.ndarray, "m m"],
) -> Bool[np.ndarray, "n n"]:
    """[i, j]: region i lies within the filled outline of region j (j 8-connected).

    `box` is x0, y0, x1, y1 of each region in px. `adjacent` has regions with neighbouring pixels;
    the last one is the outside of the page.
    """
    n = len(area)
    # An enclosed region is at least one pixel away from the sides of the outer box.
    corner = box * (1, 1, -1, -1)
    inside_box = np.all(corner[:, None] > corner, axis=-1)
    contained = np.zeros((n, n), bool)
    outers = np.flatnonzero(inside_box.any(0)).tolist()
    if not outers:
        return contained
    neighbours = _bit_sets(adjacent)
    for outer in outers:
        reached = _reached_from(n, neighbours, outer)
        # Regions without a path to the outside are enclosed. This test misses enclosed regions if
        # they, or regions around them, have another component outside; `_enclosed` finds those.
        within = [i for i in range(n) if not reached >> i & 1 and i != outer]
        contained[within, outer] = True
        if np.count_nonzero(inside_box[:, outer]) > len(within):
            contained[:, outer] |= _enclosed(labels, box, area, outer, within)
    return contained


def _bit_sets(relation: Bool[np.ndarray, "m m"]) -> list[int]:
    """Each row as an integer: bit j is column j."""
    rows = np.packbits(relation, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in rows]


def _reached_from(start: int, neighbours: list[int], without: int) -> int:
    """The set of regions that are connected with `start` if the region `without` is removed."""
    reached = front = 1 << start
    while front:
        lowest = front & -front
        new = neighbours[lowest.bit_length() - 1] & ~reached & ~(1 << without)
        reached |= new
        front ^= lowest | new
    return reached


def _enclosed(
    labels: Integer[np.ndarray, "h w"],
    box: Int[np.ndarray, "n 4"],
    area: Real[np.ndarray, " n"],
    outer: int,
    known: list[int],
) -> Bool[np.ndarray, " n"]:
    """Which regions lie in the holes of `outer`, computed from its pixels; those of `known` do."""
    x0, y0, x1, y1 = box[outer]
    crop = labels[y0:y1, x0:x1]
    filled = (crop == outer).astype(np.uint8)
    # A margin connects all pixels outside the outline, so that one flood fill finds them.
    filled = cv2.copyMakeBorder(filled, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    outside = cv2.floodFill(filled, None, (0, 0), 2)[0]
    if filled.size - outside - area[outer] == area[known].sum():
        return np.zeros(len(area), bool)  # only the known ones
    enclosed = crop[filled[1:-1, 1:-1] == 0]
    return np.bincount(enclosed, minlength=len(area)) == area
