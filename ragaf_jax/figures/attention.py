"""Attention maps of one sketch: the attention of each region to each phrase."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from ragaf_jax.figures.graph import innermost
from ragaf_jax.figures.lettering import (
    GAP,
    INK,
    Rgb,
    below,
    beside,
    cut_to,
    font,
    framed,
    on_page,
    text_block,
)
from ragaf_jax.figures.phrases import Phrase, phrases
from ragaf_jax.framing import place_inside, resized

# A row of four maps is about 1000 px wide, the width of figures on web pages.
CELL, COLUMNS, LETTERS = 240, 4, 16  # px per map, maps per row, px per letter
_BAR = 110, 22  # px, of α and β
_NUMBER, _VALUES = 34, 100  # px for the region number before a bar, and for the values after it

# ColorBrewer's YlOrRd, from light to dark, so that black lines stay visible.
HEAT = np.array([(255, 255, 255), (254, 217, 118), (253, 141, 60), (227, 26, 28), (128, 0, 38)])
SKETCH_COLOR, TEXT_COLOR = (76, 120, 168), (245, 133, 24)


def attention_maps(
    sketch: UInt8[np.ndarray, "H W"],
    labels: Int[np.ndarray, "h w"],
    attention: Float[np.ndarray, "r t"],
    pieces: Sequence[str],
    fusion: Float[np.ndarray, "r 2"],
    numbers: Sequence[int],
    texts: Int[np.ndarray, " t"] | None = None,
) -> Rgb:
    """A heat map per phrase of the prompt, and α, β and the most attended phrase per region.

    Args:
      sketch: paper 255, ink 0, of any resolution.
      labels: region 0 … r-1 of each pixel.
      attention: A, of each region over the tokens; rows sum to 1.
      pieces: text of each token; special tokens and padding are not shown.
      fusion: weights α (sketch) and β (text) of each region.
      numbers: number of each region.
      texts: as in `phrases`.
    """
    maps = phrase_maps(sketch, labels, attention, pieces, CELL, COLUMNS, texts)
    shown = phrases(pieces, texts)
    first = ["" for _ in numbers]
    if shown:
        first = [f"{x.max():.2f} {shown[x.argmax()][0]}" for x in _shares(attention, shown)]
    panel = _fusion_panel(sketch, labels, fusion, numbers, first)
    return on_page(below([maps, panel], gap=3 * GAP))


def phrase_maps(
    sketch: UInt8[np.ndarray, "H W"],
    labels: Int[np.ndarray, "h w"],
    attention: Float[np.ndarray, "r t"],
    pieces: Sequence[str],
    cell: int,
    columns: int,
    texts: Int[np.ndarray, " t"] | None = None,
) -> Rgb:
    """A heat map per phrase, with a colour scale; of height 0 if there are no phrases.

    Args:
      sketch, labels, attention, pieces, texts: as in `attention_maps`.
      cell: longer side of a map, px.
      columns: maps per row.
    """
    shown = phrases(pieces, texts)
    if not shown:
        return text_block("", cell)
    shares = _shares(attention, shown)
    strongest = max(float(shares.max()), 1e-6)
    maps = [_painted(sketch, labels, heat(share / strongest), cell) for share in shares.T]
    rows = []
    for i in range(0, len(maps), columns):
        names = [text_block(title, cell, LETTERS, True) for title, _ in shown[i : i + columns]]
        height = max(map(len, names))
        # Titles are aligned at the bottom, next to their maps.
        row = [
            np.pad(x, ((height - len(x), 0), (0, 0), (0, 0)), constant_values=255) for x in names
        ]
        rows.append(below([beside(row), beside(maps[i : i + columns])], gap=2))
    return below([*rows, _heat_scale(strongest, columns * (cell + GAP) - GAP)], gap=2 * GAP)


def heat(values: Float[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n 3"]:
    """Colours of values in 0 … 1."""
    stops = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(values, stops, HEAT[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, -1)).astype(np.uint8)


def _shares(
    attention: Float[np.ndarray, "r t"], shown: Sequence[Phrase]
) -> Float[np.ndarray, "r p"]:
    """Each region's attention to each of p ≥ 1 phrases, the sum over its tokens."""
    return np.stack([attention[:, positions].sum(1) for _, positions in shown], axis=1)


def _painted(
    sketch: UInt8[np.ndarray, "H W"],
    labels: Int[np.ndarray, "h w"],
    colors: UInt8[np.ndarray, "r 3"],
    side: int,
) -> Rgb:
    """The regions in their colours below the lines of the sketch, in a column of `side` px."""
    height, width, _, columns = place_inside(labels.shape[0], labels.shape[1], (side, side))
    fill = cv2.resize(colors[labels], (width, height), interpolation=cv2.INTER_NEAREST)
    lines = resized(sketch, height, width)[..., None] / 255
    painted = framed(np.rint(fill * lines).astype(np.uint8))
    margins = (0, 0), (columns.start, side - columns.stop), (0, 0)
    return np.pad(painted, margins, constant_values=255)


def _heat_scale(strongest: float, width: int) -> Rgb:
    """The colour scale of the heat maps."""
    bar = framed(np.repeat(heat(np.linspace(0, 1, 160))[None], LETTERS, axis=0))
    text = f"0 to {strongest:.2f}: share of a region's attention that goes to the phrase"
    return beside([bar, text_block(text, width - bar.shape[1] - GAP, LETTERS)])


def _fusion_panel(
    sketch: UInt8[np.ndarray, "H W"],
    labels: Int[np.ndarray, "h w"],
    fusion: Float[np.ndarray, "r 2"],
    numbers: Sequence[int],
    first: Sequence[str],
) -> Rgb:
    """The numbered regions; beside them per region a bar of α and β and its first phrase."""
    of_sketch = fusion[:, :1]
    strength = np.abs(2 * of_sketch - 1)
    hue = np.where(of_sketch > 0.5, SKETCH_COLOR, TEXT_COLOR)
    colors = np.rint(255 + strength * (hue - 255)).astype(np.uint8)
    side = 2 * CELL + GAP
    page = _numbered(_painted(sketch, labels, colors, side), labels, numbers)
    width = COLUMNS * (CELL + GAP) - GAP
    room = width - side - 2 * GAP - _NUMBER - _BAR[0] - _VALUES
    heading = "α | β, and the phrase with the most attention"
    rows = [text_block(heading, width - side - 2 * GAP, LETTERS)]
    for i in np.argsort(numbers):
        alpha, beta = fusion[i].tolist()
        note = cut_to(first[i], room, LETTERS - 2)
        rows.append(_fusion_bar(numbers[i], alpha, beta, note, room))
    title = "Fusion weights by region: sketch (α, blue) and text (β, orange)"
    panel = beside([page, below(rows, gap=4)], gap=2 * GAP)
    return below([text_block(title, width, LETTERS), panel])


def _fusion_bar(number: int, alpha: float, beta: float, note: str, room: int) -> Rgb:
    width, height = _BAR
    image = Image.new("RGB", (_NUMBER + width + _VALUES + room, height), "white")
    pen, letters = ImageDraw.Draw(image), font(LETTERS - 2)
    pen.text((_NUMBER - 8, height / 2), str(number), INK, letters, anchor="rm")
    middle = _NUMBER + round(width * alpha / (alpha + beta))
    pen.rectangle((_NUMBER, 3, middle, height - 4), fill=SKETCH_COLOR)
    pen.rectangle((middle, 3, _NUMBER + width, height - 4), fill=TEXT_COLOR)
    left = _NUMBER + width
    pen.text((left + 6, height / 2), f"{alpha:.2f} | {beta:.2f}", INK, letters, anchor="lm")
    pen.text((left + _VALUES, height / 2), note, INK, letters, anchor="lm")
    return np.array(image)


def _numbered(page: Rgb, labels: Int[np.ndarray, "h w"], numbers: Sequence[int]) -> Rgb:
    """Writes each region's number where the region is widest."""
    image, present = Image.fromarray(page), np.unique(labels).tolist()
    scale = len(page) / len(labels)
    left = (page.shape[1] - labels.shape[1] * scale) / 2
    pen, places = ImageDraw.Draw(image), innermost(labels, present) * scale + (left, 0)
    for region, (x, y) in zip(present, places.tolist(), strict=True):
        text = str(numbers[region])
        pen.text((x, y), text, INK, font(20), "mm", stroke_width=2, stroke_fill="white")
    return np.array(image)
