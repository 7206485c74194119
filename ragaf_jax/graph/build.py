"""Builds the graph of a sketch's regions, with a bounded number of edges."""

import dataclasses
import math
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from ragaf_jax.errors import UserError
from ragaf_jax.graph.features import EDGE_FEATURES, EDGE_KINDS, edge_features, node_features
from ragaf_jax.graph.measure import Measures, measure_regions
from ragaf_jax.graph.regions import Regions

GRAPH_KINDS = ("adjacency", "containment", "knn", "radius", "hybrid")
# The kinds that use each parameter.
_USED_BY = {"k": ("knn", "hybrid"), "radius": ("radius", "hybrid")}
# Distances, in `blocks.page_side`, are rounded to this step. Equal distances on a page and its
# mirror image otherwise differ by floating-point rounding.
DISTANCE_STEP = 2.0**-20
# The marks of edges that `trim_edges` removes last.
_IMPORTANT = [EDGE_FEATURES.index(f"is_{kind}") for kind in ("self", "adjacency", "containment")]
_DISTANCE = EDGE_FEATURES.index("distance")


@dataclasses.dataclass(frozen=True)
class GraphConfig:
    """Which pairs of regions an edge connects.

    Attributes:
        kind: "adjacency", regions with a common border; "containment", a region and each one
            whose filled outline contains it; "knn", each region and its `k` nearest; "radius",
            regions within `radius`; "hybrid", all of these. Every graph has self loops.
        k: neighbours per region, by distance of the centroids.
        radius: largest distance of the centroids, in sides of a square with the page's area.
    """

    kind: Literal["adjacency", "containment", "knn", "radius", "hybrid"] = "hybrid"
    k: int = 3
    radius: float = 0.25

    def __post_init__(self):
        if self.kind not in GRAPH_KINDS:
            raise self._error("kind", f"; choose one of {', '.join(GRAPH_KINDS)}.")
        if self.k < 1:
            raise self._error("k", "; it must be at least 1.")
        if not 0 <= self.radius < math.inf:
            raise self._error("radius", "; it must be 0 or more, and finite.")
        object.__setattr__(self, "radius", float(self.radius))  # 1 and 1.0 are one graph
        for name, kinds in _USED_BY.items():
            value, default = getattr(self, name), getattr(GraphConfig, name)
            if self.kind not in kinds and value != default:
                raise self._error(
                    name,
                    f", which has no effect on the kind {self.kind!r}; leave it at {default}, or "
                    f"choose the kind {' or '.join(kinds)}.",
                )

    def _error(self, name: str, problem: str) -> UserError:
        value = getattr(self, name)
        return UserError(f"config.data.graph.{name} (--graph_{name}) is {value!r}{problem}")


DEFAULT_GRAPH = GraphConfig()


class RegionGraph(NamedTuple):
    """A page's regions as a directed graph. Every edge except self loops has its reverse."""

    nodes: Float32[np.ndarray, "n f"]  # NODE_FEATURES of region i in row i
    edges: Float32[np.ndarray, "e fe"]  # EDGE_FEATURES, sorted by sender, then receiver
    senders: Int32[np.ndarray, " e"]
    receivers: Int32[np.ndarray, " e"]


def region_graph(regions: Regions, config: GraphConfig = DEFAULT_GRAPH) -> RegionGraph:
    """The graph of a page's regions, with one node per region."""
    measures = measure_regions(regions)
    kinds = _joined_pairs(measures, config)
    senders, receivers = np.nonzero(kinds.any(0))
    return RegionGraph(
        nodes=node_features(measures),
        edges=edge_features(measures, kinds, senders, receivers),
        senders=senders.astype(np.int32),
        receivers=receivers.astype(np.int32),
    )


def _joined_pairs(measures: Measures, config: GraphConfig) -> Bool[np.ndarray, "k n n"]:
    """Symmetric pairs of regions for each of EDGE_KINDS; none for kinds that are not selected."""
    n = len(measures.area)
    distance = _centroid_distances(measures.centroid * measures.sides)
    np.fill_diagonal(distance, np.nan)  # a region is not its own neighbour
    pairs = {
        "self": lambda: np.eye(n, dtype=bool),
        "adjacency": lambda: measures.adjacent,
        "containment": lambda: measures.contained | measures.contained.T,
        "knn": lambda: _nearest(distance, config.k),
        "radius": lambda: distance <= config.radius,
    }
    selected = ("self", *(GRAPH_KINDS if config.kind == "hybrid" else (config.kind,)))
    kinds = np.zeros((len(EDGE_KINDS), n, n), bool)
    for index, kind in enumerate(EDGE_KINDS):
        if kind in selected:
            kinds[index] = pairs[kind]()
    return kinds


def _centroid_distances(centroid: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n n"]:
    x, y = centroid.T
    distance = np.hypot(x[:, None] - x, y[:, None] - y)
    return np.rint(distance / DISTANCE_STEP) * DISTANCE_STEP


def _nearest(distance: Float[np.ndarray, "n n"], k: int) -> Bool[np.ndarray, "n n"]:
    """Pairs in which one region is among the other's k nearest; larger regions win ties."""
    n = len(distance)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, : min(k, n - 1)]
    joined = np.zeros((n, n), bool)
    joined[np.arange(n)[:, None], nearest] = True
    return joined | joined.T


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
