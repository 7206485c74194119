"""From conditions and noise to latents: the sampling of one stage, at once or part by part."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from ragaf_jax.batch import Batch
from ragaf_jax.diffusion.guidance import guided
from ragaf_jax.diffusion.prediction import to_x0
from ragaf_jax.diffusion.samplers import SAMPLERS, Walk, example_noise, folded
from ragaf_jax.diffusion.schedule import add_noise
from ragaf_jax.nets.model import Conditioning, Model, Params
from ragaf_jax.nets.ragaf import RagafTrace
from ragaf_jax.nets.regions import region_shares
from ragaf_jax.sampling.process import Course, Process, Settings, Wishes

# Timesteps, as shares of T, at which RAGAF's decisions are read off.
TRACE_LEVELS = (0.9, 0.7, 0.5, 0.3, 0.1)

# The least share of a cell in regions with words of their own at which the cell is theirs. At a
# half the rims of such regions keep the colours of before; at next to nothing small regions beside
# them do not.
SPOKEN_SHARE = 0.25


def stacked_conditions(
    model: Model,
    process: Process,
    params: Params,
    batch: Batch,
    kinds: int,
    wishes: Wishes | None = None,
) -> Conditioning:
    """The last `kinds` of (nothing), (sketch), (sketch and text), stacked on the batch axis.

    Without `wishes`, nothing is the empty prompt, and all regions hear the batch's text.
    """
    count = batch.tokens.shape[0]
    tokens, mask = jnp.asarray(process.empty_tokens[None]), jnp.asarray(process.empty_mask[None])
    text, text_mask, texts = batch.tokens, batch.token_mask, None
    if wishes is not None:
        tokens, mask = wishes.negative_tokens, wishes.negative_mask
        text, text_mask = wishes.tokens, wishes.token_mask
        texts = jnp.concatenate([jnp.zeros_like(wishes.texts), wishes.texts])
    states = model.encode_text(params, jnp.concatenate([tokens, text]), texts=texts)
    negative, positive = states[:-count], states[-count:]
    negative = jnp.broadcast_to(negative, positive.shape)
    shown = jnp.repeat(jnp.array([0.0, 1.0, 1.0][-kinds:]), count)
    regions = None
    if model.ragaf is not None:
        unheard = jnp.broadcast_to(mask, text_mask.shape)
        regions = model.locate(
            jnp.concatenate([batch.labels] * kinds),
            jax.tree.map(lambda x: jnp.concatenate([x] * kinds), batch.graph),
            jnp.concatenate([unheard] * (kinds - 1) + [text_mask]),
            shown,
        )
        if wishes is not None:
            heard = wishes.texts[:, None] == wishes.heard[..., None]
            heard = heard & text_mask[:, None]
            others = jnp.broadcast_to(unheard[:, None], heard.shape)
            allowed = jnp.concatenate([others] * (kinds - 1) + [heard])
            regions = regions._replace(allowed=allowed)
    return Conditioning(
        jnp.concatenate([negative] * (kinds - 1) + [positive]),
        jnp.concatenate([batch.sketch] * kinds) * shown[:, None, None, None],
        regions,
    )


class Drawing(NamedTuple):
    """What is being sampled.

    Attributes:
      walk: where the sampler stands.
      conditioning: of all evaluations of a step, stacked on the batch axis.
      own: the cells that it decides itself; others are another drawing's. None: it decides all.
    """

    walk: Walk
    conditioning: Conditioning
    own: Bool[Array, "b h w 1"] | None = None

    @property
    def preview(self) -> Float[Array, "b h w c"]:
        """The clean latents that the network expects by now."""
        return self.walk.x0


def begin(
    model: Model,
    process: Process,
    params: Params,
    batch: Batch,
    keys: Key[Array, " b"],
    settings: Settings,
    course: Course,
    start: Float[Array, "b h w c"] | None = None,
    wishes: Wishes | None = None,
) -> Drawing:
    """The drawings before their first step.

    Args:
      model: static.
      process: static.
      params: the stage's parameters.
      batch: sketches, regions and text; its images are not read.
      keys: one an example: with batch and settings it decides its picture, whatever the others.
      settings: traced.
      course: traced.
      start: latents to begin from, noised to the first timestep; without it, pure noise.
      wishes: traced; without them there are none.
    """
    noise = example_noise(keys, model.latent_shape)
    kinds = 2 if settings.sketch_guidance is None else 3
    conditioning = stacked_conditions(model, process, params, batch, kinds, wishes)
    x = noise
    if start is not None:
        first = jnp.broadcast_to(course.timesteps[0], len(noise))
        x = add_noise(process.schedule, start, noise, first)
    own = None if wishes is None else _spoken_for(batch.labels, wishes.heard, x.shape[1])
    return Drawing(Walk.begin(x), conditioning, own)


def _spoken_for(
    labels: Int[Array, "b s s"], heard: Int[Array, "b r"], side: int
) -> Bool[Array, "b {side} {side} 1"]:
    """The cells that belong to regions with words of their own; all if no region has any.

    However small a region is, the cells in which it has its greatest share are its own.
    """
    spoken = heard > 0
    shares = region_shares(labels, heard.shape[1], side)
    share = jnp.einsum("bpr,br->bp", shares, spoken.astype(shares.dtype))
    greatest = shares.max(1, keepdims=True)
    home = (shares == greatest) & (greatest > 0) & spoken[:, None]
    own = (share >= SPOKEN_SHARE) | home.any(-1) | ~spoken.any(1)[:, None]
    return own.reshape(-1, side, side, 1)


def advance(
    model: Model,
    process: Process,
    params: Params,
    drawing: Drawing,
    keys: Key[Array, " b"],
    settings: Settings,
    course: Course,
    until: int | Int[Array, ""],
    others: Walk | None = None,
) -> Drawing:
    """The drawings at step `until`, traced; the other arguments are as `begin` has them.

    Where cells are not a drawing's own they are then as `others` have them at the same step
    (Avrahami et al. 2022, "Blended Diffusion for Text-driven Editing of Natural Images", algorithm
    2), so that `until` is to be the step after.
    """
    schedule, conditioning = process.schedule, drawing.conditioning
    strength = settings.sketch_strength

    def denoise(x: Float[Array, "b h w c"], t: Int[Array, " b"]) -> Float[Array, "b h w c"]:
        prediction, _ = model.predict(
            params, x, t.astype(jnp.float32), conditioning, sketch_strength=strength
        )
        return to_x0(process.prediction, schedule, prediction.astype(jnp.float32), x, t)

    last = settings.guidance_until * schedule.alpha.shape[0]
    denoiser = guided(denoise, settings.guidance, settings.sketch_guidance, last)
    # A number that no step has: what the first noise was drawn with is not used again.
    keys = folded(keys, 2**32 - 1)
    sampler = SAMPLERS[process.sampler]
    walk = sampler.walk(denoiser, drawing.walk, schedule, course.timesteps, keys, until)
    if others is not None and drawing.own is not None:
        x, x0 = (
            jnp.where(drawing.own, mine, theirs)
            for mine, theirs in ((walk.x, others.x), (walk.x0, others.x0))
        )
        walk = walk._replace(x=x, x0=x0)
    return drawing._replace(walk=walk)


def trace(
    model: Model,
    process: Process,
    params: Params,
    conditioning: Conditioning,
    latents: Float[Array, "b h w c"],
    keys: Key[Array, " b"],
) -> RagafTrace | None:
    """What RAGAF decides on these latents, noised to each of `TRACE_LEVELS`, on a leading axis."""
    if model.ragaf is None:
        return None
    schedule, count = process.schedule, len(latents)
    steps, noise = schedule.alpha.shape[0], example_noise(keys, model.latent_shape)
    conditional = jax.tree.map(lambda x: x[-count:], conditioning)

    def at(level: Float[Array, ""]) -> RagafTrace | None:
        t = jnp.full(count, jnp.int32(level * steps))
        noisy = add_noise(schedule, latents, noise, t)
        return model.predict(params, noisy, t.astype(jnp.float32), conditional)[1]

    return jax.lax.map(at, jnp.array(TRACE_LEVELS))


def generate(
    model: Model,
    process: Process,
    params: Params,
    batch: Batch,
    keys: Key[Array, " b"],
    settings: Settings,
    course: Course,
    start: Float[Array, "b h w c"] | None = None,
) -> tuple[Float[Array, "b h w c"], RagafTrace | None]:
    """Samples one latent an example: `begin`, `advance` to the end, and the `trace`."""
    given = keys, settings, course
    drawing = begin(model, process, params, batch, *given, start)
    drawing = advance(model, process, params, drawing, *given, course.steps)
    latents = drawing.walk.x
    return latents, trace(model, process, params, drawing.conditioning, latents, keys)


def to_pixels(model: Model, params: Params, latents: Float[Array, "b h w c"]) -> Array:
    """Decodes latents to u8[b, s, s, 3]."""
    image = model.decode_image(params, latents)
    return jnp.clip(jnp.round((image + 1) * 127.5), 0, 255).astype(jnp.uint8)
