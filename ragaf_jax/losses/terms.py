"""The loss terms of training, and the same terms on held-out examples."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ragaf_jax.batch import Batch
from ragaf_jax.conditioning import condition, encoded, latents_of
from ragaf_jax.diffusion.loss import denoising_loss
from ragaf_jax.diffusion.schedule import add_noise
from ragaf_jax.losses.objective import Denoised, Objective, RagafExamples
from ragaf_jax.nets.model import Conditioning, Model, Params, Regions
from ragaf_jax.nets.ragaf import RagafTrace
from ragaf_jax.nets.regions import pool_regions

Scalars = dict[str, Array]

# Losses and fusion weights are logged for each quarter of the timesteps.
QUARTERS = 4
# Evenly spread timesteps of the validation loss.
LEVELS = 4


def denoising_losses(
    model: Model,
    objective: Objective,
    params: Params,
    latents: Float[Array, "b h w c"],
    noise: Float[Array, "b h w c"],
    timesteps: Int[Array, " b"],
    conditioning: Conditioning,
    rng: PRNGKeyArray | None = None,
) -> tuple[Float[Array, " b"], RagafTrace | None]:
    """The denoising loss of each example, and RAGAF's trace."""
    noisy = add_noise(objective.schedule, latents, noise, timesteps)
    prediction, trace = model.predict(
        params, noisy, timesteps.astype(jnp.float32), conditioning, rng
    )
    settings = objective.diffusion
    loss = denoising_loss(
        settings.prediction,
        objective.schedule,
        prediction,
        latents,
        noise,
        timesteps,
        min_snr_gamma=settings.min_snr_gamma,
        max_snr=settings.max_snr,
    )
    return loss, trace


def appearance_loss(
    trace: RagafTrace, regions: Regions, latents: Float[Array, "b h w c"]
) -> Float[Array, " b"]:
    """The error of each region's mean latent as predicted from the region's feature.

    Mean squared error over channels, averaged over regions weighted by area, at most one cell.
    Through denoising, gradients reach RAGAF only via all layers of the UNet. This loss needs no
    labels and trains graph attention, text attention and text encoder from the first step on.
    """
    shares = regions.shares[0]
    weight = jnp.minimum(shares.sum(1), 1.0) * regions.active[:, None]
    error = jnp.square(trace.appearance - pool_regions(latents, shares)).mean(-1)
    return (weight * error).sum(-1) / jnp.maximum(weight.sum(-1), 1.0)


def ragaf_only_loss(
    model: Model, params: Params, batch: Batch, timesteps: Float[Array, " b"]
) -> Float[Array, ""]:
    """The appearance loss of RAGAF on text and graph alone, without latents or UNet."""
    regions = model.locate(batch.labels, batch.graph, batch.text.mask)
    trace = model.ragaf_trace(params, timesteps, encoded(model, params, batch.text), regions)
    latents = jax.lax.stop_gradient(latents_of(model, params, batch))
    return appearance_loss(trace, regions, latents).mean()


class Step(NamedTuple):
    """The inputs of loss terms; latents, conditioning and trace are of the `denoised` examples."""

    model: Model
    objective: Objective
    params: Params
    denoised: Denoised
    ragaf_only: RagafExamples
    latents: Float[Array, "b h w c"]
    conditioning: Conditioning
    trace: RagafTrace | None


def _appearance(step: Step) -> Float[Array, ""] | None:
    if step.trace is None or step.conditioning.regions is None:
        return None
    # At low noise a region's mean is visible in the noisy latents, so the text is not needed.
    noisiness = jnp.square(step.objective.schedule.sigma[step.denoised.timesteps])
    appearance = appearance_loss(step.trace, step.conditioning.regions, step.latents)
    return (noisiness * appearance).mean()


def _ragaf_only(step: Step) -> Float[Array, ""] | None:
    batch, timesteps = step.ragaf_only
    if step.trace is None or not timesteps.shape[0]:
        return None
    return ragaf_only_loss(step.model, step.params, batch, timesteps)


class Term(NamedTuple):
    """An additional loss term.

    Attributes:
      compute: returns the mean over examples, or None if the stage or batch lacks the term.
      weight: the field of `config.train` with the term's weight.
    """

    compute: Callable[[Step], Float[Array, ""] | None]
    weight: str


# Keys are the names in logs.
TERMS = {
    "appearance": Term(_appearance, "appearance_weight"),
    "reading": Term(_ragaf_only, "appearance_weight"),
}


def step_loss(
    model: Model,
    objective: Objective,
    params: Params,
    denoised: Denoised,
    ragaf_only: RagafExamples,
) -> tuple[Float[Array, ""], Scalars]:
    """The mean loss of the examples and its terms: "denoising", `TERMS` and `by_time`."""
    batch, timesteps, dropout = denoised.batch, denoised.timesteps, denoised.dropout[0]
    latents = jax.lax.stop_gradient(latents_of(model, params, batch, denoised.posterior))
    noise = jax.vmap(lambda key: jax.random.normal(key, latents.shape[1:]))(denoised.noise)
    conditioning = condition(model, params, batch, denoised.keep_sketch, dropout)
    per_example, trace = denoising_losses(
        model, objective, params, latents, noise, timesteps, conditioning, dropout
    )
    loss = per_example.mean()
    scalars = {"denoising": loss}
    step = Step(model, objective, params, denoised, ragaf_only, latents, conditioning, trace)
    for name, term in TERMS.items():
        value = term.compute(step)
        if value is not None:
            scalars[name] = value
            loss = loss + objective.train[term.weight] * value
    scalars["by_time"] = by_time(objective, timesteps, per_example, trace, conditioning.regions)
    return loss, scalars


def by_time(
    objective: Objective,
    timesteps: Int[Array, " b"],
    losses: Float[Array, " b"],
    trace: RagafTrace | None,
    regions: Regions | None,
) -> Float[Array, "quarters values"]:
    """Mean over examples of (1, loss[, α, β]) by quarter of the timesteps; 0 outside a quarter."""
    values = [jnp.ones_like(losses), losses]
    if trace is not None and regions is not None:
        real = jnp.arange(trace.fusion.shape[1])[None] < regions.graph.n_node[:, :1]
        total = (trace.fusion * real[..., None]).sum(1) / jnp.maximum(real.sum(1), 1)[:, None]
        values += [total[:, 0], total[:, 1]]
    quarter = timesteps * QUARTERS // objective.schedule.alpha.shape[0]
    return jax.nn.one_hot(quarter, QUARTERS).T @ jnp.stack(values, -1) / len(losses)


def validation_losses(
    model: Model,
    objective: Objective,
    params: Params,
    batch: Batch,
    conditioned_on: Batch,
    rng: PRNGKeyArray,
) -> Float[Array, " b"]:
    """The mean denoising loss of each example over `LEVELS` timesteps with fixed noise.

    Args:
      model, objective: static.
      batch: examples whose images are noised and predicted.
      conditioned_on: source of sketch, regions and text: `batch`, or `batch` with shuffled fields.
      rng: the same key gives the same noise.
    """
    latents = latents_of(model, params, batch)
    size = latents.shape[0]
    conditioning = condition(model, params, conditioned_on, jnp.ones(size))
    steps = objective.schedule.alpha.shape[0]

    def at_level(level: Int[Array, ""]) -> Float[Array, " b"]:
        noise = jax.random.normal(jax.random.fold_in(rng, level), latents.shape)
        timestep = ((level + 0.5) * steps / LEVELS).astype(jnp.int32)
        loss, _ = denoising_losses(
            model, objective, params, latents, noise, jnp.full(size, timestep), conditioning
        )
        return loss

    return jax.lax.map(at_level, jnp.arange(LEVELS)).mean(0)
