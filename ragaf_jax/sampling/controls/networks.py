"""Loads ControlNets beside the sketch branch, and a VAE in place of the stages' own."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ragaf_jax.errors import UserError
from ragaf_jax.nets.control import ControlNet
from ragaf_jax.nets.kl_autoencoder import KlAutoencoder
from ragaf_jax.sampling.controls.settings import ControlPlace, ControlSettings
from ragaf_jax.sampling.stages import Stage
from ragaf_jax.weights.configs.fits import check_control, check_vae, control_differences
from ragaf_jax.weights.load import Tree
from ragaf_jax.weights.modules import abstract_params
from ragaf_jax.weights.pretrained import open_control
from ragaf_jax.weights.vae_files import open_vae


class WeightFiles(NamedTuple):
    """The source of weights.

    Attributes:
      where: an absolute path or a hub id.
      sha256: of the files.
    """

    where: str
    sha256: str


class Control(NamedTuple):
    """A ControlNet beside the sketch branch.

    Attributes:
      files: its source.
      network, params: the same for all stages.
      settings: of calls without any.
    """

    files: WeightFiles
    network: ControlNet
    params: Tree
    settings: ControlSettings = ControlSettings()


def load_controls(
    places: Sequence[str | Path | ControlPlace], stages: Sequence[Stage]
) -> tuple[Control, ...]:
    """ControlNets for the UNets of all stages, in the dtype in which the first one computes.

    Raises:
      UserError: one cannot be read, is no ControlNet, or belongs to another model.
    """
    if isinstance(places, str | Path):
        raise UserError(f"controls is {str(places)!r}; give a list, such as [{str(places)!r}].")
    return tuple(
        _load_control(*place, stages)
        if isinstance(place, ControlPlace)
        else _load_control(str(Path(place).expanduser()), ControlSettings(), stages)
        for place in places
    )


def _load_control(where: str, settings: ControlSettings, stages: Sequence[Stage]) -> Control:
    opened = open_control(where)
    channels = opened.config.conditioning_channels
    for stage in stages:
        check_control(where, opened.config, stage.model.unet.config)
        found, expected = 2 ** (len(channels) - 1), stage.model.autoencoder.downscale
        if found != expected:
            raise UserError(
                f"The ControlNet {where} reduces its image by {found} and this model's latents are "
                f"reduced by {expected}; give one that was trained for this model."
            )
    unet = stages[0].model.unet
    sizes = dataclasses.replace(unet.config, **control_differences(opened.config, unet.config))
    network = ControlNet(sizes, channels, unet.dtype)
    params = opened.load(abstract_params(network, unet.dtype))
    return Control(WeightFiles(_absolute(where), opened.sha256), network, params, settings)


def with_vae(stages: Sequence[Stage], where: str | Path) -> tuple[list[Stage], WeightFiles]:
    """The stages with another VAE, whose parameters have the dtype of the former ones.

    For SDXL it computes in float32 only if its own `force_upcast` is true.

    Raises:
      UserError: a stage has no VAE, or as `open_vae`.
    """
    where = str(Path(where).expanduser())
    vaes = [_autoencoder_of(stage, where).vae for stage in stages]
    opened = open_vae(where, vaes[0].config)
    for vae in vaes:
        check_vae(where, opened.config, vae.config)
    vae = vaes[0].clone(config=opened.config)
    dtype = jax.tree.leaves(stages[0].params["autoencoder"])[0].dtype
    unet = stages[0].model.unet
    if unet.config.addition_embed_type is not None:
        dtype = jnp.dtype("float32") if opened.config.force_upcast else unet.dtype
        vae = vae.clone(dtype=dtype)
    params = opened.load(abstract_params(vae, dtype))
    changed = []
    for stage in stages:
        autoencoder = dataclasses.replace(_autoencoder_of(stage, where), vae=vae)
        model = dataclasses.replace(stage.model, autoencoder=autoencoder)
        trees = {**stage.params, "autoencoder": params}
        changed.append(dataclasses.replace(stage, model=model, params=trees))
    return changed, WeightFiles(_absolute(where), opened.sha256)


def _autoencoder_of(stage: Stage, where: str) -> KlAutoencoder:
    found = stage.model.autoencoder
    if not isinstance(found, KlAutoencoder):
        raise UserError(
            f"The VAE {where} is given and Stage {stage.config.stage} has none to replace, because "
            "its latents are wavelets of pixels; leave it out."
        )
    return found


def _absolute(where: str) -> str:
    """The absolute path of local weights; a hub id is unchanged."""
    return str(Path(where).absolute()) if Path(where).exists() else where
