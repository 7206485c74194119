"""Random Stable Diffusions in PyTorch, written as diffusers and transformers write them."""

import copy
import json

import diffusers
import torch
import transformers

from ragaf_jax.weights.load import load_tree
from ragaf_jax.weights.stores import Safetensors

KINDS = ("sd1", "sd2")

# Of either generation: fields that differ from diffusers' defaults, at tiny sizes.
UNETS = {
    "sd1": {"attention_head_dim": 2, "use_linear_projection": False},
    "sd2": {"attention_head_dim": (2, 4, 4), "use_linear_projection": True},
}
# Stable Diffusion XL at sizes that a single file shows too: heads of 64 channels, 32 groups.
POOLED, XL_WIDTHS, XL_SCALING = 96, (64, 128), 0.13025
UNETS["sdxl"] = {
    "block_out_channels": XL_WIDTHS,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (1, 2),
    "layers_per_block": 1,
    "cross_attention_dim": sum(XL_WIDTHS),
    "norm_num_groups": 32,
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": POOLED + 6 * 256,
}
# With depths by layer and no attention in the middle, as SSD-1B.
SSD = {
    "mid_block_type": "UNetMidBlock2D",
    "transformer_layers_per_block": [1, [2]],
    "reverse_transformer_layers_per_block": [[1, 3], 1],
}
# Smaller ControlNets for it, as controlnet-canny-sdxl-1.0-small, without attention, and -mid, of
# which some transformers have no blocks.
SMALLER_CONTROLS = {
    "small": {"down_block_types": ("DownBlock2D",) * 2, "mid_block_type": "UNetMidBlock2D"},
    "mid": {
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "transformer_layers_per_block": (0, 1),
    },
}
TEXTS = {
    "sd1": {"hidden_act": "quick_gelu", "num_attention_heads": 2},
    "sd2": {"hidden_act": "gelu", "num_attention_heads": 4},
}
# A UNet that compiles faster, where the network itself is not what is tested.
SMALL = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": (2, 4),
    "layers_per_block": 1,
}
TEXT_WIDTH = 24
VOCABULARY = 600


def randomised(network, generator):
    """The network with every parameter drawn anew, none zero and no norm trivial."""
    with torch.no_grad():
        for parameter in network.parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * fan_in**-0.5)
            if parameter.ndim == 1:
                parameter.add_(0.5)
    return network.eval()


def generator(rng):
    """PyTorch's random numbers, seeded by the test's."""
    return torch.Generator().manual_seed(int(rng.integers(2**31)))


def unet(kind, rng, **changes):
    """A UNet2DConditionModel of three levels, the last without attention."""
    network = diffusers.UNet2DConditionModel(
        **{
            "sample_size": 8,
            "block_out_channels": (8, 16, 16),
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 2,
            "cross_attention_dim": TEXT_WIDTH,
            "norm_num_groups": 4,
            **UNETS[kind],
            **changes,
        }
    )
    return randomised(network, generator(rng))


def copy_of(network):
    """The network in float64, for evaluation."""
    return copy.deepcopy(network).double().eval()


def params_of(file, abstract, naming):
    """The parameters of a network in a file."""
    return load_tree(Safetensors.open(file), abstract, naming)


def control(network, rng, channels=(8, 12, 16, 24), **changes):
    """A ControlNet for this UNet, perhaps a smaller one."""
    made = diffusers.ControlNetModel.from_unet(
        network, conditioning_embedding_out_channels=channels, load_weights_from_unet=False
    )
    if changes:
        made = diffusers.ControlNetModel.from_config({**made.config, **changes})
    return randomised(made, generator(rng))


def vae(rng, **changes):
    """An AutoencoderKL that makes latents of an eighth."""
    network = diffusers.AutoencoderKL(
        **{
            "block_out_channels": (8, 8, 16, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "sample_size": 64,
            **changes,
        }
    )
    return randomised(network, generator(rng))


def text_encoder(kind, rng, **changes):
    """A CLIPTextModel of three layers."""
    config = transformers.CLIPTextConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": TEXT_WIDTH,
            "intermediate_size": 40,
            "num_hidden_layers": 3,
            "max_position_embeddings": 77,
            "bos_token_id": VOCABULARY - 2,
            "eos_token_id": VOCABULARY - 1,
            "attn_implementation": "eager",
            **TEXTS[kind],
            **changes,
        }
    )
    return randomised(transformers.CLIPTextModel(config), generator(rng))


def text_encoder_2(rng):
    """SDXL's second text encoder, of three layers; id 2 stands for the highest, as published."""
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=XL_WIDTHS[1],
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        hidden_act="gelu",
        projection_dim=POOLED,
        eos_token_id=2,
        attn_implementation="eager",
    )
    return randomised(transformers.CLIPTextModelWithProjection(config), generator(rng))


def save_sdxl(folder, rng, **unet_changes):
    """A whole Stable Diffusion XL as `save_stable_diffusion` writes it; returns its networks."""
    networks = {
        "unet": unet("sdxl", rng, **unet_changes),
        "vae": vae(
            rng, block_out_channels=(32,) * 4, norm_num_groups=32, scaling_factor=XL_SCALING
        ),
        "text_encoder": text_encoder("sd1", rng, hidden_size=XL_WIDTHS[0], num_attention_heads=1),
        "text_encoder_2": text_encoder_2(rng),
        "scheduler": scheduler("sd1"),
    }
    for name, network in networks.items():
        network.save_pretrained(folder / name)
    index = {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
    (folder / "model_index.json").write_text(json.dumps(index))
    return networks


def scheduler(kind):
    """The noise schedule that the checkpoints of either generation come with."""
    return diffusers.DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon" if kind == "sd1" else "v_prediction",
    )


def save_stable_diffusion(folder, kind, rng, **unet_changes):
    """A whole checkpoint but for its tokenizer, in diffusers' layout; returns its networks."""
    networks = {
        "unet": unet(kind, rng, **unet_changes),
        "vae": vae(rng),
        "text_encoder": text_encoder(kind, rng),
        "scheduler": scheduler(kind),
    }
    for name, network in networks.items():
        network.save_pretrained(folder / name)
    index = {"_class_name": "StableDiffusionPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return networks
