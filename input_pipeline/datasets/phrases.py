"""The phrases of a caption that describe parts: size, colour and place.

Separate from `recolor`, which writes them, so that readers need no rendering packages.
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
# Bounds of the middle along either axis. Drawings have a margin of a sixth of the page, so that
# these are about the thirds of the drawing.
MIDDLE = (0.4, 0.6)
# Parts with at least this share of the page are large.
LARGE = 0.06

# Bounds on the differences of share (relative) and centroid between a record and the finer page
# that its caption describes. A part has the pixels that it covers by more than half.
_SHARE_ERROR, _CENTROID_ERROR = 0.25, 0.03

_PHRASE = re.compile(
    rf"(?<=[:,] )({'|'.join(SIZES)}) ({'|'.join(PALETTE)}) ({'|'.join(PLACES)})(?=,|$)"
)


def size_and_place(share: float, centroid: Float[np.ndarray, "2"]) -> tuple[str, str]:
    """The words for a part with this share of the page and this centroid (x, y in 0 … 1)."""
    column, row = np.searchsorted(MIDDLE, centroid)
    return SIZES[int(share >= LARGE)], PLACES[3 * row + column]


def find_phrases(
    caption: str, true_labels: UInt8[np.ndarray, "s s"], true_colors: Int[np.ndarray, " p"]
) -> Int[np.ndarray, "p 2"]:
    """The characters [begin, end) of the phrase that describes each part; −1 if it is ambiguous.

    The colour identifies a phrase, and among several phrases of one colour the size and place. They
    were measured on a finer page; a part near the bound between two phrases is ambiguous.

    Args:
      caption: a caption of `recolor`; other captions have no phrases.
      true_labels: 1 + the part of each pixel, 0 where there is none.
      true_colors: the palette index of each part's colour in the caption, −1 if it has none.
    """
    phrases = list(_PHRASE.finditer(caption))
    spans = np.full((len(true_colors), 2), -1, np.int32)
    for part in np.flatnonzero(true_colors >= 0):
        matches = [phrase for phrase in phrases if phrase[2] == PALETTE[true_colors[part]]]
        if len(matches) > 1:
            possible = _possible_words(true_labels == part + 1)
            matches = [phrase for phrase in matches if (phrase[1], phrase[3]) in possible]
        if len(matches) == 1:
            spans[part] = matches[0].span()
    return spans


def _possible_words(mask: Bool[np.ndarray, "s s"]) -> set[tuple[str, str]]:
    """The possible words for a part on the finer page; none for a part without pixels."""
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
