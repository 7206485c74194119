"""The networks' conditioning and latents, computed from a batch and parameters."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from ragaf_jax.batch import Batch
from ragaf_jax.nets.kl_autoencoder import draw
from ragaf_jax.nets.model import Conditioning, Model, Params


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
