"""Counts of graphs are those before padding."""

import numpy as np
from fakes import random_graph, random_labels

from ragaf_jax.batch import stacked
from ragaf_jax.evaluation.metrics.graph_statistics import graph_statistics
from ragaf_jax.graph.build import GraphConfig, region_graph
from ragaf_jax.graph.features import EDGE_FEATURES, EDGE_KINDS
from ragaf_jax.graph.padding import pad_graph
from ragaf_jax.graph.regions import RegionConfig, Regions


def test_padding_is_not_counted(rng):
    sizes = rng.integers(1, 8, 6)
    pages = [random_labels(rng, 16, int(n)) for n in sizes]
    graphs = [
        region_graph(Regions(page, int(n), np.zeros(n, bool)), GraphConfig())
        for page, n in zip(pages, sizes, strict=True)
    ]
    padded = stacked([pad_graph(graph, 12, 100) for graph in graphs])
    found = graph_statistics(padded, None)
    assert found.merged is None
    assert found.regions.tolist() == sizes.tolist()
    assert found.edges.tolist() == [len(graph.senders) for graph in graphs]
    for place, kind in enumerate(EDGE_KINDS):
        column = EDGE_FEATURES.index(f"is_{kind}")
        expected = [int(graph.edges[:, column].sum()) for graph in graphs]
        assert found.kinds[:, place].tolist() == expected
    assert found.kinds[:, EDGE_KINDS.index("self")].tolist() == sizes.tolist()
    wider = stacked([pad_graph(graph, 20, 130) for graph in graphs])
    for one, other in zip(graph_statistics(wider, None), found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_regions_beyond_the_budget_are_merged(rng):
    page = random_labels(rng, 16, 4)
    graph = stacked([random_graph(page, 9, 64)] * 4)
    most = RegionConfig().max_regions
    counts = np.array([1, most, most + 1, most + 30], np.int32)
    assert graph_statistics(graph, counts).merged.tolist() == [0, 0, 1, 30]
