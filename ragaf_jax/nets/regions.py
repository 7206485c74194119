"""Regions on the latent grid, and pooling between regions and cells."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragaf_jax.nets.blocks import RegionSignal
from ragaf_jax.nets.layers import widened


def region_shares(
    labels: Int[Array, "b s s"], regions: int, side: int
) -> Float[Array, "b p {regions}"]:
    """S_l[p, r]: the share of region r in cell p = (row, column) of a side × side latent grid.

    The one-hot label map, area-averaged; every row sums to 1. `side` must divide the image size.
    """
    batch, size = labels.shape[:2]
    if size % side:
        raise ValueError(f"a label map of side {size} does not divide into {side} cells a side")
    cells = labels.reshape(batch, side, size // side, side, size // side)
    cells = cells.transpose(0, 1, 3, 2, 4).reshape(batch, side * side, -1)
    return jax.nn.one_hot(cells, regions, dtype=jnp.float32).mean(2)


def coarser(shares: Float[Array, "b p r"], factor: int) -> Float[Array, "b _ r"]:
    """S_l of a grid with 1/`factor` of the side, from that of the finer grid."""
    batch, cells, regions = shares.shape
    side = math.isqrt(cells) // factor
    blocks = shares.reshape(batch, side, factor, side, factor, regions)
    return blocks.mean((2, 4)).reshape(batch, side * side, regions)


def pool_regions(
    features: Float[Array, "b h w c"], shares: Float[Array, "b p r"]
) -> Float[Array, "b r c"]:
    """The mean feature over each region's area; zero for an empty region."""
    flat = widened(features.reshape(features.shape[0], -1, features.shape[-1]))
    mass = shares.sum(1)[..., None]
    return jnp.einsum("bpr,bpc->brc", shares, flat) / jnp.maximum(mass, 1e-6)


def fourier_features(x: Float[Array, "*batch f"], octaves: int) -> Float[Array, "*batch g"]:
    """x, and sin and cos of π 2^k x for k < octaves, g = f (1 + 2 octaves).

    Tancik et al., "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional
    Domains" (2020), eq. 5, with frequencies on a grid: "the left third of the page" is then nearly
    linear in the features of a centroid.
    """
    angles = jnp.einsum("...f,k->...fk", x, jnp.pi * 2.0 ** jnp.arange(octaves))
    waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
    return jnp.concatenate([x, waves.reshape(*x.shape[:-1], -1)], -1)


def place(
    signal: tuple[Float[Array, "b r c"], Float[Array, "b r t"]],
    shares: Float[Array, "b p r"],
    active: Float[Array, " b"],
) -> RegionSignal:
    """(5) A site's signal with the place of each region; `active` 0 disables an example's."""
    feature, logit_bias = signal
    return RegionSignal(shares * active[:, None, None], feature, logit_bias)
