"""Node and edge features against brute force on the pixels and against geometry."""

import cv2
import numpy as np
import pytest

from ragaf_jax.graph.build import GraphConfig, region_graph
from ragaf_jax.graph.features import (
    EDGE_FEATURES,
    EDGE_KINDS,
    NODE_FEATURES,
    flip_edges,
    flip_nodes,
)
from ragaf_jax.graph.regions import Regions, downsample_labels, extract_regions


def column(rows, names, name):
    return rows[:, names.index(name)]


def test_places_and_areas_are_those_of_the_pixels(random_regions):
    regions = random_regions(10, 40)
    labels = regions.labels[:, :30]
    present, labels = np.unique(labels, return_inverse=True)
    regions = Regions(labels.astype(np.int32), len(present), regions.background[present])
    nodes = region_graph(regions).nodes
    assert nodes.shape == (regions.n, len(NODE_FEATURES)) and nodes.dtype == np.float32
    for region in range(regions.n):
        rows, columns = np.nonzero(labels == region)
        expected = {
            "centroid_x": (columns + 0.5).mean() / 30,
            "centroid_y": (rows + 0.5).mean() / 40,
            "box_x0": columns.min() / 30,
            "box_y0": rows.min() / 40,
            "box_x1": (columns.max() + 1) / 30,
            "box_y1": (rows.max() + 1) / 40,
            "area": len(rows) / 1200,
            "background": float(regions.background[region]),
        }
        for name, value in expected.items():
            assert nodes[region, NODE_FEATURES.index(name)] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("shape", ["disc", "square", "turned square"])
def test_perimeters_are_those_of_geometry(rng, shape):
    labels, size = np.zeros((256, 256), np.int32), int(rng.integers(30, 60))
    x, y = rng.integers(100, 156, 2).tolist()
    if shape == "disc":
        cv2.circle(labels, (x, y), size, 1, -1)
        length, compactness = 2 * np.pi * size, 1.0
    else:
        turn = np.pi / 4 * ((np.arange(4) * 2) + (shape == "square"))
        corners = np.stack([np.cos(turn), np.sin(turn)], axis=1) * size + (x, y)
        cv2.fillPoly(labels, [corners.round().astype(np.int32)], 1)
        length, compactness = 4 * np.sqrt(2) * size, np.pi / 4
    graph = region_graph(Regions(labels, 2, np.array([True, False])), GraphConfig("adjacency"))
    perimeter = column(graph.nodes, NODE_FEATURES, "perimeter")
    frame = 4 * 256
    assert perimeter[1] * frame == pytest.approx(length, rel=0.08)
    assert (perimeter[0] - perimeter[1]) * frame == pytest.approx(frame, rel=0.08)
    found = column(graph.nodes, NODE_FEATURES, "compactness")[1]
    assert found == pytest.approx(compactness, rel=0.13)
    between = (graph.senders == 0) & (graph.receivers == 1)
    shared = column(graph.edges[between], EDGE_FEATURES, "shared_boundary")
    assert shared == pytest.approx([perimeter[1]])


def test_edges_tell_of_their_two_regions(random_regions):
    graph = region_graph(random_regions())
    nodes, edges = graph.nodes, graph.edges
    assert edges.shape == (len(graph.senders), len(EDGE_FEATURES)) and edges.dtype == np.float32
    centroid, area = nodes[:, :2], column(nodes, NODE_FEATURES, "area")
    offset = centroid[graph.receivers] - centroid[graph.senders]
    first = EDGE_FEATURES.index("offset_x")
    np.testing.assert_allclose(edges[:, first : first + 2], offset, atol=1e-6)
    np.testing.assert_allclose(
        column(edges, EDGE_FEATURES, "distance"), np.linalg.norm(offset, axis=1), atol=1e-6
    )
    np.testing.assert_allclose(
        column(edges, EDGE_FEATURES, "log_area_ratio"),
        np.log(area[graph.receivers] / area[graph.senders]),
        atol=1e-5,
    )
    touching = column(edges, EDGE_FEATURES, "is_adjacency") > 0
    shared = column(edges, EDGE_FEATURES, "shared_boundary")
    assert (shared[touching] > 0).all()
    marks = edges[:, : len(EDGE_KINDS)]
    assert np.isin(marks, (0, 1)).all() and marks.any(1).all()


def test_lengths_have_one_unit_along_both_axes_of_a_page_that_is_no_square():
    """A disc of the same area has the same features: positions are shares, lengths are not."""
    square, wide = np.zeros((120, 120), np.int32), np.zeros((80, 180), np.int32)
    for labels, centres in ((square, ((30, 60), (75, 60))), (wide, ((40, 50), (40, 95)))):
        for number, (y, x) in enumerate(centres, 1):
            rows, columns = np.ogrid[: labels.shape[0], : labels.shape[1]]
            labels[(rows + 0.5 - y) ** 2 + (columns + 0.5 - x) ** 2 < 15**2] = number
    one, other = (
        region_graph(Regions(labels, 3, np.array([True, False, False])), GraphConfig("knn", k=2))
        for labels in (square, wide)
    )
    for name in ("area", "perimeter", "compactness"):
        found = (column(graph.nodes, NODE_FEATURES, name)[1:] for graph in (one, other))
        np.testing.assert_allclose(*found, rtol=1e-6)
    pairs = [(graph.senders == 1) & (graph.receivers == 2) for graph in (one, other)]
    for graph, pair in zip((one, other), pairs, strict=True):
        found = column(graph.edges[pair], EDGE_FEATURES, "distance")
        assert found == pytest.approx([45 / 120])
    np.testing.assert_allclose(other.nodes[1:, 0], (50 / 180, 95 / 180), rtol=1e-6)


@pytest.mark.parametrize("kind", ["adjacency", "containment", "knn", "radius", "hybrid"])
def test_the_mirrored_page_gives_the_mirrored_graph(random_page, kind):
    """At the sizes of the page and of a model, for sketches and their mirror images."""
    regions = extract_regions(random_page())
    for page in (regions, downsample_labels(regions, (64, 64))):
        graph = region_graph(page, GraphConfig(kind))
        mirrored = region_graph(page._replace(labels=page.labels[:, ::-1]), GraphConfig(kind))
        assert np.array_equal(graph.senders, mirrored.senders)
        assert np.array_equal(graph.receivers, mirrored.receivers)
        np.testing.assert_allclose(flip_nodes(graph.nodes), mirrored.nodes, atol=1e-6)
        np.testing.assert_allclose(flip_edges(graph.edges), mirrored.edges, atol=1e-6)


def test_a_symmetric_page_keeps_its_edges_under_the_mirror():
    """With equal distances, a region's k nearest must not change."""
    for cells, side in ((5, 7), (7, 3), (6, 11), (9, 5)):
        labels = np.arange(cells**2).reshape(cells, cells).repeat(side, axis=0).repeat(side, axis=1)
        regions = Regions(labels.astype(np.int32), cells**2, np.zeros(cells**2, bool))
        config = GraphConfig("hybrid", k=3, radius=2 / cells)
        graph = region_graph(regions, config)
        mirrored = region_graph(regions._replace(labels=regions.labels[:, ::-1]), config)
        assert np.array_equal(graph.senders, mirrored.senders)
        assert np.array_equal(graph.receivers, mirrored.receivers)


def test_flipping_twice_changes_nothing(rng):
    nodes = rng.random((3, 5, len(NODE_FEATURES))).astype(np.float32)
    edges = rng.normal(size=(3, 7, len(EDGE_FEATURES))).astype(np.float32)
    np.testing.assert_allclose(flip_nodes(flip_nodes(nodes)), nodes, atol=1e-6)
    assert np.array_equal(flip_edges(flip_edges(edges)), edges)
