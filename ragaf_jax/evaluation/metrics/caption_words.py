"""Finds the tokens of a caption that describe each part of an image."""

import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Integer

from ragaf_jax.palette import PALETTE
from ragaf_jax.tokenizer import Tokenizer

_COLOR = re.compile(rf"\b(?:{'|'.join(PALETTE)})\b", re.IGNORECASE)


class CaptionWords(NamedTuple):
    """Tokens of one caption, for p parts of its drawing.

    Attributes:
      phrase: which are about each part. None, where the caption says nothing of a part, it is not
        sure what, or its phrase is cut off.
      color: which of these are the word for its colour.
      colors: the words for colours that the model reads, one a row, in their order.
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
    """Finds the tokens by the characters that they stand for.

    Args:
      tokenizer: made the tokens.
      tokens: what the model was shown. Where that is not the caption, as when it was dropped, no
        token is about anything.
      caption: in words.
      phrases: the characters [begin, end) that are about each part, −1 for none.
      colors: the palette index asked of each part, −1 for none.
    """
    length, spans = len(tokens), tokenizer.spans(caption)
    phrase, color = np.zeros((2, len(colors), length), bool)
    if not np.array_equal(tokenizer.encode([caption], length)[0][0], tokens):
        return CaptionWords(phrase, color, np.zeros((0, length), bool))
    words = list(_COLOR.finditer(caption))
    for part, (begin, end) in enumerate(phrases.tolist()):
        said = [
            word
            for word in words
            if begin <= word.start() < end and word[0].lower() == PALETTE[colors[part]]
        ]
        if said:
            phrase[part] = _tokens(spans, begin, end, length)
            color[part] = _tokens(spans, *said[0].span(), length) & phrase[part]
    read = [_tokens(spans, *word.span(), length) for word in words]
    read = [word for word in read if word.any()]
    return CaptionWords(phrase, color, np.array(read, bool).reshape(-1, length))


def _tokens(
    spans: Int[np.ndarray, "n 2"], begin: int, end: int, length: int
) -> Bool[np.ndarray, "{length}"]:
    """The tokens that stand for characters begin … end − 1; none if one of them is cut off."""
    places = 1 + np.flatnonzero((spans[:, 0] < end) & (spans[:, 1] > begin))
    found = np.zeros(length, bool)
    if not (places >= length - 1).any():  # the last place is that of EOS
        found[places] = True
    return found
