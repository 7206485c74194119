"""The report: what is true scores full marks, and listening is a gap beyond the spread."""

import numpy as np
import pytest

from ragaf_jax.batch import Truth
from ragaf_jax.evaluation.report import quality, sentences, spread
from ragaf_jax.palette import PALETTE_RGB


@pytest.fixture
def truth(rng):
    """Framed halves in two colours, a black line around and between them."""
    colors = rng.choice(np.arange(1, 11), (6, 2))
    images = np.full((6, 64, 64, 3), 255, np.uint8)
    labels = np.zeros((6, 64, 64), np.uint8)
    sketch = np.full((6, 64, 64), 255, np.uint8)
    for line in (10, 31, 52):
        sketch[:, 10:54, line : line + 2] = 0
    for line in (10, 52):
        sketch[:, line : line + 2, 10:54] = 0
    labels[:, 12:52, 12:31], labels[:, 12:52, 33:52] = 1, 2
    for i, pair in enumerate(colors):
        for part, color in enumerate(pair, 1):
            images[i][labels[i] == part] = PALETTE_RGB[color]
    images[sketch == 0] = 0
    keys = tuple(map(str, range(6)))
    return Truth(images, sketch, labels, colors.astype(np.int32), ("",) * 6, keys)


def test_the_true_pictures_score_full_marks(truth):
    scores = quality(truth.image_u8, truth)
    assert scores.parts == 12
    assert scores.color_accuracy == (1.0, 1.0, 1.0)
    assert scores.edge_f1.mean > 0.95


def test_swapped_colors_and_blank_pages_do_not(truth):
    mirrored = truth.image_u8[:, :, ::-1]
    same = (truth.true_colors[:, 0] == truth.true_colors[:, 1]).mean()
    assert quality(mirrored, truth).color_accuracy.mean == pytest.approx(same)
    blank = quality(np.full_like(truth.image_u8, 255), truth)
    assert blank.edge_f1.mean == 0
    assert blank.color_accuracy.mean == (truth.true_colors == 1).mean()


def test_without_true_colors_there_is_no_color_accuracy(truth):
    plain = truth._replace(true_colors=np.full_like(truth.true_colors, -1))
    assert quality(truth.image_u8, plain).color_accuracy is None


def test_gaps_are_between_losses_of_the_same_seed():
    losses = spread([{"true": 1.0, "shuffled_text": 1.3}, {"true": 2.0, "shuffled_text": 2.5}])
    assert losses["shuffled_text"]["gap"] == pytest.approx(0.4)
    assert losses["true"] == {"mean": 1.5, "spread": 1.0, "gap": 0.0}


@pytest.mark.parametrize(("gap", "heard"), [(0.5, ": listens"), (0.05, ": does not listen")])
def test_listening_is_more_than_the_spread(truth, gap, heard):
    losses = spread([{"true": x, "shuffled_graph": x + gap} for x in (1.0, 1.1, 0.9)])
    lines = sentences({"stage 2": quality(truth.image_u8, truth)}, {"stage 2": losses})
    assert lines[0].startswith("stage 2: edge F1")
    assert lines[-1].endswith(heard)
