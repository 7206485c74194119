"""Arranges text and images on white, as u8 RGB of shape [height, width, 3].

The font is Matplotlib's DejaVu Sans, which covers accented Latin, Greek, Cyrillic, Hebrew and
Arabic letters.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

Rgb = UInt8[np.ndarray, "_ _ 3"]
GreyOrRgb = UInt8[np.ndarray, "_ _ *rgb"]

LONGEST = 400  # characters of a caption, about five lines
GAP = 8
INK = (30, 30, 30)


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font, `size` pixels high."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, size)


def wrap(text: str, width: int, size: int) -> list[str]:
    """Breaks text into lines of at most `width` px, at spaces or inside words that are too wide."""
    measure = font(size).getlength
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if measure(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and measure(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def cut_to(text: str, width: int, size: int) -> str:
    """One line of text of at most `width` px; longer text is cut, with an ellipsis."""
    measure, ellipsis = font(size).getlength, " …"
    if measure(text) <= width:
        return text
    return wrap(text, width - math.ceil(measure(ellipsis)), size)[0] + ellipsis


def shortened(text: str) -> str:
    """Text of at most `LONGEST` characters; longer text is cut after a word, with an ellipsis."""
    text = text.strip()
    if len(text) <= LONGEST:
        return text
    return text[: LONGEST - 2].rsplit(maxsplit=1)[0] + " …"


def text_block(text: str, width: int, size: int = 15, centred: bool = False) -> Rgb:
    """Text wrapped to `width` px, of the height of its lines; empty text has height 0."""
    if not text.strip():
        return np.full((0, width, 3), 255, np.uint8)
    lines, spacing = wrap(text, width, size), round(1.3 * size)
    image = Image.new("RGB", (width, spacing * len(lines) + size // 3), "white")
    pen = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        x = (width - font(size).getlength(line)) / 2 if centred else 0
        pen.text((x, i * spacing), line, INK, font(size))
    return np.array(image)


def enlarge(image: GreyOrRgb, least: int) -> Rgb:
    """Repeats pixels by the smallest whole factor with a longer side of at least `least` px."""
    factor = -(-least // max(image.shape[:2]))
    rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    return rgb.repeat(factor, axis=0).repeat(factor, axis=1)


def framed(image: Rgb) -> Rgb:
    """The image with a thin grey frame, so that white images have visible borders."""
    result = image.copy()
    result[[0, -1]] = result[:, [0, -1]] = 190
    return result


def beside(images: Sequence[Rgb], gap: int = GAP) -> Rgb:
    """The images side by side, aligned at the top."""
    return below([image.swapaxes(0, 1) for image in images], gap).swapaxes(0, 1)


def below(images: Sequence[Rgb], gap: int = GAP) -> Rgb:
    """The images below each other, aligned at the left; images of height 0 take no gap."""
    images = [image for image in images if image.shape[0]]
    width = max(image.shape[1] for image in images)
    height = sum(image.shape[0] for image in images) + gap * (len(images) - 1)
    result = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for image in images:
        result[top : top + image.shape[0], : image.shape[1]] = image
        top += image.shape[0] + gap
    return result


def on_page(image: Rgb, margin: int = 2 * GAP) -> Rgb:
    """The image with a white margin."""
    return np.pad(image, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)
