"""Names, shapes and numbers of all parameters at full size, against PyTorch's meta device."""

import dataclasses

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import published  # noqa: E402
import transformers  # noqa: E402

from configs import stage1  # noqa: E402
from ragaf_jax.nets.build import build_model  # noqa: E402
from ragaf_jax.nets.text.clip import ClipTextConfig  # noqa: E402
from ragaf_jax.nets.unet import UNetConfig  # noqa: E402
from ragaf_jax.nets.vae import VaeConfig  # noqa: E402
from ragaf_jax.planning.shapes import with_known_sizes  # noqa: E402
from ragaf_jax.training.adopt import fields_of, with_fields  # noqa: E402
from ragaf_jax.weights.configs import networks as configs  # noqa: E402
from ragaf_jax.weights.configs.networks import ControlConfig  # noqa: E402
from ragaf_jax.weights.modules import abstract_params, module_of  # noqa: E402
from ragaf_jax.weights.names import text_names, torch_shape, unet_names, vae_names  # noqa: E402

UNETS = {
    "sd15": UNetConfig(),
    "sd21": UNetConfig(
        attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True
    ),
}
UNETS["sdxl"] = configs.unet_config(published.UNET_XL, "")
TEXTS = {
    "sd15": ClipTextConfig(),
    "sd21": ClipTextConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        hidden_act="gelu",
    ),
}
TEXTS["sdxl"] = TEXTS["sd15"]
PROJECTED = configs.projected_text_config(published.TEXT2_XL, "")
PARAMETERS = {
    ("sd15", "unet"): 859_520_964,
    ("sd15", "control"): 361_279_120,
    ("sd15", "vae"): 83_653_863,
    ("sd15", "text"): 123_060_480,
    ("sd21", "unet"): 865_910_724,
    ("sd21", "control"): 364_228_240,
    ("sd21", "vae"): 83_653_863,
    ("sd21", "text"): 340_387_840,
    ("sdxl", "unet"): 2_567_463_684,
    ("sdxl", "control"): 1_251_014_160,
    ("sdxl", "text"): 123_060_480,
    ("sdxl", "text_2"): 694_659_840,
}


def network(generation, kind):
    """(our configuration, our names for theirs, theirs on the meta device)."""
    unet, text = UNETS[generation], TEXTS[generation]
    with torch.device("meta"):
        match kind:
            case "unet":
                theirs = diffusers.UNet2DConditionModel.from_config(configs.unet_json(unet))
                return unet, unet_names, theirs
            case "control":
                control = ControlConfig(unet, (16, 32, 96, 256))
                theirs = diffusers.ControlNetModel.from_config(configs.control_json(control))
                return control, unet_names, theirs
            case "vae":
                theirs = diffusers.AutoencoderKL.from_config(configs.vae_json(VaeConfig()))
                return VaeConfig(), vae_names, theirs
            case "text_2":
                text = transformers.CLIPTextConfig(**configs.text_json(PROJECTED))
                return PROJECTED, text_names, transformers.CLIPTextModelWithProjection(text)
        theirs = transformers.CLIPTextModel(transformers.CLIPTextConfig(**configs.text_json(text)))
        return text, text_names, theirs


@pytest.mark.parametrize(("generation", "kind"), PARAMETERS, ids="-".join)
def test_every_leaf(generation, kind):
    config, naming, theirs = network(generation, kind)
    params = abstract_params(module_of(config))
    expected = {name: tuple(tensor.shape) for name, tensor in theirs.named_parameters()}
    found = {}
    for path, leaf in flatten_dict(params, sep="/").items():
        name = next(place.name for place in naming(path) if place.name in expected)
        found[name] = torch_shape(path, leaf.shape)
    assert found == expected
    total = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
    assert total == PARAMETERS[generation, kind]
    assert total == sum(tensor.numel() for tensor in theirs.parameters())


def test_a_stage_of_sdxl_has_these_networks():
    """Also where a plan assumes the published sizes, without any file."""
    planned, _ = with_known_sizes(stage1.get_config("openmoji_sdxl"))
    unet, vae = UNETS["sdxl"], configs.vae_config(published.VAE_XL, "")
    text = configs.sdxl_text_config(TEXTS["sdxl"], PROJECTED, "")
    model = build_model(with_fields(planned, fields_of(unet, text, vae, {})))
    assert build_model(planned) == model
    # So the counts above, without tracing the networks again.
    assert (model.unet.config, model.text_encoder.config) == (unet, text)
    control = ControlConfig(model.control.config, model.control.conditioning_channels)
    assert control == ControlConfig(unet, (16, 32, 96, 256))
    assert model.autoencoder.vae.config == vae
    scale = {name: getattr(vae, name) for name in ("sample_size", "scaling_factor", "force_upcast")}
    assert dataclasses.replace(VaeConfig(), **scale) == vae
