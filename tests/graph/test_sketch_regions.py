"""From a page to a model's inputs."""

import cv2
import numpy as np
import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.graph.build import GraphConfig, region_graph, trim_edges
from ragaf_jax.graph.padding import pad_graph
from ragaf_jax.graph.prepare import sketch_regions
from ragaf_jax.graph.regions import RegionConfig, downsample_labels, extract_regions


@pytest.mark.parametrize("side,size", [(256, 64), (128, 128), (200, 64)])
def test_parts_agree(random_page, side, size):
    page, most, budget = random_page(side, side), RegionConfig(max_regions=12), 40
    sketch, regions, graph, _ = sketch_regions(page, (size, size), most, GraphConfig(), budget)
    assert sketch.shape == regions.labels.shape == (size, size) and sketch.dtype == np.uint8
    expected = downsample_labels(extract_regions(page, most), (size, size))
    np.testing.assert_array_equal(regions.labels, expected.labels)
    for one, other in zip(graph, trim_edges(region_graph(expected), budget), strict=True):
        np.testing.assert_array_equal(one, other)
    pad_graph(graph, 13, budget)


def test_the_sketch_is_an_area_average(random_page):
    page = random_page()
    sketch = sketch_regions(page, (64, 64), RegionConfig(), GraphConfig(), 400).sketch
    average = page.reshape(64, 4, 64, 4).mean((1, 3))
    assert np.abs(sketch - average).max() <= 0.5


def test_the_fullest_page_fits_its_budget():
    page = np.full((256, 256), 255, np.uint8)
    for line in range(8, 256, 30):
        cv2.line(page, (line, 0), (line, 255), 0, 3)
        cv2.line(page, (0, line), (255, line), 0, 3)
    _, regions, graph, _ = sketch_regions(page, (64, 64), RegionConfig(), GraphConfig(), 192)
    assert regions.n == 32 and len(graph.senders) <= 192


def test_regions_beyond_the_budget_are_counted():
    page = np.full((256, 256), 255, np.uint8)
    for line in range(32, 256, 32):
        cv2.line(page, (line, 0), (line, 255), 0, 3)
        cv2.line(page, (0, line), (255, line), 0, 3)
    made = sketch_regions(page, (64, 64), RegionConfig(), GraphConfig(), 192)
    assert (made.found, made.regions.n) == (8 * 8, RegionConfig().max_regions)


def test_a_page_within_its_budget_has_the_regions_that_were_found(random_page):
    made = sketch_regions(
        random_page(), (64, 64), RegionConfig(max_regions=200), GraphConfig(), 400
    )
    assert made.found == made.regions.n


@pytest.mark.parametrize("shape", [(64, 65), (32, 32)])
def test_other_pages_are_refused(shape):
    with pytest.raises(UserError, match="proportions of 64 × 64 pixels and at least"):
        sketch_regions(np.zeros(shape, np.uint8), (64, 64), RegionConfig(), GraphConfig(), 192)
