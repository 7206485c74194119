"""Distance of lines, likeness of edge maps and agreement of regions on drawings made for it."""

import cv2
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from input_pipeline.extraction.sketch import canny
from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.metrics.edges import line_pixels
from ragaf_jax.evaluation.metrics.similarity import ms_ssim, ssim
from ragaf_jax.evaluation.metrics.sketch_fidelity import (
    edge_map_ssim,
    edge_maps,
    line_distance,
    region_agreement,
)
from ragaf_jax.palette import PALETTE, PALETTE_RGB

SIDE = 128


def house(divider=True):
    """A framed page's sketch: a box of two rooms."""
    sketch = np.full((SIDE, SIDE), 255, np.uint8)
    cv2.rectangle(sketch, (24, 30), (104, 98), 0, 3)
    if divider:
        cv2.line(sketch, (64, 30), (64, 98), 0, 3)
    return sketch


def painted(sketch, left, right):
    """The sketch's lines over two colours."""
    image = np.full((SIDE, SIDE, 3), 255, np.uint8)
    image[30:98, 24:64], image[30:98, 64:104] = (
        PALETTE_RGB[PALETTE.index(name)] for name in (left, right)
    )
    image[sketch < 128] = 0
    return image


def as_picture(sketch):
    return sketch[..., None].repeat(3, -1)


def scrawl(rng):
    """Random lines."""
    sketch = np.full((SIDE, SIDE), 255, np.uint8)
    for ends in rng.integers(10, SIDE - 10, (4, 2, 2)).tolist():
        cv2.line(sketch, *ends, 0, 2)
    return sketch


def test_line_distance_by_all_pairs(rng):
    for _ in range(5):
        image, sketch = as_picture(scrawl(rng)), scrawl(rng)
        drawn, asked = (np.argwhere(lines) for lines in line_pixels(image, sketch))
        apart = cdist(drawn, asked)
        expected = (apart.min(0).mean() + apart.min(1).mean()) / 2
        np.testing.assert_allclose(line_distance(image, sketch), expected, rtol=1e-9)


@pytest.mark.parametrize("shift", [0, 1, 4, 9])
def test_a_shifted_line_is_as_far_off_as_it_is_shifted(shift):
    sketch = np.full((SIDE, SIDE), 255, np.uint8)
    sketch[:, 50:53] = 0
    moved = line_distance(as_picture(np.roll(sketch, shift, 1)), sketch)
    assert moved == pytest.approx(shift)


def test_lines_that_lack_and_lines_too_many_both_count():
    whole, part = house(), house(divider=False)
    for image, sketch in ((whole, part), (part, whole)):
        assert line_distance(as_picture(image), sketch) > 1
    assert line_distance(as_picture(whole), whole) == 0


def test_there_is_no_distance_to_nothing():
    blank = np.full((SIDE, SIDE), 255, np.uint8)
    for image, sketch in ((blank, house()), (house(), blank), (blank, blank)):
        assert np.isnan(line_distance(as_picture(image), sketch))


def test_edge_maps_are_bright_on_black(rng):
    images = np.stack([painted(house(), "red", "yellow"), as_picture(scrawl(rng))])
    maps = edge_maps(images, canny)
    assert maps.shape == (2, SIDE, SIDE, 1)
    np.testing.assert_array_equal(maps[1, ..., 0], 255 - canny(images[1]))
    assert 0 < (maps == 255).mean() < 0.2


def test_edges_that_agree_are_alike_whatever_the_colours(rng):
    images = painted(house(), "red", "yellow")[None]
    recoloured = painted(house(), "pink", "orange")[None]
    other = as_picture(scrawl(rng))[None]
    np.testing.assert_allclose(edge_map_ssim(images, images, canny), 1)
    alike, unlike = (edge_map_ssim(x, images, canny)[0] for x in (recoloured, other))
    assert alike > 0.9 > ssim(recoloured, images)[0]
    assert unlike < alike - 0.2


def test_edge_maps_also_go_into_the_multi_scale_measure():
    images = np.stack([cv2.resize(painted(house(), "red", "yellow"), (192, 192))])
    maps = edge_maps(images, canny)
    np.testing.assert_allclose(ms_ssim(maps, maps), 1)


def test_the_sketch_itself_and_any_paint_have_its_regions():
    sketch = house()
    assert region_agreement(as_picture(sketch), sketch)[:3] == (1, 1, 1)
    for colors in (("red", "yellow"), ("purple", "black"), ("brown", "brown")):
        scores = region_agreement(painted(sketch, *colors), sketch)
        assert scores.found == scores.true == 3
        assert scores.iou > 0.93 and scores.covering > 0.93


def test_a_missing_line_joins_two_regions_and_a_gap_does_not():
    sketch = house()
    joined = region_agreement(as_picture(house(divider=False)), sketch)
    assert (joined.found, joined.true) == (2, 3)
    assert joined.iou == pytest.approx((1 + 0.5 + 0.5) / 3, abs=0.05)
    gap = as_picture(sketch)
    gap[60:64, 60:68] = 255
    assert region_agreement(gap, sketch).iou > 0.95


@pytest.mark.parametrize("paint", [0, 128, 255])
def test_one_flat_colour_is_one_region(paint):
    scores = region_agreement(np.full((SIDE, SIDE, 3), paint, np.uint8), house())
    assert scores.found == 1
    # Each of the three is compared with the whole page.
    assert scores.iou == pytest.approx(1 / 3)


def test_sizes_must_agree():
    image, sketch = np.zeros((32, 64, 3), np.uint8), np.zeros((32, 32), np.uint8)
    for metric in (line_distance, region_agreement):
        with pytest.raises(UserError, match="64x32.*32x32"):
            metric(image, sketch)
