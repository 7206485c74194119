"""From a page to a model's sketch, regions and graph, for records and for sampling."""

import dataclasses
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from ragaf_jax.errors import UserError
from ragaf_jax.graph.build import GraphConfig, RegionGraph, region_graph, trim_edges
from ragaf_jax.graph.regions import (
    NECK_SPLITS,
    RegionConfig,
    Regions,
    downsample_labels,
    extract_regions,
)


class SketchRegions(NamedTuple):
    """A sketch at the model's size S."""

    sketch: UInt8[np.ndarray, "s s"]  # paper 255, ink 0
    regions: Regions  # labels of s × s
    graph: RegionGraph
    found: int  # regions of the page before `max_regions` merged any


def page_size(size: int) -> int:
    """Side of the page for region extraction, px, at the model's image size `size`.

    It is the multiple of `size` nearest to 256, for which `RegionConfig` is tuned, or `size` if
    that is larger.
    """
    return size * max(1, round(256 / size))


def sketch_regions(
    page: UInt8[np.ndarray, "h w"],
    size: int,
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
    size: int,
    region_config: RegionConfig,
    neck_splits: int | float = NECK_SPLITS,
) -> tuple[UInt8[np.ndarray, "{size} {size}"], Regions, int]:
    """Extracts regions on the full page, where lines are sharp, and reduces them to `size`.

    Args:
        page: paper 255, ink 0; h = w ≥ size.
        size: side of the result, px.
        neck_splits: as in `extract_regions`.

    Returns:
        The sketch and its regions at `size`, and the number of regions of the page.

    Raises:
        UserError: the page is not a square of at least `size`, or `extract_regions` raises it.
    """
    if page.ndim != 2 or page.shape[0] != page.shape[1] or page.shape[0] < size:
        raise UserError(
            f"the page has shape {page.shape}; it must be a grey square of at least "
            f"{size} × {size} pixels: pad it to a square and enlarge it"
        )
    found = extract_regions(page, region_config, neck_splits)
    sketch = cv2.resize(page, (size, size), interpolation=cv2.INTER_AREA)
    return sketch, downsample_labels(found, size), found.n
