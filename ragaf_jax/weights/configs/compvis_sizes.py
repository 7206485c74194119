"""The sizes of networks in single files, which have no configuration.

They follow from the shapes of tensors. Heads, groups and activations have Stable Diffusion's
values.
"""

import re
from typing import Any

from ragaf_jax.errors import UserError
from ragaf_jax.nets.text.clip import ClipTextConfig
from ragaf_jax.nets.unet import MID_BLOCKS, TEXT_TIME, Depth, UNetConfig
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.weights.compvis import CLIP, CLIP_G, CLIP_L, OPEN_CLIP_HEAD, VAE
from ragaf_jax.weights.configs.networks import ControlConfig
from ragaf_jax.weights.stores import Shapes, Store

# Width of a head in SD 2's networks and in every CLIP; SD 1's UNet has eight heads at any width.
_HEAD = 64
# SDXL's addition to the timestep's features; its width is in the shapes.
_ADDED: dict[str, Any] = {"addition_embed_type": TEXT_TIME, "addition_time_embed_dim": 256}


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


def diffusers_control_sizes(store: Store) -> ControlConfig:
    """The sizes of a ControlNet by diffusers' tensor names; raises as `unet_sizes`."""
    shapes, hint = store.shapes, "controlnet_cond_embedding"

    def depth(module: str) -> int | None:
        """Blocks of a transformer, perhaps 0; None: there is no transformer."""
        if f"{module}.norm.weight" not in shapes:
            return None
        blocks = re.escape(f"{module}.transformer_blocks.")
        return _count(shapes, rf"{blocks}(\d+)\.norm1\.weight")

    try:
        levels = range(_count(shapes, r"down_blocks\.(\d+)\.resnets\.0\.conv1\.weight"))
        widths = tuple(shapes[f"down_blocks.{i}.resnets.0.conv1.weight"][0] for i in levels)
        halvings = _count(shapes, rf"{hint}\.blocks\.(\d+)\.weight") // 2
        wider = (shapes[f"{hint}.blocks.{2 * i + 1}.weight"][0] for i in range(halvings))
        channels = (shapes[f"{hint}.conv_in.weight"][0], *wider)
        down = [depth(f"down_blocks.{i}.attentions.0") for i in levels]
        mid = depth("mid_block.attentions.0")
        last = mid if down[-1] is None else down[-1]
        depths = [1 if x is None else x for x in (*down[:-1], last)]
        linear = any(len(x) == 2 for name, x in shapes.items() if name.endswith("proj_in.weight"))
        read = (x[1] for name, x in shapes.items() if name.endswith(".attn2.to_k.weight"))
        types = tuple("DownBlock2D" if x is None else "CrossAttnDownBlock2D" for x in down)
        added = shapes.get("add_embedding.linear_1.weight")
        unet = UNetConfig(
            in_channels=shapes["conv_in.weight"][1],
            block_out_channels=widths,
            down_block_types=types,
            up_block_types=tuple(name.replace("Down", "Up") for name in types[::-1]),
            layers_per_block=_count(shapes, r"down_blocks\.0\.resnets\.(\d+)\.conv1\.weight"),
            attention_head_dim=_heads(widths, linear) if linear else 8,
            cross_attention_dim=next(read, UNetConfig.cross_attention_dim),
            use_linear_projection=linear,
            transformer_layers_per_block=depths[0] if len(set(depths)) == 1 else tuple(depths),
            mid_block_type=MID_BLOCKS[mid is None],
            **_added(added),
        )
    except (KeyError, IndexError, ValueError) as error:
        raise _unknown(store, error) from None
    return ControlConfig(unet, channels)


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
    shapes, projection = store.shapes, None
    if prefix in (CLIP, CLIP_L):
        named = any(name.startswith("text_model.") for name in shapes)
        model = "text_model." if named else ""
        token, position = (f"{model}embeddings.{x}_embedding.weight" for x in ("token", "position"))
        first = f"{model}encoder.layers.0.mlp.fc1.weight"
        layers = _count(shapes, rf"{model}encoder\.layers\.(\d+)\.mlp\.fc1\.weight")
        activation = "quick_gelu"
    else:
        token, position = "token_embedding.weight", "positional_embedding"
        first = "transformer.resblocks.0.mlp.c_fc.weight"
        layers = _count(shapes, r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.weight")
        activation = "gelu"
        if prefix == CLIP_G:
            projection = shapes.get("text_projection", (0, 0))[-1]
        else:
            # SD 2 uses the states before OpenCLIP's last block. Files without the head also lack
            # that block.
            layers -= any(name in shapes for name in OPEN_CLIP_HEAD)
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
            projection_dim=projection,
        )
    except (KeyError, IndexError, ValueError) as error:
        raise _unknown(store, error) from None


def is_usual(config: UNetConfig) -> bool:
    """Whether a file of this UNet, or of its encoder half, shows all its sizes, as SD's do."""
    not_in_shapes, usual = ("norm_num_groups", "flip_sin_to_cos", "freq_shift"), UNetConfig()
    heads = _heads(config.block_out_channels, config.use_linear_projection)
    same = all(getattr(config, name) == getattr(usual, name) for name in not_in_shapes)
    added = config.addition_time_embed_dim in (None, _ADDED["addition_time_embed_dim"])
    return same and added and config.heads == heads


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
    # Of any transformer: SSD-1B has none in its middle block.
    first_block = ".1.transformer_blocks.0.attn2.to_k.weight"
    module = next((x.removesuffix(first_block) for x in shapes if x.endswith(first_block)), "")
    linear = len(shapes[f"{module}.1.proj_in.weight"]) == 2
    guidance = shapes.get("time_embed.cond_proj.weight")
    added = shapes.get("label_emb.0.0.weight")
    return UNetConfig(
        in_channels=shapes["input_blocks.0.0.weight"][1],
        out_channels=out_channels,
        block_out_channels=widths,
        down_block_types=tuple("CrossAttnDownBlock2D" if x else "DownBlock2D" for x in down),
        up_block_types=tuple("CrossAttnUpBlock2D" if x else "UpBlock2D" for x in up),
        layers_per_block=period - 1,
        attention_head_dim=_heads(widths, linear) if linear else 8,
        cross_attention_dim=shapes[module + first_block][1],
        use_linear_projection=linear,
        time_cond_proj_dim=None if guidance is None else guidance[1],
        mid_block_type=MID_BLOCKS["middle_block.1.norm.weight" not in shapes],
        **_depths(shapes, len(widths), period),
        **_added(added),
    )


def _added(shape: tuple[int, ...] | None) -> dict[str, Any]:
    """The fields for SDXL's added conditions, from the shape of their first layer's kernel."""
    if shape is None:
        return {}
    return {**_ADDED, "projection_class_embeddings_input_dim": shape[1]}


def _depths(shapes: Shapes, levels: int, period: int) -> dict[str, Any]:
    """The fields of `UNetConfig` for the blocks of each transformer; 1 where there is none."""

    def depth(module: str) -> int:
        return _count(shapes, rf"{module}\.1\.transformer_blocks\.(\d+)\.norm1\.weight")

    def plain(found: list[int]) -> Depth:
        """One number if all layers are equal."""
        return found[0] if len(set(found)) == 1 else tuple(found)

    layers = range(1, period)
    down = [
        plain([depth(rf"input_blocks\.{i * period + j}") for j in layers]) for i in range(levels)
    ]
    down[-1] = down[-1] or depth("middle_block")  # which has the last level's, as in diffusers
    down = [x or 1 for x in down]
    depths: Any = down[0] if len(set(down)) == 1 and isinstance(down[0], int) else tuple(down)
    fields = {"transformer_layers_per_block": depths}
    if any(name.startswith("output_blocks.") for name in shapes):
        layers = range(period)
        up = [
            plain([depth(rf"output_blocks\.{i * period + j}") for j in layers])
            for i in range(levels)
        ]
        up = [
            x or 1 if isinstance(y, tuple) else x or y for x, y in zip(up, down[::-1], strict=True)
        ]
        if up != down[::-1]:
            fields["reverse_transformer_layers_per_block"] = tuple(up)
    return fields


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the greatest number in the names that match."""
    found = [int(m[1]) for name in shapes if (m := re.fullmatch(pattern, name))]
    return max(found, default=-1) + 1


def _unknown(store: Store, error: Exception) -> UserError:
    return UserError(
        f"{store.source} holds no network of Stable Diffusion 1, 2 or XL with known tensor names "
        f"({error}), expected one."
    )
