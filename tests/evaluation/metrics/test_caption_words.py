"""Tokens are found by what they stand for: whole phrases, in words or in pieces, or none."""

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from ragaf_jax.evaluation.metrics.caption_words import caption_words
from ragaf_jax.palette import PALETTE
from ragaf_jax.tokenizer import BOS, EOS, Tokenizer

CAPTION = "Orangery: small RED top left, large orange in the middle, small red at the bottom"
PHRASES = ("small RED top left", "large orange in the middle", "small red at the bottom")
COLORS = np.array([PALETTE.index(color) for color in ("red", "orange", "red")] + [-1])


def spelling():
    """A tokenizer of single letters, as byte-level BPE is without merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(f"{letter}</w>" for letter in alphabet), BOS, EOS]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, [], end_of_word_suffix="</w>"))
    words = pre_tokenizers.Split(tokenizers.Regex(r"\s+"), "removed")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    return Tokenizer(inner)


def spans_of(phrases):
    spans = [(CAPTION.index(phrase), CAPTION.index(phrase) + len(phrase)) for phrase in phrases]
    return np.array([*spans, (-1, -1)], np.int32)


def found(tokenizer, length, shown=CAPTION):
    tokens = tokenizer.encode([shown], length)[0][0]
    return tokens, caption_words(tokenizer, tokens, CAPTION, spans_of(PHRASES), COLORS)


@pytest.mark.parametrize("tokenizer", [Tokenizer.train([CAPTION.lower()]), spelling()])
def test_tokens_of_a_phrase_spell_it(tokenizer):
    tokens, words = found(tokenizer, 90)

    def text(chosen):
        pieces = tokenizer.pieces(tokens[chosen].tolist())
        return "".join(piece.removesuffix("</w>") for piece in pieces).lower()

    for part, (phrase, color) in enumerate(zip(PHRASES, ("red", "orange", "red"), strict=True)):
        assert text(words.phrase[part]) == phrase.replace(" ", "").lower()
        assert text(words.color[part]) == color
        assert (words.color[part] == words.colors[part]).all()
    assert not words.phrase[3].any() and not words.color[3].any()
    assert len(words.colors) == 3  # and not the orangery
    assert not (words.phrase[0] & words.phrase[2]).any()


def test_places_are_those_of_the_words():
    _, words = found(Tokenizer.train([CAPTION.lower()]), 24)
    # BOS, orangery, ":" and four words; then a comma and five, a comma and five.
    for part, (begin, end) in enumerate([(3, 7), (8, 13), (14, 19)]):
        assert np.flatnonzero(words.phrase[part]).tolist() == list(range(begin, end))
        assert np.flatnonzero(words.color[part]).tolist() == [begin + 1]


@pytest.mark.parametrize(
    ("length", "whole", "colors"), [(20, 3, 3), (19, 2, 3), (14, 2, 2), (13, 1, 2), (8, 1, 1)]
)
def test_phrases_cut_off_are_not_there(length, whole, colors):
    _, words = found(Tokenizer.train([CAPTION.lower()]), length)
    assert words.phrase.any(1).tolist() == [part < whole for part in range(4)]
    assert words.color.any(1).tolist() == [part < whole for part in range(4)]
    assert len(words.colors) == colors


def test_a_caption_that_was_not_shown_has_no_words():
    for shown in ("", "orangery: small red", CAPTION + ","):
        _, words = found(Tokenizer.train([CAPTION.lower()]), 40, shown)
        assert not words.phrase.any() and not words.color.any() and len(words.colors) == 0
        assert words.phrase.shape == (4, 40)


def test_unknown_words_keep_their_places():
    tokenizer = Tokenizer.train(["small red in the middle, :"])
    _, words = found(tokenizer, 24)
    assert words.phrase.sum(1).tolist() == [4, 5, 5, 0]
    assert words.color.sum(1).tolist() == [1, 1, 1, 0]
