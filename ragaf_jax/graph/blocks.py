"""Coarser maps of a page: pooling into square blocks, counting and expanding them."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Int32, Integer, Real, UInt8


def page_side(page: Sequence[int]) -> float:
    """Side of the square with the area of a page of (height, width), px: its unit of length.

    Lengths of non-square pages are measured in it along both axes, and on a square it is the side.
    """
    height, width = page
    return math.sqrt(height * width)


def min_pool(page: UInt8[np.ndarray, "h w"], block: int) -> UInt8[np.ndarray, "gh gw"]:
    """The darkest pixel of every block, which preserves thin lines."""
    if block == 1:
        return page
    # OpenCV treats pixels outside the page as white.
    return cv2.erode(page, np.ones((block, block), np.uint8), anchor=(0, 0))[::block, ::block]


def count_pixels(
    labels: Integer[np.ndarray, "gh gw"], count: int, block: int, page: tuple[int, ...]
) -> Real[np.ndarray, " n"]:
    """Number of pixels with each label 0 … count−1 on a page of (height, width) = `page`.

    Blocks have `block` px a side; the last ones may be incomplete.
    """
    if all(side % block == 0 for side in page):
        return np.bincount(labels.ravel(), minlength=count) * block**2
    heights, widths = (np.diff(range(0, side, block), append=side) for side in page)
    return np.bincount(labels.ravel(), np.outer(heights, widths).ravel(), count)


def expand_blocks(
    labels: Integer[np.ndarray, "gh gw"],
    names: Int32[np.ndarray, " n"],
    block: int,
    page: tuple[int, ...],
) -> Int32[np.ndarray, "h w"]:
    """The page in full resolution, each label replaced by its new name."""
    height, width = page
    # Copying whole rows of blocks is far faster than copying pixels.
    rows = np.take(names[:, None].repeat(block, axis=1), labels, axis=0)
    return rows.reshape(len(labels), -1)[:, :width].repeat(block, axis=0)[:height]
