"""Seeds → cells: a complete partition of the page with one cell around every seed."""

import cv2
import numpy as np
from jaxtyping import Bool, Int16, Int32, UInt8

from ragaf_jax.graph.components import MIN_PAPER, Level, Seed
from ragaf_jax.graph.nearest import fill_from_nearest

_NEIGHBOURS = np.ones((3, 3), np.uint8)


def grow_cells(
    paper: UInt8[np.ndarray, "h w"], levels: list[Level], seeds: list[Seed]
) -> Int32[np.ndarray, "h w"]:
    """Grow every seed over the page until each pixel, ink included, is in exactly one cell.

    Fronts fill one level after the other, so that they meet inside the passes between rooms
    (growing at once from the deep cores puts the borders elsewhere), then the rest of the paper;
    each pixel of ink goes to the nearest cell.

    Returns:
        Cells 0 … m−1 with 1 ≤ m ≤ len(seeds): a seed that others have overgrown has no cell.
    """
    if len(seeds) <= 1:
        return np.zeros(paper.shape, np.int32)
    cells = _fill_paper(levels[0], _markers(levels, seeds))
    cells = fill_from_nearest(cells)[0]
    occupied = np.bincount(cells.ravel(), minlength=len(seeds) + 1) > 0
    return np.take(np.cumsum(occupied, dtype=np.int32) - 1, cells)


def _markers(levels: list[Level], seeds: list[Seed]) -> Int16[np.ndarray, "h w"]:
    """Seeds grown through the levels they are on and all levels below; 0 is not reached."""
    # 16 bits are enough: a page has at most 1 / MIN_ROOM seeds.
    names = {seed.level: np.zeros(len(levels[seed.level].areas), np.int16) for seed in seeds}
    for name, seed in enumerate(seeds, start=1):
        names[seed.level][seed.component] = name

    top = max(names)
    grown = np.zeros(levels[top].labels.shape, np.int16)
    for index in range(top, 0, -1):
        level = levels[index]
        if index < top:
            grown = _resampled(grown, levels[index + 1], level)
            spread(grown, level.labels > 0)
        if index in names:
            np.copyto(grown, np.take(names[index], level.labels), where=grown == 0)

    paper_level = levels[0]
    markers = np.zeros(paper_level.labels.shape, np.int16)
    if 0 in names:
        np.take(names[0], paper_level.labels, out=markers)
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


def _fill_paper(paper_level: Level, markers: Int16[np.ndarray, "h w"]) -> Int16[np.ndarray, "h w"]:
    """The markers grown over every piece of paper that has one, and over no ink.

    Fronts that also took the ink would give a whole net of strokes to the cell that reaches it
    first, and two areas on the two sides of one stroke would not be neighbours.
    """
    has_seeds = paper_level.areas >= MIN_PAPER * markers.size
    has_seeds[0] = False  # the ink
    spread(markers, np.take(has_seeds, paper_level.labels))
    return markers


def spread(labels: Int16[np.ndarray, "h w"], inside: Bool[np.ndarray, "h w"]) -> None:
    """Grow the labels (> 0) through `inside`, in place: of equally near ones the largest wins.

    A step goes to any of 8 neighbours. There are at most as many as the page is long: an endless
    maze is not worth the time.
    """
    before = -1
    for _ in range(max(labels.shape)):
        missing = inside & (labels == 0)
        left = int(np.count_nonzero(missing))
        if left in (0, before):
            return
        np.copyto(labels, cv2.dilate(labels, _NEIGHBOURS), where=missing)
        before = left
