"""Regions keep their numbers after merging and editing."""

import numpy as np
import pytest
from fakes import random_labels

from ragaf_jax.errors import UserError
from ragaf_jax.graph.regions import Regions
from ragaf_jax.sampling.numbered import (
    NumberedRegions,
    check_not_merged,
    label_image,
    merged,
    region_properties,
    relabelled,
)


def partition(rng, size=16, count=6):
    """Regions by falling area, as `extract_regions` has them; the largest is background."""
    labels = random_labels(rng, size, count)
    order = np.argsort(-np.bincount(labels.ravel()), kind="stable")
    labels = np.argsort(order)[labels].astype(np.int32)
    return NumberedRegions.of(Regions(labels, count, np.arange(count) == 0))


def numbers_of(numbered):
    """The number of every pixel."""
    return np.array(numbered.numbers)[numbered.regions.labels]


def falling(numbered):
    areas = np.bincount(numbered.regions.labels.ravel())
    return len(areas) == numbered.regions.n and (np.diff(areas) <= 0).all() and areas.min() > 0


def test_merged_regions_are_one_and_the_others_keep_their_numbers(rng):
    before = partition(rng)
    a, b, c, d = (int(i) for i in rng.permutation(6)[:4])
    after = merged(before, [(a, b), (c, d)])
    expected = numbers_of(before)
    for one, other in ((a, b), (c, d)):
        expected = np.where(np.isin(expected, (one, other)), min(one, other), expected)
    np.testing.assert_array_equal(numbers_of(after), expected)
    assert after.regions.n == 4 and falling(after)
    # The merged region has the smaller number; the larger one is unknown.
    with pytest.raises(UserError, match=f"There is no region {max(a, b)}; the sketch"):
        after.id_of(max(a, b))
    assert after.numbers[after.id_of(min(a, b))] == min(a, b)
    # A region is background if most of it was background.
    share = np.bincount(after.regions.labels.ravel(), (before.regions.labels == 0).ravel())
    areas = np.bincount(after.regions.labels.ravel())
    np.testing.assert_array_equal(after.regions.background, share / areas > 0.5)


def test_merging_nothing_changes_nothing(rng):
    before = partition(rng)
    for groups in ([], [(3, 3)][:0]):
        after = merged(before, groups)
        np.testing.assert_array_equal(after.regions.labels, before.regions.labels)
        assert after.numbers == before.numbers


@pytest.mark.parametrize(
    ("groups", "said"),
    [([(1, 9)], "no region 9"), ([(1, 2), (2, 3)], "Region 2 is listed twice")],
)
def test_what_cannot_be_merged(rng, groups, said):
    with pytest.raises(UserError, match=said):
        merged(partition(rng), groups)


def test_a_prompt_for_a_region_that_was_merged_names_the_region_that_has_it():
    with pytest.raises(UserError, match="Region 3 is part of region 2 after --merge; give that"):
        check_not_merged({0, 2, 3}, [(5, 6), (3, 2)])
    check_not_merged({2, 4, 5}, [(5, 6), (3, 2)])


@pytest.mark.parametrize("side", (16, 40, 256))
def test_a_label_page_that_is_not_edited_changes_nothing(rng, side):
    before = partition(rng)
    page = label_image(before, side)
    assert page.shape[0] in (side, 32) and page.shape[0] <= side
    after = relabelled(before, page, 8)
    np.testing.assert_array_equal(after.regions.labels, before.regions.labels)
    np.testing.assert_array_equal(after.regions.background, before.regions.background)
    assert after.numbers == before.numbers


def test_an_edited_page_is_the_partition(rng):
    before = partition(rng)
    page = label_image(before, 64)
    page[:8, 20:40] = 200  # a new region, of any number
    page[page == 2] = 1  # one painted over with another
    after = relabelled(before, page, 8)
    np.testing.assert_array_equal(numbers_of(after), page[::4, ::4])
    assert 200 in after.numbers and 2 not in after.numbers and falling(after)


def test_thin_lines_go_to_what_is_about_them(rng):
    before = partition(rng)
    page = label_image(before, 256)
    page[::16] = 77  # a line of one pixel in cells of sixteen
    after = relabelled(before, page, 8)
    np.testing.assert_array_equal(after.regions.labels, before.regions.labels)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (
            np.zeros((8, 8), np.uint8),
            "the proportions of 16 × 16 px in grey and at",
        ),
        (np.zeros((32, 16), np.uint8), "has shape"),
        (
            np.arange(256, dtype=np.uint8).reshape(16, 16),
            "256 different numbers .* takes 8 regions",
        ),
    ],
)
def test_pages_that_cannot_be_used(rng, page, said):
    with pytest.raises(UserError, match=said):
        relabelled(partition(rng), page, 8)


def test_regions_are_described_by_their_numbers():
    labels = np.zeros((10, 10), np.int32)
    labels[:, 6:] = 1
    labels[:2, 9:] = 2
    numbered = merged(NumberedRegions.of(Regions(labels, 3, np.array([True, False, False]))), [])
    numbered = numbered._replace(numbers=(4, 7, 5))
    left, right, corner = region_properties(numbered)
    assert (left["number"], left["share"], left["background"]) == (4, 0.6, True)
    assert left["box"] == [0, 0, 0.6, 1] and left["centroid"] == [0.3, 0.5]
    assert left["touches"] == [7] and right["touches"] == [4, 5] and corner["touches"] == [7]
