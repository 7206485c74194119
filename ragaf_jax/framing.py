"""Crops, pads and resizes sketches and images, so that they stay aligned."""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8


def crop_square(array: Shaped[np.ndarray, "h w *c"]) -> Shaped[np.ndarray, "side side *c"]:
    """The largest centred square; photos and sketches of equal size stay aligned."""
    height, width = array.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return array[top : top + side, left : left + side]


def to_square(photo: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "side side 3"]:
    """The centre square of the photo at `side` px; see `resized`."""
    return resized(crop_square(photo), side, side)


def resized(
    array: UInt8[np.ndarray, "h w *c"], height: int, width: int
) -> UInt8[np.ndarray, "height width *c"]:
    """The image at another size, by area means if reduced and bicubic if enlarged."""
    reduced = height * width < array.shape[0] * array.shape[1]
    smooth = cv2.INTER_AREA if reduced else cv2.INTER_CUBIC
    return cv2.resize(array, (width, height), interpolation=smooth)


def place_in_square(height: int, width: int, side: int) -> tuple[int, int, slice, slice]:
    """The place of the largest centred image of these proportions in a square.

    Returns:
      Height and width of the image, and its rows and columns in the square.
    """
    scale = side / max(height, width)
    height, width = (max(1, round(length * scale)) for length in (height, width))
    top, left = (side - height) // 2, (side - width) // 2
    return height, width, slice(top, top + height), slice(left, left + width)


def pad_to_square(
    photo: UInt8[np.ndarray, "h w 3"], side: int, paper: int = 255
) -> UInt8[np.ndarray, "side side 3"]:
    """The whole photo centred on a square of this grey, aligned with `sketch_input.to_page`."""
    height, width, rows, columns = place_in_square(photo.shape[0], photo.shape[1], side)
    square = np.full((side, side, 3), paper, np.uint8)
    square[rows, columns] = resized(photo, height, width)
    return square


class Window(NamedTuple):
    """A rectangle of an image, in fractions of its width and height from the upper left corner."""

    left: float
    top: float
    right: float
    bottom: float


def cut(array: Shaped[np.ndarray, "h w *c"], window: Window) -> Shaped[np.ndarray, "rows cols *c"]:
    """The pixels of an image inside a window, at least one."""
    height, width = array.shape[:2]
    top, left = (
        min(math.floor(share * side), side - 1)
        for share, side in ((window.top, height), (window.left, width))
    )
    bottom, right = math.ceil(window.bottom * height), math.ceil(window.right * width)
    return array[top : max(bottom, top + 1), left : max(right, left + 1)]
