"""Region colours: the palette is told apart, through noise, ink and a minority of wrong paint."""

import numpy as np
import pytest

from ragaf_jax.evaluation.colors import MIN_PIXELS, color_accuracy, region_colors
from ragaf_jax.palette import PALETTE, PALETTE_RGB


def scene(rng):
    """Eleven stripes, one for each palette colour in random order: (image, labels, order)."""
    order = rng.permutation(len(PALETTE))
    labels = np.repeat(np.arange(1, 12), 4)[None].repeat(20, 0).astype(np.uint8)
    return PALETTE_RGB[order][labels - 1], labels, order


def test_every_palette_colour_is_itself(rng):
    image, labels, order = scene(rng)
    colors = region_colors(image, labels, order.astype(np.int32), np.zeros(labels.shape, bool))
    np.testing.assert_array_equal(colors.part, np.arange(1, 12))
    np.testing.assert_array_equal(colors.requested, order)
    np.testing.assert_array_equal(colors.obtained, order)
    assert color_accuracy(colors) == 1


def test_survives_noise_ink_and_a_minority_of_wrong_paint(rng):
    image, labels, order = scene(rng)
    ink = rng.random(labels.shape) < 0.2
    image[rng.random(labels.shape) < 0.2] = 90
    image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    image[ink] = 0
    assert color_accuracy(region_colors(image, labels, order, ink)) == 1


def test_wrong_colours_count_against(rng):
    image, labels, order = scene(rng)
    asked = order.copy()
    wrong = rng.choice(11, 4, replace=False)
    asked[wrong] = (asked[wrong] + 1) % 11
    colors = region_colors(image, labels, asked, np.zeros(labels.shape, bool))
    assert color_accuracy(colors) == pytest.approx(7 / 11)
    np.testing.assert_array_equal(
        np.flatnonzero(colors.requested != colors.obtained), np.sort(wrong)
    )


def test_parts_without_a_request_or_enough_paint_are_left_out(rng):
    image, labels, order = scene(rng)
    asked = order.copy()
    asked[[0, 3]] = -1
    ink = labels == 6
    ink.flat[np.flatnonzero(ink)[: MIN_PIXELS - 1]] = False
    enough = labels == 8
    ink |= enough
    ink.flat[np.flatnonzero(enough)[:MIN_PIXELS]] = False
    assert region_colors(image, labels, asked, ink).part.tolist() == [2, 3, 5, 7, 8, 9, 10, 11]


def test_nothing_to_judge_has_no_accuracy():
    empty = np.zeros((4, 4), np.uint8)
    image = np.zeros((4, 4, 3), np.uint8)
    colors = region_colors(image, empty, np.array([], np.int32), empty > 0)
    assert [len(field) for field in colors] == [0, 0, 0]
    assert np.isnan(color_accuracy(colors))
