"""The networks of a folder in diffusers' layout, from its JSON files."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from ragaf_jax.errors import UserError
from ragaf_jax.nets.text.clip import ClipTextConfig
from ragaf_jax.nets.text.sdxl import SdxlTextConfig
from ragaf_jax.nets.unet import UNetConfig
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.weights.configs import classes, fits, kinds, schedulers
from ragaf_jax.weights.configs import networks as configs
from ragaf_jax.weights.configs.fields import read_json

_INDEX = "model_index.json"
_SCHEDULER = "scheduler/scheduler_config.json"
_READERS = {
    "unet": configs.unet_config,
    "vae": configs.vae_config,
    "text_encoder": configs.text_config,
    "text_encoder_2": configs.projected_text_config,
}


class Described(NamedTuple):
    """The sizes of the networks of a Stable Diffusion."""

    unet: UNetConfig
    vae: VaeConfig
    text_encoder: ClipTextConfig | SdxlTextConfig


def described(path: Path, names: Collection[str], source: str) -> Described:
    """The networks of a folder in diffusers' layout.

    Existing files are checked before missing ones, because they show the kind of another model.

    Args:
      path: the folder, with at least its `descriptions`.
      names: of all files of the folder, relative to it.
      source: its name in errors: the folder or a hub id.

    Raises:
      UserError: it is not a Stable Diffusion 1, 2 or XL, or only a part of one.
    """
    index = read_json(path / _INDEX) if (path / _INDEX).exists() else {}
    if index:
        classes.check_index(index, source)
    kinds.check_components(names, source)
    if not any(name.startswith("unet/") for name in names):
        _check_part(path, source)
    sizes: dict[str, Any] = {
        folder: read(read_json(file), f"{source}/{folder}/config.json")
        for folder, read in _READERS.items()
        if (file := path / folder / "config.json").exists()
    }
    kinds.check_channels(sizes.get("unet"), sizes.get("vae"), source)
    kinds.check_no_refiner(sizes.get("unet"), source)
    if (path / _SCHEDULER).exists():
        schedulers.diffusion_fields(read_json(path / _SCHEDULER), f"{source}/{_SCHEDULER}")
    reads_pooled = "unet" in sizes and sizes["unet"].pooled_width
    for folder in _READERS:
        if folder not in sizes and (folder != "text_encoder_2" or reads_pooled):
            raise UserError(
                f"{source}/{folder}/config.json is missing; give a whole Stable Diffusion in "
                "diffusers' layout, with unet/, vae/, text_encoder/ and scheduler/."
            )
    if (second := sizes.pop("text_encoder_2", None)) is not None:
        first = sizes["text_encoder"]
        zero = index.get("force_zeros_for_empty_prompt", True) is not False
        sizes["text_encoder"] = configs.sdxl_text_config(first, second, source, zero)
    found = Described(**sizes)
    fits.check_text(found.unet, found.text_encoder, source)
    return found


def described_control(path: Path, names: Collection[str], source: str) -> configs.ControlConfig:
    """The ControlNet of a folder in diffusers' layout; the arguments are those of `described`.

    Raises:
      UserError: it is not a ControlNet of Stable Diffusion 1, 2 or XL.
    """
    if "config.json" not in names:
        if any(name.startswith("controlnet/") for name in names):
            raise UserError(f"{source} is no ControlNet but holds one; give {source}/controlnet.")
        index = read_json(path / _INDEX) if (path / _INDEX).exists() else {}
        classes.check_no_pipeline(index, names, source)
    return configs.control_config(read_json(path / "config.json"), f"{source}/config.json")


def _check_part(path: Path, source: str) -> None:
    """Raises UserError, which names the kind of a folder without unet/."""
    hint = "give a folder with unet/, vae/, text_encoder/, scheduler/ and tokenizer/"
    if (path / "config.json").exists():
        classes.check_alone(read_json(path / "config.json"), source)
    elif (path / "checkpoints").exists():
        hint = "it is a workdir of this package: resume it, or give it as --config.stage1"
    raise UserError(f"{source} holds no Stable Diffusion in diffusers' layout; {hint}.")
