"""Grows seeds into cells, a complete partition of the page."""

import cv2
import numpy as np
from jaxtyping import Bool, UInt

from ragaf_jax.graph.components import Level, Seed
from ragaf_jax.graph.nearest import fill_from_nearest

# Growth steps per level, which extends little beyond the level above. Pixels that are farther away,
# as at the end of a corridor, are labelled on the paper.
LEVEL_STEPS = 3
INK_STEPS = 3  # enough to reach the middle of most strokes

_NEIGHBOURS = np.ones((3, 3), np.uint8)


def grow_cells(levels: list[Level], seeds: list[Seed], stride: int) -> UInt[np.ndarray, "h w"]:
    """Grow every seed until each pixel, ink included, is in exactly one cell.

    Cells fill one level after the other, so that they meet inside the openings between rooms, and
    then the rest of the paper. They enter the ink last. Otherwise the first cell to reach a net of
    strokes would take all of it, and areas on two sides of a stroke would not be neighbours.

    `stride` is that of the levels above the paper, px. Returns the number of each pixel's seed,
    from 1. A seed that other cells cover has no pixel.
    """
    cells = _grow_over_paper(levels, seeds, stride)
    spread(cells, np.ones(cells.shape, bool), INK_STEPS)
    if cv2.countNonZero(cells) < cells.size:
        cells = fill_from_nearest(cells)[0]
    return cells


def _grow_over_paper(
    levels: list[Level], seeds: list[Seed], stride: int
) -> UInt[np.ndarray, "h w"]:
    """The seed that reaches each pixel first; 0 on ink and where none does."""
    dtype = np.uint8 if len(seeds) < 256 else np.uint16  # uint8 is much faster
    names = {seed.level: np.zeros(len(levels[seed.level].parents), dtype) for seed in seeds}
    for name, seed in enumerate(seeds, start=1):
        names[seed.level][seed.component] = name

    top = max(names)
    cells = np.take(names[top], levels[top].labels)
    for index in range(top - 1, -1, -1):
        level, above = levels[index], cells
        if index in names:
            cells = np.take(names[index], level.labels)
        else:
            cells = np.zeros(level.labels.shape, dtype)
        at_samples = cells if index else cells[::stride, ::stride]
        np.copyto(at_samples, above, where=above > 0)
        # The limit bounds the time that a maze of paper takes.
        spread(cells, level.inside, LEVEL_STEPS if index else max(cells.shape))
    return cells


def spread(labels: UInt[np.ndarray, "h w"], inside: Bool[np.ndarray, "h w"], steps: int) -> None:
    """Grow the labels (> 0) through `inside`, in place; the largest of equally near labels wins.

    A step goes to any of 8 neighbours.
    """
    missing = (inside & (labels == 0)).astype(labels.dtype)
    remaining = cv2.countNonZero(missing)
    for _ in range(steps):
        if remaining == 0:
            return
        grown = cv2.dilate(labels, _NEIGHBOURS)
        grown *= missing
        labels += grown
        cv2.subtract(missing, grown, missing)  # saturates at 0
        before, remaining = remaining, cv2.countNonZero(missing)
        if remaining == before:
            return
