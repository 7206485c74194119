"""Stable Diffusion's latents: a `Vae` with its scale, samples of its posterior, and tiles."""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from ragaf_jax.nets.vae import Vae


@dataclass(frozen=True)
class KlAutoencoder:
    """An `Autoencoder` of latents with about unit variance; `params` is the tree of `vae`.

    Attributes:
      vae: the network.
      tile: latents with a longer side are decoded in tiles of this side, so that memory does not
        grow with the image. Group norms and attention then cover a tile instead of the image.
      whole: latents of at most so many cells are decoded at once, also with longer sides.
    """

    vae: Vae
    tile: int = 128
    whole: int = 0

    def __post_init__(self) -> None:
        if self.tile < 4:
            raise ValueError(f"tile is {self.tile}, expected 4 or more: a quarter is overlap")

    @property
    def downscale(self) -> int:
        """2^(levels − 1)."""
        return self.vae.config.downscale

    @property
    def channels(self) -> int:
        """The network's `latent_channels`."""
        return self.vae.config.latent_channels

    def init(self, rng: PRNGKeyArray) -> Any:
        """Initial float32 parameters."""
        smallest = (1, self.downscale, self.downscale, self.vae.config.in_channels)
        return self.vae.init(rng, jnp.zeros(smallest))["params"]

    def encode(
        self, params: Any, image: Float[Array, "b s1 s2 3"], rng: Key[Array, " b"] | None = None
    ) -> Float[Array, "b h w c"]:
        """Scaled samples of q(latent | image), with a key per example; its mode without `rng`."""
        return sample_posterior(*self.moments(params, image), rng)

    def moments(
        self, params: Any, image: Float[Array, "b s1 s2 3"]
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
        """Mean and standard deviation of q(latent | image), scaled."""
        mean, log_variance = self.vae.apply({"params": params}, image, method="encode")
        scale = self.vae.config.scaling_factor
        return mean * scale, jnp.exp(0.5 * log_variance) * scale

    def decode(self, params: Any, latents: Float[Array, "b h w c"]) -> Float[Array, "b s1 s2 3"]:
        """The image, not clipped."""

        def decode(latents: Array) -> Array:
            return self.vae.apply({"params": params}, latents, method="decode")

        latents = latents / self.vae.config.scaling_factor
        height, width = latents.shape[1:3]
        if max(height, width) <= self.tile or height * width <= self.whole:
            return decode(latents)
        return decode_tiled(decode, latents, self.tile, self.downscale)


def sample_posterior(
    mean: Float[Array, "*shape"], std: Float[Array, "*shape"], rng: Key[Array, " b"] | None
) -> Float[Array, "*shape"]:
    """Samples of independent Gaussians in float32, or their mode without `rng`.

    `rng` has a key per example, so that a sample does not depend on the rest of the batch.
    """
    mean = mean.astype(jnp.float32)
    if rng is None:
        return mean
    return mean + std * jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(rng)


def decode_tiled(
    decode: Callable[[Array], Array], latents: Float[Array, "b h w c"], tile: int, scale: int
) -> Float[Array, "b {scale}*h {scale}*w o"]:
    """Decodes tiles of `tile` × `tile` latents in turn and blends them where they overlap.

    `decode` maps latents [b, m, n, c] to an image [b, scale·m, scale·n, o].
    """
    (height, width), channels = latents.shape[1:3], latents.shape[3]
    rows, columns = tile_starts(height, tile), tile_starts(width, tile)
    size = (len(latents), min(height, tile), min(width, tile), channels)

    def decode_at(corner: Array) -> Array:
        return decode(jax.lax.dynamic_slice(latents, (0, corner[0], corner[1], 0), size))

    corners = jnp.asarray(list(itertools.product(rows, columns)))
    tiles = jax.lax.map(decode_at, corners)  # one at a time, which bounds memory
    tiles = tiles.reshape(len(rows), len(columns), *tiles.shape[1:])
    overlap = tile // 4 * scale
    strips = [_join(row, columns * scale, width * scale, overlap, axis=2) for row in tiles]
    return _join(strips, rows * scale, height * scale, overlap, axis=1)


def tile_starts(side: int, tile: int) -> Int[np.ndarray, " n"]:
    """Starts of tiles that overlap by a quarter; the last is moved inward to end at `side`."""
    stride = tile - tile // 4
    count = 1 + max(0, -(-(side - tile) // stride))
    return np.minimum(np.arange(count) * stride, max(0, side - tile))


def blend_weights(
    starts: Int[np.ndarray, " n"], tile: int, side: int, overlap: int
) -> Float[np.ndarray, "n {tile}"]:
    """Weights of each tile's cells: ramps over `overlap` cells at its ends, with a sum of 1.

    The ramps are linear where exactly two tiles share `overlap` cells.
    """
    from_start = np.arange(tile) + 0.5
    ramp = np.minimum(1.0, np.minimum(from_start, from_start[::-1]) / overlap)
    cells = starts[:, None] + np.arange(tile)[None]
    total = np.zeros(side)
    np.add.at(total, cells, ramp[None])
    return (ramp[None] / total[cells]).astype(np.float32)


def _join(
    tiles: Sequence[Float[Array, "b m n o"]] | Float[Array, "t b m n o"],
    starts: Int[np.ndarray, " t"],
    side: int,
    overlap: int,
    axis: int,
) -> Float[Array, "b h w o"]:
    """Blends tiles that start at `starts` along an axis of `side` cells."""
    length = tiles[0].shape[axis]
    weights = blend_weights(starts, length, side, overlap)
    spread, margins = [1, 1, 1, 1], [(0, 0)] * 4
    spread[axis] = length
    parts = []
    for tile, start, weight in zip(tiles, starts.tolist(), weights, strict=True):
        margins[axis] = (start, side - start - length)
        parts.append(jnp.pad(tile * weight.reshape(spread), margins))
    return functools.reduce(jnp.add, parts)
