"""From a configuration to a `Model`."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import ml_collections

from ragaf_jax.errors import UserError
from ragaf_jax.framing import BUCKET_FACTOR, parse_buckets
from ragaf_jax.nets.autoencoder import Autoencoder, HaarAutoencoder
from ragaf_jax.nets.blocks import REMAT
from ragaf_jax.nets.control import ControlNet
from ragaf_jax.nets.kl_autoencoder import KlAutoencoder
from ragaf_jax.nets.lora import LoraConfig
from ragaf_jax.nets.model import Model
from ragaf_jax.nets.ragaf import Ragaf, RagafConfig
from ragaf_jax.nets.text.clip import ClipTextConfig
from ragaf_jax.nets.text.sdxl import SdxlTextConfig
from ragaf_jax.nets.text.windows import text_encoder
from ragaf_jax.nets.unet import UNet, UNetConfig, injection_sites
from ragaf_jax.nets.vae import Vae, VaeConfig


def _fields(section: ml_collections.ConfigDict) -> dict[str, Any]:
    """Its fields, with tuples for lists, because a checkpoint's JSON turns tuples into lists."""

    def with_tuples(value: Any) -> Any:
        return tuple(map(with_tuples, value)) if isinstance(value, list | tuple) else value

    return {name: with_tuples(value) for name, value in section.to_dict().items()}


def build_model(config: ml_collections.ConfigDict) -> Model:
    """The networks of `config.stage`; see `configs/base.py` for the fields.

    Raises:
      UserError: contradictory sizes.
    """
    try:
        return _build(config)
    except (ValueError, TypeError) as error:
        raise UserError(f"config.model describes no model: {error}.") from error


def _build(config: ml_collections.ConfigDict) -> Model:
    data, nets = config.data, config.model
    dtype = jnp.dtype(nets.dtype)
    autoencoder = _autoencoder(nets, data.image_size, dtype)
    levels = len(nets.unet.block_out_channels)
    smallest = autoencoder.downscale * 2 ** (levels - 1)
    if data.image_size % smallest:
        raise UserError(
            f"config.data.image_size is {data.image_size}; networks of {levels} levels on latents "
            f"of 1/{autoencoder.downscale} need a multiple of {smallest}."
        )
    parse_buckets(data.buckets, data.image_size, smallest)
    halvings = len(nets.conditioning_channels) - 1
    if 2**halvings != autoencoder.downscale:
        raise UserError(
            f"config.model.conditioning_channels is {nets.conditioning_channels}; latents of "
            f"1/{autoencoder.downscale} need {autoencoder.downscale.bit_length()} numbers, with a "
            "halving between each two."
        )
    text_config = text_config_of(config)
    if nets.unet.cross_attention_dim != text_config.hidden_size:
        raise UserError(
            f"config.model.unet.cross_attention_dim is {nets.unet.cross_attention_dim} and "
            f"text_encoder.hidden_size {text_config.hidden_size}; they must be equal."
        )
    if nets.remat not in REMAT:
        raise UserError(f"config.model.remat is {nets.remat!r}; choose one of {', '.join(REMAT)}.")
    unet_config = UNetConfig(
        **_fields(nets.unet),
        sample_size=data.image_size // autoencoder.downscale,
        in_channels=autoencoder.channels,
        out_channels=autoencoder.channels,
    )
    # A ControlNet does not read the guidance scale, as in diffusers.
    own = {"time_cond_proj_dim": None, **_fields(nets.control)}
    control_config = dataclasses.replace(unet_config, **own)
    if nets.clip_skip >= text_config.num_hidden_layers:
        raise UserError(
            f"config.model.clip_skip is {nets.clip_skip}; the text encoder has "
            f"{text_config.num_hidden_layers} layers and needs at least one."
        )
    ragaf = None
    ragaf_config = RagafConfig(**_fields(nets.ragaf)) if config.stage == 2 else None
    # Stage 2 without injection trains the same networks further, as a baseline for RAGAF.
    if ragaf_config is not None and ragaf_config.inject:
        sites = injection_sites(unet_config)
        widths = tuple((site, channels) for site, (_, channels) in sites.items())
        steps = config.diffusion.steps
        ragaf = Ragaf(ragaf_config, widths, autoencoder.channels, steps, dtype)
    return Model(
        UNet(unet_config, dtype, nets.remat),
        ControlNet(control_config, tuple(nets.conditioning_channels), dtype, nets.remat),
        text_encoder(text_config, nets.clip_skip, dtype),
        autoencoder,
        image_size=data.image_size,
        text_length=data.text_length,
        max_regions=data.max_regions,
        max_edges=data.max_edges,
        ragaf=ragaf,
        lora=LoraConfig(**_fields(nets.lora)) if nets.lora.patterns else None,
    )


def text_config_of(config: ml_collections.ConfigDict) -> ClipTextConfig | SdxlTextConfig:
    """The sizes of the text encoder, of both for SDXL."""
    length = {"max_position_embeddings": config.data.text_length}
    first = ClipTextConfig(**_fields(config.model.text_encoder), **length)
    second = _fields(config.model.text_encoder_2)
    if not second:
        return first
    joint = {name: second.pop(name) for name in ("padding", "zero_empty")}
    return SdxlTextConfig(first, ClipTextConfig(**second, **length), **joint)


def _autoencoder(nets: ml_collections.ConfigDict, side: int, dtype: jnp.dtype) -> Autoencoder:
    """The autoencoder of a model of square images of `side` px."""
    if nets.autoencoder == "haar":
        return HaarAutoencoder(nets.haar_levels)
    if nets.autoencoder == "kl":
        vae = VaeConfig(**_fields(nets.vae))
        network = Vae(vae, jnp.dtype("float32") if vae.force_upcast else dtype)
        found = KlAutoencoder(network)
        cells = (side // found.downscale) ** 2
        if nets.unet.get("addition_embed_type") is None or cells < found.tile**2:
            return found
        # SDXL's square fills a tile, so that images of its other sizes would need several.
        return dataclasses.replace(found, whole=int(BUCKET_FACTOR * cells))
    raise UserError(f"config.model.autoencoder is {nets.autoencoder!r}; expected 'haar' or 'kl'.")
