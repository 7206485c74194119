"""Opens a Stable Diffusion or ControlNet: its networks and their parameters."""

import dataclasses
import functools
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ragaf_jax.errors import UserError
from ragaf_jax.nets.clip_text import ClipTextConfig
from ragaf_jax.nets.sdxl_text import SdxlTextConfig
from ragaf_jax.nets.unet import UNetConfig
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.weights import compvis, compvis_sizes
from ragaf_jax.weights.configs import fits, kinds, schedulers
from ragaf_jax.weights.configs.fields import read_json
from ragaf_jax.weights.configs.layout import described, described_control
from ragaf_jax.weights.configs.networks import (
    ControlConfig,
    control_config,
    sdxl_text_config,
)
from ragaf_jax.weights.configs.schedulers import NOT_DISTILLED, Distilled
from ragaf_jax.weights.locate import (
    check_variant,
    choose_weights,
    descriptions,
    files_below,
    locate,
)
from ragaf_jax.weights.names import Naming, text_names, unet_names, vae_names
from ragaf_jax.weights.network import Joint, Network
from ragaf_jax.weights.stores import Safetensors, Store, open_weights, under
from ragaf_jax.weights.vae_files import open_vae

C = TypeVar("C")

# A buffer that transformers 4 saved beside the parameters.
_TEXT_SURPLUS = (r"(text_model\.)?embeddings\.position_ids", r"text_projection\.weight")
_STEM = "diffusion_pytorch_model"
_STEMS = {"unet": _STEM, "vae": _STEM, "text_encoder": "model", "text_encoder_2": "model"}
# Of SDXL's VAE (Podell et al. 2023); a single file does not state it.
_SDXL_SCALING = 0.13025


@dataclass(frozen=True)
class Pretrained:
    """A whole Stable Diffusion.

    Attributes:
      source: its path.
      unet, vae, text_encoder: its networks; SDXL's text encoders are one network of two parts.
      diffusion: the fields of `config.diffusion` that it determines.
      tokenizer: the folder of its tokenizer, for SDXL the first one; single files and some folders
        have none.
      padding: without that folder, the padding token; None: the end of the text.
      notice: a sentence on how the UNet's prediction type was guessed, or "".
      distilled: its sampling in few steps, as with SD-Turbo or LCM.
      notices: sentences for the user about its settings.
      tokenizer_2: the folder of SDXL's second tokenizer, or None.
    """

    source: str
    unet: Network[UNetConfig]
    vae: Network[VaeConfig]
    text_encoder: Network[ClipTextConfig] | Joint[SdxlTextConfig]
    diffusion: dict[str, Any]
    tokenizer: Path | None
    padding: str | None = None
    notice: str = ""
    distilled: Distilled = NOT_DISTILLED
    notices: tuple[str, ...] = ()
    tokenizer_2: Path | None = None


def open_pretrained(
    where: str, variant: str = "", ema: bool = False, vae: str = "", sdxl: bool = False
) -> Pretrained:
    """Reads configurations and headers of a Stable Diffusion 1 or 2; no weights yet.

    Args:
      where: a folder in diffusers' layout, a `.safetensors` file in CompVis's, or a hub id.
      variant: of the files of weights, such as "fp16"; "" for the plain ones.
      ema: whether to take the averaged UNet of a file that has both.
      vae: a VAE in place of its own, as in `open_vae`; "" for its own.
      sdxl: whether a Stable Diffusion XL is accepted too.

    Raises:
      UserError: it is missing, damaged, or of another architecture, has no averaged UNet, or the
        VAE has other latents.
    """
    choose = functools.partial(_chosen, variant=variant, source=where, sdxl=sdxl)
    path = locate(where, choose, functools.partial(described, source=where, sdxl=sdxl))
    if ema and not path.is_file():
        raise UserError(
            f"config.init.ema is True and {where} is a folder, whose plain files have the averaged "
            "weights already; leave it out, or give a single file with tensors model_ema.*."
        )
    if path.is_file():
        pretrained = _single_file(path, ema, vae, sdxl)
    else:
        pretrained = _folder(path, variant, sdxl)
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


def _folder(path: Path, variant: str, sdxl: bool) -> Pretrained:
    names = files_below(path)
    sizes = described(path, names, str(path), sdxl)
    check_variant(names, variant, str(path))

    def network(folder: str, config: C, naming: Naming, *surplus: str) -> Network[C]:
        file = path / choose_weights(names, folder, _STEMS[folder], variant, str(path))[0]
        return Network(config, functools.partial(open_weights, file), naming, surplus)

    text: Network[ClipTextConfig] | Joint[SdxlTextConfig]
    padding = None
    if isinstance(sizes.text_encoder, SdxlTextConfig):
        clip_l, clip_g = sizes.text_encoder.clip_l, sizes.text_encoder.clip_g
        first = network("text_encoder", clip_l, text_names, *_TEXT_SURPLUS)
        second = network("text_encoder_2", clip_g, text_names, _TEXT_SURPLUS[0])
        text = Joint(sizes.text_encoder, {"clip_l": first, "clip_g": second})
    else:
        text = network("text_encoder", sizes.text_encoder, text_names, *_TEXT_SURPLUS)
        padding = "!" if sizes.text_encoder.hidden_act == "gelu" else None  # Stable Diffusion 2

    scheduler = path / "scheduler" / "scheduler_config.json"
    noise = read_json(scheduler)
    found = schedulers.distilled(noise, sizes.unet.time_cond_proj_dim is not None)
    notices = schedulers.ignored(noise, str(scheduler)), _distilled(found, str(scheduler))
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
        if store is None and "controlnet_cond_embedding.conv_in.weight" in whole.shapes:
            beside = path.with_name("config.json")
            if beside.exists():
                config = control_config(read_json(beside), str(beside))
            else:
                config = compvis_sizes.diffusers_control_sizes(whole)
            return Network(config, lambda dtype: whole, unet_names, files=(path,))
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


def _chosen(names: Collection[str], variant: str, source: str, sdxl: bool) -> list[str]:
    """The files that `open_pretrained` reads from a repository in diffusers' layout."""
    kinds.check_components(names, source, sdxl)
    check_variant(names, variant, source)
    chosen = [
        name for name in names if name.startswith(("scheduler/", "tokenizer/", "tokenizer_2/"))
    ]
    for folder, stem in _STEMS.items():
        if folder == "text_encoder_2" and not any(name.startswith(f"{folder}/") for name in names):
            continue
        chosen += [f"{folder}/config.json", *choose_weights(names, folder, stem, variant, source)]
    return chosen


def _single_file(
    path: Path, ema: bool = False, other_vae: str = "", sdxl: bool = False
) -> Pretrained:
    whole = open_weights(path)
    if not compvis.is_compvis(whole) or not isinstance(whole, Safetensors):
        kinds.check_file(whole.shapes, "a whole Stable Diffusion 1 or 2", str(path))
        raise UserError(
            f"{path} holds no tensor {compvis.UNET}…, expected a whole Stable Diffusion in the "
            "original layout; for diffusers' layout give its folder."
        )
    kinds.check_whole_file(whole.shapes, str(path), sdxl)
    unet: Store = under(whole, compvis.UNET)
    vae = under(whole, compvis.VAE)
    sizes = compvis_sizes.unet_sizes(unet)
    kinds.check_channels(sizes, None, str(path))
    is_sdxl = sizes.addition_embed_type is not None
    kinds.check_sdxl(sizes, sdxl, str(path))
    kinds.check_not_unet_alone(whole.shapes, str(path))
    unet = compvis.averaged_unet(whole) if ema else unet
    text = _sdxl_text(whole) if is_sdxl else _text(whole)
    # Some files have no VAE, and those that come with one do not need it.
    vae_sizes = VaeConfig() if other_vae and not vae.shapes else compvis_sizes.vae_sizes(vae)
    if is_sdxl:
        vae_sizes = dataclasses.replace(vae_sizes, scaling_factor=_SDXL_SCALING)
    kinds.check_channels(sizes, vae_sizes, str(path))
    fits.check_text(sizes, text.config, str(path))
    # A single file has no scheduler; Stability AI's SD-Turbo is sd_turbo.safetensors.
    # A UNet that reads the guidance scale is an LCM's.
    is_turbo = "turbo" in path.stem.lower()
    found = schedulers.turbo_of() if is_turbo else NOT_DISTILLED
    if sizes.time_cond_proj_dim is not None:
        found = schedulers.lcm(reads_guidance=True)
    is_sd2 = isinstance(text.config, ClipTextConfig) and text.config.hidden_act == "gelu"
    prediction, notice = _prediction(whole, is_sd2 and not is_turbo)
    return Pretrained(
        str(path),
        Network(sizes, lambda dtype: unet, compvis.unet_naming(sizes)),
        Network(vae_sizes, lambda dtype: vae, compvis.vae_naming(vae_sizes), compvis.VAE_SURPLUS),
        text,
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
        "!" if is_sd2 else None,
        notice,
        found,
        tuple(filter(None, [_distilled(found, str(path))])),
    )


def _text(whole: Store) -> Network[ClipTextConfig]:
    """The text encoder of SD 1 or 2 in a single file."""
    prefix = compvis.text_prefix(whole)
    store = under(whole, prefix)
    sizes = compvis_sizes.text_sizes(store, prefix)
    if prefix == compvis.CLIP:
        return Network(sizes, lambda dtype: store, text_names, _TEXT_SURPLUS)
    unused = rf"transformer\.resblocks\.{sizes.num_hidden_layers}\..*"
    surplus = (*compvis.OPEN_CLIP_SURPLUS, unused)
    return Network(sizes, lambda dtype: store, compvis.open_clip_names, surplus)


def _sdxl_text(whole: Store) -> Joint[SdxlTextConfig]:
    """The text encoders of SDXL in a single file; raises UserError if one is missing."""
    prefixes = compvis.CLIP_L, compvis.CLIP_G
    first, second = stores = [under(whole, prefix) for prefix in prefixes]
    for store, prefix in zip(stores, prefixes, strict=True):
        if not store.shapes:
            raise UserError(
                f"{whole.source} has no text encoder under {prefix}, expected the two of a "
                "whole Stable Diffusion XL; give a file that has both."
            )
    sizes = sdxl_text_config(
        compvis_sizes.text_sizes(first, compvis.CLIP_L),
        compvis_sizes.text_sizes(second, compvis.CLIP_G),
        whole.source,
    )
    surplus = tuple(name for name in compvis.OPEN_CLIP_SURPLUS if name != "text_projection")
    parts = {
        "clip_l": Network(sizes.clip_l, lambda dtype: first, text_names, _TEXT_SURPLUS),
        "clip_g": Network(sizes.clip_g, lambda dtype: second, compvis.open_clip_names, surplus),
    }
    return Joint(sizes, parts)


def _prediction(whole: Safetensors, guess: bool) -> tuple[str, str]:
    """The prediction type of a single file, and a sentence if it is a `guess`, as for SD 2."""
    stated = whole.metadata.get("modelspec.prediction_type", "")
    known = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
    if "v_pred" in whole.shapes:  # a marker for other programs
        return "v_prediction", ""
    if stated in known:
        return known[stated], ""
    if not guess:
        return "epsilon", ""
    return "v_prediction", (
        f"{whole.source} does not state its prediction type; v_prediction is assumed, as in Stable "
        "Diffusion 2.1 at 768 px: for a base model at 512 px set --config.init.prediction=epsilon."
    )
