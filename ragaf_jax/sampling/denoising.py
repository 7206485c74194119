"""Sampling by one stage: initial latents, denoising steps, RAGAF's trace, pixels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from ragaf_jax.batch import Batch
from ragaf_jax.diffusion.guidance import guided
from ragaf_jax.diffusion.noise import example_noise, folded
from ragaf_jax.diffusion.prediction import to_x0
from ragaf_jax.diffusion.sampler_interface import Denoise, SamplerState
from ragaf_jax.diffusion.samplers import sampler_for
from ragaf_jax.diffusion.schedule import NoiseLevels, add_noise
from ragaf_jax.nets.model import Conditioning, Model, Params, Strength
from ragaf_jax.nets.ragaf import RagafTrace
from ragaf_jax.sampling.conditions import evaluations, own_cells, stacked_conditions
from ragaf_jax.sampling.sampling_config import (
    SamplingConfig,
    Scales,
    TextConditioning,
    TimestepGrid,
)

KeyData = UInt32[Array, "b words"]  # jax.random.key_data of one key per example

# Timesteps, as fractions of T, at which RAGAF's attention and fusion weights are recorded.
TRACE_LEVELS = (0.9, 0.7, 0.5, 0.3, 0.1)

# Folded into the keys of the steps, so that their noise differs from the initial noise.
_STEP_NOISE = 2**32 - 1


class Denoising(NamedTuple):
    """Latents between two steps.

    Attributes:
      state: of the sampler.
      conditioning: of all evaluations of a step, stacked on the batch axis.
      own: the cells sampled here; the others are copied from other latents. None: all cells.
    """

    state: SamplerState
    conditioning: Conditioning
    own: Bool[Array, "b h w 1"] | None = None


def begin(
    model: Model,
    sampling: SamplingConfig,
    params: Params,
    batch: Batch,
    keys: KeyData,
    scales: Scales,
    grid: TimestepGrid,
    start: Float[Array, "b h w c"] | None = None,
    text: TextConditioning | None = None,
    controls: tuple[Float[Array, "b s1 s2 3"], ...] = (),
) -> Denoising:
    """The latents before the first step.

    Args:
      model, sampling: static.
      params: the stage's parameters.
      batch: sketches, regions and text; its images are not used.
      keys: an image depends on no other example of the batch.
      scales: traced; which of them are None is static.
      grid: traced.
      start: latents to start from, noised to the first timestep; None: pure noise.
      text: traced; see `stacked_conditions`.
      controls: images in [0, 1] of `model.controls`.
    """
    shape = model.latent_shape_of(batch.sketch.shape[1:3])
    noise = example_noise(jax.random.wrap_key_data(keys), shape)
    count = evaluations(scales)
    conditioning = stacked_conditions(model, sampling, params, batch, count, text)
    repeated = tuple(jnp.concatenate([image] * count) for image in controls)
    conditioning = conditioning._replace(controls=repeated)
    if start is None:
        x = grid.start_scale * noise
    else:
        x = grid.levels.alpha[0] * start + grid.levels.sigma[0] * noise
    own = None if text is None else own_cells(batch.labels, text.own, shape[:2])
    sampler = sampler_for(sampling.sampler, sampling.prediction)
    return Denoising(sampler.begin(x), conditioning, own)


def advance(
    model: Model,
    sampling: SamplingConfig,
    params: Params,
    denoising: Denoising,
    keys: KeyData,
    scales: Scales,
    grid: TimestepGrid,
    until: int | Int[Array, ""],
    others: SamplerState | None = None,
) -> Denoising:
    """The latents at step `until`, traced; the other arguments are as in `begin`.

    With `others`, pass the next step: cells that are not `own` are copied from others at the same
    step (Avrahami et al. 2022, "Blended Diffusion for Text-driven Editing of Natural Images",
    algorithm 2), so blending is valid one step at a time.
    """
    conditioning = denoising.conditioning
    last = scales.guidance_until * sampling.schedule.alpha.shape[0]

    def denoise(x: Float[Array, "b h w c"], level: NoiseLevels) -> Float[Array, "b h w c"]:
        # The index of the step that starts at this level.
        step = (grid.levels.sigma > level.sigma[0]).sum()
        shares = conditioning.text_shares
        if shares is not None and scales.region_steps is not None:
            restricted = step < scales.region_steps
            shares = tuple(jnp.where(restricted, one, _first_text(one)) for one in shares)
        strengths = branch_strengths(scales, step, len(x))
        guidance = scales.embedded_guidance
        if guidance is not None:
            guidance = jnp.where(level.t >= last, guidance - 1, 0.0)
        prediction, _ = model.predict(
            params,
            x,
            level.t,
            conditioning._replace(text_shares=shares),
            strengths=strengths,
            guidance=guidance,
        )
        return to_x0(sampling.prediction, prediction.astype(jnp.float32), x, level)

    denoiser: Denoise = denoise
    if scales.guidance is not None:
        denoiser = guided(denoise, scales.guidance, scales.sketch_guidance, last)
    step_keys = folded(jax.random.wrap_key_data(keys), _STEP_NOISE)
    sampler = sampler_for(sampling.sampler, sampling.prediction)
    state = sampler.advance(denoiser, denoising.state, grid.levels, step_keys, until)
    if others is not None and denoising.own is not None:
        own = denoising.own
        x, x0, memory = jax.tree.map(
            lambda here, there: jnp.where(own, here, there),
            (state.x, state.x0, state.memory),
            (others.x, others.x0, others.memory),
        )
        state = SamplerState(x, x0, state.step, memory)
    return denoising._replace(state=state)


def branch_strengths(scales: Scales, step: int | Int[Array, ""], rows: int) -> tuple[Strength, ...]:
    """The strengths of `Model.predict` at a step, for `rows` examples of all evaluations.

    As in diffusers' guess mode, `unprompted` scales the residuals in evaluations without the
    prompt. Those of other ControlNets than the sketch branch are zero in (nothing), which has no
    sketch either; see `stacked_conditions`.
    """
    count = evaluations(scales)
    found = []
    for i, (strengths, unprompted, first, last) in enumerate(scales.branches):
        active = jnp.where((first <= step) & (step < last), strengths, 0)
        nothing = 0.0 if i else unprompted
        of_evaluations = jnp.stack([jnp.float32(x) for x in (nothing, unprompted, 1.0)[-count:]])
        found.append(jnp.outer(jnp.repeat(of_evaluations, rows // count), active))
    return tuple(found)


def _first_text(shares: Float[Array, "b p n"]) -> Float[Array, "b p n"]:
    """Shares of cells that attend to the first text alone."""
    return jnp.zeros_like(shares).at[..., 0].set(1)


def ragaf_trace(
    model: Model, sampling: SamplingConfig, params: Params, denoising: Denoising, keys: KeyData
) -> RagafTrace | None:
    """RAGAF's attention and fusion weights on the latents, noised to each of `TRACE_LEVELS`.

    Returns:
      Arrays with the levels as first axis; None without RAGAF.
    """
    if model.ragaf is None:
        return None
    schedule, latents, count = sampling.schedule, denoising.state.x, len(denoising.state.x)
    noise = example_noise(jax.random.wrap_key_data(keys), latents.shape[1:])
    conditional = jax.tree.map(lambda x: x[-count:], denoising.conditioning)

    def at(level: Float[Array, ""]) -> RagafTrace | None:
        t = jnp.full(count, jnp.int32(level * schedule.alpha.shape[0]))
        noisy = add_noise(schedule, latents, noise, t)
        return model.predict(params, noisy, t.astype(jnp.float32), conditional)[1]

    return jax.lax.map(at, jnp.array(TRACE_LEVELS))


def to_pixels(model: Model, params: Params, latents: Float[Array, "b h w c"]) -> Array:
    """Decodes latents to u8[b, height, width, 3]."""
    image = model.decode_image(params, latents)
    return jnp.clip(jnp.round((image + 1) * 127.5), 0, 255).astype(jnp.uint8)
