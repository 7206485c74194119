"""The benchmark of regions: its sketches, the original's graph, and the command."""

import json
import sys

import cv2
import numpy as np
import pytest
from commands import own_flags
from scipy import ndimage
from scipy.spatial.distance import cdist

from benchmarks import regions as benchmark
from benchmarks.original_graph import ADJACENT, NEAR, original_graph
from benchmarks.region_sketches import (
    BREAKS,
    THIN,
    break_strokes,
    draw_sketches,
    sample_drawings,
    thin_strokes,
    true_regions,
)
from input_pipeline.datasets.openmoji_art import (
    Paint,
    find_drawings,
    read_svg,
    render_lines,
    render_paint,
)
from ragaf_jax.errors import run_cli
from ragaf_jax.graph.borders import stroke_width
from ragaf_jax.graph.regions import RegionConfig, extract_regions


@pytest.fixture(scope="module")
def drawings():
    return find_drawings()


def test_samples_are_stable(drawings, rng):
    shuffled = [drawings[i] for i in rng.permutation(len(drawings))]
    few, many = sample_drawings(shuffled, 20), sample_drawings(drawings, 50)
    assert many[:20] == few and len(set(many)) == 50
    assert sorted(sample_drawings(drawings, 0)) == sorted(drawings)


def test_thin_strokes_are_thin(drawings, rng):
    ratios = []
    for i in rng.choice(len(drawings), 20, replace=False):
        root = read_svg(drawings[i].path)
        before = render_lines(root, 512)
        thin = render_lines(thin_strokes(root), 512)
        np.testing.assert_array_equal(render_lines(root, 512), before)  # a copy was thinned
        np.testing.assert_array_equal(
            render_paint(thin_strokes(root), 64).color, render_paint(root, 64).color
        )
        widths = [stroke_width((page >= 128).view(np.uint8)) for page in (thin, before)]
        ratios.append(widths[0] / widths[1])
    # Filled shapes, as eyes, stay what they are; of a few drawings the edges' smoothing eats some.
    assert abs(np.median(ratios) - THIN) < 0.03 and np.quantile(ratios, 0.1) > THIN - 0.03


@pytest.mark.parametrize("size", [256, 512])
def test_gaps_are_round_holes_in_the_ink(drawings, rng, size):
    root = read_svg(drawings[rng.integers(len(drawings))].path)
    whole = render_lines(root, size)
    broken = break_strokes(whole, rng)
    changed = broken != whole
    assert (broken[changed] == 255).all()
    scale = size // 256
    _, holes = cv2.connectedComponents(changed.view(np.uint8), connectivity=8)
    assert 1 <= changed.sum() <= BREAKS * np.pi * (4 * scale + 1) ** 2
    assert all(
        max(box.stop - box.start for box in boxes) <= BREAKS * (8 * scale + 1)
        for boxes in ndimage.find_objects(holes)
    )
    again = draw_sketches(root, "a key", size), draw_sketches(root, "a key", size)
    assert all(np.array_equal(again[0][kind], again[1][kind]) for kind in ("clean", "thin", "gaps"))
    assert not np.array_equal(again[0]["gaps"], draw_sketches(root, "other", size)["gaps"])


def test_true_regions_are_connected_parts_of_one_colour(rng):
    color = rng.integers(0, 2, (40, 40, 3)).astype(np.uint8)
    painted = rng.random((40, 40)) < 0.6
    found = true_regions(Paint(color, painted))
    assert set(np.unique(found)) == set(range(found.max() + 1))
    packed = np.where(painted, color @ np.array([1, 2, 4]) + 1, 0)
    expected = np.zeros(packed.shape, int)
    for value in range(9):
        parts, _ = ndimage.label(packed == value, np.ones((3, 3)))
        expected[parts > 0] = expected.max() + parts[parts > 0]
    pairs = set(zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == len(np.unique(found)) == len(np.unique(expected))


def test_the_original_graph_joins_pieces_of_ink(rng):
    page = np.full((120, 200), 255, np.uint8)
    for _ in range(7):
        x, y = (rng.random(2) * (200, 120)).astype(int).tolist()
        cv2.circle(page, (x, y), int(rng.integers(1, 9)), 0, -1)
    graph = original_graph(extract_regions(page, RegionConfig(mode="ink")))
    pieces, count = ndimage.label(page == 0, np.ones((3, 3)))
    points = [np.argwhere(pieces == piece) for piece in range(1, count + 1)]
    points.sort(key=lambda pixels: -len(pixels))
    np.testing.assert_allclose(graph.nodes[:, -1] * page.size, [len(p) for p in points])

    order = {tuple(np.round((p.mean(0) + 0.5)[::-1] / (200, 120), 9)): p for p in points}
    points = [order[tuple(np.round(centroid, 9))] for centroid in graph.nodes[:, :2]]
    for i, j in np.ndindex(count, count):
        if i != j:
            gap = cdist(points[i], points[j], "chebyshev").min()
            apart = np.linalg.norm(points[i].mean(0) - points[j].mean(0)) / np.hypot(200, 120)
            assert graph.adjacent[i, j] == (gap <= ADJACENT)
            np.testing.assert_allclose(graph.distance[i, j], apart)
            assert graph.joined[i, j] == (gap <= ADJACENT or apart <= NEAR)
    assert not graph.joined.diagonal().any()


@pytest.fixture
def command(monkeypatch, capsys):
    """A function (arguments) → status, stdout, stderr; the process keeps its cores."""
    monkeypatch.setattr(benchmark, "pin_to_one_core", lambda: None)

    def run(*arguments):
        with own_flags():
            benchmark.define_flags()
            with pytest.raises(SystemExit) as ended:
                run_cli(benchmark.main, ["regions", *arguments])
        return ended.value.code, *capsys.readouterr()

    return run


def test_the_command_prints_and_writes_every_row(command, tmp_path):
    path = tmp_path / "results" / "regions.json"
    status, printed, _ = command("--drawings=3", "--size=64,96", f"--json={path}")
    assert status == 0
    results = json.loads(path.read_text())
    assert results["drawings"] == 3 and results["versions"]["python"] == sys.version.split()[0]
    rows = results["rows"]
    assert [(row["size"], row["sketch"], row["method"]) for row in rows] == [
        (size, kind, method)
        for size in (64, 96)
        for kind in ("clean", "thin", "gaps")
        for method in ("neck split", "original")
    ]
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows)
    assert len({line.count("|") for line in table}) == 1
    for row, line in zip(rows, table[2:], strict=True):
        assert f"| {row['covering']:.3f} |" in line and row["sketch"] in line
        assert line.endswith(f"| {row['to_original']:.2f} |")
        assert 0 < row["ms_median"] <= row["ms_p95"] <= row["ms_max"]
        assert 0 <= row["leak"] < 1 and 0 < row["covering"] <= 1 and -1 <= row["rand"] <= 1


def test_times_are_multiples_of_those_of_the_original(rng):
    times = rng.uniform(1, 9, (2, 3, 2))
    rows = [
        {"size": size, "sketch": kind, "method": method, "cpu_ms_median": times[i, j, k]}
        for i, size in enumerate((64, 96))
        for j, kind in enumerate(("clean", "thin", "gaps"))
        for k, method in enumerate(("neck split", "original"))
    ]
    ratios = [row["to_original"] for row in benchmark.with_ratios(rows)]
    np.testing.assert_allclose(ratios, (times / times[..., 1:]).ravel(), atol=1e-3)


@pytest.mark.parametrize("size", ["12", "256.5", "x", "99999"])
def test_a_wrong_size_is_one_sentence(command, size):
    status, _, errors = command(f"--size=256,{size}")
    assert status == 1 and f"error: --size has '{size}', expected integers" in errors


def test_regions_are_as_true_as_was_promised(drawings, monkeypatch):
    """A tenth of the drawings of docs/performance.md, each sketch once."""
    monkeypatch.setattr(benchmark, "REPEATS", 1)
    monkeypatch.setattr(benchmark, "METHODS", {"neck split": benchmark.ours})
    rows = benchmark.measure(sample_drawings(drawings, 40), [256])
    least = {"clean": (0.859, 0.909), "thin": (0.838, 0.891), "gaps": (0.799, 0.876)}
    assert len(rows) == len(least)
    for row in rows:
        rand, covering = least[row["sketch"]]
        assert row["rand"] >= rand and row["covering"] >= covering
