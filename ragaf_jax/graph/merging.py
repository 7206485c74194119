"""From cells to regions: wide borders are opened, then small regions are absorbed."""

import heapq
import math

import numpy as np
from jaxtyping import Int

from ragaf_jax.graph.components import MIN_PAPER
from ragaf_jax.graph.passes import Cells, Pass, joined

# The score of a border is the log-odds that it is a neck between two rooms; a border stays closed
# where score + ln(neck_splits) is ≥ 0. Weights fitted on 200 line drawings.
ROOM_TO_PASS = 2.0  # × ln(depth of the deeper room / half-width of the pass)
PASS_TO_STROKE = -0.5  # × ln(half-width of the pass / stroke width)
INK_NEARBY = -1.8  # × stroke crossings around the pass
ONE_ON_FRAME = 2.1  # inside and outside of a drawing
BOTH_ON_FRAME = -4.0  # two parts of one outside
CLOSED = -0.9  # offset
DEEPEST = 0.35  # of the page's side: a room deeper than this is no clearer a room


def merge_cells(
    cells: Cells, max_regions: int, neck_splits: int | float = 1.0
) -> Int[np.ndarray, " m"]:
    """Which region each cell belongs to: the number of one of the region's cells.

    There are at most `max_regions` of them: on a page whose every pixel is in a cell, a region
    that is not the whole page has a neighbour to merge with.

    Args:
        cells: of the page.
        max_regions: at least 1.
        neck_splits: factor on the odds that a border is a neck; 0 opens every border that is not
            closed by ink. Borders are opened in one order, whatever the factor: before small
            regions are absorbed, those of a larger factor divide those of a smaller one.
    """
    merger = _Merger(cells)
    merger.open_borders(-math.log(neck_splits) if neck_splits > 0 else math.inf)
    merger.absorb_small(MIN_PAPER * sum(merger.area), max_regions)
    return np.array([merger.region_of(cell) for cell in range(len(cells.area))])


class _Merger:
    """Regions under merging, each named by one of its cells."""

    def __init__(self, cells: Cells):
        self.area = cells.area.tolist()
        self.depth = cells.depth.tolist()
        self.on_frame = cells.on_frame.tolist()
        self.passes = [dict(neighbours) for neighbours in cells.passes]
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
        for other, border in self.passes[gone].items():
            del self.passes[other][gone]
            if other != keep:
                if other in self.passes[keep]:
                    border = joined(self.passes[keep][other], border)
                self.passes[keep][other] = self.passes[other][keep] = border
        self.passes[gone] = {}

    def score(self, i: int, j: int, border: Pass) -> float:
        """How much the border looks like a neck between two rooms; negative: it is none."""
        room = min(max(self.depth[i], self.depth[j]), self.deepest)
        frame = (0.0, ONE_ON_FRAME, BOTH_ON_FRAME)[self.on_frame[i] + self.on_frame[j]]
        return (
            ROOM_TO_PASS * math.log(max(room, 1e-3) / border.half_width)
            + PASS_TO_STROKE * math.log(border.half_width / self.stroke_width)
            + INK_NEARBY * border.ink
            + frame
            + CLOSED
        )

    def open_borders(self, least_score: float) -> None:
        """Merge across the least neck-like open border until all that are left have this score."""
        current: dict[tuple[int, int], float] = {}
        queue: list[tuple[float, int, int]] = []

        def rate(i: int) -> None:
            for j, border in self.passes[i].items():
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
            if current.get((i, j)) == score:  # else an entry that a merge has outdated
                for other in self.passes[j]:
                    current.pop((min(j, other), max(j, other)), None)
                self.merge(i, j)
                rate(i)

    def absorb_small(self, min_area: float, max_regions: int) -> None:
        """Merge the smallest region, while too small or one too many, where it opens most."""
        while len(self.regions) > 1:
            smallest = min(self.regions, key=lambda region: (self.area[region], region))
            if self.area[smallest] >= min_area and len(self.regions) <= max_regions:
                return
            _, _, into = max(
                (border.open_contact, border.contact, -other)
                for other, border in self.passes[smallest].items()
            )
            self.merge(-into, smallest)
