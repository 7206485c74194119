"""The edges of region graphs, against loops over pixels and regions."""

import math

import cv2
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy import ndimage

from ragaf_jax.errors import UserError
from ragaf_jax.graph.build import DISTANCE_STEP, GRAPH_KINDS, GraphConfig, region_graph
from ragaf_jax.graph.features import EDGE_FEATURES, EDGE_KINDS, NODE_FEATURES
from ragaf_jax.graph.regions import Regions, downsample_labels, extract_regions


def joined(graph, kind=None):
    """The graph's edges as pairs, self loops left out; all or those marked with a kind."""
    keep = graph.senders != graph.receivers
    if kind:
        keep &= graph.edges[:, EDGE_FEATURES.index(f"is_{kind}")] > 0
    return {*zip(graph.senders[keep].tolist(), graph.receivers[keep].tolist(), strict=True)}


def both_ways(pairs):
    return {(i, j) for i, j in pairs} | {(j, i) for i, j in pairs}


def reference_adjacency(regions):
    labels = regions.labels
    pairs = set()
    for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        pairs |= {*zip(one.ravel().tolist(), other.ravel().tolist(), strict=True)}
    return both_ways({(i, j) for i, j in pairs if i != j})


def reference_containment(regions):
    pairs = set()
    for outer in range(regions.n):
        filled = ndimage.binary_fill_holes(regions.labels == outer)
        pairs |= {
            (inner, outer)
            for inner in range(regions.n)
            if inner != outer and filled[regions.labels == inner].all()
        }
    return both_ways(pairs)


def in_steps(distance):
    """Distances that differ by rounding alone are equal."""
    return np.rint(distance / DISTANCE_STEP) * DISTANCE_STEP


def reference_nearest(centroids, k):
    pairs = set()
    for i, place in enumerate(centroids):
        far = in_steps(np.hypot(*(centroids - place).T))
        others = sorted((j for j in range(len(centroids)) if j != i), key=lambda j: (far[j], j))
        pairs |= {(i, j) for j in others[:k]}
    return both_ways(pairs)


def reference_radius(centroids, radius):
    far = in_steps(np.hypot(*(centroids[:, None] - centroids[None]).transpose(2, 0, 1)))
    return {(i, j) for i, j in np.argwhere(far <= radius).tolist() if i != j}


def reference(regions, config):
    """The pairs of each kind, by brute force; distances have one unit along both axes."""
    height, width = regions.labels.shape
    places = [
        (np.argwhere(regions.labels == region) + 0.5).mean(0)[::-1] / math.sqrt(width * height)
        for region in range(regions.n)
    ]
    return {
        "adjacency": reference_adjacency(regions),
        "containment": reference_containment(regions),
        "knn": reference_nearest(np.array(places), config.k),
        "radius": reference_radius(np.array(places), config.radius),
    }


def cases(rng, random_page, random_regions):
    drawing = extract_regions(random_page())
    return [
        drawing,
        downsample_labels(drawing, (64, 64)),
        extract_regions(random_page(120, 200)),
        random_regions(32, 64),
        random_regions(int(rng.integers(2, 12)), 9),
    ]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
def test_edges_are_those_of_the_kind(rng, random_page, random_regions, kind):
    numbers = {"k": int(rng.integers(1, 5)), "radius": float(rng.uniform(0.1, 0.5))}
    read = {"knn": ("k",), "radius": ("radius",), "hybrid": ("k", "radius")}.get(kind, ())
    config = GraphConfig(kind, **{name: numbers[name] for name in read})
    for regions in cases(rng, random_page, random_regions):
        graph, expected = region_graph(regions, config), reference(regions, config)
        if kind != "hybrid":
            expected = {kind: expected[kind]}
        for each in GRAPH_KINDS[:-1]:
            assert joined(graph, each) == expected.get(each, set())
        assert joined(graph) == set().union(*expected.values())
        loops = graph.senders == graph.receivers
        assert graph.senders[loops].tolist() == list(range(regions.n))
        marks = graph.edges[loops][:, : len(EDGE_KINDS)]
        assert np.array_equal(marks, np.eye(len(EDGE_KINDS))[[0] * regions.n])
        order = graph.senders * regions.n + graph.receivers
        assert (np.diff(order) > 0).all()
        assert graph.senders.dtype == graph.receivers.dtype == np.int32


def test_nested_rings_are_contained_in_every_ring_around_them():
    labels = np.zeros((64, 64), np.int32)
    for region, radius in ((1, 28), (2, 20), (3, 12)):
        cv2.circle(labels, (32, 32), radius, region, -1)
    labels[50, 5] = 4  # in the background, in no ring
    graph = region_graph(Regions(labels, 5, np.arange(5) == 0), GraphConfig("containment"))
    assert joined(graph) == both_ways({(1, 0), (2, 0), (3, 0), (4, 0), (2, 1), (3, 1), (3, 2)})


def test_a_ring_closes_where_its_pixels_meet_at_corners():
    rows, columns = np.mgrid[:40, :40]
    distance = abs(rows - 20) + abs(columns - 20)
    labels = np.select([distance == 15, distance < 15], [1, 2], 0).astype(np.int32)
    graph = region_graph(Regions(labels, 3, np.arange(3) == 0), GraphConfig("containment"))
    assert joined(graph) == both_ways({(1, 0), (2, 0), (2, 1)})


def test_an_open_ring_contains_nothing():
    labels = np.zeros((64, 64), np.int32)
    cv2.ellipse(labels, (32, 32), (20, 20), 0, 20, 340, 1, 3)
    labels[32, 32] = 2
    graph = region_graph(Regions(labels, 3, np.arange(3) == 0), GraphConfig("containment"))
    assert joined(graph) == both_ways({(1, 0), (2, 0)})


def test_names_do_not_matter(rng, random_regions):
    """Another numbering of the regions gives the same graph, renumbered."""
    regions, config = random_regions(20, 48), GraphConfig("hybrid", k=19)
    order = rng.permutation(20)  # new name of each region
    renamed = Regions(order[regions.labels].astype(np.int32), 20, np.empty(20, bool))
    renamed.background[order] = regions.background
    graph, other = region_graph(regions, config), region_graph(renamed, config)
    np.testing.assert_allclose(other.nodes[order], graph.nodes, atol=1e-6)
    place = {pair: row for row, pair in enumerate(zip(other.senders, other.receivers, strict=True))}
    rows = [place[order[i], order[j]] for i, j in zip(graph.senders, graph.receivers, strict=True)]
    assert len(rows) == len(other.senders)
    np.testing.assert_allclose(other.edges[rows], graph.edges, atol=1e-6)


@pytest.mark.parametrize("kind", GRAPH_KINDS)
def test_one_region_has_its_self_loop_alone(kind):
    graph = region_graph(
        Regions(np.zeros((1, 1), np.int32), 1, np.array([True])), GraphConfig(kind)
    )
    assert graph.senders.tolist() == graph.receivers.tolist() == [0]
    assert np.isfinite(graph.nodes).all() and np.isfinite(graph.edges).all()
    area = graph.nodes[0, NODE_FEATURES.index("area")]
    assert area == 1 and graph.edges[0].tolist() == [1] + [0] * (len(EDGE_FEATURES) - 1)


def test_a_drawn_house_at_sixty_four_pixels():
    """Roof above body, window in the body, all within the background: also after downsampling."""
    page = np.full((256, 256), 255, np.uint8)
    cv2.rectangle(page, (60, 120), (196, 220), 0, 7)
    cv2.line(page, (60, 120), (128, 50), 0, 7)
    cv2.line(page, (128, 50), (196, 120), 0, 7)
    cv2.rectangle(page, (110, 150), (150, 185), 0, 7)
    regions = downsample_labels(extract_regions(page), (64, 64))
    around, body, roof, window = (
        int(regions.labels[y, x]) for y, x in ((5, 5), (35, 20), (24, 32), (41, 32))
    )
    graph = region_graph(regions)
    assert regions.n == 4 and regions.background.tolist() == [True, False, False, False]
    assert joined(graph, "adjacency") == both_ways(
        {(around, body), (around, roof), (body, roof), (body, window)}
    )
    assert joined(graph, "containment") == both_ways(
        {(body, around), (roof, around), (window, around), (window, body)}
    )


@pytest.mark.parametrize("settings", [{"k": 0}, {"radius": -0.1}, {"radius": float("nan")}])
def test_settings_out_of_range_are_refused(settings):
    (name,) = settings
    with pytest.raises(UserError, match=rf"config.data.graph.{name} \(--graph_{name}\) is .*\.$"):
        GraphConfig(**settings)


def test_a_number_without_effect_on_the_kind_is_refused():
    with pytest.raises(UserError, match=r"graph.k .* is 5, .* at 3, or .* kind knn or hybrid\.$"):
        GraphConfig("radius", k=5)
    with pytest.raises(UserError, match=r"radius .* is 0.1, .* at 0.25, or .* radius or hybrid\.$"):
        GraphConfig("knn", radius=0.1)


def test_an_unknown_kind_is_refused():
    with pytest.raises((UserError, TypeCheckError)):
        GraphConfig(kind="delaunay")
