"""Regions on the latent grid, and pooling between regions and cells."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragaf_jax.nets.blocks import RegionSignal
from ragaf_jax.nets.layers import widened


def region_shares(
    labels: Int[Array, "b rows columns"], regions: int, grid: tuple[int, int]
) -> Float[Array, "b h w {regions}"]:
    """S_l[p, r]: the share of region r in cell p = (row, column) of an h × w latent grid.

    The one-hot label map, area-averaged; the shares of a cell sum to 1. `grid` is (h, w), which
    must divide the height and the width of the label map.
    """
    batch, (rows, columns), (height, width) = len(labels), labels.shape[1:], grid
    if rows % height or columns % width:
        raise ValueError(
            f"a label map of {rows} × {columns} does not divide into {height} × {width} cells"
        )
    cells = labels.reshape(batch, height, rows // height, width, columns // width)
    cells = cells.transpose(0, 1, 3, 2, 4).reshape(batch, height, width, -1)
    return jax.nn.one_hot(cells, regions, dtype=jnp.float32).mean(3)


def halved(shares: Float[Array, "b h w r"]) -> Float[Array, "b _ _ r"]:
    """S_l of the next coarser level, whose sides are halved and rounded up as by the UNet.

    The last cell of an odd side covers one row or column of the finer grid instead of two.
    """
    batch, height, width, regions = shares.shape
    even = jnp.pad(shares, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return even.reshape(batch, -(-height // 2), 2, -(-width // 2), 2, regions).mean((2, 4))


def flat(shares: Float[Array, "b h w r"]) -> Float[Array, "b p r"]:
    """S_l by cells in the order of attention, p = w · row + column."""
    return shares.reshape(len(shares), -1, shares.shape[-1])


def pool_regions(
    features: Float[Array, "b h w c"], shares: Float[Array, "b p r"]
) -> Float[Array, "b r c"]:
    """The mean feature over each region's area; zero for an empty region."""
    cells = widened(features.reshape(features.shape[0], -1, features.shape[-1]))
    mass = shares.sum(1)[..., None]
    return jnp.einsum("bpr,bpc->brc", shares, cells) / jnp.maximum(mass, 1e-6)


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
