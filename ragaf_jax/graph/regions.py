"""Sketch → regions: a complete partition of the page into the areas that its strokes enclose."""

import dataclasses
import math
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from ragaf_jax.errors import UserError
from ragaf_jax.graph.components import component_levels, find_seeds
from ragaf_jax.graph.ink import ink_pieces
from ragaf_jax.graph.markers import grow_cells
from ragaf_jax.graph.merging import merge_cells
from ragaf_jax.graph.passes import measure_cells
from ragaf_jax.graph.runs import find_runs

# Freed at once: from then on glibc keeps freed memory of up to this size for the next call, which
# else goes back to the system after each: that costs up to a millisecond of the five of a page.
np.empty(1 << 24, np.uint8)

# A region is background if its paper covers at least this share of the page's outermost pixels:
# more than an object that the page's edge cuts off usually does, less than a sky or a ground.
FRAME_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class RegionConfig:
    """How a sketch is divided.

    Attributes:
        max_regions: most regions a page may have; the smallest are merged until it holds.
        mode: "strokes", areas of paper enclosed by strokes, each stroke shared out among the
            areas beside it; or "ink", connected pieces of the ink, all paper being one region.
        threshold: pixels darker than this are ink (0–255).
        work_size: px; pages with a longer side are divided at about this size.
    """

    max_regions: int = 32
    mode: Literal["strokes", "ink"] = "strokes"
    threshold: int = 160
    work_size: int = 256

    def __post_init__(self):
        if self.mode not in ("strokes", "ink"):
            raise UserError(f"region mode is {self.mode!r}; choose 'strokes' or 'ink'")
        for name, least, most in (
            ("max_regions", 1, math.inf),
            ("threshold", 1, 255),
            ("work_size", 1, math.inf),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                span = f"at least {least}" if most == math.inf else f"from {least} to {most}"
                raise UserError(f"region {name} is {value}; it must be {span}")


class Regions(NamedTuple):
    """A partition of the page."""

    labels: Int32[np.ndarray, "h w"]  # region of every pixel, 0 … n−1 from largest to smallest
    n: int
    background: Bool[np.ndarray, " n"]  # paper around the drawing


def extract_regions(
    sketch: UInt8[np.ndarray, "h w"], config: RegionConfig = RegionConfig()
) -> Regions:
    """Divide a sketch (paper 255, ink 0) into regions. The same sketch always gives the same.

    Raises:
        UserError: the sketch is not a grey image of 8 bits with at least one pixel.
    """
    if sketch.dtype != np.uint8 or sketch.ndim != 2 or sketch.size == 0:
        raise UserError(
            f"the sketch has shape {sketch.shape} and type {sketch.dtype}; regions need a "
            "grey image of shape (height, width) and type uint8: convert it first"
        )
    block = max(1, round(max(sketch.shape) / config.work_size))
    paper = (_min_pool(sketch, block) >= config.threshold).view(np.uint8)
    if config.mode == "ink":
        labels = ink_pieces(paper, config.max_regions)
    else:
        labels = _split_at_necks(paper, config.max_regions)
    background = _background(labels, paper, config.mode)

    if block == 1:
        return _ranked(labels, background)
    rows, columns = (np.diff(range(0, side, block), append=side) for side in sketch.shape)
    ranked = _ranked(labels, background, rows, columns)
    full = np.repeat(np.repeat(ranked.labels, columns, axis=1), rows, axis=0)
    return ranked._replace(labels=full)


def downsample_labels(regions: Regions, size: int) -> Regions:
    """The partition at size × size pixels: each cell of the page goes to its commonest region.

    A tie goes to the region that is larger on the whole page. Regions that win no cell vanish
    and the ids close up; `background` is carried over. Sides that are not multiples of `size`
    are first enlarged (nearest pixel) to the next multiple.
    """
    height, width = (size * math.ceil(side / size) for side in regions.labels.shape)
    labels = regions.labels
    if labels.shape != (height, width):
        centres = (
            (2 * np.arange(after) + 1) * before // (2 * after)
            for before, after in zip(labels.shape, (height, width), strict=True)
        )
        labels = labels[np.ix_(*centres)]
    cell_row = np.arange(height) // (height // size) * size
    cell = cell_row[:, None] + np.arange(width) // (width // size)
    votes = np.bincount((cell * regions.n + labels).ravel(), minlength=size * size * regions.n)
    winners = votes.reshape(size, size, regions.n).argmax(-1).astype(np.int32)
    return _ranked(winners, regions.background)


def _split_at_necks(paper: UInt8[np.ndarray, "h w"], max_regions: int) -> Int32[np.ndarray, "h w"]:
    """Regions bounded by strokes, gaps in the strokes closed, as names of one of their cells."""
    if paper.all() or not paper.any():
        return np.zeros(paper.shape, np.int32)
    distance = cv2.distanceTransform(paper, cv2.DIST_L2, 3)
    levels = component_levels(paper, distance)
    cells = grow_cells(paper, levels, find_seeds(levels, paper.size))
    if not cells.any():
        return cells
    region_of_cell = merge_cells(measure_cells(cells, paper, distance), paper.size, max_regions)
    return np.take(region_of_cell, cells)


def _background(
    labels: Int32[np.ndarray, "h w"], paper: UInt8[np.ndarray, "h w"], mode: str
) -> Bool[np.ndarray, " n"]:
    count = int(labels.max()) + 1
    if mode == "ink":
        return np.bincount(labels[paper > 0], minlength=count) > 0
    frame = np.ones(labels.shape, bool)
    frame[1:-1, 1:-1] = False
    paper_on_frame = np.bincount(labels[frame & (paper > 0)], minlength=count)
    return paper_on_frame >= FRAME_SHARE * np.count_nonzero(frame)


def _ranked(
    labels: Int32[np.ndarray, "h w"],
    background: Bool[np.ndarray, " n"],
    heights: Int[np.ndarray, " h"] | None = None,
    widths: Int[np.ndarray, " w"] | None = None,
) -> Regions:
    """Regions renamed 0 … n−1 by falling area; names without any area are left out.

    Args:
        heights: of the rows of pixels, 1 each if None.
        widths: of the columns.
    """
    label, start, weights = find_runs(labels)
    if heights is not None and widths is not None:
        y, x = np.divmod(start, labels.shape[1])
        edges = np.concatenate([[0], np.cumsum(widths)])
        weights = heights[y] * (edges[x + weights] - edges[x])
    areas = np.bincount(label, weights, len(background))
    order = np.argsort(-areas, kind="stable")[: np.count_nonzero(areas)]
    rank = np.zeros(len(areas), np.int32)
    rank[order] = np.arange(len(order))
    return Regions(np.take(rank, labels), len(order), background[order])


def _min_pool(image: UInt8[np.ndarray, "h w"], block: int) -> UInt8[np.ndarray, "ph pw"]:
    """The darkest pixel of every block, so that no line is lost."""
    if block == 1:
        return image
    # What a window has outside the page counts as white.
    return cv2.erode(image, np.ones((block, block), np.uint8), anchor=(0, 0))[::block, ::block]
