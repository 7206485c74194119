"""Random networks in the files of a Stable Diffusion, without PyTorch."""

import dataclasses
import functools
import json

import jax
import numpy as np
from fakes import random_params
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file
from test_tokenizer import write_folder

from configs import stage1, stage2
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.text.clip import ClipTextConfig
from ragaf_jax.nets.text.sdxl import SdxlTextConfig
from ragaf_jax.nets.unet import UNetConfig
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.sampling.stages import Stage
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training.adopt import fields_of, with_fields
from ragaf_jax.weights.configs import networks as configs
from ragaf_jax.weights.configs.networks import ControlConfig
from ragaf_jax.weights.modules import abstract_params, module_of
from ragaf_jax.weights.names import text_names, unet_names, vae_names
from ragaf_jax.weights.save import pipeline_index, torch_tensors

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


# Stable Diffusion XL.
XL_UNET = UNetConfig(
    sample_size=8,
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    attention_head_dim=(2, 4),
    cross_attention_dim=28,
    use_linear_projection=True,
    norm_num_groups=4,
    transformer_layers_per_block=(1, 2),
    addition_embed_type="text_time",
    addition_time_embed_dim=2,
    projection_class_embeddings_input_dim=20,
)
XL_VAE = dataclasses.replace(VAE, scaling_factor=0.13025, force_upcast=True)
XL_TEXTS = {
    "text_encoder": dataclasses.replace(TEXT, num_hidden_layers=3),  # one can be skipped
    "text_encoder_2": dataclasses.replace(
        TEXT, hidden_size=16, hidden_act="gelu", num_hidden_layers=3, projection_dim=8
    ),
}
XL_CONTROL = ControlConfig(XL_UNET, (4, 6, 8, 10))
XL_RUN = {
    "data.image_size": 32,
    "data.max_regions": 9,
    "data.max_edges": 64,
    "model.dtype": "float32",
    "model.conditioning_channels": XL_CONTROL.conditioning_channels,
    "model.ragaf.width": 16,
    "model.ragaf.heads": 2,
    "model.ragaf.layers": 1,
    "sample.steps": 2,
}


@functools.cache
def abstract():
    """The shapes of every network's parameters."""
    configurations = {"unet": UNET, "vae": VAE, "text_encoder": TEXT, "control": CONTROL}
    return {name: abstract_params(module_of(config)) for name, config in configurations.items()}


@functools.cache
def abstract_xl():
    """Those of a Stable Diffusion XL, whose two text encoders are one network."""
    text = SdxlTextConfig(*XL_TEXTS.values())
    configurations = {"unet": XL_UNET, "text_encoder": text, "control": XL_CONTROL}
    return {name: abstract_params(module_of(config)) for name, config in configurations.items()}


def random_trees(rng):
    """Random parameters of every network."""
    return jax.tree.map(lambda x: np.float32(rng.standard_normal(x.shape)), abstract())


def write_xl(folder, rng):
    """A Stable Diffusion XL with both tokenizers, and a ControlNet beside it."""
    jsons = {"unet": configs.unet_json(XL_UNET), "vae": configs.vae_json(XL_VAE)}
    jsons |= {name: configs.text_json(config) for name, config in XL_TEXTS.items()}
    jsons["controlnet"] = configs.control_json(XL_CONTROL)
    sizes = {"unet": XL_UNET, "vae": XL_VAE, **XL_TEXTS, "controlnet": XL_CONTROL}
    for name, config in sizes.items():
        shapes = abstract_params(module_of(config))
        # Small enough that results of a few steps are finite.
        tree = jax.tree.map(lambda x: np.float32(0.1 * rng.standard_normal(x.shape)), shapes)
        naming = NAMINGS.get(name.removesuffix("_2"), unet_names)
        stem = FILES.get(name.removesuffix("_2"), "diffusion_pytorch_model")
        (folder / name).mkdir(parents=True)
        save_file(torch_tensors(tree, naming, "float32"), folder / name / f"{stem}.safetensors")
        (folder / name / "config.json").write_text(json.dumps(jsons[name]))
    for number, name in enumerate(("tokenizer", "tokenizer_2"), 1):
        write_folder(folder / name, number)
    index = pipeline_index([*sizes, "tokenizer", "tokenizer_2", "scheduler"])
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler").mkdir()
    noise = {**SCHEDULER, "_class_name": "EulerDiscreteScheduler"}
    del noise["skip_prk_steps"]
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(noise))
    return folder


def xl_stage(folder, number, seed):
    """A stage of these sizes in which no parameter is zero; its tokenizer is written to a folder.

    Nothing else is: tests of what is read from files have `write_xl`.
    """
    config = (stage1 if number == 1 else stage2).get_config("openmoji_sdxl")
    encoder = SdxlTextConfig(*XL_TEXTS.values())
    config = with_fields(config, fields_of(XL_UNET, encoder, XL_VAE, {}) | XL_RUN)
    model = build_model(config)
    write_folder(folder)
    params = random_params(model, np.random.default_rng(seed))
    return Stage(config, Tokenizer.from_pretrained(folder), model, params, 0)


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
