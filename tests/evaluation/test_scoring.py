"""Values by metric: what is true scores full marks, and what is not does not."""

import numpy as np
import pytest
from commands import ROOT
from fakes import random_batch, tiny_config
from framed import framed_halves

from input_pipeline.extraction.sketch import canny
from ragaf_jax.evaluation.examples import Examples, parts_known
from ragaf_jax.evaluation.metrics.attention import AttentionScores
from ragaf_jax.evaluation.registry import METRICS
from ragaf_jax.evaluation.scoring import score
from ragaf_jax.graph.features import EDGE_KINDS
from ragaf_jax.graph.regions import RegionConfig


@pytest.fixture
def truth(rng):
    return framed_halves(rng)


def test_the_true_pictures_score_full_marks(truth):
    scores, sets, missing = score(Examples(truth, truth.image_u8, canny))
    assert not sets and set(missing) == {"ms_ssim"}
    assert missing["ms_ssim"].startswith("MS-SSIM is not computed: the images are 64x64 pixels")
    of_images = {name for name, x in METRICS.items() if x.needs in ("images", "parts")}
    assert scores.keys() == {name for name in of_images if not METRICS[name].weights} - {"ms_ssim"}
    for name, values in scores.items():
        parts = 2 if METRICS[name].needs == "parts" else 1
        assert values.drawing.tolist() == np.repeat(np.arange(6), parts).tolist()
        assert values.item.tolist() == ([1, 2] * 6 if parts == 2 else [0] * 6)
    for name in ("edge_f1", "edge_precision", "edge_recall", "region_iou", "region_covering"):
        assert scores[name].value.min() > 0.95, name
    for name in ("ssim", "edge_map_ssim"):
        np.testing.assert_allclose(scores[name].value, 1, rtol=1e-9)  # rounding
    assert (scores["psnr"].value == np.inf).all()
    assert scores["line_distance"].value.max() < 0.5
    assert (scores["color_accuracy"].value == 1).all()
    np.testing.assert_allclose(scores["color_accuracy"].chance, 1 / 11)
    np.testing.assert_allclose(scores["color_difference"].value, 0, atol=1e-6)
    assert not scores["leak_near"].value.any() and not scores["leak_near"].chance.any()


def test_swapped_colors_are_leaks_of_parts_that_touch(truth):
    swapped = truth.image_u8.copy()
    for i in range(len(swapped)):
        for part in (1, 2):
            place = truth.true_labels[i] == part
            swapped[i][place] = truth.image_u8[i][truth.true_labels[i] == 3 - part][0]
    scores, *_ = score(Examples(truth, swapped, canny))
    assert not scores["color_accuracy"].value.any()
    assert (scores["leak_near"].value == 1).all() and not scores["leak_far"].value.any()
    np.testing.assert_allclose(scores["leak_near"].chance, 0.1)
    assert scores["color_difference"].value.min() > 10


def test_blank_pages_have_no_lines_and_no_distance(truth):
    scores, *_ = score(Examples(truth, np.full_like(truth.image_u8, 255), canny))
    assert not scores["edge_f1"].value.any()
    assert np.isnan(scores["line_distance"].value).all()
    assert scores["ssim"].value.max() < 0.9


def test_where_no_part_is_known_nothing_is_said_of_parts(truth):
    for plain in (np.full_like(truth.true_colors, -1), truth.true_colors[:, :0]):
        photos = truth._replace(true_colors=plain, true_labels=np.zeros_like(truth.true_labels))
        assert not parts_known(photos)
        assert Examples(photos, photos.image_u8).parts is None
        assert not any(METRICS[name].needs == "parts" for name in score(Examples(photos))[0])


def test_attention_and_graphs_have_values_of_regions_and_drawings(rng, truth):
    columns = {name: rng.random(5) for name in AttentionScores._fields}
    columns |= {name: rng.integers(0, 3, 5) for name in ("drawing", "region", "part")}
    found, *_ = score(Examples(truth, attention=AttentionScores(**columns)))
    assert set(found) == {f"attention_{name}" for name in ("phrase", "color", "pointing")}
    assert found["attention_color"].value is columns["color"]
    assert found["attention_color"].chance is columns["color_chance"]
    assert found["attention_color"].item is columns["region"]
    nothing = AttentionScores(**{name: column[:0] for name, column in columns.items()})
    assert score(Examples(truth, attention=nothing)) == ({}, {}, {})

    graph = random_batch(rng, tiny_config(2), 6).graph
    counted, *_ = score(Examples(truth, graph=graph))
    assert set(counted) == {"graph_regions", "graph_edges", *(f"graph_{x}" for x in EDGE_KINDS)}
    assert counted["graph_regions"].value.tolist() == graph.n_node[:, 0].tolist()
    most = RegionConfig().max_regions
    many = truth._replace(regions_found=np.full(6, most + 2, np.int32))
    merged = score(Examples(many, graph=graph))[0]["graph_merged"]
    assert merged.value.tolist() == [2.0] * 6


def test_the_documents_table_says_of_every_metric_what_the_registry_says():
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    lines = [line[1:-1].split("|") for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line] for line in lines if len(line) == 5]
    needs = {"parts": "known parts", "attention": "known parts, RAGAF"}
    for name, metric in METRICS.items():
        ((_, _, _, better, needed),) = (row for row in rows if f"`{name}`" in row[1])
        assert better == metric.better, name
        if metric.weights:
            assert f"`{metric.weights}`" in needed, name
        else:
            assert needed == needs.get(metric.needs, ""), name
