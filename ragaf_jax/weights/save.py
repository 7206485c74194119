"""Writes a trained stage as folders for PyTorch's diffusers and transformers."""

import dataclasses
import functools
import json
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from ragaf_jax.nets.kl_autoencoder import KlAutoencoder
from ragaf_jax.nets.lora import merged
from ragaf_jax.nets.model import Model, Params
from ragaf_jax.nets.text.sdxl import SdxlTextConfig
from ragaf_jax.weights import compvis
from ragaf_jax.weights.configs import compvis_sizes
from ragaf_jax.weights.configs import networks as configs
from ragaf_jax.weights.configs.networks import ControlConfig
from ragaf_jax.weights.lora_files import save_lora
from ragaf_jax.weights.names import Naming, text_names, to_torch, unet_names, vae_names
from ragaf_jax.weights.stores import save_tensors

# The networks' folders in diffusers' layout, by their names in the parameter tree.
FOLDERS = {
    "control": "controlnet",
    "unet": "unet",
    "autoencoder": "vae",
    "text_encoder": "text_encoder",
    "text_encoder_2": "text_encoder_2",
    "ragaf": "ragaf",
    "lora": "lora",
}
# The sketch branch in the original layout, as A1111 and ComfyUI read it.
CONTROL_FILE = "controlnet.safetensors"
# What an export can hold, by name in `writers`.
PARTS = {**FOLDERS, "control_file": CONTROL_FILE}
# The files that `from_pretrained` opens in such a folder.
_DIFFUSERS_FILE, _TRANSFORMERS_FILE = "diffusion_pytorch_model.safetensors", "model.safetensors"

Writer = Callable[[Path], None]


def writers(
    model: Model, params: Params, dtype: str, lora_format: str, merge_lora: bool
) -> dict[str, Writer]:
    """Functions that write each network into its folder, by name in `PARTS`.

    "control_file" writes a file. Only networks of Stable Diffusion 1 and 2 have one: it holds no
    sizes, and diffusers reads no ControlNet of SDXL in this layout.

    Args:
      model, params: the networks and their parameters.
      dtype: NumPy's or JAX's name of the stored type; LoRA and RAGAF are always float32.
      lora_format: "diffusers" or "kohya".
      merge_lora: whether to merge adapters into their networks, instead of writing "lora". Those of
        the sketch branch are always merged: no program reads adapters of a ControlNet.
    """
    adapters = dict(params.get("lora", {}))
    merging = list(adapters) if merge_lora else [name for name in adapters if name == "control"]
    params = dict(params)
    for name in merging:
        # In float32, because bfloat16 of frozen parameters would round the update away.
        tree = jax.tree.map(lambda x: np.asarray(x, np.float32), params[name])
        params[name] = merged(tree, adapters.pop(name))
    unet = model.unet.config
    control = ControlConfig(model.control.config, model.control.conditioning_channels)
    made: dict[str, Writer] = {}

    def network(
        name: str, naming: Naming, config: Mapping[str, Any], file: str, *path: str
    ) -> None:
        """Adds a network, whose parameters are at the `path`; by default at its name."""

        def write(folder: Path) -> None:
            tree = functools.reduce(operator.getitem, path or (name,), params)
            tensors = torch_tensors(tree, naming, dtype)
            save_tensors(folder / file, tensors, {"format": "pt"})
            write_json(folder / "config.json", config)

        made[name] = write

    network("control", unet_names, configs.control_json(control), _DIFFUSERS_FILE)
    network("unet", unet_names, configs.unet_json(unet), _DIFFUSERS_FILE)
    text = model.text_encoder.config
    if isinstance(text, SdxlTextConfig):
        for name, part in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
            sizes = configs.text_json(getattr(text, part))
            network(name, text_names, sizes, _TRANSFORMERS_FILE, "text_encoder", part)
    else:
        network("text_encoder", text_names, configs.text_json(text), _TRANSFORMERS_FILE)
    if isinstance(model.autoencoder, KlAutoencoder):
        vae = configs.vae_json(model.autoencoder.vae.config)
        network("autoencoder", vae_names, vae, _DIFFUSERS_FILE)
        if unet.addition_embed_type is None and compvis_sizes.is_usual(unet):
            made["control_file"] = lambda path: _write_control(
                path, params["control"], control, dtype
            )
    if model.ragaf is not None:
        ragaf = model.ragaf
        made["ragaf"] = lambda folder: _write_ragaf(folder, params["ragaf"], ragaf)
    if adapters:
        name = "pytorch_lora_weights.safetensors"
        made["lora"] = lambda folder: save_lora(folder / name, adapters, lora_format)
    return made


def torch_tensors(tree: Mapping[str, Any], naming: Naming, dtype: str) -> dict[str, np.ndarray]:
    """A network's parameters with PyTorch's names and order of axes."""
    return {
        naming(path)[0].name: np.asarray(to_torch(path, np.asarray(leaf)), dtype, order="C")
        for path, leaf in flatten_dict(tree, sep="/").items()
    }


def _write_control(path: Path, tree: Mapping[str, Any], config: ControlConfig, dtype: str) -> None:
    """Writes one file in the original layout, with the names of lllyasviel's ControlNets."""
    tensors = torch_tensors(tree, compvis.control_naming(config), dtype)
    named = {f"{compvis.CONTROL}{name}": tensor for name, tensor in tensors.items()}
    save_tensors(path, named, {"format": "pt"})


def _write_ragaf(folder: Path, tree: Mapping[str, Any], ragaf: Any) -> None:
    """Keeps this package's names and order of axes: no other program reads RAGAF."""
    tensors = {
        path.replace("/", "."): np.asarray(leaf, np.float32, order="C")
        for path, leaf in flatten_dict(tree, sep="/").items()
    }
    save_tensors(folder / "model.safetensors", tensors, {"format": "flax"})
    config = {
        **dataclasses.asdict(ragaf.config),
        "sites": dict(ragaf.sites),
        "latent_channels": ragaf.latent_channels,
        "timesteps": ragaf.timesteps,
    }
    write_json(folder / "config.json", {"_class_name": "Ragaf", **config})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes an indented JSON object."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def pipeline_index(
    folders: list[str], scheduler: str = "DDIMScheduler", zero_empty: bool = True
) -> dict[str, Any]:
    """model_index.json of a pipeline of Stable Diffusion with ControlNet, with these folders.

    Args:
      folders: with text_encoder_2 it is that of Stable Diffusion XL.
      scheduler: the class in scheduler_config.json.
      zero_empty: of SDXL, as in `SdxlTextConfig`.
    """
    classes = {
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "controlnet": ["diffusers", "ControlNetModel"],
        "scheduler": ["diffusers", scheduler],
    }
    found = {name: classes[name] for name in folders}
    if "text_encoder_2" in folders:
        return {
            "_class_name": "StableDiffusionXLControlNetPipeline",
            **found,
            **{name: [None, None] for name in ("feature_extractor", "image_encoder")},
            "force_zeros_for_empty_prompt": zero_empty,
        }
    return {
        "_class_name": "StableDiffusionControlNetPipeline",
        **found,
        **{name: [None, None] for name in ("safety_checker", "feature_extractor", "image_encoder")},
        "requires_safety_checker": False,
    }
