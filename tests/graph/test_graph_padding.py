"""Padding by jraph's convention, and trimming of excess edges."""

import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from ragaf_jax.batch import stacked
from ragaf_jax.errors import UserError
from ragaf_jax.graph.build import GRAPH_KINDS, GraphConfig, RegionGraph, region_graph, trim_edges
from ragaf_jax.graph.features import EDGE_FEATURES
from ragaf_jax.graph.padding import pad_graph


def unpadded(graph):
    return jraph.GraphsTuple(
        nodes=jnp.asarray(graph.nodes),
        edges=jnp.asarray(graph.edges),
        senders=jnp.asarray(graph.senders),
        receivers=jnp.asarray(graph.receivers),
        n_node=jnp.array([len(graph.nodes)]),
        n_edge=jnp.array([len(graph.senders)]),
        globals=None,
    )


@pytest.mark.parametrize("kind", GRAPH_KINDS)
def test_padding_is_that_of_jraph(rng, random_regions, kind):
    graph = region_graph(random_regions(int(rng.integers(2, 20))), GraphConfig(kind))
    n, e = len(graph.nodes), len(graph.senders)
    max_nodes, max_edges = n + int(rng.integers(1, 9)), e + int(rng.integers(0, 9))
    padded = pad_graph(graph, max_nodes, max_edges)
    expected = jraph.pad_with_graphs(unpadded(graph), max_nodes, max_edges, 2)
    for name in jraph.GraphsTuple._fields[:2] + ("senders", "receivers", "n_node", "n_edge"):
        ours = getattr(padded, name)
        assert isinstance(ours, np.ndarray)
        assert ours.dtype == (np.float32 if name in ("nodes", "edges") else np.int32)
        np.testing.assert_array_equal(ours, getattr(expected, name))
    assert padded.globals is None
    assert (padded.senders[e:] >= n).all() and (padded.receivers[e:] >= n).all()
    assert (padded.senders < max_nodes).all()


def test_stacking_adds_a_batch_axis(random_regions):
    graphs = [pad_graph(region_graph(random_regions(n)), 13, 200) for n in (3, 7, 12)]
    batch = stacked(graphs)
    assert batch.nodes.shape[:2] == (3, 13) and batch.edges.shape[:2] == (3, 200)
    assert batch.n_node.shape == batch.n_edge.shape == (3, 2) and batch.globals is None
    for index, graph in enumerate(graphs):
        for name in ("nodes", "edges", "senders", "receivers", "n_node", "n_edge"):
            np.testing.assert_array_equal(getattr(batch, name)[index], getattr(graph, name))


def test_a_graph_beyond_the_budget_is_refused(random_regions):
    graph = region_graph(random_regions(8))
    e = len(graph.senders)
    with pytest.raises(UserError, match="8 regions and max_nodes is 8"):
        pad_graph(graph, 8, e)
    with pytest.raises(UserError, match=f"{e} edges and max_edges is {e - 1}"):
        pad_graph(graph, 9, e - 1)


def rank(edges):
    """0 self loop, 1 adjacency, 2 containment, 3 the rest."""
    marks = edges[:, [EDGE_FEATURES.index(f"is_{k}") for k in ("self", "adjacency", "containment")]]
    return np.where(marks.any(1), marks.argmax(1), 3)


def test_trimming_keeps_the_important_and_near(rng, random_regions):
    full = region_graph(random_regions(32, 64))
    distance = full.edges[:, EDGE_FEATURES.index("distance")]
    everything = [*zip(full.senders.tolist(), full.receivers.tolist(), strict=True)]
    for budget in (32, 33, *rng.integers(34, len(everything), 6).tolist(), len(everything)):
        graph = trim_edges(full, budget)
        kept = [*zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True)]
        assert budget - 1 <= len(kept) <= budget
        assert [pair for pair in everything if pair in set(kept)] == kept  # order kept
        assert {(j, i) for i, j in kept} == set(kept)
        rows = [everything.index(pair) for pair in kept]
        np.testing.assert_array_equal(graph.edges, full.edges[rows])
        gone = np.setdiff1d(np.arange(len(everything)), rows)
        if len(gone):
            worth = 10 * rank(full.edges) + distance  # distances are below 2
            assert worth[rows].max() <= worth[gone].min() + 1e-6
        assert graph.nodes is full.nodes
        pad_graph(graph, 33, budget)


def test_trimming_keeps_an_adjacency_rather_than_a_nearer_containment():
    edges = np.zeros((7, len(EDGE_FEATURES)), np.float32)
    senders, receivers = np.array([0, 1, 2, 0, 1, 0, 2]), np.array([0, 1, 2, 1, 0, 2, 0])
    for kind, distance, rows in (
        ("self", 0.0, [0, 1, 2]),
        ("adjacency", 0.5, [3, 4]),
        ("containment", 0.1, [5, 6]),
    ):
        edges[rows, EDGE_FEATURES.index(f"is_{kind}")] = 1
        edges[rows, EDGE_FEATURES.index("distance")] = distance
    full = RegionGraph(np.zeros((3, 4), np.float32), edges, senders, receivers)
    kept = trim_edges(full, 5)
    assert [*zip(kept.senders, kept.receivers, strict=True)][3:] == [(0, 1), (1, 0)]


def test_trimming_is_of_the_pairs_not_of_their_places(rng, random_regions):
    full = region_graph(random_regions(16))
    order = rng.permutation(len(full.edges))
    shuffled = full._replace(
        edges=full.edges[order], senders=full.senders[order], receivers=full.receivers[order]
    )

    def pairs(graph):
        return set(zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True))

    assert 16 < 60 < len(full.edges)
    assert pairs(trim_edges(shuffled, 60)) == pairs(trim_edges(full, 60))


def test_fewer_edges_than_self_loops_are_refused(random_regions):
    with pytest.raises(UserError, match="max_edges is 7, fewer than the 8 regions"):
        trim_edges(region_graph(random_regions(8)), 7)
