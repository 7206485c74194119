"""Containment of regions in regions."""

import cv2
import numpy as np
from jaxtyping import Bool, Int, Integer, Real


def contained_regions(
    labels: Integer[np.ndarray, "h w"],
    box: Int[np.ndarray, "n 4"],
    area: Real[np.ndarray, " n"],
    adjacent: Bool[np.ndarray, "m m"],
) -> Bool[np.ndarray, "n n"]:
    """[i, j]: region i lies within region j with its holes filled (j 8-connected).

    The surroundings of i then do too: what is filled besides j itself is closed in by j.

    Args:
        box: of each region: x0, y0, x1, y1, px.
        area: px.
        adjacent: regions with two pixels side by side; outside the page is the last region.
    """
    n = len(area)
    # What is closed in keeps at least one pixel away from the sides of the outer box.
    corner = box * (1, 1, -1, -1)
    inside_box = np.all(corner[:, None] > corner, axis=-1)
    contained = np.zeros((n, n), bool)
    outers = np.flatnonzero(inside_box.any(0)).tolist()
    if not outers:
        return contained
    neighbours = _bit_sets(adjacent)
    for outer in outers:
        reached = _reached_from(n, neighbours, outer)
        # Whatever no chain of regions joins to the outside is closed in. A region that is may be
        # missed if it or one around it is in pieces, of which another lies outside.
        within = [i for i in range(n) if not reached >> i & 1 and i != outer]
        contained[within, outer] = True
        if np.count_nonzero(inside_box[:, outer]) > len(within):
            contained[:, outer] |= _closed_in(labels, box, area, outer, within)
    return contained


def _bit_sets(relation: Bool[np.ndarray, "m m"]) -> list[int]:
    """Each row as a number of which bit j is column j."""
    rows = np.packbits(relation, axis=1, bitorder="little")
    length, joined = rows.shape[1], rows.tobytes()
    return [
        int.from_bytes(joined[start : start + length], "little")
        for start in range(0, len(joined), length)
    ]


def _reached_from(start: int, neighbours: list[int], without: int) -> int:
    """The set of all regions that chains of neighbours join to `start`, `without` one of them."""
    reached = front = 1 << start
    while front:
        lowest = front & -front
        new = neighbours[lowest.bit_length() - 1] & ~reached & ~(1 << without)
        reached |= new
        front ^= lowest | new
    return reached


def _closed_in(
    labels: Integer[np.ndarray, "h w"],
    box: Int[np.ndarray, "n 4"],
    area: Real[np.ndarray, " n"],
    outer: int,
    known: list[int],
) -> Bool[np.ndarray, " n"]:
    """Which regions lie in the holes of `outer`, by its pixels; some are known to."""
    x0, y0, x1, y1 = box[outer]
    crop = labels[y0:y1, x0:x1]
    filled = (crop == outer).astype(np.uint8)
    # The box's sides belong to the outline or to what lies outside it: one flood from a margin
    # around the box finds all that is not closed in.
    filled = cv2.copyMakeBorder(filled, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    outside = cv2.floodFill(filled, None, (0, 0), 2)[0]
    if filled.size - outside - area[outer] == area[known].sum():
        return np.zeros(len(area), bool)  # no others
    closed_in = crop[filled[1:-1, 1:-1] == 0]
    return np.bincount(closed_in, minlength=len(area)) == area
