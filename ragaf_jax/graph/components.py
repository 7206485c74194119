"""Where the paper of a drawing widens and narrows: a tree of distance-map components.

A stroke with a gap leaves the paper on its two sides connected, yet only through a narrow pass.
Raising a threshold on the distance to the ink cuts narrow passes before wide rooms, so the rooms
are the branches of the tree of connected components over rising thresholds.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8

from ragaf_jax.graph.runs import find_runs

REFERENCE_SIDE = 256  # every length in this package's region code is in pixels of such a page
# Clearances (px) at which components are taken. No room is split above DEEPEST_SPLIT; the level
# beyond only tells how far the rooms of that level reach.
CLEARANCES = (1, 2, 3, 4, 5, 6.5, 8, 10, 12.5, 16, 20, 25)
DEEPEST_SPLIT = 20.0
COARSE_FROM = 6  # wide rooms are found on a grid twice as coarse
STRIDE = 2  # grid of the levels below that
MIN_PAPER = 1e-3  # share of the page under which a connected piece of paper is ignored
MIN_ROOM = 1e-4  # share of the page under which a branch does not count
# A branch that appears at clearance r counts if it reaches at least REACH * r + REACH_OFFSET:
# a corridor of even width breaks into pieces that barely outlive their own threshold.
REACH, REACH_OFFSET = 1.1, 0.5


class Level(NamedTuple):
    """Connected components of {distance to ink > clearance}; component 0 is everything else."""

    clearance: float  # px at REFERENCE_SIDE; 0 is the paper itself
    stride: int  # pixels of the page from one sample of `labels` to the next
    labels: Int32[np.ndarray, "gh gw"]  # component of every sample
    parents: Int32[np.ndarray, " c"]  # component of the level below that holds each component
    areas: Float[np.ndarray, " c"]  # px of the page


class Seed(NamedTuple):
    """A room: one component of one level."""

    level: int
    component: int


def sampling_stride(shape: tuple[int, int]) -> int:
    """Pixels from one sample to the next where rooms are measured on a page of this shape."""
    return max(1, round(STRIDE * max(shape) / REFERENCE_SIDE))


def component_levels(
    paper: UInt8[np.ndarray, "h w"], distance: Float32[np.ndarray, "h w"]
) -> list[Level]:
    """Components of the paper (4-connected) and of each clearance, from the paper upward.

    Args:
        paper: 1 on paper, 0 on ink.
        distance: distance of every pixel to the nearest ink, px.
    """
    scale, fine = max(paper.shape) / REFERENCE_SIDE, sampling_stride(paper.shape)
    count, labels = cv2.connectedComponents(paper, connectivity=4)
    runs = find_runs(labels)
    areas = np.bincount(runs.label, runs.length, count)
    levels = [Level(0.0, 1, labels, np.zeros(count, np.int32), areas)]

    stride, below = fine, labels[::fine, ::fine]
    distance = np.ascontiguousarray(distance[::fine, ::fine])
    for clearance in CLEARANCES:
        if clearance >= COARSE_FROM and stride == fine:
            stride, below = 2 * fine, below[::2, ::2]
            distance = np.ascontiguousarray(distance[::2, ::2])
        wide = (distance > clearance * scale).view(np.uint8)
        count, labels = cv2.connectedComponents(wide, connectivity=8)
        if count == 1:
            break
        runs = find_runs(labels)
        parents = np.zeros(count, np.int32)
        parents[runs.label] = below.ravel()[runs.start]
        parents[0] = 0
        areas = np.bincount(runs.label, runs.length, count) * stride**2
        levels.append(Level(float(clearance), stride, labels, parents, areas))
        below = labels
    return levels


def find_seeds(levels: list[Level], page_area: int) -> list[Seed]:
    """The rooms of the page, one per future cell: the ends of the tree's counting branches."""
    children = _counting_children(levels, page_area)

    def rooms(level: int, component: int) -> list[Seed]:
        found = [
            seed for child in children[level].get(component, ()) for seed in rooms(level + 1, child)
        ]
        return found if len(found) > 1 else [Seed(level, component)]

    large_enough = levels[0].areas >= MIN_PAPER * page_area
    large_enough[0] = False
    return [seed for piece in np.flatnonzero(large_enough).tolist() for seed in rooms(0, piece)]


def _counting_children(levels: list[Level], page_area: int) -> list[dict[int, list[int]]]:
    """For each level, component → its components on the next level that count as branches."""
    children: list[dict[int, list[int]]] = [{} for _ in levels]
    reach = [[level.clearance] * len(level.areas) for level in levels]
    for index in range(len(levels) - 1, 0, -1):
        level, below = levels[index], reach[index - 1]
        needed = REACH * level.clearance + REACH_OFFSET
        parents, areas = level.parents.tolist(), level.areas.tolist()
        for component in range(1, len(areas)):
            parent, height = parents[component], reach[index][component]
            below[parent] = max(below[parent], height)
            counts = height >= needed and areas[component] >= MIN_ROOM * page_area
            if counts and level.clearance <= DEEPEST_SPLIT:
                children[index - 1].setdefault(parent, []).append(component)
    return children
