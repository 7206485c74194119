"""Random networks in the files of a Stable Diffusion, without PyTorch."""

import functools
import json

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from configs import stage1, stage2
from ragaf_jax.nets.clip_text import ClipTextConfig
from ragaf_jax.nets.unet import UNetConfig
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.weights.configs import networks as configs
from ragaf_jax.weights.configs.networks import ControlConfig
from ragaf_jax.weights.modules import abstract_params, module_of
from ragaf_jax.weights.names import text_names, unet_names, vae_names
from ragaf_jax.weights.save import torch_tensors

UNET = UNetConfig(
    sample_size=8,
    block_out_channels=(8, 16),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    attention_head_dim=(2, 4),
    cross_attention_dim=12,
    use_linear_projection=True,
    norm_num_groups=4,
)
VAE = VaeConfig(block_out_channels=(8, 16, 16, 16), layers_per_block=1, norm_num_groups=4)
TEXT = ClipTextConfig(
    vocab_size=600,
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=2,
)
CONTROL = ControlConfig(UNET, (4, 6, 8, 10))

FILES = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
NAMINGS = {"unet": unet_names, "vae": vae_names, "text_encoder": text_names}
JSONS = {
    "unet": configs.unet_json(UNET),
    "vae": configs.vae_json(VAE),
    "text_encoder": configs.text_json(TEXT),
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


@functools.cache
def abstract():
    """The shapes of every network's parameters."""
    configurations = {"unet": UNET, "vae": VAE, "text_encoder": TEXT, "control": CONTROL}
    return {name: abstract_params(module_of(config)) for name, config in configurations.items()}


def random_trees(rng):
    """Random parameters of every network."""
    return jax.tree.map(lambda x: np.float32(rng.standard_normal(x.shape)), abstract())


def tensors(trees, network):
    """A network's tensors as PyTorch's files have them."""
    return torch_tensors(trees[network], NAMINGS.get(network, unet_names), "float32")


def write(folder, trees):
    """A whole checkpoint in diffusers' layout but for its tokenizer, and a ControlNet beside it."""
    for network, stem in FILES.items():
        (folder / network).mkdir(parents=True)
        save_file(tensors(trees, network), folder / network / f"{stem}.safetensors")
        (folder / network / "config.json").write_text(json.dumps(JSONS[network]))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (folder / "controlnet").mkdir()
    save_file(
        tensors(trees, "control"), folder / "controlnet" / "diffusion_pytorch_model.safetensors"
    )
    config = json.dumps(configs.control_json(CONTROL))
    (folder / "controlnet" / "config.json").write_text(config)
    return folder


def configured(folder, stage=1, **changes):
    """The configuration of a run that begins from what `write` wrote, not yet adopted."""
    config = (stage1 if stage == 1 else stage2).get_config("openmoji_sd")
    config.update_from_flattened_dict(
        {"init.checkpoint": str(folder), "data.image_size": 32, "data.max_regions": 9} | changes
    )
    return config


def assert_same(one, two):
    """Both trees have the same leaves."""
    one, two = flatten_dict(one, sep="/"), flatten_dict(two, sep="/")
    assert set(one) == set(two)
    for path in one:
        np.testing.assert_array_equal(one[path], two[path], err_msg=path)
