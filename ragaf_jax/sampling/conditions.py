"""Conditions of the evaluations of a guided step, and the latent cells of region prompts."""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ragaf_jax.batch import Batch, Text
from ragaf_jax.conditioning import sizes_of
from ragaf_jax.nets.model import Conditioning, Model, Params
from ragaf_jax.nets.regions import flat, region_shares
from ragaf_jax.sampling.sampling_config import SamplingConfig, Scales, TextConditioning

T = TypeVar("T")

# A cell belongs to regions with their own text from this share of its area. At 0.5, the borders of
# such regions have the colours of the main prompt; near 0, small neighbours lose their colours.
OWN_TEXT_SHARE = 0.25


def evaluations(scales: Scales) -> int:
    """Evaluations of the networks per step: 1 unguided, 2 by text, 3 by text and sketch."""
    if scales.guidance is None:
        return 1
    return 2 if scales.sketch_guidance is None else 3


def stacked_conditions(
    model: Model,
    sampling: SamplingConfig,
    params: Params,
    batch: Batch,
    count: int,
    text: TextConditioning | None = None,
) -> Conditioning:
    """The last `count` of (nothing), (sketch), (sketch and text), stacked on the batch axis.

    Args:
      model: static.
      sampling: static.
      params: of the stage.
      batch: sketches, regions and, without `text`, captions.
      count: static; `evaluations` of a step.
      text: texts of requests. Without it, (nothing) has the empty prompt, and all regions attend to
        the captions.
    """
    examples = len(batch.labels)
    # Cached states are bfloat16. Images must not depend on caches, so they are computed again.
    negative, positive = sampling.empty_text, batch.text._replace(states=None, pooled=None)
    if text is not None:
        negative, positive = text.negative, text.positive
    if count == 1:  # without guidance
        texts = weighted(model.encode_text(params, positive))
    else:
        both = weighted(model.encode_text(params, _concatenated([negative, positive])))
        negative = jax.tree.map(lambda x: x[:-examples], both)
        positive = jax.tree.map(lambda x: x[-examples:], both)
        negative = jax.tree.map(lambda x, like: jnp.broadcast_to(x, like.shape), negative, positive)
        texts = _concatenated([negative] * (count - 1) + [positive])
    shown = jnp.repeat(jnp.array([0.0, 1.0, 1.0][-count:]), examples)
    regions = None
    if model.ragaf is not None:
        regions = model.locate(
            jnp.concatenate([batch.labels] * count),
            _concatenated([batch.graph] * count),
            texts.mask,
            shown,
        )
        if text is not None and texts.ids is not None:
            ids = jnp.concatenate([text.region_negative_ids] * (count - 1) + [text.region_text_ids])
            own = (texts.ids[:, None] == ids[..., None]) & texts.mask[:, None]
            regions = regions._replace(allowed=own)
    sketch = jnp.concatenate([batch.sketch] * count) * shown[:, None, None, None]
    shares = None
    if text is not None and text.mixture is not None:
        mixture = text.mixture
        weights = jnp.concatenate([mixture.negative] * (count - 1) + [mixture.positive])
        of_regions = model.region_shares(jnp.concatenate([batch.labels] * count))
        shares = tuple(level @ weights for level in of_regions)
    sizes = sizes_of(model, batch)
    if sizes is not None:
        sizes = jnp.concatenate([sizes] * count)
    return Conditioning(texts, sketch, regions, text_shares=shares, sizes=sizes)


def weighted(text: Text) -> Text:
    """The states times their weights; each text then keeps the mean of its states.

    As diffusers' community pipeline `lpw_stable_diffusion`, over all windows and channels of a
    text. What only the text encoder reads is removed.
    """
    weights, states, ids = text.weights, text.states, text.ids
    text = text._replace(weights=None, vectors=None, skip=None)
    if weights is None or states is None or ids is None:
        return text
    same = ids[:, None] == ids[..., None]

    def total(means: Float[Array, "b t"]) -> Float[Array, "b t"]:
        return jnp.where(same, means[:, None], 0).sum(-1)

    means = states.mean(-1)
    changed = total(means * weights)
    # The states of SDXL's empty texts are zeros, and stay so.
    scale = weights * total(means) / jnp.where(changed == 0, 1, changed)
    return text._replace(states=states * scale[..., None])


def _concatenated(trees: Sequence[T]) -> T:
    """The arrays of several trees, concatenated on the batch axis."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)


def own_cells(
    labels: Int[Array, "b rows columns"], with_text: Bool[Array, "b r"], grid: tuple[int, int]
) -> Bool[Array, "b h w 1"]:
    """The cells of regions `with_text` of their own in a grid of (h, w); all if no region has one.

    The cells in which a region has its greatest share are always its own, however small it is.
    """
    shares = flat(region_shares(labels, with_text.shape[1], grid))
    share = jnp.einsum("bpr,br->bp", shares, with_text.astype(shares.dtype))
    greatest = shares.max(1, keepdims=True)
    home = (shares == greatest) & (greatest > 0) & with_text[:, None]
    own = (share >= OWN_TEXT_SHARE) | home.any(-1) | ~with_text.any(1)[:, None]
    return own.reshape(-1, *grid, 1)
