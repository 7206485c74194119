"""Scores images against their ground truth by the metrics that need no network."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import jraph
import numpy as np
from jaxtyping import Float, Int, Real, Shaped, UInt8
from tqdm import tqdm

from ragaf_jax.batch import Truth
from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.metrics.attention import AttentionScores
from ragaf_jax.evaluation.metrics.edges import edge_f1
from ragaf_jax.evaluation.metrics.graph_statistics import graph_statistics
from ragaf_jax.evaluation.metrics.leakage import leakage
from ragaf_jax.evaluation.metrics.similarity import ms_ssim, psnr, ssim
from ragaf_jax.evaluation.metrics.sketch_fidelity import (
    Extract,
    edge_map_ssim,
    line_distance,
    region_agreement,
)
from ragaf_jax.evaluation.registry import not_computed
from ragaf_jax.graph.features import EDGE_KINDS
from ragaf_jax.palette import PALETTE

T = TypeVar("T")
Pictures = UInt8[np.ndarray, "b s s 3"]


class Values(NamedTuple):
    """One number for each of n drawings, or of n of their parts or regions.

    Attributes:
      value: nan or ∞ where it is not defined.
      drawing: index of the drawing.
      item: the part or region in it; 0 for a drawing as a whole.
      chance: what a blind guess would have; None where that is not known.
    """

    value: Float[np.ndarray, " n"]
    drawing: Int[np.ndarray, " n"]
    item: Int[np.ndarray, " n"]
    chance: Float[np.ndarray, " n"] | None = None


# By metric, each a name in `METRICS`; of what is missing, a sentence that says why.
Scores = dict[str, Values]
Missing = dict[str, str]


def of_drawings(values: Real[np.ndarray, " b"]) -> Values:
    """One value a drawing."""
    count = len(values)
    return Values(values.astype(np.float64), np.arange(count), np.zeros(count, np.int64))


def attempted(computations: Mapping[str, Callable[[], T]]) -> tuple[dict[str, T], Missing]:
    """Every metric that can be computed, and why the others cannot."""
    found, missing = {}, {}
    for name, compute in computations.items():
        try:
            found[name] = compute()
        except UserError as error:
            missing[name] = not_computed(name, str(error))
    return found, missing


def score_pictures(pictures: Pictures, truth: Truth, extract: Extract) -> tuple[Scores, Missing]:
    """How the pictures keep to their sketches, and how like they are to the true ones.

    Args:
      pictures: of the drawings of `truth`, in its order.
      truth: what is true of them.
      extract: as in `sketch_fidelity.edge_maps`.
    """
    rows = []
    pairs = zip(pictures, truth.sketch_u8, strict=True)
    for pair in tqdm(pairs, "lines", len(pictures), unit=" drawings", leave=False, delay=2):
        precision, recall, f1 = edge_f1(*pair)
        regions = region_agreement(*pair)
        distance = line_distance(*pair).pixels
        rows.append((f1, precision, recall, distance, regions.iou, regions.covering))
    lines = ("edge_f1", "edge_precision", "edge_recall", "line_distance")
    columns = (
        *lines,
        "region_iou",
        "region_covering",
    )
    table = np.array(rows, np.float64).reshape(-1, len(columns)).T
    scores = {name: of_drawings(column) for name, column in zip(columns, table, strict=True)}
    true = truth.image_u8
    others, missing = attempted(
        {
            "edge_map_ssim": lambda: of_drawings(edge_map_ssim(pictures, true, extract)),
            "ssim": lambda: of_drawings(ssim(pictures, true)),
            "ms_ssim": lambda: of_drawings(ms_ssim(pictures, true)),
            "psnr": lambda: of_drawings(psnr(pictures, true)),
        }
    )
    return scores | others, missing


def parts_known(truth: Truth) -> bool:
    """Whether it is known of any part which colour was asked of it."""
    return bool((truth.true_colors >= 0).any())


def score_parts(pictures: Pictures, truth: Truth) -> Scores:
    """The colours of parts; nothing where none is known."""
    if not parts_known(truth):
        return {}
    found = leakage(pictures, truth)

    def of_parts(
        values: Shaped[np.ndarray, " n"], chance: Float[np.ndarray, " n"] | None = None
    ) -> Values:
        return Values(values.astype(np.float64), found.drawing, found.part, chance)

    right = found.requested == found.obtained
    return {
        "color_accuracy": of_parts(right, np.full(len(right), 1 / len(PALETTE))),
        "color_difference": of_parts(found.difference),
        "leak_near": of_parts(found.near, found.near_chance),
        "leak_far": of_parts(found.far, found.far_chance),
    }


def attention_values(scores: AttentionScores) -> Scores:
    """What is judged of regions; nothing where none is."""
    if not len(scores.region):
        return {}
    return {
        f"attention_{name}": Values(
            getattr(scores, name), scores.drawing, scores.region, getattr(scores, f"{name}_chance")
        )
        for name in ("phrase", "color", "pointing")
    }


def graph_values(graph: jraph.GraphsTuple, truth: Truth) -> Scores:
    """Counts of regions and edges of each drawing."""
    found = graph_statistics(graph, truth.regions_found)
    counts = {"graph_regions": found.regions, "graph_edges": found.edges}
    counts |= {f"graph_{kind}": found.kinds[:, i] for i, kind in enumerate(EDGE_KINDS)}
    if found.merged is not None:
        counts["graph_merged"] = found.merged
    return {name: of_drawings(column) for name, column in counts.items()}
