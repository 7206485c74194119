"""Stable Diffusion at its full size: `make parity-full`. Takes minutes, 16 GiB, 10 GB on disk."""

import functools
import gc
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import published  # noqa: E402
import sdxl_pictures as pictures  # noqa: E402
import torch_models  # noqa: E402
import transformers  # noqa: E402
from test_diffusers_networks import error  # noqa: E402
from written import configured  # noqa: E402

from ragaf_jax.nets.build import build_model  # noqa: E402
from ragaf_jax.nets.text.clip import ClipTextConfig  # noqa: E402
from ragaf_jax.nets.unet import UNetConfig  # noqa: E402
from ragaf_jax.nets.vae import VaeConfig  # noqa: E402
from ragaf_jax.sampling.lora.merging import merged  # noqa: E402
from ragaf_jax.sampling.lora.settings import Lora  # noqa: E402
from ragaf_jax.sampling.stages import Stage  # noqa: E402
from ragaf_jax.training.adopt import adopted  # noqa: E402
from ragaf_jax.training.initial import initial_params  # noqa: E402
from ragaf_jax.weights.adapters.opening import open_adapter  # noqa: E402
from ragaf_jax.weights.adapters.reading import read_adapters  # noqa: E402
from ragaf_jax.weights.configs import networks as configs  # noqa: E402
from ragaf_jax.weights.configs.networks import ControlConfig  # noqa: E402
from ragaf_jax.weights.modules import load_network  # noqa: E402
from ragaf_jax.weights.names import text_names, unet_names, vae_names  # noqa: E402
from ragaf_jax.weights.pretrained import Network  # noqa: E402
from ragaf_jax.weights.stores import Safetensors, open_weights  # noqa: E402

pytestmark = pytest.mark.full_size

TOLERANCE = 1e-4
LATENT = (24, 40)


# Loads a network in a process of its own and prints the stored bytes, and by how many the resident
# memory rose.
LOADING = """
import functools, sys
from pathlib import Path
import jax
from test_diffusers_shapes import network
from ragaf_jax.weights.modules import abstract_params, module_of
from ragaf_jax.weights.pretrained import Network
from ragaf_jax.weights.stores import Safetensors, open_weights

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))

file, generation, kind = sys.argv[1:]
config, naming, _ = network(generation, kind)
abstract = abstract_params(module_of(config))
network = Network(config, functools.partial(open_weights, Path(file)), naming)
jax.block_until_ready(jax.device_put(1.0))
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
params = network.load(abstract)
print(sum(x.nbytes for x in jax.tree.leaves(params)), memory("VmHWM") - before)
"""


def check_memory(file, generation, kind):
    """Reading a file takes at most 1.2 times its bytes, and one tensor."""
    command = [sys.executable, "-c", LOADING, str(file), generation, kind]
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stored, risen = map(int, done.stdout.split())
    largest = max(np.prod(shape) for shape in Safetensors.open(file).shapes.values())
    print(f"{kind} of {generation}: {stored / 1e9:.2f} GB stored, peak {risen / 1e9:.2f} GB")
    assert 0.9 * stored < risen <= 1.2 * stored + 4 * largest


def load(file, naming, config):
    """Our network and its parameters from the file."""
    module, params = load_network(Network(config, functools.partial(open_weights, file), naming))
    return module, {"params": params}


def images(rng, *shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def torch_of(x):
    tensor = torch.from_numpy(np.array(x))
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def report(name, found):
    print(f"{name}: relative error {found:.2e}")
    assert found <= TOLERANCE


@torch.no_grad()
def test_unet_and_controlnet(rng, tmp_path):
    x, t, text = images(rng, 1, *LATENT, 4), jnp.float32([401.0]), images(rng, 1, 77, 768)
    sketch = jnp.asarray(rng.random((1, 8 * LATENT[0], 8 * LATENT[1], 3)), jnp.float32)
    state = {"timestep": torch_of(t), "encoder_hidden_states": torch_of(text)}
    generator = torch_models.generator(rng)
    branch = diffusers.ControlNetModel.from_config(
        configs.control_json(ControlConfig(UNetConfig(), (16, 32, 96, 256)))
    )
    torch_models.randomised(branch, generator).save_pretrained(tmp_path / "control")
    added = branch(torch_of(x), controlnet_cond=torch_of(sketch), return_dict=False, **state)
    del branch
    unet = diffusers.UNet2DConditionModel.from_config(configs.unet_json(UNetConfig()))
    torch_models.randomised(unet, generator).save_pretrained(tmp_path / "unet")
    plain = unet(torch_of(x), **state).sample
    drawn = unet(
        torch_of(x),
        down_block_additional_residuals=added[0],
        mid_block_additional_residual=added[1],
        **state,
    ).sample
    del unet
    file = "diffusion_pytorch_model.safetensors"
    check_memory(tmp_path / "unet" / file, "sd15", "unet")
    check_memory(tmp_path / "control" / file, "sd15", "control")
    control = ControlConfig(UNetConfig(), (16, 32, 96, 256))
    ours_branch, params = load(tmp_path / "control" / file, unet_names, control)
    down, mid, _ = jax.jit(ours_branch.apply)(params, x, t, text, sketch)
    for i, (a, b) in enumerate(zip((*down, mid), (*added[0], added[1]), strict=True)):
        report(f"ControlNet, residual {i}", error(a, b))
    del params
    ours, params = load(tmp_path / "unet" / file, unet_names, UNetConfig())
    apply = jax.jit(ours.apply)
    report("UNet", error(apply(params, x, t, text), plain))
    report("UNet with ControlNet", error(apply(params, x, t, text, down, mid), drawn))


@torch.no_grad()
def test_two_controlnets_a_lora_and_a_long_prompt(rng, tmp_path):
    """What people combine: strengths, an adapter merged, and two windows of tokens."""
    peft = pytest.importorskip("peft")
    x, t, text = images(rng, 1, *LATENT, 4), jnp.float32([401.0]), images(rng, 1, 2 * 77, 768)
    sketches = [
        jnp.asarray(rng.random((1, 8 * LATENT[0], 8 * LATENT[1], 3)), jnp.float32) for _ in range(2)
    ]
    generator, strengths = torch_models.generator(rng), (0.7, 1.3)
    state = {"timestep": torch_of(t), "encoder_hidden_states": torch_of(text)}
    control, residuals = ControlConfig(UNetConfig(), (16, 32, 96, 256)), []
    for i, (sketch, strength) in enumerate(zip(sketches, strengths, strict=True)):
        branch = diffusers.ControlNetModel.from_config(configs.control_json(control))
        torch_models.randomised(branch, generator).save_pretrained(tmp_path / f"control{i}")
        given = {"controlnet_cond": torch_of(sketch), "conditioning_scale": strength}
        residuals.append(branch(torch_of(x), **given, return_dict=False, **state))
        del branch
    down = [a + b for a, b in zip(*(one[0] for one in residuals), strict=True)]
    unet = diffusers.UNet2DConditionModel.from_config(configs.unet_json(UNetConfig()))
    torch_models.randomised(unet, generator).save_pretrained(tmp_path / "unet")
    targets = ["to_q", "to_v", "ff.net.0.proj", "proj_in", "conv1"]
    unet = peft.get_peft_model(unet, peft.LoraConfig(r=4, lora_alpha=2, target_modules=targets))
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    unet.save_pretrained(tmp_path / "lora")
    expected = unet(
        torch_of(x),
        down_block_additional_residuals=down,
        mid_block_additional_residual=residuals[0][1] + residuals[1][1],
        **state,
    ).sample
    del unet

    file, total = "diffusion_pytorch_model.safetensors", None
    for i, (sketch, strength) in enumerate(zip(sketches, strengths, strict=True)):
        ours, params = load(tmp_path / f"control{i}" / file, unet_names, control)
        added = jax.jit(ours.apply)(params, x, t, text, sketch, strength)[:2]
        total = added if total is None else jax.tree.map(jnp.add, total, added)
        del params
    ours, params = load(tmp_path / "unet" / file, unet_names, UNetConfig())
    networks = {"unet": jax.tree.map(jnp.asarray, params["params"])}
    adapters = read_adapters(open_adapter(tmp_path / "lora"), networks)
    plain = jax.jit(ours.apply)(params, x, t, text, *total)
    del params
    networks = merged(networks, [(adapters, Lora(str(tmp_path / "lora"), 1.0))])
    found = jax.jit(ours.apply)({"params": networks["unet"]}, x, t, text, *total)
    report("UNet with two ControlNets, a LoRA and 154 tokens", error(found, expected))
    assert error(plain, expected) > 0.01  # the LoRA's effect


@torch.no_grad()
def test_vae(rng, tmp_path):
    theirs = diffusers.AutoencoderKL.from_config(configs.vae_json(VaeConfig()))
    torch_models.randomised(theirs, torch_models.generator(rng)).save_pretrained(tmp_path)
    image, latents = images(rng, 1, 256, 192, 3), images(rng, 1, *LATENT, 4)
    distribution = theirs.encode(torch_of(image)).latent_dist
    decoded = theirs.decode(torch_of(latents)).sample
    del theirs
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    check_memory(file, "sd15", "vae")
    ours, params = load(file, vae_names, VaeConfig())
    mean, log_variance = ours.apply(params, image, method="encode")
    report("VAE, mean", error(mean, distribution.mean))
    report("VAE, log-variance", error(log_variance, distribution.logvar))
    report("VAE, decoded", error(ours.apply(params, latents, method="decode"), decoded))


@torch.no_grad()
@pytest.mark.parametrize("generation", ["sd15", "sd21"])
def test_text_encoder(rng, tmp_path, generation):
    config = ClipTextConfig()
    if generation == "sd21":
        config = ClipTextConfig(49408, 1024, 4096, 23, 16, hidden_act="gelu")
    theirs = transformers.CLIPTextModel(transformers.CLIPTextConfig(**configs.text_json(config)))
    torch_models.randomised(theirs, torch_models.generator(rng)).save_pretrained(tmp_path)
    tokens = jnp.asarray(rng.integers(0, 49408, (2, 77)), jnp.int32)
    expected = theirs(torch_of(tokens).long()).last_hidden_state
    del theirs
    file = tmp_path / "model.safetensors"
    check_memory(file, generation, "text")
    ours, params = load(file, text_names, config)
    report(f"text encoder of {generation}", error(jax.jit(ours.apply)(params, tokens), expected))


# SDXL's widths, heads, text encoders' widths and VAE, with fewer layers and blocks.
WIDE_XL = published.UNET_XL | {"layers_per_block": 1, "transformer_layers_per_block": [1, 1, 2]}
LAYERS_XL = {"num_hidden_layers": 3}


def wide_sdxl(rng):
    """The networks of an SDXL of `WIDE_XL` in PyTorch, by the names of their folders."""
    generator = torch_models.generator(rng)
    unet, vae = configs.unet_config(WIDE_XL, ""), configs.vae_config(published.VAE_XL, "")
    text = configs.text_config(published.TEXT | LAYERS_XL, "")
    second = configs.projected_text_config(published.TEXT2_XL | LAYERS_XL, "")
    control = ControlConfig(unet, (16, 32, 96, 256))
    made = {
        "unet": diffusers.UNet2DConditionModel.from_config(configs.unet_json(unet)),
        "controlnet": diffusers.ControlNetModel.from_config(configs.control_json(control)),
        "vae": diffusers.AutoencoderKL.from_config(configs.vae_json(vae)),
    }
    kinds = transformers.CLIPTextModel, transformers.CLIPTextModelWithProjection
    for name, kind, sizes in zip(
        ("text_encoder", "text_encoder_2"), kinds, (text, second), strict=True
    ):
        made[name] = kind(transformers.CLIPTextConfig(**configs.text_json(sizes)))
    return {name: torch_models.randomised(net, generator) for name, net in made.items()}


def test_a_picture_of_sdxl(rng, tmp_path):
    """Its latents and image after two steps, with a negative prompt."""
    folder, size, steps = tmp_path / "xl", (256, 320), 2
    nets = wide_sdxl(rng)
    for name, network in nets.items():
        network.save_pretrained(folder / name)
        print(f"{name}: {network.num_parameters() / 1e6:.0f} million parameters")
    torch_models.scheduler("sd1").save_pretrained(folder / "scheduler")
    pictures.write_tokenizers(folder)
    config = configured(
        folder,
        **{"init.control": str(folder / "controlnet"), "data.image_size": 256},
        **{"data.max_edges": 64, "model.dtype": "float32"},
    )
    inputs = pictures.inputs_of(rng, config, size, (1024, 1280, 0, 128, 1024, 1024))
    pipe = pictures.pipeline_of(nets, folder)
    expected = pictures.theirs_of(pipe, inputs, pictures.NEGATIVE, steps)
    other = pictures.theirs_of(pipe, inputs, None, steps)
    vae_alone = diffusers.AutoencoderKL.from_pretrained(folder / "vae"), pipe.image_processor
    del pipe, nets
    gc.collect()

    config, tokenizer = adopted(config, tmp_path / "run")
    model = build_model(config)
    stage = Stage(config, tokenizer, model, initial_params(config, model, None), 0)
    found = pictures.drawing_of(stage, inputs[1], steps)(inputs[0], pictures.NEGATIVE)
    report("SDXL's latents after two steps", pictures.distance(found, expected))
    assert pictures.distance(found, other) > 0.01  # the negative prompt's effect
    difference = pictures.image_distance(stage, *vae_alone, expected)
    print(f"SDXL's image: largest difference {255 * difference:.2f} of 255")
    assert difference <= 1.5 / 255
