"""Seeds → cells: a complete partition of the page with one cell around every seed."""

import cv2
import numpy as np
from jaxtyping import Int16, Int32, UInt8

from ragaf_jax.graph.components import REFERENCE_SIDE, Level, Seed
from ragaf_jax.graph.nearest import fill_from_nearest

_NEIGHBOURS = np.ones((3, 3), np.uint8)


def grow_cells(
    paper: UInt8[np.ndarray, "h w"], levels: list[Level], seeds: list[Seed]
) -> Int32[np.ndarray, "h w"]:
    """Grow every seed over the page until each pixel, ink included, is in exactly one cell.

    Fronts advance level by level, so that they meet inside the passes between rooms (growing at
    once from the deep cores puts the borders elsewhere), then by one watershed through the rest
    of the paper; each pixel of ink goes to the nearest cell.

    Returns:
        Cells 0 … m−1 with 1 ≤ m ≤ len(seeds): a seed that others have overgrown has no cell.
    """
    if len(seeds) <= 1:
        return np.zeros(paper.shape, np.int32)
    cells = _flood(paper, levels[0].labels, _markers(levels, seeds))
    occupied = np.bincount(cells.ravel(), minlength=len(seeds) + 1) > 0
    return np.take(np.cumsum(occupied, dtype=np.int32) - 1, cells)


def _markers(levels: list[Level], seeds: list[Seed]) -> Int32[np.ndarray, "h w"]:
    """Seeds grown through the levels they are on and all levels below; 0 is not reached."""
    # 16 bits are enough: a page has at most 1 / MIN_ROOM seeds.
    names = {seed.level: np.zeros(len(levels[seed.level].areas), np.int16) for seed in seeds}
    for name, seed in enumerate(seeds, start=1):
        names[seed.level][seed.component] = name

    scale = max(levels[0].labels.shape) / REFERENCE_SIDE
    top = max(names)
    grown = np.zeros(levels[top].labels.shape, np.int16)
    for index in range(top, 0, -1):
        level = levels[index]
        if index < top:
            above = levels[index + 1]
            grown = _resampled(grown, above, level)
            widening = (above.clearance - level.clearance) * scale / level.stride
            for _ in range(int(widening) + 2):
                _dilate(grown, where=(grown == 0) & (level.labels > 0))
        if index in names:
            np.copyto(grown, names[index][level.labels], where=grown == 0)

    paper_level = levels[0]
    markers = np.zeros(paper_level.labels.shape, np.int32)
    if 0 in names:
        np.take(names[0].astype(np.int32), paper_level.labels, out=markers)
    if top > 0:
        samples = markers[:: levels[1].stride, :: levels[1].stride]
        np.copyto(samples, grown, where=grown > 0)
    return markers


def _resampled(
    grown: Int16[np.ndarray, "gh gw"], above: Level, level: Level
) -> Int16[np.ndarray, "fh fw"]:
    """The same markers on the grid of `level`, which is as fine as that of `above` or finer."""
    if above.stride == level.stride:
        return grown
    ratio = above.stride // level.stride
    fine = np.zeros(level.labels.shape, np.int16)
    fine[::ratio, ::ratio] = grown
    return fine


def _flood(
    paper: UInt8[np.ndarray, "h w"],
    piece_of_paper: Int32[np.ndarray, "h w"],
    markers: Int32[np.ndarray, "h w"],
) -> Int16[np.ndarray, "h w"]:
    """Watershed from the markers through their pieces of paper; all else to the nearest cell.

    A watershed that also took the ink would give a whole net of strokes to the cell that
    reaches it first, and two areas on the two sides of one stroke would not be neighbours.
    """
    flooded = markers.copy()
    cv2.watershed(cv2.cvtColor(paper * 255, cv2.COLOR_GRAY2BGR), flooded)
    marked = np.zeros(int(piece_of_paper.max()) + 1, bool)
    marked[piece_of_paper[markers > 0]] = True
    marked[0] = False  # the ink
    inside = np.take(marked, piece_of_paper)
    # Watershed loses markers on the page's outermost pixels, and marks dividing lines with −1.
    cells = np.where(inside, np.maximum(flooded, markers), 0).astype(np.int16)
    _dilate(cells, where=inside & (cells == 0))
    return fill_from_nearest(cells)[0]


def _dilate(labels: Int16[np.ndarray, "h w"], where: np.ndarray) -> None:
    """Give each pixel of `where` the largest label of its 3×3 neighbourhood, in place."""
    np.copyto(labels, cv2.dilate(labels, _NEIGHBOURS), where=where)
