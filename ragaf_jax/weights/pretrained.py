"""Opens a Stable Diffusion or ControlNet: its networks and their parameters."""

import dataclasses
import functools
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ragaf_jax.errors import UserError
from ragaf_jax.nets.clip_text import ClipTextConfig
from ragaf_jax.nets.unet import UNetConfig
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.weights import compvis, compvis_sizes
from ragaf_jax.weights.configs import kinds, schedulers
from ragaf_jax.weights.configs.fields import read_json
from ragaf_jax.weights.configs.layout import described, described_control
from ragaf_jax.weights.configs.networks import ControlConfig
from ragaf_jax.weights.configs.schedulers import NOT_DISTILLED, Distilled
from ragaf_jax.weights.locate import (
    check_variant,
    choose_weights,
    descriptions,
    files_below,
    locate,
)
from ragaf_jax.weights.names import Naming, text_names, unet_names, vae_names
from ragaf_jax.weights.network import Network
from ragaf_jax.weights.stores import Safetensors, Store, open_weights, under
from ragaf_jax.weights.vae_files import open_vae

C = TypeVar("C")

# A buffer that transformers 4 saved beside the parameters.
_TEXT_SURPLUS = (r"(text_model\.)?embeddings\.position_ids", r"text_projection\.weight")
_STEM = "diffusion_pytorch_model"
_STEMS = {"unet": _STEM, "vae": _STEM, "text_encoder": "model"}


@dataclass(frozen=True)
class Pretrained:
    """A whole Stable Diffusion.

    Attributes:
      source: its path.
      unet, vae, text_encoder: its networks.
      diffusion: the fields of `config.diffusion` that it determines.
      tokenizer: the folder of its tokenizer; single files and some folders have none.
      padding: without that folder, the padding token; None: the end of the text.
      notice: a sentence on how the UNet's prediction type was guessed, or "".
      distilled: its sampling in few steps, as with SD-Turbo or LCM.
      notices: sentences for the user about its settings.
    """

    source: str
    unet: Network[UNetConfig]
    vae: Network[VaeConfig]
    text_encoder: Network[ClipTextConfig]
    diffusion: dict[str, Any]
    tokenizer: Path | None
    padding: str | None = None
    notice: str = ""
    distilled: Distilled = NOT_DISTILLED
    notices: tuple[str, ...] = ()


def open_pretrained(where: str, variant: str = "", ema: bool = False, vae: str = "") -> Pretrained:
    """Reads configurations and headers of a Stable Diffusion 1 or 2; no weights yet.

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
    pretrained = _single_file(path, ema, vae) if path.is_file() else _folder(path, variant)
    if not vae:
        return pretrained
    return dataclasses.replace(pretrained, vae=open_vae(vae, pretrained.vae.config, variant))


def check_pretrained(where: str) -> None:
    """The checks of `open_pretrained` that need no weights.

    Raises:
      UserError: it is missing, or not a Stable Diffusion 1 or 2.
    """
    if not Path(where).expanduser().exists() and where.endswith(".safetensors"):
        return  # a file on the hub, whose checks need a full download
    path = locate(where, descriptions)
    if path.is_file():
        _single_file(path)
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

    scheduler = path / "scheduler" / "scheduler_config.json"
    noise = read_json(scheduler)
    found = schedulers.distilled(noise, sizes.unet.time_cond_proj_dim is not None)
    notices = schedulers.ignored(noise, str(scheduler)), _distilled(found, str(scheduler))
    tokenizer = path / "tokenizer"
    return Pretrained(
        str(path),
        network("unet", sizes.unet, unet_names),
        network("vae", sizes.vae, vae_names),
        network("text_encoder", sizes.text_encoder, text_names, *_TEXT_SURPLUS),
        schedulers.diffusion_fields(noise, str(scheduler)),
        tokenizer if tokenizer.is_dir() else None,
        "!" if sizes.text_encoder.hidden_act == "gelu" else None,  # Stable Diffusion 2
        distilled=found,
        notices=tuple(filter(None, notices)),
    )


def _distilled(found: Distilled, source: str) -> str:
    """The notice of a distilled checkpoint, or ""."""
    if not found.steps:
        return ""
    return (
        f"{source} belongs to a checkpoint distilled to few steps, such as SD-Turbo or LCM: "
        f"config.sample gets steps={found.steps}, guidance={found.guidance:g} and "
        f"sampler={found.sampler}, except for fields that the command sets."
    )


def open_control(where: str, variant: str = "") -> Network[ControlConfig]:
    """Reads configuration and header of a ControlNet; arguments as of `open_pretrained`."""

    def chosen(names: Collection[str]) -> list[str]:
        return ["config.json", *choose_weights(names, "", _STEM, variant, where)]

    path = locate(where, chosen, functools.partial(described_control, source=where))
    if path.is_file():
        whole = open_weights(path)
        kinds.check_control(whole.shapes, str(path))
        store = compvis.control_store(whole)
        if store is None:
            raise UserError(
                f"{path} holds no ControlNet in the original layout (no input_hint_block); give "
                "its folder in diffusers' layout, with config.json."
            )
        config = compvis_sizes.control_sizes(store)
        naming = compvis.control_naming(config)
        return Network(config, lambda dtype: store, naming, files=(path,))
    names = files_below(path)
    config = described_control(path, names, str(path))
    files = tuple(path / name for name in chosen(names))
    return Network(config, functools.partial(open_weights, files[1]), unet_names, files=files)


def _chosen(names: Collection[str], variant: str, source: str) -> list[str]:
    """The files that `open_pretrained` reads from a repository in diffusers' layout."""
    kinds.check_components(names, source)
    check_variant(names, variant, source)
    chosen = [name for name in names if name.startswith(("scheduler/", "tokenizer/"))]
    for folder, stem in _STEMS.items():
        chosen += [f"{folder}/config.json", *choose_weights(names, folder, stem, variant, source)]
    return chosen


def _single_file(path: Path, ema: bool = False, other_vae: str = "") -> Pretrained:
    whole = open_weights(path)
    if not compvis.is_compvis(whole) or not isinstance(whole, Safetensors):
        kinds.check_file(whole.shapes, "a whole Stable Diffusion 1 or 2", str(path))
        raise UserError(
            f"{path} holds no tensor {compvis.UNET}…, expected a whole Stable Diffusion in the "
            "original layout; for diffusers' layout give its folder."
        )
    kinds.check_whole_file(whole.shapes, str(path))
    unet: Store = under(whole, compvis.UNET)
    vae = under(whole, compvis.VAE)
    sizes = compvis_sizes.unet_sizes(unet)
    kinds.check_channels(sizes, None, str(path))
    kinds.check_not_unet_alone(whole.shapes, str(path))
    unet = compvis.averaged_unet(whole) if ema else unet
    prefix = compvis.text_prefix(whole)
    text = under(whole, prefix)
    # Some files have no VAE, and those that come with one do not need it.
    vae_sizes = VaeConfig() if other_vae and not vae.shapes else compvis_sizes.vae_sizes(vae)
    kinds.check_channels(sizes, vae_sizes, str(path))
    text_sizes = compvis_sizes.text_sizes(text, prefix)
    # A single file has no scheduler; Stability AI's SD-Turbo is sd_turbo.safetensors.
    # A UNet that reads the guidance scale is an LCM's.
    is_turbo = "turbo" in path.stem.lower()
    found = schedulers.turbo_of() if is_turbo else NOT_DISTILLED
    if sizes.time_cond_proj_dim is not None:
        found = schedulers.lcm(reads_guidance=True)
    prediction, notice = _prediction(whole, prefix, is_turbo)
    clip = prefix == compvis.CLIP
    unused = rf"transformer\.resblocks\.{text_sizes.num_hidden_layers}\..*"
    return Pretrained(
        str(path),
        Network(sizes, lambda dtype: unet, compvis.unet_naming(sizes)),
        Network(vae_sizes, lambda dtype: vae, compvis.vae_naming(vae_sizes), compvis.VAE_SURPLUS),
        Network(
            text_sizes,
            lambda dtype: text,
            text_names if clip else compvis.open_clip_names,
            _TEXT_SURPLUS if clip else (*compvis.OPEN_CLIP_SURPLUS, unused),
        ),
        # As all Stable Diffusions (Rombach et al. 2022, v1-inference.yaml).
        schedulers.diffusion_fields(
            {
                "beta_schedule": "scaled_linear",
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "prediction_type": prediction,
                "rescale_betas_zero_snr": "ztsnr" in whole.shapes,
                "steps_offset": 1,
                "set_alpha_to_one": False,
                **({"timestep_spacing": "trailing"} if found.steps else {}),
            },
            str(path),
        ),
        None,
        None if clip else "!",
        notice,
        found,
        tuple(filter(None, [_distilled(found, str(path))])),
    )


def _prediction(whole: Safetensors, prefix: str, turbo: bool) -> tuple[str, str]:
    """The prediction type of a single file, and a sentence if it is a guess."""
    stated = whole.metadata.get("modelspec.prediction_type", "")
    known = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
    if "v_pred" in whole.shapes:  # a marker for other programs
        return "v_prediction", ""
    if stated in known:
        return known[stated], ""
    if prefix == compvis.CLIP or turbo:
        return "epsilon", ""
    return "v_prediction", (
        f"{whole.source} does not state its prediction type; v_prediction is assumed, as in Stable "
        "Diffusion 2.1 at 768 px: for a base model at 512 px set --config.init.prediction=epsilon."
    )
