"""Conversion between diffusers' and transformers' `config.json` and this package's configurations.

Every field is applied, known to be without effect here, or refused by name.
"""

import dataclasses
from typing import Any, NamedTuple, TypeVar

from ragaf_jax.errors import UserError
from ragaf_jax.nets.clip_text import ClipTextConfig
from ragaf_jax.nets.unet import UNetConfig
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.weights.configs.fields import Json, field, shown
from ragaf_jax.weights.configs.kinds import check_unet

T = TypeVar("T")

# Fields with the only value that these networks support.
_UNET_FIXED = {
    "act_fn": "silu",
    "addition_embed_type": None,
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
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "reverse_transformer_layers_per_block": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": 1,
}
# Fields of parts that the fixed fields exclude, or without effect: softmax is always float32, and
# training has no dropout.
_UNET_IGNORED = (
    "addition_embed_type_num_heads",
    "addition_time_embed_dim",
    "class_embeddings_concat",
    "dropout",
    "projection_class_embeddings_input_dim",
    "upcast_attention",
)
_CONTROL_FIXED = {
    **_UNET_FIXED,
    "time_cond_proj_dim": None,
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
    "projection_dim",
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
    _check(config, "UNet2DConditionModel", _UNET_FIXED, known, source)
    return _make(UNetConfig, _one_size(config), source)


def control_config(config: Json, source: str) -> ControlConfig:
    """The configuration of a ControlNetModel; raises as `unet_config`."""
    channels = "conditioning_embedding_out_channels"
    known = (*_fields(UNetConfig), channels, *_UNET_IGNORED)
    known = tuple(name for name in known if name != "time_cond_proj_dim")
    check_unet(config, source)
    _check(config, "ControlNetModel", _CONTROL_FIXED, known, source)
    down = field(config, "down_block_types", UNetConfig.down_block_types, source)
    up = [name.replace("Down", "Up") for name in reversed(down)]
    # Some files have fields of the decoder, which a ControlNet lacks.
    sizes = {**_one_size(config), "out_channels": None, "up_block_types": up}
    unet = _make(UNetConfig, sizes, source)
    return ControlConfig(unet, field(config, channels, (16, 32, 96, 256), source))


def vae_config(config: Json, source: str) -> VaeConfig:
    """The configuration of an AutoencoderKL; raises as `unet_config`."""
    levels = len(field(config, "block_out_channels", VaeConfig.block_out_channels, source))
    known = (*_fields(VaeConfig), "force_upcast")
    _check(config, "AutoencoderKL", {**_VAE_FIXED, **_vae_blocks(levels)}, known, source)
    return _make(VaeConfig, _one_size(config), source)


def text_config(config: Json, source: str) -> ClipTextConfig:
    """The configuration of a CLIPTextModel; raises as `unet_config`."""
    if (kind := config.get("architectures")) not in (None, [], ["CLIPTextModel"]):
        raise UserError(
            f"architectures in {source} is {shown(kind)}, expected ['CLIPTextModel']: these "
            "networks are those of Stable Diffusion 1 and 2."
        )
    known = (*_fields(ClipTextConfig), *_TEXT_IGNORED, "architectures")
    _check(config, None, _TEXT_FIXED, known, source)
    # transformers' defaults are those of a smaller CLIP than Stable Diffusion's.
    defaults = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    return _make(ClipTextConfig, {**defaults, **config}, source)


def unet_json(config: UNetConfig) -> dict[str, Any]:
    """The inverse of `unet_config`."""
    return {"_class_name": "UNet2DConditionModel", **_UNET_FIXED, **dataclasses.asdict(config)}


def control_json(config: ControlConfig) -> dict[str, Any]:
    """The inverse of `control_config`."""
    known = dataclasses.asdict(config.unet)
    half = ("out_channels", "up_block_types", "sample_size", "time_cond_proj_dim")
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
    """The inverse of `text_config`."""
    kind = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}
    return {**kind, **dataclasses.asdict(config)}


def _vae_blocks(levels: int) -> Json:
    down, up = ["DownEncoderBlock2D"] * levels, ["UpDecoderBlock2D"] * levels
    return {"down_block_types": down, "up_block_types": up}


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
        if name.startswith("_") or name in known:
            continue
        if name not in fixed:
            if value in (None, False):
                continue  # an unused feature
            raise UserError(
                f"{source} has the field {name} = {shown(value)}, which these networks do not "
                "support; expected the config.json of Stable Diffusion 1 or 2."
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
