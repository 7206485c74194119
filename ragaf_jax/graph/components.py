"""The tree of distance-map components, which finds wide areas of paper.

A stroke with a gap leaves the paper on its two sides connected through a narrow opening. A rising
threshold on the distance to ink cuts narrow openings before wide areas ("rooms"). The rooms are
therefore the branches of the tree of connected components over rising thresholds.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, UInt8

from ragaf_jax.graph.blocks import page_side

REFERENCE_SIDE = 256  # the lengths below are in pixels of a page with this `page_side`
CLEARANCES = (3, 4.5, 6.5, 9, 12.5, 17)  # thresholds on the distance to ink, px
STRIDE = 4  # px between samples of the distance: rooms are wider
MIN_PAPER = 1e-3  # smaller components of the paper, as shares of the page, are ignored
# A branch that appears at clearance r counts if it reaches at least REACH * r + REACH_OFFSET.
# A corridor of constant width breaks into fragments that end just above their own threshold.
REACH, REACH_OFFSET = 1.1, 0.5

_NEIGHBOURS = np.ones((3, 3), np.uint8)


class Samples(NamedTuple):
    """Distances to the ink on a coarse grid."""

    stride: int  # px
    distance: Float32[np.ndarray, "gh gw"]  # px
    # Flat indices of local maxima on paper. Each component of {distance > clearance} has at least
    # one, so that these few samples represent all.
    peaks: Int[np.ndarray, " p"]


class Level(NamedTuple):
    """Connected components of {distance to ink > clearance}; component 0 is everything else."""

    clearance: float  # px at REFERENCE_SIDE; 0 is the paper, per pixel; other levels are sampled
    inside: Bool[np.ndarray, "gh gw"]  # all components except 0
    labels: Int32[np.ndarray, "gh gw"]  # component of every pixel or sample
    parents: list[int]  # the component of the level below that contains each component


class Seed(NamedTuple):
    """A room: one component of one level."""

    level: int
    component: int


def sample_distance(distance: Float32[np.ndarray, "h w"]) -> Samples:
    """Samples a page's distances to the ink."""
    stride = max(1, int(STRIDE * page_side(distance.shape) / REFERENCE_SIDE))
    sampled = np.ascontiguousarray(distance[::stride, ::stride])
    is_peak = cv2.dilate(sampled, _NEIGHBOURS) == sampled
    return Samples(stride, sampled, np.flatnonzero(is_peak & (sampled > 0)))


def component_levels(paper: UInt8[np.ndarray, "h w"], samples: Samples) -> list[Level]:
    """Components of the paper (4-connected) and at each clearance, in rising order.

    `paper` is 1 on paper, 0 on ink; `samples` are its distances.
    """
    stride, distance, peaks = samples
    scale = page_side(paper.shape) / REFERENCE_SIDE
    # At this clearance, neighbouring samples (8-connected) lie on one component of the paper.
    least = max(0.75 * stride, 0.96)
    count, labels = cv2.connectedComponents(paper, connectivity=4)
    levels = [Level(0.0, paper.view(bool), labels, [0] * count)]
    below = labels[::stride, ::stride].ravel()[peaks]
    for clearance in CLEARANCES:
        wide = distance > max(clearance * scale, least)
        count, labels = cv2.connectedComponents(wide.view(np.uint8), connectivity=8)
        if count == 1:
            break
        component = labels.ravel()[peaks]
        parents = np.zeros(count, np.int32)
        parents[component] = below
        levels.append(Level(float(clearance), wide, labels, parents.tolist()))
        below = component
    return levels


def find_seeds(levels: list[Level], stride: int) -> list[Seed]:
    """The rooms of the page: leaves of branches that are tall enough. Each becomes a cell.

    `stride` is that of the levels above the paper, px.
    """
    rooms = [[Seed(len(levels) - 1, component)] for component in range(len(levels[-1].parents))]
    reach = [levels[-1].clearance] * len(rooms)
    for index in range(len(levels) - 1, 0, -1):
        level, below = levels[index], levels[index - 1]
        needed = REACH * level.clearance + REACH_OFFSET
        branches: list[list[Seed]] = [[] for _ in below.parents]
        height = [below.clearance] * len(branches)
        for component in range(1, len(rooms)):
            parent = level.parents[component]
            height[parent] = max(height[parent], reach[component])
            if reach[component] >= needed:
                branches[parent] += rooms[component]
        rooms = [
            found if len(found) > 1 else [Seed(index - 1, component)]
            for component, found in enumerate(branches)
        ]
        reach = height
    paper = levels[0].labels[::stride, ::stride].ravel()
    areas = np.bincount(paper, minlength=len(rooms)).tolist()
    large = (i for i in range(1, len(rooms)) if areas[i] >= MIN_PAPER * paper.size)
    return [seed for i in large for seed in rooms[i]]
