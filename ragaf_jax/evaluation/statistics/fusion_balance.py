"""Fusion weights α and β of regions at fixed timesteps: the balance of sketch and text."""

from typing import NamedTuple

import jraph
import numpy as np
from jaxtyping import Bool, Float, Int

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


class Balance(NamedTuple):
    """Means over regions at each of L timesteps, and the standard deviation.

    Attributes:
      regions: their number.
      alpha: mean weight of the sketch.
      beta: mean weight of the text, 1 − α.
      sd: standard deviation of α, and so of β, over regions.
    """

    regions: int
    alpha: Float[np.ndarray, " l"]
    beta: Float[np.ndarray, " l"]
    sd: Float[np.ndarray, " l"]


def region_balance(fusion: Float[np.ndarray, "l b r 2"], graph: jraph.GraphsTuple) -> RegionBalance:
    """The regions without padding, by example.

    Args:
      fusion: α and β of each region at each timestep, `HeldOutTrace.fusion`.
      graph: the region graphs, with a leading batch axis.
    """
    real = np.arange(fusion.shape[2]) < np.asarray(graph.n_node)[:, :1]
    example, region = np.nonzero(real)
    background = np.asarray(graph.nodes)[..., NODE_FEATURES.index("background")] > 0
    alpha = fusion[:, example, region, 0].astype(np.float64)
    return RegionBalance(example, background[example, region], alpha)


def balance(alpha: Float[np.ndarray, "l n"]) -> Balance | None:
    """Mean and standard deviation over n regions; None for n = 0."""
    if not alpha.shape[1]:
        return None
    mean = alpha.mean(1)
    return Balance(alpha.shape[1], mean, 1 - mean, alpha.std(1))
