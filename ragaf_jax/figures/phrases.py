"""The phrases of a tokenized prompt, with which attention figures are labelled."""

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
# All function words: they have little meaning alone, and belong to the phrase they stand in.
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
    "small red at the top" is one. Function words belong to their phrase. If all of a prompt is one
    phrase, its words are given instead, function words with the word that follows.

    Args:
      pieces: the text of each token. Frame and padding are left out. Where pieces mark the ends of
        words, as CLIP's "</w>" does, the pieces of one word are joined; else each is a word.
      texts: the text of each token by its number, as in `TextConditioning`; a phrase ends with its
        text. By default all are of one.
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
        # Of "and with" both belong to what follows.
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
    """Each word with the function words before it; those at the end with the last one."""
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
    """Whether a place follows, directly or behind an article."""
    words = [text.lower() for text, _ in following[:3]]
    while words and words[0] in ("a", "an", "the"):
        words.pop(0)
    return bool(words) and words[0] in _PLACES


def _words(pieces: Sequence[str]) -> Iterator[Phrase]:
    """Words and punctuation with their positions; an empty text for a token of the frame."""
    marked = any(piece.endswith("</w>") for piece in pieces)
    text, positions = "", list[int]()
    for position, piece in enumerate(pieces):
        if piece in (BOS, EOS):
            if positions:  # a text that was cut to its length within a word
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
