"""Encodes rows of one or several windows of text, and the empty text of Stable Diffusion XL."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool

from ragaf_jax.batch import Text
from ragaf_jax.nets.text.clip import ClipText, ClipTextConfig
from ragaf_jax.nets.text.sdxl import SdxlText, SdxlTextConfig, second_tokens


def text_encoder(
    config: ClipTextConfig | SdxlTextConfig, clip_skip: int = 0, dtype: Dtype = jnp.float32
) -> ClipText | SdxlText:
    """The network of these sizes."""
    kind = SdxlText if isinstance(config, SdxlTextConfig) else ClipText
    return kind(config, clip_skip, dtype)


def encode_windows(
    network: ClipText | SdxlText, apply: Callable[..., Any], text: Text, length: int
) -> Text:
    """The text with its states in float32 and, for SDXL, its pooled text.

    Each window of `length` tokens is encoded alone. The first window's text is pooled. SDXL's empty
    texts are zeros, if `SdxlTextConfig.zero_empty`.

    Args:
      network: of the stage.
      apply: applies it to the inputs of its `__call__`.
      text: without states.
      length: tokens of a window.
    """
    windows = max(1, text.tokens.shape[1] // length)

    def split(x: Any) -> Any:
        return None if x is None else x.reshape(-1, x.shape[1] // windows, *x.shape[2:])

    skip = None if text.skip is None else jnp.repeat(text.skip, windows)
    # Each of several windows has tokens of one text only.
    ids = text.ids if windows == 1 else None
    tokens, vectors = split(text.tokens), split(text.vectors)
    if not isinstance(network, SdxlText):
        states = apply(tokens, None, ids, vectors, skip)
        return text._replace(states=states.reshape(*text.tokens.shape, -1))
    tokens_2 = split(text.tokens_2)
    if tokens_2 is None:
        tokens_2 = second_tokens(network.config, tokens, ids)
    states, pooled = apply(tokens, tokens_2, vectors, skip, ids)
    states = states.reshape(*text.tokens.shape, -1)
    pooled = pooled.reshape(-1, windows, pooled.shape[-1])[:, 0]
    if network.config.zero_empty:
        described = _described(text)
        states, pooled = states * described[..., None], pooled * described[:, :1]
    return text._replace(states=states, pooled=pooled)


def _described(text: Text) -> Bool[Array, "b t"]:
    """Whether the text of each token has more tokens than start, end and padding."""
    tokens = text.tokens
    frame = (tokens == tokens[:, :1]) | (tokens == tokens.max(-1, keepdims=True))
    content = text.mask & ~frame
    if text.ids is None:
        return jnp.broadcast_to(content.any(-1, keepdims=True), tokens.shape)
    same = text.ids[:, None] == text.ids[..., None]
    return (same & content[:, None]).any(-1)
