"""Pads graphs to fixed sizes by jraph's convention."""

import jraph
import numpy as np

from ragaf_jax.errors import UserError
from ragaf_jax.graph.build import RegionGraph


def pad_graph(graph: RegionGraph, max_nodes: int, max_edges: int) -> jraph.GraphsTuple:
    """This graph and a padding graph, with R = `max_nodes` and E = `max_edges` in all.

    Returns:
        NumPy `nodes` f32[R, F], `edges` f32[E, Fe], `senders` and `receivers` i32[E], `n_node`
        [n, R − n], `n_edge` [e, E − e], no globals. Padding features are zero, and padding edges
        are self loops of the first padding node.

    Raises:
        UserError: the graph has R nodes or more (padding needs one), or more than E edges.
    """
    n, e = len(graph.nodes), len(graph.senders)
    if n >= max_nodes:
        raise UserError(
            f"a region graph has {n} regions and max_nodes is {max_nodes}, including one for "
            f"padding: raise max_nodes to at least {n + 1} or lower max_regions"
        )
    if e > max_edges:
        raise UserError(
            f"a region graph has {e} edges and max_edges is {max_edges}: raise max_edges or "
            "trim the graph"
        )
    return jraph.GraphsTuple(
        nodes=_extended(graph.nodes, max_nodes, 0),
        edges=_extended(graph.edges, max_edges, 0),
        senders=_extended(graph.senders, max_edges, n),
        receivers=_extended(graph.receivers, max_edges, n),
        n_node=np.array([n, max_nodes - n], np.int32),
        n_edge=np.array([e, max_edges - e], np.int32),
        globals=None,
    )


def _extended(array: np.ndarray, length: int, value: int) -> np.ndarray:
    extended = np.full((length, *array.shape[1:]), value, array.dtype)
    extended[: len(array)] = array
    return extended
