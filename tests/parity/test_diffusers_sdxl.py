"""Stable Diffusion XL's networks and files against diffusers and transformers, at tiny size.

The references are computed in float64, as in `test_diffusers_networks`.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import torch_models  # noqa: E402
import transformers  # noqa: E402
from commands import ROOT, python_blocks  # noqa: E402
from diffusers.loaders import single_file_utils  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from test_diffusers_networks import TOLERANCE, error, nchw, normal  # noqa: E402
from test_diffusers_single_files import original, same  # noqa: E402
from test_tokenizer import CORNER_CASES, write_folder  # noqa: E402
from written import assert_same  # noqa: E402

from ragaf_jax.batch import Text  # noqa: E402
from ragaf_jax.errors import UserError  # noqa: E402
from ragaf_jax.nets.kl_autoencoder import KlAutoencoder  # noqa: E402
from ragaf_jax.nets.model import Model  # noqa: E402
from ragaf_jax.nets.text.sdxl import second_tokens  # noqa: E402
from ragaf_jax.nets.unet import AddedConditions  # noqa: E402
from ragaf_jax.weights import compvis, pretrained  # noqa: E402
from ragaf_jax.weights.configs.networks import unet_config  # noqa: E402
from ragaf_jax.weights.locate import files_below  # noqa: E402
from ragaf_jax.weights.modules import abstract_params, load_network, module_of  # noqa: E402
from ragaf_jax.weights.names import unet_names  # noqa: E402
from ragaf_jax.weights.pretrained import (  # noqa: E402
    open_control,
    open_pretrained,
)
from ragaf_jax.weights.vocabulary import second_tokenizer_of, tokenizer_of  # noqa: E402

POOLED = torch_models.POOLED


@pytest.fixture(scope="module")
def both(tmp_path_factory, seed):
    """A whole SDXL with its ControlNet, theirs and its folder."""
    folder, rng = tmp_path_factory.mktemp("sdxl"), np.random.default_rng(seed)
    theirs = torch_models.save_sdxl(folder, rng)
    write_folder(folder / "tokenizer", 1, "slow with added tokens")
    write_folder(folder / "tokenizer_2", 2, "slow with added tokens")
    theirs["control"] = torch_models.control(theirs["unet"], rng)
    theirs["control"].save_pretrained(folder / "control")
    return theirs, folder


@functools.cache
def abstract(config):
    """The shapes of a network's parameters."""
    return abstract_params(module_of(config))


def conditions(rng):
    """Noisy latents, timesteps, text states and added conditions of two images."""
    inputs = normal(rng, 2, 6, 10, 4), jnp.asarray(rng.integers(0, 1000, 2), jnp.float32)
    text = normal(rng, 2, 7, sum(torch_models.XL_WIDTHS))
    sizes = jnp.asarray(rng.integers(0, 2048, (2, 6)), jnp.float32)
    return *inputs, text, AddedConditions(normal(rng, 2, POOLED), sizes)


def state_of(t, text, added):
    """The arguments of diffusers' networks."""
    double = [torch.from_numpy(np.array(x)).double() for x in (t, text, *added)]
    extra = {"text_embeds": double[2], "time_ids": double[3]}
    return {"timestep": double[0], "encoder_hidden_states": double[1], "added_cond_kwargs": extra}


@pytest.mark.products
@torch.no_grad()
def test_unet_and_controlnet(rng, both):
    """The gate compares their images, and smaller ControlNets alone."""
    theirs, folder = both
    x, t, text, added = conditions(rng)
    sketch = jnp.asarray(rng.random((2, 48, 80, 3)), jnp.float32)
    net, params = load_network(open_pretrained(str(folder)).unet)
    branch, branch_params = load_network(open_control(str(folder / "control")))

    @jax.jit
    def run(added):
        inputs = x, t, text
        down, mid, _ = branch.apply({"params": branch_params}, *inputs, sketch, added=added)
        return net.apply({"params": params}, *inputs, down, mid, added=added), (*down, mid)

    # Copies, because other tests compare the weights as stored.
    control = torch_models.copy_of(theirs["control"])
    unet, state = torch_models.copy_of(theirs["unet"]), state_of(t, text, added)
    down, mid = control(nchw(x), controlnet_cond=nchw(sketch), return_dict=False, **state)
    residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    expected = unet(nchw(x), **state, **residuals).sample
    ours, ours_residuals = run(added)
    assert error(ours, expected) <= TOLERANCE
    for one, other in zip(ours_residuals, (*down, mid), strict=True):
        assert error(one, other) <= TOLERANCE
    # Each of the six numbers and the pooled text have an effect.
    for i in range(6):
        changed = run(added._replace(sizes=added.sizes.at[:, i].add(256)))[0]
        assert error(changed, expected) > 1e-4
    assert error(run(added._replace(pooled=-added.pooled))[0], expected) > 1e-4


@pytest.mark.products
@torch.no_grad()
def test_depths_by_layer_and_no_attention_in_the_middle(rng, tmp_path):
    theirs = torch_models.unet("sdxl", rng, **torch_models.SSD)
    theirs.save_pretrained(tmp_path)
    config = unet_config(json.loads((tmp_path / "config.json").read_text()), "x")
    x, t, text, added = conditions(rng)
    network = module_of(config)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    params = torch_models.params_of(file, abstract_params(network), unet_names)
    ours = jax.jit(network.apply)({"params": params}, x, t, text, added=added)
    expected = theirs.double()(nchw(x), **state_of(t, text, added)).sample
    assert error(ours, expected) <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("skip", [None, 1])
def test_prompts(both, skip):
    """Tokens, joined states and pooled text of whole prompts equal those of diffusers' pipeline."""
    theirs, folder = both
    found = open_pretrained(str(folder))
    tokenizers = [
        transformers.CLIPTokenizer.from_pretrained(folder / name)
        for name in ("tokenizer", "tokenizer_2")
    ]
    parts = (theirs[name] for name in ("vae", "text_encoder", "text_encoder_2"))
    rest = theirs["unet"], theirs["scheduler"]
    pipe = diffusers.StableDiffusionXLPipeline(*parts, *tokenizers, *rest, add_watermarker=False)
    texts = ["a red house!", "", CORNER_CASES["long caption"]]
    states, _, pooled, _ = pipe.encode_prompt(
        texts, device="cpu", do_classifier_free_guidance=False, clip_skip=skip
    )

    # diffusers replaces only a missing negative prompt by zeros.
    sizes = dataclasses.replace(found.text_encoder.config, zero_empty=False)
    model = dataclasses.replace(model_of(folder), text_encoder=module_of(sizes))
    tokens, mask = tokenizer_of(found, "").encode(texts, 77)
    params = {"text_encoder": found.text_encoder.load(abstract_params(model.text_encoder))}
    skips = None if skip is None else np.full(3, skip, np.int32)
    encode = jax.jit(model.encode_text)
    tokens_2, _ = second_tokenizer_of(found).encode(texts, 77)
    text = encode(params, Text(tokens, mask, skip=skips, tokens_2=tokens_2))
    assert error(text.states, states) <= TOLERANCE and error(text.pooled, pooled) <= TOLERANCE

    # Windows side by side are encoded alone, and the first one's text is pooled. The second
    # encoder's tokens follow from the first's, because these texts have no "!".
    rows = [x.reshape(1, -1) for x in (tokens[1:], mask[1:])]
    joined = encode(params, Text(*rows, skip=None if skip is None else skips[:1]))
    assert error(joined.states.reshape(2, 77, -1), states[1:]) <= TOLERANCE
    assert error(joined.pooled, pooled[1:2]) <= TOLERANCE
    # Another prompt for the second encoder changes its states alone.
    other = encode(params, text._replace(tokens_2=tokens_2[::-1]))
    width = torch_models.XL_WIDTHS[0]
    np.testing.assert_array_equal(other.states[..., :width], text.states[..., :width])
    assert error(other.pooled, pooled) > 0.01


def test_tokens_of_both_encoders(both):
    """Those of transformers; the derived ones differ from them only by "!" in texts."""
    _, folder = both
    found, texts = open_pretrained(str(folder)), list(CORNER_CASES.values())
    first, second = tokenizer_of(found, ""), second_tokenizer_of(found)
    tokens, _ = first.encode(texts, 77)
    for name, own in (("tokenizer", tokens), ("tokenizer_2", second.encode(texts, 77)[0])):
        theirs = transformers.CLIPTokenizer.from_pretrained(folder / name)
        ids = theirs(texts, padding="max_length", max_length=77, truncation=True).input_ids
        np.testing.assert_array_equal(own, ids)
    derived = second_tokens(found.text_encoder.config, jnp.asarray(tokens))
    differs = (derived != second.encode(texts, 77)[0]).any(1)
    assert differs.any() and not any("!" not in texts[i] for i in np.flatnonzero(differs))


def test_the_example_of_the_documentation(both):
    _, folder = both
    [code] = [x for x in python_blocks(ROOT / "docs" / "stable_diffusion.md") if "tokens_2" in x]
    code = code.replace("stabilityai/stable-diffusion-xl-base-1.0", str(folder))
    code = code.replace("diffusers/controlnet-canny-sdxl-1.0", str(folder / "control"))
    names = {}
    exec(code.replace(', "fp16"', ""), names)
    assert len(names["states"]) == len(names["pooled"]) == 1


def model_of(folder):
    """A Stage 1 of these networks."""
    found, control = open_pretrained(str(folder)), open_control(str(folder / "control"))
    configs = found.unet.config, control.config, found.text_encoder.config
    vae = KlAutoencoder(module_of(found.vae.config))
    return Model(*map(module_of, configs), vae, 64, 77, 4, 8)


def trees(found):
    return {name: abstract(getattr(found, name).config) for name in ("unet", "vae", "text_encoder")}


def test_a_controlnet_in_one_file(both, tmp_path):
    """With diffusers' or the original names; its sizes follow from shapes or a config.json."""
    theirs, folder = both
    expected = open_control(str(folder / "control"))
    (tmp_path / "x.safetensors").symlink_to(folder / "control/diffusion_pytorch_model.safetensors")
    found = open_control(str(tmp_path / "x.safetensors"))
    sizes = dataclasses.replace(expected.config.unet, sample_size=64)
    assert found.config == expected.config._replace(unet=sizes)
    shapes = abstract(found.config)
    assert_same(found.load(shapes), expected.load(shapes))
    beside = json.loads((folder / "control/config.json").read_text()) | {"freq_shift": 1}
    (tmp_path / "config.json").write_text(json.dumps(beside))
    assert open_control(str(tmp_path / "x.safetensors")).config.unet.freq_shift == 1
    naming = compvis.control_naming(expected.config)
    tensors = original(theirs["control"], shapes, naming, unet_names, compvis.CONTROL)
    save_file(tensors, tmp_path / "original.safetensors")
    other = open_control(str(tmp_path / "original.safetensors"))
    assert other.config == found.config
    assert_same(other.load(shapes), expected.load(shapes))


@pytest.fixture(scope="module")
def single(both):
    """The same weights in one file in the original layout, as A1111 and ComfyUI have them."""
    theirs, folder = both
    found = open_pretrained(str(folder))
    shapes = trees(found)
    text = shapes["text_encoder"]
    first = found.text_encoder.parts["clip_l"]
    named = lambda path: first.naming(path)[:1]  # noqa: E731
    namings = {
        "unet": (shapes["unet"], compvis.unet_naming(found.unet.config), unet_names),
        "vae": (shapes["vae"], compvis.vae_naming(found.vae.config), found.vae.naming),
        "text_encoder": (text["clip_l"], named, first.naming),
        "text_encoder_2": (text["clip_g"], compvis.open_clip_names, first.naming),
    }
    prefixes = compvis.UNET, compvis.VAE, compvis.CLIP_L, compvis.CLIP_G
    files = {
        name: original(theirs[name], *naming, prefix)
        for (name, naming), prefix in zip(namings.items(), prefixes, strict=True)
    }
    projection = f"{compvis.CLIP_G}text_projection"
    files["text_encoder_2"][projection] = files["text_encoder_2"][projection].T.contiguous()
    files["text_encoder_2"][f"{compvis.CLIP_G}logit_scale"] = torch.ones(())
    whole = {name: tensor for tensors in files.values() for name, tensor in tensors.items()}
    save_file(whole, folder / "xl.safetensors")
    return files


def test_the_names_are_the_original_ones(both, single):
    theirs, _ = both
    convert = single_file_utils
    unet, clip_g = theirs["unet"], theirs["text_encoder_2"]
    same(convert.convert_ldm_unet_checkpoint(dict(single["unet"]), dict(unet.config)), unet)
    files = {
        name: tensor
        for name, tensor in single["text_encoder_2"].items()
        if not name.endswith("logit_scale")
    }
    prefix = compvis.CLIP_G
    same(convert.convert_open_clip_checkpoint(clip_g, files, prefix=prefix), clip_g)


def test_a_single_file_holds_the_same_networks(both, single):
    _, folder = both
    one, two = open_pretrained(str(folder)), open_pretrained(str(folder / "xl.safetensors"))
    assert two.diffusion == one.diffusion and two.padding is one.padding is None
    assert two.text_encoder.config == one.text_encoder.config
    assert two.vae.config == dataclasses.replace(one.vae.config, sample_size=512)
    assert two.unet.config == dataclasses.replace(one.unet.config, sample_size=64)
    for name, shape in trees(one).items():
        assert_same(getattr(one, name).load(shape), getattr(two, name).load(shape))


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        (compvis.CLIP_L, "has no text encoder under conditioner.embedders.0.transformer., expect"),
        (compvis.CLIP_G, "has no text encoder under conditioner.embedders.1.model., expected the"),
        ("conditioner.", "has no text encoder under conditioner.embedders.0.transformer., expect"),
    ],
)
def test_single_files_without_a_text_encoder(both, single, tmp_path, prefix, said):
    tensors = load_file(both[1] / "xl.safetensors")
    path = tmp_path / "x.safetensors"
    save_file({k: v for k, v in tensors.items() if not k.startswith(prefix)}, path)
    with pytest.raises(UserError) as error:
        open_pretrained(str(path))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_what_is_downloaded(both):
    """Both text encoders and tokenizers; their variant if there is one."""
    _, folder = both
    names = files_below(folder)
    variant = [name.replace("2/model.", "2/model.fp16.") for name in names]
    for listed, file in ((names, "model"), (variant, "model.fp16")):
        chosen = pretrained._chosen(listed, "fp16" if listed is variant else "", "x")
        assert {f"text_encoder_2/{file}.safetensors", "text_encoder_2/config.json"} <= {*chosen}
        assert {"text_encoder/model.safetensors", "tokenizer_2/vocab.json"} <= {*chosen}
