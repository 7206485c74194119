"""The objective of a configuration, and the random inputs of a step."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from ragaf_jax.batch import Batch, Text
from ragaf_jax.diffusion.build import schedule_of
from ragaf_jax.diffusion.schedule import Schedule
from ragaf_jax.errors import UserError
from ragaf_jax.runtime.sharding import spread
from ragaf_jax.tokenizer import Tokenizer


@dataclass(frozen=True)
class Objective:
    """The loss of a configuration, and the dropout of its conditions for guidance.

    Attributes:
      schedule: noise of every timestep.
      diffusion, train: sections of the configuration: the prediction and its weight, weights of
        loss terms, dropout, batch sizes. `configs/base.py` documents the fields.
      empty_text: the empty prompt as a batch of one; has states if the captions' are cached.
    """

    schedule: Schedule
    diffusion: ml_collections.FrozenConfigDict
    train: ml_collections.FrozenConfigDict
    empty_text: Text


def objective_of(config: ml_collections.ConfigDict, tokenizer: Tokenizer) -> Objective:
    """The objective of a configuration.

    Raises:
      UserError: the tokenizer has more tokens than the text encoder.
    """
    if tokenizer.vocab_size > config.model.text_encoder.vocab_size:
        raise UserError(
            f"The data's tokenizer has {tokenizer.vocab_size} tokens and "
            f"config.model.text_encoder.vocab_size is {config.model.text_encoder.vocab_size}; "
            "raise the latter."
        )
    return Objective(
        schedule=schedule_of(config),
        diffusion=ml_collections.FrozenConfigDict(config.diffusion),
        train=ml_collections.FrozenConfigDict(config.train),
        empty_text=Text(*tokenizer.encode([""], config.data.text_length)),
    )


def dropped(
    objective: Objective, rng: PRNGKeyArray, size: int
) -> tuple[Bool[Array, "{size}"], Bool[Array, "{size}"]]:
    """Masks of the `size` examples that lose their text and that lose their sketch.

    Half of the smaller share loses both. Guidance compares no condition, the sketch and both, so
    training covers all three (Brooks et al. 2023, InstructPix2Pix, sec. 3.2.1).
    """
    text, sketch = objective.train.text_dropout, objective.train.sketch_dropout
    chance = jax.random.uniform(rng, (size,))
    first = text - min(text, sketch) / 2
    return chance < text, (chance >= first) & (chance < first + sketch)


def drop_text(objective: Objective, batch: Batch, dropped: Bool[Array, " b"]) -> Batch:
    """The batch with the empty prompt in place of dropped captions."""

    def replaced(empty: Any, given: Any) -> Array:
        chosen = dropped.reshape(-1, *[1] * (given.ndim - 1))
        return jnp.where(chosen, jnp.asarray(empty, given.dtype), given)

    return batch._replace(text=jax.tree.map(replaced, objective.empty_text, batch.text))


class Denoised(NamedTuple):
    """Examples for denoising with their random inputs.

    Attributes:
      batch: the examples, some without their captions.
      posterior: keys for sampling latents from the VAE's posterior.
      noise: keys of the noise that is added to the latents.
      timesteps: in 0 … T − 1.
      keep_sketch: 1 to condition on sketch and regions, 0 to drop them.
      dropout: keys of LoRA's dropout; only the first is used.
    """

    batch: Batch
    posterior: Key[Array, " b"]
    noise: Key[Array, " b"]
    timesteps: Int[Array, " b"]
    keep_sketch: Float[Array, " b"]
    dropout: Key[Array, " b"]


class RagafExamples(NamedTuple):
    """Zero or more examples for RAGAF alone, without latents or UNet, and their timesteps.

    Learning which words describe which region takes many examples. This costs a fraction of
    denoising them.
    """

    batch: Batch
    timesteps: Float[Array, " b"]


def step_inputs(
    objective: Objective, rng: PRNGKeyArray, batch: Batch
) -> tuple[Denoised, RagafExamples]:
    """A step's examples with random inputs, which are sampled before the batch is split."""
    keys = jax.random.split(rng, 6)
    size, steps = objective.train.batch_size, objective.schedule.alpha.shape[0]
    ragaf_only = jax.tree.map(lambda x: x[size:], batch)
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
    count = ragaf_only.text.tokens.shape[0]
    times = jax.random.uniform(keys[3], (count,), maxval=steps - 1)
    return spread(denoised), spread(RagafExamples(ragaf_only, times))
