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

Picture = UInt8[np.ndarray, "_ _ 3"]
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


def text_block(text: str, width: int, size: int = 15, centred: bool = False) -> Picture:
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


def enlarge(picture: GreyOrRgb, least: int) -> Picture:
    """Repeats pixels by the smallest whole factor that gives a height of at least `least` px."""
    factor = -(-least // picture.shape[0])
    rgb = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    return rgb.repeat(factor, axis=0).repeat(factor, axis=1)


def framed(picture: Picture) -> Picture:
    """The image with a thin grey frame, so that white images have visible borders."""
    result = picture.copy()
    result[[0, -1]] = result[:, [0, -1]] = 190
    return result


def beside(pictures: Sequence[Picture], gap: int = GAP) -> Picture:
    """The images side by side, aligned at the top."""
    return below([picture.swapaxes(0, 1) for picture in pictures], gap).swapaxes(0, 1)


def below(pictures: Sequence[Picture], gap: int = GAP) -> Picture:
    """The images below each other, aligned at the left; images of height 0 take no gap."""
    pictures = [picture for picture in pictures if picture.shape[0]]
    width = max(picture.shape[1] for picture in pictures)
    height = sum(picture.shape[0] for picture in pictures) + gap * (len(pictures) - 1)
    result = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for picture in pictures:
        result[top : top + picture.shape[0], : picture.shape[1]] = picture
        top += picture.shape[0] + gap
    return result


def on_page(picture: Picture, margin: int = 2 * GAP) -> Picture:
    """The image with a white margin."""
    return np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)
