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
    pooled = None if text.pooled is None else jnp.asarray(text.pooled, jnp.float32)
    return text._replace(states=jnp.asarray(text.states, jnp.float32), pooled=pooled)


def sizes_of(model: Model, batch: Batch) -> Float[Array, "b 6"] | None:
    """The sizes of `AddedConditions`, if the UNet reads them; default: an uncropped image."""
    if model.unet.config.addition_embed_type is None:
        return None
    if batch.sizes is not None:
        return jnp.asarray(batch.sizes, jnp.float32)
    count, height, width = batch.labels.shape
    return jnp.tile(jnp.array([height, width, 0, 0, height, width], jnp.float32), (count, 1))


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
    text = encoded(model, params, batch.text, rng)
    return Conditioning(text, sketch, regions, sizes=sizes_of(model, batch))
