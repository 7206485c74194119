"""Figures: large enough, every region in its own colour, the graph and its legend on the page."""

import cv2
import numpy as np
import pytest

from ragaf_jax.figures.graph import LEAST_SIDE, _region_colors, draw_graph, draw_regions
from ragaf_jax.graph.build import GRAPH_KINDS, GraphConfig, region_graph
from ragaf_jax.graph.features import EDGE_KINDS
from ragaf_jax.graph.measure import measure_regions
from ragaf_jax.graph.regions import Regions, extract_regions


def colors_of(figure):
    return {tuple(color) for color in np.unique(figure.reshape(-1, 3), axis=0).tolist()}


@pytest.mark.parametrize("shape", [(64, 64), (48, 80), (600, 520)])
def test_regions_are_large_and_apart(random_page, shape):
    page = random_page(*shape)
    regions = extract_regions(page)
    before = page.copy()
    figure = draw_regions(page, regions)
    factor = figure.shape[0] // shape[0]
    assert figure.dtype == np.uint8 and figure.shape == (shape[0] * factor, shape[1] * factor, 3)
    assert LEAST_SIDE <= min(figure.shape[:2]) < 2 * LEAST_SIDE
    assert np.array_equal(page, before)
    assert np.array_equal(figure, draw_regions(page, regions))


def test_thirty_two_regions_have_colours_of_their_own(random_regions):
    regions = random_regions(32, 64)._replace(background=np.zeros(32, bool))
    blank = np.full((64, 64), 255, np.uint8)
    figure = draw_regions(blank, regions)
    colors = []
    for region in range(32):
        pixels = figure[np.kron(regions.labels, np.ones((8, 8))) == region]
        values, counts = np.unique(pixels, axis=0, return_counts=True)
        shown = [
            (count, tuple(value))
            for value, count in zip(values.tolist(), counts, strict=True)
            if max(value) - min(value) > 40  # neither a number nor its outline
        ]
        if shown:  # a region of some pixels may lie wholly under its number
            colors.append(max(shown)[1])
    assert len(set(colors)) == len(colors) > 16


def test_background_is_grey(random_regions):
    regions = random_regions(5)._replace(background=np.array([True, False, False, False, False]))
    figure = draw_regions(np.full(regions.labels.shape, 255, np.uint8), regions)
    factor = len(figure) // len(regions.labels)
    inside = np.kron(regions.labels == 0, np.ones((factor, factor))) > 0
    values, counts = np.unique(figure[inside], axis=0, return_counts=True)
    assert values[counts.argmax()].tolist() == [232, 232, 232]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
def test_graphs_are_drawn_over_the_page_with_a_legend(random_page, kind):
    page = random_page()
    regions = extract_regions(page)
    graph = region_graph(regions, GraphConfig(kind))
    figure = draw_graph(page, regions, graph)
    assert figure.shape[1] == 512 and figure.shape[0] > 512 and figure.dtype == np.uint8
    names = figure[512:]
    assert (names.min() < 255) == bool((graph.senders != graph.receivers).any())


def strips(count):
    labels = np.repeat(np.arange(count, dtype=np.int32), 64 // count)[None].repeat(64, axis=0)
    return Regions(labels, count, np.zeros(count, bool))


def test_edges_of_a_kind_have_its_colour():
    regions, blank = strips(4), np.full((64, 64), 255, np.uint8)
    only = {
        kind: draw_graph(blank, regions, region_graph(regions, GraphConfig(kind)))[:512]
        for kind in ("adjacency", "knn", "radius")
    }
    red, green, orange = (200, 30, 45), (35, 145, 75), (235, 150, 20)
    assert red in colors_of(only["adjacency"]) and green not in colors_of(only["adjacency"])
    assert green in colors_of(only["knn"]) and orange in colors_of(only["radius"])


def test_a_pair_has_one_line_of_its_first_kind():
    """Adjacency precedes "knn" and "radius", which also connect the pair."""
    regions, blank = strips(2), np.full((64, 64), 255, np.uint8)
    graph = region_graph(regions)
    assert graph.edges[:, EDGE_KINDS.index("knn")].any() and graph.edges[:, 1].any()
    figure = draw_graph(blank, regions, graph)[:512]
    between = figure[:, 256]  # across the line
    (line,) = np.nonzero((between < 250).any(1))
    assert 2 <= len(line) == np.ptp(line) + 1 <= 5
    assert (200, 30, 45) in colors_of(between) and (35, 145, 75) not in colors_of(figure)


def test_colours_of_regions_are_calm_and_those_of_neighbours_apart():
    # Regions 0 and 8, 1 and 9 … touch, whose colours would be similar in the order of numbers.
    regions = strips(16)
    order = np.arange(16).reshape(2, 8).T.ravel()
    regions = regions._replace(labels=order.astype(np.int32)[regions.labels])
    colors = _region_colors(regions)
    lab = cv2.cvtColor(colors[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    assert lab[:, 0].min() > 70 and np.ptp(lab[:, 0]) < 18
    assert chroma.min() > 15 and chroma.max() < 38
    apart = np.linalg.norm(lab[:, None] - lab, axis=-1)
    assert apart[measure_regions(regions).adjacent].min() > 12
    assert apart[np.triu_indices(16, 1)].min() > 5


# Chance can put a number over most of the lines.
@pytest.mark.parametrize("rng", [np.random.default_rng(0)], ids=["fixed"])
def test_lines_are_as_sharp_as_the_page(random_page):
    page = random_page(256, 256)
    regions = extract_regions(page)._replace(labels=extract_regions(page).labels[::4, ::4])
    figure = draw_regions(page, regions)
    assert figure.shape == (512, 512, 3)
    dark = (figure.max(-1) < 60).mean()
    assert dark > 0.8 * (page < 40).mean()


def test_a_page_of_one_pixel_can_be_drawn():
    page = np.full((1, 1), 255, np.uint8)
    regions = extract_regions(page)
    assert draw_regions(page, regions).shape == (512, 512, 3)
    assert draw_graph(page, regions, region_graph(regions)).shape[1] == 512
