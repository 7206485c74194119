"""Removes the least important edges of graphs with more than `max_edges`."""

import numpy as np
from jaxtyping import Int

from ragaf_jax.errors import UserError
from ragaf_jax.graph.build import DISTANCE_STEP, RegionGraph
from ragaf_jax.graph.features import EDGE_FEATURES

_IMPORTANT = [EDGE_FEATURES.index(f"is_{kind}") for kind in ("self", "adjacency", "containment")]
_DISTANCE = EDGE_FEATURES.index("distance")


def trim_edges(graph: RegionGraph, max_edges: int) -> RegionGraph:
    """The graph with at most `max_edges` edges.

    Self loops are most important, then adjacency, then containment, then other edges; nearer
    regions come first. An edge and its reverse stay or go together, and the order is preserved.

    Raises:
        UserError: there are more self loops than `max_edges`.
    """
    if len(graph.nodes) > max_edges:
        raise UserError(
            f"max_edges is {max_edges}, fewer than the {len(graph.nodes)} regions, which need one "
            "self loop each: raise max_edges or lower max_regions"
        )
    if len(graph.senders) <= max_edges:
        return graph
    ranked = _ranked_edges(graph)
    last, first_removed = ranked[max_edges - 1 : max_edges + 1]
    halves_a_pair = (
        graph.senders[last] == graph.receivers[first_removed]
        and graph.receivers[last] == graph.senders[first_removed]
    )
    keep = np.sort(ranked[: max_edges - halves_a_pair])
    return RegionGraph(graph.nodes, graph.edges[keep], graph.senders[keep], graph.receivers[keep])


def _ranked_edges(graph: RegionGraph) -> Int[np.ndarray, " e"]:
    """Edges from most to least important, each next to its reverse."""
    marks = graph.edges[:, _IMPORTANT] > 0
    rank = np.where(marks.any(1), marks.argmax(1), len(_IMPORTANT))
    distance = np.rint(graph.edges[:, _DISTANCE] / DISTANCE_STEP)
    lower = np.minimum(graph.senders, graph.receivers)
    upper = np.maximum(graph.senders, graph.receivers)
    return np.lexsort((graph.senders, upper, lower, distance, rank))
