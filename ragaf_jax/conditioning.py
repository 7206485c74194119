"""The networks' conditioning and latents, computed from a batch and parameters."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from ragaf_jax.batch import Batch, Text
from ragaf_jax.nets.kl_autoencoder import sample_posterior
from ragaf_jax.nets.model import Conditioning, Model, Params


def latents_of(
    model: Model, params: Params, batch: Batch, rng: Key[Array, " b"] | None = None
) -> Float[Array, "b h w c"]:
    """The latents of a batch's images: sampled by `rng`, one key per example; None: the mode."""
    if batch.latent_mean is None:
        return model.encode_image(params, batch.image, rng)
    return sample_posterior(batch.latent_mean, batch.latent_std, rng)


def encoded(model: Model, params: Params, text: Text, rng: PRNGKeyArray | None = None) -> Text:
    """The text with its encoder states in float32; `rng` is for LoRA's dropout."""
    if text.states is None:
        return model.encode_text(params, text, rng)
    return text._replace(states=jnp.asarray(text.states, jnp.float32))


def condition(
    model: Model,
    params: Params,
    batch: Batch,
    keep_sketch: Float[Array, " b"],
    rng: PRNGKeyArray | None = None,
) -> Conditioning:
    """The conditioning of a batch; sketches and regions are kept (1) or dropped (0).

    `rng` is for LoRA's dropout.
    """
    regions = None
    if model.ragaf is not None:
        regions = model.locate(batch.labels, batch.graph, batch.text.mask, keep_sketch)
    sketch = batch.sketch * keep_sketch[:, None, None, None]
    return Conditioning(encoded(model, params, batch.text, rng), sketch, regions)
