"""Opens a Stable Diffusion or ControlNet: its networks and their parameters."""

import dataclasses
import functools
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from ragaf_jax.errors import UserError
from ragaf_jax.nets.text.clip import ClipTextConfig
from ragaf_jax.nets.text.sdxl import SdxlTextConfig
from ragaf_jax.weights.configs import kinds, schedulers
from ragaf_jax.weights.configs.fields import read_json
from ragaf_jax.weights.configs.layout import described, described_control
from ragaf_jax.weights.configs.networks import (
    ControlConfig,
)
from ragaf_jax.weights.locate import (
    check_variant,
    choose_weights,
    descriptions,
    files_below,
    locate,
)
from ragaf_jax.weights.names import TEXT_SURPLUS, Naming, text_names, unet_names, vae_names
from ragaf_jax.weights.network import Joint, Network, Pretrained
from ragaf_jax.weights.single_files import open_single_control, open_single_file
from ragaf_jax.weights.stores import open_weights
from ragaf_jax.weights.vae_files import open_vae

C = TypeVar("C")

_STEM = "diffusion_pytorch_model"
_STEMS = {"unet": _STEM, "vae": _STEM, "text_encoder": "model", "text_encoder_2": "model"}


def open_pretrained(where: str, variant: str = "", ema: bool = False, vae: str = "") -> Pretrained:
    """Reads configurations and headers of a Stable Diffusion 1, 2 or XL; no weights yet.

    Args:
      where: a folder in diffusers' layout, a `.safetensors` file in CompVis's, or a hub id.
      variant: of the files of weights, such as "fp16"; "" for the plain ones.
      ema: whether to take the averaged UNet of a file that has both.
      vae: a VAE in place of its own, as in `open_vae`; "" for its own.

    Raises:
      UserError: it is missing, damaged, or of another architecture, has no averaged UNet, or the
        VAE has other latents.
    """
    choose = functools.partial(_chosen, variant=variant, source=where)
    path = locate(where, choose, functools.partial(described, source=where))
    if ema and not path.is_file():
        raise UserError(
            f"config.init.ema is True and {where} is a folder, whose plain files have the averaged "
            "weights already; leave it out, or give a single file with tensors model_ema.*."
        )
    pretrained = open_single_file(path, ema, vae) if path.is_file() else _folder(path, variant)
    opened = open_vae(vae, pretrained.vae.config, variant) if vae else pretrained.vae
    if pretrained.unet.config.addition_embed_type is None and opened.config.force_upcast:
        # diffusers writes it for all models, and reads it for SDXL alone.
        sizes = dataclasses.replace(opened.config, force_upcast=False)
        opened = dataclasses.replace(opened, config=sizes)
    return dataclasses.replace(pretrained, vae=opened)


def check_pretrained(where: str) -> None:
    """The checks of `open_pretrained` that need no weights.

    Raises:
      UserError: it is missing, or not a Stable Diffusion 1, 2 or XL.
    """
    if not Path(where).expanduser().exists() and where.endswith(".safetensors"):
        return  # a file on the hub, whose checks need a full download
    path = locate(where, descriptions)
    if path.is_file():
        open_single_file(path)
    else:
        # Only a repository's descriptions were downloaded.
        described(path, files_below(path), where)


def _folder(path: Path, variant: str) -> Pretrained:
    names = files_below(path)
    sizes = described(path, names, str(path))
    check_variant(names, variant, str(path))

    def network(folder: str, config: C, naming: Naming, *surplus: str) -> Network[C]:
        file = path / choose_weights(names, folder, _STEMS[folder], variant, str(path))[0]
        return Network(config, functools.partial(open_weights, file), naming, surplus)

    text: Network[ClipTextConfig] | Joint[SdxlTextConfig]
    padding = None
    if isinstance(sizes.text_encoder, SdxlTextConfig):
        clip_l, clip_g = sizes.text_encoder.clip_l, sizes.text_encoder.clip_g
        first = network("text_encoder", clip_l, text_names, *TEXT_SURPLUS)
        second = network("text_encoder_2", clip_g, text_names, TEXT_SURPLUS[0])
        text = Joint(sizes.text_encoder, {"clip_l": first, "clip_g": second})
    else:
        text = network("text_encoder", sizes.text_encoder, text_names, *TEXT_SURPLUS)
        padding = "!" if sizes.text_encoder.hidden_act == "gelu" else None  # Stable Diffusion 2

    scheduler = path / "scheduler" / "scheduler_config.json"
    noise = read_json(scheduler)
    found = schedulers.distilled(noise, sizes.unet.time_cond_proj_dim is not None)
    notices = (
        schedulers.ignored(noise, str(scheduler)),
        schedulers.distilled_notice(found, str(scheduler)),
    )
    tokenizer, tokenizer_2 = path / "tokenizer", path / "tokenizer_2"
    return Pretrained(
        str(path),
        network("unet", sizes.unet, unet_names),
        network("vae", sizes.vae, vae_names),
        text,
        schedulers.diffusion_fields(noise, str(scheduler)),
        tokenizer if tokenizer.is_dir() else None,
        padding,
        distilled=found,
        notices=tuple(filter(None, notices)),
        tokenizer_2=tokenizer_2 if tokenizer_2.is_dir() else None,
    )


def open_control(where: str, variant: str = "") -> Network[ControlConfig]:
    """Reads configuration and header of a ControlNet; arguments as of `open_pretrained`."""

    def chosen(names: Collection[str]) -> list[str]:
        return ["config.json", *choose_weights(names, "", _STEM, variant, where)]

    path = locate(where, chosen, functools.partial(described_control, source=where))
    if path.is_file():
        return open_single_control(path)
    names = files_below(path)
    config = described_control(path, names, str(path))
    files = tuple(path / name for name in chosen(names))
    return Network(config, functools.partial(open_weights, files[1]), unet_names, files=files)


def _chosen(names: Collection[str], variant: str, source: str) -> list[str]:
    """The files that `open_pretrained` reads from a repository in diffusers' layout."""
    kinds.check_components(names, source)
    check_variant(names, variant, source)
    chosen = [
        name for name in names if name.startswith(("scheduler/", "tokenizer/", "tokenizer_2/"))
    ]
    for folder, stem in _STEMS.items():
        if folder == "text_encoder_2" and not any(name.startswith(f"{folder}/") for name in names):
            continue
        chosen += [f"{folder}/config.json", *choose_weights(names, folder, stem, variant, source)]
    return chosen
