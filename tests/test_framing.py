"""Sizes of images: of the sketch's proportions, within limits, and square as in training."""

import math

import cv2
import numpy as np
import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.framing import (
    AREA_TOLERANCE,
    MOST_ASPECT,
    Sizes,
    bucket_name,
    nearest_bucket,
    parse_buckets,
)
from ragaf_jax.sketch_input import ink_window, read_sketch

PIXEL, STABLE_DIFFUSION = Sizes(64, 4, 8), Sizes(512, 8, 64)
MODELS = [PIXEL, STABLE_DIFFUSION, Sizes(768, 8, 64), Sizes(1024, 8, 64), Sizes(16, 2, 4)]


@pytest.mark.parametrize("sizes", MODELS)
def test_a_sketch_has_an_image_of_its_proportions_at_the_area_of_training(rng, sizes):
    assert sizes.chosen((300, 300)) == (sizes.side, sizes.side)
    for aspect in rng.uniform(1 / MOST_ASPECT, MOST_ASPECT, 50):
        size = height, width = sizes.chosen((round(1000 / aspect), 1000))
        assert height % sizes.even == width % sizes.even == 0
        assert abs(height * width / sizes.side**2 - 1) <= AREA_TOLERANCE
        assert sizes.chosen(size) == sizes.chosen((7 * height, 7 * width)) == size
        assert sizes.chosen((1000, round(1000 / aspect))) == (width, height)
        if sizes.side >= 8 * sizes.even:
            assert abs(math.log(width / height / aspect)) < 0.07


def test_known_sizes():
    assert STABLE_DIFFUSION.chosen((400, 600)) == (384, 576)
    assert PIXEL.chosen((600, 900)) == (48, 72)
    # Longer sketches have an image of at most 2:1.
    assert PIXEL.chosen((100, 200)) == PIXEL.chosen((1, 5000)) == (48, 96)


def test_sides_that_are_given_are_kept_and_the_other_follows():
    assert STABLE_DIFFUSION.chosen((400, 600), width=104, height=72) == (72, 104)
    assert STABLE_DIFFUSION.chosen((400, 600), width=768) == (512, 768)
    assert STABLE_DIFFUSION.chosen((400, 600), height=72) == (72, 128)
    assert PIXEL.chosen((1, 100), height=256) == (256, 256)  # the largest width
    assert PIXEL.chosen((400, 600), letterbox=True) == (64, 64)
    assert PIXEL.chosen((400, 600), width=96, letterbox=True) == (64, 96)


@pytest.mark.parametrize(
    ("side", "near"),
    [
        (500, "such as 496 or 504"),
        (511.5, "such as 504 or 512"),
        (8, "such as 64"),
        (0, "such as 64"),
        (-8, "such as 64"),
        (4096, "such as 2048"),
        (10**30, "such as 2048"),
        (math.inf, "such as 512 or 520"),
        (math.nan, "such as 512 or 520"),
        ("wide", "such as 512 or 520"),
    ],
)
def test_other_sides_are_refused_with_the_nearest_valid_ones(side, near):
    for name in ("width", "height"):
        with pytest.raises(UserError) as error:
            STABLE_DIFFUSION.chosen((512, 512), **{name: side})
        expected = f"{name} is {side}; choose a multiple of 8 from 64 to 2048, {near}."
        assert str(error.value) == expected


def test_a_sketch_fills_a_page_of_its_proportions_and_keeps_them_on_others():
    grey = np.full((200, 300), 255, np.uint8)
    cv2.circle(grey, (150, 100), 90, 0, 6)
    for size, box in (((48, 72), (48, 72)), ((64, 64), (43, 64)), ((48, 96), (48, 72))):
        given = read_sketch(grey, size, crop=True, scale=4)
        assert given.page.shape == (4 * size[0], 4 * size[1]) and given.crop is None
        assert given.size == size and given.lines.shape == (200, 300)
        y, x = np.nonzero(given.page < 128)
        height, width = np.ptp(y) + 1, np.ptp(x) + 1
        assert abs(height - width) <= 2 and height == pytest.approx(0.93 * 4 * box[0], rel=0.05)
        # It is in the middle.
        assert abs(y.min() + y.max() - len(given.page)) <= 3
        assert abs(x.min() + x.max() - given.page.shape[1]) <= 3


def test_a_small_subject_is_cropped_to_the_proportions_of_its_page():
    grey = np.full((400, 600), 255, np.uint8)
    cv2.rectangle(grey, (200, 150), (320, 210), 0, 5)  # 0.2 of the width, 0.16 of the height
    given = read_sketch(grey, (48, 72), crop=True, scale=4)
    left, top, right, bottom = given.crop
    assert (right - left) * 600 / ((bottom - top) * 400) == pytest.approx(1.5, rel=0.01)
    assert (right - left) * 0.8 == pytest.approx(126 / 600, rel=0.05)  # the ink takes 0.8
    ink = np.nonzero((given.page < 128).any(0))[0]
    assert np.ptp(ink) + 1 == pytest.approx(0.8 * 288, rel=0.05)
    # A subject as high as half of the page is not small, however narrow it is.
    page = np.full((100, 300), 255, np.uint8)
    page[20:80, 10:14] = 0
    assert ink_window(page, 100, 300) is None


@pytest.mark.parametrize(("side", "multiple"), [(32, 8), (64, 8), (256, 64), (512, 64), (1024, 64)])
def test_automatic_buckets_hold_the_square_and_every_size_upright(side, multiple):
    sizes = parse_buckets(("auto",), side, multiple)
    assert (side, side) in sizes and len(sizes) >= 3
    for height, width in sizes:
        assert (width, height) in sizes and 1 / MOST_ASPECT <= width / height <= MOST_ASPECT
        assert abs(height * width / side**2 - 1) <= AREA_TOLERANCE
    aspects = [width / height for height, width in sizes]
    assert aspects == sorted(aspects)
    assert parse_buckets([bucket_name(size) for size in sizes[::-1]], side, multiple) == sizes


def test_an_image_belongs_to_the_bucket_of_the_nearest_proportions():
    buckets = parse_buckets(("512x512", " 576x448", "448x576"), 512, 64)
    assert buckets == ((576, 448), (512, 512), (448, 576)) and parse_buckets((), 512) == ()
    for size, bucket in (((300, 310), 1), ((480, 640), 2), ((9, 2), 0), ((5000, 5000), 1)):
        assert nearest_bucket(size, buckets) == buckets[bucket]
    # 1.1339 is the geometric mean of the two aspects.
    assert nearest_bucket((1000, 1133), buckets) == (512, 512)
    assert nearest_bucket((1000, 1135), buckets) == (448, 576)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (
            ("wide",),
            "'wide', which is not a size; write width x height in pixels, such as '512x512'",
        ),
        (("512x512", "auto"), "'auto', which is not a size"),
        ((512, 576), "has '512', which is not a size; write width x height"),
        (("0x512",), "'0x512', which is not a size"),
        (
            ("520x500",),
            "520x500; the networks need sides that are multiples of 64: name sizes such as 512x512",
        ),
        (("512x256",), "512x256, whose area is 0.5 times that of 512x512"),
        (("832x512",), "832x512, whose area is 1.62 times"),
        (("512x512", "512x512 "), "512x512 twice; name each size once"),
    ],
)
def test_wrong_buckets_are_refused(texts, said):
    with pytest.raises(UserError) as error:
        parse_buckets(texts, 512, 64)
    assert str(error.value).startswith("config.data.buckets has ") and said in str(error.value)
