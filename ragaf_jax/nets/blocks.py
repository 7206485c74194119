"""The Stable Diffusion UNet's blocks, with the parameter trees of diffusers' Flax models.

GELU is exact and the transformers' group norm has ε = 1e-6, as in the PyTorch models; diffusers'
Flax port approximated both.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from ragaf_jax.nets.attention import attention
from ragaf_jax.nets.layers import PRODUCT, Conv3x3, Dense, GroupNorm, upsample

# The modules that the backward pass recomputes, by policy (Chen et al. 2016, "Training Deep Nets
# with Sublinear Memory Cost"). Only their inputs are saved. "pointwise" also saves the outputs of
# convolutions, dense layers and attention, and recomputes only norms and activations.
REMAT: dict[str, tuple[str, ...]] = {
    "none": (),
    "attention": ("SpatialTransformer",),
    "pointwise": ("ResnetBlock", "SpatialTransformer"),
    "blocks": ("ResnetBlock", "SpatialTransformer"),
    "full": ("DownBlock", "MidBlock", "UpBlock"),
}


def rematerialized(kind: type[nn.Module], policy: str, static: tuple[int, ...] = ()) -> Any:
    """`kind`, rematerialised if the `policy` of `REMAT` includes it.

    Give the module an explicit name: the default name would change with the policy. `static` are
    positions of arguments of `__call__` that are no arrays; `self` is 0.
    """
    if kind.__name__ not in REMAT[policy]:
        return kind
    saved = None
    if policy == "pointwise":
        saved = jax.checkpoint_policies.save_only_these_names(PRODUCT)
    return nn.remat(kind, static_argnums=static, policy=saved)


class RegionSignal(NamedTuple):
    """RAGAF's input to a spatial transformer with p = h·w cells, r regions, t tokens, c channels.

    Attributes:
      share: fraction of each cell in each region; rows sum to 1.
      feature: added to the hidden states of a region's cells.
      logit_bias: added to the cross-attention logits of a region's cells, in all heads.
    """

    share: Float[Array, "b p r"]
    feature: Float[Array, "b r c"]
    logit_bias: Float[Array, "b r t"]


class Context(NamedTuple):
    """The texts that p cells attend to: one, or n of equal length one after another.

    Attributes:
      states: of all texts.
      shares: weight of each text in each cell; rows sum to 1. None: one text.
    """

    states: Float[Array, "b t d"]
    shares: Float[Array, "b p n"] | None = None


def contexts(
    states: Float[Array, "b t d"], shares: tuple[Float[Array, "b _ n"], ...] | None, levels: int
) -> tuple[Context, ...]:
    """The texts of each level of a UNet, with the shares of each level's cells."""
    each = [None] * levels if shares is None else shares
    return tuple(Context(states, of_level) for of_level in each)


class ResnetBlock(nn.Module):
    """GroupNorm → SiLU → conv, twice, with a 1×1 shortcut if c changes.

    The UNet adds the timestep's features in between.
    """

    channels: int
    groups: int = 32
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], time: Float[Array, "b e"] | None = None
    ) -> Float[Array, "b h w {self.channels}"]:
        dtype, channels = self.dtype, self.channels
        h = GroupNorm(self.groups, self.epsilon, silu=True, dtype=dtype, name="norm1")(x)
        h = Conv3x3(channels, name="conv1", dtype=dtype)(h)
        if time is not None:
            h = h + Dense(channels, dtype=dtype, name="time_emb_proj")(nn.silu(time))[:, None, None]
        h = GroupNorm(self.groups, self.epsilon, silu=True, dtype=dtype, name="norm2")(h)
        h = Conv3x3(channels, name="conv2", dtype=dtype)(h)
        if x.shape[-1] != channels:
            x = Dense(channels, pointwise=True, dtype=dtype, name="conv_shortcut")(x)
        return x + h


class Attention(nn.Module):
    """Multi-head attention from `x` to `context`, its logits biased by `bias` in every head.

    With `shares`, the context is n texts; their outputs, as if each were alone, are averaged.
    """

    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b p c"],
        context: Float[Array, "b t d"],
        bias: Float[Array, "b p t"] | None = None,
        shares: Float[Array, "b p n"] | None = None,
    ) -> Float[Array, "b p c"]:
        channels = x.shape[-1]

        def heads_of(name: str, source: Array) -> Array:
            y = Dense(channels, use_bias=False, dtype=self.dtype, name=name)(source)
            return y.reshape(*y.shape[:2], self.heads, -1)

        q, k, v = heads_of("to_q", x), heads_of("to_k", context), heads_of("to_v", context)
        if shares is None:
            out = attention(q, k, v, None if bias is None else bias[:, None])
        else:
            out = mixed_attention(q, k, v, bias, shares)
        return Dense(channels, dtype=self.dtype, name="to_out_0")(out.reshape(x.shape))


def mixed_attention(
    q: Float[Array, "b p h d"],
    k: Float[Array, "b t h d"],
    v: Float[Array, "b t h d"],
    bias: Float[Array, "b p t"] | None,
    shares: Float[Array, "b p n"],
) -> Float[Array, "b p h d"]:
    """Σₙ sharesₙ · attention to text n alone; the keys are n texts of t / n tokens.

    The mean of the texts' outputs by region is that of Regional Prompter's "attention" mode.
    """
    count = shares.shape[-1]

    def each(x: Array) -> Array:
        return x.reshape(-1, x.shape[1] // count, *x.shape[2:])

    biases = None
    if bias is not None:
        split = bias.reshape(*bias.shape[:2], count, -1)
        biases = split.swapaxes(1, 2).reshape(-1, 1, bias.shape[1], split.shape[-1])
    out = attention(jnp.repeat(q, count, 0), each(k), each(v), biases)
    out = out.reshape(len(q), count, *q.shape[1:])
    return jnp.einsum("bnphd,bpn->bphd", out, shares.astype(out.dtype))


class GEGLU(nn.Module):
    """a · GELU(b) with (a, b) = proj(x) (Shazeer 2020, eq. 6)."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b p c"]) -> Float[Array, "b p {self.features}"]:
        value, gate = jnp.split(Dense(2 * self.features, dtype=self.dtype, name="proj")(x), 2, -1)
        return value * nn.gelu(gate, approximate=False)


class FeedForward(nn.Module):
    """The transformer's feed-forward layer; names follow diffusers' Sequential."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b p c"]) -> Float[Array, "b p c"]:
        hidden = GEGLU(4 * x.shape[-1], dtype=self.dtype, name="net_0")(x)
        return Dense(x.shape[-1], dtype=self.dtype, name="net_2")(hidden)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward: each pre-normed and residual."""

    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b p c"],
        text: Context,
        text_bias: Float[Array, "b p t"] | None,
    ) -> Float[Array, "b p c"]:
        y = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm1")(x)
        x = x + Attention(self.heads, dtype=self.dtype, name="attn1")(y, y)
        y = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm2")(x)
        inputs = y, text.states, text_bias, text.shares
        x = x + Attention(self.heads, dtype=self.dtype, name="attn2")(*inputs)
        y = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm3")(x)
        return x + FeedForward(dtype=self.dtype, name="ff")(y)


class SpatialTransformer(nn.Module):
    """A transformer of `depth` blocks over the cells of a feature map, with RAGAF's signal.

    The region's feature enters before the first block, its logit bias in each block.
    """

    heads: int
    linear_projection: bool = False
    groups: int = 32
    depth: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        text: Context,
        region: RegionSignal | None = None,
    ) -> Float[Array, "b h w c"]:
        b, _, _, c = x.shape

        def project(name: str, y: Array) -> Array:
            return Dense(c, pointwise=not self.linear_projection, dtype=self.dtype, name=name)(y)

        y = GroupNorm(self.groups, epsilon=1e-6, dtype=self.dtype, name="norm")(x)
        y = project("proj_in", y.reshape(b, -1, c))
        text_bias = None
        if region is not None:
            y = y + checkpoint_name(region.share @ region.feature, PRODUCT).astype(y.dtype)
            text_bias = checkpoint_name(region.share @ region.logit_bias, PRODUCT)
        for i in range(self.depth):
            block = TransformerBlock(self.heads, dtype=self.dtype, name=f"transformer_blocks_{i}")
            y = block(y, text, text_bias)
        return x + project("proj_out", y).reshape(x.shape)


class Resample(nn.Module):
    """A 3×3 convolution that halves the sides, or follows upsampling to `size`.

    Halving pads each side by `padding`: (zeros before, zeros after).
    """

    channels: int
    padding: tuple[int, int] = (1, 1)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], size: tuple[int, int] | None = None
    ) -> Float[Array, "b h2 w2 {self.channels}"]:
        if size is None:
            return Conv3x3(self.channels, 2, self.padding, name="conv", dtype=self.dtype)(x)
        return Conv3x3(self.channels, name="conv", dtype=self.dtype)(upsample(x, size))


class BlockShape(NamedTuple):
    """The sizes of one level of the UNet, and its policy of `REMAT`.

    `heads` None: no attention. `depths` are the blocks of each transformer.
    """

    channels: int
    layers: int
    heads: int | None
    depths: tuple[int, ...]
    resample: bool
    linear_projection: bool
    groups: int
    remat: str = "none"

    def resnet(self, index: int, dtype: Dtype) -> ResnetBlock:
        kind = rematerialized(ResnetBlock, self.remat)
        return kind(self.channels, self.groups, dtype=dtype, name=f"resnets_{index}")

    def transformer(self, index: int, dtype: Dtype) -> SpatialTransformer:
        kind = rematerialized(SpatialTransformer, self.remat)
        sizes = self.heads, self.linear_projection, self.groups, self.depths[index]
        return kind(*sizes, dtype=dtype, name=f"attentions_{index}")


class DownBlock(nn.Module):
    """`layers` × (ResNet, transformer), then halving. Returns the output and the skips."""

    shape: BlockShape
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], time: Float[Array, "b e"], text: Context
    ) -> tuple[Float[Array, "b h2 w2 c2"], tuple[Float[Array, "b _ _ _"], ...]]:
        skips: tuple[Array, ...] = ()
        for i in range(self.shape.layers):
            x = self.shape.resnet(i, self.dtype)(x, time)
            if self.shape.heads is not None:
                x = self.shape.transformer(i, self.dtype)(x, text)
            skips += (x,)
        if self.shape.resample:
            x = Resample(self.shape.channels, dtype=self.dtype, name="downsamplers_0")(x)
            skips += (x,)
        return x, skips


class MidBlock(nn.Module):
    """ResNet, transformer, ResNet at the smallest size; without attention only the first ResNet."""

    shape: BlockShape
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, "b e"],
        text: Context,
        region: RegionSignal | None = None,
    ) -> Float[Array, "b h w c"]:
        x = self.shape.resnet(0, self.dtype)(x, time)
        if self.shape.heads is None:
            return x
        x = self.shape.transformer(0, self.dtype)(x, text, region)
        return self.shape.resnet(1, self.dtype)(x, time)


class UpBlock(nn.Module):
    """`layers` × (join the last skip, ResNet, transformer), then doubling to `size`.

    `skips` are consumed from the end; `regions` holds one signal or None per transformer.
    """

    shape: BlockShape
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        skips: tuple[Float[Array, "b h w _"], ...],
        time: Float[Array, "b e"],
        text: Context,
        regions: tuple[RegionSignal | None, ...],
        size: tuple[int, int] | None,
    ) -> Float[Array, "b h2 w2 c2"]:
        for i, (skip, region) in enumerate(zip(reversed(skips), regions, strict=True)):
            x = self.shape.resnet(i, self.dtype)(jnp.concatenate([x, skip], axis=-1), time)
            if self.shape.heads is not None:
                x = self.shape.transformer(i, self.dtype)(x, text, region)
        if self.shape.resample:
            x = Resample(self.shape.channels, dtype=self.dtype, name="upsamplers_0")(x, size)
        return x


def block(kind: type[nn.Module], shape: BlockShape, dtype: Dtype, name: str) -> Any:
    """A `DownBlock`, `MidBlock` or `UpBlock` with its policy of `REMAT`."""
    static = (6,) if kind is UpBlock else ()  # its `size` is no array
    return rematerialized(kind, shape.remat, static)(shape, dtype=dtype, name=name)
