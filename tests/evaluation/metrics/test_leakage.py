"""Leakage: swapped colours leak, wrong ones from nowhere do not, and chance is what it says."""

import numpy as np
import pytest

from ragaf_jax.batch import Truth
from ragaf_jax.evaluation.metrics.colors import MIN_PIXELS
from ragaf_jax.evaluation.metrics.leakage import color_table, leakage, touching
from ragaf_jax.evaluation.report.leakage_figure import HEIGHT, WIDTH, color_table_figure
from ragaf_jax.figures.attention import heat
from ragaf_jax.palette import PALETTE, PALETTE_RGB

SIDE = 48


def bands():
    """Five bands: strokes between the first three, which touch; then gaps of paper, which do not.

    (part of each pixel, where ink is)
    """
    labels, ink = np.zeros((SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), bool)
    for part, (begin, end) in enumerate([(2, 9), (11, 18), (20, 27), (31, 36), (40, 46)], 1):
        labels[4:-4, begin:end] = part
    ink[4:-4, 9:11] = ink[4:-4, 18:20] = True
    return labels, ink


NEIGHBOURS = {1: {2}, 2: {1, 3}, 3: {2}, 4: set(), 5: set()}


def drawings(asked):
    """What is true of drawings in bands, in which these colours are asked."""
    asked = np.array(asked, np.int32)
    labels, ink = (np.stack([x] * len(asked)) for x in bands())
    nothing = ("",) * len(asked)
    images = np.full((*labels.shape, 3), 255, np.uint8)
    return Truth(images, np.where(ink, 0, 255).astype(np.uint8), labels, asked, nothing, nothing)


def painted(truth, colors):
    """Pictures in which each part has the colour given."""
    pictures = np.full_like(truth.image_u8, 255)
    for picture, labels, row in zip(pictures, truth.true_labels, np.array(colors), strict=True):
        for part, color in enumerate(row, 1):
            picture[labels == part] = PALETTE_RGB[color]
        picture[truth.sketch_u8[0] == 0] = 0
    return pictures


def test_swapped_colours_leak_and_right_ones_do_not(rng):
    asked = np.stack([rng.permutation(len(PALETTE))[:5] for _ in range(4)])
    asked[:, 2:] = -1
    truth = drawings(asked)
    pictures = painted(truth, asked), painted(truth, asked[:, [1, 0, 2, 3, 4]])
    right, swapped = (leakage(each, truth) for each in pictures)
    assert not right.leaked.any() and not np.any([right.near_chance, right.far_chance])
    assert swapped.drawing.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert swapped.part.tolist() == [1, 2] * 4
    assert swapped.leaked.all() and swapped.near.all() and not swapped.far.any()
    np.testing.assert_allclose(swapped.near_chance + swapped.far_chance, 0.1)
    assert (right.obtained == right.requested).all()
    assert not (swapped.obtained == swapped.requested).any()


def test_every_leak_is_told_from_the_others_by_where_it_comes_from(rng):
    asked = rng.integers(0, len(PALETTE), (40, 5))
    obtained = rng.integers(0, len(PALETTE), (40, 5))
    truth = drawings(asked)
    found = leakage(painted(truth, obtained), truth)
    assert len(found.part) == 200
    np.testing.assert_array_equal(found.requested, asked.ravel())
    np.testing.assert_array_equal(found.obtained, obtained.ravel())
    rows = zip(found.drawing, found.part, found.near, found.far, strict=True)
    for drawing, part, near, far in rows:
        own, got = asked[drawing, part - 1], obtained[drawing, part - 1]
        beside = {asked[drawing, other - 1] for other in NEIGHBOURS[int(part)]}
        anywhere = set(asked[drawing])
        assert near == (got != own and got in beside)
        assert far == (got != own and got in anywhere and got not in beside)


def test_chance_is_the_mean_over_all_wrong_colours(rng):
    asked = rng.integers(0, len(PALETTE), (1, 5)).repeat(10, 0)
    wrong = (asked + np.arange(1, 11)[:, None]) % len(PALETTE)
    truth = drawings(asked)
    found = leakage(painted(truth, wrong), truth)
    np.testing.assert_allclose(found.near.mean(), found.near_chance.mean())
    np.testing.assert_allclose(found.far.mean(), found.far_chance.mean())
    chance = found.near_chance + found.far_chance
    np.testing.assert_allclose(found.leaked.mean(), chance.mean())
    for part in range(1, 6):  # and so for every part alone
        chosen = found.part == part
        np.testing.assert_allclose(found.leaked[chosen].mean(), chance[chosen].mean())


def test_one_colour_for_all_leaks_nowhere(rng):
    truth = drawings(np.full((3, 5), 3))
    found = leakage(painted(truth, np.full((3, 5), 7)), truth)
    assert not found.leaked.any() and not np.any([found.near_chance, found.far_chance])


def test_other_names_for_the_parts_change_nothing(rng):
    asked, obtained = rng.integers(0, len(PALETTE), (2, 10, 5))
    truth = drawings(asked)
    pictures = painted(truth, obtained)
    names = rng.permutation(5)
    renamed = np.concatenate([[0], names + 1]).astype(np.uint8)[truth.true_labels]
    other = np.empty_like(asked)
    other[:, names] = asked
    one = leakage(pictures, truth)
    again = leakage(pictures, truth._replace(true_labels=renamed, true_colors=other))
    order = np.argsort(again.drawing * 10 + np.argsort(names)[again.part - 1])
    for name in ("requested", "obtained", "near", "far", "near_chance", "far_chance"):
        np.testing.assert_array_equal(getattr(again, name)[order], getattr(one, name))


def test_parts_too_small_to_be_judged_may_still_leak(rng):
    asked = np.array([[1, 2, -1, -1, 3]])
    truth = drawings(asked)
    labels = truth.true_labels.copy()
    labels[labels == 5] = 0
    labels[0, 20, 40 : 40 + MIN_PIXELS - 1] = 5
    found = leakage(painted(truth, [[3, 2, 0, 0, 9]]), truth._replace(true_labels=labels))
    assert found.part.tolist() == [1, 2]
    assert found.far.tolist() == [True, False] and not found.near.any()


def test_drawings_of_which_nothing_is_known_have_no_rows():
    truth = drawings(np.full((2, 5), -1))
    found = leakage(truth.image_u8, truth)
    assert all(len(field) == 0 for field in found)


@pytest.mark.parametrize("width", [0, 1, 2, 3, 6])
def test_parts_touch_across_a_stroke_of_any_width(width):
    labels, ink = np.zeros((40, 60), np.uint8), np.zeros((40, 60), bool)
    labels[10:30, 5:20], labels[10:30, 20 + width : 35] = 1, 2
    ink[10:30, 20 : 20 + width] = True
    labels[10:30, 50:] = 3
    expected = np.zeros((4, 4), bool)
    expected[0, 1] = expected[1, 0] = True
    np.testing.assert_array_equal(touching(labels, ink, 4), expected)
    np.testing.assert_array_equal(touching(labels.T, ink.T, 4), expected)


def test_paper_and_wide_ink_keep_parts_apart_and_mixed_pixels_do_not():
    labels = np.zeros((40, 60), np.uint8)
    labels[:, :20], labels[:, 24:40], labels[:, 56:] = 1, 2, 3
    ink = np.zeros(labels.shape, bool)
    ink[:, 40:56] = True  # a dark shape, beside lines of two pixels
    ink[5:7, :20] = ink[15:17, :20] = ink[25:27, :20] = ink[35:37, :20] = True
    assert not touching(np.where(ink, 0, labels), ink, 3).any()
    mixed = np.zeros((10, 21), np.uint8)
    mixed[:, :10], mixed[:, 11:] = 1, 2
    assert touching(mixed, np.zeros(mixed.shape, bool), 2)[0, 1]
    assert not touching(np.zeros_like(mixed), np.zeros(mixed.shape, bool), 2).any()


def test_the_table_counts_pairs_of_colours(rng):
    requested, obtained = rng.integers(0, len(PALETTE), (2, 500))
    table = color_table(requested, obtained)
    assert table.sum() == 500 and table.shape == (11, 11)
    for row, column in rng.integers(0, len(PALETTE), (20, 2)):
        assert table[row, column] == ((requested == row) & (obtained == column)).sum()
    assert not color_table(requested[:0], obtained[:0]).any()


def test_the_picture_shows_the_shares_of_each_row(rng):
    table = np.diag(rng.integers(1, 50, 11))
    table[3, 5] = table[3, 3]
    picture = color_table_figure(table, "Colours requested and obtained")
    assert picture.shape[1] > 12 * WIDTH and picture.shape[0] > 12 * HEIGHT
    half, whole = heat(np.array([0.5, 1.0]))
    areas = [(picture == color).all(-1).sum() for color in (half, whole)]
    cell = (WIDTH - 6) * (HEIGHT - 6)
    assert 0.7 * 2 * cell < areas[0] < 2.3 * cell
    assert 0.7 * 10 * cell < areas[1] < 10.5 * cell
    empty = color_table_figure(np.zeros((11, 11), np.int64), "Nothing")
    assert not (empty == whole).all(-1).any()
