"""The conditional UNet of Stable Diffusion, with inputs for a ControlNet and for RAGAF."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Num

from ragaf_jax.nets.blocks import (
    BlockShape,
    DownBlock,
    MidBlock,
    RegionSignal,
    UpBlock,
    block,
    contexts,
)
from ragaf_jax.nets.layers import (
    Conv3x3,
    GroupNorm,
    TimestepEmbedding,
    guidance_embedding,
    timestep_embedding,
    widened,
)

MID_SITE = "mid_block/attentions_0"
MID_BLOCKS = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D")
TEXT_TIME = "text_time"
# Numbers of an image that SDXL's networks read: see `AddedConditions`.
SIZES = 6

Depth = int | tuple[int, ...]


class AddedConditions(NamedTuple):
    """The conditions of SDXL's networks that are added to the timestep's features.

    Podell et al. 2023, "SDXL: Improving Latent Diffusion Models …", §2.2.

    Attributes:
      pooled: the pooled text.
      sizes: original height and width, top and left of the crop, target height and width, in
        pixels.
    """

    pooled: Float[Array, "b d"]
    sizes: Float[Array, "b 6"]


@dataclass(frozen=True)
class UNetConfig:
    """The used fields of diffusers' `config.json`; the defaults are SD 1.5's.

    Attributes:
      sample_size: side of the latent the weights were trained at; any height and width work.
      in_channels, out_channels: of the latent and of the prediction.
      block_out_channels: width of each level, finest first; each level halves the side.
      down_block_types: per level, "CrossAttnDownBlock2D" or "DownBlock2D" (no attention).
      up_block_types: per level from the coarsest, "CrossAttnUpBlock2D" or "UpBlock2D".
      layers_per_block: ResNets per down block; up blocks have one more.
      attention_head_dim: the *number* of heads, for all levels or per level. (diffusers keeps its
        wrong name for existing config files.)
      cross_attention_dim: width of the text states.
      use_linear_projection: whether the transformers' projections are dense layers, as in SD 2.
      flip_sin_to_cos, freq_shift: the convention of the timestep embedding.
      norm_num_groups: groups of every group norm; must divide every width.
      time_cond_proj_dim: width of the guidance scale's embedding, which UNets of latent consistency
        models read; None: no such input.
      transformer_layers_per_block: blocks of each transformer, for all levels, per level (SDXL) or
        per level and layer (SSD-1B).
      reverse_transformer_layers_per_block: those of the up blocks from the coarsest, if they are
        not the reverse.
      mid_block_type: "UNetMidBlock2DCrossAttn", or "UNetMidBlock2D" (no attention).
      addition_embed_type: "text_time" with `AddedConditions`, as in SDXL; None: without.
      addition_time_embed_dim: channels of the sinusoids of each of its sizes.
      projection_class_embeddings_input_dim: width of all that it adds.
    """

    sample_size: int = 64
    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    layers_per_block: int = 2
    attention_head_dim: int | tuple[int, ...] = 8
    cross_attention_dim: int = 768
    use_linear_projection: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    norm_num_groups: int = 32
    time_cond_proj_dim: int | None = None
    transformer_layers_per_block: int | tuple[Depth, ...] = 1
    reverse_transformer_layers_per_block: tuple[Depth, ...] | None = None
    mid_block_type: str = MID_BLOCKS[0]
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        kinds = {
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        }
        for name, known in kinds.items():
            types = getattr(self, name)
            if len(types) != levels or not set(types) <= set(known):
                raise ValueError(f"{name} is {types}, expected {levels} of {known}")
        if len(self.heads) != levels:
            raise ValueError(f"attention_head_dim is {self.heads}, expected {levels} numbers")
        for width, heads in zip(self.block_out_channels, self.heads, strict=True):
            if width % heads or width % self.norm_num_groups:
                raise ValueError(
                    f"block_out_channels has {width}, expected a multiple of its number of heads"
                    f" {heads} and of norm_num_groups {self.norm_num_groups}"
                )
        self._check_depths()
        if self.addition_embed_type is not None and self.pooled_width <= 0:
            raise ValueError(
                f"addition_embed_type is {self.addition_embed_type!r} and"
                f" projection_class_embeddings_input_dim"
                f" {self.projection_class_embeddings_input_dim}, expected more than {SIZES} times"
                f" addition_time_embed_dim {self.addition_time_embed_dim}"
            )

    def _check_depths(self) -> None:
        """Raises ValueError for depths of other numbers of levels or layers."""
        levels, layers = len(self.block_out_channels), self.layers_per_block
        down, up = self._down_depths, self.reverse_transformer_layers_per_block
        for name, depths, expected in (
            ("transformer_layers_per_block", down, layers),
            ("reverse_transformer_layers_per_block", up, layers + 1),
        ):
            listed = [x for x in depths or () if not isinstance(x, int)]
            if depths is not None and (
                len(depths) != levels or any(len(x) != expected for x in listed)
            ):
                raise ValueError(
                    f"{name} is {depths}, expected {levels} numbers or lists of {expected}"
                )
        if up is None and any(not isinstance(x, int) for x in down):
            raise ValueError(
                f"transformer_layers_per_block is {down}, expected also"
                " reverse_transformer_layers_per_block, for the up blocks"
            )

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads of each level, finest first."""
        heads = self.attention_head_dim
        return (heads,) * len(self.block_out_channels) if isinstance(heads, int) else heads

    @property
    def pooled_width(self) -> int:
        """Width of the pooled text that it reads; 0: it reads none."""
        numbers = SIZES * (self.addition_time_embed_dim or 0)
        return (self.projection_class_embeddings_input_dim or 0) - numbers

    @property
    def _down_depths(self) -> tuple[Depth, ...]:
        depths = self.transformer_layers_per_block
        return (depths,) * len(self.block_out_channels) if isinstance(depths, int) else depths

    @property
    def _up_depths(self) -> tuple[Depth, ...]:
        return self.reverse_transformer_layers_per_block or self._down_depths[::-1]

    def level(
        self, level: int, layers: int, depth: Depth, *, attend: bool, resample: bool
    ) -> BlockShape:
        """A block with the width and the heads of `level`, and transformers of `depth`."""
        return BlockShape(
            channels=self.block_out_channels[level],
            layers=layers,
            heads=self.heads[level] if attend else None,
            depths=(depth,) * layers if isinstance(depth, int) else depth,
            resample=resample,
            linear_projection=self.use_linear_projection,
            groups=self.norm_num_groups,
        )

    def down_level(self, level: int) -> BlockShape:
        """The down block of `level`, counted from the finest."""
        return self.level(
            level,
            self.layers_per_block,
            self._down_depths[level],
            attend=self.down_block_types[level] == "CrossAttnDownBlock2D",
            resample=level < len(self.block_out_channels) - 1,
        )

    def mid_level(self) -> BlockShape:
        """The mid block; of a list of depths, its transformer has the first, as in diffusers."""
        level = len(self.block_out_channels) - 1
        attend = self.mid_block_type == MID_BLOCKS[0]
        return self.level(level, 1, self._down_depths[level], attend=attend, resample=False)

    def up_level(self, index: int) -> BlockShape:
        """The `index`-th up block, counted from the coarsest."""
        level = len(self.block_out_channels) - 1 - index
        return self.level(
            level,
            self.layers_per_block + 1,
            self._up_depths[index],
            attend=self.up_block_types[index] == "CrossAttnUpBlock2D",
            resample=level > 0,
        )


def injection_sites(config: UNetConfig) -> dict[str, tuple[int, int]]:
    """(level, channels) of every transformer of the mid and up blocks, RAGAF's injection sites.

    Level 0 is the finest; each further level halves both sides of the latent, rounded up.
    """
    levels = len(config.block_out_channels)
    has_mid = config.mid_level().heads is not None
    sites = {MID_SITE: (levels - 1, config.block_out_channels[-1])} if has_mid else {}
    for index in range(levels):
        shape = config.up_level(index)
        if shape.heads is not None:
            for layer in range(shape.layers):
                sites[up_site(index, layer)] = (levels - 1 - index, shape.channels)
    return sites


def up_site(block: int, layer: int) -> str:
    """Name of an up block's transformer among the injection sites."""
    return f"up_blocks_{block}/attentions_{layer}"


def embed_time(
    config: UNetConfig,
    timesteps: Num[Array, " b"],
    dtype: Dtype,
    guidance: Float[Array, " b"] | None = None,
    added: AddedConditions | None = None,
) -> Float[Array, "b e"]:
    """The timestep's features, for the compact method of a network with `config`.

    guidance, added: as of `UNet`.
    """
    channels, width = config.block_out_channels[0], config.time_cond_proj_dim
    waves = timestep_embedding(timesteps, channels, config.flip_sin_to_cos, config.freq_shift)
    condition = None
    if width is not None and guidance is None:
        condition = jnp.zeros((len(timesteps), width))
    elif width is not None:
        condition = guidance_embedding(guidance, width)
    time = TimestepEmbedding(4 * channels, dtype=dtype, name="time_embedding")(waves, condition)
    if config.addition_embed_type is None:
        return time
    if added is None:
        raise ValueError(
            "added is None, expected pooled text and sizes: addition_embed_type is set"
        )
    width = config.addition_time_embed_dim or 0
    sizes = timestep_embedding(
        added.sizes.reshape(-1), width, config.flip_sin_to_cos, config.freq_shift
    )
    features = jnp.concatenate([added.pooled, sizes.reshape(len(timesteps), -1)], axis=-1)
    return time + TimestepEmbedding(4 * channels, dtype=dtype, name="add_embedding")(features)


class UNet(nn.Module):
    """ε-, v- or x₀-prediction from a noisy latent, its timestep and the text (Rombach et al. 2022).

    The parameter tree is that of diffusers' `FlaxUNet2DConditionModel`; `remat` is one of
    `blocks.REMAT`.
    """

    config: UNetConfig
    dtype: Dtype = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        sample: Float[Array, "b h w c"],
        timesteps: Num[Array, " b"],
        text_states: Float[Array, "b t d"],
        down_residuals: tuple[Float[Array, "b _ _ _"], ...] | None = None,
        mid_residual: Float[Array, "b _ _ _"] | None = None,
        regions: Mapping[str, RegionSignal] | None = None,
        guidance: Float[Array, " b"] | None = None,
        text_shares: tuple[Float[Array, "b _ n"], ...] | None = None,
        added: AddedConditions | None = None,
    ) -> Float[Array, "b h w o"]:
        """The prediction, in float32 or wider.

        Args:
          sample: noisy latents of any height and width.
          timesteps: integer or fractional, in 0 … T.
          text_states: of the text encoder.
          down_residuals: a ControlNet's residuals for the skips, in their order.
          mid_residual: its residual for the output of the mid block.
          regions: RAGAF's signals by site (`injection_sites`), for some or all sites.
          guidance: the guidance scale − 1, with `time_cond_proj_dim`; None: no embedding of it.
          text_shares: weight of each of n texts in the cells of each level, as in `Context`.
          added: pooled text and sizes, for a network with `addition_embed_type`.

        Raises:
          ValueError: a region signal for an unknown site, the wrong number of residuals, or no
            `added`.
        """
        config, dtype = self.config, self.dtype
        regions = regions or {}
        known = set(injection_sites(config))
        if unknown := sorted(set(regions) - known):
            raise ValueError(f"region signals for {unknown}, expected only {sorted(known)}")
        time = embed_time(config, timesteps, dtype, guidance, added)
        levels = len(config.block_out_channels)
        texts = contexts(text_states.astype(dtype), text_shares, levels)

        x = Conv3x3(config.block_out_channels[0], name="conv_in", dtype=dtype)(sample.astype(dtype))
        skips = (x,)
        for i in range(levels):
            shape = config.down_level(i)._replace(remat=self.remat)
            x, outputs = block(DownBlock, shape, dtype, f"down_blocks_{i}")(x, time, texts[i])
            skips += outputs
        if down_residuals is not None:
            skips = tuple(
                skip + residual.astype(dtype)
                for skip, residual in zip(skips, down_residuals, strict=True)
            )

        shape = config.mid_level()._replace(remat=self.remat)
        x = block(MidBlock, shape, dtype, "mid_block")(x, time, texts[-1], regions.get(MID_SITE))
        if mid_residual is not None:
            x = x + mid_residual.astype(dtype)

        for i in range(levels):
            shape = config.up_level(i)._replace(remat=self.remat)
            joined, skips = skips[-shape.layers :], skips[: -shape.layers]
            signals = tuple(regions.get(up_site(i, layer)) for layer in range(shape.layers))
            up = block(UpBlock, shape, dtype, f"up_blocks_{i}")
            size = skips[-1].shape[1:3] if skips else None
            x = up(x, joined, time, texts[levels - 1 - i], signals, size)

        x = GroupNorm(config.norm_num_groups, silu=True, dtype=dtype, name="conv_norm_out")(x)
        return widened(Conv3x3(config.out_channels, name="conv_out", dtype=dtype)(x))
