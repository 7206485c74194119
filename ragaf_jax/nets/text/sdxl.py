"""The two text encoders of Stable Diffusion XL (Podell et al. 2023, §2.1) as one network."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Int

from ragaf_jax.nets.layers import Dense, widened
from ragaf_jax.nets.text.clip import ClipTextConfig, TextTransformer, check_text


@dataclass(frozen=True)
class SdxlTextConfig:
    """The sizes of both encoders.

    Attributes:
      clip_l: CLIP ViT-L/14, whose states come first.
      clip_g: OpenCLIP ViT-bigG/14, which has the projection of the pooled text.
      padding: the second encoder's padding token, "!" in all published checkpoints. The first
        one's is the end token. Their vocabularies are equal.
      zero_empty: whether an empty text has zeros as states and pooled text, as in the base model's
        training and where diffusers' model_index.json has force_zeros_for_empty_prompt.
    """

    clip_l: ClipTextConfig
    clip_g: ClipTextConfig
    padding: int = 0
    zero_empty: bool = True

    def __post_init__(self) -> None:
        if self.clip_g.projection_dim is None:
            raise ValueError("projection_dim of the second text encoder is None, expected a width")
        for name in ("vocab_size", "max_position_embeddings"):
            one, two = getattr(self.clip_l, name), getattr(self.clip_g, name)
            if one != two:
                raise ValueError(f"{name} of the text encoders is {one} and {two}, expected equal")

    @property
    def vocab_size(self) -> int:
        """The number of token ids of either."""
        return self.clip_l.vocab_size

    @property
    def max_position_embeddings(self) -> int:
        """The longest text of either, in tokens."""
        return self.clip_l.max_position_embeddings

    @property
    def hidden_size(self) -> int:
        """Width of the joined states."""
        return sum(self.widths)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the token embeddings of each encoder."""
        return self.clip_l.hidden_size, self.clip_g.hidden_size

    @property
    def pooled_width(self) -> int:
        """Width of the pooled text."""
        return self.clip_g.projection_dim or 0

    @property
    def num_hidden_layers(self) -> int:
        """Layers that `clip_skip` counts in both: the last of each is always skipped."""
        return min(self.clip_l.num_hidden_layers, self.clip_g.num_hidden_layers) - 1


class PooledClipText(nn.Module):
    """Text states without the final norm, and the pooled text, as Stable Diffusion XL reads them.

    The parameter tree is that of transformers' `FlaxCLIPTextModelWithProjection`; without
    `projection_dim` there is no pooled text, and the tree is that of `ClipText`.
    """

    config: ClipTextConfig
    clip_skip: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b t"],
        vectors: Float[Array, "b t d"] | None = None,
        skip: Int[Array, " b"] | None = None,
        texts: Int[Array, "b t"] | None = None,
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b p"] | None]:
        """The states before the last `clip_skip` layers, and the pooled text, in float32.

        The pooled text is the projection of the last layer's normed state of the first end token,
        which has the highest id: of several texts in a row it is that of the first one.

        Args:
          tokens, vectors, skip, texts: as of `ClipText`.

        Raises:
          ValueError: as `ClipText`.
        """
        config = self.config
        check_text(config, tokens.shape[1], self.clip_skip)
        sizes = config, self.clip_skip, True
        network = TextTransformer(*sizes, dtype=self.dtype, name="text_model")
        states, last = network(tokens, None, texts, vectors, skip)
        if config.projection_dim is None:
            return widened(states), None
        end = last[jnp.arange(len(tokens)), jnp.argmax(tokens, axis=-1)]
        init = nn.initializers.normal(config.hidden_size**-0.5)
        project = Dense(
            config.projection_dim, False, kernel_init=init, dtype=self.dtype, name="text_projection"
        )
        return widened(states), widened(project(end))


class SdxlText(nn.Module):
    """Joined text states of both encoders, and the pooled text of the second.

    Each encoder gives the states before its last layer, without the final norm. `clip_skip` skips
    further layers, as diffusers' pipeline does. The parameter tree is {"clip_l", "clip_g"}, each
    that of its `PooledClipText`.
    """

    config: SdxlTextConfig
    clip_skip: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b t"],
        tokens_2: Int[Array, "b t"] | None = None,
        vectors: Float[Array, "b t d"] | None = None,
        skip: Int[Array, " b"] | None = None,
        texts: Int[Array, "b t"] | None = None,
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b p"]]:
        """The states, [clip_l, clip_g] along d, and the pooled text, in float32.

        Args:
          tokens: a text between its start and end tokens, and padding; -1 selects `vectors`.
          tokens_2: those of the second encoder, see `second_tokens`; None: the same.
          vectors: token embeddings of textual inversions for both encoders, joined along d.
          skip: of each row, instead of `clip_skip`.
          texts: as of `ClipText`.

        Raises:
          ValueError: as `ClipText`.
        """
        config, width = self.config, self.config.clip_l.hidden_size
        parts = (None, None) if vectors is None else jnp.split(vectors, [width], axis=-1)
        more = None if skip is None else skip + 1
        first = PooledClipText(config.clip_l, self.clip_skip + 1, self.dtype, name="clip_l")
        second = PooledClipText(config.clip_g, self.clip_skip + 1, self.dtype, name="clip_g")
        states, _ = first(tokens, parts[0], more, texts)
        tokens_2 = tokens if tokens_2 is None else tokens_2
        states_2, pooled = second(tokens_2, parts[1], more, texts)
        return jnp.concatenate([states, states_2], axis=-1), pooled


def second_tokens(
    config: SdxlTextConfig, tokens: Int[Array, "b t"], texts: Int[Array, "b t"] | None = None
) -> Int[Array, "b t"]:
    """The second encoder's tokens of windows of the same texts, with its own padding.

    The last end tokens of a window are padding, but the first of them is the text's own. It is
    padding too behind further `texts`, which are as of `ClipText`.

    As in the original code and ComfyUI. In diffusers the second tokenizer also has another token
    for "!" in texts: pass its tokens as `Text.tokens_2`.
    """
    is_end = tokens == tokens.max(-1, keepdims=True)
    last = jnp.cumprod(is_end[:, ::-1], -1)[:, ::-1]
    own = 1 if texts is None else texts.max(-1, keepdims=True) == 0
    return jnp.where(last * jnp.cumsum(last, -1) > own, config.padding, tokens)
