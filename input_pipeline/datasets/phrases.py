"""The phrases of a caption that describe parts: size, place and colour.

Apart from `recolor`, which writes the phrases, so that reading them takes none of what draws.
"""

import itertools
import re

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from ragaf_jax.palette import PALETTE

SIZES = ("small", "large")
PLACES = (
    *("top left", "at the top", "top right"),
    *("on the left", "in the middle", "on the right"),
    *("bottom left", "at the bottom", "bottom right"),
)
# Where the middle begins and ends, along either axis. Drawings keep a margin of a sixth on the
# page, so that these are about the thirds of the drawing.
MIDDLE = (0.4, 0.6)
# The share of the page from which on a part is called large.
LARGE = 0.06

# How far share and centroid on a record's pixels may be from those on the page that the caption was
# written of: a part loses the pixels of which it has less than half.
_SHARE_ERROR, _CENTROID_ERROR = 0.25, 0.03

_PHRASE = re.compile(
    rf"(?<=[:,] )({'|'.join(SIZES)}) ({'|'.join(PALETTE)}) ({'|'.join(PLACES)})(?=,|$)"
)


def size_and_place(share: float, centroid: Float[np.ndarray, "2"]) -> tuple[str, str]:
    """The words for a part of this share of the page about this centroid (x, y in 0 … 1)."""
    column, row = np.searchsorted(MIDDLE, centroid)
    return SIZES[int(share >= LARGE)], PLACES[3 * row + column]


def find_phrases(
    caption: str, true_labels: UInt8[np.ndarray, "s s"], true_colors: Int[np.ndarray, " p"]
) -> Int[np.ndarray, "p 2"]:
    """The characters [begin, end) of a caption that are about each part; −1 where that is not sure.

    A part is meant by the phrase that has its colour. Of several with one colour it is meant by the
    one with its size and place. Those were measured on a finer page, so a part is left out that is
    about as near to one phrase as to another.

    Args:
      caption: as `recolor` writes it; captions of another kind have no phrases.
      true_labels: 1 + the part of each pixel, 0 where there is none.
      true_colors: the palette index asked of each part, −1 where none is.
    """
    phrases = list(_PHRASE.finditer(caption))
    spans = np.full((len(true_colors), 2), -1, np.int32)
    for part in np.flatnonzero(true_colors >= 0):
        fitting = [phrase for phrase in phrases if phrase[2] == PALETTE[true_colors[part]]]
        if len(fitting) > 1:
            possible = _possible_words(true_labels == part + 1)
            fitting = [phrase for phrase in fitting if (phrase[1], phrase[3]) in possible]
        if len(fitting) == 1:
            spans[part] = fitting[0].span()
    return spans


def _possible_words(mask: Bool[np.ndarray, "s s"]) -> set[tuple[str, str]]:
    """The words that a part may have had on the finer page; none for a part without a pixel."""
    pixels = np.argwhere(mask)
    if not len(pixels):
        return set()
    share, centroid = mask.mean(), (pixels.mean(0)[::-1] + 0.5) / len(mask)
    errors = itertools.product((-1, 1), repeat=3)
    return {
        size_and_place(
            share * (1 + _SHARE_ERROR * size), centroid + _CENTROID_ERROR * np.array(offset)
        )
        for size, *offset in errors
    }
