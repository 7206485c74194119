"""Contact sheets: images of many examples on one page, a row each.

Pictures are enlarged by repeating pixels: what there is is shown, not what smoothing makes of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ragaf_jax.figures.lettering import (
    GAP,
    GreyOrRgb,
    Picture,
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
    """One drawing of a contact sheet.

    Attributes:
      pictures: as many as the sheet has titles; grey or RGB, all of one width.
      caption: written under them, as far as `shortened` leaves it.
    """

    pictures: Sequence[GreyOrRgb]
    caption: str


def contact_sheet(rows: Sequence[SheetRow], titles: Sequence[str], cell: int = CELL) -> Picture:
    """A row a drawing under a line of titles, every caption wrapped below its row.

    Pictures are enlarged to at least `cell` pixels, those of 64² threefold by default.
    """
    lines = [[framed(enlarge(picture, cell)) for picture in row.pictures] for row in rows]
    cell = lines[0][0].shape[1]
    width = len(titles) * (cell + GAP) - GAP
    heading = beside([text_block(title, cell, centred=True) for title in titles])
    blocks = [
        below([beside(line), text_block(shortened(row.caption), width)], gap=GAP // 2)
        for line, row in zip(lines, rows, strict=True)
    ]
    return on_page(below([heading, below(blocks, gap=2 * GAP)], gap=GAP // 2))
