"""Adapters of every kind against PEFT and LyCORIS: the weights that they merge."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

import torch_models  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from ragaf_jax.sampling.lora.merging import merged  # noqa: E402
from ragaf_jax.sampling.lora.settings import Lora  # noqa: E402
from ragaf_jax.weights.adapters.opening import open_adapter  # noqa: E402
from ragaf_jax.weights.adapters.reading import read_adapters  # noqa: E402
from ragaf_jax.weights.modules import load_network  # noqa: E402
from ragaf_jax.weights.names import unet_names  # noqa: E402
from ragaf_jax.weights.pretrained import open_pretrained  # noqa: E402
from ragaf_jax.weights.save import torch_tensors  # noqa: E402

TARGETS = ["to_q", "ff.net.0.proj", "proj_in", "conv1", "conv_shortcut"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, seed):
    """A folder of theirs, and our parameters of its UNet and text encoder."""
    folder = tmp_path_factory.mktemp("adapters")
    torch_models.save_stable_diffusion(
        folder, "sd1", np.random.default_rng(seed), **torch_models.SMALL
    )
    ours = open_pretrained(str(folder))
    networks = {"unet": ours.unet, "text_encoder": ours.text_encoder}
    return folder, {name: load_network(network)[1] for name, network in networks.items()}


def their_unet(folder):
    """Theirs, fresh from the files."""
    import diffusers

    return diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").double()


def randomise(module, rng, names=("lora_", "hada_", "lokr_", "dora_scale")):
    """Every adapter of theirs with new random values; magnitudes stay positive."""
    generator = torch_models.generator(rng)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "magnitude" in name or "dora_scale" in name:
                parameter.mul_(1 + torch.rand(parameter.shape, generator=generator))
            elif any(known in name for known in names):
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))


def gated(kinds, *others):
    """All kinds; those contained in others run at night."""
    return [pytest.param(x, marks=pytest.mark.products) if x in others else x for x in kinds]


def error(one, other):
    """‖a − b‖ / ‖b‖."""
    one, other = np.float64(one), np.float64(np.asarray(other))
    return np.linalg.norm(one - other) / np.linalg.norm(other)


def check(params, path, reference, strength=1.0, least=4):
    """Our merged UNet equals the reference, which has other values in `least` tensors."""
    adapters = read_adapters(open_adapter(path), params)
    assert set(adapters) == {"unet"}
    ours = merged(params, [(adapters, Lora(str(path), strength))])
    found = torch_tensors(ours["unet"], unet_names, "float32")
    before = torch_tensors(params["unet"], unet_names, "float32")
    changed = 0
    for name, tensor in found.items():
        assert error(tensor, reference[name]) <= 1e-5, name
        changed += error(tensor, before[name]) > 0.01
    assert changed >= least


PEFT = {
    "LoRA": lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=TARGETS),
    "DoRA": lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=TARGETS, use_dora=True),
    "stabilised DoRA": lambda: peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=TARGETS, use_dora=True, use_rslora=True
    ),
    "LoHa": lambda: peft.LoHaConfig(r=3, alpha=5, target_modules=TARGETS),
    "LoHa with cores": lambda: peft.LoHaConfig(
        r=3, alpha=5, target_modules=TARGETS, use_effective_conv2d=True
    ),
    "LoKr": lambda: peft.LoKrConfig(r=2, alpha=5, target_modules=TARGETS),
    "LoKr of two pairs": lambda: peft.LoKrConfig(
        r=1, alpha=5, target_modules=TARGETS, decompose_both=True, decompose_factor=4
    ),
    "LoKr with cores": lambda: peft.LoKrConfig(
        r=1, alpha=5, target_modules=TARGETS, use_effective_conv2d=True
    ),
    "whole LoKr": lambda: peft.LoKrConfig(
        r=64, alpha=5, target_modules=TARGETS, rank_pattern={"to_q": 50}, alpha_pattern={"conv1": 9}
    ),
}


@pytest.mark.parametrize("kind", gated(PEFT, "LoRA", "stabilised DoRA", "LoKr"))
def test_what_peft_writes(rng, checkpoint, tmp_path, kind):
    folder, params = checkpoint
    wrapped = peft.get_peft_model(their_unet(folder), PEFT[kind]())
    randomise(wrapped, rng)
    wrapped.save_pretrained(tmp_path)
    check(params, tmp_path, wrapped.merge_and_unload().state_dict())


LYCORIS = {
    "LoCon": {"algo": "locon"},
    "LoCon with cores": {"algo": "locon", "use_tucker": True, "train_norm": True},
    "LoHa": {"algo": "loha"},
    "LoHa with cores": {"algo": "loha", "use_tucker": True},
    "LoKr": {"algo": "lokr", "factor": 4},
    "LoKr of two pairs": {"algo": "lokr", "factor": 4, "decompose_both": True, "linear_dim": 1},
    "LoKr with cores": {"algo": "lokr", "factor": 2, "use_tucker": True, "conv_dim": 1},
    "DoRA": {"algo": "locon", "dora_wd": True},
    "DoRA along inputs": {"algo": "loha", "dora_wd": True, "wd_on_output": False},
    "full": {"algo": "full"},
}


@pytest.mark.parametrize(
    "kind", gated(LYCORIS, "LoCon", "LoHa", "LoHa with cores", "LoKr", "LoKr with cores")
)
def test_what_lycoris_writes(rng, checkpoint, tmp_path, kind):
    lycoris = pytest.importorskip("lycoris")
    folder, params = checkpoint
    network = their_unet(folder)
    lycoris.LycorisNetwork.apply_preset(
        {"target_module": ["Transformer2DModel", "ResnetBlock2D", "Downsample2D"]}
    )
    settings = {"linear_dim": 3, "conv_dim": 3} | LYCORIS[kind]
    # Its merging of LoHa and LoKr applies alpha / rank twice, unlike its forward pass.
    once = settings["algo"] in ("loha", "lokr")
    for name in ("linear", "conv"):
        settings[f"{name}_alpha"] = settings[f"{name}_dim"] if once else 2
    reference = dict(network.state_dict())
    wrapper = lycoris.create_lycoris(network, 1.0, **settings)
    wrapper.apply_to()
    randomise(wrapper, rng, ("",))
    wrapper.save_weights(str(tmp_path / "a.safetensors"), torch.float32, {})
    paths = {f"lycoris_{path.replace('.', '_')}": path for path, _ in network.named_modules()}
    for module in wrapper.double().loras:
        path = paths[module.lora_name]
        weight, bias = module.get_merged_weight(shape=reference[f"{path}.weight"].shape)
        reference[f"{path}.weight"] = weight.detach()
        if bias is not None:
            reference[f"{path}.bias"] = bias.detach()
    check(params, tmp_path / "a.safetensors", reference)


def test_original_names_are_those_that_diffusers_converts(rng, checkpoint, tmp_path):
    """`lora_unet_input_blocks_…`, by diffusers' own table of Stable Diffusion XL's LoRA."""
    from diffusers.loaders.lora_conversion_utils import (
        _convert_non_diffusers_lora_to_diffusers,
        _maybe_map_sgm_blocks_to_diffusers,
    )

    folder, params = checkpoint
    blocks = "input_blocks_1_1", "middle_block_1", "output_blocks_2_1"
    tensors = {}
    network = their_unet(folder)
    for block in blocks:
        width = 16 if block.startswith("middle") else 8
        for part in ("attn1_to_q", "attn2_to_out_0"):
            name = f"lora_unet_{block}_transformer_blocks_0_{part}"
            for leaf, shape in (("down", (3, width)), ("up", (width, 3))):
                values = rng.standard_normal(shape).astype(np.float32)
                tensors[f"{name}.lora_{leaf}.weight"] = torch.from_numpy(values)
            tensors[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(tensors, tmp_path / "a.safetensors")
    remapped = _maybe_map_sgm_blocks_to_diffusers(dict(tensors), network.config)
    converted, alphas = _convert_non_diffusers_lora_to_diffusers(remapped)
    network.load_lora_adapter(converted, network_alphas=alphas, prefix="unet")
    network.fuse_lora()
    network.unload_lora()
    check(params, tmp_path / "a.safetensors", network.state_dict(), least=6)
    assert len(load_file(tmp_path / "a.safetensors")) == 18
