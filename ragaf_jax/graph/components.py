"""A tree of distance-map components: where the paper widens and narrows.

A stroke with a gap leaves the paper on its two sides connected, yet only through a narrow pass.
Raising a threshold on the distance to the ink cuts narrow passes before wide rooms, so the rooms
are the branches of the tree of connected components over rising thresholds.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, UInt8

REFERENCE_SIDE = 256  # every length in this package's region code is in pixels of such a page
CLEARANCES = (3, 4.5, 6.5, 9, 12.5, 17)  # px at which components are taken
STRIDE = 4  # px from one sample of the distance to the next: rooms are wider
MIN_PAPER = 1e-3  # share of the page under which a connected piece of paper is ignored
# A branch that appears at clearance r counts if it reaches at least REACH * r + REACH_OFFSET:
# a corridor of even width breaks into pieces that barely outlive their own threshold.
REACH, REACH_OFFSET = 1.1, 0.5

_NEIGHBOURS = np.ones((3, 3), np.uint8)


class Samples(NamedTuple):
    """Distances to the ink on a coarse grid."""

    stride: int  # pixels of the page from one sample to the next
    distance: Float32[np.ndarray, "gh gw"]  # px
    # Flat indices of the samples of paper that are no nearer to the ink than any beside them. Each
    # component of {distance > clearance} has one at least: the few that speak for all.
    peaks: Int[np.ndarray, " p"]


class Level(NamedTuple):
    """Connected components of {distance to ink > clearance}; component 0 is everything else."""

    clearance: float  # px at REFERENCE_SIDE; 0 is the paper itself, in full; else samples
    inside: Bool[np.ndarray, "gh gw"]  # all components but 0
    labels: Int32[np.ndarray, "gh gw"]  # component of every pixel or sample
    parents: list[int]  # component of the level below that holds each component


class Seed(NamedTuple):
    """A room: one component of one level."""

    level: int
    component: int


def sample_distance(distance: Float32[np.ndarray, "h w"]) -> Samples:
    """The samples of a page's distances to the ink."""
    stride = max(1, int(STRIDE * max(distance.shape) / REFERENCE_SIDE))
    sampled = np.ascontiguousarray(distance[::stride, ::stride])
    is_peak = cv2.dilate(sampled, _NEIGHBOURS) == sampled
    return Samples(stride, sampled, np.flatnonzero(is_peak & (sampled > 0)))


def component_levels(paper: UInt8[np.ndarray, "h w"], samples: Samples) -> list[Level]:
    """Components of the paper (4-connected) and of each clearance, from the paper upward.

    Args:
        paper: 1 on paper, 0 on ink.
        samples: the paper's.
    """
    stride, distance, peaks = samples
    scale = max(paper.shape) / REFERENCE_SIDE
    # Two samples side by side, or diagonal, lie then on one piece of paper.
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
    """The rooms of the page, one per future cell: the ends of the tree's counting branches.

    Args:
        stride: of the levels above the paper.
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
    large = (piece for piece in range(1, len(rooms)) if areas[piece] >= MIN_PAPER * paper.size)
    return [seed for piece in large for seed in rooms[piece]]
