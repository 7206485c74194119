"""Contact sheets: images of many examples on one page, one row per example.

Images are enlarged by repeating pixels, which adds no interpolation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ragaf_jax.figures.lettering import (
    GAP,
    GreyOrRgb,
    Rgb,
    below,
    beside,
    enlarge,
    framed,
    on_page,
    shortened,
    text_block,
)

CELL = 192


class SheetRow(NamedTuple):
    """One example of a contact sheet.

    Attributes:
      images: one per title; grey or RGB, of equal size. Rows may differ in size.
      caption: below the row, cut by `shortened`.
    """

    images: Sequence[GreyOrRgb]
    caption: str


def contact_sheet(rows: Sequence[SheetRow], titles: Sequence[str], cell: int = CELL) -> Rgb:
    """Titles, then a row per example with its caption below.

    Images are enlarged to a longer side of at least `cell` pixels: 64 × 64 px threefold by default.
    """
    lines = [[framed(enlarge(image, cell)) for image in row.images] for row in rows]
    cell = max(line[0].shape[1] for line in lines)
    width = len(titles) * (cell + GAP) - GAP
    heading = beside([text_block(title, cell, centred=True) for title in titles])
    blocks = [
        below(
            [
                beside([_centred(image, cell) for image in line]),
                text_block(shortened(row.caption), width),
            ],
            gap=GAP // 2,
        )
        for line, row in zip(lines, rows, strict=True)
    ]
    return on_page(below([heading, below(blocks, gap=2 * GAP)], gap=GAP // 2))


def _centred(image: Rgb, width: int) -> Rgb:
    """The image in the middle of a white cell."""
    left, odd = divmod(width - image.shape[1], 2)
    return np.pad(image, ((0, 0), (left, left + odd), (0, 0)), constant_values=255)
