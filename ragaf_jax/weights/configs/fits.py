"""Whether a ControlNet or a VAE belongs to a Stable Diffusion, from their configurations."""

import dataclasses
from typing import Any

from ragaf_jax.errors import UserError
from ragaf_jax.nets.text.clip import ClipTextConfig
from ragaf_jax.nets.text.sdxl import SdxlTextConfig
from ragaf_jax.nets.unet import UNetConfig
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.weights.configs.networks import ControlConfig

# Fields in which a ControlNet of SDXL may be smaller than the UNet's encoder.
_SMALLER = (
    "down_block_types",
    "mid_block_type",
    "transformer_layers_per_block",
    "attention_head_dim",
)


def control_differences(control: ControlConfig, unet: UNetConfig) -> dict[str, Any]:
    """The fields of a ControlNet's sizes in which it differs from a UNet, with its values."""
    pairs = {name: (getattr(control.unet, name), getattr(unet, name)) for name in _SMALLER}
    if control.unet.heads == unet.heads or not _encoder_depths(control.unet):
        del pairs["attention_head_dim"]
    found = {name: own for name, (own, other) in pairs.items() if own != other}
    if "transformer_layers_per_block" in found:  # lists by layer need it, without effect
        name = "reverse_transformer_layers_per_block"
        found[name] = getattr(control.unet, name)
    return found


def check_control(where: str, control: ControlConfig, unet: UNetConfig) -> None:
    """Refuses a ControlNet that does not copy this UNet's encoder, or for SDXL a smaller one.

    Raises:
      UserError: names the first field that differs.
    """
    other_half: tuple[str, ...] = (
        *("sample_size", "out_channels", "up_block_types", "attention_head_dim"),
        *("time_cond_proj_dim", "reverse_transformer_layers_per_block"),
    )
    if unet.addition_embed_type is not None:
        # A single file of a ControlNet without attention does not show fields of attention.
        depths = _encoder_depths(control.unet)
        other_half += _SMALLER
        other_half += () if any(depths) else ("cross_attention_dim",)
        other_half += () if depths else ("use_linear_projection",)
    pairs: dict[str, Any] = {
        field.name: (getattr(control.unet, field.name), getattr(unet, field.name))
        for field in dataclasses.fields(UNetConfig)
        if field.name not in other_half
    }
    if unet.addition_embed_type is None:
        pairs["attention_head_dim"] = (control.unet.heads, unet.heads)
    for name, (found, expected) in pairs.items():
        if found != expected:
            raise UserError(
                f"{name} of the ControlNet {where} is {found} and of the UNet {expected}; give one "
                "that was trained for this UNet."
            )


def _encoder_depths(unet: UNetConfig) -> tuple[int, ...]:
    """The depth of each transformer of the encoder; () without attention."""
    blocks = [unet.down_level(i) for i in range(len(unet.block_out_channels))]
    blocks.append(unet.mid_level())
    return sum((block.depths for block in blocks if block.heads is not None), ())


def check_text(unet: UNetConfig, text: ClipTextConfig | SdxlTextConfig, source: str) -> None:
    """Refuses a UNet that reads other text states or another pooled text.

    Raises:
      UserError: names both widths.
    """
    pooled = text.clip_g.projection_dim if isinstance(text, SdxlTextConfig) else 0
    pairs = {
        "cross_attention_dim": (unet.cross_attention_dim, text.hidden_size),
        "width of the pooled text": (unet.pooled_width, pooled),
    }
    for name, (found, expected) in pairs.items():
        if found != expected:
            raise UserError(
                f"The {name} of the UNet of {source} is {found} and that of its text encoders "
                f"{expected}, expected equal; give a whole Stable Diffusion."
            )


def check_vae(where: str, vae: VaeConfig, replaced: VaeConfig) -> None:
    """Refuses a VAE whose latents are not those of the VAE that it replaces.

    Raises:
      UserError: names the first property that differs.
    """
    for name in ("latent_channels", "downscale", "scaling_factor"):
        found, expected = getattr(vae, name), getattr(replaced, name)
        if found != expected:
            raise UserError(
                f"{name} of the VAE {where} is {found} and of the one that it replaces {expected}; "
                "give a VAE with the same latents, such as stabilityai/sd-vae-ft-mse for Stable "
                "Diffusion 1."
            )
