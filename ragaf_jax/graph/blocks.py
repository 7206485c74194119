"""Pages as coarser maps of square blocks: pooled, counted and expanded."""

import cv2
import numpy as np
from jaxtyping import Int32, Integer, Real, UInt8


def darkest(page: UInt8[np.ndarray, "h w"], block: int) -> UInt8[np.ndarray, "gh gw"]:
    """The darkest pixel of every block, so that no line is lost."""
    if block == 1:
        return page
    # What a window has outside the page counts as white.
    return cv2.erode(page, np.ones((block, block), np.uint8), anchor=(0, 0))[::block, ::block]


def count_pixels(
    labels: Integer[np.ndarray, "gh gw"], count: int, block: int, page: tuple[int, ...]
) -> Real[np.ndarray, " n"]:
    """Pixels of the page with each label 0 … count−1.

    Args:
        block: side of a block, px.
        page: the page's height and width, which may cut off the last blocks.
    """
    if all(side % block == 0 for side in page):
        return np.bincount(labels.ravel(), minlength=count) * block**2
    heights, widths = (np.diff(range(0, side, block), append=side) for side in page)
    return np.bincount(labels.ravel(), np.outer(heights, widths).ravel(), count)


def written_out(
    labels: Integer[np.ndarray, "gh gw"],
    names: Int32[np.ndarray, " n"],
    block: int,
    page: tuple[int, ...],
) -> Int32[np.ndarray, "h w"]:
    """The page with each label's new name in all of its blocks."""
    height, width = page
    # Whole rows of blocks at a time: far faster than pixel by pixel.
    rows = np.take(names[:, None].repeat(block, axis=1), labels, axis=0)
    return rows.reshape(len(labels), -1)[:, :width].repeat(block, axis=0)[:height]
