"""Attention accuracy: do regions attend to the words that describe them?"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from ragaf_jax.batch import Batch, Truth
from ragaf_jax.evaluation.metrics.caption_words import caption_words
from ragaf_jax.evaluation.metrics.colors import PAPER
from ragaf_jax.tokenizer import Tokenizer


class AttentionScores(NamedTuple):
    """How n judged regions of some drawings attend to their captions, all in 0 … 1.

    Each score has beside it what a region has that attends to every token alike, frame included and
    padding not; for `pointing` it is that of a guess among the caption's colour words.

    Attributes:
      drawing: index of the drawing, the groups of `bootstrap_interval`.
      region: its id in the batch's label map.
      part: the true part that most of it is, as in `Truth.true_labels`.
      phrase, phrase_chance: attention on all words about the part ("small red at the top").
      color, color_chance: attention on the word for its colour alone.
      pointing, pointing_chance: the pointing game (Zhang et al. 2016, "Top-down Neural Attention by
        Excitation Backprop", sec. 4.2), played among words: 1 where of all colour words in the
        caption the part's own has the most attention, a share of that where several have the most.
    """

    drawing: Int[np.ndarray, " n"]
    region: Int[np.ndarray, " n"]
    part: Int[np.ndarray, " n"]
    phrase: Float[np.ndarray, " n"]
    phrase_chance: Float[np.ndarray, " n"]
    color: Float[np.ndarray, " n"]
    color_chance: Float[np.ndarray, " n"]
    pointing: Float[np.ndarray, " n"]
    pointing_chance: Float[np.ndarray, " n"]


def attention_scores(
    attention: Float[np.ndarray, "b r t"], batch: Batch, truth: Truth, tokenizer: Tokenizer
) -> AttentionScores:
    """Judges every region whose part and whose part's words are known.

    Left out are regions that are mostly of no part, and those of parts of which the caption says
    nothing, or nothing that the model was shown in full.

    Args:
      attention: A, each region's attention over the tokens; rows sum to 1.
      batch: what the model was shown.
      truth: of its examples; without `true_phrases`, nothing is judged.
      tokenizer: of the batch's tokens.
    """
    rows: list[tuple[float, ...]] = []
    for i, phrases in enumerate(() if truth.true_phrases is None else truth.true_phrases):
        tokens, colors = np.asarray(batch.text.tokens[i]), truth.true_colors[i]
        words = caption_words(tokenizer, tokens, truth.captions[i], phrases, colors)
        count, valid = int(batch.graph.n_node[i, 0]), int(batch.text.mask[i].sum())
        ink = truth.sketch_u8[i] < PAPER
        parts = parts_of_regions(np.asarray(batch.labels[i]), truth.true_labels[i], ink, count)
        for region, part in enumerate(parts.tolist()):
            if not part or not words.phrase[part - 1].any():
                continue
            own, color = words.phrase[part - 1], words.color[part - 1]
            weights = attention[i, region].astype(np.float64)
            rows.append(
                (
                    i,
                    region,
                    part,
                    weights[own].sum(),
                    own.sum() / valid,
                    weights[color].sum(),
                    color.sum() / valid,
                    _pointing(weights, color, words.colors),
                    1 / len(words.colors),
                )
            )
    table = np.array(rows, np.float64).reshape(-1, len(AttentionScores._fields)).T
    return AttentionScores(*table[:3].astype(np.int64), *table[3:])


def parts_of_regions(
    labels: Integer[np.ndarray, "h w"],
    true_labels: Integer[np.ndarray, "h w"],
    ink: Bool[np.ndarray, "h w"],
    count: int,
) -> Int[np.ndarray, " {count}"]:
    """The true part that more than half of each region's pixels beside the ink are; 0 for none.

    labels: the region 0 … count − 1 of every pixel. true_labels: the part (1, 2, …) of every pixel,
      0 where there is none.
    """
    width = int(true_labels.max()) + 1
    pairs = labels.astype(np.int64) * width + true_labels
    votes = np.bincount(pairs[~ink], minlength=count * width).reshape(count, width)
    most = votes.argmax(1)
    return np.where(2 * votes.max(1) > votes.sum(1), most, 0)


def _pointing(
    weights: Float[np.ndarray, " t"], own: Bool[np.ndarray, " t"], colors: Bool[np.ndarray, "k t"]
) -> float:
    """1 if no colour word has more weight than the region's own, shared among equals; else 0."""
    by_word = colors.astype(np.float64) @ weights
    most = by_word == by_word.max()
    is_own = (colors == own[None]).all(1)
    return float((most & is_own).sum() / most.sum())
