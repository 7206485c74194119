"""Region extraction: a partition of at most `max_regions`, into the areas that people see."""

import hashlib
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from ragaf_jax.errors import UserError
from ragaf_jax.graph.regions import RegionConfig, Regions, downsample_labels, extract_regions

MODES = ("strokes", "ink")


def assert_valid(regions, shape, most):
    assert regions.labels.shape == shape and regions.labels.dtype == np.int32
    assert 1 <= regions.n <= most
    areas = np.bincount(regions.labels.ravel())
    assert len(areas) == regions.n and areas.all()  # ids dense, every pixel in one region
    assert (np.diff(areas) <= 0).all()
    assert regions.background.shape == (regions.n,) and regions.background.dtype == bool


@pytest.mark.parametrize("mode", MODES)
def test_any_page_becomes_a_capped_partition(rng, random_page, mode):
    for _ in range(60):
        shape = tuple(rng.integers(1, rng.choice([4, 40, 300]), 2).tolist())
        page = random_page(*shape)
        if rng.random() < 0.3:  # noise has hundreds of regions
            page = ((rng.random(shape) < rng.random()) * 255).astype(np.uint8)
        most, work_size = int(rng.integers(1, 34)), int(rng.integers(4, 400))
        config = RegionConfig(most, mode, work_size=work_size)
        assert_valid(extract_regions(page, config), shape, most)


@pytest.mark.parametrize("mode", MODES)
def test_far_more_areas_than_the_cap(mode):
    page = np.full((256, 256), 255, np.uint8)
    for row in range(10):
        for column in range(10):
            cv2.circle(page, (13 + 25 * column, 13 + 25 * row), 9, 0, 2)
    for most in (1, 2, 32):
        regions = extract_regions(page, RegionConfig(most, mode))
        assert_valid(regions, page.shape, most)
        assert regions.n == most
    labels = extract_regions(page, RegionConfig(256, mode)).labels
    row = column = 13 + 25 * np.arange(10)
    ring = labels[np.ix_(row - 9, column)] if mode == "ink" else labels[np.ix_(row, column)]
    assert len(np.unique(ring)) == 100


def test_closed_and_broken_outlines_enclose_regions(rng):
    """Nine separate shapes; every second one has a gap in its outline."""
    page = np.full((256, 256), 255, np.uint8)
    centres = [(43 + 85 * column, 43 + 85 * row) for row in range(3) for column in range(3)]
    for index, (x, y) in enumerate(centres):
        radius, stroke = int(rng.integers(24, 34)), int(rng.integers(2, 6))
        if rng.random() < 0.5:
            cv2.circle(page, (x, y), radius, 0, stroke)
        else:
            turn = (np.arange(5) / 5 + rng.random()) * 2 * np.pi
            corners = np.stack([np.cos(turn), np.sin(turn)], axis=1) * radius + (x, y)
            cv2.polylines(page, [corners.astype(np.int32)], True, 0, stroke)
        if index % 2:
            ink = np.argwhere(page[y - 40 : y + 40, x - 40 : x + 40] == 0) + (y - 40, x - 40)
            row, column = ink[rng.integers(len(ink))].tolist()
            cv2.circle(page, (column, row), 3, 255, -1)
    regions = extract_regions(page)
    inner = [int(regions.labels[y, x]) for x, y in centres]
    assert len(set(inner)) == 9
    assert regions.background[regions.labels[0, 0]] and not regions.background[inner].any()


def hall(opening):
    """A closed room with a wall across its middle, with an opening of this many pixels."""
    page = np.full((256, 256), 255, np.uint8)
    cv2.rectangle(page, (20, 70), (236, 186), 0, 3)
    cv2.line(page, (128, 70), (128, 186), 0, 3)
    page[128 - opening // 2 : 128 + opening // 2, 120:136] = 255
    return extract_regions(page).labels


def test_a_pass_divides_where_it_is_narrow():
    for opening in (0, 4, 10, 16):
        labels = hall(opening)
        assert len({int(labels[y, x]) for y, x in ((5, 5), (128, 60), (128, 200))}) == 3
    for opening in (70, 100):
        labels = hall(opening)
        assert labels[128, 60] == labels[128, 200] != labels[5, 5]


def test_a_corridor_of_even_width_is_one_region(rng):
    page = np.full((256, 256), 255, np.uint8)
    turn = np.linspace(0, rng.uniform(2, 5), 40) + rng.uniform(0, 6)
    line = np.stack([np.cos(turn), np.sin(turn)], axis=1) * 85 + 128
    cv2.polylines(page, [line.astype(np.int32)], False, 0, 34)
    cv2.polylines(page, [line.astype(np.int32)], False, 255, 28)
    labels = extract_regions(page).labels
    assert len({int(labels[round(y), round(x)]) for x, y in line[2:-2]}) == 1


def test_strokes_are_shared_by_the_areas_beside_them(rng):
    """Pixels of a net of strokes around four rooms go to the nearest room, not all to one."""
    page, walls = np.full((256, 256), 255, np.uint8), 9
    column, row = rng.integers(100, 156, 2).tolist()
    for start, end in (((column, 20), (column, 236)), ((20, row), (236, row))):
        cv2.line(page, start, end, 0, walls)
    cv2.rectangle(page, (20, 20), (236, 236), 0, walls)
    labels = extract_regions(page).labels
    for x, y in ((60, row), (200, row)):
        assert labels[y - 3, x] == labels[y - 30, x] != labels[y + 3, x] == labels[y + 30, x]
    for x, y in ((column, 60), (column, 200)):
        assert labels[y, x - 3] == labels[y, x - 30] != labels[y, x + 3] == labels[y, x + 30]
    assert labels[128, 21 - walls // 2] == labels[0, 0] != labels[128, 19 + walls // 2]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (64, 64), (100, 300)])
@pytest.mark.parametrize("mode", MODES)
def test_blank_and_black_pages_are_one_region(shape, mode):
    for paper in (255, 0):
        regions = extract_regions(np.full(shape, paper, np.uint8), RegionConfig(mode=mode))
        assert regions.n == 1 and not regions.labels.any()
        assert regions.background.tolist() == [paper == 255]


def test_lines_of_one_pixel_divide_the_page():
    for side in (48, 256, 700):
        page = np.full((side, side), 255, np.uint8)
        page[:, side // 3] = 0
        regions = extract_regions(page)
        assert regions.n == 2 and regions.background.all()  # each holds much of the frame
        assert len(np.unique(regions.labels[:, : side // 3 - 8])) == 1
        assert regions.labels[0, 0] == 1 and regions.labels[0, -1] == 0


def test_size_hardly_matters(random_page):
    """A page with repeated pixels has the regions of the original page, at `work_size`."""
    page = random_page(512, 128)
    small = extract_regions(page)
    large = extract_regions(page.repeat(3, axis=0).repeat(3, axis=1))
    assert np.array_equal(large.labels, small.labels.repeat(3, axis=0).repeat(3, axis=1))
    assert np.array_equal(large.background, small.background)


def test_partial_blocks_count_what_they_have():
    """The last of 31 × 31 blocks are incomplete."""
    page = np.full((6000, 8000), 255, np.uint8)
    cv2.circle(page, (4000, 3000), 2000, 0, 1)
    cv2.circle(page, (4000, 3000), 600, 0, 20)
    regions = extract_regions(page)
    assert_valid(regions, page.shape, 32)
    assert regions.labels[0, 0] == 0 and regions.labels[1800, 4000] == 1
    assert regions.labels[3000, 4000] == 2 and regions.background.tolist() == [True, False, False]


def test_ink_mode_is_the_components_of_the_ink(rng, random_page):
    page = random_page()
    count, pieces = cv2.connectedComponents((page < 160).astype(np.uint8), connectivity=8)
    regions = extract_regions(page, RegionConfig(max_regions=count, mode="ink"))
    assert regions.n == count
    pairs = {*zip(pieces.ravel().tolist(), regions.labels.ravel().tolist(), strict=True)}
    assert len(pairs) == count  # one to one
    paper = int(regions.labels[page >= 160][0])
    assert np.flatnonzero(regions.background).tolist() == [paper]


def test_ink_pieces_beyond_the_cap_join_the_nearest():
    page = np.full((120, 200), 255, np.uint8)
    page[50:70, 10:30] = page[50:70, 170:190] = 0
    dots = [(x, y) for x in (40, 50, 150, 160) for y in (20, 60, 100)]
    for x, y in dots:
        page[y, x] = 0
    page[40, 80:141] = 0  # its right end is near the right piece, its left end the left one
    labels = extract_regions(page, RegionConfig(max_regions=3, mode="ink")).labels
    for x, y in dots:
        assert labels[y, x] == labels[60, 20 if x < 100 else 180]
    assert labels[40, 80] == labels[40, 140] == labels[60, 180]
    assert labels[0, 0] not in (labels[60, 20], labels[60, 180])


def test_the_same_page_gives_the_same_bytes_in_every_process(tmp_path, random_page):
    pages = [random_page(), random_page(90, 333), random_page(600, 500)]
    np.savez(tmp_path / "pages.npz", *pages)
    script = (
        "import sys, hashlib, cv2, numpy as np\n"
        "from ragaf_jax.graph.regions import extract_regions\n"
        "from ragaf_jax.graph.build import region_graph\n"
        "cv2.setNumThreads(int(sys.argv[2]))\n"
        "digest = hashlib.sha256()\n"
        "for page in np.load(sys.argv[1]).values():\n"
        "    regions = extract_regions(page)\n"
        "    for array in (regions.labels, regions.background, *region_graph(regions)):\n"
        "        digest.update(array.tobytes())\n"
        "print(digest.hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, tmp_path / "pages.npz", threads],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads, seed in (("1", "1"), ("4", "2"))
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 2 * hashlib.sha256().digest_size


@pytest.mark.parametrize("side,size", [(64, 16), (64, 64), (50, 16), (16, 40), (1, 3)])
def test_downsampling_is_a_vote(rng, random_regions, side, size):
    regions = random_regions(min(9, side * side), side)
    small = downsample_labels(regions, (size, size))
    enlarged = -(-side // size) * size
    pick = (np.arange(enlarged) * 2 + 1) * side // (2 * enlarged)  # pixel under each centre
    cells = regions.labels[pick][:, pick].reshape(size, enlarged // size, size, -1)
    winners = np.array(
        [[np.bincount(cells[r, :, c].ravel()).argmax() for c in range(size)] for r in range(size)]
    )
    assert_valid(small, (size, size), regions.n)
    pairs = {*zip(winners.ravel().tolist(), small.labels.ravel().tolist(), strict=True)}
    assert len(pairs) == small.n == len(np.unique(winners))
    assert all(small.background[new] == regions.background[old] for old, new in pairs)


def test_a_region_that_wins_no_cell_vanishes():
    labels = np.zeros((8, 8), np.int32)
    labels[:, 4:], labels[0, 0] = 2, 1
    small = downsample_labels(Regions(labels, 3, np.array([False, False, True])), (2, 2))
    assert small.labels.tolist() == [[0, 1], [0, 1]]
    assert small.background.tolist() == [False, True]


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match=r"shape \(0, 5\)"):
        extract_regions(np.zeros((0, 5), np.uint8))
    for wrong in (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32)):
        with pytest.raises((UserError, TypeCheckError)):
            extract_regions(wrong)


@pytest.mark.parametrize(
    "field,value", [("max_regions", 0), ("threshold", 0), ("threshold", 256), ("work_size", 0)]
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(UserError, match=f"{field} is {value}"):
        RegionConfig(**{field: value})


def test_an_unknown_mode_is_refused():
    with pytest.raises((UserError, TypeCheckError)):
        RegionConfig(mode="lines")
