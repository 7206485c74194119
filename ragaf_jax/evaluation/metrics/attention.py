"""Attention accuracy: the attention of regions to the words that describe them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from ragaf_jax.batch import Batch, Truth
from ragaf_jax.evaluation.metrics.caption_words import caption_words
from ragaf_jax.evaluation.metrics.colors import PAPER
from ragaf_jax.tokenizer import Tokenizer


class AttentionScores(NamedTuple):
    """Attention of n regions to their captions, all in 0 … 1.

    `…_chance` is the score of uniform attention over all tokens but padding; for `pointing` it is
    that of a random colour word of the caption.

    Attributes:
      drawing: index of the example, the groups of `bootstrap_interval`.
      region: its id in the batch's label map.
      part: the true part with most of the region's pixels, as in `Truth.true_labels`.
      phrase, phrase_chance: attention on all words about the part ("small red at the top").
      color, color_chance: attention on the part's colour word alone.
      pointing, pointing_chance: the pointing game (Zhang et al. 2016, "Top-down Neural Attention by
        Excitation Backprop", sec. 4.2) among words: 1 if the part's colour word has the most
        attention of all colour words in the caption; 1/k if it shares the maximum with k − 1.
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
    """Scores of all regions whose part has known words.

    Regions without a majority part are left out, and those whose part has no phrase in the caption
    or a truncated one. Without `truth.true_phrases` there are no scores.

    attention: A, each region's attention over the tokens; rows sum to 1.
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
            phrase, color = words.phrase[part - 1], words.color[part - 1]
            weights = attention[i, region].astype(np.float64)
            rows.append(
                (
                    i,
                    region,
                    part,
                    weights[phrase].sum(),
                    phrase.sum() / valid,
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
    """The true part with more than half of each region's pixels, ink excluded; 0 for none.

    labels: the region 0 … count − 1 of each pixel. true_labels: the part (1, 2, …) of each pixel, 0
      for none.
    """
    width = int(true_labels.max()) + 1
    pairs = labels.astype(np.int64) * width + true_labels
    votes = np.bincount(pairs[~ink], minlength=count * width).reshape(count, width)
    most = votes.argmax(1)
    return np.where(2 * votes.max(1) > votes.sum(1), most, 0)


def _pointing(
    weights: Float[np.ndarray, " t"], own: Bool[np.ndarray, " t"], colors: Bool[np.ndarray, "k t"]
) -> float:
    """1 if no colour word has more weight than the region's own, divided among ties; else 0."""
    by_word = colors.astype(np.float64) @ weights
    most = by_word == by_word.max()
    is_own = (colors == own[None]).all(1)
    return float((most & is_own).sum() / most.sum())
