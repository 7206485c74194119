"""Finds the tokens of a caption that describe each part of an image."""

import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Integer

from ragaf_jax.palette import PALETTE
from ragaf_jax.tokenizer import Tokenizer

_COLOR = re.compile(rf"\b(?:{'|'.join(PALETTE)})\b", re.IGNORECASE)


class CaptionWords(NamedTuple):
    """Tokens of one caption for the p parts of its image.

    Attributes:
      phrase: tokens about each part; none without an unambiguous, complete phrase.
      color: tokens of each part's colour word in its phrase.
      colors: tokens of each colour word in the truncated caption, in order.
    """

    phrase: Bool[np.ndarray, "p t"]
    color: Bool[np.ndarray, "p t"]
    colors: Bool[np.ndarray, "k t"]


def caption_words(
    tokenizer: Tokenizer,
    tokens: Int[np.ndarray, " t"],
    caption: str,
    phrases: Integer[np.ndarray, "p 2"],
    colors: Integer[np.ndarray, " p"],
) -> CaptionWords:
    """Finds the tokens by their character spans.

    Args:
      tokenizer, caption: of the tokens.
      tokens: the model's input; if it is not the caption (a dropped one), all masks are empty.
      phrases: the characters [begin, end) about each part, −1 for none.
      colors: the palette index requested for each part, −1 for none.
    """
    length, spans = len(tokens), tokenizer.spans(caption)
    phrase, color = np.zeros((2, len(colors), length), bool)
    if not np.array_equal(tokenizer.encode([caption], length)[0][0], tokens):
        return CaptionWords(phrase, color, np.zeros((0, length), bool))
    words = list(_COLOR.finditer(caption))
    for part, (begin, end) in enumerate(phrases.tolist()):
        matches = [
            word
            for word in words
            if begin <= word.start() < end and word[0].lower() == PALETTE[colors[part]]
        ]
        if matches:
            phrase[part] = _tokens(spans, begin, end, length)
            color[part] = _tokens(spans, *matches[0].span(), length) & phrase[part]
    masks = [_tokens(spans, *word.span(), length) for word in words]
    masks = [mask for mask in masks if mask.any()]
    return CaptionWords(phrase, color, np.array(masks, bool).reshape(-1, length))


def _tokens(
    spans: Int[np.ndarray, "n 2"], begin: int, end: int, length: int
) -> Bool[np.ndarray, "{length}"]:
    """The tokens of characters begin … end − 1; none if any of them is truncated."""
    positions = 1 + np.flatnonzero((spans[:, 0] < end) & (spans[:, 1] > begin))
    found = np.zeros(length, bool)
    if not (positions >= length - 1).any():  # EOS has the last position
        found[positions] = True
    return found
