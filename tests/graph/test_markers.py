"""Each pixel gets the nearest label along paths through the paper."""

import numpy as np
import pytest
from scipy import ndimage

from ragaf_jax.graph.markers import spread

BOX = np.ones((3, 3), bool)


def steps_from(start, inside):
    """Steps through `inside` from the nearest pixel of `start`; infinite where there is no path."""
    steps = np.where(start, 0.0, np.inf)
    reached, count = start, 0
    while True:
        grown = reached | (ndimage.binary_dilation(reached, BOX) & inside)
        if (grown == reached).all():
            return steps
        count += 1
        steps[grown & ~reached] = count
        reached = grown


@pytest.mark.parametrize("density", [0.35, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_pixel_goes_to_a_nearest_label(rng, density, dtype):
    for _ in range(10):
        inside = rng.random(rng.integers(1, 30, 2)) < density
        labels, steps_taken = np.zeros(inside.shape, dtype), int(rng.integers(1, 30))
        seeds = rng.integers(0, inside.size, 3)
        labels.flat[seeds] = rng.permutation(3) + 1
        before = labels.copy()
        spread(labels, inside, steps_taken)

        # Fronts start on the seeds wherever those are, and stop one another.
        steps = np.stack([steps_from(before == name, inside) for name in (1, 2, 3)])
        least, taken = steps.min(0), labels > 0
        near = least <= steps_taken
        np.testing.assert_array_equal(taken, np.isfinite(least) & near)
        of_taken = np.take_along_axis(steps, np.maximum(labels.astype(int) - 1, 0)[None], 0)[0]
        np.testing.assert_array_equal(of_taken[taken], least[taken])
        np.testing.assert_array_equal(labels[before > 0], before[before > 0])


def test_an_endless_maze_is_left_unfinished():
    inside = np.zeros((41, 41), bool)
    inside[::2] = True
    inside[1::4, -1] = inside[3::4, 0] = True
    labels = np.zeros(inside.shape, np.uint8)
    labels[0, 0] = 7
    spread(labels, inside, 41)
    np.testing.assert_array_equal(
        labels > 0, steps_from(np.indices((41, 41)).sum(0) == 0, inside) <= 41
    )
