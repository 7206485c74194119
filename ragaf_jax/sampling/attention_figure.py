"""What RAGAF decided for one drawing: which region listens to which word, and how much."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from ragaf_jax.lettering import (
    GAP,
    INK,
    Picture,
    below,
    beside,
    enlarge,
    font,
    framed,
    on_page,
    text_block,
)
from ragaf_jax.tokenizer import BOS, EOS, UNKNOWN

CELL = 192
COLUMNS = 6

# Light to dark, so that black lines stay visible on all but the strongest (ColorBrewer's YlOrRd).
HEAT = np.array([(255, 255, 255), (254, 217, 118), (253, 141, 60), (227, 26, 28), (128, 0, 38)])
SKETCH_COLOR, TEXT_COLOR = (76, 120, 168), (245, 133, 24)


def attention_maps(
    sketch: UInt8[np.ndarray, "s s"],
    labels: Int[np.ndarray, "s s"],
    attention: Float[np.ndarray, "r t"],
    pieces: Sequence[str],
    fusion: Float[np.ndarray, "r 2"],
    numbers: Sequence[int],
) -> Picture:
    """A heat map of the page for every word of the prompt, and the α and β of every region.

    Args:
      sketch: paper 255, ink 0.
      labels: the region 0 … r-1 of every pixel.
      attention: A, each region's attention over the tokens; rows sum to 1.
      pieces: the text of each token; frame and padding are left out of the figure.
      fusion: α (share of the sketch) and β (share of the text) of each region.
      numbers: what each region is called.
    """
    maps = word_maps(sketch, labels, attention, pieces)
    return on_page(below([maps, _fusion_panel(sketch, labels, fusion, numbers)], gap=2 * GAP))


def word_maps(
    sketch: UInt8[np.ndarray, "s s"],
    labels: Int[np.ndarray, "s s"],
    attention: Float[np.ndarray, "r t"],
    pieces: Sequence[str],
    cell: int = CELL,
    columns: int = COLUMNS,
) -> Picture:
    """A heat map of the page for every word, and what its colours stand for.

    Args:
      sketch: paper 255, ink 0.
      labels: the region 0 … r-1 of every pixel.
      attention: A, each region's attention over the tokens; rows sum to 1.
      pieces: the text of each token; frame and padding are left out. Without words, the picture
        has height 0.
      cell: the least side of a map.
      columns: maps in a row.
    """
    shown = words(pieces)
    if not shown:
        return text_block("", cell)
    weights = np.stack([attention[:, positions].sum(1) for _, positions in shown], 1)
    strongest = max(float(weights.max()), 1e-6)
    cells = [
        _titled(title, _painted(sketch, labels, heat(weights[:, i] / strongest), cell))
        for i, (title, _) in enumerate(shown)
    ]
    rows = [beside(cells[i : i + columns]) for i in range(0, len(cells), columns)]
    return below([*rows, _heat_scale(strongest)], gap=2 * GAP)


def words(pieces: Sequence[str]) -> list[tuple[str, list[int]]]:
    """The words of a tokenized prompt, in its order, with the positions of their pieces.

    Frame, padding and punctuation are left out. Where pieces mark the ends of words, as CLIP's
    "</w>" does, the pieces of one word are joined; else every piece is a word.
    """
    marked = any(piece.endswith("</w>") for piece in pieces)
    found: list[tuple[str, list[int]]] = []
    text, positions = "", []
    for position, piece in enumerate(pieces):
        if piece in (BOS, EOS):
            continue
        text += "(unknown word)" if piece == UNKNOWN else piece.removesuffix("</w>")
        positions.append(position)
        if marked and not piece.endswith("</w>"):
            continue
        if any(letter.isalnum() for letter in text):
            found.append((text, positions))
        text, positions = "", []
    return found


def heat(values: Float[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n 3"]:
    """Colours of values in 0 … 1."""
    stops = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(values, stops, HEAT[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, -1)).astype(np.uint8)


def _painted(
    sketch: UInt8[np.ndarray, "s s"],
    labels: Int[np.ndarray, "s s"],
    colors: UInt8[np.ndarray, "r 3"],
    least: int,
) -> Picture:
    """Every region in its colour, with the drawing's lines over it, at least `least` high."""
    lines = sketch[..., None] / 255
    return framed(enlarge(np.rint(colors[labels] * lines).astype(np.uint8), least))


def _titled(title: str, picture: Picture) -> Picture:
    return below([text_block(title, picture.shape[1], centred=True), picture], gap=0)


def _heat_scale(strongest: float) -> Picture:
    """What the colours of the heat maps stand for."""
    bar = framed(np.repeat(heat(np.linspace(0, 1, 160))[None], 14, axis=0))
    text = f"0 to {strongest:.2f}: share of a region's attention that the word has"
    return beside([bar, text_block(text, 600)])


def _fusion_panel(
    sketch: UInt8[np.ndarray, "s s"],
    labels: Int[np.ndarray, "s s"],
    fusion: Float[np.ndarray, "r 2"],
    numbers: Sequence[int],
) -> Picture:
    """Regions by number on the page, and a bar of α and β for each."""
    colors = fusion[:, :1] * SKETCH_COLOR + fusion[:, 1:] * TEXT_COLOR
    # Half way to white, so that numbers and lines stay visible.
    pale = np.rint((colors + 255) / 2).astype(np.uint8)
    page = _numbered(_painted(sketch, labels, pale, 2 * CELL), labels, numbers)
    pairs = zip(numbers, fusion.tolist(), strict=True)
    bars = [_fusion_bar(number, *shares) for number, shares in pairs]
    per_column = max(1, page.shape[0] // (bars[0].shape[0] + 2))
    columns = [below(bars[i : i + per_column], gap=2) for i in range(0, len(bars), per_column)]
    title = "Fusion by region: share of the sketch (alpha, blue) and of the text (beta, orange)"
    panel = beside([page, *columns], gap=2 * GAP)
    return below([text_block(title, panel.shape[1]), panel])


def _fusion_bar(number: int, alpha: float, beta: float) -> Picture:
    width, height = 120, 18
    image = Image.new("RGB", (40 + width + 90, height), "white")
    pen = ImageDraw.Draw(image)
    pen.text((34, height / 2), str(number), INK, font(13), anchor="rm")
    middle = 40 + round(width * alpha / (alpha + beta))
    pen.rectangle((40, 2, middle, height - 3), fill=SKETCH_COLOR)
    pen.rectangle((middle, 2, 40 + width, height - 3), fill=TEXT_COLOR)
    pen.text((46 + width, height / 2), f"{alpha:.2f} | {beta:.2f}", INK, font(13), anchor="lm")
    return np.array(image)


def _numbered(page: Picture, labels: Int[np.ndarray, "s s"], numbers: Sequence[int]) -> Picture:
    """Writes each region's number where the region is widest."""
    image = Image.fromarray(page)
    pen, scale = ImageDraw.Draw(image), page.shape[0] / labels.shape[0]
    for region in np.unique(labels):
        # The padding keeps numbers of regions at the border inside.
        inside = np.pad((labels == region).astype(np.uint8), 1)
        depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        pen.text(
            ((x + 0.5) * scale, (y + 0.5) * scale),
            str(numbers[region]),
            INK,
            font(16),
            anchor="mm",
            stroke_width=2,
            stroke_fill="white",
        )
    return np.array(image)
