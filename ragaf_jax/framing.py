"""Sizes of images, and sketches and photos cropped, padded and resized to stay aligned."""

import itertools
import math
import numbers
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8

from ragaf_jax.errors import UserError

Size = tuple[int, int]  # height and width, px

# Sketches with a longer side of more than this many shorter ones get an image of these proportions,
# because models of square images repeat their subject in longer ones.
MOST_ASPECT = 2.0

# The area of an image of a sketch's proportions differs by at most this share from the model's.
AREA_TOLERANCE = 0.2

# Sides are at most this many times the model's, which bounds memory.
LARGEST_FACTOR = 4

# The areas of training's buckets and of the model's square images differ at most by this factor.
BUCKET_FACTOR = 1.5


class Sizes(NamedTuple):
    """The sizes of images that a model samples.

    Attributes:
      side: of the square images of its training, px.
      multiple: divides every side: pixels per latent.
      even: sides that all levels of the networks halve without remainder are multiples of it.
    """

    side: int
    multiple: int
    even: int

    def chosen(
        self, sketch: Size, width: Any = None, height: Any = None, letterbox: bool = False
    ) -> Size:
        """Height and width of the image of a sketch.

        Args:
          sketch: its height and width; only their ratio matters.
          width, height: of the image; None follows from the sketch's proportions.
          letterbox: whether sides that are not given are `side`, whatever the proportions.

        Raises:
          UserError: a side that the model cannot sample.
        """
        for name, value in (("width", width), ("height", height)):
            if value is not None:
                self._check(name, value)
        if letterbox:
            width, height = width or self.side, height or self.side
        aspect = min(max(sketch[1] / sketch[0], 1 / MOST_ASPECT), MOST_ASPECT)
        if width is not None and height is not None:
            return int(height), int(width)
        if width is not None:
            return self._fitting(width / aspect), int(width)
        if height is not None:
            return int(height), self._fitting(height * aspect)
        return self._nearest(aspect)

    def _nearest(self, aspect: float) -> Size:
        """The even size of about the model's area whose width / height is nearest to `aspect`."""
        longest = math.ceil(self.side * math.sqrt(MOST_ASPECT * (1 + AREA_TOLERANCE)))
        sides = range(self.even, longest + self.even, self.even)

        def off(size: Size) -> tuple[float, float]:
            height, width = size
            area = abs(math.log(height * width / self.side**2))
            return round(abs(math.log(width / height / aspect)), 9), area

        budget = self.side**2
        near = (
            (height, width)
            for height, width in itertools.product(sides, sides)
            if abs(height * width - budget) <= AREA_TOLERANCE * budget
        )
        return min(near, key=off)

    def _fitting(self, side: float) -> int:
        """The even side nearest to a number of pixels."""
        most = LARGEST_FACTOR * self.side // self.even
        return self.even * min(max(1, round(side / self.even)), most)

    def _check(self, name: str, value: Any) -> None:
        least, most = self.even, LARGEST_FACTOR * self.side
        known = isinstance(value, int | float | np.integer) and -math.inf < value < math.inf
        number = value if known else self.side
        if known and least <= number <= most and number % self.multiple == 0:
            return
        below = self.multiple * math.floor(min(number, most) / self.multiple)
        near = {min(max(side, least), most) for side in (below, below + self.multiple)}
        raise UserError(
            f"{name} is {value}; choose a multiple of {self.multiple} from {least} to {most}, such "
            f"as {' or '.join(map(str, sorted(near)))}."
        )


def check_same_size(size: Size, width: Any, height: Any) -> None:
    """Refuses a width or height other than that of a sketch that was already placed.

    Raises:
      UserError: one of them differs from `size`.
    """
    pairs = (height, size[0]), (width, size[1])
    if not all(x is None or (isinstance(x, numbers.Real) and x == side) for x, side in pairs):
        raise UserError(
            f"The sketch was placed on a page for {size[1]} × {size[0]} px, and width is {width} "
            f"and height {height}; give them where the sketch is read."
        )


def parse_buckets(
    texts: Sequence[Any], side: int, multiple: int = 1, name: str = "config.data.buckets"
) -> tuple[Size, ...]:
    """Heights and widths of training's images, from narrow to wide; empty for squares of `side`.

    Args:
      texts: sizes in pixels, width first, such as "576x448"; or "auto" alone, for `_auto_buckets`.
      side: of the model's square images, px.
      multiple: divides every side.
      name: of the flag or field, for errors.

    Raises:
      UserError: a text is not a size, or a size is given twice, has a side that `multiple` does not
        divide, or an area too far from the square's.
    """
    automatic = tuple(texts) == ("auto",)
    if automatic:
        texts = [bucket_name(size) for size in _auto_buckets(side)]
    sizes: list[Size] = []
    for text in map(str, texts):  # a command line's 512 is a number
        size = parse_size(text)
        if size is None:
            raise UserError(
                f"{name} has {text!r}, which is not a size; write width x height in pixels, such "
                f"as '{side}x{side}', or 'auto' alone."
            )
        height, width = size
        if width % multiple or height % multiple:
            near = [multiple * max(1, round(length / multiple)) for length in (height, width)]
            which = f"'auto', which gives {text}" if automatic else text.strip()
            raise UserError(
                f"{name} has {which}; the networks need sides that are multiples of {multiple}: "
                f"name sizes such as {bucket_name((near[0], near[1]))}."
            )
        factor = height * width / side**2
        if not 1 / BUCKET_FACTOR <= factor <= BUCKET_FACTOR:
            raise UserError(
                f"{name} has {text.strip()}, whose area is {factor:.3g} times that of {side}x{side}"
                f", the size of square images; choose from {1 / BUCKET_FACTOR:.2g} to "
                f"{BUCKET_FACTOR:g} times."
            )
        if size in sizes:
            raise UserError(f"{name} has {text.strip()} twice; name each size once.")
        sizes.append(size)
    return tuple(sorted(sizes, key=by_aspect))


def parse_size(text: str) -> Size | None:
    """Height and width of "WIDTHxHEIGHT", each of 1 to 6 digits; None for another form."""
    match = re.fullmatch(r"\s*([1-9][0-9]{0,5})x([1-9][0-9]{0,5})\s*", text)
    return None if match is None else (int(match[2]), int(match[1]))


def by_aspect(size: Size) -> tuple[float, int]:
    """A sort key of sizes, from narrow to wide."""
    return size[1] / size[0], -size[0]


def bucket_name(size: Size) -> str:
    """A size as `parse_size` reads it: "WIDTHxHEIGHT"."""
    return f"{size[1]}x{size[0]}"


def nearest_bucket(size: Size, buckets: Sequence[Size]) -> Size:
    """The bucket whose width / height has the nearest logarithm to that of an image's."""
    return min(buckets, key=lambda bucket: round(abs(aspect_difference(size, bucket)), 9))


def aspect_difference(one: Size, other: Size) -> float:
    """The logarithm of the ratio of two sizes' width / height."""
    return math.log(one[1] * other[0] / (one[0] * other[1]))


def _auto_buckets(side: int) -> list[Size]:
    """Sizes of about side² px and at most 2:1, with multiples of about side / 8 as one side.

    Sides are multiples of 64, as Stable Diffusion needs, if `side` is one from 256 px on; otherwise
    of the greatest power of 2 from 8 to side / 8 that divides `side`.
    """
    if side >= 256 and side % 64 == 0:
        step = 64
    else:
        step = next((s for s in (64, 32, 16) if s <= side / 8 and side % s == 0), 8)
    found = set()
    for one in range(step, 2 * side, step):
        other = step * max(1, round(side**2 / one / step))
        if max(one, other) <= MOST_ASPECT * min(one, other):
            found |= {(one, other), (other, one)}
    return sorted(found)


def crop_to(array: Shaped[np.ndarray, "h w *c"], size: Size) -> Shaped[np.ndarray, "rows cols *c"]:
    """The largest centred part of a size's proportions; photos and sketches stay aligned."""
    _, _, rows, columns = place_inside(*size, (array.shape[0], array.shape[1]))
    return array[rows, columns]


def resized(
    array: UInt8[np.ndarray, "h w *c"], height: int, width: int
) -> UInt8[np.ndarray, "height width *c"]:
    """The image at another size, by area means if reduced and bicubic if enlarged."""
    reduced = height * width < array.shape[0] * array.shape[1]
    smooth = cv2.INTER_AREA if reduced else cv2.INTER_CUBIC
    return cv2.resize(array, (width, height), interpolation=smooth)


def place_inside(height: int, width: int, frame: Size) -> tuple[int, int, slice, slice]:
    """The place of the largest centred image of these proportions in a frame.

    Returns:
      Height and width of the image, and its rows and columns in the frame.
    """
    scale = min(frame[0] / height, frame[1] / width)
    height, width = (max(1, round(length * scale)) for length in (height, width))
    top, left = (frame[0] - height) // 2, (frame[1] - width) // 2
    return height, width, slice(top, top + height), slice(left, left + width)


def letterboxed(
    photo: UInt8[np.ndarray, "h w 3"], frame: Size, paper: int = 255
) -> UInt8[np.ndarray, "height width 3"]:
    """The whole photo centred on a frame of this grey, aligned with `sketch_input.to_page`."""
    height, width, rows, columns = place_inside(photo.shape[0], photo.shape[1], frame)
    padded = np.full((*frame, 3), paper, np.uint8)
    padded[rows, columns] = resized(photo, height, width)
    return padded


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
