"""What each kind of change does to a sketch, measured; and that it does nothing else."""

import cv2
import jax
import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import euler_number

from input_pipeline.extraction import augment
from input_pipeline.extraction.augment import KINDS, AugmentSketch
from input_pipeline.loader import train_iterator

SIZES = (64, 100, 256)
ALL = dict.fromkeys(KINDS, 1.0)


def drawing(size: int, rng: np.random.Generator) -> np.ndarray:
    """Anti-aliased outlines of the width of OpenMoji's, in the inner part of the page."""
    page = np.full((4 * size, 4 * size), 255, np.uint8)
    pen = {"color": 0, "thickness": round(4 * size * 0.028)}
    for _ in range(4):
        ends = rng.integers(0.5 * size, 3.5 * size, (2, 2)).tolist()
        cv2.rectangle(page, *ends, **pen)
        centre = rng.integers(1.2 * size, 2.8 * size, 2).tolist()
        cv2.circle(page, centre, int(rng.integers(0.2 * size, 0.7 * size)), **pen)
    return cv2.resize(page, (size, size), interpolation=cv2.INTER_AREA)


def hairlines(size: int, rng: np.random.Generator) -> np.ndarray:
    """Lines of one pixel, as edge detectors draw them."""
    page = np.full((size, size), 255, np.uint8)
    for ends in rng.integers(0.1 * size, 0.9 * size, (6, 2, 2)).tolist():
        cv2.line(page, *ends, 0)
    return page


def ink(sketch: np.ndarray) -> float:
    """How much there is, in pixels of full black."""
    return float((255 - sketch.astype(np.float64)).sum() / 255)


def farthest(ink_of: np.ndarray, other: np.ndarray) -> float:
    """The greatest distance from an ink pixel of the one to the nearest of the other."""
    return float(ndimage.distance_transform_edt(other >= 128)[ink_of < 128].max())


def pieces_less_rings(sketch: np.ndarray) -> int:
    """The Euler number of the ink."""
    return int(euler_number(sketch < 128, connectivity=2))


@pytest.fixture(params=SIZES)
def size(request) -> int:
    return request.param


@pytest.fixture
def sketch(size, rng) -> np.ndarray:
    return drawing(size, rng)


def samples(kind: str, sketch: np.ndarray, rng: np.random.Generator, count: int = 20):
    return [KINDS[kind](sketch, rng) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sketch_stays_a_sketch_and_the_old_one_as_it_was(kind, sketch, rng):
    before = sketch.copy()
    for changed in samples(kind, sketch, rng):
        assert changed.shape == sketch.shape and changed.dtype == np.uint8
        assert np.median(changed) > 200  # paper is still light …
        assert ink(changed) > 0.35 * ink(sketch)  # … and a drawing still on it
        assert not np.array_equal(changed, sketch)
        np.testing.assert_array_equal(sketch, before)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "noise"])
def test_a_blank_page_stays_blank(kind, size, rng):
    blank = np.full((size, size), 255, np.uint8)
    for changed in samples(kind, blank, rng, 5):
        np.testing.assert_array_equal(changed, blank)


def test_strokes_grow_or_shrink(sketch, rng):
    size, seen = len(sketch), set()
    for changed in samples("stroke_width", sketch, rng, 40):
        thicker, thinner = (changed <= sketch).all(), (changed >= sketch).all()
        assert thicker != thinner
        seen.add(thicker)
        assert max(farthest(sketch, changed), farthest(changed, sketch)) <= 0.008 * size + 1.5
    assert seen == {True, False}


def test_both_edges_of_a_line_move_as_far_as_is_said(size, rng):
    """Also by less than a pixel, for which 64 px is too small to have whole ones."""
    line, width = np.full((size, size), 255, np.uint8), size // 20
    line[:, size // 2 : size // 2 + width] = 0
    moves = [
        abs(ink(changed) / size - width) / 2 / size
        for changed in samples("stroke_width", line, rng, 60)
    ]
    # A tenth of a pixel is for the edges of a line that was enlarged, which are soft.
    assert 0.002 - 0.1 / size <= min(moves) and max(moves) <= 0.008 + 0.1 / size
    assert max(moves) - min(moves) > 0.004 and len(set(np.round(moves, 4))) > 20


def test_a_line_is_never_too_thin_to_stay(size, rng):
    fine = hairlines(size, rng)
    for changed in samples("stroke_width", fine, rng):
        assert farthest(fine, changed) <= 0.008 * size + 2
        assert ink(changed) > 0.5 * ink(fine)


def test_gaps_break_lines_and_are_small(sketch, rng):
    size = len(sketch)
    parted = []
    for changed in samples("gaps", sketch, rng):
        assert (changed >= sketch).all() and ink(changed) >= ink(sketch) / 2
        assert (changed.astype(int) - sketch).max() > 128  # somewhere ink is gone, not fainter
        assert (changed > sketch).sum() <= 6 * np.pi * (0.04 * size + 1) ** 2
        # A cut through a line opens a ring or makes two pieces of one: pieces less rings grow.
        parted.append(pieces_less_rings(changed) - pieces_less_rings(sketch))
    assert np.mean(parted) > 1 and np.mean(np.array(parted) > 0) > 0.6


def test_a_gap_parts_a_line(rng, size):
    line = np.full((size, size), 255, np.uint8)
    line[size // 2 : size // 2 + max(1, size // 40)] = 0
    for changed in samples("gaps", line, rng):
        holes = (changed >= 128).all(axis=0)
        assert 2 * 0.02 * size - 2 <= holes.sum() <= 6 * (2 * 0.04 * size + 2)


def test_a_small_drawing_does_not_fall_into_a_gap(size, rng):
    dot = np.full((size, size), 255, np.uint8)
    dot[size // 2, size // 2] = 0
    for kind in ("gaps", "erasure"):
        for changed in samples(kind, dot, rng):
            assert ink(changed) >= ink(dot) / 2


def test_wobble_moves_no_point_farther_than_it_says(sketch, rng):
    reach = 0.015 * len(sketch) + 1.5  # and what interpolation makes of the edge of a stroke
    for changed in samples("wobble", sketch, rng):
        assert farthest(changed, sketch) <= reach and farthest(sketch, changed) <= reach
        assert abs(ink(changed) / ink(sketch) - 1) < 0.15


def test_wobble_moves_points_as_far_as_it_says(rng):
    """A grid of dots at 512 px, where interpolation is small beside the displacement."""
    size = 512
    dots = np.full((size, size), 255, np.uint8)
    places = np.stack(np.meshgrid(*[np.arange(40, size - 24, 24)] * 2, indexing="ij"), -1).reshape(
        -1, 2
    )
    for row, column in places.tolist():
        cv2.circle(dots, (column, row), 4, 0, cv2.FILLED, cv2.LINE_AA)
    for changed in samples("wobble", dots, rng, 5):
        labels, count = ndimage.label(changed < 128)
        assert count == len(places)
        centres = np.array(ndimage.center_of_mass(255.0 - changed, labels, range(1, count + 1)))
        moves = centres - places[((centres[:, None] - places) ** 2).sum(-1).argmin(1)]
        lengths = np.linalg.norm(moves, axis=1)
        assert 0.3 * 0.005 * size < lengths.max() <= 0.015 * size + 0.5
        # Smooth: dots beside each other move alike, more than any two dots do.
        apart = np.linalg.norm(centres[:, None] - centres, axis=-1)
        unlike = np.linalg.norm(moves[:, None] - moves, axis=-1)
        assert unlike[(apart > 0) & (apart < 30)].mean() < 0.8 * unlike[apart > 0].mean()


def test_erasure_takes_ink_in_one_place_and_leaves_half(sketch, rng):
    shares = []
    for changed in samples("erasure", sketch, rng, 40):
        assert (changed >= sketch).all()
        shares.append(1 - ink(changed) / ink(sketch))
    assert min(shares) > 0 and max(shares) <= 0.5
    assert 0.02 < np.mean(shares) < 0.4


def test_erasure_is_soft(rng):
    """On black paper the wiped place itself is seen."""
    black = np.zeros((256, 256), np.uint8)
    for wiped in samples("erasure", black, rng):
        assert wiped.max() > 0.3 * 255
        steps = [np.abs(np.diff(wiped.astype(int), axis=axis)).max() for axis in (0, 1)]
        assert max(steps) <= 40  # no edge: from all to nothing in six pixels or more


def test_noise_is_faint_and_keeps_off_the_ink(sketch, rng):
    for changed in samples("noise", sketch, rng):
        assert (changed <= sketch).all()
        np.testing.assert_array_equal(changed[sketch < 120], sketch[sketch < 120])
        dirt = np.minimum(sketch.astype(int) - changed, 255)
        assert 0 < dirt.mean() < 12 and dirt.max() <= 130
        assert (changed < 200).sum() <= (sketch < 200).sum() + 16 * np.pi * (
            0.006 * len(sketch) + 1
        ) ** 2


def record(rng: np.random.Generator) -> dict:
    return {
        "sketch": drawing(64, rng)[..., None],
        "image": rng.integers(0, 256, (64, 64, 3), np.uint8),
        "labels": rng.integers(0, 9, (64, 64), np.uint8),
        "nodes": rng.normal(size=(9, 4)),
        "captions": ["a house"],
    }


def test_nothing_but_the_sketch_changes(rng):
    old = record(rng)
    sketch = old["sketch"]
    new = AugmentSketch(**ALL).random_map(old, rng)
    assert new is not old and set(new) == set(old) and old["sketch"] is sketch
    assert new["sketch"].shape == (64, 64, 1) and new["sketch"].dtype == np.uint8
    assert not np.array_equal(new["sketch"], sketch)
    for name in set(old) - {"sketch"}:
        assert new[name] is old[name]


def test_without_any_probability_the_record_is_handed_on(rng):
    old = record(rng)
    for _ in range(20):
        assert AugmentSketch().random_map(old, rng) is old


def test_the_same_numbers_make_the_same_sketch(rng):
    old, seed = record(rng), int(rng.integers(1 << 31))
    a, b, c = (
        AugmentSketch(**ALL).random_map(old, np.random.default_rng(s))["sketch"]
        for s in (seed, seed, seed + 1)
    )
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_happens_as_often_as_asked_for(kind, monkeypatch, rng):
    probability, calls = float(rng.uniform(0.2, 0.8)), dict.fromkeys(KINDS, 0)

    def count(name):
        def change(sketch, rng):
            calls[name] += 1
            return sketch

        return change

    monkeypatch.setattr(augment, "KINDS", {name: count(name) for name in KINDS})
    old, once = record(rng), AugmentSketch(**{kind: probability})
    for _ in range(2000):
        once.random_map(old, rng)
    # Five standard deviations.
    assert abs(calls.pop(kind) - 2000 * probability) < 5 * np.sqrt(2000 * 0.25)
    assert not any(calls.values())


def test_batches_differ_in_their_sketches_alone(source, rng):
    seed, budget = int(rng.integers(1 << 31)), (40, 33, 192)
    plain = train_iterator(source, 8, seed, *budget)
    changed = train_iterator(source, 8, seed, *budget, augment=AugmentSketch(**ALL))
    again = train_iterator(source, 8, seed, *budget, augment=AugmentSketch(**ALL))
    identity = train_iterator(source, 8, seed, *budget, augment=AugmentSketch())
    epochs = []
    for _ in range(2):
        a, b, c, d = (next(batches) for batches in (plain, changed, again, identity))
        for name in ("image", "labels"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        jax.tree.map(np.testing.assert_array_equal, a.text, b.text)
        np.testing.assert_array_equal(a.graph.nodes, b.graph.nodes)
        np.testing.assert_array_equal(b.sketch, c.sketch)
        np.testing.assert_array_equal(a.sketch, d.sketch)
        assert not any(np.array_equal(x, y) for x, y in zip(a.sketch, b.sketch, strict=True))
        epochs.append(b.sketch)
    # The miniature has eight records: the second batch is the second epoch, drawn afresh.
    everything = {sketch.tobytes() for sketch in np.concatenate(epochs)}
    assert len(everything) == 16


def test_processes_see_the_same_changes(source, rng):
    seed, budget = int(rng.integers(1 << 31)), (40, 33, 192)
    on = AugmentSketch(**ALL)
    whole = train_iterator(source, 6, seed, *budget, augment=on)
    shares = [
        train_iterator(source, 2, seed, *budget, process_index=i, process_count=3, augment=on)
        for i in range(3)
    ]
    for _ in range(3):
        expected = sorted(sketch.tobytes() for sketch in next(whole).sketch)
        found = sorted(sketch.tobytes() for share in shares for sketch in next(share).sketch)
        assert found == expected
