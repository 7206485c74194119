"""Opens single files in the original layout: a whole Stable Diffusion, or a ControlNet."""

import dataclasses
from pathlib import Path

from ragaf_jax.errors import UserError
from ragaf_jax.nets.text.clip import ClipTextConfig
from ragaf_jax.nets.text.sdxl import SdxlTextConfig
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.weights import compvis
from ragaf_jax.weights.configs import compvis_sizes, fits, kinds, schedulers
from ragaf_jax.weights.configs.fields import read_json
from ragaf_jax.weights.configs.networks import ControlConfig, control_config, sdxl_text_config
from ragaf_jax.weights.configs.schedulers import NOT_DISTILLED
from ragaf_jax.weights.names import TEXT_SURPLUS, text_names, unet_names
from ragaf_jax.weights.network import Joint, Network, Pretrained
from ragaf_jax.weights.stores import Safetensors, Store, open_weights, under

# Of SDXL's VAE (Podell et al. 2023); a single file does not state it.
_SDXL_SCALING = 0.13025


def open_single_control(path: Path) -> Network[ControlConfig]:
    """A ControlNet in one file, with the original tensor names or diffusers'.

    Raises:
      UserError: it holds something else.
    """
    whole = open_weights(path)
    kinds.check_control(whole.shapes, str(path))
    store = compvis.control_store(whole)
    if store is None and "controlnet_cond_embedding.conv_in.weight" in whole.shapes:
        beside = path.with_name("config.json")
        if beside.exists():
            config = control_config(read_json(beside), str(beside))
            return Network(config, lambda dtype: whole, unet_names, files=(beside, path))
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


def open_single_file(path: Path, ema: bool = False, other_vae: str = "") -> Pretrained:
    """A whole Stable Diffusion in one file; arguments and errors as of `open_pretrained`.

    `other_vae`: the VAE that replaces its own, which may then be missing.
    """
    whole = open_weights(path)
    if not compvis.is_compvis(whole) or not isinstance(whole, Safetensors):
        kinds.check_file(whole.shapes, "a whole Stable Diffusion 1, 2 or XL", str(path))
        raise UserError(
            f"{path} holds no tensor {compvis.UNET}…, expected a whole Stable Diffusion in the "
            "original layout; for diffusers' layout give its folder."
        )
    kinds.check_whole_file(whole.shapes, str(path))
    unet: Store = under(whole, compvis.UNET)
    vae = under(whole, compvis.VAE)
    sizes = compvis_sizes.unet_sizes(unet)
    kinds.check_channels(sizes, None, str(path))
    is_sdxl = sizes.addition_embed_type is not None
    kinds.check_no_refiner(sizes, str(path))
    kinds.check_not_unet_alone(whole.shapes, str(path))
    unet = compvis.averaged_unet(whole) if ema else unet
    text = _sdxl_text(whole) if is_sdxl else _text(whole)
    # Some files have no VAE, and those that come with one do not need it.
    vae_sizes = VaeConfig() if other_vae and not vae.shapes else compvis_sizes.vae_sizes(vae)
    if is_sdxl:
        vae_sizes = dataclasses.replace(vae_sizes, scaling_factor=_SDXL_SCALING, force_upcast=True)
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
        tuple(filter(None, [schedulers.distilled_notice(found, str(path))])),
    )


def _text(whole: Store) -> Network[ClipTextConfig]:
    """The text encoder of SD 1 or 2 in a single file."""
    prefix = compvis.text_prefix(whole)
    store = under(whole, prefix)
    sizes = compvis_sizes.text_sizes(store, prefix)
    if prefix == compvis.CLIP:
        return Network(sizes, lambda dtype: store, text_names, TEXT_SURPLUS)
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
        "clip_l": Network(sizes.clip_l, lambda dtype: first, text_names, TEXT_SURPLUS),
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
