"""From a sketch to regions: a complete partition into the areas that its strokes enclose."""

import dataclasses
import math
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Int, Int32, Integer, Real, UInt8

from ragaf_jax.errors import UserError
from ragaf_jax.graph.blocks import count_pixels, darkest, written_out
from ragaf_jax.graph.components import component_levels, find_seeds, sample_distance
from ragaf_jax.graph.ink import ink_pieces
from ragaf_jax.graph.markers import grow_cells
from ragaf_jax.graph.merging import merge_cells
from ragaf_jax.graph.passes import frame_pixels, measure_cells

ROOM_BLOCK = 2  # px of a page of `work_size` to one pixel of the map on which rooms are found

# A region is background if its paper covers at least this share of the page's outermost pixels:
# more than an object that the page's edge cuts off usually does, less than a sky or a ground.
FRAME_SHARE = 0.2

# The usual factor on the odds that an opening is a neck, and the largest: no neck is opened there.
NECK_SPLITS, MOST_NECK_SPLITS = 1.0, 1000


@dataclasses.dataclass(frozen=True)
class RegionConfig:
    """How a sketch is divided.

    Attributes:
        max_regions: most regions a page may have; the smallest are merged until it holds.
        mode: "strokes", areas of paper enclosed by strokes, each stroke shared out among the
            areas beside it; or "ink", connected pieces of the ink, all paper being one region.
        threshold: pixels darker than this are ink (0–255).
        work_size: px; pages with a longer side are divided at about this size, and in the mode
            "strokes" all of them on a map of about half of it, so that outlines have steps of
            two pixels of a page of this size.
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


# What data and configurations call their regions: areas that strokes enclose; pieces of ink, as the
# original research code has them; or none, the page being one region.
REGION_KINDS = {
    "strokes": RegionConfig(),
    "ink": RegionConfig(mode="ink"),
    "page": RegionConfig(max_regions=1),
}


class Regions(NamedTuple):
    """A partition of the page."""

    labels: Int32[np.ndarray, "h w"]  # region of every pixel, 0 … n−1 from largest to smallest
    n: int
    background: Bool[np.ndarray, " n"]  # paper around the drawing


class _Partition(NamedTuple):
    """The page in cells, on a map of blocks, and which of them are one region."""

    labels: Integer[np.ndarray, "gh gw"]  # cell of every block
    areas: Real[np.ndarray, " m"]  # of each cell: pixels of the page, which may be none
    regions: Int[np.ndarray, " m"]  # of each cell: the number of one of the region's cells
    background: Bool[np.ndarray, " m"]  # of each region, by that number


def check_neck_splits(neck_splits: int | float) -> None:
    """Refuse what is no factor of neck splits.

    Raises:
        UserError: it is negative, NaN or above `MOST_NECK_SPLITS`.
    """
    if not 0 <= neck_splits <= MOST_NECK_SPLITS:
        raise UserError(
            f"neck_splits is {neck_splits}; choose 0 to {MOST_NECK_SPLITS}: 0 splits no area at a "
            "neck, 1 as usual, more splits more"
        )


def extract_regions(
    sketch: UInt8[np.ndarray, "h w"],
    config: RegionConfig = RegionConfig(),
    neck_splits: int | float = NECK_SPLITS,
) -> Regions:
    """Divide a sketch (paper 255, ink 0) into regions. The same sketch always gives the same.

    Args:
        sketch: the page.
        config: how it is divided.
        neck_splits: how eagerly areas of paper are split where strokes leave a narrow opening, in
            the mode "strokes": a factor on the odds that the opening is a neck between two areas.
            With 0, only closed outlines separate regions. Training data have `NECK_SPLITS`.

    Raises:
        UserError: the sketch is not a grey image of 8 bits with at least one pixel, or
            `neck_splits` is out of its range.
    """
    check_neck_splits(neck_splits)
    if sketch.dtype != np.uint8 or sketch.ndim != 2 or sketch.size == 0:
        raise UserError(
            f"the sketch has shape {sketch.shape} and type {sketch.dtype}; regions need a "
            "grey image of shape (height, width) and type uint8: convert it first"
        )
    coarser = ROOM_BLOCK if config.mode == "strokes" else 1
    block = max(1, round(coarser * max(sketch.shape) / config.work_size))
    paper = (darkest(sketch, block) >= config.threshold).view(np.uint8)
    if config.mode == "strokes":
        partition = _divide_rooms(paper, config.max_regions, neck_splits, block, sketch.shape)
    else:
        partition = _divide_ink(paper, config.max_regions, block, sketch.shape)
    return _ranked(partition, block, sketch.shape)


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
    winners = votes.reshape(size, size, regions.n).argmax(-1)
    areas = count_pixels(winners, regions.n, 1, winners.shape)
    partition = _Partition(winners, areas, np.arange(regions.n), regions.background)
    return _ranked(partition, 1, winners.shape)


def _divide_ink(
    paper: UInt8[np.ndarray, "gh gw"], max_regions: int, block: int, page: tuple[int, ...]
) -> _Partition:
    """Every piece of the ink a region, and all the paper region 0."""
    pieces = ink_pieces(paper, max_regions)
    areas = count_pixels(pieces, int(pieces.max()) + 1, block, page)
    name = np.arange(len(areas))
    return _Partition(pieces, areas, name, (name == 0) & (cv2.countNonZero(paper) > 0))


def _divide_rooms(
    paper: UInt8[np.ndarray, "gh gw"],
    max_regions: int,
    neck_splits: int | float,
    block: int,
    page: tuple[int, ...],
) -> _Partition:
    """Regions bounded by strokes, gaps in the strokes closed."""
    distance = cv2.distanceTransform(paper, cv2.DIST_L2, 3)
    samples = sample_distance(distance)
    levels = component_levels(paper, samples)
    seeds = find_seeds(levels, samples.stride)
    if len(seeds) > 1:
        cells = grow_cells(levels, seeds, samples.stride)
        areas = count_pixels(cells, len(seeds) + 1, block, page)
        measures = measure_cells(cells, areas, paper, distance, samples)
        regions = merge_cells(measures, max_regions, neck_splits)
    else:
        cells, areas, regions = np.zeros(paper.shape, np.uint8), np.ones(1), np.zeros(1, np.intp)
    frame = regions[frame_pixels(cells)]
    paper_on_frame = np.bincount(frame, frame_pixels(paper), len(regions))
    return _Partition(cells, areas, regions, paper_on_frame >= FRAME_SHARE * len(frame))


def _ranked(partition: _Partition, block: int, page: tuple[int, ...]) -> Regions:
    """Regions renamed 0 … n−1 by falling area; names without any area are left out."""
    areas = np.bincount(partition.regions, partition.areas, len(partition.areas)).tolist()
    order = [name for name, area in enumerate(areas) if area > 0]
    order.sort(key=lambda name: -areas[name])
    rank = np.zeros(len(areas), np.int32)
    rank[order] = np.arange(len(order))
    labels = written_out(partition.labels, rank[partition.regions], block, page)
    return Regions(labels, len(order), partition.background[order])
