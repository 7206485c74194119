"""From conditions and noise to latents: the sampling loop of one stage, a pure function."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ragaf_jax.batch import Batch
from ragaf_jax.diffusion.guidance import guided
from ragaf_jax.diffusion.prediction import to_x0
from ragaf_jax.diffusion.samplers import FINITE_SNR, SAMPLERS, example_noise, spacing_of
from ragaf_jax.diffusion.schedule import Schedule, add_noise, finite_snr
from ragaf_jax.diffusion.timesteps import Spacing, timestep_grid
from ragaf_jax.errors import UserError
from ragaf_jax.nets.model import Conditioning, Model, Params
from ragaf_jax.nets.ragaf import RagafTrace
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training.setup import schedule_of

# Timesteps, as shares of T, at which RAGAF's decisions are read off.
TRACE_LEVELS = (0.9, 0.7, 0.5, 0.3, 0.1)


class Settings(NamedTuple):
    """What may change from call to call without compiling again.

    Attributes:
      guidance: scale of the text; 1 is the plain conditional model.
      sketch_guidance: scale of the sketch and its regions; 1 likewise. None is 1, at a third less
        work: a step evaluates the networks for two conditions instead of three. To go from None to
        a number or back compiles again.
      guidance_until: below this share of T both scales count as 1.
      strength: how far a given picture is noised: 0 not at all, 1 wholly.
    """

    guidance: float | Float[Array, ""]
    sketch_guidance: float | Float[Array, ""] | None
    guidance_until: float | Float[Array, ""] = 0.0
    strength: float | Float[Array, ""] = 1.0


@dataclass(frozen=True)
class Process:
    """How a stage was trained to denoise and how it is to be sampled: all that is static.

    Attributes:
      schedule: noise of every timestep.
      prediction: what the UNet predicts.
      sampler: a name in `diffusion.samplers.SAMPLERS`.
      spacing: which timesteps it evaluates.
      steps: denoising steps.
      empty_tokens: the tokens of the empty prompt.
      empty_mask: which of them are not padding.
    """

    schedule: Schedule
    prediction: str
    sampler: str
    spacing: Spacing
    steps: int
    empty_tokens: Int[np.ndarray, " t"]
    empty_mask: Bool[np.ndarray, " t"]


def process_of(
    config: ml_collections.ConfigDict,
    tokenizer: Tokenizer,
    sampler: str | None = None,
    steps: int | None = None,
) -> Process:
    """How to sample what `config` trained: as it says, unless told otherwise.

    Raises:
      UserError: an unknown sampler, or timesteps that the schedule does not have.
    """
    name, fields = sampler or config.sample.sampler, config.diffusion
    if name not in SAMPLERS:
        raise UserError(f"The sampler is {name!r}; choose one of {', '.join(SAMPLERS)}.")
    steps = steps or config.sample.steps
    spacing = spacing_of(
        name, fields.timestep_spacing, fields.steps_offset, fields.set_alpha_to_one
    )
    timestep_grid(fields.steps, steps, spacing=spacing)  # refuses what does not fit
    schedule = schedule_of(config)
    if fields.prediction == "v_prediction" and name in FINITE_SNR:
        # As diffusers samples v. "sample" is ours, and needs no such care where alpha is 0.
        schedule = finite_snr(schedule)
    tokens, mask = tokenizer.encode([""], config.data.text_length)
    return Process(schedule, fields.prediction, name, spacing, steps, tokens[0], mask[0])


def stacked_conditions(
    model: Model, process: Process, params: Params, batch: Batch, kinds: int
) -> Conditioning:
    """The last `kinds` of (nothing), (sketch), (sketch and text), stacked on the batch axis."""
    count = batch.tokens.shape[0]
    empty = jnp.broadcast_to(process.empty_tokens, batch.tokens.shape)
    empty_mask = jnp.broadcast_to(process.empty_mask, batch.token_mask.shape)
    states = model.encode_text(params, jnp.concatenate([empty[:1], batch.tokens]))
    unconditional = [jnp.broadcast_to(states[:1], states[1:].shape)] * (kinds - 1)
    shown = jnp.repeat(jnp.array([0.0, 1.0, 1.0][-kinds:]), count)
    regions = None
    if model.ragaf is not None:
        regions = model.locate(
            jnp.concatenate([batch.labels] * kinds),
            jax.tree.map(lambda x: jnp.concatenate([x] * kinds), batch.graph),
            jnp.concatenate([empty_mask] * (kinds - 1) + [batch.token_mask]),
            shown,
        )
    return Conditioning(
        jnp.concatenate([*unconditional, states[1:]]),
        jnp.concatenate([batch.sketch] * kinds) * shown[:, None, None, None],
        regions,
    )


def generate(
    model: Model,
    process: Process,
    params: Params,
    batch: Batch,
    rng: PRNGKeyArray,
    settings: Settings,
    start: Float[Array, "b h w c"] | None = None,
) -> tuple[Float[Array, "b h w c"], RagafTrace | None]:
    """Samples one latent an example.

    Args:
      model: static.
      process: static.
      params: the stage's parameters.
      batch: sketches, regions and text; its images are not read.
      rng: the seed's key; what it draws for an example depends on the example's place alone.
      settings: scales and strength, traced.
      start: latents to begin from, noised to `settings.strength`; without it, pure noise.

    Returns:
      Clean latents; and RAGAF's trace on them, noised to each of `TRACE_LEVELS`, on a leading axis.
    """
    schedule, count = process.schedule, batch.tokens.shape[0]
    steps = schedule.alpha.shape[0]
    noise = example_noise(rng, count, model.latent_shape)
    kinds = 2 if settings.sketch_guidance is None else 3
    conditioning = stacked_conditions(model, process, params, batch, kinds)

    def denoise(x: Float[Array, "b h w c"], t: Int[Array, " b"]) -> Float[Array, "b h w c"]:
        prediction, _ = model.predict(params, x, t.astype(jnp.float32), conditioning)
        return to_x0(process.prediction, schedule, prediction.astype(jnp.float32), x, t)

    strength = 1.0 if start is None else settings.strength
    timesteps, x = timestep_grid(steps, process.steps, strength, process.spacing), noise
    if start is not None:
        x = add_noise(schedule, start, noise, jnp.full(count, timesteps[0]))
    until = settings.guidance_until * steps
    denoiser = guided(denoise, settings.guidance, settings.sketch_guidance, until)
    # A number that no example has: its key is not one that `example_noise` has used above.
    key = jax.random.fold_in(rng, 2**32 - 1)
    latents = SAMPLERS[process.sampler](denoiser, x, schedule, timesteps, key)
    if start is not None:
        latents = jnp.where(settings.strength > 0, latents, start)
    if model.ragaf is None:
        return latents, None

    conditional = jax.tree.map(lambda x: x[-count:], conditioning)

    def trace_at(level: Float[Array, ""]) -> RagafTrace | None:
        t = jnp.full(count, jnp.int32(level * steps))
        noisy = add_noise(schedule, latents, noise, t)
        return model.predict(params, noisy, t.astype(jnp.float32), conditional)[1]

    return latents, jax.lax.map(trace_at, jnp.array(TRACE_LEVELS))


def to_pixels(model: Model, params: Params, latents: Float[Array, "b h w c"]) -> Array:
    """Decodes latents to u8[b, s, s, 3]."""
    image = model.decode_image(params, latents)
    return jnp.clip(jnp.round((image + 1) * 127.5), 0, 255).astype(jnp.uint8)
