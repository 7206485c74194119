"""Region colours: the palette is told apart, through noise, ink and a minority of wrong paint."""

import numpy as np

from ragaf_jax.evaluation.metrics.colors import (
    MIN_PIXELS,
    color_differences,
    region_colors,
)
from ragaf_jax.evaluation.metrics.delta_e import delta_e_2000
from ragaf_jax.palette import PALETTE, PALETTE_LAB, PALETTE_RGB, srgb_to_lab


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


def test_survives_noise_ink_and_a_minority_of_wrong_paint(rng):
    image, labels, order = scene(rng)
    ink = rng.random(labels.shape) < 0.2
    image[rng.random(labels.shape) < 0.2] = 90
    image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    image[ink] = 0
    colors = region_colors(image, labels, order, ink)
    np.testing.assert_array_equal(colors.obtained, order)


def test_wrong_colours_count_against(rng):
    image, labels, order = scene(rng)
    asked = order.copy()
    wrong = rng.choice(11, 4, replace=False)
    asked[wrong] = (asked[wrong] + 1) % 11
    colors = region_colors(image, labels, asked, np.zeros(labels.shape, bool))
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


def test_nothing_to_judge_has_no_colours():
    empty = np.zeros((4, 4), np.uint8)
    image = np.zeros((4, 4, 3), np.uint8)
    colors = region_colors(image, empty, np.array([], np.int32), empty > 0)
    assert [len(field) for field in colors] == [0, 0, 0, 0]
    assert color_differences(colors).shape == (0,)


def test_differences_tell_how_far_off_a_colour_is(rng):
    image, labels, order = scene(rng)
    nothing = np.zeros(labels.shape, bool)
    exact = region_colors(image, labels, order, nothing)
    np.testing.assert_array_equal(exact.shown, PALETTE_RGB[order])
    np.testing.assert_array_equal(color_differences(exact), 0)
    shifted = np.clip(image.astype(int) + rng.integers(-5, 6, 3), 0, 255).astype(np.uint8)
    near = color_differences(region_colors(shifted, labels, order, nothing))
    swapped = region_colors(image, labels, np.roll(order, 1), nothing)
    far = color_differences(swapped)
    assert near.max() < 10 < 15 < far.min()
    expected = delta_e_2000(srgb_to_lab(PALETTE_RGB[order]), PALETTE_LAB[np.roll(order, 1)])
    np.testing.assert_array_equal(far, expected)


def test_the_palette_is_as_far_apart_as_is_said():
    one, other = np.triu_indices(len(PALETTE), 1)
    apart = delta_e_2000(PALETTE_LAB[one], PALETTE_LAB[other])
    assert round(float(apart.min())) == 20
    nearest = int(apart.argmin())
    assert {PALETTE[one[nearest]], PALETTE[other[nearest]]} == {"blue", "purple"}
    assert np.median(apart) > 40
