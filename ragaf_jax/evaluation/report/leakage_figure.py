"""Requested against obtained colours as a heat map with numbers."""

import numpy as np
from jaxtyping import Int
from PIL import Image, ImageDraw

from ragaf_jax.figures.attention import heat
from ragaf_jax.figures.lettering import GAP, INK, Rgb, below, font, on_page, text_block
from ragaf_jax.palette import PALETTE, PALETTE_RGB

WIDTH, HEIGHT = 62, 38  # of a cell
HEAD, SWATCH, LETTERS = 96, 16, 15


def color_table_figure(table: Int[np.ndarray, "11 11"], title: str) -> Rgb:
    """A row for each requested colour, a column for each obtained one; per cent of the row.

    table: the result of `leakage.color_table`.
    """
    parts = table.sum(1, keepdims=True)
    shares = table / np.maximum(parts, 1)
    cells = len(PALETTE) + 1
    image = Image.new("RGB", (HEAD + WIDTH * cells, HEIGHT * cells), "white")
    pen = ImageDraw.Draw(image)
    pen.text((0, HEIGHT / 2), "requested", INK, font(LETTERS), anchor="lm")
    for i, (name, rgb) in enumerate(zip(PALETTE, PALETTE_RGB.tolist(), strict=True)):
        x, y = HEAD + i * WIDTH, (i + 1) * HEIGHT
        _swatch(pen, (0.0, y + (HEIGHT - SWATCH) / 2), rgb)
        pen.text((SWATCH + 6, y + HEIGHT / 2), name, INK, font(LETTERS), anchor="lm")
        _swatch(pen, (x + (WIDTH - SWATCH) / 2, 0.0), rgb)
        pen.text((x + WIDTH / 2, HEIGHT - 4), name, INK, font(LETTERS), anchor="ms")
    right = HEAD + len(PALETTE) * WIDTH
    pen.text((right + WIDTH / 2, HEIGHT - 4), "parts", INK, font(LETTERS), anchor="ms")
    for row, column in np.ndindex(*table.shape):
        box = (HEAD + column * WIDTH, (row + 1) * HEIGHT)
        _cell(pen, box, shares[row, column], int(table[row, column]), row == column)
    for row, (count,) in enumerate(parts.tolist()):
        center = (right + WIDTH / 2, (row + 1.5) * HEIGHT)
        pen.text(center, str(count), INK, font(LETTERS), anchor="mm")
    note = (
        "Per cent of the parts with the requested colour on the left that have the colour above. "
        "Framed: the requested colour. Empty: no part."
    )
    grid = np.array(image)
    return on_page(
        below([text_block(title, grid.shape[1], 18), grid, text_block(note, grid.shape[1])], GAP)
    )


def _swatch(pen: ImageDraw.ImageDraw, corner: tuple[float, float], rgb: list[int]) -> None:
    x, y = corner
    pen.rectangle((x, y, x + SWATCH, y + SWATCH), fill=tuple(rgb), outline=(120, 120, 120))


def _cell(
    pen: ImageDraw.ImageDraw, corner: tuple[int, int], share: float, count: int, own: bool
) -> None:
    """One share of a row with its colour; the number is white on dark colours."""
    x, y = corner
    color = tuple(heat(np.array([share]))[0].tolist())
    edge, width = (INK, 2) if own else ((225, 225, 225), 1)
    pen.rectangle((x + 1, y + 1, x + WIDTH - 2, y + HEIGHT - 2), color, edge, width)
    if count:
        letters = "white" if sum(color) < 370 else INK
        number = f"{100 * share:.0f}"
        pen.text((x + WIDTH / 2, y + HEIGHT / 2), number, letters, font(LETTERS), anchor="mm")
