"""The compiled functions of one stage, which the sampling loop calls."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8, UInt32

from ragaf_jax.batch import Batch
from ragaf_jax.diffusion.noise import example_keys
from ragaf_jax.diffusion.sampler_interface import SamplerState
from ragaf_jax.nets.model import Model, Params
from ragaf_jax.nets.ragaf import RagafTrace
from ragaf_jax.runtime.sharding import on_mesh
from ragaf_jax.sampling.denoising import Denoising, advance, begin, ragaf_trace, to_pixels
from ragaf_jax.sampling.sampling_config import (
    SamplingConfig,
    Scales,
    TextConditioning,
    TimestepGrid,
)

KeyData = UInt32[Array, "b words"]  # jax.random.key_data of one key per example
Pixels = UInt8[Array, "b s s 3"]
Latents = Float[Array, "b h w c"]


class StageSampler(NamedTuple):
    """Functions of a stage; each is compiled once per batch size.

    Attributes:
      sampling: their static configuration.
      encode: (params, pixels) → latents to start from.
      begin: (params, batch, keys, scales, grid, latents or None, text or None) → `Denoising`.
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

    @jax.jit
    def encode(params: Params, pixels: Pixels) -> Latents:
        return model.encode_image(params, pixels.astype(jnp.float32) / 127.5 - 1)

    @jax.jit
    def begin_(
        params: Params,
        batch: Batch,
        keys: KeyData,
        scales: Scales,
        grid: TimestepGrid,
        start: Latents | None,
        text: TextConditioning | None,
    ) -> Denoising:
        given = jax.random.wrap_key_data(keys), scales, grid
        return begin(model, sampling, params, batch, *given, start, text)

    @jax.jit
    def advance_(
        params: Params,
        denoising: Denoising,
        keys: KeyData,
        scales: Scales,
        grid: TimestepGrid,
        until: int | Int[Array, ""],
        others: SamplerState,
    ) -> Denoising:
        given = jax.random.wrap_key_data(keys), scales, grid
        return advance(model, sampling, params, denoising, *given, until, others)

    @jax.jit
    def decode(params: Params, latents: Latents) -> Pixels:
        return to_pixels(model, params, latents)

    @jax.jit
    def trace(params: Params, denoising: Denoising, keys: KeyData) -> RagafTrace | None:
        latents, conditioning = denoising.state.x, denoising.conditioning
        typed = jax.random.wrap_key_data(keys)
        return ragaf_trace(model, sampling, params, conditioning, latents, typed)

    return StageSampler(sampling, encode, begin_, advance_, decode, trace)


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
        return jax.random.key_data(
            example_keys(jax.random.split(jax.random.key(seed))[index], 1)[0]
        )

    return jax.vmap(key)(seeds)
