"""One update of one stage, and the same loss measured on held-out examples."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from ragaf_jax.batch import Batch
from ragaf_jax.diffusion import loss as losses
from ragaf_jax.diffusion.schedule import Schedule, add_noise
from ragaf_jax.nets.kl_autoencoder import draw
from ragaf_jax.nets.model import Conditioning, Model, Params, Regions
from ragaf_jax.nets.ragaf import RagafTrace
from ragaf_jax.nets.regions import pool_regions
from ragaf_jax.training.accumulation import value_and_gradient
from ragaf_jax.training.partition import merge
from ragaf_jax.training.sharding import gathered, spread
from ragaf_jax.training.state import TrainState, ema_decay

Scalars = dict[str, Array]

# Parts of the timesteps of which losses and fusion weights are logged.
QUARTERS = 4


@dataclass(frozen=True)
class Objective:
    """What is minimised, and what is left out at random so that guidance has an opposite.

    Attributes:
      schedule: noise of every timestep.
      prediction: what the UNet predicts: "epsilon", "v_prediction" or "sample".
      min_snr_gamma: γ of min-SNR weighting, or None.
      max_snr: the weight of almost clean examples grows no further than at this SNR.
      text_dropout: share of examples that see the empty prompt.
      sketch_dropout: share of examples that see neither sketch nor regions.
      appearance_weight: weight of the appearance loss.
      denoised: of each batch, so many examples are denoised; RAGAF reads words and graph of the
        rest, too, for the appearance loss. That costs a fraction of denoising, and tying words to
        regions takes many examples.
      accumulation: each batch goes through the networks in so many parts.
      empty_tokens: the tokens of the empty prompt.
      empty_mask: which of them are not padding.
      empty_states: the text encoder's states of them, where those of captions come with the batch.
    """

    schedule: Schedule
    prediction: str
    min_snr_gamma: float | None
    max_snr: float
    text_dropout: float
    sketch_dropout: float
    appearance_weight: float
    denoised: int
    accumulation: int
    empty_tokens: Int[np.ndarray, " t"]
    empty_mask: Bool[np.ndarray, " t"]
    empty_states: Float[np.ndarray, "t d"] | None = None


def latents_of(
    model: Model, params: Params, batch: Batch, rng: Key[Array, " b"] | None = None
) -> Float[Array, "b h w c"]:
    """The latents of a batch's images: drawn by `rng`, a key an example; the likeliest without."""
    if batch.latent_mean is None:
        return model.encode_image(params, batch.image, rng)
    return draw(batch.latent_mean, batch.latent_std, rng)


def text_states_of(
    model: Model, params: Params, batch: Batch, rng: PRNGKeyArray | None = None
) -> Float[Array, "b t d"]:
    """The text encoder's states of a batch's captions; `rng` is for LoRA's dropout."""
    if batch.text_states is None:
        return model.encode_text(params, batch.tokens, rng)
    return jnp.asarray(batch.text_states, jnp.float32)


def appearance_loss(
    trace: RagafTrace, regions: Regions, latents: Float[Array, "b h w c"]
) -> Float[Array, " b"]:
    """How far each region's feature is from telling the region's mean latent.

    Mean squared error over channels, averaged over regions by their area up to one cell. Denoising
    alone ties words to regions only through every layer of the UNet; this asks the question where
    the answer is made, needs no labels beyond the picture, and reaches graph attention, word
    attention and text encoder from the first step on.
    """
    shares = regions.shares[latents.shape[1]]
    weight = jnp.minimum(shares.sum(1), 1.0) * regions.active[:, None]
    error = jnp.square(trace.appearance - pool_regions(latents, shares)).mean(-1)
    return (weight * error).sum(-1) / jnp.maximum(weight.sum(-1), 1.0)


def condition(
    model: Model,
    params: Params,
    batch: Batch,
    keep_sketch: Float[Array, " b"],
    rng: PRNGKeyArray | None = None,
) -> Conditioning:
    """A batch's conditioning, with its sketches and regions kept (1) or dropped (0).

    `rng` is for LoRA's dropout, here and below.
    """
    regions = None
    if model.ragaf is not None:
        regions = model.locate(batch.labels, batch.graph, batch.token_mask, keep_sketch)
    sketch = batch.sketch * keep_sketch[:, None, None, None]
    return Conditioning(text_states_of(model, params, batch, rng), sketch, regions)


def dropped(
    objective: Objective, rng: PRNGKeyArray, size: int
) -> tuple[Bool[Array, "{size}"], Bool[Array, "{size}"]]:
    """Which of `size` examples lose their text, and which their sketch.

    Half of the smaller share loses both: guidance compares (nothing), (sketch) and (both), so these
    must all have been seen (Brooks et al. 2023, InstructPix2Pix, sec. 3.2.1).
    """
    text, sketch = objective.text_dropout, objective.sketch_dropout
    chance = jax.random.uniform(rng, (size,))
    first = text - min(text, sketch) / 2
    return chance < text, (chance >= first) & (chance < first + sketch)


def drop_text(objective: Objective, batch: Batch, dropped: Bool[Array, " b"]) -> Batch:
    """The batch with the empty prompt in place of the captions that are dropped."""
    if batch.text_states is not None:
        empty = jnp.asarray(objective.empty_states, batch.text_states.dtype)[None]
        states = jnp.where(dropped[:, None, None], empty, batch.text_states)
        batch = batch._replace(text_states=states)
    return batch._replace(
        tokens=jnp.where(dropped[:, None], objective.empty_tokens[None], batch.tokens),
        token_mask=jnp.where(dropped[:, None], objective.empty_mask[None], batch.token_mask),
    )


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
    loss = losses.denoising_loss(
        objective.prediction,
        objective.schedule,
        prediction,
        latents,
        noise,
        timesteps,
        objective.min_snr_gamma,
        objective.max_snr,
    )
    return loss, trace


def reading_loss(
    model: Model, params: Params, batch: Batch, timesteps: Float[Array, " b"]
) -> Float[Array, ""]:
    """The appearance loss of what RAGAF reads off words and graph alone."""
    regions = model.locate(batch.labels, batch.graph, batch.token_mask)
    trace = model.read(params, timesteps, text_states_of(model, params, batch), regions)
    latents = jax.lax.stop_gradient(latents_of(model, params, batch))
    return appearance_loss(trace, regions, latents).mean()


class Denoised(NamedTuple):
    """Examples to be denoised, and all that chance decides of them.

    Attributes:
      batch: the examples, some without their captions.
      posterior: the key of each one's draw of latents.
      noise: the key of what is added to its latents.
      timesteps: where in 0 … T − 1.
      keep_sketch: 1 where sketch and regions are shown.
      dropout: the key of LoRA's dropout; the first example's counts for all.
    """

    batch: Batch
    posterior: Key[Array, " b"]
    noise: Key[Array, " b"]
    timesteps: Int[Array, " b"]
    keep_sketch: Float[Array, " b"]
    dropout: Key[Array, " b"]


class Read(NamedTuple):
    """Examples, maybe none, of which RAGAF only reads words and graph, and at which timesteps."""

    batch: Batch
    timesteps: Float[Array, " b"]


def drawn(objective: Objective, rng: PRNGKeyArray, batch: Batch) -> tuple[Denoised, Read]:
    """A step's batch with its random numbers, drawn before the batch is parted."""
    keys = jax.random.split(rng, 6)
    size, steps = objective.denoised, objective.schedule.alpha.shape[0]
    read = jax.tree.map(lambda x: x[size:], batch)
    batch = jax.tree.map(lambda x: x[:size], batch)
    # Stratified over the batch: the loss varies a thousandfold over timesteps.
    offsets = (jnp.arange(size) + jax.random.uniform(keys[1], (size,))) / size
    no_text, no_sketch = dropped(objective, keys[2], size)
    denoised = Denoised(
        batch=drop_text(objective, batch, no_text),
        posterior=jax.random.split(keys[4], size),
        noise=jax.random.split(keys[0], size),
        timesteps=jnp.minimum((offsets * steps).astype(jnp.int32), steps - 1),
        keep_sketch=1.0 - no_sketch,
        dropout=jax.random.split(keys[5], size),
    )
    count = read.tokens.shape[0]
    times = jax.random.uniform(keys[3], (count,), maxval=steps - 1)
    return spread(denoised), spread(Read(read, times))


def step_loss(
    model: Model, objective: Objective, params: Params, denoised: Denoised, read: Read
) -> tuple[Float[Array, ""], Scalars]:
    """The mean loss of some examples, and what it consists of.

    Beside scalars: `by_time`, the sums over examples of (1, denoising loss[, α, β]) in each quarter
    of the timesteps.
    """
    batch, timesteps, dropout = denoised.batch, denoised.timesteps, denoised.dropout[0]
    latents = jax.lax.stop_gradient(latents_of(model, params, batch, denoised.posterior))
    noise = jax.vmap(lambda key: jax.random.normal(key, latents.shape[1:]))(denoised.noise)
    conditioning = condition(model, params, batch, denoised.keep_sketch, dropout)
    per_example, trace = denoising_losses(
        model, objective, params, latents, noise, timesteps, conditioning, dropout
    )
    loss = per_example.mean()
    scalars = {"denoising": loss}
    if trace is not None:
        # Noisy latents tell a region's mean by themselves where there is little noise.
        noisiness = jnp.square(objective.schedule.sigma[timesteps])
        appearance = appearance_loss(trace, conditioning.regions, latents)
        scalars["appearance"] = (noisiness * appearance).mean()
        loss = loss + objective.appearance_weight * scalars["appearance"]
        if read.timesteps.shape[0]:
            scalars["reading"] = reading_loss(model, params, read.batch, read.timesteps)
            loss = loss + objective.appearance_weight * scalars["reading"]
    scalars["by_time"] = by_time(objective, timesteps, per_example, trace, conditioning.regions)
    return loss, scalars


def by_time(
    objective: Objective,
    timesteps: Int[Array, " b"],
    losses: Float[Array, " b"],
    trace: RagafTrace | None,
    regions: Regions | None,
) -> Float[Array, "quarters values"]:
    """Mean over examples of (1, loss[, α, β]), those in other quarters of time counted as 0."""
    values = [jnp.ones_like(losses), losses]
    if trace is not None and regions is not None:
        real = jnp.arange(trace.fusion.shape[1])[None] < regions.graph.n_node[:, :1]
        total = (trace.fusion * real[..., None]).sum(1) / jnp.maximum(real.sum(1), 1)[:, None]
        values += [total[:, 0], total[:, 1]]
    quarter = timesteps * QUARTERS // objective.schedule.alpha.shape[0]
    return jax.nn.one_hot(quarter, QUARTERS).T @ jnp.stack(values, -1) / len(losses)


def train_step(
    model: Model,
    tx: optax.GradientTransformation,
    ema_maximum: float,
    objective: Objective,
    rng: PRNGKeyArray,
    state: TrainState,
    batch: Batch,
) -> tuple[TrainState, Scalars]:
    """One update; none where the loss or the gradient is no number.

    Args:
      model: static.
      tx: static; the optimiser that `state` was made with.
      ema_maximum: static; the decay of the average after many steps.
      objective: static; what is minimised.
      rng: the run's key; this step's numbers come from it and `state.step`.
      state: before.
      batch: examples.

    Returns:
      The state after, and numbers: loss, denoising, with RAGAF appearance and reading; grad_norm,
      also of each network, and update_norm; `skipped`, 1 where nothing changed; `by_time`.
    """
    denoised, read = drawn(objective, jax.random.fold_in(rng, state.step), batch)

    def loss_of(trainable: Params, examples: tuple[Denoised, Read]) -> tuple[Array, Scalars]:
        return step_loss(model, objective, gathered(merge(trainable, state.frozen)), *examples)

    (loss, scalars), gradients = value_and_gradient(
        loss_of, state.trainable, (denoised, read), objective.accumulation
    )
    updates, opt_state = tx.update(gradients, state.opt_state, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    decay = ema_decay(state.step, ema_maximum)
    ema = jax.tree.map(lambda old, new: old * decay + new * (1 - decay), state.ema, trainable)
    norm = optax.tree.norm(gradients)
    fine = jnp.isfinite(loss) & jnp.isfinite(norm)
    before = state.trainable, state.ema, state.opt_state
    trainable, ema, opt_state = jax.tree.map(
        lambda new, old: jnp.where(fine, new, old), (trainable, ema, opt_state), before
    )
    state = state.replace(step=state.step + 1, trainable=trainable, ema=ema, opt_state=opt_state)
    return state, {
        "loss": loss,
        "grad_norm": norm,
        "skipped": 1.0 - fine,
        **{f"grad_norm/{name}": optax.tree.norm(tree) for name, tree in gradients.items()},
        **{f"update_norm/{name}": optax.tree.norm(tree) for name, tree in updates.items()},
        **scalars,
    }


def validation_losses(
    model: Model,
    objective: Objective,
    params: Params,
    batch: Batch,
    conditioned_on: Batch,
    rng: PRNGKeyArray,
    levels: int = 4,
) -> Float[Array, " b"]:
    """The denoising loss of each example over fixed noise and evenly spread timesteps.

    Args:
      model: static.
      objective: static; what is minimised.
      params: parameters.
      batch: whose pictures are to be predicted.
      conditioned_on: whose sketch, regions and text are shown; `batch` itself, or with some of its
        fields shuffled.
      rng: the same key gives the same noise.
      levels: static; how many timesteps.

    Returns:
      The mean over the timesteps, an example.
    """
    latents = latents_of(model, params, batch)
    size = latents.shape[0]
    conditioning = condition(model, params, conditioned_on, jnp.ones(size))
    steps = objective.schedule.alpha.shape[0]

    def at_level(level: Int[Array, ""]) -> Float[Array, " b"]:
        noise = jax.random.normal(jax.random.fold_in(rng, level), latents.shape)
        timestep = ((level + 0.5) * steps / levels).astype(jnp.int32)
        loss, _ = denoising_losses(
            model, objective, params, latents, noise, jnp.full(size, timestep), conditioning
        )
        return loss

    return jax.lax.map(at_level, jnp.arange(levels)).mean(0)
