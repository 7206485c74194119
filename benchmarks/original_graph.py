"""The region graph of the original research code, for comparison of speed.

A re-implementation of the described method: one boolean mask per region and, for each pair of
regions, dilation, overlap and distance of centroids. Its time is proportional to the squared number
of regions times the number of pixels.
"""

import itertools
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from ragaf_jax.graph.regions import Regions

ADJACENT = 5  # px of dilation before the test for overlap
NEAR = 0.3  # largest distance of connected centroids, as a share of the page's diagonal


class OriginalGraph(NamedTuple):
    """Nodes are connected components of ink, without the paper."""

    nodes: Float[np.ndarray, "n 7"]  # centroid x, y; box x, y, width, height; area; shares of page
    distance: Float[np.ndarray, "n n"]  # of the centroids, as a share of the page's diagonal
    adjacent: Bool[np.ndarray, "n n"]  # at most `ADJACENT` pixels apart
    joined: Bool[np.ndarray, "n n"]  # adjacent, or at most `NEAR` apart


def original_graph(regions: Regions) -> OriginalGraph:
    """The graph of a page in the region mode "ink"."""
    height, width = regions.labels.shape
    components = [name for name in range(regions.n) if not regions.background[name]]
    masks = [(regions.labels == name).astype(np.uint8) for name in components]
    nodes = np.array([_features(mask) for mask in masks]).reshape(-1, 7)

    distance = np.zeros((len(masks), len(masks)))
    adjacent = np.zeros(distance.shape, bool)
    kernel = np.ones((2 * ADJACENT + 1,) * 2, np.uint8)
    for i, j in itertools.combinations(range(len(masks)), 2):
        grown = cv2.dilate(masks[i], kernel) > 0
        adjacent[i, j] = adjacent[j, i] = (grown & (masks[j] > 0)).any()
        offset = (nodes[i, :2] - nodes[j, :2]) * (width, height)
        distance[i, j] = distance[j, i] = np.hypot(*offset) / np.hypot(width, height)
    joined = adjacent | ((distance <= NEAR) & ~np.eye(len(masks), dtype=bool))
    return OriginalGraph(nodes, distance, adjacent, joined)


def _features(mask: UInt8[np.ndarray, "h w"]) -> list[float]:
    height, width = mask.shape
    y, x = np.nonzero(mask)
    box_x, box_y, box_width, box_height = cv2.boundingRect(mask)
    return [
        *((x.mean() + 0.5) / width, (y.mean() + 0.5) / height),
        *(box_x / width, box_y / height, box_width / width, box_height / height),
        len(x) / mask.size,
    ]
