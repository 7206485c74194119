"""Random sketches: circles, polygons and strokes of random widths, some with gaps."""

import cv2
import numpy as np
import pytest

from ragaf_jax.graph.regions import Regions


@pytest.fixture
def random_page(rng):
    """A function (height, width) → u8 page, paper 255, ink 0."""

    def draw(height=256, width=256, shapes=None):
        page = np.full((height, width), 255, np.uint8)
        side = max(height, width)
        for _ in range(shapes or rng.integers(2, 9)):
            stroke = int(rng.integers(1, max(2, side // 32)))
            points = (rng.random((rng.integers(3, 8), 2)) * (width, height)).astype(np.int32)
            kind = rng.integers(3)
            if kind == 0:
                radius = int(rng.integers(1, max(2, side // 3)))
                cv2.circle(page, points[0].tolist(), radius, 0, stroke)
            else:
                cv2.polylines(page, [points], kind == 1, 0, stroke)
        for _ in range(rng.integers(3)):
            centre = (rng.random(2) * (width, height)).astype(int).tolist()
            cv2.circle(page, centre, max(1, side // 64), 255, -1)
        return page

    return draw


@pytest.fixture
def random_regions(rng):
    """A function (n, side) → Regions: a jagged map in which all n regions occur, unsorted."""

    def draw(n=12, side=48):
        seeds = rng.permutation(side * side)[:n]
        rows, columns = np.mgrid[:side, :side]
        rows, columns = (
            axis[..., None] + rng.normal(0, 1, (side, side, 1)) for axis in (rows, columns)
        )
        stretch = rng.uniform(0.3, 2, (2, n))
        distance = (
            stretch[0] * (rows - seeds // side) ** 2 + stretch[1] * (columns - seeds % side) ** 2
        )
        labels = distance.argmin(-1).astype(np.int32)
        labels[seeds // side, seeds % side] = np.arange(n)
        return Regions(labels, n, rng.random(n) < 0.3)

    return draw
