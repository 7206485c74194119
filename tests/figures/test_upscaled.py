"""Upscaled images have a side that an image can have, and the lines of their sketch."""

import numpy as np
import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.figures.upscaled import LARGEST, check_upscale, upscaled


@pytest.mark.parametrize("side", [-1, LARGEST + 1, 512.5, float("nan"), "512", None])
def test_a_side_that_no_image_can_have_is_refused(side):
    with pytest.raises(UserError, match="^upscale is .*; choose the side in pixels, 1 to 4096, or"):
        check_upscale(side)


@pytest.mark.parametrize("side", [0, 1, np.int64(512), LARGEST])
def test_every_whole_side_up_to_the_largest_is_allowed(side):
    check_upscale(side)


def test_the_lines_are_as_sharp_as_the_sketch_and_paper_keeps_the_image():
    lines = np.full((512, 512), 255, np.uint8)
    lines[:, 200:204] = 0
    image = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    large = upscaled(image, lines, 512)
    assert (large[:, 200:204] == 0).all()
    assert (large[:, :199] == image[0, 0]).all() and (large[:, 205:] == image[0, 0]).all()
