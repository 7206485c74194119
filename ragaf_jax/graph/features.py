"""Node and edge features of region graphs, of magnitude near 1."""

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from ragaf_jax.graph.measure import Measures

# In the order of the edge features that mark them.
EDGE_KINDS = ("self", "adjacency", "containment", "knn", "radius")

NODE_FEATURES = (
    "centroid_x",  # share of the page's width
    "centroid_y",  # share of the page's height, downwards
    "box_x0",
    "box_y0",
    "box_x1",
    "box_y1",
    "area",  # share of the page
    "perimeter",  # share of the length of the frame of a square with the page's area
    "compactness",  # 1 for a disc, near 0 for thin or ragged regions
    "background",  # 0 or 1
)
EDGE_FEATURES = (
    *(f"is_{kind}" for kind in EDGE_KINDS),  # 0 or 1; a hybrid graph's edges can have several
    "offset_x",  # from the sender's centroid to the receiver's, in `blocks.page_side`
    "offset_y",
    "distance",  # length of the offset
    "shared_boundary",  # as the perimeter
    "log_area_ratio",  # ln(receiver's area / sender's area)
)


def node_features(measures: Measures) -> Float32[np.ndarray, "n f"]:
    """NODE_FEATURES of every region."""
    scalars = (measures.area, measures.perimeter, measures.compactness, measures.background)
    columns = [measures.centroid, measures.box, *(scalar[:, None] for scalar in scalars)]
    return np.concatenate(columns, axis=1).astype(np.float32)


def edge_features(
    measures: Measures,
    kinds: Bool[np.ndarray, "k n n"],
    senders: Int[np.ndarray, " e"],
    receivers: Int[np.ndarray, " e"],
) -> Float32[np.ndarray, "e fe"]:
    """EDGE_FEATURES of every edge; `kinds` are the pairs that each of EDGE_KINDS connects."""
    offset = (measures.centroid[receivers] - measures.centroid[senders]) * measures.sides
    columns = [
        kinds[:, senders, receivers].T,
        offset,
        np.hypot(offset[:, 0], offset[:, 1])[:, None],
        measures.shared_boundary[senders, receivers][:, None],
        np.log(measures.area[receivers] / measures.area[senders])[:, None],
    ]
    return np.concatenate(columns, axis=1).astype(np.float32)


def flip_nodes(nodes: Float[np.ndarray, "*n f"]) -> Float[np.ndarray, "*n f"]:
    """The node features of the page mirrored left to right."""
    x, x0, x1 = (NODE_FEATURES.index(name) for name in ("centroid_x", "box_x0", "box_x1"))
    flipped = nodes.copy()
    flipped[..., [x, x0, x1]] = 1 - nodes[..., [x, x1, x0]]
    return flipped


def flip_edges(edges: Float[np.ndarray, "*e fe"]) -> Float[np.ndarray, "*e fe"]:
    """The edge features of the page mirrored left to right."""
    flipped = edges.copy()
    flipped[..., EDGE_FEATURES.index("offset_x")] *= -1
    return flipped
