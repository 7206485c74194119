"""Partitions a sketch into the areas that its strokes enclose."""

import dataclasses
import math
import numbers
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Int, Int32, Integer, Real, UInt8

from ragaf_jax.errors import UserError
from ragaf_jax.graph.blocks import count_pixels, expand_blocks, min_pool, page_side
from ragaf_jax.graph.borders import frame_pixels, measure_cells
from ragaf_jax.graph.components import component_levels, find_seeds, sample_distance
from ragaf_jax.graph.ink_components import ink_components
from ragaf_jax.graph.markers import grow_cells
from ragaf_jax.graph.merging import merge_cells

ROOM_BLOCK = 2  # px of a page of `work_size` per pixel of the map that defines rooms

# A region is background if its paper covers at least this share of the page's outermost pixels.
# Objects that the page's edge cuts off usually cover less; a sky or a floor covers more.
FRAME_SHARE = 0.2

# Default and maximum of the factor on the odds that an opening is a neck. The maximum splits at
# every neck.
NECK_SPLITS, MOST_NECK_SPLITS = 1.0, 1000


@dataclasses.dataclass(frozen=True)
class RegionConfig:
    """How a sketch is divided into regions.

    Attributes:
        max_regions: most regions of a page; the smallest ones are merged.
        mode: "strokes", areas that strokes enclose, with each stroke divided among its adjacent
            areas; or "ink", connected components of the ink, with all paper as one region.
        threshold: darker pixels are ink (0–255).
        work_size: pages of more pixels than a square of this side are divided at about this
            size, px. The mode "strokes" divides all pages at half of it, so that outlines have
            steps of two pixels.
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


# Names in data and configurations: areas that strokes enclose; components of the ink, as in the
# original research code; or one region, the page.
REGION_KINDS = {
    "strokes": RegionConfig(),
    "ink": RegionConfig(mode="ink"),
    "page": RegionConfig(max_regions=1),
}


class Regions(NamedTuple):
    """A partition of the page."""

    labels: Int32[np.ndarray, "h w"]  # region of every pixel, 0 … n−1 from largest to smallest
    n: int
    background: Bool[np.ndarray, " n"]  # paper around the objects


class _Partition(NamedTuple):
    """A partition into cells on a map of blocks, and the region of each cell."""

    labels: Integer[np.ndarray, "gh gw"]  # cell of every block
    areas: Real[np.ndarray, " m"]  # of each cell, px of the page; can be 0
    regions: Int[np.ndarray, " m"]  # of each cell, named by one of the region's cells
    background: Bool[np.ndarray, " m"]  # of each region, by that name


def check_neck_splits(neck_splits: Any) -> None:
    """Raise `UserError` unless the factor is from 0 to `MOST_NECK_SPLITS`."""
    known = isinstance(neck_splits, numbers.Real)
    if not (known and 0 <= neck_splits <= MOST_NECK_SPLITS):
        raise UserError(
            f"neck_splits is {neck_splits}; choose 0 to {MOST_NECK_SPLITS}: 0 splits no area at a "
            "neck, 1 is the default, and larger values split more areas"
        )


def extract_regions(
    sketch: UInt8[np.ndarray, "h w"],
    config: RegionConfig = RegionConfig(),
    neck_splits: int | float = NECK_SPLITS,
) -> Regions:
    """Divide a sketch into regions, deterministically.

    Args:
        sketch: paper 255, ink 0.
        config: how it is divided.
        neck_splits: in the mode "strokes", a factor on the odds that an opening between strokes is
            a neck between two areas. With 0, only closed outlines separate regions. Training data
            use `NECK_SPLITS`.

    Raises:
        UserError: the sketch is not a grey uint8 image with at least one pixel, or `neck_splits` is
            outside its range.
    """
    check_neck_splits(neck_splits)
    if sketch.dtype != np.uint8 or sketch.ndim != 2 or sketch.size == 0:
        raise UserError(
            f"the sketch has shape {sketch.shape} and type {sketch.dtype}; regions need a "
            "grey image of shape (height, width) and type uint8: convert it first"
        )
    coarser = ROOM_BLOCK if config.mode == "strokes" else 1
    block = max(1, round(coarser * page_side(sketch.shape) / config.work_size))
    paper = (min_pool(sketch, block) >= config.threshold).view(np.uint8)
    if config.mode == "strokes":
        partition = _divide_rooms(paper, config.max_regions, neck_splits, block, sketch.shape)
    else:
        partition = _divide_ink(paper, config.max_regions, block, sketch.shape)
    return _ranked(partition, block, sketch.shape)


def downsample_labels(regions: Regions, size: tuple[int, int]) -> Regions:
    """The partition at a (height, width); each pixel takes the most frequent region of its block.

    The larger region of the page wins ties. Regions without a pixel vanish, and the others are
    renumbered. Sides that are not multiples of `size` are first enlarged (nearest pixel) to the
    next multiple.
    """
    labels, (rows, columns) = regions.labels, size
    height, width = (
        after * math.ceil(side / after) for side, after in zip(labels.shape, size, strict=True)
    )
    if labels.shape != (height, width):
        centres = (
            (2 * np.arange(after) + 1) * before // (2 * after)
            for before, after in zip(labels.shape, (height, width), strict=True)
        )
        labels = labels[np.ix_(*centres)]
    cell_row = np.arange(height) // (height // rows) * columns
    cell = cell_row[:, None] + np.arange(width) // (width // columns)
    votes = np.bincount((cell * regions.n + labels).ravel(), minlength=rows * columns * regions.n)
    winners = votes.reshape(rows, columns, regions.n).argmax(-1)
    areas = count_pixels(winners, regions.n, 1, winners.shape)
    partition = _Partition(winners, areas, np.arange(regions.n), regions.background)
    return _ranked(partition, 1, winners.shape)


def _divide_ink(
    paper: UInt8[np.ndarray, "gh gw"], max_regions: int, block: int, page: tuple[int, ...]
) -> _Partition:
    """One region per component of the ink; all paper is region 0."""
    labels = ink_components(paper, max_regions)
    areas = count_pixels(labels, int(labels.max()) + 1, block, page)
    name = np.arange(len(areas))
    return _Partition(labels, areas, name, (name == 0) & (cv2.countNonZero(paper) > 0))


def _divide_rooms(
    paper: UInt8[np.ndarray, "gh gw"],
    max_regions: int,
    neck_splits: int | float,
    block: int,
    page: tuple[int, ...],
) -> _Partition:
    """Regions that strokes enclose, with gaps in the strokes closed."""
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
    """Number the regions 0 … n−1 by falling area, without regions of area 0."""
    areas = np.bincount(partition.regions, partition.areas, len(partition.areas)).tolist()
    order = [name for name, area in enumerate(areas) if area > 0]
    order.sort(key=lambda name: -areas[name])
    rank = np.zeros(len(areas), np.int32)
    rank[order] = np.arange(len(order))
    labels = expand_blocks(partition.labels, rank[partition.regions], block, page)
    return Regions(labels, len(order), partition.background[order])
