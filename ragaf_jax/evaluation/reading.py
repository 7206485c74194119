"""What RAGAF of a trained Stage 2 decides on held-out drawings: A, α and β."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ragaf_jax.batch import Batch, in_chunks
from ragaf_jax.conditioning import condition, latents_of
from ragaf_jax.diffusion.noise import example_keys, example_noise
from ragaf_jax.diffusion.schedule import Schedule, add_noise
from ragaf_jax.nets.model import Model, Params
from ragaf_jax.nets.ragaf import RagafTrace
from ragaf_jax.sampling.denoising import TRACE_LEVELS

# Drawings at a time.
CHUNK = 16


class Reading(NamedTuple):
    """What RAGAF decided for B drawings at each of L timesteps.

    Attributes:
      levels: the timesteps, as shares of T.
      attention: A, each region's attention over the tokens; rows sum to 1. Rows of padding regions
        are there, too, and mean nothing.
      fusion: α (sketch) and β (text) of each region, likewise; they sum to 1.
    """

    levels: tuple[float, ...]
    attention: Float[np.ndarray, "l b r t"]
    fusion: Float[np.ndarray, "l b r 2"]


Read = Callable[[Params, Batch, int], Reading]


def make_read(model: Model, schedule: Schedule) -> Read:
    """A function of (parameters, held-out examples, seed) that compiles once.

    RAGAF is read off the true pictures, noised to each of `TRACE_LEVELS`, at which attention
    pictures are drawn, too: on what it was trained to read, so that neither sampler, guidance nor
    Stage 1's picture has a part in the answer, and checkpoints can be compared. Near timestep 0 a
    picture shows its colours; whether words alone lead to the regions is told by the first levels.

    An example's noise depends on its place in the batch and the seed alone, and is the same at all
    levels. The UNet, of which nothing is asked, is not run.
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

        return jax.lax.map(trace_at, jnp.array(timesteps))

    def read(params: Params, batch: Batch, seed: int) -> Reading:
        noise = example_noise(
            example_keys(jax.random.key(seed), len(batch.text.tokens)), model.latent_shape
        )
        pieces, done = [], 0
        for piece, fresh in in_chunks(batch, CHUNK):
            first, count = done - fresh.start, len(piece.text.tokens)
            trace = traces(params, piece, noise[first : first + count])
            pieces.append(jax.device_get((trace.attention[:, fresh], trace.fusion[:, fresh])))
            done = first + count
        attention, fusion = (np.concatenate(x, axis=1) for x in zip(*pieces, strict=True))
        return Reading(TRACE_LEVELS, attention, fusion)

    return read
