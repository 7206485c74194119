import collections
import re

import cv2
import numpy as np
import pytest

from input_pipeline.datasets import openmoji_art as art
from input_pipeline.datasets import recolor
from ragaf_jax.palette import PALETTE, PALETTE_RGB

FINE, SIZE = 128, 32


def random_art(rng: np.random.Generator) -> tuple[art.Paint, np.ndarray]:
    """Overlapping rectangles of a few colours under a few grey lines."""
    color = np.zeros((FINE, FINE, 3), np.uint8)
    painted = np.zeros((FINE, FINE), bool)
    lines = np.full((FINE, FINE), 255, np.uint8)
    choices = rng.integers(0, 256, (4, 3))
    for _ in range(8):
        (x0, y0), (w, h) = rng.integers(0, FINE - 8, 2), rng.integers(4, FINE, 2)
        color[y0 : y0 + h, x0 : x0 + w] = choices[rng.integers(4)]
        painted[y0 : y0 + h, x0 : x0 + w] = True
    for _ in range(6):
        start, end = rng.integers(0, FINE, (2, 2)).tolist()
        cv2.line(lines, start, end, int(rng.integers(0, 200)), int(rng.integers(1, 5)))
    return art.Paint(color, painted), lines


@pytest.fixture
def drawn(rng) -> tuple[art.Paint, np.ndarray, recolor.Recolorer]:
    paint, lines = random_art(rng)
    return paint, lines, recolor.Recolorer("thing", paint, lines, SIZE)


def cells(image: np.ndarray) -> np.ndarray:
    k = FINE // SIZE
    blocks = image.reshape(SIZE, k, SIZE, k, -1).swapaxes(1, 2)
    return blocks.reshape(SIZE, SIZE, k * k, -1)


def test_parts_are_connected_and_of_one_colour(drawn):
    paint, lines, recolorer = drawn
    parts = recolorer.parts
    for index, (share, centroid) in enumerate(zip(parts.share, parts.centroid, strict=True), 1):
        mask = parts.labels == index
        assert len(np.unique(paint.color[mask], axis=0)) == 1
        assert cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] == 2
        y, x = np.nonzero(mask & (lines >= 128))
        assert share == pytest.approx(len(x) / FINE**2)
        assert centroid == pytest.approx([(x.mean() + 0.5) / FINE, (y.mean() + 0.5) / FINE])
        # Nothing beside it has its colour: it is all of the part.
        ring = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))).astype(bool) & ~mask
        same = (paint.color[ring] == paint.color[mask][0]).all(-1) & paint.painted[ring]
        assert not same.any()
    assert (np.diff(parts.share) <= 0).all()
    assert not (parts.labels > 0)[~paint.painted].any()


def test_the_picture_is_the_mean_of_the_repainted_one(drawn):
    paint, lines, recolorer = drawn
    colored = recolorer.paint("a seed")
    fine = np.where(paint.painted[..., None], paint.color, 255).astype(np.float64)
    for index, choice in enumerate(colored.true_colors):
        if choice >= 0:
            fine[recolorer.parts.labels == index + 1] = PALETTE_RGB[choice]
    fine *= lines[..., None] / 255
    assert np.abs(colored.image - cells(fine).mean(2)).max() <= 0.5 + 1e-9


def test_true_labels_are_what_fills_most_of_the_pixel(drawn):
    _, lines, recolorer = drawn
    visible = cells(np.where(lines >= 128, recolorer.parts.labels, 0))[..., 0]
    counts = np.stack([(visible == i).sum(-1) for i in range(len(recolorer.parts.share) + 1)], -1)
    expected = np.where(counts.max(-1) * 2 > visible.shape[-1], counts.argmax(-1), 0)
    np.testing.assert_array_equal(recolorer.true_labels(), expected)


@pytest.fixture(scope="module")
def some_drawings() -> list[art.Drawing]:
    return list(art.find_drawings()[::60])


def test_every_phrase_is_true_and_means_one_size_and_place(some_drawings):
    for drawing in some_drawings:
        root = art.read_svg(drawing.path)
        recolorer = recolor.Recolorer(
            drawing.name, art.render_paint(root, FINE), art.render_lines(root, FINE), SIZE
        )
        colored = recolorer.paint(drawing.key)
        name, _, said = colored.caption.partition(": ")
        assert name == recolor.bare_name(drawing.name)
        phrases = said.split(", ")
        assert len(phrases) == len(recolorer.phrases) <= recolor.MAX_PHRASES
        meant = {}
        for phrase in phrases:
            size, color, place = phrase.split(" ", 2)
            assert (size, place) not in meant
            meant[size, place] = PALETTE.index(color)

        for share, (x, y), color in zip(
            recolorer.parts.share, recolorer.parts.centroid, colored.true_colors, strict=True
        ):
            column = "left" if x <= 0.4 else "right" if x > 0.6 else ""
            row = "top" if y <= 0.4 else "bottom" if y > 0.6 else ""
            place = {
                (False, False): "in the middle",
                (False, True): f"on the {column}",
                (True, False): f"at the {row}",
                (True, True): f"{row} {column}",
            }[bool(row), bool(column)]
            size = "large" if share >= 0.06 else "small"
            assert color == meant.get((size, place), -1)


def test_captions_are_short(some_drawings):
    name = "a name of rather many words, as some drawings have, with wheelchairs facing right"
    for drawing in some_drawings:
        root = art.read_svg(drawing.path)
        paint, lines = art.render_paint(root, FINE), art.render_lines(root, FINE)
        caption = recolor.Recolorer(name, paint, lines, SIZE).paint("").caption
        assert len(re.findall(r"\w+|[^\w\s]", caption)) <= recolor.MAX_WORDS


def test_colours_are_uniform_and_decided_by_the_seed(drawn):
    recolorer = drawn[2]
    assert recolorer.phrases
    count: collections.Counter[int] = collections.Counter()
    for index in range(2200):
        colored = recolorer.paint(f"key/{index}")
        count[int(colored.true_colors[recolorer.phrases[0].parts[0]])] += 1
    assert set(count) == set(range(len(PALETTE)))
    assert all(120 < number < 290 for number in count.values())
    again = recolorer.paint("key/7")
    assert again.caption == recolorer.paint("key/7").caption
    np.testing.assert_array_equal(again.image, recolorer.paint("key/7").image)


@pytest.mark.parametrize(
    "name, bare",
    [
        ("red apple", "apple"),
        ("light blue heart", "heart"),
        ("man red hair", "man hair"),
        ("black medium-small square", "medium-small square"),
        ("evergreen tree", "evergreen tree"),
        ("light bulb", "light bulb"),
        ("Orange book", "book"),
    ],
)
def test_names_lose_their_colours(name, bare):
    assert recolor.bare_name(name) == bare


def test_a_drawing_without_paint_has_nothing_to_name():
    blank = art.Paint(np.zeros((FINE, FINE, 3), np.uint8), np.zeros((FINE, FINE), bool))
    recolorer = recolor.Recolorer("ghost", blank, np.full((FINE, FINE), 255, np.uint8), SIZE)
    assert not recolorer.phrases
    assert not recolorer.true_labels().any()
