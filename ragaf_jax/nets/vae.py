"""Stable Diffusion's variational autoencoder (Rombach et al. 2022, §3.1), in pixels and moments.

The parameter tree is that of diffusers' `FlaxAutoencoderKL`, the results are those of PyTorch's
`AutoencoderKL`. `KlAutoencoder` adds scaling, sampling and tiling.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from ragaf_jax.nets.attention import attention
from ragaf_jax.nets.blocks import Resample, ResnetBlock
from ragaf_jax.nets.layers import Conv3x3, Dense, GroupNorm

# Of every group norm; the UNet has 1e-5.
EPSILON = 1e-6


@dataclass(frozen=True)
class VaeConfig:
    """The used fields of diffusers' `vae/config.json`; the defaults are SD's.

    Attributes:
      in_channels, out_channels: of the input and output images.
      block_out_channels: width of each level, finest first; all but the last halve the side.
      layers_per_block: ResNets per level of the encoder; the decoder's levels have one more.
      latent_channels: channels of a latent.
      norm_num_groups: groups of every group norm; must divide every width.
      sample_size: side of the images the weights were trained on; any side works.
      scaling_factor: scales the latents to unit variance, for the diffusion model.
      force_upcast: whether it computes in float32 in any model, as SDXL's original VAE must.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int = 512
    scaling_factor: float = 0.18215
    force_upcast: bool = False

    def __post_init__(self) -> None:
        if not self.block_out_channels:
            raise ValueError("block_out_channels is empty, expected a width per level")
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise ValueError(
                    f"block_out_channels has {width}, expected a multiple of norm_num_groups"
                    f" {self.norm_num_groups}"
                )
        if not self.scaling_factor > 0:
            raise ValueError(f"scaling_factor is {self.scaling_factor}, expected more than 0")

    @property
    def downscale(self) -> int:
        """Image side divided by latent side."""
        return 2 ** (len(self.block_out_channels) - 1)

    def resnet(self, level: int, index: int, dtype: Dtype) -> ResnetBlock:
        """A block's `index`-th ResNet, with the width of `level`."""
        width, groups = self.block_out_channels[level], self.norm_num_groups
        return ResnetBlock(width, groups, EPSILON, dtype=dtype, name=f"resnets_{index}")


class AttentionBlock(nn.Module):
    """Residual self-attention of one head over all cells."""

    groups: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        def project(name: str, y: Array) -> Array:
            return Dense(x.shape[-1], dtype=self.dtype, name=name)(y)

        cells = GroupNorm(self.groups, EPSILON, dtype=self.dtype, name="group_norm")(x)
        cells = cells.reshape(x.shape[0], -1, 1, x.shape[-1])
        q, k, v = project("query", cells), project("key", cells), project("value", cells)
        return x + project("proj_attn", attention(q, k, v)).reshape(x.shape)


class MidBlock(nn.Module):
    """ResNet, attention, ResNet at the smallest size."""

    config: VaeConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        config, dtype = self.config, self.dtype
        x = config.resnet(-1, 0, dtype)(x)
        x = AttentionBlock(config.norm_num_groups, dtype=dtype, name="attentions_0")(x)
        return config.resnet(-1, 1, dtype)(x)


class DownBlock(nn.Module):
    """The ResNets of `level`, then halving unless it is the last."""

    config: VaeConfig
    level: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        config, dtype = self.config, self.dtype
        for i in range(config.layers_per_block):
            x = config.resnet(self.level, i, dtype)(x)
        if self.level < len(config.block_out_channels) - 1:
            # With zeros only below and to the right, a side n becomes ⌊n/2⌋.
            x = Resample(x.shape[-1], (0, 1), dtype=dtype, name="downsamplers_0")(x)
        return x


class UpBlock(nn.Module):
    """The ResNets of `level`, then doubling unless it is the finest."""

    config: VaeConfig
    level: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        config, dtype = self.config, self.dtype
        for i in range(config.layers_per_block + 1):
            x = config.resnet(self.level, i, dtype)(x)
        if self.level > 0:
            _, h, w, c = x.shape
            x = Resample(c, dtype=dtype, name="upsamplers_0")(x, (2 * h, 2 * w))
        return x


class Encoder(nn.Module):
    """Images to features of twice the latent's channels."""

    config: VaeConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b s1 s2 c"]) -> Float[Array, "b h w m"]:
        config, dtype = self.config, self.dtype
        x = Conv3x3(config.block_out_channels[0], name="conv_in", dtype=dtype)(image.astype(dtype))
        for level in range(len(config.block_out_channels)):
            x = DownBlock(config, level, dtype=dtype, name=f"down_blocks_{level}")(x)
        x = MidBlock(config, dtype=dtype, name="mid_block")(x)
        return _out(x, 2 * config.latent_channels, config, dtype)


class Decoder(nn.Module):
    """Latents to images."""

    config: VaeConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, latents: Float[Array, "b h w z"]) -> Float[Array, "b s1 s2 c"]:
        config, dtype = self.config, self.dtype
        x = Conv3x3(config.block_out_channels[-1], name="conv_in", dtype=dtype)(latents)
        x = MidBlock(config, dtype=dtype, name="mid_block")(x)
        for i, level in enumerate(reversed(range(len(config.block_out_channels)))):
            x = UpBlock(config, level, dtype=dtype, name=f"up_blocks_{i}")(x)
        return _out(x, config.out_channels, config, dtype)


class Vae(nn.Module):
    """q(latent | image) and the image of a latent."""

    config: VaeConfig
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        config, dtype = self.config, self.dtype
        self.encoder = Encoder(config, dtype=dtype)
        self.decoder = Decoder(config, dtype=dtype)
        self.quant_conv = Dense(2 * config.latent_channels, pointwise=True, dtype=dtype)
        self.post_quant_conv = Dense(config.latent_channels, pointwise=True, dtype=dtype)

    def __call__(self, image: Float[Array, "b s1 s2 c"]) -> Float[Array, "b t1 t2 o"]:
        """The image of the posterior's mode, in float32."""
        return self.decode(self.encode(image)[0])

    def encode(
        self, image: Float[Array, "b s1 s2 c"]
    ) -> tuple[Float[Array, "b h w z"], Float[Array, "b h w z"]]:
        """Mean and log-variance of the Gaussian q(latent | image), in float32.

        A side n becomes ⌊n / downscale⌋.

        Raises:
          ValueError: a side is smaller than `downscale`.
        """
        if min(image.shape[1:3]) < self.config.downscale:
            raise ValueError(
                f"the image is {image.shape[1:3]}, expected sides of {self.config.downscale} or"
                " more, for at least one latent"
            )
        moments = self.quant_conv(self.encoder(image)).astype(jnp.float32)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def decode(self, latents: Float[Array, "b h w z"]) -> Float[Array, "b s1 s2 o"]:
        """The image of unscaled latents, not clipped, in float32."""
        return self.decoder(self.post_quant_conv(latents)).astype(jnp.float32)


def _out(
    x: Float[Array, "b h w c"], channels: int, config: VaeConfig, dtype: Dtype
) -> Float[Array, "b h w {channels}"]:
    """Norm, SiLU and convolution, for the end of a compact method."""
    x = GroupNorm(config.norm_num_groups, EPSILON, silu=True, dtype=dtype, name="conv_norm_out")(x)
    return Conv3x3(channels, name="conv_out", dtype=dtype)(x)
