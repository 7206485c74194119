"""What diffusers and transformers write as configurations today is read, field by field."""

import json

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from torch_models import SMALL  # noqa: E402

from ragaf_jax.weights.configs import networks as configs  # noqa: E402
from ragaf_jax.weights.configs import schedulers  # noqa: E402

# diffusers with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

LEVELS = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}


def written(network):
    """config.json of a network without weights."""
    with torch.device("meta"):
        return json.loads(network().to_json_string())


def test_networks():
    """Every field at its default, the sizes but for."""
    unet = written(
        lambda: diffusers.UNet2DConditionModel(
            **SMALL, norm_num_groups=4, cross_attention_dim=12, sample_size=(8, 12)
        )
    )
    found = configs.unet_config(unet, "x")
    assert (found.block_out_channels, found.sample_size) == ((8, 16), 12)
    half = {k: v for k, v in SMALL.items() if k != "up_block_types"}
    control = written(
        lambda: diffusers.ControlNetModel(**half, norm_num_groups=4, cross_attention_dim=12)
    )
    assert configs.control_config(control, "x").unet.block_out_channels == (8, 16)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2}
    blocks |= {"up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = written(lambda: diffusers.AutoencoderKL(**LEVELS, **blocks))
    assert configs.vae_config(vae, "x").block_out_channels == (8, 16)


@pytest.mark.parametrize("whole", [True, False])
def test_text_encoders(whole):
    """With every field of transformers' base class, or with those that are not its defaults."""
    config = transformers.CLIPTextConfig(hidden_size=24, num_attention_heads=2)
    text = json.loads(config.to_json_string(use_diff=not whole))
    assert len(text) > (22 if whole else 5)
    found = configs.text_config(text, "x")
    assert (found.hidden_size, found.num_attention_heads) == (24, 2)
    assert found.num_hidden_layers == config.num_hidden_layers


# Of the schedulers that Stable Diffusion is published and used with, settings that differ from ours
# at their defaults: those of images in [−1, 1] clip, which Stable Diffusion's files turn off.
SCHEDULERS = {
    "DDIMScheduler": "clip_sample=True",
    "DDPMScheduler": "clip_sample=True",
    "DEISMultistepScheduler": "",
    "DPMSolverMultistepScheduler": "",
    "DPMSolverSinglestepScheduler": "lower_order_final=False",
    "EulerAncestralDiscreteScheduler": "",
    "EulerDiscreteScheduler": "",
    "HeunDiscreteScheduler": "",
    "KDPM2AncestralDiscreteScheduler": "",
    "KDPM2DiscreteScheduler": "",
    "LCMScheduler": "",
    "LMSDiscreteScheduler": "",
    "PNDMScheduler": "skip_prk_steps=False",
    "TCDScheduler": "",
    "UniPCMultistepScheduler": "",
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(name):
    config = json.loads(getattr(diffusers, name)().to_json_string())
    assert schedulers.diffusion_fields(config, "x")["steps"] == 1000
    notice, expected = schedulers.ignored(config, "x"), SCHEDULERS[name]
    assert expected in notice and bool(notice) == bool(expected)
    steps = schedulers.distilled(config, reads_guidance=False).steps
    assert bool(steps) == (name in ("LCMScheduler", "TCDScheduler"))
