"""Merges cells into regions, first across wide openings, then by area."""

import heapq
import math

import numpy as np
from jaxtyping import Int

from ragaf_jax.graph.borders import Border, Cells, join_borders
from ragaf_jax.graph.components import MIN_PAPER

# The score of a border is the log-odds that it is a neck between two rooms. Cells stay separate
# where score + ln(neck_splits) ≥ 0. The weights were fitted on 200 line drawings.
ROOM_TO_OPENING = 2.0  # × ln(depth of the deeper room / half-width of the opening)
OPENING_TO_STROKE = -0.5  # × ln(half-width of the opening / stroke width)
INK_NEARBY = -1.8  # × stroke crossings around the opening
ONE_ON_FRAME = 2.1  # one cell inside an object, one outside
BOTH_ON_FRAME = -4.0  # both cells outside
OFFSET = -0.9
DEEPEST = 0.35  # upper bound of the depth, as a share of the page's side


def merge_cells(cells: Cells, max_regions: int, neck_splits: int | float) -> Int[np.ndarray, " m"]:
    """The region of each cell, named by the number of one of the region's cells.

    `neck_splits` is a factor on the odds that a border is a neck. With 0, only ink separates
    regions. The order of the merges does not depend on it: until small regions are absorbed, the
    regions of a larger factor subdivide those of a smaller one.
    """
    merger = _Merger(cells)
    merger.open_borders(-math.log(neck_splits) if neck_splits > 0 else math.inf)
    merger.absorb_small(MIN_PAPER * sum(merger.area), max_regions)
    return np.array([merger.region_of(cell) for cell in range(len(cells.area))])


class _Merger:
    """The current regions, each named by one of its cells."""

    def __init__(self, cells: Cells):
        self.area = cells.area.tolist()
        self.depth = cells.depth.tolist()
        self.on_frame = cells.on_frame.tolist()
        self.borders = [dict(neighbours) for neighbours in cells.borders]
        self.stroke_width = cells.stroke_width
        self.deepest = DEEPEST * cells.page_side
        self.absorbed_by = list(range(len(self.area)))
        self.regions = {cell for cell, area in enumerate(self.area) if area > 0}

    def region_of(self, cell: int) -> int:
        while self.absorbed_by[cell] != cell:
            cell = self.absorbed_by[cell]
        return cell

    def merge(self, keep: int, gone: int) -> None:
        self.absorbed_by[gone] = keep
        self.regions.discard(gone)
        self.area[keep] += self.area[gone]
        self.depth[keep] = max(self.depth[keep], self.depth[gone])
        self.on_frame[keep] = self.on_frame[keep] or self.on_frame[gone]
        for other, border in self.borders[gone].items():
            del self.borders[other][gone]
            if other != keep:
                if other in self.borders[keep]:
                    border = join_borders(self.borders[keep][other], border)
                self.borders[keep][other] = self.borders[other][keep] = border
        self.borders[gone] = {}

    def score(self, i: int, j: int, border: Border) -> float:
        """Log-odds that the border is a neck between two rooms."""
        room = min(max(self.depth[i], self.depth[j]), self.deepest)
        frame = (0.0, ONE_ON_FRAME, BOTH_ON_FRAME)[self.on_frame[i] + self.on_frame[j]]
        return (
            ROOM_TO_OPENING * math.log(max(room, 1e-3) / border.half_width)
            + OPENING_TO_STROKE * math.log(border.half_width / self.stroke_width)
            + INK_NEARBY * border.ink
            + frame
            + OFFSET
        )

    def open_borders(self, least_score: float) -> None:
        """Merge across the open border of least score until all have at least `least_score`."""
        current: dict[tuple[int, int], float] = {}
        queue: list[tuple[float, int, int]] = []

        def rate(i: int) -> None:
            for j, border in self.borders[i].items():
                if border.half_width > 0:
                    pair = (min(i, j), max(i, j))
                    score = self.score(i, j, border)
                    if current.get(pair) != score:
                        current[pair] = score
                        heapq.heappush(queue, (score, *pair))

        for region in sorted(self.regions):
            rate(region)
        while queue and queue[0][0] < least_score:
            score, i, j = heapq.heappop(queue)
            if current.get((i, j)) == score:  # merges leave outdated entries in the queue
                for other in self.borders[j]:
                    current.pop((min(j, other), max(j, other)), None)
                self.merge(i, j)
                rate(i)

    def absorb_small(self, min_area: float, max_regions: int) -> None:
        """Merge the smallest region across its longest opening, until all have `min_area`.

        It also merges while there are more than `max_regions`.
        """
        while len(self.regions) > 1:
            smallest = min(self.regions, key=lambda region: (self.area[region], region))
            if self.area[smallest] >= min_area and len(self.regions) <= max_regions:
                return
            _, _, into = max(
                (border.open_contact, border.contact, -other)
                for other, border in self.borders[smallest].items()
            )
            self.merge(-into, smallest)
