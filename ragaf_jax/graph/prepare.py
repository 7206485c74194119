"""From a page to a model's sketch, regions and graph, for records and for sampling."""

import dataclasses
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from ragaf_jax.errors import UserError
from ragaf_jax.graph.blocks import page_side
from ragaf_jax.graph.build import GraphConfig, RegionGraph, region_graph, trim_edges
from ragaf_jax.graph.regions import (
    NECK_SPLITS,
    RegionConfig,
    Regions,
    downsample_labels,
    extract_regions,
)


class SketchRegions(NamedTuple):
    """A sketch at the model's size."""

    sketch: UInt8[np.ndarray, "h w"]  # paper 255, ink 0
    regions: Regions  # labels of h × w
    graph: RegionGraph
    found: int  # regions of the page before `max_regions` merged any


def page_size(size: int) -> int:
    """Side of the square page for region extraction, px, of square images of this size."""
    return size * page_scale((size, size))


def page_scale(size: tuple[int, int]) -> int:
    """Pixels of the page for region extraction per pixel of an image of (height, width).

    The page has about the area of 256 × 256 px, for which `RegionConfig` is tuned, or the image's
    size if that is larger.
    """
    return max(1, round(256 / page_side(size)))


def sketch_regions(
    page: UInt8[np.ndarray, "h w"],
    size: tuple[int, int],
    region_config: RegionConfig,
    graph_config: GraphConfig,
    max_edges: int,
) -> SketchRegions:
    """The regions of `page_regions`, their graph, and their number before merging.

    `page` and `size` are as in `page_regions`. `trim_edges` removes the least important edges above
    `max_edges`. Raises UserError as both do.
    """
    sketch, regions, found = page_regions(page, size, region_config)
    if found == region_config.max_regions:
        unbounded = dataclasses.replace(region_config, max_regions=page.size)
        found = extract_regions(page, unbounded).n
    graph = trim_edges(region_graph(regions, graph_config), max_edges)
    return SketchRegions(sketch, regions, graph, found)


def page_regions(
    page: UInt8[np.ndarray, "h w"],
    size: tuple[int, int],
    region_config: RegionConfig,
    neck_splits: int | float = NECK_SPLITS,
) -> tuple[UInt8[np.ndarray, "height width"], Regions, int]:
    """Extracts regions on the full page, where lines are sharp, and reduces them to `size`.

    Args:
        page: paper 255, ink 0.
        size: height and width of the result, px.
        neck_splits: as in `extract_regions`.

    Returns:
        The sketch and its regions at `size`, and the number of regions of the page.

    Raises:
        UserError: the page is smaller than `size` or has other proportions, or `extract_regions`
            raises it.
    """
    height, width = size
    if page.ndim != 2 or page.shape[0] * width != page.shape[1] * height or len(page) < height:
        raise UserError(
            f"the page has shape {page.shape}; it must be grey, with the proportions of "
            f"{height} × {width} pixels and at least this size: pad and enlarge it"
        )
    found = extract_regions(page, region_config, neck_splits)
    sketch = cv2.resize(page, (width, height), interpolation=cv2.INTER_AREA)
    return sketch, downsample_labels(found, size), found.n
