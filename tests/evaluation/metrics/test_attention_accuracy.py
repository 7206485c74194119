"""Attention on a region's own words scores 1, on another's 0, and on all alike what chance does."""

import numpy as np
import pytest
from fakes import random_batch, random_graph, random_labels, tiny_config

from ragaf_jax.batch import Text, Truth, stacked
from ragaf_jax.evaluation.metrics.attention import attention_scores, parts_of_regions
from ragaf_jax.palette import PALETTE
from ragaf_jax.tokenizer import Tokenizer

SIZES, PLACES = ("small", "large"), ("top left", "on the left", "at the bottom", "in the middle")
TOKENIZER = Tokenizer.train([" ".join(["house : ,", *SIZES, *PALETTE, *PLACES])])
SCORES = ("phrase", "color", "pointing")
REGIONS, LENGTH, SIDE = 9, 40, 16


def drawings(rng, count=4, length=LENGTH, max_regions=REGIONS):
    """Pages of which all regions but 0 are one part each, and where each part's words are.

    (batch, truth, for each drawing {region: (places of its phrase, place of its colour)})
    """
    config = tiny_config(2)
    batch = random_batch(rng, config, count)
    labels = np.stack([random_labels(rng, SIDE, int(n)) for n in rng.integers(3, 7, count)])
    true_labels, true_colors = np.zeros((count, SIDE, SIDE), np.uint8), np.full((count, 6), -1)
    spans, captions, places = np.full((count, 6, 2), -1), [], []
    for i in range(count):
        regions = rng.permutation(np.arange(1, labels[i].max() + 1))
        part_of = dict(zip(regions.tolist(), rng.permutation(6)[: len(regions)], strict=True))
        caption, place, own = "house: ", 3, {}
        for color, (region, part) in zip(rng.permutation(11), part_of.items(), strict=False):
            phrase = f"{rng.choice(SIZES)} {PALETTE[color]} {rng.choice(PLACES)}"
            size = len(phrase.split())
            spans[i, part] = len(caption), len(caption) + len(phrase)
            own[region] = list(range(place, place + size)), [place + 1]
            caption, place = f"{caption}{phrase}, ", place + size + 1
            true_labels[i][labels[i] == region], true_colors[i, part] = part + 1, color
        captions.append(caption.removesuffix(", "))
        places.append(own)
    text = Text(*TOKENIZER.encode(captions, length))
    graph = stacked([random_graph(x, max_regions, 90) for x in labels])
    batch = batch._replace(labels=labels, graph=graph, text=text)
    paper = np.full((count, SIDE, SIDE), 255, np.uint8)
    truth = Truth(
        np.repeat(paper[..., None], 3, -1),
        paper,
        true_labels,
        true_colors.astype(np.int32),
        tuple(captions),
        ("",) * count,
        spans.astype(np.int32),
    )
    return batch, truth, places


def zeros(batch):
    return np.zeros(
        (len(batch.text.tokens), batch.graph.nodes.shape[1], batch.text.tokens.shape[1]), np.float32
    )


def random_attention(rng, batch):
    attention = rng.random(zeros(batch).shape).astype(np.float32) * batch.text.mask[:, None]
    return attention / attention.sum(-1, keepdims=True)


def assert_same(one, other):
    order = [np.lexsort((scores.part, scores.drawing)) for scores in (one, other)]
    for name in one._fields:
        if name != "region":
            pair = getattr(one, name)[order[0]], getattr(other, name)[order[1]]
            np.testing.assert_array_equal(*pair)


def test_attention_on_own_words_is_1(rng):
    batch, truth, places = drawings(rng)
    on_phrase, on_color = zeros(batch), zeros(batch)
    for i, own in enumerate(places):
        for region, (phrase, color) in own.items():
            on_phrase[i, region, phrase] = 1 / len(phrase)
            on_color[i, region, color] = 1
    spread = attention_scores(on_phrase, batch, truth, TOKENIZER)
    pairs = list(zip(spread.drawing.tolist(), spread.region.tolist(), strict=True))
    assert sorted(pairs) == sorted((i, r) for i, own in enumerate(places) for r in own)
    np.testing.assert_allclose(spread.phrase, 1, rtol=1e-6)
    expected = [1 / len(places[i][r][0]) for i, r in pairs]
    np.testing.assert_allclose(spread.color, expected, rtol=1e-6)
    np.testing.assert_array_equal(spread.pointing, 1)
    sharp = attention_scores(on_color, batch, truth, TOKENIZER)
    for name in SCORES:
        np.testing.assert_array_equal(getattr(sharp, name), 1)


def test_attention_on_the_words_of_others_is_0(rng):
    batch, truth, places = drawings(rng)
    attention = zeros(batch)
    for i, own in enumerate(places):
        for region, other in zip(own, np.roll(list(own), 1).tolist(), strict=True):
            attention[i, region, own[other][1]] = 1
    scores = attention_scores(attention, batch, truth, TOKENIZER)
    assert len(scores.part) == sum(map(len, places))
    for name in SCORES:
        np.testing.assert_array_equal(getattr(scores, name), 0)


def test_attention_on_every_token_alike_is_at_chance(rng):
    batch, truth, places = drawings(rng)
    valid = batch.text.mask.sum(1)
    attention = zeros(batch) + (batch.text.mask / valid[:, None])[:, None].astype(np.float32)
    scores = attention_scores(attention, batch, truth, TOKENIZER)
    for name in SCORES:
        chance = getattr(scores, f"{name}_chance")
        np.testing.assert_allclose(getattr(scores, name), chance, rtol=1e-6)
    for i, region, phrase, color, pointing in zip(
        *(scores.drawing.tolist(), scores.region.tolist()),
        *(scores.phrase_chance, scores.color_chance, scores.pointing_chance),
        strict=True,
    ):
        words = len(places[i][region][0])
        assert phrase == pytest.approx(words / valid[i])
        assert color == pytest.approx(1 / valid[i])
        assert pointing == pytest.approx(1 / len(places[i]))


def test_scores_are_sums_and_the_largest_colour_word(rng):
    batch, truth, places = drawings(rng)
    attention = random_attention(rng, batch)
    scores = attention_scores(attention, batch, truth, TOKENIZER)
    for k, (i, region) in enumerate(
        zip(scores.drawing.tolist(), scores.region.tolist(), strict=True)
    ):
        phrase, color = places[i][region]
        weights = attention[i, region].astype(np.float64)
        assert scores.phrase[k] == pytest.approx(weights[phrase].sum())
        assert scores.color[k] == pytest.approx(weights[color].sum())
        words = [other for _, (other,) in places[i].values()]
        assert scores.pointing[k] == (words[weights[words].argmax()] == color[0])


def test_other_numbers_for_the_regions_change_nothing(rng):
    batch, truth, _ = drawings(rng)
    attention = random_attention(rng, batch)
    labels, permuted = batch.labels.copy(), attention.copy()
    for i, count in enumerate(batch.graph.n_node[:, 0]):
        names = rng.permutation(count)
        labels[i] = names[batch.labels[i]]
        permuted[i, names] = attention[i, :count]
    again = attention_scores(permuted, batch._replace(labels=labels), truth, TOKENIZER)
    assert_same(attention_scores(attention, batch, truth, TOKENIZER), again)


def test_padding_never_counts(rng):
    batch, truth, _ = drawings(rng)
    attention = random_attention(rng, batch)
    expected = attention_scores(attention, batch, truth, TOKENIZER)
    for i, count in enumerate(batch.graph.n_node[:, 0]):
        attention[i, count:] = np.nan
    wider = np.pad(attention, ((0, 0), (0, 5), (0, 7)), constant_values=np.nan)
    wider[..., -7:] = 0
    text = Text(*TOKENIZER.encode(truth.captions, LENGTH + 7))
    more = stacked([random_graph(x, REGIONS + 5, 95) for x in batch.labels])
    padded = batch._replace(text=text, graph=more)
    assert_same(attention_scores(attention, batch, truth, TOKENIZER), expected)
    assert_same(attention_scores(wider, padded, truth, TOKENIZER), expected)


def test_what_the_model_was_not_told_is_not_judged(rng):
    batch, truth, places = drawings(rng)
    attention = random_attention(rng, batch)
    everything = attention_scores(attention, batch, truth, TOKENIZER)
    assert set(everything.drawing) == {0, 1, 2, 3}
    empty, mask = TOKENIZER.encode([""], LENGTH)
    tokens, masks = batch.text.tokens.copy(), batch.text.mask.copy()
    tokens[1], masks[1] = empty[0], mask[0]
    dropped = batch._replace(text=Text(tokens, masks))
    assert set(attention_scores(attention, dropped, truth, TOKENIZER).drawing) == {0, 2, 3}
    plain = truth._replace(true_phrases=None)
    assert all(len(x) == 0 for x in attention_scores(attention, batch, plain, TOKENIZER))
    nothing = truth._replace(true_phrases=np.full_like(truth.true_phrases, -1))
    assert all(len(x) == 0 for x in attention_scores(attention, batch, nothing, TOKENIZER))
    # Cut within the last phrase of the longest caption, which its region is then not judged by.
    length = int(batch.text.mask.sum(1).max()) - 1
    short = batch._replace(text=Text(*TOKENIZER.encode(truth.captions, length)))
    scores = attention_scores(attention[..., :length], short, truth, TOKENIZER)
    judged = set(zip(scores.drawing.tolist(), scores.region.tolist(), strict=True))
    for i, own in enumerate(places):
        for region, (phrase, _) in own.items():
            assert ((i, region) in judged) == (phrase[-1] <= length - 2)


def test_a_region_is_the_part_that_most_of_it_is():
    labels = np.repeat(np.arange(4), 4)[None].repeat(10, 0)  # four regions of 40 pixels
    true_labels = np.zeros((10, 16), np.uint8)
    ink = np.zeros((10, 16), bool)
    true_labels[:, :4] = 2
    true_labels[:7, :4] = 1  # 28 of 40
    true_labels[:5, 4:8] = 3  # half is not most
    true_labels[:6, 8:12] = 1
    ink[:2, 8:12] = True  # 16 of 32 beside the ink
    ink[:, 12:] = True  # nothing but ink
    assert parts_of_regions(labels, true_labels, ink, 4).tolist() == [1, 0, 0, 0]
    ink[9, 4:6] = ink[9, 8:10] = True
    assert parts_of_regions(labels, true_labels, ink, 4).tolist() == [1, 3, 1, 0]
