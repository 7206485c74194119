"""Opens a VAE alone, such as vae-ft-mse, in place of a Stable Diffusion's own."""

import dataclasses
import functools
from collections.abc import Collection
from pathlib import Path

from ragaf_jax.errors import UserError
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.weights import compvis
from ragaf_jax.weights.configs import compvis_sizes, fits, kinds
from ragaf_jax.weights.configs import networks as configs
from ragaf_jax.weights.configs.fields import read_json
from ragaf_jax.weights.locate import choose_weights, files_below, locate
from ragaf_jax.weights.names import vae_names
from ragaf_jax.weights.network import Network
from ragaf_jax.weights.stores import open_weights, under

_STEM = "diffusion_pytorch_model"


def open_vae(where: str, replaced: VaeConfig, variant: str = "") -> Network[VaeConfig]:
    """Reads configuration and header of a VAE that replaces another one.

    Args:
      where: a VAE's folder in diffusers' layout; a folder with such a folder `vae`; a
        `.safetensors` file in that or the original layout, of a VAE alone or of a whole Stable
        Diffusion; or a hub id.
      replaced: the VAE to replace. A file without `config.json` takes its scaling factor,
        number of groups and precision.
      variant: of the files of weights, such as "fp16".

    Raises:
      UserError: it is missing, damaged, no AutoencoderKL, or its latents are not those of
        `replaced`.
    """

    def chosen(names: Collection[str]) -> list[str]:
        folder = _folder_of(names, where)
        config = f"{folder}/config.json".lstrip("/")
        return [config, *choose_weights(names, folder, _STEM, variant, where)]

    path = locate(where, chosen)
    if path.is_file():
        network = _single_file(path, replaced)
    else:
        files = tuple(path / name for name in chosen(files_below(path)))
        config = configs.vae_config(read_json(files[0]), str(files[0]))
        network = Network(config, functools.partial(open_weights, files[1]), vae_names, files=files)
    kinds.check_channels(None, network.config, where)
    fits.check_vae(where, network.config, replaced)
    return network


def _folder_of(names: Collection[str], where: str) -> str:
    """The VAE's folder among these relative names: "" or "vae"."""
    if "vae/config.json" in names:
        return "vae"
    if "config.json" not in names:
        raise UserError(
            f"{where} holds no VAE (no config.json and no vae/config.json); give the folder of an "
            "AutoencoderKL in diffusers' layout, or a .safetensors file."
        )
    return ""


def _single_file(path: Path, replaced: VaeConfig) -> Network[VaeConfig]:
    whole = open_weights(path)
    beside = path.with_name("config.json")
    prefix = compvis.VAE if f"{compvis.VAE}encoder.conv_in.weight" in whole.shapes else ""
    store = under(whole, prefix)
    surplus: tuple[str, ...] = ()
    if "encoder.down.0.block.0.conv1.weight" in store.shapes:
        config = compvis_sizes.vae_sizes(store, replaced.norm_num_groups)
        naming, surplus, files = compvis.vae_naming(config), compvis.VAE_SURPLUS, (path,)
    elif "encoder.down_blocks.0.resnets.0.conv1.weight" in store.shapes:
        naming, files = vae_names, (path,)
        if beside.exists():
            config = configs.vae_config(read_json(beside), str(beside))
            return Network(config, lambda _: store, naming, surplus, (beside, path))
        config = compvis_sizes.vae_sizes(store, replaced.norm_num_groups)
    else:
        kinds.check_file(whole.shapes, "a VAE", str(path))
        raise UserError(
            f"{path} holds no VAE (no tensor encoder.down…), expected an AutoencoderKL in "
            "diffusers' or the original layout; give one of those."
        )
    known = {name: getattr(replaced, name) for name in ("scaling_factor", "force_upcast")}
    config = dataclasses.replace(config, **known)
    return Network(config, lambda _: store, naming, surplus, files)
