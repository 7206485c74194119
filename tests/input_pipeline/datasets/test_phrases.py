"""The phrase of each part is never wrong and almost always found."""

import numpy as np

from input_pipeline.datasets import openmoji_art as art
from input_pipeline.datasets import recolor
from input_pipeline.datasets.phrases import PLACES, SIZES, find_phrases, size_and_place
from ragaf_jax.palette import PALETTE

FINE, SIZE = 256, 64


def test_phrases_found_are_those_that_were_written(rng):
    found_of, parts_seen = 0, 0
    for drawing in art.find_drawings()[::150]:
        root = art.read_svg(drawing.path)
        paint, lines = art.render_paint(root, FINE), art.render_lines(root, FINE)
        recolorer = recolor.Recolorer(drawing.name, paint, lines, SIZE)
        true_labels = recolorer.true_labels()
        for _ in range(20):
            painted = recolorer.paint(str(rng.integers(2**31)))
            spans = find_phrases(painted.caption, true_labels, painted.true_colors)
            words = {part: x.words for x in recolorer.phrases for part in x.parts}
            for part, (begin, end) in enumerate(spans.tolist()):
                if part not in words:
                    assert (begin, end) == (-1, -1)
                    continue
                visible = (true_labels == part + 1).any()
                parts_seen += visible
                if begin >= 0:
                    size, place = words[part]
                    color = PALETTE[painted.true_colors[part]]
                    assert painted.caption[begin:end] == f"{size} {color} {place}"
                    found_of += visible
    assert parts_seen > 500
    assert found_of > 0.97 * parts_seen


def page(*parts):
    """A label map of rectangles (x0, y0, x1, y1), in shares of the page."""
    labels = np.zeros((SIZE, SIZE), np.uint8)
    for part, box in enumerate(parts, 1):
        x0, y0, x1, y1 = (round(SIZE * share) for share in box)
        labels[y0:y1, x0:x1] = part
    return labels


SMALL_TOP_LEFT, LARGE_MIDDLE = (0.1, 0.1, 0.2, 0.2), (0.3, 0.3, 0.7, 0.7)
RED, BLUE = PALETTE.index("red"), PALETTE.index("blue")


def said(caption, labels, colors):
    spans = find_phrases(caption, labels, np.array(colors, np.int32))
    assert spans.dtype == np.int32 and spans.shape == (len(colors), 2)
    return [caption[begin:end] if begin >= 0 else None for begin, end in spans.tolist()]


def test_a_colour_said_once_is_enough():
    labels = page(SMALL_TOP_LEFT, LARGE_MIDDLE)
    caption = "house: large red in the middle, small blue top left"
    assert said(caption, labels, [BLUE, RED]) == ["small blue top left", "large red in the middle"]
    # Even where the words do not fit what is left of the part at this size.
    assert said(caption, labels, [RED, BLUE]) == ["large red in the middle", "small blue top left"]
    assert said(caption, labels, [-1, RED]) == [None, "large red in the middle"]
    assert said(caption, labels, [0, RED]) == [None, "large red in the middle"]


def test_a_colour_said_twice_is_told_by_size_and_place():
    labels = page(SMALL_TOP_LEFT, LARGE_MIDDLE)
    caption = "house: large red in the middle, small red top left"
    assert said(caption, labels, [RED, RED]) == ["small red top left", "large red in the middle"]
    other = "house: small red in the middle, small red at the top"
    assert said(other, labels, [RED, RED]) == [None, None]
    # On the border between two places: it may have been either.
    border = page((0.35, 0.1, 0.45, 0.2))
    places = "house: small red top left, small red at the top"
    assert said(places, border, [RED]) == [None]
    assert said(places, page(SMALL_TOP_LEFT), [RED]) == ["small red top left"]
    assert said(places, page(), [RED]) == [None]


def test_other_captions_have_no_phrases():
    labels = page(SMALL_TOP_LEFT)
    for caption in (
        "",
        "house: red, blue and green",
        "a small red top left corner",
        "small red top left",
    ):
        assert said(caption, labels, [RED]) == [None]


def test_every_size_has_its_word_at_every_place(rng):
    for row, y in enumerate((0.2, 0.5, 0.8)):
        for column, x in enumerate((0.2, 0.5, 0.8)):
            share = float(rng.choice([0.01, 0.2]))
            expected = SIZES[int(share > 0.1)], PLACES[3 * row + column]
            assert size_and_place(share, np.array([x, y])) == expected
