"""Statistics of prepared data are those of its records, counted one by one."""

import collections
import json
import re

import numpy as np
import pytest
from measured import random_measured
from miniature import RECOLORINGS, SIZE
from tqdm import tqdm

from input_pipeline import record_format
from input_pipeline.datasets.sides import swap_sides
from input_pipeline.inspection.findings import open_splits
from input_pipeline.inspection.statistics import (
    Budgets,
    Measured,
    distribution,
    histogram,
    joined,
    measure,
    measure_all,
    rejected,
    statistics,
    summary,
)
from input_pipeline.options import Options
from ragaf_jax.tokenizer import Tokenizer

BUDGETS = Budgets(text_length=40, max_regions=33, max_edges=192)


def test_fields_are_those_of_the_records(source):
    names = ("key", "group", "category", "captions", "labels", "nodes", "senders", "regions_found")
    read = list(source.fields(*names))
    assert len(read) == len(source)
    for index, fields in enumerate(read):
        record = source[index]
        assert set(fields) == set(names)
        for name in names:
            np.testing.assert_array_equal(fields[name], record[name])


def test_measured_is_what_the_records_hold(data_dir):
    sources = open_splits("openmoji/recolor", data_dir, Options(SIZE, RECOLORINGS))
    tokenizer = sources["train"].tokenizer
    measured = measure_all(sources, tokenizer)
    for split, source in sources.items():
        records = [source[index] for index in range(len(source))]
        captions = [caption for record in records for caption in record["captions"]]
        expected = Measured(
            groups=[record["group"] for record in records],
            categories=[record["category"] for record in records],
            sided=[(x, swap_sides(x)) for x in captions if re.search("left|right", x)],
            regions=[record["labels"].max() + 1 for record in records],
            regions_found=[record["regions_found"] for record in records],
            edges=[len(record["edges"]) for record in records],
            ink_share=[np.mean(1 - record["sketch"] / 255.0) for record in records],
            sizes=[(SIZE, SIZE)] * len(records),
            source_sizes=[(SIZE, SIZE)] * len(records),
            caption_tokens=tokenizer.encode(captions, 500)[1].sum(1),
            unknown_words=[len(tokenizer.unknown_words(caption)) for caption in captions],
        )
        for name, values in expected._asdict().items():
            ours = getattr(measured[split], name)
            if name == "ink_share":
                np.testing.assert_allclose(ours, values, atol=1e-12)
            else:
                np.testing.assert_array_equal(ours, values)


def test_words_are_counted_by_the_tokenizer_that_is_given(source):
    nothing_known = Tokenizer.train(["zyx"])
    with tqdm(total=len(source), disable=True) as bar:
        measured = measure(source, nothing_known, bar)
    np.testing.assert_array_equal(measured.unknown_words, measured.caption_tokens - 2)
    assert summary(measured, BUDGETS, 32)["shares"]["unknown_words"] == 1


def test_a_distribution_is_read_off_the_sorted_values(rng):
    values = rng.integers(0, 100, 101)
    in_order = sorted(values.tolist())
    assert distribution(values) == {
        "min": in_order[0],
        "median": in_order[50],
        "mean": pytest.approx(sum(in_order) / 101),
        "percentile_95": in_order[95],
        "max": in_order[100],
    }


@pytest.mark.parametrize("limit", [1, 32, 47, 48, 192])
@pytest.mark.parametrize("most", [2, 48, 49, 1000])
def test_a_histogram_counts_every_value_once_and_reaches_the_limit(rng, limit, most):
    values = rng.integers(0, most, 300)
    found = histogram(values, limit)
    width, counts = found["width"], found["counts"]
    assert len(counts) <= 48 and width * len(counts) > max(limit, values.max())
    for place, count in enumerate(counts):
        assert count == sum(place * width <= value < (place + 1) * width for value in values)


@pytest.mark.parametrize("budgets", [BUDGETS, Budgets(20, 9, 64)])
def test_shares_count_what_a_budget_takes_away(rng, budgets):
    measured = random_measured(rng)
    found = summary(measured, budgets, merged_above=32)

    def share(values, loses):
        return pytest.approx(sum(map(loses, values.tolist())) / len(values))

    words = sum(measured.caption_tokens) - 2 * len(measured.caption_tokens)
    assert found["shares"] == {
        "regions_merged": share(measured.regions_found, lambda n: n >= 33),
        # One node of the padded graph is padding.
        "regions_over_budget": share(measured.regions, lambda n: n + 1 > budgets.max_regions),
        "edges_trimmed": share(measured.edges, lambda e: e > budgets.max_edges),
        "captions_cut": share(measured.caption_tokens, lambda t: t > budgets.text_length),
        "unknown_words": pytest.approx(sum(measured.unknown_words) / words),
        "one_region": share(measured.regions, lambda n: n == 1),
        "no_ink": share(measured.ink_share, lambda ink: ink == 0),
    }
    assert found["records"] == 50 and found["captions"] == 120
    assert found["mirrored_captions"] == {"same": 117, "exchanged": 1, "none": 2}
    assert found["groups"] == len(set(measured.groups))


def test_a_caption_is_counted_as_cut_just_when_encoding_cuts_it(rng):
    tokenizer = Tokenizer.train(["a b c d e"])
    for length in rng.integers(3, 12, 20).tolist():
        caption = " ".join(rng.choice(list("abcde"), rng.integers(1, 12)))
        tokens, unknown = tokenizer.count(caption)
        encoded = tokenizer.encode([caption], length)[0][0].tolist()
        kept = [piece for piece in tokenizer.pieces(encoded) if len(piece) == 1]
        assert (tokens > length) == (len(kept) < len(caption.split()))
        assert unknown == 0


def test_captions_of_no_words_have_no_unknown_ones(rng):
    measured = random_measured(rng)._replace(
        caption_tokens=np.array([2, 2]), unknown_words=np.array([0, 0])
    )
    assert summary(measured, BUDGETS, 32)["shares"]["unknown_words"] == 0


def test_all_is_the_splits_together(rng):
    parts = {name: random_measured(rng, n) for name, n in (("train", 40), ("test", 7))}
    found = statistics(parts, BUDGETS, 32)
    assert found["splits"]["all"] == summary(joined(list(parts.values())), BUDGETS, 32)
    assert found["splits"]["all"]["records"] == 47
    assert sum(found["histograms"]["regions"]["counts"]) == 47
    both = set(parts["train"].groups) & set(parts["test"].groups)
    assert found["groups_in_several_splits"] == len(both)
    assert found["sided"] == [["on the left", "on the right"], ["left alone", None]]
    json.dumps(found, allow_nan=False)


def test_categories_are_listed_by_their_number_of_records(rng):
    measured = random_measured(rng, 400)
    measured.categories[:100] = [""] * 100
    found = statistics({"train": measured}, BUDGETS, 32)["categories"]
    counts = collections.Counter(name for name in measured.categories if name)
    assert found["number"] == len(counts)
    assert list(found["largest"].values()) == sorted(counts.values(), reverse=True)[:20]
    assert all(counts[name] == number for name, number in found["largest"].items())
    assert found["others"]["number"] == len(counts) - 20
    assert found["others"]["records"] + sum(found["largest"].values()) == 300


def test_rejected_lines_are_counted_and_the_first_ones_shown(tmp_path):
    assert rejected(tmp_path) == {"number": 0, "first": []}
    names = ["a\u2028b.png", "c\x85d.png", "nicht-utf8-\udcff.png", *map(str, range(20))]
    lines = [json.dumps({"file": n, "reason": "is damaged"}, ensure_ascii=False) for n in names]
    text = "".join(f"{line}\n" for line in lines)
    path = tmp_path / record_format.REJECTED_FILE
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    found = rejected(tmp_path)
    assert found["number"] == 23 and len(found["first"]) == 10
    assert [line["file"] for line in found["first"][:3]] == [*names[:2], "nicht-utf8-\ufffd.png"]
