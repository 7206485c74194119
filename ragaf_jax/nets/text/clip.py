"""CLIP's text transformer (Radford et al. 2021, §2.4), Stable Diffusion's text encoder."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float, Int

from ragaf_jax.nets.attention import attention, hide
from ragaf_jax.nets.layers import Dense, widened


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x·σ(1.702x), the approximation in OpenAI's training."""
    return x * nn.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": lambda x: nn.gelu(x, approximate=False)}


@dataclass(frozen=True)
class ClipTextConfig:
    """The used fields of transformers' `config.json`; the defaults are SD 1.5's (ViT-L/14).

    Attributes:
      vocab_size: number of token ids.
      hidden_size: width of the states.
      intermediate_size: width of the feed-forward layers.
      num_hidden_layers, num_attention_heads: depth and heads.
      max_position_embeddings: the longest text, in tokens.
      hidden_act: "quick_gelu" (OpenAI, SD 1) or "gelu" (OpenCLIP, SD 2).
      layer_norm_eps: ε of every layer norm.
      projection_dim: width of the pooled text of `sdxl.PooledClipText`; None: there is none.
    """

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_dim: int | None = None

    def __post_init__(self) -> None:
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act is {self.hidden_act!r}, expected {sorted(ACTIVATIONS)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}, expected a multiple of"
                f" num_attention_heads {self.num_attention_heads}"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the token embeddings of each encoder: of this one alone."""
        return (self.hidden_size,)


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and MLP, with OpenAI's initialisation."""

    config: ClipTextConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], bias: Float[Array, "#b 1 t t"]
    ) -> Float[Array, "b t d"]:
        y = _layer_norm(self.config, "layer_norm1", self.dtype)(x)
        x = x + SelfAttention(self.config, dtype=self.dtype, name="self_attn")(y, bias)
        y = _layer_norm(self.config, "layer_norm2", self.dtype)(x)
        return x + Mlp(self.config, dtype=self.dtype, name="mlp")(y)


class SelfAttention(nn.Module):
    """Multi-head self-attention with biased logits."""

    config: ClipTextConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], bias: Float[Array, "#b 1 t t"]
    ) -> Float[Array, "b t d"]:
        width = self.config.hidden_size

        def heads_of(name: str) -> Float[Array, "b t h _"]:
            y = _dense(width, width**-0.5, name, self.dtype)(x)
            return y.reshape(*x.shape[:2], self.config.num_attention_heads, -1)

        out = attention(heads_of("q_proj"), heads_of("k_proj"), heads_of("v_proj"), bias)
        project = _dense(width, _residual_scale(self.config), "out_proj", self.dtype)
        return project(out.reshape(x.shape))


class Mlp(nn.Module):
    """The feed-forward layer."""

    config: ClipTextConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        config, stddev = self.config, (2 * self.config.hidden_size) ** -0.5
        widen = _dense(config.intermediate_size, stddev, "fc1", self.dtype)
        hidden = ACTIVATIONS[config.hidden_act](widen(x))
        return _dense(config.hidden_size, _residual_scale(config), "fc2", self.dtype)(hidden)


class Embeddings(nn.Module):
    """The sum of token and position embeddings; `vectors` replace those of tokens -1."""

    config: ClipTextConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b t"],
        positions: Int[Array, "#b t"],
        vectors: Float[Array, "b t d"] | None = None,
    ) -> Float[Array, "b t d"]:
        def table(count: int, stddev: float, name: str) -> nn.Embed:
            width = self.config.hidden_size
            init = nn.initializers.normal(stddev)
            return nn.Embed(count, width, embedding_init=init, dtype=self.dtype, name=name)

        token = table(self.config.vocab_size, 0.02, "token_embedding")
        position = table(self.config.max_position_embeddings, 0.01, "position_embedding")
        embedded = token(tokens)
        if vectors is not None:
            embedded = jnp.where(tokens[..., None] < 0, vectors.astype(self.dtype), embedded)
        return embedded + position(positions)


class Encoder(nn.Module):
    """The stack of layers, under transformers' names `layers/0`, `layers/1`, …"""

    config: ClipTextConfig
    skip: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        bias: Float[Array, "#b 1 t t"],
        skip: Int[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b t d"]]:
        return Layers(self.config, self.skip, dtype=self.dtype, name="layers")(x, bias, skip)


class Layers(nn.Module):
    """The layers: the states before the last `skip`, and the last ones.

    An argument overrides `skip`. Skipped layers have parameters.
    """

    config: ClipTextConfig
    skip: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        bias: Float[Array, "#b 1 t t"],
        skip: Int[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b t d"]]:
        states = [x]
        for i in range(self.config.num_hidden_layers):
            layer = EncoderLayer(self.config, dtype=self.dtype, name=str(i))
            states.append(layer(states[-1], bias))
        if skip is not None:
            chosen = jnp.stack(states)[len(states) - 1 - skip, jnp.arange(len(x))]
            return chosen, states[-1]
        # The compiler removes unused layers.
        return states[len(states) - 1 - self.skip], states[-1]


class TextTransformer(nn.Module):
    """Embeddings, causal transformer, final layer norm.

    Returns the states before the last `skip` layers, normed, and the last ones, not normed. With
    `norm_last` only the last ones are normed instead.
    """

    config: ClipTextConfig
    skip: int = 0
    norm_last: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b t"],
        mask: Bool[Array, "b t"] | None = None,
        texts: Int[Array, "b t"] | None = None,
        vectors: Float[Array, "b t d"] | None = None,
        skip: Int[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b t d"]]:
        length = tokens.shape[1]
        visible = jnp.tril(jnp.ones((length, length), bool))[None]
        positions = jnp.arange(length)[None]
        if texts is not None:
            same = visible & (texts[:, :, None] == texts[:, None])
            positions = same.sum(-1) - 1 + (texts > 0)
            visible = same | (visible & (positions == 0)[:, None])
        if mask is not None:
            visible = visible & mask[:, None]
        embeddings = Embeddings(self.config, dtype=self.dtype, name="embeddings")
        x = embeddings(tokens, positions, vectors)
        encoder = Encoder(self.config, self.skip, dtype=self.dtype, name="encoder")
        x, last = encoder(x, hide(visible)[:, None], skip)
        norm = _layer_norm(self.config, "final_layer_norm", self.dtype)
        return (x, norm(last)) if self.norm_last else (norm(x), last)


class ClipText(nn.Module):
    """Text states of a caption. The parameter tree is that of transformers' `FlaxCLIPTextModel`.

    The last `clip_skip` layers before the final norm are skipped: 1 gives the states of the
    penultimate layer, for anime models (diffusers' `clip_skip`; other programs count from 1).
    """

    config: ClipTextConfig
    clip_skip: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b t"],
        mask: Bool[Array, "b t"] | None = None,
        texts: Int[Array, "b t"] | None = None,
        vectors: Float[Array, "b t d"] | None = None,
        skip: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b t d"]:
        """The last hidden states, after the final layer norm, in float32.

        Attention is causal: each token attends to itself and earlier ones.

        Args:
          tokens: a text between its start and end tokens, and padding; -1 selects `vectors`.
          mask: false for tokens to hide. Stable Diffusion was trained without it, with padding
            visible.
          texts: the text of each token, for several texts packed into one row: 0 for the first one
            and all padding; 1, 2 … for further ones, without start and end tokens. Each has the
            states that it would have alone (Krell et al. 2021, "Efficient Sequence Packing without
            Cross-contamination", §3.2); all share the row's start token.
          vectors: token embeddings of textual inversions (Gal et al. 2022, §4), read at tokens -1.
          skip: of each row, instead of `clip_skip`.

        Raises:
          ValueError: more tokens than positions, or `clip_skip` leaves no layer.
        """
        check_text(self.config, tokens.shape[1], self.clip_skip)
        network = TextTransformer(self.config, self.clip_skip, dtype=self.dtype, name="text_model")
        return widened(network(tokens, mask, texts, vectors, skip)[0])


def check_text(config: ClipTextConfig, length: int, clip_skip: int) -> None:
    """Raises ValueError for texts or skipped layers that do not fit the sizes."""
    if length > config.max_position_embeddings:
        raise ValueError(
            f"the text has {length} tokens, expected at most"
            f" max_position_embeddings {config.max_position_embeddings}"
        )
    if not 0 <= clip_skip < config.num_hidden_layers:
        raise ValueError(
            f"clip_skip is {clip_skip}, expected 0 to below the number of layers"
            f" {config.num_hidden_layers}"
        )


def _layer_norm(config: ClipTextConfig, name: str, dtype: Dtype) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=config.layer_norm_eps, dtype=dtype, name=name)


def _dense(features: int, stddev: float, name: str, dtype: Dtype) -> Dense:
    return Dense(features, kernel_init=nn.initializers.normal(stddev), dtype=dtype, name=name)


def _residual_scale(config: ClipTextConfig) -> float:
    """Standard deviation that keeps the sum of all 2L residual branches of order one."""
    return (2 * config.num_hidden_layers * config.hidden_size) ** -0.5
