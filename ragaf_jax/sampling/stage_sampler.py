"""The compiled functions of one stage, which the sampling loop calls."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8, UInt32

from ragaf_jax.diffusion.noise import example_keys
from ragaf_jax.nets.model import Model, Params
from ragaf_jax.nets.ragaf import RagafTrace
from ragaf_jax.runtime.sharding import on_mesh
from ragaf_jax.sampling.denoising import Denoising, KeyData, advance, begin, ragaf_trace, to_pixels
from ragaf_jax.sampling.sampling_config import SamplingConfig

Pixels = UInt8[Array, "b _ _ 3"]
Latents = Float[Array, "b h w c"]


class StageSampler(NamedTuple):
    """Functions of a stage; each is compiled once per batch size and image size.

    Attributes:
      sampling: their static configuration.
      encode: (params, pixels) → latents to start from.
      begin: (params, batch, keys, scales, grid, latents or None, text or None, control images) →
        `Denoising`.
      advance: (params, denoising, keys, scales, grid, until, others' state) → `Denoising`.
      decode: (params, latents) → pixels.
      trace: (params, denoising, keys) → RAGAF's trace; None without RAGAF.
    """

    sampling: SamplingConfig
    encode: Callable[[Params, Pixels], Latents]
    begin: Callable[..., Denoising]
    advance: Callable[..., Denoising]
    decode: Callable[[Params, Latents], Pixels]
    trace: Callable[[Params, Denoising, KeyData], RagafTrace | None]

    def on_mesh(self, mesh: Mesh) -> "StageSampler":
        """The same functions, compiled for the devices of a mesh."""
        return StageSampler(self.sampling, *(on_mesh(mesh, function) for function in self[1:]))


def make_stage_sampler(model: Model, sampling: SamplingConfig) -> StageSampler:
    """The functions of one stage."""

    def encode(params: Params, pixels: Pixels) -> Latents:
        return model.encode_image(params, pixels.astype(jnp.float32) / 127.5 - 1)

    static = model, sampling
    return StageSampler(
        sampling,
        encode=jax.jit(encode),
        begin=jax.jit(functools.partial(begin, *static)),
        advance=jax.jit(functools.partial(advance, *static)),
        decode=jax.jit(functools.partial(to_pixels, model)),
        trace=jax.jit(functools.partial(ragaf_trace, *static)),
    )


def batch_keys(key: PRNGKeyArray, count: int) -> UInt32[np.ndarray, "{count} words"]:
    """Keys of a batch's examples, by position."""
    return np.asarray(jax.random.key_data(example_keys(key, count)))


def key_shapes(count: int) -> jax.ShapeDtypeStruct:
    """The shape of the keys of `count` examples."""
    return jax.eval_shape(lambda: jax.random.key_data(example_keys(jax.random.key(0), count)))


def seed_keys(seeds: UInt32[np.ndarray, " b"], stage: int) -> UInt32[np.ndarray, "b words"]:
    """Keys of requests from their seeds; the two stages have different noise for the same seed."""
    return np.asarray(_seed_keys(seeds, stage - 1))


@jax.jit
def _seed_keys(seeds: UInt32[Array, " b"], index: int | Int[Array, ""]) -> KeyData:
    def key(seed: UInt32[Array, ""]) -> UInt32[Array, " words"]:
        stages = jax.random.split(jax.random.key(seed))
        return jax.random.key_data(example_keys(stages[index], 1)[0])

    return jax.vmap(key)(seeds)
