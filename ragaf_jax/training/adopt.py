"""The configuration of a run that starts from Stable Diffusion's weights."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from ragaf_jax.checkpoints.reading import load_meta
from ragaf_jax.diffusion.prediction import PREDICTIONS
from ragaf_jax.errors import UserError, notify
from ragaf_jax.nets.text.clip import ClipTextConfig
from ragaf_jax.nets.text.sdxl import SdxlTextConfig
from ragaf_jax.nets.unet import UNetConfig
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.weights.configs.fits import check_control, control_differences
from ragaf_jax.weights.pretrained import Pretrained, open_control, open_pretrained
from ragaf_jax.weights.vocabulary import tokenizer_of

Fields = dict[str, Any]

# Fields that a Stable Diffusion determines. A later run takes them from an earlier checkpoint.
ADOPTED = (
    "init.",
    "data.text_length",
    "model.unet.",
    "model.text_encoder.",
    "model.text_encoder_2.",
    "model.control.",
    "model.autoencoder",
    "model.vae.",
    "model.conditioning_channels",
    "model.clip_skip",
    "model.lora.",
    "diffusion.",
)
# Fields of networks that configurations lack, with their defaults.
_UNUSUAL = (
    "transformer_layers_per_block",
    "reverse_transformer_layers_per_block",
    "mid_block_type",
    "addition_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
    "projection_dim",
    "force_upcast",
)
# Exceptions, which the command may set.
_CONFIGURABLE = ("diffusion.max_snr", "diffusion.min_snr_gamma")
# Fields that only affect the start of a run, with their defaults.
_START_FIELDS = {
    "init.variant": "",
    "init.ema": False,
    "init.vae": "",
    "init.control": "unet",
    "init.lora": "",
    "init.prediction": "",
    "model.clip_skip": 0,
}


def adopted(
    config: ConfigDict, workdir: Path, given: Collection[str] = ()
) -> tuple[ConfigDict, Tokenizer | None]:
    """`config` with the networks, schedule and tokenizer of the weights that the run starts from.

    A resumed run takes them from its own checkpoints, and Stage 2 from Stage 1's: the original
    files are no longer needed. Without such weights, `config` is unchanged and the tokenizer None.

    Args:
      given: paths of fields that the command sets; see `with_distilled_sampling`.

    Raises:
      UserError: the weights are missing or of an unknown architecture.
    """
    places = [workdir, *([Path(config.stage1)] if config.stage == 2 and config.stage1 else [])]
    for place in places:
        meta = load_meta(place)
        if meta is not None and meta["config"].get("init", {}).get("checkpoint"):
            fields = flatten_dict(meta["config"], sep=".")
            check_start_fields(config, fields, place)
            own_lora = bool(config.model.lora.patterns)
            adopted_fields = {
                name: value
                for name, value in fields.items()
                if name.startswith(ADOPTED)
                and name not in _CONFIGURABLE
                and not (own_lora and name.startswith("model.lora."))
            }
            config = with_fields(config, adopted_fields)
            config = with_distilled_sampling(config, config.diffusion.to_dict(), given)
            return config, Tokenizer.from_json(meta["tokenizer"])
        if meta is not None:
            if place == workdir and config.init.checkpoint:
                raise UserError(
                    f"config.init.checkpoint is {config.init.checkpoint!r}, and {workdir} was "
                    "started without one: leave it out, or start another workdir with it."
                )
            return config, None
    if not config.init.checkpoint:
        for name in ("init.ema", "init.vae", "init.control", "init.lora"):
            if (value := config[name]) != _START_FIELDS[name]:
                raise UserError(
                    f"config.{name} is {value!r} and config.init.checkpoint is empty: give the "
                    "Stable Diffusion that it belongs to."
                )
    # `check_start` refuses a Stage 2 without a Stage 1.
    if config.stage == 2 or not config.init.checkpoint:
        return config, None
    init = config.init
    pretrained = open_pretrained(init.checkpoint, init.variant, init.ema, init.vae)
    if pretrained.notice and not config.init.prediction:
        notify(pretrained.notice)
    for notice in pretrained.notices:
        notify(notice)
    config = with_fields(config, pretrained_fields(config, pretrained))
    config = with_distilled_sampling(config, config.diffusion.to_dict(), given)
    return config, tokenizer_of(pretrained, config.init.tokenizer)


def with_distilled_sampling(
    config: ConfigDict, diffusion: Mapping[str, Any], given: Collection[str]
) -> ConfigDict:
    """`config` that samples a distilled checkpoint in few steps, by its sampler and guidance.

    Args:
      diffusion: `config.diffusion` of the checkpoint, perhaps of an older version; 0
        `distilled_steps` leave `config` unchanged.
      given: paths of fields that the command sets, which keep their values.
    """
    if not diffusion.get("distilled_steps", 0):
        return config
    fields = {
        "sample.steps": diffusion["distilled_steps"],
        "sample.sampler": diffusion.get("distilled_sampler", "euler"),
        "sample.guidance": diffusion.get("distilled_guidance", 1.0),
    }
    return with_fields(config, {k: v for k, v in fields.items() if k not in given})


def check_start_fields(config: ConfigDict, stored: Fields, workdir: Path) -> None:
    """Refuses a start that differs from that of the run in `workdir`.

    Raises:
      UserError: names the first field that differs.
    """
    fields = flatten_dict(config.to_dict(), sep=".")
    for name, default in _START_FIELDS.items():
        if fields[name] not in (default, stored[name]):
            raise UserError(
                f"config.{name} is {fields[name]!r}, and {workdir} was started with "
                f"{stored[name]!r}: leave it out, or start another Stage 1 with it."
            )


def pretrained_fields(config: ConfigDict, pretrained: Pretrained) -> Fields:
    """The fields of a configuration that a Stable Diffusion determines, by their paths.

    Raises:
      UserError: its UNet predicts more than a latent, or the ControlNet belongs to another UNet.
    """
    channels, found = pretrained.vae.config.latent_channels, pretrained.unet.config.out_channels
    if found != channels:
        raise UserError(
            f"out_channels of the UNet of {pretrained.source} is {found}, expected the {channels} "
            "of a latent; give a model that predicts no variance."
        )
    own = {}
    if config.init.control != "unet":
        control = open_control(config.init.control, config.init.variant).config
        check_control(config.init.control, control, pretrained.unet.config)
        own["model.conditioning_channels"] = control.conditioning_channels
        smaller = control_differences(control, pretrained.unet.config)
        own |= {f"model.control.{name}": value for name, value in smaller.items()}
    distilled = {f"distilled_{k}": v for k, v in pretrained.distilled._asdict().items()}
    diffusion = {**pretrained.diffusion, **distilled}
    if config.init.prediction:
        if config.init.prediction not in PREDICTIONS:
            raise UserError(
                f"config.init.prediction is {config.init.prediction!r}; choose one of "
                f"{', '.join(PREDICTIONS)}."
            )
        diffusion["prediction"] = config.init.prediction
    networks = pretrained.unet.config, pretrained.text_encoder.config, pretrained.vae.config
    return fields_of(*networks, diffusion) | own


def fields_of(
    unet: UNetConfig,
    text_encoder: ClipTextConfig | SdxlTextConfig,
    vae: VaeConfig,
    diffusion: Fields,
) -> Fields:
    """The fields of a configuration for these networks and this noise schedule, by their paths."""
    networks: Fields = {"unet": unet, "text_encoder": text_encoder, "vae": vae}
    joint: Fields = {}
    if isinstance(text_encoder, SdxlTextConfig):
        networks |= {"text_encoder": text_encoder.clip_l, "text_encoder_2": text_encoder.clip_g}
        joint = {"padding": text_encoder.padding, "zero_empty": text_encoder.zero_empty}
    model: Fields = {name: _fields(x) for name, x in networks.items()}
    # Input and output sizes follow from the autoencoder and the data.
    for name in ("sample_size", "in_channels", "out_channels"):
        del model["unet"][name]
    data = {"text_length": text_encoder.max_position_embeddings}
    for name in model.keys() & {"text_encoder", "text_encoder_2"}:
        del model[name]["max_position_embeddings"]
    if joint:
        model["text_encoder_2"] |= joint
    model |= {"autoencoder": "kl", "conditioning_channels": (16, 32, 96, 256)}
    return flatten_dict({"data": data, "model": model, "diffusion": diffusion}, sep=".")


def _fields(network: Any) -> Fields:
    """The fields of a network's sizes; those of `_UNUSUAL` only if they are not the default."""
    return {
        field.name: getattr(network, field.name)
        for field in dataclasses.fields(network)
        if field.name not in _UNUSUAL or getattr(network, field.name) != field.default
    }


def with_fields(config: ConfigDict, fields: Fields) -> ConfigDict:
    """A copy of `config` with new values, of any type, in these fields."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked(), copy.ignore_type():
        for path, value in fields.items():
            parent, _, name = path.rpartition(".")
            section = copy[parent] if parent else copy
            with section.ignore_type():
                section[name] = value
    return copy
