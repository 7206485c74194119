"""ControlNet: a copy of the UNet's encoder for the sketch (Zhang et al. 2023)."""

from itertools import pairwise

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Num

from ragaf_jax.nets.blocks import DownBlock, MidBlock, block, contexts
from ragaf_jax.nets.kernels.pixel_blocks import to_blocks
from ragaf_jax.nets.layers import Conv3x3, Dense, zeros_init
from ragaf_jax.nets.unet import AddedConditions, UNetConfig, embed_time
from ragaf_jax.runtime.devices import traced_device

_LANES = 128  # channels of a TPU's vector


class ConditioningEmbedding(nn.Module):
    """Convolutions that bring the sketch to the latent's size: a halving per step of `channels`.

    On a TPU the first ones, slow because of few channels, compute on blocks of pixels.
    """

    features: int
    channels: tuple[int, ...]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, sketch: Float[Array, "b s1 s2 3"]) -> Float[Array, "b h w c"]:
        dtype, widths = self.dtype, self.channels
        block = _block(widths)
        x = sketch.astype(dtype)
        x = to_blocks(x, block) if block > 1 else x
        x = nn.silu(Conv3x3(widths[0], name="conv_in", block=block, dtype=dtype)(x))
        for i, (same, wider) in enumerate(pairwise(widths)):
            x = nn.silu(Conv3x3(same, name=f"blocks_{2 * i}", block=block, dtype=dtype)(x))
            halved = Conv3x3(wider, name=f"blocks_{2 * i + 1}", stride=2, block=block, dtype=dtype)
            x, block = nn.silu(halved(x)), max(block // 2, 1)
        return Conv3x3(self.features, name="conv_out", kernel_init=zeros_init, dtype=dtype)(x)


def _block(channels: tuple[int, ...]) -> int:
    """The side of the sketch's blocks, in pixels; two halvings reduce them to single pixels."""
    few = traced_device()[0] == "tpu" and channels[0] < _LANES
    return min(4, 2 ** (len(channels) - 1)) if few else 1


class ControlNet(nn.Module):
    """Residuals for the UNet's skips, all zero until trained, from zero convolutions (§3.1).

    The parameter tree is that of diffusers' `FlaxControlNetModel`. The sketch's side is the
    latent's times 2^(len(conditioning_channels) − 1). `remat` is one of `blocks.REMAT`.
    """

    config: UNetConfig
    conditioning_channels: tuple[int, ...] = (16, 32, 96, 256)
    dtype: Dtype = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        sample: Float[Array, "b h w c"],
        timesteps: Num[Array, " b"],
        text_states: Float[Array, "b t d"],
        sketch: Float[Array, "b s1 s2 3"],
        scale: Float[Array, ""] | Float[Array, "b r"] | float = 1.0,
        text_shares: tuple[Float[Array, "b _ n"], ...] | None = None,
        added: AddedConditions | None = None,
    ) -> tuple[
        tuple[Float[Array, "b _ _ _"], ...],
        Float[Array, "b _ _ _"],
        tuple[Float[Array, "b _ _ _"], ...],
    ]:
        """Residuals for the UNet's hidden states.

        Args:
          sample: the UNet's noisy latents.
          timesteps: integer or fractional, in 0 … T.
          text_states: the text encoder's states.
          sketch: in [0, 1], ink 1 on black.
          scale: strength of the residuals; 1 in training. An array [b, r] has a factor for each
            example and each of the r residuals: those of the skips, then that of the mid block.
          text_shares: as of `UNet`.
          added: pooled text and sizes, for a network with `addition_embed_type`.

        Returns:
          The residuals of the skips and of the mid block; and the hidden states before their zero
          convolutions, the mid block's last, without `scale`.

        Raises:
          ValueError: the sketch's size does not match the latent's, or no `added`.
        """
        config, dtype = self.config, self.dtype
        halvings = len(self.conditioning_channels) - 1
        expected = tuple(side << halvings for side in sample.shape[1:3])
        if sketch.shape[1:3] != expected:
            raise ValueError(
                f"the sketch is {sketch.shape[1:3]}, expected {expected}: {halvings} halvings make"
                f" the latent's {sample.shape[1:3]}"
            )
        width = config.block_out_channels[0]
        time = embed_time(config, timesteps, dtype, added=added)
        levels = len(config.block_out_channels)
        texts = contexts(text_states.astype(dtype), text_shares, levels)

        x = Conv3x3(width, name="conv_in", dtype=dtype)(sample.astype(dtype))
        channels, name = self.conditioning_channels, "controlnet_cond_embedding"
        x = x + ConditioningEmbedding(width, channels, dtype=dtype, name=name)(sketch)
        features = (x,)
        for i in range(levels):
            shape = config.down_level(i)._replace(remat=self.remat)
            x, outputs = block(DownBlock, shape, dtype, f"down_blocks_{i}")(x, time, texts[i])
            features += outputs
        shape = config.mid_level()._replace(remat=self.remat)
        x = block(MidBlock, shape, dtype, "mid_block")(x, time, texts[-1])

        def zero(x: Array, name: str) -> Array:
            width = x.shape[-1]
            return Dense(width, pointwise=True, kernel_init=zeros_init, dtype=dtype, name=name)(x)

        def factor(i: int) -> Array | float:
            if jnp.ndim(scale) == 0:
                return scale
            return jnp.asarray(scale)[:, i, None, None, None].astype(dtype)

        down = tuple(
            factor(i) * zero(skip, f"controlnet_down_blocks_{i}") for i, skip in enumerate(features)
        )
        return down, factor(len(features)) * zero(x, "controlnet_mid_block"), (*features, x)

    @property
    def residuals(self) -> int:
        """The number of residuals: those of the skips and that of the mid block."""
        levels = range(len(self.config.block_out_channels))
        blocks = [self.config.down_level(level) for level in levels]
        return 2 + sum(block.layers + block.resample for block in blocks)
