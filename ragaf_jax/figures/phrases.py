"""Splits a tokenized prompt into phrases, the labels of attention figures."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from ragaf_jax.tokenizer import BOS, EOS, UNKNOWN

# Function words that begin a phrase, unless a place follows: "red at the top" is one phrase.
_OPENING = frozenset(
    (
        *("and", "or", "but", "with", "without", "at", "on", "in", "into", "by", "for", "from"),
        *("under", "over", "above", "below", "behind", "beside", "between", "near", "inside"),
    )
)
# All function words, which are never a phrase alone.
_FUNCTION = _OPENING | {"a", "an", "the", "of", "to", "its", "his", "her", "their", "is", "are"}
_PLACES = frozenset(
    (
        *("top", "bottom", "left", "right", "middle", "center", "centre", "side", "corner"),
        *("background", "foreground", "front", "back", "upper", "lower"),
    )
)
_ENDING = frozenset(',;:.!?|()[]/"…–—')

Phrase = tuple[str, list[int]]


def phrases(pieces: Sequence[str], texts: Int[np.ndarray, " t"] | None = None) -> list[Phrase]:
    """The phrases of a prompt in its order, with the positions of their tokens.

    A phrase ends at punctuation and before "and", "with" and prepositions, but not before a place:
    "small red at the top" is one phrase. A prompt of one phrase is split into words, each with the
    function words before it.

    Args:
      pieces: the text of each token. Special tokens and padding are skipped. If pieces mark ends of
        words, like CLIP's "</w>", the pieces of a word are joined; else each piece is a word.
      texts: the text id of each token, as in `Text.ids`; a phrase ends with its text. Default: one
        text.
    """
    texts = np.zeros(len(pieces), int) if texts is None else texts
    words = list(_words(pieces))
    found: list[list[Phrase]] = [[]]
    for i, (text, positions) in enumerate(words):
        if not _has_letters(text):
            if not text or _ENDING & set(text):
                found.append([])
            continue
        before = words[i - 1][1] if i else positions
        if texts[positions[0]] != texts[before[0]]:
            found.append([])
        opens = text.lower() in _OPENING and not _begins_place(words[i + 1 :])
        # Several opening words, such as "and with", belong to the phrase that follows.
        if opens and any(word.lower() not in _FUNCTION for word, _ in found[-1]):
            found.append([])
        found[-1].append((text, positions))
    found = [phrase for phrase in found if phrase]
    if len(found) == 1:
        found = _by_word(found[0])
    return [
        (" ".join(text for text, _ in phrase), [x for _, positions in phrase for x in positions])
        for phrase in found
    ]


def _by_word(phrase: Sequence[Phrase]) -> list[list[Phrase]]:
    """Each word with the function words before it; the last also with those after it."""
    found: list[list[Phrase]] = [[]]
    for word in phrase:
        if found[-1] and found[-1][-1][0].lower() not in _FUNCTION:
            found.append([])
        found[-1].append(word)
    if len(found) > 1 and found[-1][-1][0].lower() in _FUNCTION:
        last = found.pop()
        found[-1] += last
    return found


def _begins_place(following: Sequence[Phrase]) -> bool:
    """Whether a place follows, directly or after an article."""
    words = [text.lower() for text, _ in following[:3]]
    while words and words[0] in ("a", "an", "the"):
        words.pop(0)
    return bool(words) and words[0] in _PLACES


def _words(pieces: Sequence[str]) -> Iterator[Phrase]:
    """Words and punctuation with their positions; special tokens have an empty text."""
    marked = any(piece.endswith("</w>") for piece in pieces)
    text, positions = "", list[int]()
    for position, piece in enumerate(pieces):
        if piece in (BOS, EOS):
            if positions:  # the text was cut inside a word
                yield text, positions
                text, positions = "", []
            yield "", [position]
            continue
        text += "(unknown)" if piece == UNKNOWN else piece.removesuffix("</w>")
        positions.append(position)
        if not marked or piece.endswith("</w>"):
            yield text, positions
            text, positions = "", []
    if positions:
        yield text, positions


def _has_letters(text: str) -> bool:
    return any(letter.isalnum() for letter in text)
