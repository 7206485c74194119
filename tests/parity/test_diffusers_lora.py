"""LoRA against PEFT, in the files that diffusers and kohya's trainers write and read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

import torch_models  # noqa: E402
from diffusers import StableDiffusionPipeline  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from test_diffusers_networks import error, nchw, normal  # noqa: E402

from ragaf_jax.nets.lora import LoraConfig, adapted, init_lora, merged  # noqa: E402
from ragaf_jax.weights.lora_files import load_lora, save_lora  # noqa: E402
from ragaf_jax.weights.modules import load_network  # noqa: E402
from ragaf_jax.weights.pretrained import open_pretrained  # noqa: E402

TARGETS = ["to_q", "to_v", "to_out.0", "proj_in", "ff.net.0.proj", "conv1", "conv_shortcut", "conv"]


@pytest.fixture(scope="module")
def both(tmp_path_factory, seed):
    """A pipeline of theirs and our UNet and text encoder with the same weights."""
    folder, rng = tmp_path_factory.mktemp("lora"), np.random.default_rng(seed)
    networks = torch_models.save_stable_diffusion(folder, "sd1", rng, **torch_models.SMALL)
    ours = open_pretrained(str(folder))
    unet, unet_params = load_network(ours.unet)
    text, text_params = load_network(ours.text_encoder)
    params = {"unet": unet_params, "text_encoder": text_params}
    return folder, networks, unet, text, params


def pipeline(folder):
    """Theirs, fresh from the files; it has no tokenizer."""
    import diffusers
    import transformers

    return StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=transformers.CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=None,
        unet=diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
        scheduler=diffusers.DDIMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def randomise(module, generator):
    """Every adapter of theirs drawn anew."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def inputs(rng):
    x, states = normal(rng, 2, 8, 8, 4), normal(rng, 2, 7, torch_models.TEXT_WIDTH)
    tokens = rng.integers(0, torch_models.VOCABULARY, (2, 9)).astype(np.int32)
    return x, jnp.asarray(rng.integers(0, 1000, 2), jnp.float32), states, jnp.asarray(tokens)


def theirs(pipe, x, t, states, tokens):
    unet, text = pipe.unet.double(), pipe.text_encoder.double()
    with torch.no_grad():
        drawn = unet(
            nchw(x),
            torch.from_numpy(np.array(t)).double(),
            torch.from_numpy(np.array(states)).double(),
        ).sample
        return drawn, text(torch.from_numpy(np.array(tokens)).long()).last_hidden_state


def check(ours, reference, plain, tolerance=1e-5):
    for a, b, c in zip(ours, reference, plain, strict=True):
        assert error(a, b) <= tolerance
        assert error(a, c) > 0.01


def run(both, lora, x, t, states, tokens, merge=False):
    """Ours, with the adapters beside the weights or merged into them."""
    _, _, unet, text, params = both

    @jax.jit
    def apply(params, lora):
        outputs = []
        for name, net, args in (("unet", unet, (x, t, states)), ("text_encoder", text, (tokens,))):
            tree, adapters = params[name], lora.get(name, {})
            if merge:
                tree, adapters = merged(tree, adapters), {}
            with adapted(adapters):
                outputs.append(net.apply({"params": tree}, *args))
        return outputs

    return apply(params, lora)


def layers_of(module):
    """A network's adapters, as `save_lora_weights` takes them."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    return convert_state_dict_to_diffusers(get_peft_model_state_dict(module))


@pytest.mark.parametrize("merge", [False, True])
def test_what_diffusers_writes(rng, both, tmp_path, merge):
    folder, _, _, _, params = both
    pipe, generator = pipeline(folder), torch_models.generator(rng)
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=TARGETS)
    text_config = peft.LoraConfig(r=2, lora_alpha=1, target_modules=["q_proj", "out_proj", "fc1"])
    pipe.unet.add_adapter(config)
    pipe.text_encoder.add_adapter(text_config)
    for module in (pipe.unet, pipe.text_encoder):
        randomise(module, generator)
    layers = {f"{name}_lora_layers": layers_of(getattr(pipe, name)) for name in params}
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        **layers,
        unet_lora_adapter_metadata={"r": 3, "lora_alpha": 7},
        text_encoder_lora_adapter_metadata={"r": 2, "lora_alpha": 1},
    )
    given = inputs(rng)
    plain = theirs(pipeline(folder), *given)
    check(run(both, load_lora(tmp_path, params), *given, merge=merge), theirs(pipe, *given), plain)


def ours_lora(rng, params, kind):
    # With transformers 5, diffusers loses the text encoder's attention in kohya's files.
    text = "fc2" if kind == "kohya" else "k_proj|fc2"
    config = LoraConfig(
        (
            "unet/.*/(to_k|to_out_0|proj_out|net_2|conv2|conv_shortcut|conv)",
            f"text_encoder/.*/({text})",
        ),
        rank=3,
        alpha=5.0,
    )
    lora = init_lora(config, params, jax.random.key(0))

    def draw(leaf):  # alpha, the scalar, stays
        noise = jnp.asarray(0.2 * rng.standard_normal(leaf.shape), jnp.float32)
        return noise if leaf.ndim else leaf

    return jax.tree.map(draw, lora)


@pytest.mark.parametrize("kind", ["diffusers", "kohya"])
def test_what_diffusers_reads(rng, both, tmp_path, kind):
    folder, _, _, _, params = both
    lora = ours_lora(rng, params, kind)
    name = "pytorch_lora_weights.safetensors"
    save_lora(tmp_path / name, lora, kind)
    given = inputs(rng)
    plain = theirs(pipeline(folder), *given)
    pipe = pipeline(folder)
    pipe.load_lora_weights(str(tmp_path), weight_name=name)
    reference = theirs(pipe, *given)
    check(run(both, lora, *given), reference, plain)
    check(run(both, load_lora(tmp_path / name, params), *given), reference, plain)
    assert all(x.dtype == torch.float32 for x in load_file(tmp_path / name).values())


def test_what_peft_writes(rng, both, tmp_path):
    """A folder with adapter_config.json, of one network."""
    folder, _, _, _, params = both
    pipe = pipeline(folder)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=TARGETS, alpha_pattern={"attn2.to_v": 3}
    )
    wrapped = peft.get_peft_model(pipe.unet, config)
    randomise(wrapped, torch_models.generator(rng))
    wrapped.save_pretrained(tmp_path)
    lora = load_lora(tmp_path, params)
    assert set(lora) == {"unet"}
    given = inputs(rng)
    plain = theirs(pipeline(folder), *given)
    pipe.unet = wrapped
    drawn = theirs(pipe, *given)
    check(run(both, lora, *given)[:1], drawn[:1], plain[:1])
