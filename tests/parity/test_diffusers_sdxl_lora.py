"""LoRA of Stable Diffusion XL against diffusers' pipeline: merged weights, and outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

import torch_models  # noqa: E402
import transformers  # noqa: E402
from diffusers import StableDiffusionXLPipeline  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402
from test_adapter_reference import error  # noqa: E402
from test_diffusers_lora import layers_of, randomise  # noqa: E402
from test_diffusers_networks import error as output_error  # noqa: E402
from test_diffusers_networks import nchw  # noqa: E402
from test_diffusers_sdxl import conditions, state_of  # noqa: E402

from ragaf_jax.nets.lora import LoraConfig, adapted, init_lora  # noqa: E402
from ragaf_jax.sampling.lora.merging import merged  # noqa: E402
from ragaf_jax.sampling.lora.settings import Lora  # noqa: E402
from ragaf_jax.weights.adapters.opening import open_adapter  # noqa: E402
from ragaf_jax.weights.adapters.reading import read_adapters  # noqa: E402
from ragaf_jax.weights.compvis import unet_naming  # noqa: E402
from ragaf_jax.weights.lora_files import save_lora  # noqa: E402
from ragaf_jax.weights.modules import load_network  # noqa: E402
from ragaf_jax.weights.names import text_names, unet_names  # noqa: E402
from ragaf_jax.weights.pretrained import open_pretrained  # noqa: E402
from ragaf_jax.weights.save import torch_tensors  # noqa: E402

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
FILE = "pytorch_lora_weights.safetensors"
TARGETS = ["to_q", "proj_out", "down_blocks.0.resnets.0.conv1"]
TEXT_TARGETS = ["q_proj", "fc1"]


@pytest.fixture(scope="module")
def both(tmp_path_factory, seed):
    """The folder of an SDXL of theirs, and our networks and parameters."""
    folder = tmp_path_factory.mktemp("sdxl")
    torch_models.save_sdxl(folder, np.random.default_rng(seed))
    found = open_pretrained(str(folder))
    networks = {name: load_network(getattr(found, name)) for name in ("unet", "text_encoder")}
    params = {name: tree for name, (_, tree) in networks.items()}
    return folder, {name: network for name, (network, _) in networks.items()}, params


def pipeline(folder):
    """Theirs, fresh from the files; it has no tokenizers."""
    classes = {
        "vae": diffusers.AutoencoderKL,
        "text_encoder": transformers.CLIPTextModel,
        "text_encoder_2": transformers.CLIPTextModelWithProjection,
        "unet": diffusers.UNet2DConditionModel,
        "scheduler": diffusers.DDIMScheduler,
    }
    parts = {name: kind.from_pretrained(folder / name) for name, kind in classes.items()}
    return StableDiffusionXLPipeline(
        **parts, tokenizer=None, tokenizer_2=None, add_watermarker=False
    )


def weights(params):
    """The tensors of our networks by component; transformers has two names of each."""
    text = params["text_encoder"]
    trees = (params["unet"], unet_names), (text["clip_l"], text_names), (text["clip_g"], text_names)
    tensors = (torch_tensors(*given, "float32") for given in trees)
    return {
        component: {name.removeprefix("text_model."): x for name, x in found.items()}
        for component, found in zip(COMPONENTS, tensors, strict=True)
    }


def merged_weights(pipe):
    """The tensors of their networks by component, with the adapters merged into them."""
    found = {}
    for component in COMPONENTS:
        network = getattr(pipe, component)
        for module in network.modules():
            if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
                module.merge()
        found[component] = {
            name.removeprefix("text_model.").replace(".base_layer", ""): x.numpy()
            for name, x in network.state_dict().items()
        }
    return found


def check(params, path, pipe, least):
    """Our weights with the file's adapters are those of their pipeline.

    `least`: the least number of changed tensors of each component.
    """
    before, expected = weights(params), merged_weights(pipe)
    adapters = read_adapters(open_adapter(path), params)
    for component, tensors in weights(merged(params, [(adapters, Lora(str(path)))])).items():
        changed = 0
        for name, tensor in tensors.items():
            assert error(tensor, expected[component][name]) <= 1e-5, (component, name)
            changed += error(tensor, before[component][name]) > 0.01
        assert changed >= least, component


def written_lora(rng, params, kind="diffusers"):
    """Adapters of UNet and text encoders with random values.

    Of kohya's files diffusers loses the text encoders' attention, with transformers 5, and
    add_embedding except by its original name.
    """
    # Few shapes, because merging is compiled for each.
    unet = "attn2/to_k|attn1/to_out_0|proj_in|up_blocks_0/.*/conv2|downsamplers_0/conv"
    unet += "" if kind == "kohya" else "|add_embedding/linear_2"
    text = "k_proj|fc2|text_projection" if kind == "diffusers" else "fc2"
    patterns = f"unet/.*({unet})", f"text_encoder/.*/({text})"
    lora = init_lora(LoraConfig(patterns, rank=3, alpha=5.0), params, jax.random.key(0))
    drawn = lambda x: 0.2 * np.float32(rng.standard_normal(x.shape)) if x.ndim else x  # noqa: E731
    return jax.tree.map(drawn, lora)


@pytest.mark.parametrize("kind", ["diffusers", "kohya", "original"])
def test_what_diffusers_reads(rng, both, tmp_path, kind):
    """Our files, and kohya's with the UNet's names of the original layout."""
    folder, networks, params = both
    lora = written_lora(rng, params, kind)
    save_lora(tmp_path / FILE, lora, "diffusers" if kind == "diffusers" else "kohya")
    if kind == "original":
        names = original_names(networks["unet"].config, params["unet"])
        renamed = {}
        for name, tensor in load_file(tmp_path / FILE).items():
            module, _, part = name.partition(".")
            renamed[f"{names.get(module, module)}.{part}"] = tensor
        assert "lora_unet_input_blocks_3_1_proj_in.alpha" in renamed
        save_file(renamed, tmp_path / FILE)
    pipe = pipeline(folder)
    pipe.load_lora_weights(str(tmp_path), weight_name=FILE)
    check(params, tmp_path / FILE, pipe, 3)


def original_names(config, params):
    """kohya's names of a UNet's modules in the original layout by those of diffusers' layout."""
    naming = unet_naming(config)
    found = {}
    for path in flatten_dict(params, sep="/"):
        original = naming(path)[0].name.rpartition(".")[0].replace(".", "_")
        found[f"lora_unet_{path.rpartition('/')[0].replace('/', '_')}"] = f"lora_unet_{original}"
    return found


def theirs_with_lora(rng, folder):
    """A pipeline with random adapters, and what its header holds of them."""
    pipe, settings = pipeline(folder), {}
    for i, name in enumerate(COMPONENTS):
        targets = TEXT_TARGETS if i else TARGETS
        settings[name] = {"r": 2 + i, "lora_alpha": 7 - 2 * i, "target_modules": targets}
        network = getattr(pipe, name)
        network.add_adapter(peft.LoraConfig(**settings[name]))
        randomise(network, torch_models.generator(rng))
    return pipe, settings


def test_what_diffusers_writes(rng, both, tmp_path):
    """Each component with its own rank and alpha, which the header holds."""
    folder, _, params = both
    pipe, settings = theirs_with_lora(rng, folder)
    layers = {f"{name}_lora_layers": layers_of(getattr(pipe, name)) for name in COMPONENTS}
    header = {f"{name}_lora_adapter_metadata": settings[name] for name in COMPONENTS}
    StableDiffusionXLPipeline.save_lora_weights(tmp_path, **layers, **header)
    check(params, tmp_path / FILE, pipe, 6)


@pytest.mark.products
@torch.no_grad()
def test_outputs(rng, both, tmp_path):
    """Of UNet and both text encoders with adapters beside the weights."""
    folder, networks, params = both
    lora = written_lora(rng, params)
    save_lora(tmp_path / FILE, lora, "diffusers")
    x, t, states, added = conditions(rng)
    tokens = rng.integers(0, torch_models.VOCABULARY - 1, (2, 9)).astype(np.int32)
    tokens[:, -1] = torch_models.VOCABULARY - 1

    @jax.jit
    def ours(lora):
        inputs = {"unet": (x, t, states), "text_encoder": (jnp.asarray(tokens),)}
        outputs = []
        for name, network in networks.items():
            conditions = {"added": added} if name == "unet" else {}
            with adapted(lora.get(name, {})):
                found = network.apply({"params": params[name]}, *inputs[name], **conditions)
            outputs += found if isinstance(found, tuple) else [found]
        return outputs

    def theirs(pipe):
        ids, doubles = torch.from_numpy(tokens).long(), state_of(t, states, added)
        found = pipe.unet.double()(nchw(x), **doubles).sample
        one, two = (
            encoder.double()(ids, output_hidden_states=True)
            for encoder in (pipe.text_encoder, pipe.text_encoder_2)
        )
        joined = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1)
        return found, joined, two.text_embeds

    pipe = pipeline(folder)
    plain = theirs(pipe)
    pipe = pipeline(folder)
    pipe.load_lora_weights(str(tmp_path), weight_name=FILE)
    for found, expected, before in zip(ours(lora), theirs(pipe), plain, strict=True):
        assert output_error(found, expected) <= 1e-5
        assert output_error(found, before) > 0.01
