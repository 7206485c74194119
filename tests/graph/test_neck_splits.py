"""The factor `neck_splits` controls splits of areas at narrow openings."""

import cv2
import numpy as np
import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.graph.regions import RegionConfig, extract_regions

FACTORS = (0, 0.01, 0.3, 1, 3, 100, 1000)


@pytest.fixture
def rng():
    """A fixed sample, because neighbours can absorb small fragments of a region."""
    return np.random.default_rng(0)


def wall(gap):
    """A wall that a window narrows to `gap` px on both sides: outside, wall and window."""
    page = np.full((256, 256), 255, np.uint8)
    cv2.rectangle(page, (40, 50), (216, 230), 0, 3)
    cv2.rectangle(page, (40 + gap, 115), (216 - gap, 165), 0, 3)
    return page


def regions_of(page, factors=FACTORS):
    return [extract_regions(page, neck_splits=factor) for factor in factors]


def test_a_wall_that_a_window_narrows_is_one_region_where_necks_do_not_split():
    page = wall(12)
    whole, usual = extract_regions(page, neck_splits=0), extract_regions(page)
    assert (whole.n, usual.n) == (3, 4)
    above, below = (80, 128), (200, 128)
    assert usual.labels[above] != usual.labels[below]
    assert whole.labels[above] == whole.labels[below] == whole.labels[140, 46]
    assert len({whole.labels[place] for place in (above, (10, 10), (140, 128))}) == 3


def test_a_factor_says_how_wide_an_opening_still_splits():
    split_from = [
        next(factor for factor in FACTORS if extract_regions(wall(gap), neck_splits=factor).n == 4)
        for gap in (8, 12, 20, 30)
    ]
    assert split_from == [0.3, 1, 3, 100]


def test_a_larger_factor_never_has_fewer_regions(random_page):
    pages = [wall(gap) for gap in (8, 12, 30)] + [random_page() for _ in range(6)]
    changed = 0
    for page in pages:
        counts = [regions.n for regions in regions_of(page)]
        assert counts == sorted(counts)
        changed += counts[0] < counts[-1]
    assert changed > 4


def test_only_closed_outlines_separate_at_0():
    """Each of two rooms is closed or has an opening of some pixels to the outside."""
    for opening, count in ((0, 3), (9, 1)):
        page = np.full((256, 256), 255, np.uint8)
        for left in (30, 140):
            cv2.rectangle(page, (left, 60), (left + 80, 190), 0, 3)
            page[120 : 120 + opening, left - 3 : left + 4] = 255
        assert extract_regions(page, neck_splits=0).n == count
        assert extract_regions(page, neck_splits=1).n == 3


def test_other_kinds_of_regions_have_no_necks(random_page):
    page = random_page()
    for config in (RegionConfig(mode="ink"), RegionConfig(max_regions=1)):
        one, other = (extract_regions(page, config, factor) for factor in (0, 1000))
        np.testing.assert_array_equal(one.labels, other.labels)


@pytest.mark.parametrize("factor", [-0.1, 1001, float("nan"), float("inf")])
def test_a_factor_out_of_its_range_is_refused(factor):
    with pytest.raises(UserError, match=f"^neck_splits is {factor}; choose 0 to 1000: 0 splits no"):
        extract_regions(wall(12), neck_splits=factor)
