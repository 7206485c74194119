"""The tree of components: each has exactly one parent."""

import cv2
import numpy as np
import pytest

from ragaf_jax.graph.components import component_levels, sample_distance


@pytest.mark.parametrize("side", [9, 40, 63, 64, 97, 110, 127, 128, 150, 224])
def test_a_component_lies_in_one_of_the_level_below(rng, side):
    """Also where strokes are thinner than the stride of samples."""
    paper = np.ones((side, side), np.uint8)
    for _ in range(6):
        one, other = (tuple(rng.integers(0, side, 2).tolist()) for _ in range(2))
        cv2.line(paper, one, other, 0, 1)
    i = np.arange(side)
    paper[i, i] = 0  # of all strokes the one that a square grid sees least of
    samples = sample_distance(cv2.distanceTransform(paper, cv2.DIST_L2, 3))
    below, *levels = component_levels(paper, samples)
    labels = below.labels[:: samples.stride, :: samples.stride]
    for level in levels:
        for component in range(1, len(level.parents)):
            inside = level.labels == component
            assert set(labels[inside]) == {level.parents[component]}
        labels = level.labels
