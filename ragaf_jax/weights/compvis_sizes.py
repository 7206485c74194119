"""The sizes of networks in single files, which have no configuration.

They follow from the shapes of tensors. Heads, groups and activations have Stable Diffusion's
values.
"""

import re

from ragaf_jax.errors import UserError
from ragaf_jax.nets.clip_text import ClipTextConfig
from ragaf_jax.nets.unet import UNetConfig
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.weights.compvis import CLIP, OPEN_CLIP_HEAD, VAE
from ragaf_jax.weights.configs.networks import ControlConfig
from ragaf_jax.weights.stores import Shapes, Store

# Width of a head in SD 2's networks and in every CLIP; SD 1's UNet has eight heads at any width.
_HEAD = 64


def unet_sizes(store: Store) -> UNetConfig:
    """The sizes of a UNet or its encoder half; raises UserError for other networks' tensors."""
    try:
        return _unet_sizes(store.shapes)
    except (KeyError, IndexError, ValueError) as error:
        raise _unknown(store, error) from None


def control_sizes(store: Store) -> ControlConfig:
    """The sizes of a ControlNet; raises as `unet_sizes`."""
    shapes = store.shapes
    names = (f"input_hint_block.{i}.weight" for i in range(0, 64, 2))
    hints = [shapes[name] for name in names if name in shapes]
    # The first convolution, then pairs: one keeps the width, the other changes it.
    channels = (hints[0][0], *(shape[0] for shape in hints[2:-1:2]))
    return ControlConfig(unet_sizes(store), channels)


def vae_sizes(store: Store, groups: int = VaeConfig.norm_num_groups) -> VaeConfig:
    """The sizes of an autoencoder in the original layout or diffusers'; raises as `unet_sizes`.

    `groups` is the number of every group norm, which shapes do not show.
    """
    shapes = store.shapes
    if not shapes:
        raise UserError(
            f"{store.source} has no VAE under {VAE}, expected a whole Stable Diffusion; give a "
            "file with a VAE, or a VAE as config.init.vae."
        )
    original = "encoder.down.0.block.0.conv1.weight" in shapes
    block, layer = ("down", "block") if original else ("down_blocks", "resnets")
    try:
        levels = _count(shapes, rf"encoder\.{block}\.(\d+)\.{layer}\.0\.conv1\.weight")
        first = (f"encoder.{block}.{i}.{layer}.0.conv1.weight" for i in range(levels))
        return VaeConfig(
            in_channels=shapes["encoder.conv_in.weight"][1],
            out_channels=shapes["decoder.conv_out.weight"][0],
            block_out_channels=tuple(shapes[name][0] for name in first),
            layers_per_block=_count(shapes, rf"encoder\.{block}\.0\.{layer}\.(\d+)\.conv1\.weight"),
            latent_channels=shapes["quant_conv.weight"][0] // 2,
            norm_num_groups=groups,
        )
    except (KeyError, IndexError, ValueError) as error:
        raise _unknown(store, error) from None


def text_sizes(store: Store, prefix: str) -> ClipTextConfig:
    """The sizes of the text encoder under `prefix`; raises as `unet_sizes`."""
    shapes = store.shapes
    if prefix == CLIP:
        named = any(name.startswith("text_model.") for name in shapes)
        model = "text_model." if named else ""
        token, position = (f"{model}embeddings.{x}_embedding.weight" for x in ("token", "position"))
        first = f"{model}encoder.layers.0.mlp.fc1.weight"
        layers = _count(shapes, rf"{model}encoder\.layers\.(\d+)\.mlp\.fc1\.weight")
        activation = "quick_gelu"
    else:
        token, position = "token_embedding.weight", "positional_embedding"
        first = "transformer.resblocks.0.mlp.c_fc.weight"
        # SD 2 uses the states before OpenCLIP's last block. Files without the head also lack that
        # block.
        layers = _count(shapes, r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.weight")
        layers -= any(name in shapes for name in OPEN_CLIP_HEAD)
        activation = "gelu"
    try:
        vocabulary, width = shapes[token]
        return ClipTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=shapes[first][0],
            num_hidden_layers=layers,
            num_attention_heads=max(1, width // _HEAD),
            max_position_embeddings=shapes[position][0],
            hidden_act=activation,
        )
    except (KeyError, IndexError, ValueError) as error:
        raise _unknown(store, error) from None


def is_usual(config: UNetConfig) -> bool:
    """Whether a file of this UNet, or of its encoder half, shows all its sizes, as SD's do."""
    unsaid, usual = ("norm_num_groups", "flip_sin_to_cos", "freq_shift"), UNetConfig()
    heads = _heads(config.block_out_channels, config.use_linear_projection)
    same = all(getattr(config, name) == getattr(usual, name) for name in unsaid)
    return same and config.heads == heads


def _heads(widths: tuple[int, ...], linear: bool) -> tuple[int, ...]:
    return tuple(max(1, width // _HEAD) if linear else 8 for width in widths)


def _unet_sizes(shapes: Shapes) -> UNetConfig:
    blocks = _count(shapes, r"input_blocks\.(\d+)\.0\..*")
    halvings = [i for i in range(blocks) if f"input_blocks.{i}.0.op.weight" in shapes]
    period = halvings[0] if halvings else blocks
    first = range(1, blocks, period)
    widths = tuple(shapes[f"input_blocks.{i}.0.out_layers.3.weight"][0] for i in first)
    down = [f"input_blocks.{i}.1.norm.weight" in shapes for i in first]
    if any(name.startswith("output_blocks.") for name in shapes):
        up = [f"output_blocks.{i * period}.1.norm.weight" in shapes for i in range(len(widths))]
        out_channels = shapes["out.2.weight"][0]
    else:
        up, out_channels = down[::-1], shapes["input_blocks.0.0.weight"][1]
    attends = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    linear = len(shapes["middle_block.1.proj_in.weight"]) == 2
    guidance = shapes.get("time_embed.cond_proj.weight")
    return UNetConfig(
        in_channels=shapes["input_blocks.0.0.weight"][1],
        out_channels=out_channels,
        block_out_channels=widths,
        down_block_types=tuple("CrossAttnDownBlock2D" if x else "DownBlock2D" for x in down),
        up_block_types=tuple("CrossAttnUpBlock2D" if x else "UpBlock2D" for x in up),
        layers_per_block=period - 1,
        attention_head_dim=_heads(widths, linear) if linear else 8,
        cross_attention_dim=shapes[attends][1],
        use_linear_projection=linear,
        time_cond_proj_dim=None if guidance is None else guidance[1],
    )


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the greatest number in the names that match."""
    found = [int(m[1]) for name in shapes if (m := re.fullmatch(pattern, name))]
    return max(found, default=-1) + 1


def _unknown(store: Store, error: Exception) -> UserError:
    return UserError(
        f"{store.source} holds no network of Stable Diffusion 1 or 2 in the original layout "
        f"({error}), expected one; SDXL is not supported."
    )
