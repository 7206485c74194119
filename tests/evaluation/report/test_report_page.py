"""The report: what it says, in words, in Markdown and as a page that stands alone."""

import base64
import html.parser
import io

import numpy as np
import pytest
from framed import framed_halves
from PIL import Image

from ragaf_jax.evaluation.examples import Examples, per_example
from ragaf_jax.evaluation.registry import METRICS
from ragaf_jax.evaluation.report.illustrations import RANKED, ranked_rows, ranks
from ragaf_jax.evaluation.report.numbers import markdown, sentences, tables
from ragaf_jax.evaluation.report.page import report_page

NASTY = '<script>alert(1)</script> & | "x" </td>'
VOID = {"meta", "img", "br"}


class Seen(html.parser.HTMLParser):
    """Tags that are opened and closed in turn, and everything that an address is given to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.texts = [], [], [], []
        self.links, self.targets, self.order = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        named = [x for name, x in attrs if name in ("src", "href", "srcset", "action")]
        self.links += [x for x in named if x.startswith("#")]
        self.addresses += [x for x in named if not x.startswith("#")]
        self.targets += [f"#{x}" for name, x in attrs if name == "id"]
        self.order += [tag] if tag in ("img", "table") else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def an_estimate(value, chance=None, left_out=0):
    return {
        "value": value,
        "low": value - 0.1,
        "high": value + 0.1,
        "examples": 180,
        "left_out": left_out,
        "chance": chance,
    }


def a_difference(value):
    return {
        "difference": value,
        "low": value - 0.1,
        "high": value + 0.1,
        "p_value": 0.0123,
        "examples": 9,
    }


@pytest.fixture
def found():
    """What metrics.json might hold."""
    losses = {
        "true": {"mean": 0.5, "spread": 0.01, "gap": 0.0},
        "shuffled_text": {"mean": 0.75, "spread": 0.01, "gap": 0.25},
    }
    graph = {"shuffled_graph": {"mean": 0.505, "spread": 0.01, "gap": 0.005}}
    stage1 = {"edge_f1": an_estimate(0.9), "line_distance": an_estimate(1.5, left_out=3)}
    stage2 = {
        "edge_f1": an_estimate(0.95),
        "color_accuracy": an_estimate(0.4, chance=1 / 11),
        "kid": an_estimate(0.0123),
    }
    return {
        "workdir": NASTY,
        "dataset": "openmoji/recolor",
        "image_size": 64,
        "sizes": {"64x64": 2},
        "drawings": 144,
        "steps": {"stage 1": 800, "stage 2": 620},
        "sample": {"sampler": "ddim", "steps": 10},
        "seed": 7,
        "metrics": {"stage 1": stage1, "stage 2": stage2},
        "graphs": {"graph_regions": an_estimate(5.0)},
        "differences": {"edge_f1": a_difference(0.05)},
        "missing": {"fid": "FID is not computed: because.", "ssim": "SSIM is not computed: so."},
        "validation": {"stage 1": losses, "stage 2": losses | graph},
        "fusion": {
            "levels": [0.9, 0.1],
            "all": {"regions": 9, "alpha": [[0.5, 0.4, 0.6], [0.7, 0.6, 0.8]], "sd": [0.1, 0.1]},
            "drawn": {"regions": 9, "alpha": [[0.5, 0.4, 0.6], [0.7, 0.6, 0.8]], "sd": [0.1, 0.1]},
        },
        "comparisons": {
            f"runs/{NASTY}": {
                "metrics": {"stage 1": {}, "stage 2": {"edge_f1": an_estimate(0.8)}},
                "differences": {"stage 1": {}, "stage 2": {"edge_f1": a_difference(0.15)}},
            }
        },
        "values": {},
    }


def test_the_findings_in_words(found):
    lines = sentences(found)
    assert lines[0] == "stage 1: edge F1 0.900 [0.800, 1.000]"
    assert lines[1] == (
        "stage 2: edge F1 0.950 [0.850, 1.050], region colour accuracy 0.400 [0.300, 0.500] "
        "(chance 0.09) of 180 parts"
    )
    assert "stage 1: validation loss 0.5000, spread over seeds 0.0100" in lines
    assert "stage 2: with shuffled text 0.7500, +0.2500: responds" in lines
    assert "stage 2: with shuffled graph 0.5050, +0.0050: does not respond" in lines
    assert lines[-2:] == ["SSIM is not computed: so.", "FID is not computed: because."]


def test_the_tables(found):
    by_title = {table.title: [list(row) for row in table.rows] for table in tables(found)}
    for rows in by_title.values():
        assert len({len(row) for row in rows}) == 1
    assert by_title["Fidelity to the sketch"] == [
        ["", "stage 1", "stage 2", "stage 2 − stage 1", "p"],
        [
            "edge F1 ↑",
            "0.900 [0.800, 1.000]",
            "0.950 [0.850, 1.050]",
            "+0.050 [-0.050, +0.150]",
            "0.0123",
        ],
        ["line distance (Chamfer), px ↓", "1.500 [1.400, 1.600], 3 left out", "–", "–", "–"],
    ]
    assert by_title["Distribution of images against the true ones"][1][2].startswith("0.0123")
    assert by_title["Region graphs"][1] == ["regions", "5.0 [4.9, 5.1]"]
    (fusion,) = (rows for title, rows in by_title.items() if "Balance of sketch" in title)
    first, last = ["0.9", *["0.500 [0.400, 0.600]"] * 2], ["0.1", *["0.700 [0.600, 0.800]"] * 2]
    assert fusion[1:] == [first, last]
    compared = by_title["Compared: stage 2"]
    assert compared[0] == ["", "this", f"runs/{NASTY}", f"this − runs/{NASTY}", "p"]
    assert compared[1][2:] == ["0.800 [0.700, 0.900]", "+0.150 [+0.050, +0.250]", "0.0123"]


def test_what_is_not_there_has_no_table(found):
    found |= {"fusion": None, "comparisons": {}}
    del found["metrics"]["stage 2"]["color_accuracy"]
    titles = {table.title for table in tables(found)}
    assert not any("Balance of sketch" in title or "Compared" in title for title in titles)
    assert "Colours of parts" not in titles
    assert "No parts with known colours" in markdown(found)


def test_markdown_has_every_table_in_order(found):
    text = markdown(found)
    places = [text.index(f"\n## {table.title}\n") for table in tables(found)]
    assert places == sorted(places)
    assert "- FID is not computed: because." in text.splitlines()
    heads = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(line.endswith(" |") for line in heads)


def test_the_page_is_well_formed_and_needs_nothing_else(rng, found):
    truth = framed_halves(rng)
    pictures = {"stage 1": truth.image_u8[:, ::-1], "stage 2": truth.image_u8}
    accuracy = METRICS["color_accuracy"].compute(Examples(truth, truth.image_u8))
    rows = ranked_rows({"color_accuracy": accuracy}, pictures, truth)
    figure = rng.integers(0, 256, (30, 40, 3), np.uint8)
    seen = Seen(report_page(found, rows, {NASTY: figure, "b": figure[::-1]}))
    assert "script" not in seen.tags and "link" not in seen.tags
    assert all(address.startswith("data:image/png;base64,") for address in seen.addresses)
    shown = [
        np.array(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))
        for address in seen.addresses
    ]
    # The first figure, the ranked drawings, then the other figures; tables come last.
    ((title, drawings),) = rows.items()
    assert title == "region colour accuracy" and len(shown) == 4 * len(drawings) + 2
    np.testing.assert_array_equal(shown[0], figure)
    np.testing.assert_array_equal(shown[1], truth.sketch_u8[0])
    np.testing.assert_array_equal(shown[3], pictures["stage 2"][0])
    np.testing.assert_array_equal(shown[-1], figure[::-1])
    images = seen.order.count("img")
    assert seen.order == ["img"] * images + ["table"] * len(tables(found))
    # The contents have all of it.
    assert seen.links == seen.targets and len(seen.links) == 2 + len(tables(found)) + 2
    texts = "".join(seen.texts)
    for said in (NASTY, truth.captions[0], "FID is not computed: because.", "0.950 [0.850, 1.050]"):
        assert said in texts
    assert "default-src 'none'" in report_page(found, {}, {})


def test_ranks_are_best_median_and_worst():
    values = np.array([0.5, 0.1, np.nan, 0.9, 0.3, 0.7, 0.2, 0.8])
    best_first = [3, 7, 5, 0, 4, 6, 1]
    found = ranks(values, higher=True, count=2)
    assert found == {3: "best", 7: "best", 5: "median", 0: "median", 6: "worst", 1: "worst"}
    assert list(found) == [i for i in best_first if i in found]
    lowest_first = [(1, "best"), (0, "median"), (3, "worst")]
    assert list(ranks(values, higher=False, count=1).items()) == lowest_first
    assert ranks(values[:2], True, 2) == {0: "best", 1: "best"}
    assert ranks(values[2:3], True, RANKED) == {}


def test_a_row_tells_its_rank_and_shows_all_there_is(rng):
    truth = framed_halves(rng, 2)
    pictures = {"stage 1": truth.image_u8, "stage 2": truth.image_u8}
    rows = ranked_rows({"edge_f1": per_example(np.array([0.25, 0.75]))}, pictures, truth)
    first = rows[METRICS["edge_f1"].title][0]
    assert first.note == "best: edge F1 0.750" and first.key == "key1"
    assert list(first.images) == ["sketch", "stage 1", "stage 2", "true"]
