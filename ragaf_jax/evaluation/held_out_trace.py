"""RAGAF's attention A and fusion weights α and β on held-out examples."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ragaf_jax.batch import Batch, over_sizes
from ragaf_jax.conditioning import condition, latents_of
from ragaf_jax.diffusion.noise import example_keys, example_noise
from ragaf_jax.diffusion.schedule import Schedule, add_noise
from ragaf_jax.evaluation.networks.chunks import over_chunks
from ragaf_jax.nets.model import Model, Params
from ragaf_jax.nets.ragaf import RagafTrace
from ragaf_jax.sampling.denoising import TRACE_LEVELS


class HeldOutTrace(NamedTuple):
    """RAGAF's trace for B examples at L timesteps; rows of padding regions have no meaning.

    Attributes:
      levels: the timesteps, as shares of T.
      attention: A, each region's attention over the tokens; rows sum to 1.
      fusion: α (sketch) and β (text) of each region; they sum to 1.
    """

    levels: tuple[float, ...]
    attention: Float[np.ndarray, "l b r t"]
    fusion: Float[np.ndarray, "l b r 2"]


def make_trace(model: Model, schedule: Schedule) -> Callable[[Params, Batch, int], HeldOutTrace]:
    """A function of (parameters, held-out examples, seed) that compiles once per image size.

    RAGAF's input is the true images with noise at each of `TRACE_LEVELS`, as in training. So traces
    do not depend on sampler, guidance or Stage 1, and checkpoints can be compared. Near timestep 0
    the colours are visible in the input; the first levels show what the text alone achieves.

    An example's noise depends only on its index and the seed, and is the same at all levels. The
    UNet does not run, because its output is unused.
    """
    timesteps = [round(level * len(schedule.alpha)) for level in TRACE_LEVELS]

    @jax.jit
    def traces(params: Params, batch: Batch, noise: Float[Array, "b h w c"]) -> RagafTrace:
        count = len(batch.text.tokens)
        latents = latents_of(model, params, batch)
        conditioning = condition(model, params, batch, jnp.ones(count))

        def trace_at(timestep: Int[Array, ""]) -> RagafTrace | None:
            t = jnp.full(count, timestep)
            noisy = add_noise(schedule, latents, noise, t)
            return model.predict(params, noisy, t.astype(jnp.float32), conditioning)[1]

        levels_first = jax.lax.map(trace_at, jnp.array(timesteps))
        return jax.tree.map(lambda x: x.swapaxes(0, 1), levels_first)

    def trace(params: Params, batch: Batch, seed: int) -> HeldOutTrace:
        keys = example_keys(jax.random.key(seed), len(batch.text.tokens))

        def found(some: Batch, keys: Key[Array, " b"]) -> RagafTrace:
            size = some.sketch.shape[1:3]
            noise = example_noise(keys, model.latent_shape_of(size))
            return over_chunks(functools.partial(traces, params), some, noise)

        whole = over_sizes(found, batch, keys)
        attention, fusion = (x.swapaxes(0, 1) for x in (whole.attention, whole.fusion))
        return HeldOutTrace(TRACE_LEVELS, attention, fusion)

    return trace
