"""α and β of regions at fixed timesteps: the balance of sketch and text in numbers."""

from typing import NamedTuple

import jraph
import numpy as np
from jaxtyping import Bool, Float, Int

from ragaf_jax.graph.features import NODE_FEATURES


class RegionBalance(NamedTuple):
    """α of the n regions of some drawings at each of L timesteps; β is 1 − α.

    Attributes:
      drawing: index of the drawing, the groups of `bootstrap_interval`.
      background: whether the region is paper around the drawing.
      alpha: the sketch's share, in 0 … 1.
    """

    drawing: Int[np.ndarray, " n"]
    background: Bool[np.ndarray, " n"]
    alpha: Float[np.ndarray, "l n"]


class Balance(NamedTuple):
    """Means over regions at each of L timesteps, and the spread.

    Attributes:
      regions: how many there are.
      alpha: of the sketch's share.
      beta: of the text's; they sum to 1.
      sd: standard deviation over regions of α, which is that of β.
    """

    regions: int
    alpha: Float[np.ndarray, " l"]
    beta: Float[np.ndarray, " l"]
    sd: Float[np.ndarray, " l"]


def region_balance(fusion: Float[np.ndarray, "l b r 2"], graph: jraph.GraphsTuple) -> RegionBalance:
    """The regions that are no padding, drawing by drawing.

    Args:
      fusion: α and β of every region at each timestep, as `reading.Reading` has them.
      graph: the region graphs, with a leading batch axis.
    """
    real = np.arange(fusion.shape[2]) < np.asarray(graph.n_node)[:, :1]
    drawing, region = np.nonzero(real)
    background = np.asarray(graph.nodes)[..., NODE_FEATURES.index("background")] > 0
    alpha = fusion[:, drawing, region, 0].astype(np.float64)
    return RegionBalance(drawing, background[drawing, region], alpha)


def balance(alpha: Float[np.ndarray, "l n"]) -> Balance | None:
    """Mean and spread over n regions, say those of the background; None where there are none."""
    if not alpha.shape[1]:
        return None
    mean = alpha.mean(1)
    return Balance(alpha.shape[1], mean, 1 - mean, alpha.std(1))
