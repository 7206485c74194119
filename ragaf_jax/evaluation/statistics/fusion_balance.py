"""Fusion weights α and β of regions at fixed timesteps: the balance of sketch and text."""

from collections.abc import Sequence
from typing import NamedTuple

import jraph
import numpy as np
from jaxtyping import Bool, Float, Int

from ragaf_jax.evaluation.statistics.bootstrap import bootstrap_interval
from ragaf_jax.evaluation.statistics.summary import Json
from ragaf_jax.graph.features import NODE_FEATURES


class RegionBalance(NamedTuple):
    """α of n regions at each of L timesteps; β is 1 − α.

    Attributes:
      drawing: index of the example, the groups of `bootstrap_interval`.
      background: whether the region is background.
      alpha: the sketch's weight, in 0 … 1.
    """

    drawing: Int[np.ndarray, " n"]
    background: Bool[np.ndarray, " n"]
    alpha: Float[np.ndarray, "l n"]


def region_balance(fusion: Float[np.ndarray, "l b r 2"], graph: jraph.GraphsTuple) -> RegionBalance:
    """The regions without padding, by example.

    fusion: `HeldOutTrace.fusion`. graph: the region graphs, with a leading batch axis.
    """
    real = np.arange(fusion.shape[2]) < np.asarray(graph.n_node)[:, :1]
    example, region = np.nonzero(real)
    background = np.asarray(graph.nodes)[..., NODE_FEATURES.index("background")] > 0
    alpha = fusion[:, example, region, 0].astype(np.float64)
    return RegionBalance(example, background[example, region], alpha)


def fusion_summary(regions: RegionBalance, levels: Sequence[float]) -> Json:
    """α at each timestep of "levels" for "all" regions, the "background" and the rest, "drawn".

    For each kind: the number of "regions", "alpha" with (mean, low, high) per level, and "sd", the
    standard deviation over regions; β is 1 − α. Kinds without regions are left out.
    """
    kinds: dict[str, Bool[np.ndarray, " n"]] = {
        "all": np.ones_like(regions.background),
        "background": regions.background,
        "drawn": ~regions.background,
    }
    found: Json = {"levels": list(levels)}
    for kind, mask in kinds.items():
        if not mask.any():
            continue
        alphas, drawing = regions.alpha[:, mask], regions.drawing[mask]
        found[kind] = {
            "regions": int(mask.sum()),
            "alpha": [
                list(bootstrap_interval(alpha, drawing, rng=np.random.default_rng(0)))
                for alpha in alphas
            ],
            "sd": alphas.std(1).tolist(),
        }
    return found
