"""A VAE from any of its layouts replaces a Stable Diffusion's; others are refused by a sentence."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from test_tokenizer import write_folder
from written import VAE, abstract, assert_same, configured, tensors

from ragaf_jax.errors import UserError
from ragaf_jax.nets.build import build_model
from ragaf_jax.training.adopt import adopted
from ragaf_jax.training.initial import initial_params
from ragaf_jax.weights import compvis
from ragaf_jax.weights.configs import networks as configs
from ragaf_jax.weights.modules import abstract_params, module_of
from ragaf_jax.weights.save import torch_tensors
from ragaf_jax.weights.stores import InMemory
from ragaf_jax.weights.vae_files import open_vae

TENSORS = "diffusion_pytorch_model.safetensors"


def original(trees, prefix=""):
    """The VAE's tensors in the original layout."""
    named = torch_tensors(trees["vae"], compvis.vae_naming(VAE), "float32")
    return {f"{prefix}{name}": tensor for name, tensor in named.items()}


@pytest.mark.parametrize("layout", ["folder", "whole", "file", "alone", "original", "prefixed"])
def test_a_vae_is_read_in_every_layout(tmp_path, folder, trees, layout):
    places = {"folder": folder / "vae", "whole": folder, "file": folder / "vae" / TENSORS}
    place = places.get(layout, tmp_path / "vae.safetensors")
    if layout == "alone":  # diffusers' names without its config.json
        save_file(tensors(trees, "vae"), place)
    elif layout in ("original", "prefixed"):
        surplus = {"loss.logvar": np.ones(1, np.float32)}
        prefix = compvis.VAE if layout == "prefixed" else ""
        save_file(original(trees, prefix) | ({} if prefix else surplus), place)
    opened = open_vae(str(place), VAE)
    assert dataclasses.replace(opened.config, sample_size=VAE.sample_size) == VAE
    assert_same(opened.load(abstract()["vae"]), trees["vae"])
    assert len(opened.sha256) == 64 and opened.sha256 == open_vae(str(place), VAE).sha256


def test_a_file_without_sizes_has_those_of_the_replaced_one(tmp_path, trees):
    save_file(original(trees), tmp_path / "vae.safetensors")
    other = dataclasses.replace(VAE, scaling_factor=0.5)
    assert open_vae(str(tmp_path / "vae.safetensors"), other).config.scaling_factor == 0.5


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scaling_factor": 0.13025}, r"scaling_factor of the VAE .* is 0.13025 and .* 0.18215"),
        ({"latent_channels": 16}, r"latent_channels of the VAE .* is 16 and of the one .* 4;"),
        ({"block_out_channels": (8, 16)}, r"downscale of the VAE .* is 2 and of the one .* 8;"),
        ({"out_channels": 6}, r"in_channels and out_channels of the VAE of .* are 3 and 6"),
    ],
)
def test_a_vae_with_other_latents_is_refused(folder, fields, said):
    config = configs.vae_json(dataclasses.replace(VAE, **fields))
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=said):
        open_vae(str(folder / "vae"), VAE)


def test_what_is_no_vae_is_named(tmp_path, folder):
    with pytest.raises(UserError, match="_class_name in .* is 'UNet2DConditionModel', expected 'A"):
        open_vae(str(folder / "unet"), VAE)
    control = folder / "controlnet" / TENSORS
    with pytest.raises(UserError, match=r"is a ControlNet, as its tensor .* expected a VAE"):
        open_vae(str(control), VAE)
    save_file({"x": np.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"x.safetensors holds no VAE \(no tensor encoder.down"):
        open_vae(str(tmp_path / "x.safetensors"), VAE)
    with pytest.raises(UserError, match="holds no VAE .no config.json and no vae/config.json"):
        open_vae(str(tmp_path), VAE)
    with pytest.raises(UserError, match="no folder or file 'nowhere'"):
        open_vae("nowhere", VAE)


def test_a_run_starts_with_the_vae_that_is_named(rng, tmp_path, folder, trees):
    write_folder(folder / "tokenizer")
    wider = dataclasses.replace(VAE, layers_per_block=2)
    shapes = abstract_params(module_of(wider))
    other = jax.tree.map(lambda x: np.float32(rng.standard_normal(x.shape)), shapes)
    place = tmp_path / "vae.safetensors"
    save_file(torch_tensors(other, compvis.vae_naming(wider), "float32"), place)
    changes = {"init.vae": str(place), "model.dtype": "float32"}
    changes["init.control"] = str(folder / "controlnet")
    config, _ = adopted(configured(folder, **changes), tmp_path / "run")
    model = build_model(config)
    assert model.autoencoder.vae.config == wider
    params = initial_params(config, model, None)
    assert_same(params["autoencoder"], other)
    assert_same(params["unet"], trees["unet"])


def test_the_averaged_unet_has_names_without_dots():
    plain = np.zeros((2, 2), np.float32)
    name = "input_blocks.0.0.weight"
    tensors = {f"{compvis.UNET}{name}": plain, "model_ema.decay": plain}
    with pytest.raises(UserError, match=r"init.ema is True and x has no averaged UNet"):
        compvis.averaged_unet(InMemory("x", dict(tensors)))
    tensors["model_ema.diffusion_modelinput_blocks00weight"] = plain + 1
    averaged = compvis.averaged_unet(InMemory("x", tensors))
    assert averaged.shapes == {name: (2, 2)}
    np.testing.assert_array_equal(averaged.read(name), plain + 1)


def test_a_folder_has_no_second_unet(folder, tmp_path):
    with pytest.raises(UserError, match="init.ema is True and .* is a folder, whose plain files"):
        adopted(configured(folder, **{"init.ema": True}), tmp_path / "run")
