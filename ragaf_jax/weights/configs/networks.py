"""Conversion between diffusers' and transformers' `config.json` and this package's configurations.

Every field is applied, known to be without effect here, or refused by name.
"""

import dataclasses
from typing import Any, NamedTuple, TypeVar

from ragaf_jax.errors import UserError
from ragaf_jax.nets.text.clip import ClipTextConfig
from ragaf_jax.nets.text.sdxl import SdxlTextConfig
from ragaf_jax.nets.unet import MID_BLOCKS, UNetConfig
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.weights.configs.fields import Json, field, shown
from ragaf_jax.weights.configs.kinds import check_unet

T = TypeVar("T")

# Fields with the only value that these networks support.
_UNET_FIXED = {
    "act_fn": "silu",
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
# Fields with several values.
_UNET_CHOICES = {"mid_block_type": MID_BLOCKS}
# Fields of parts that the fixed fields exclude, or without effect: softmax is always float32, and
# training has no dropout.
_UNET_IGNORED = (
    "addition_embed_type_num_heads",
    "class_embeddings_concat",
    "dropout",
    "upcast_attention",
)
_CONTROL_FIXED = {
    **_UNET_FIXED,
    "time_cond_proj_dim": None,
    "reverse_transformer_layers_per_block": None,
    "conditioning_channels": 3,
    "controlnet_conditioning_channel_order": "rgb",
    "global_pool_conditions": False,
}
_VAE_FIXED = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
    "shift_factor": None,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}
_PROJECTED = "CLIPTextModelWithProjection"
_TEXT_FIXED = {"model_type": ("clip_text_model", "clip_text")}
_TEXT_IGNORED = (
    # Of every model of transformers, written by older releases and with use_diff=False.
    "chunk_size_feed_forward",
    "diversity_penalty",
    "id2label",
    "label2id",
    "length_penalty",
    "max_length",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "repetition_penalty",
    "return_dict",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    # Of CLIP.
    "attention_dropout",
    "bos_token_id",
    "dropout",
    "dtype",
    "eos_token_id",
    "initializer_factor",
    "initializer_range",
    "pad_token_id",
    "torch_dtype",
    "tie_word_embeddings",
    "transformers_version",
    "use_cache",
)


class ControlConfig(NamedTuple):
    """The contents of a ControlNet's config.json.

    Attributes:
      unet: of the UNet whose encoder it copies; fields of the decoder have their defaults.
      conditioning_channels: of the sketch's embedding.
    """

    unet: UNetConfig
    conditioning_channels: tuple[int, ...]


def unet_config(config: Json, source: str) -> UNetConfig:
    """The configuration of a UNet2DConditionModel; errors name `source`.

    Raises:
      UserError: an unknown field, or a value that these networks do not support.
    """
    known = (*_fields(UNetConfig), *_UNET_IGNORED)
    check_unet(config, source)
    _check(config, "UNet2DConditionModel", _UNET_FIXED | _UNET_CHOICES, known, source)
    return _make(UNetConfig, _plain(config), source)


def control_config(config: Json, source: str) -> ControlConfig:
    """The configuration of a ControlNetModel; raises as `unet_config`."""
    channels = "conditioning_embedding_out_channels"
    known = (*_fields(UNetConfig), channels, *_UNET_IGNORED)
    check_unet(config, source)
    _check(config, "ControlNetModel", _CONTROL_FIXED | _UNET_CHOICES, known, source)
    down = field(config, "down_block_types", UNetConfig.down_block_types, source)
    up = [name.replace("Down", "Up") for name in reversed(down)]
    # Some files have fields of the decoder, which a ControlNet lacks.
    sizes = {**_plain(config), "out_channels": None, "up_block_types": up}
    depths = sizes.get("transformer_layers_per_block")
    if isinstance(depths, list | tuple) and any(isinstance(x, list | tuple) for x in depths):
        sizes["reverse_transformer_layers_per_block"] = [1] * len(depths)  # of no effect
    unet = _make(UNetConfig, sizes, source)
    return ControlConfig(unet, field(config, channels, (16, 32, 96, 256), source))


def vae_config(config: Json, source: str) -> VaeConfig:
    """The configuration of an AutoencoderKL; raises as `unet_config`."""
    levels = len(field(config, "block_out_channels", VaeConfig.block_out_channels, source))
    known = _fields(VaeConfig)
    _check(config, "AutoencoderKL", {**_VAE_FIXED, **_vae_blocks(levels)}, known, source)
    return _make(VaeConfig, _one_size(config), source)


def text_config(config: Json, source: str) -> ClipTextConfig:
    """The configuration of a CLIPTextModel; raises as `unet_config`."""
    return _text_config(config, "CLIPTextModel", None, source)


def projected_text_config(config: Json, source: str) -> ClipTextConfig:
    """The configuration of a CLIPTextModelWithProjection; raises as `unet_config`."""
    found = _text_config(config, _PROJECTED, config.get("projection_dim", 512), source)
    # The pooled text is that of the token with the highest id.
    if (end := config.get("eos_token_id")) not in (None, 2, found.vocab_size - 1):
        raise UserError(
            f"eos_token_id in {source} is {shown(end)}, expected {found.vocab_size - 1}, the last "
            "of the vocabulary; give a text encoder with CLIP's vocabulary."
        )
    return found


def _text_config(config: Json, kind: str, projection: Any, source: str) -> ClipTextConfig:
    if (found := config.get("architectures")) not in (None, [], [kind]):
        raise UserError(
            f"architectures in {source} is {shown(found)}, expected [{kind!r}]: these "
            "networks are those of Stable Diffusion."
        )
    known = (*_fields(ClipTextConfig), *_TEXT_IGNORED, "architectures")
    _check(config, None, _TEXT_FIXED, known, source)
    # transformers' defaults are those of a smaller CLIP than Stable Diffusion's.
    defaults = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    sizes = {**defaults, **config, "projection_dim": projection}
    return _make(ClipTextConfig, sizes, source)


def sdxl_text_config(
    first: ClipTextConfig, second: ClipTextConfig, source: str, zero_empty: bool = True
) -> SdxlTextConfig:
    """The configuration of SDXL's text encoders; arguments as of `SdxlTextConfig`.

    Raises:
      UserError: they do not belong together.
    """
    try:
        return SdxlTextConfig(first, second, zero_empty=zero_empty)
    except ValueError as error:
        raise UserError(f"{source} has no pair of text encoders: {error}.") from None


def unet_json(config: UNetConfig) -> dict[str, Any]:
    """The inverse of `unet_config`."""
    return {"_class_name": "UNet2DConditionModel", **_UNET_FIXED, **dataclasses.asdict(config)}


def control_json(config: ControlConfig) -> dict[str, Any]:
    """The inverse of `control_config`."""
    known = dataclasses.asdict(config.unet)
    half = (
        *("out_channels", "up_block_types", "sample_size", "time_cond_proj_dim"),
        "reverse_transformer_layers_per_block",
    )
    return {
        "_class_name": "ControlNetModel",
        **{name: value for name, value in known.items() if name not in half},
        "conditioning_embedding_out_channels": config.conditioning_channels,
        "controlnet_conditioning_channel_order": "rgb",
        "global_pool_conditions": False,
    }


def vae_json(config: VaeConfig) -> dict[str, Any]:
    """The inverse of `vae_config`."""
    levels = len(config.block_out_channels)
    return {
        "_class_name": "AutoencoderKL",
        **dataclasses.asdict(config),
        "act_fn": "silu",
        **_vae_blocks(levels),
    }


def text_json(config: ClipTextConfig) -> dict[str, Any]:
    """The inverse of `text_config` and `projected_text_config`."""
    fields = {name: x for name, x in dataclasses.asdict(config).items() if x is not None}
    name = "CLIPTextModel"
    if config.projection_dim is not None:
        # As published: transformers then pools at the highest id, as `PooledClipText` does.
        name, fields["eos_token_id"] = _PROJECTED, 2
    return {"architectures": [name], "model_type": "clip_text_model", **fields}


def _vae_blocks(levels: int) -> Json:
    down, up = ["DownEncoderBlock2D"] * levels, ["UpDecoderBlock2D"] * levels
    return {"down_block_types": down, "up_block_types": up}


def _plain(config: Json) -> Json:
    """As `_one_size`, with one number for equal depths, and without widths of unused inputs."""
    depths = config.get("transformer_layers_per_block")
    if isinstance(depths, list) and len(set(map(str, depths))) == 1 and type(depths[0]) is int:
        config = {**config, "transformer_layers_per_block": depths[0]}
    if config.get("addition_embed_type") is None:
        unused = ("addition_time_embed_dim", "projection_class_embeddings_input_dim")
        config = {**config, **dict.fromkeys(unused)}
    return _one_size(config)


def _one_size(config: Json) -> Json:
    """The fields with one number as sample_size, which may be a height and a width."""
    side = config.get("sample_size")
    # The networks accept any size.
    return {**config, "sample_size": max(side)} if isinstance(side, list) and side else config


def _fields(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _check(
    config: Json, class_name: str | None, fixed: Json, known: tuple[str, ...], source: str
) -> None:
    found = config.get("_class_name")
    if class_name and found not in (None, class_name, f"Flax{class_name}"):
        raise UserError(
            f"_class_name in {source} is {shown(found)}, expected {class_name!r}; give "
            "another network."
        )
    for name, value in config.items():
        if name.startswith("_") or (name in known and name not in fixed):
            continue
        if name not in fixed:
            if value in (None, False):
                continue  # an unused feature
            raise UserError(
                f"{source} has the field {name} = {shown(value)}, which these networks do not "
                "support; expected the config.json of Stable Diffusion 1, 2 or XL."
            )
        expected = fixed[name]
        if isinstance(value, list) and not isinstance(expected, list):
            value = value[0] if len(set(map(str, value))) == 1 else value
        several = isinstance(expected, tuple)
        unused = value in (None, False) and expected in (None, False)
        if value != expected and not unused and not (several and value in expected):
            raise UserError(
                f"{name} in {source} is {shown(value)}, expected {expected!r}: these networks "
                "are those of Stable Diffusion 1 and 2."
            )


def _make(kind: type[T], config: Json, source: str) -> T:
    """A dataclass of its fields in `config`; null counts as missing."""
    fields = {f.name: field(config, f.name, f.default, source) for f in dataclasses.fields(kind)}
    try:
        return kind(**fields)
    except ValueError as error:
        raise UserError(f"{source} does not describe a network: {error}.") from None
