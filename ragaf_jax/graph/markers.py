"""From seeds to cells: a complete partition of the page with one cell a seed."""

import cv2
import numpy as np
from jaxtyping import Bool, UInt

from ragaf_jax.graph.components import Level, Seed
from ragaf_jax.graph.nearest import fill_from_nearest

# Steps that fronts take on a level, which reaches little farther than the one above. What they
# have not reached by then, as the far end of a corridor, they reach on the paper.
LEVEL_STEPS = 3
INK_STEPS = 3  # enough for the two halves of most strokes

_NEIGHBOURS = np.ones((3, 3), np.uint8)


def grow_cells(levels: list[Level], seeds: list[Seed], stride: int) -> UInt[np.ndarray, "h w"]:
    """Grow every seed over the page until each pixel, ink included, is in exactly one cell.

    Fronts fill one level after the other, so that they meet inside the passes between rooms
    (growing at once from the deep cores puts the borders elsewhere), then the rest of the paper.
    Only then do they enter the ink: else a whole net of strokes would go to the cell that reaches
    it first, and two areas on the two sides of one stroke would not be neighbours.

    Args:
        seeds: at least one.
        stride: of the levels above the paper.

    Returns:
        The number of each pixel's seed, from 1. One that others have overgrown has no pixel.
    """
    cells = _grow_over_paper(levels, seeds, stride)
    spread(cells, np.ones(cells.shape, bool), INK_STEPS)
    if cv2.countNonZero(cells) < cells.size:
        cells = fill_from_nearest(cells)[0]
    return cells


def _grow_over_paper(
    levels: list[Level], seeds: list[Seed], stride: int
) -> UInt[np.ndarray, "h w"]:
    """The seed whose front is first to reach each pixel; 0 on ink and where none gets."""
    dtype = np.uint8 if len(seeds) < 256 else np.uint16  # narrow ones are much faster
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
        same_places = cells if index else cells[::stride, ::stride]
        np.copyto(same_places, above, where=above > 0)
        # An endless maze on the paper is not worth the time.
        spread(cells, level.inside, LEVEL_STEPS if index else max(cells.shape))
    return cells


def spread(labels: UInt[np.ndarray, "h w"], inside: Bool[np.ndarray, "h w"], steps: int) -> None:
    """Grow the labels (> 0) through `inside`, in place: of equally near ones the largest wins.

    A step goes to any of 8 neighbours.
    """
    missing = (inside & (labels == 0)).astype(labels.dtype)
    left = cv2.countNonZero(missing)
    for _ in range(steps):
        if left == 0:
            return
        grown = cv2.dilate(labels, _NEIGHBOURS)
        grown *= missing  # only where there is no label: adding the two changes no other
        labels += grown
        cv2.subtract(missing, grown, missing)  # unsigned: nothing goes below 0
        before, left = left, cv2.countNonZero(missing)
        if left == before:
            return
