"""Prompts as rows of windows: what shares one window, what has windows of its own."""

import numpy as np
import pytest
from fakes import WORDS, tiny_tokenizer
from test_tokenizer import write_folder

from ragaf_jax.errors import UserError
from ragaf_jax.figures.phrases import phrases
from ragaf_jax.sampling.prompts.embeddings import Embedding
from ragaf_jax.sampling.prompts.windows import MOST_WINDOWS, make_texts, read_prompt
from ragaf_jax.tokenizer import BOS, EOS, Tokenizer

LENGTH = 8  # six tokens and their frame


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Tokenizer.from_pretrained(write_folder(tmp_path_factory.mktemp("clip") / "tokenizer"))


def texts_of(prompt, regions=(), negative="", tokenizer=None, embeddings=None):
    tokenizer = tokenizer or tiny_tokenizer()
    read = [read_prompt(x, tokenizer, LENGTH, embeddings or {}) for x in (prompt, negative)]
    others = [read_prompt(x, tokenizer, LENGTH, embeddings or {}) for x in regions]
    return make_texts(read[0], others, read[1], tokenizer, LENGTH)


def test_plain_prompts_are_encoded_as_captions_are():
    tokenizer = tiny_tokenizer()
    for prompt in ("", "a red house", "small red ( house"):
        texts = texts_of(prompt, negative="blue")
        for text, caption in ((texts.positive, prompt), (texts.negative, "blue")):
            tokens, mask = tokenizer.encode([caption], LENGTH)
            np.testing.assert_array_equal(text.tokens, tokens)
            np.testing.assert_array_equal(text.mask, mask)
            assert not text.ids.any()
            assert text.weights is text.vectors is text.skip is None


def test_region_prompts_share_the_window_where_they_fit():
    texts = texts_of("a house", ["red", "small blue"])
    assert texts.pieces == [BOS, "a", "house", EOS, "red", "small", "blue", EOS]
    np.testing.assert_array_equal(texts.positive.ids[0], [0, 0, 0, 0, 1, 2, 2, 0])
    assert texts.positive.mask.sum() == 7 and texts.positive.weights is None


def test_else_each_region_prompt_has_a_window_of_its_own():
    for prompt, regions in (
        ("a house", ["red", "small blue top left"]),  # one token too many
        ("a (house:1.5)", ["red", "small blue"]),
    ):
        texts = texts_of(prompt, regions)
        rows = np.reshape(texts.pieces, (3, LENGTH)).tolist()
        for row, words in zip(rows, ("a house", *regions), strict=True):
            words = words.replace("(", "").replace(":1.5)", "").split()
            assert row == [BOS, *words, *[EOS] * (LENGTH - 1 - len(words))]
        np.testing.assert_array_equal(texts.positive.ids[0], np.repeat([0, 1, 2], LENGTH))
        sizes = texts.positive.mask.reshape(3, LENGTH).sum(1)
        np.testing.assert_array_equal(sizes, [4, *(len(x.split()) for x in regions)])
        assert not texts.positive.mask.reshape(3, LENGTH)[1:, 0].any()  # as in a shared window
        assert texts.negative.tokens.shape == texts.positive.tokens.shape
        np.testing.assert_array_equal(texts.negative.mask.sum(), 2)


def test_long_prompts_fill_windows_and_the_shorter_row_is_padded(clip):
    long = " ".join("abcdefghi")
    for prompt, negative in ((long, "k"), ("k", long)):
        texts = texts_of(prompt, negative=negative, tokenizer=clip)
        full, short = texts.positive, texts.negative
        if prompt == "k":
            full, short = short, full
        pieces = clip.pieces(full.tokens[0].tolist())
        assert pieces[:9] == [BOS, *(f"{x}</w>" for x in "abcdef"), EOS, BOS]
        assert pieces[9:] == ["g</w>", "h</w>", "i</w>", EOS, EOS, EOS, EOS]
        pieces = clip.pieces(short.tokens[0].tolist())
        assert pieces == [BOS, "k</w>", *[EOS] * 6, BOS, *[EOS] * 7]
        # An empty window is padding: no region attends to it.
        assert full.mask.sum() == 13 and short.mask.sum() == 3
        assert not short.mask[0, LENGTH:].any()


def test_break_starts_a_window_and_empty_parts_take_none(clip):
    texts = texts_of("a BREAK BREAK b", tokenizer=clip)
    pieces = np.reshape(texts.pieces, (2, LENGTH))
    assert pieces[:, 1].tolist() == ["a</w>", "b</w>"]


def test_weights_are_those_of_the_tokens_and_of_both_rows(clip):
    texts = texts_of("a (b:1.5) [c]", negative="d", tokenizer=clip)
    expected = np.float32([1, 1, 1.5, 1 / 1.1, 1, 1, 1, 1])
    np.testing.assert_array_equal(texts.positive.weights[0], expected)
    np.testing.assert_array_equal(texts.negative.weights[0], np.ones(LENGTH))
    assert texts_of("a", negative="(d:2)", tokenizer=clip).positive.weights is not None


@pytest.fixture
def toy(rng, tmp_path):
    return Embedding("toy", rng.standard_normal((3, 4)).astype(np.float32), tmp_path / "x", "0")


def test_vectors_stay_in_one_window(clip, toy):
    known = {"toy": toy}
    texts = texts_of("a b c d (toy:2) e", tokenizer=clip, embeddings=known)
    tokens = texts.positive.tokens[0]
    assert (tokens[9:12] == -1).all() and (tokens == -1).sum() == 3
    np.testing.assert_array_equal(texts.positive.vectors[0, 9:12], toy.vectors)
    np.testing.assert_array_equal(texts.positive.weights[0, 9:12], [2, 2, 2])
    assert texts.pieces[9:13] == ["toy", "", "</w>", "e</w>"]
    assert texts.negative.vectors.shape == (1, 2 * LENGTH, 4) and not texts.negative.vectors.any()
    # More vectors than a window has places.
    many = {"toy": toy._replace(vectors=np.repeat(toy.vectors, 3, 0))}
    texts = texts_of("toy", tokenizer=clip, embeddings=many)
    found = texts.positive.vectors[0][texts.positive.tokens[0] == -1]
    np.testing.assert_array_equal(found, many["toy"].vectors)
    # In one window with the prompt.
    texts = texts_of("a", ["toy"], tokenizer=clip, embeddings=known)
    np.testing.assert_array_equal(texts.positive.vectors[0, 3:6], toy.vectors)
    assert texts.pieces[3:6] == ["toy", "", "</w>"]


def test_figures_name_an_embedding_once_and_end_phrases_with_windows(clip, toy):
    asked = {"tokenizer": clip, "embeddings": {"toy": toy}}
    texts = texts_of("a red house, (toy:2) red", ["red toy"], **asked)
    assert phrases(texts.pieces, texts.positive.ids[0]) == [
        ("a red house", [1, 2, 3]),
        ("toy red", [9, 10, 11, 12]),
        ("red toy", [17, 18, 19, 20]),
    ]


def test_notices_on_words(clip, toy):
    def notices(text, tokenizer, known):
        return read_prompt(text, tokenizer, LENGTH, known).notices

    assert notices("a (purple:2) house", tiny_tokenizer(), {}) == ["has unknown words: purple."]
    assert notices("a toy", tiny_tokenizer(), {"toy": toy}) == []
    assert notices("a <toy>", clip, {}) == [
        "has <toy>, which is encoded as plain text: no embedding has this name."
    ]
    (long,) = notices(" ".join(WORDS[:7]), tiny_tokenizer(), {})
    assert long == "takes 2 windows of 8 tokens; the model was trained with one."
    assert notices("a b c d e f g h", clip, {}) == []


def test_too_many_tokens_are_refused(clip):
    with pytest.raises(UserError, match="take 67 windows of 8 tokens and at most 64 are possible"):
        texts_of("a " * 400, tokenizer=clip)
    most = texts_of("a " * 6 * MOST_WINDOWS, tokenizer=clip)
    assert most.positive.tokens.shape == (1, LENGTH * MOST_WINDOWS)
