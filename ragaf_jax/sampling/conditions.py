"""Conditions of the evaluations of a guided step, and the cells that region prompts decide."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from ragaf_jax.batch import Batch
from ragaf_jax.nets.model import Conditioning, Model, Params
from ragaf_jax.nets.regions import region_shares
from ragaf_jax.sampling.sampling_config import SamplingConfig, Scales, TextConditioning

# The least share of a cell in regions with their own text at which the cell is theirs. At 0.5 the
# rims of such regions keep the colours of the main prompt; near 0 small neighbours lose theirs.
OWN_TEXT_SHARE = 0.25


def evaluations(scales: Scales) -> int:
    """Evaluations of the networks in a step: 1 unguided, 2 by text, 3 by text and sketch."""
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
    """The last `count` of (nothing), (sketch) and (sketch and text), stacked on the batch axis.

    Args:
      model: static.
      sampling: static.
      params: of the stage.
      batch: sketches, regions and, without `text`, captions.
      count: static; `evaluations` of a step.
      text: texts of requests. Without it, (nothing) has the empty prompt, and all regions attend to
        the captions.
    """
    examples = batch.tokens.shape[0]
    negative_tokens, negative_mask = (
        jnp.asarray(x[None]) for x in (sampling.empty_tokens, sampling.empty_mask)
    )
    tokens, mask, text_ids = batch.tokens, batch.token_mask, None
    if text is not None:
        negative_tokens, negative_mask = text.negative_tokens, text.negative_mask
        tokens, mask, text_ids = text.tokens, text.token_mask, text.text_ids
    if count == 1:  # without guidance
        states = model.encode_text(params, tokens, texts=text_ids)
    else:
        if text_ids is not None:
            text_ids = jnp.concatenate([jnp.zeros_like(text_ids), text_ids])
        both = model.encode_text(params, jnp.concatenate([negative_tokens, tokens]), texts=text_ids)
        negative, positive = both[:-examples], both[-examples:]
        negative = jnp.broadcast_to(negative, positive.shape)
        states = jnp.concatenate([negative] * (count - 1) + [positive])
    shown = jnp.repeat(jnp.array([0.0, 1.0, 1.0][-count:]), examples)
    regions = None
    if model.ragaf is not None:
        negative_mask = jnp.broadcast_to(negative_mask, mask.shape)
        regions = model.locate(
            jnp.concatenate([batch.labels] * count),
            jax.tree.map(lambda x: jnp.concatenate([x] * count), batch.graph),
            jnp.concatenate([negative_mask] * (count - 1) + [mask]),
            shown,
        )
        if text is not None:
            own = text.text_ids[:, None] == text.region_text_ids[..., None]
            own = own & mask[:, None]
            others = jnp.broadcast_to(negative_mask[:, None], own.shape)
            allowed = jnp.concatenate([others] * (count - 1) + [own])
            regions = regions._replace(allowed=allowed)
    sketch = jnp.concatenate([batch.sketch] * count) * shown[:, None, None, None]
    return Conditioning(states, sketch, regions)


def own_cells(
    labels: Int[Array, "b s s"], region_text_ids: Int[Array, "b r"], side: int
) -> Bool[Array, "b {side} {side} 1"]:
    """The cells of regions with their own text; all cells if no region has any.

    However small a region is, the cells in which it has its greatest share are its own.
    """
    with_text = region_text_ids > 0
    shares = region_shares(labels, region_text_ids.shape[1], side)
    share = jnp.einsum("bpr,br->bp", shares, with_text.astype(shares.dtype))
    greatest = shares.max(1, keepdims=True)
    home = (shares == greatest) & (greatest > 0) & with_text[:, None]
    own = (share >= OWN_TEXT_SHARE) | home.any(-1) | ~with_text.any(1)[:, None]
    return own.reshape(-1, side, side, 1)
