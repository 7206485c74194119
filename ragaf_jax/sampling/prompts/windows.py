"""Prompts as windows of tokens, each as long as the text encoder reads at once.

A prompt fills windows of `length` tokens: start token, up to `length` - 2 of its own, end token,
padding. The states of all windows together are the context of cross-attention, as in diffusers'
community pipeline `lpw_stable_diffusion`. Each region prompt has windows of its own.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ragaf_jax.batch import Text
from ragaf_jax.errors import UserError
from ragaf_jax.sampling.prompts.embeddings import Embedding, Embeddings, split, unknown_placeholders
from ragaf_jax.sampling.prompts.syntax import parse
from ragaf_jax.tokenizer import Tokenizer

MOST_WINDOWS = 64  # of a request, over which cross-attention would be costlier than the rest

_VECTOR = -1  # the token id of a vector; see `Text.tokens`


class Token(NamedTuple):
    """A token of a prompt.

    Attributes:
      id: -1 for a vector of a textual inversion.
      weight: of its state.
      vector: its embedding, for id -1.
      piece: its text, for id -1.
    """

    id: int
    weight: float
    vector: Float[np.ndarray, " d"] | None = None
    piece: str = ""


class Prompt(NamedTuple):
    """A prompt in windows.

    Attributes:
      windows: the tokens of each window, without start and end tokens; at least one window.
      embeddings: of the prompt.
      notices: on its words and its syntax, each to follow the name of the prompt.
    """

    windows: list[list[Token]]
    embeddings: list[Embedding]
    notices: list[str]

    @property
    def tokens(self) -> list[Token]:
        """The tokens of all windows."""
        return [token for window in self.windows for token in window]

    @property
    def is_plain(self) -> bool:
        """Whether all weights are 1 and all tokens fit into one window."""
        return len(self.windows) == 1 and all(token.weight == 1 for token in self.tokens)


def read_prompt(text: str, tokenizer: Tokenizer, length: int, embeddings: Embeddings) -> Prompt:
    """Parses and encodes a prompt.

    BREAK starts a new window. The vectors of a textual inversion stay in one window if they fit.

    Raises:
      UserError: as `parse` and `split`.
    """
    of_words = tokenizer.words() is not None
    parsed = parse(text, literal_brackets=of_words)
    windows: list[list[Token]] = []
    used: dict[str, Embedding] = {}
    unknown: list[str] = []
    unloaded: list[str] = []
    for part in parsed.parts:
        window: list[Token] = []
        for span in part:
            for piece in split(span.text, embeddings):
                if isinstance(piece, Embedding):
                    used[piece.name] = piece
                    tokens = list(_vectors(piece, span.weight, marked=not of_words))
                    if len(window) + len(tokens) > length - 2 >= len(tokens):
                        windows.append(window)
                        window = []
                else:
                    unknown += tokenizer.unknown_words(piece)
                    unloaded += unknown_placeholders(piece)
                    tokens = [Token(i, span.weight) for i in tokenizer.ids(piece)]
                for token in tokens:
                    if len(window) == length - 2:
                        windows.append(window)
                        window = []
                    window.append(token)
        if window:
            windows.append(window)
    notices = list(parsed.notices)
    if unloaded:
        names = ", ".join(dict.fromkeys(unloaded))
        notices.append(f"has {names}, which is encoded as plain text: no embedding has this name.")
    if unknown:
        notices.append(f"has unknown words: {', '.join(dict.fromkeys(unknown))}.")
    if of_words and len(windows) > 1:
        notices.append(
            f"takes {len(windows)} windows of {length} tokens; the model was trained with one."
        )
    return Prompt(windows or [[]], list(used.values()), notices)


def _vectors(embedding: Embedding, weight: float, *, marked: bool) -> Iterator[Token]:
    """The tokens of an embedding; `marked`: "</w>" ends words, as in CLIP's pieces."""
    last = len(embedding.vectors) - 1
    for i, vector in enumerate(embedding.vectors):
        piece = embedding.name if i == 0 else ""
        yield Token(_VECTOR, weight, vector, piece + "</w>" if marked and i == last else piece)


class Texts(NamedTuple):
    """Prompts as inputs of the text encoder, one row each.

    Attributes:
      negative, positive: of equal shapes; ids are 0 for the prompt, i for the i-th region prompt.
      pieces: the text of each token of `positive`.
    """

    negative: Text
    positive: Text
    pieces: list[str]


_Row = tuple[int, Sequence[Token]]  # a window: the id of its text, and its tokens


def make_texts(
    prompt: Prompt,
    regions: Sequence[Prompt],
    negative: Prompt,
    tokenizer: Tokenizer,
    length: int,
    negatives: Sequence[Prompt] = (),
) -> Texts:
    """The rows of a prompt with region prompts, and of a negative prompt with those of regions.

    What fits into one window without weights shares it: the prompt with its start and end tokens,
    then the tokens of the region prompts; each text still has the states that it would have alone.
    Else each text has windows of its own. The shorter row is padded with empty windows.

    Raises:
      UserError: too many tokens.
    """
    sides = (prompt, regions), (negative, negatives)

    def fits(main: Prompt, others: Sequence[Prompt]) -> bool:
        if not others:
            return len(main.windows) == 1
        every = main, *others
        return all(x.is_plain for x in every) and sum(len(x.tokens) for x in every) + 2 <= length

    packed = all(fits(*side) for side in sides)
    rows: list[list[_Row]] = [[(0, main.tokens)] for main, _ in sides]
    if not packed:
        own = max(len(prompt.windows), len(negative.windows))
        rows = [
            [*((0, x) for x in _filled(main.windows, own)), *_windows(others)]
            for main, others in sides
        ]
    texts = _texts(rows, (prompt, *regions, negative, *negatives), tokenizer, length)
    if packed:
        _append(texts.positive, texts.pieces, regions, len(prompt.tokens) + 2, tokenizer)
        _append(texts.negative, [""] * length, negatives, len(negative.tokens) + 2, tokenizer)
    return texts


def make_mixed_texts(
    positive: Sequence[Prompt], negative: Sequence[Prompt], tokenizer: Tokenizer, length: int
) -> tuple[Texts, int]:
    """The rows for attention that is restricted by region: n texts of equal length, and n.

    Each text is padded with empty windows to the number of windows of the longest. n is padded with
    empty texts to 4, 8, 16 …, within `MOST_WINDOWS`, so that few numbers of region prompts compile
    again.

    Args:
      positive, negative: the prompt, then those of regions.
      tokenizer, length: as of `make_texts`.

    Raises:
      UserError: too many tokens.
    """
    most = max(len(positive), len(negative))
    windows = max(len(x.windows) for x in (*positive, *negative))
    count = max(most, min(max(4, 2 ** (most - 1).bit_length()), MOST_WINDOWS // windows))
    empty = Prompt([[]], [], [])

    def row(texts: Sequence[Prompt]) -> list[_Row]:
        padded = [*texts, *[empty] * (count - len(texts))]
        return [(i, x) for i, one in enumerate(padded) for x in _filled(one.windows, windows)]

    rows = [row(positive), row(negative)]
    return _texts(rows, (*positive, *negative), tokenizer, length), count


def _windows(regions: Sequence[Prompt]) -> Iterator[_Row]:
    """The windows of region prompts, whose ids begin with 1."""
    for i, region in enumerate(regions, 1):
        yield from ((i, window) for window in region.windows)


def _filled(windows: list[list[Token]], count: int) -> list[list[Token]]:
    """The windows and empty ones."""
    return [*windows, *([] for _ in range(count - len(windows)))]


def _texts(
    rows: Sequence[list[_Row]], prompts: Sequence[Prompt], tokenizer: Tokenizer, length: int
) -> Texts:
    """The positive and the negative row of windows, with all weights and vectors of `prompts`."""
    count = max(map(len, rows))
    if count > MOST_WINDOWS:
        raise UserError(
            f"The prompts take {count} windows of {length} tokens and at most {MOST_WINDOWS} are "
            "possible; shorten them."
        )
    everything = [token for one in prompts for token in one.tokens]
    weighted = any(token.weight != 1 for token in everything)
    width = next((len(token.vector) for token in everything if token.vector is not None), None)
    (positive, pieces), (negative, _) = (
        _text([*row, *[(0, [])] * (count - len(row))], tokenizer, length, weighted, width)
        for row in rows
    )
    return Texts(negative, positive, pieces)


def _text(
    rows: Sequence[_Row], tokenizer: Tokenizer, length: int, weighted: bool, width: int | None
) -> tuple[Text, list[str]]:
    """Windows side by side, and their pieces.

    The mask is False on empty windows but the first, and on start and end tokens of region prompts,
    so that regions attend to the same tokens as where all texts share one window.
    """
    tokens, mask = tokenizer.framed([[x.id for x in window] for _, window in rows], length)
    for i, (owner, window) in enumerate(rows):
        mask[i] &= bool(window) or i == 0
        if owner > 0:
            mask[i, [0, len(window) + 1]] = False
    ids = np.repeat(np.array([owner for owner, _ in rows], np.int32), length)
    weights = np.ones(tokens.shape, np.float32)
    vectors = None if width is None else np.zeros((*tokens.shape, width), np.float32)
    pieces = tokenizer.pieces(np.maximum(tokens, 0).ravel().tolist())
    for i, (_, window) in enumerate(rows):
        for j, token in enumerate(window, 1):
            weights[i, j] = token.weight
            if vectors is not None and token.vector is not None:
                vectors[i, j], pieces[i * length + j] = token.vector, token.piece
    text = Text(
        tokens.reshape(1, -1),
        mask.reshape(1, -1),
        ids[None],
        weights=weights.reshape(1, -1) if weighted else None,
        vectors=None if vectors is None else vectors.reshape(1, -1, vectors.shape[-1]),
    )
    return text, pieces


def _append(
    text: Text, pieces: list[str], regions: Sequence[Prompt], end: int, tokenizer: Tokenizer
) -> None:
    """Writes the tokens of region prompts behind those of the prompt, which end at `end`."""
    tokens, mask, ids, vectors = text.tokens, text.mask, text.ids, text.vectors
    assert ids is not None
    for i, region in enumerate(regions, 1):
        for token in region.tokens:
            tokens[0, end], mask[0, end], ids[0, end] = token.id, True, i
            if token.vector is None or vectors is None:
                pieces[end] = tokenizer.pieces([token.id])[0]
            else:
                vectors[0, end], pieces[end] = token.vector, token.piece
            end += 1
