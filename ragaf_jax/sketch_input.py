"""Converts any image of a sketch to a page as in training: paper 255, ink 0.

Steps: determine the polarity (`is_light_on_dark`), crop small subjects to their ink (`ink_window`),
reduce without losing thin lines (`resize_keeping_lines`), normalise paper and ink
(`normalise_contrast`), centre on the page.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from ragaf_jax.framing import Size, Window, cut, place_inside, resized

# Ink contrasts with the paper by more than this fraction of the paper's brightness.
MIN_CONTRAST = 0.12

# Least brightness of shaded paper, as a fraction of the brightest paper.
DEEPEST_SHADOW = 0.4

# Pixels between ink and 235 are faint lines if they cover this fraction of the page.
FAINTEST, LEAST_FAINT = 235, 0.001

# A sketch is cropped if its ink is lower and narrower than the first fraction of its page;
# afterwards its larger side is the second fraction. Over OpenMoji's 1,633 sketches, which trained
# the pretrained stages, the median is 0.82 and the first percentile 0.58; four are below 0.5.
LEAST_INK_SIDE, INK_SIDE = 0.5, 0.8

# Limits the magnification of specks.
MOST_MAGNIFIED = 8

# Side of the lines for upscaled images, px.
LINES_SIDE = 1024

# A sketch is filled if this fraction of it has intermediate grey, in areas at least `FILL_WIDTH` px
# wide when its longer side has `FILL_SIDE` px. None of 300 OpenMoji sketches is filled, but 76 %
# of the corresponding colour images are. Strokes of one shade never count. Grey strokes wider than
# `FILL_WIDTH` beside black ones do.
LEAST_FILLED, FILL_WIDTH, FILL_SIDE = 0.03, 15, 256
# Darkness of intermediate grey, as fractions of the darkest ink.
LIGHTEST_FILL, DARKEST_FILL = 0.15, 0.85

# Brightness surfaces are fitted to at most this many points per side.
FIT_SIDE = 64


class SketchInput(NamedTuple):
    """A sketch after reading.

    Attributes:
      page: on which regions are found, a multiple of the image's size; paper 255, ink 0.
      lines: the content of the page, dark on light, with up to `LINES_SIDE` px per side.
      crop: the part of the sketch on the page; None if it is not cropped.
      size: height and width of the image.
    """

    page: UInt8[np.ndarray, "rows columns"]
    lines: UInt8[np.ndarray, "h w"]
    crop: Window | None
    size: Size


def read_sketch(
    grey: UInt8[np.ndarray, "h w"], size: Size, crop: bool, scale: int = 1
) -> SketchInput:
    """Places a sketch on a page without changing its proportions.

    Args:
      grey: dark on light or light on dark, of any size. Without contrast, the page is blank.
      size: height and width of the image.
      crop: whether a sketch much smaller than its page is cropped to its ink; see `ink_window`.
      scale: pixels of the page per pixel of the image.
    """
    page_size = scale * size[0], scale * size[1]
    grey = dark_on_light(grey, page_size)
    page = on_page(grey, page_size)
    window = ink_window(page, *grey.shape) if crop else None
    if window is not None:
        grey = cut(grey, window)
        page = on_page(grey, page_size)
    side = min(LINES_SIDE, max(grey.shape))
    height, width, _, _ = place_inside(grey.shape[0], grey.shape[1], (side, side))
    return SketchInput(page, resize_keeping_lines(grey, height, width), window, size)


def to_page(grey: UInt8[np.ndarray, "h w"], page_size: Size) -> UInt8[np.ndarray, "rows columns"]:
    """The page of `read_sketch` without cropping."""
    return on_page(dark_on_light(grey, page_size), page_size)


def ink_window(page: UInt8[np.ndarray, "rows columns"], height: int, width: int) -> Window | None:
    """The part of a sketch around its ink, if the ink is much smaller than the page.

    This part has the page's proportions; the height or the width of the ink is `INK_SIDE` of it. It
    is moved inside the sketch, which is magnified at most `MOST_MAGNIFIED` times.

    Args:
      page: the whole sketch, as placed by `on_page`.
      height, width: of the sketch; only their ratio matters.

    Returns:
      None if the page has no ink, or if a side of the ink is at least `LEAST_INK_SIDE`.
    """
    ink = page < FAINTEST
    if not ink.any():
        return None
    (tall, wide), (_, _, rows, columns) = page.shape, place_inside(height, width, page.shape)
    y, x = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    ink_tall, ink_wide = int(np.ptp(y)) + 1, int(np.ptp(x)) + 1
    if ink_tall >= LEAST_INK_SIDE * tall or ink_wide >= LEAST_INK_SIDE * wide:
        return None
    # Height of the window: from the ink's height, or from its width by the page's proportions.
    side = max(ink_tall / INK_SIDE, ink_wide / INK_SIDE * (tall / wide), tall / MOST_MAGNIFIED)

    def around(ink: Int[np.ndarray, " n"], sketch: slice, side: float) -> tuple[float, float]:
        """Start and end of the window, in fractions of the sketch."""
        whole = sketch.stop - sketch.start
        length = min(side, whole)
        begin = (ink[0] + ink[-1] + 1 - length) / 2 - sketch.start
        begin = min(max(begin, 0), whole - length)
        return float(begin / whole), float((begin + length) / whole)

    (top, bottom), (left, right) = around(y, rows, side), around(x, columns, side * (wide / tall))
    return Window(left, top, right, bottom)


def dark_on_light(grey: UInt8[np.ndarray, "h w"], page_size: Size) -> UInt8[np.ndarray, "h w"]:
    """The sketch, inverted if it is light on dark at its size on a page."""
    height, width, _, _ = place_inside(grey.shape[0], grey.shape[1], page_size)
    reduced = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    return 255 - grey if is_light_on_dark(reduced) else grey


def on_page(grey: UInt8[np.ndarray, "h w"], page_size: Size) -> UInt8[np.ndarray, "rows columns"]:
    """A dark-on-light sketch centred on a page: paper 255, ink 0."""
    height, width, rows, columns = place_inside(grey.shape[0], grey.shape[1], page_size)
    page = np.full(page_size, 255, np.uint8)
    page[rows, columns] = normalise_contrast(resize_keeping_lines(grey, height, width))
    return page


def has_faint_lines(page: UInt8[np.ndarray, "h w"], threshold: int) -> bool:
    """Whether a page has lines that are lighter than ink and not the edge of a darker line.

    Args:
      page: as in `to_page`.
      threshold: pixels darker than this are ink.
    """
    ink = (page < threshold).astype(np.uint8)
    faint = (page >= threshold) & (page < FAINTEST) & (cv2.dilate(ink, np.ones((7, 7))) == 0)
    return bool(faint.mean() > LEAST_FAINT)


def is_filled(lines: UInt8[np.ndarray, "h w"]) -> bool:
    """Whether a sketch is a filled picture or a photo, with wide areas of intermediate grey.

    Args:
      lines: as in `SketchInput`; normalised contrast would clip fills.
    """
    height, width, _, _ = place_inside(lines.shape[0], lines.shape[1], (FILL_SIDE, FILL_SIDE))
    darkness = _darkness(resized(lines, height, width))
    if darkness.max() <= MIN_CONTRAST:
        return False
    darkest = np.quantile(darkness[darkness > MIN_CONTRAST], 0.99)
    lightest = max(MIN_CONTRAST, LIGHTEST_FILL * darkest)
    grey = (lightest < darkness) & (darkness < DARKEST_FILL * darkest)
    padded = np.pad(grey.astype(np.uint8), FILL_WIDTH)
    wide = cv2.morphologyEx(padded, cv2.MORPH_OPEN, np.ones((FILL_WIDTH, FILL_WIDTH), np.uint8))
    return bool(wide.sum() / grey.size > LEAST_FILLED)


def is_light_on_dark(grey: UInt8[np.ndarray, "h w"]) -> bool:
    """Whether a sketch is light on dark: most of its page and its border are dark.

    Most of the page is a smooth surface (paper or a board, unevenly lit), from which lines deviate.
    If the border deviates too (a silhouette that fills the page, a page on a dark table), the
    sketch counts as dark on light, the more frequent case.
    """
    off = grey - brightness_surface(grey, quantile=0.5)
    band = max(1, round(0.04 * min(grey.shape)))
    border = np.ones(grey.shape, bool)
    border[band:-band, band:-band] = False
    # The third power gives the sign of large deviations and suppresses shading.
    lines_are_lighter = bool(np.sum(off**3) > 0)
    return lines_are_lighter and bool(np.median(off[border]) < 0.5 * off.max())


def resize_keeping_lines(
    grey: UInt8[np.ndarray, "h w"], height: int, width: int
) -> UInt8[np.ndarray, "height width"]:
    """Reduces a dark-on-light sketch by half the mean and half the minimum of each target pixel.

    The mean alone fades thin lines: one pixel in thirty becomes 3 % grey, below any threshold. The
    minimum alone thickens lines and makes antialiased lines jagged. With half of each, lines stay
    at least half as dark, below the threshold of 160 for region borders. Enlarging is bicubic.
    """
    rows, cols = grey.shape
    if height >= rows and width >= cols:
        return cv2.resize(grey, (width, height), interpolation=cv2.INTER_CUBIC)
    mean = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    minimum = np.minimum.reduceat(grey, np.arange(height) * rows // height, axis=0)
    minimum = np.minimum.reduceat(minimum, np.arange(width) * cols // width, axis=1)
    return cv2.addWeighted(mean, 0.5, minimum, 0.5, 0)


def normalise_contrast(grey: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Maps the paper of a dark-on-light sketch to 255 and the darker quarter of its ink to 0.

    Brightness is relative to the local paper, which removes uneven light and grey paper. Three
    standard deviations of the paper's grain are clipped. A page without values darker than grain
    and `MIN_CONTRAST` becomes blank.
    """
    darkness = _darkness(grey)
    # For Gaussian grain, the median absolute value is 1 / 1.4826 standard deviations. Ink is left
    # out, because it may cover more than half of the page.
    near = np.abs(darkness)[np.abs(darkness) < 0.25]
    grain = 1.4826 * np.median(near) if near.size else 0.0
    ink = darkness[darkness > max(MIN_CONTRAST, 10 * grain)]
    if not ink.size:
        return np.full(grey.shape, 255, np.uint8)
    black, white = np.quantile(ink, 0.75), 3 * grain
    return np.rint(255 * np.clip((black - darkness) / (black - white), 0, 1)).astype(np.uint8)


def _darkness(grey: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """The darkness of a dark-on-light sketch relative to its local paper: paper 0, black 1."""
    # If ink covers much of the page, the fitted surface is darker than paper; it is clipped.
    bright = np.quantile(grey, 0.99)
    paper = np.clip(brightness_surface(grey, quantile=0.8), DEEPEST_SHADOW * bright, bright)
    return (paper - grey) / np.maximum(paper, 255 * MIN_CONTRAST)


def brightness_surface(grey: UInt8[np.ndarray, "h w"], quantile: float) -> Float[np.ndarray, "h w"]:
    """The quadratic surface above a fraction `quantile` of the pixels, in units of `grey`.

    Quantile regression by iteratively reweighted least squares, with weights q/|r| above the
    surface and (1 − q)/|r| below it (Schlossmacher 1973 for q = 1/2). Unlike in least squares, ink
    does not lower the surface.
    """
    rows, cols = grey.shape
    some_rows = np.unique(np.linspace(0, rows - 1, FIT_SIDE).astype(int))
    some_cols = np.unique(np.linspace(0, cols - 1, FIT_SIDE).astype(int))
    values = grey[np.ix_(some_rows, some_cols)].astype(np.float64).ravel()
    terms = _quadratic(rows, cols)
    design = terms[:, some_rows[:, None], some_cols].reshape(len(terms), -1).T
    weights = np.ones_like(values)
    for _ in range(30):
        weighted = design.T * weights
        # Least squares, because factors are undetermined in an image of one row.
        factors = np.linalg.lstsq(weighted @ design, weighted @ values, rcond=1e-9)[0]
        residual = values - design @ factors
        weights = np.where(residual > 0, quantile, 1 - quantile) / np.maximum(abs(residual), 0.1)
    return np.tensordot(factors, terms, axes=1)


def _quadratic(rows: int, cols: int) -> Float[np.ndarray, "6 rows cols"]:
    """1, x, y, x², xy, y² over an image that spans [-1, 1]²."""
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, cols), indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])
