"""Statistics of the region graphs of a batch."""

from typing import NamedTuple

import jraph
import numpy as np
from jaxtyping import Int

from ragaf_jax.graph.features import EDGE_FEATURES, EDGE_KINDS
from ragaf_jax.graph.regions import RegionConfig

_KINDS = [EDGE_FEATURES.index(f"is_{kind}") for kind in EDGE_KINDS]


class GraphStatistics(NamedTuple):
    """Counts for each of B examples, without padding.

    Attributes:
      regions: nodes of the graph.
      edges: directed edges, including self loops.
      kinds: edges of each of `EDGE_KINDS`; an edge of several kinds counts for each.
      merged: regions beyond `RegionConfig.max_regions`, which were merged; None if unknown.
    """

    regions: Int[np.ndarray, " b"]
    edges: Int[np.ndarray, " b"]
    kinds: Int[np.ndarray, "b k"]
    merged: Int[np.ndarray, " b"] | None


def graph_statistics(
    graph: jraph.GraphsTuple, regions_found: Int[np.ndarray, " b"] | None
) -> GraphStatistics:
    """Counts of padded graphs with a leading batch axis; `regions_found` as in `Truth`."""
    n_node, n_edge = np.asarray(graph.n_node)[:, 0], np.asarray(graph.n_edge)[:, 0]
    features = np.asarray(graph.edges)
    real = np.arange(features.shape[1]) < n_edge[:, None]
    kinds = (features[..., _KINDS] > 0) & real[..., None]
    merged = None
    if regions_found is not None:
        merged = np.maximum(regions_found - RegionConfig().max_regions, 0)
    return GraphStatistics(n_node, n_edge, kinds.sum(1), merged)
