"""Every field of a config.json is obeyed, known to be without effect, or refused by name."""

import dataclasses
import json

import pytest
from published import (
    CANNY_XL,
    DDIM21,
    DOWN,
    EULER_TURBO,
    PNDM,
    SCRIBBLE,
    TEXT,
    TEXT2_XL,
    TEXT21,
    UNET,
    UNET21,
    UNET_XL,
    UP,
    VAE,
)

from ragaf_jax.errors import UserError
from ragaf_jax.nets.text.clip import ClipTextConfig
from ragaf_jax.nets.unet import UNetConfig
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.weights.configs import networks as configs
from ragaf_jax.weights.configs import schedulers
from ragaf_jax.weights.configs.fields import read_json
from ragaf_jax.weights.configs.networks import ControlConfig

SD21 = UNetConfig(
    sample_size=96,
    attention_head_dim=(5, 10, 20, 20),
    cross_attention_dim=1024,
    use_linear_projection=True,
)
OPEN_CLIP = ClipTextConfig(49408, 1024, 4096, 23, 16, hidden_act="gelu")
READERS = {
    "unet": (configs.unet_config, UNET),
    "vae": (configs.vae_config, VAE),
    "text": (configs.text_config, TEXT),
    "control": (configs.control_config, SCRIBBLE),
    "scheduler": (schedulers.diffusion_fields, PNDM),
}


def test_stable_diffusion_1():
    assert configs.unet_config(UNET, "x") == UNetConfig()
    assert configs.vae_config(VAE, "x") == VaeConfig()
    assert configs.text_config(TEXT, "x") == ClipTextConfig()
    control = configs.control_config(SCRIBBLE, "x")
    assert control == ControlConfig(UNetConfig(), (16, 32, 96, 256))


def test_stable_diffusion_2():
    assert configs.unet_config(UNET21, "x") == SD21
    assert configs.text_config(TEXT21, "x") == OPEN_CLIP
    assert configs.vae_config(VAE | {"sample_size": 768}, "x") == VaeConfig(sample_size=768)


XL = UNetConfig(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    use_linear_projection=True,
    transformer_layers_per_block=(1, 2, 10),
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
BIG_G = ClipTextConfig(49408, 1280, 5120, 32, 20, hidden_act="gelu", projection_dim=1280)


def test_stable_diffusion_xl():
    assert configs.unet_config(UNET_XL, "x") == XL and XL.pooled_width == 1280
    assert configs.projected_text_config(TEXT2_XL, "x") == BIG_G
    control = configs.control_config(CANNY_XL, "x").unet
    assert control == dataclasses.replace(XL, sample_size=64)
    for config, read, write in (
        (XL, configs.unet_config, configs.unet_json),
        (BIG_G, configs.projected_text_config, configs.text_json),
        (ControlConfig(control, (4, 8, 8, 8)), configs.control_config, configs.control_json),
    ):
        assert read(through_json(write(config)), "x") == config


# SSD-1B, a distilled SDXL: depths by layer in the up blocks, and no attention in the middle.
SSD = {
    "transformer_layers_per_block": [1, [2, 2], [4, 4]],
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    "mid_block_type": "UNetMidBlock2D",
}


def test_depths_by_layer():
    unet = configs.unet_config(UNET_XL | SSD, "x")
    assert [unet.down_level(i).depths for i in range(3)] == [(1, 1), (2, 2), (4, 4)]
    assert [unet.up_level(i).depths for i in range(3)] == [(4, 4, 10), (2, 1, 1), (1, 1, 1)]
    assert unet.mid_level().heads is None and XL.mid_level().depths == (10,)
    assert [XL.up_level(i).depths for i in range(3)] == [(10,) * 3, (2,) * 3, (1,) * 3]
    assert configs.unet_config(through_json(configs.unet_json(unet)), "x") == unet
    # A ControlNet has no up blocks.
    written = configs.control_json(ControlConfig(unet, (4, 8, 8, 8)))
    for config in written, through_json(written):
        read = configs.control_config(config, "x").unet
        assert [read.down_level(i) for i in range(3)] == [unet.down_level(i) for i in range(3)]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"transformer_layers_per_block": [1, 2]}, "expected 3 numbers or lists of 2"),
        ({"transformer_layers_per_block": [1, [2, 2, 2], 4]}, "expected 3 numbers or lists of 2"),
        ({"reverse_transformer_layers_per_block": [[4, 4], 2, 1]}, "or lists of 3"),
        ({"reverse_transformer_layers_per_block": None}, "expected also reverse_transformer_lay"),
        ({"transformer_layers_per_block": [1, [2, -1], 4]}, "expected a value such as 1"),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "mid_block_type in x is 'UNetMid"),
        (
            {"addition_time_embed_dim": 512},
            "expected more than 6 times addition_time_embed_dim 512",
        ),
        ({"projection_class_embeddings_input_dim": 2560}, "the network is of SDXL's refiner"),
        ({"addition_embed_type": "text_image"}, "the network is of another model (Kandinsky"),
    ],
)
def test_sizes_of_sdxl_that_do_not_fit(fields, said):
    with pytest.raises(UserError) as error:
        configs.unet_config(UNET_XL | SSD | fields, "x")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_second_text_encoder_of_another_vocabulary():
    with pytest.raises(UserError, match="eos_token_id in x is 7, expected 49407"):
        configs.projected_text_config(TEXT2_XL | {"eos_token_id": 7}, "x")
    first = configs.text_config(TEXT, "x")
    with pytest.raises(UserError, match="vocab_size of the text encoders is 49408 and 600"):
        configs.sdxl_text_config(first, dataclasses.replace(BIG_G, vocab_size=600), "x")


SD_NOISE = {
    "schedule": "scaled_linear",
    "steps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "zero_terminal_snr": False,
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "original_steps": 50,
}


def test_schedulers():
    fields = schedulers.diffusion_fields
    assert fields(PNDM, "x") == SD_NOISE | {"prediction": "epsilon"}
    assert fields(DDIM21, "x") == SD_NOISE | {"prediction": "v_prediction"}
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    found = fields(DDIM21 | zero, "x")
    assert found["zero_terminal_snr"] and found["timestep_spacing"] == "trailing"
    # What is not said is what the class of that name means in diffusers.
    kinds = {
        "DDIMScheduler": ("leading", True),
        "PNDMScheduler": ("leading", False),
        "EulerDiscreteScheduler": ("linspace", True),
        "DPMSolverMultistepScheduler": ("linspace", True),
    }
    for kind, expected in kinds.items():
        found = fields({"_class_name": kind, "steps_offset": None}, "x")
        assert (found["timestep_spacing"], found["set_alpha_to_one"]) == expected
        assert (found["schedule"], found["beta_end"]) == ("linear", 0.02)
        assert found["steps_offset"] == 0


@pytest.mark.parametrize(
    ("changes", "sampler"),
    [
        ({}, "euler"),
        ({"_class_name": "EulerAncestralDiscreteScheduler"}, "euler_ancestral"),
        ({"_class_name": "DDIMScheduler"}, "ddim"),
        ({"_class_name": "LCMScheduler", "timestep_spacing": "leading"}, "lcm"),
        ({"_class_name": "TCDScheduler", "timestep_spacing": None}, "euler"),
        # Ordinary checkpoints: SD 1.5 with Euler, and zero terminal SNR (Lin et al. 2023).
        ({"timestep_spacing": "leading"}, None),
        ({"timestep_spacing": None}, None),
        ({"prediction_type": "v_prediction"}, None),
        ({"rescale_betas_zero_snr": True}, None),
        ({"_class_name": "DPMSolverMultistepScheduler"}, None),
    ],
)
def test_distilled_checkpoints_are_recognised_by_their_scheduler(changes, sampler):
    config = EULER_TURBO | changes
    found = schedulers.distilled(config, reads_guidance=False)
    assert found == (schedulers.Distilled(4, sampler) if sampler else schedulers.Distilled())
    # A UNet that reads the guidance scale is an LCM's.
    assert schedulers.distilled(config, reads_guidance=True) == (4, "lcm", 8.0)
    if sampler:  # LCM's timesteps are those of "trailing", whatever its file has
        assert schedulers.diffusion_fields(config, "x")["timestep_spacing"] == "trailing"
    for ordinary in (PNDM, DDIM21):
        assert schedulers.distilled(ordinary, reads_guidance=False).steps == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"use_karras_sigmas": True}, "x has use_karras_sigmas=True, which has no effect here"),
        ({"thresholding": True, "clip_sample": True}, "thresholding=True, clip_sample=True, which"),
        ({"solver_order": 3}, "solver_order=3, which has"),
        ({"algorithm_type": "sde-dpmsolver++"}, "algorithm_type='sde-dpmsolver++', which has"),
        ({"use_exponential_sigmas": True}, "use_exponential_sigmas=True"),
        ({"use_beta_sigmas": True}, "use_beta_sigmas=True"),
        ({"sigma_max": 14.6}, "sigma_max=14.6"),
        ({"final_sigmas_type": "sigma_min"}, "final_sigmas_type='sigma_min'"),
    ],
)
def test_settings_without_effect_are_named_in_one_line(fields, said):
    notice = schedulers.ignored(PNDM | fields, "x")
    assert said in notice and "config.sample selects the sampler" in notice and "\n" not in notice


@pytest.mark.parametrize(
    "kind",
    [
        "ScoreSdeVeScheduler",
        "CMStochasticIterativeScheduler",
        "KarrasVeScheduler",
        "DDPMWuerstchenScheduler",
        "AmusedScheduler",
        "IPNDMScheduler",
        "SchedulerToCome",
    ],
)
def test_schedulers_without_betas_are_refused_by_name(kind):
    config = {"_class_name": kind, "num_train_timesteps": 1000, "sigma_max": 80.0}
    with pytest.raises(UserError, match=f"x has the class '{kind}', a diffusion without"):
        schedulers.diffusion_fields(config, "x")


def test_an_unknown_scheduler_with_betas_is_read_with_a_notice():
    config = PNDM | {"_class_name": "SchedulerToCome"}
    found = schedulers.diffusion_fields(config, "x")
    assert (found["schedule"], found["beta_end"]) == ("scaled_linear", 0.012)
    assert "x has the unknown class 'SchedulerToCome'" in schedulers.ignored(config, "x")
    with pytest.raises(UserError, match="CogVideoXDDIMScheduler"):
        schedulers.diffusion_fields(PNDM | {"_class_name": "CogVideoXDDIMScheduler"}, "x")


def test_usual_settings_are_not_named():
    solver = {"solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint"}
    usual = solver | {"lower_order_final": True, "lambda_min_clipped": float("-inf")}
    for config in (PNDM, DDIM21, EULER_TURBO, PNDM | usual):
        assert schedulers.ignored(config, "x") == ""


def random_unet(rng):
    levels, groups = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    heads = tuple(int(n) for n in rng.integers(1, 4, levels))
    cross = [bool(x) for x in rng.integers(0, 2, 2 * levels)]
    return UNetConfig(
        sample_size=int(rng.integers(1, 99)),
        in_channels=int(rng.integers(1, 9)),
        out_channels=int(rng.integers(1, 9)),
        block_out_channels=tuple(groups * n * int(rng.integers(1, 5)) for n in heads),
        down_block_types=tuple("CrossAttnDownBlock2D" if x else "DownBlock2D" for x in cross[::2]),
        up_block_types=tuple("CrossAttnUpBlock2D" if x else "UpBlock2D" for x in cross[1::2]),
        layers_per_block=int(rng.integers(1, 4)),
        attention_head_dim=heads if rng.random() < 0.5 else 1,
        cross_attention_dim=int(rng.integers(1, 99)),
        use_linear_projection=bool(rng.integers(2)),
        flip_sin_to_cos=bool(rng.integers(2)),
        freq_shift=int(rng.integers(2)),
        norm_num_groups=groups,
    )


def through_json(value):
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("_", range(5))
def test_what_is_written_is_read(rng, _):
    unet = random_unet(rng)
    assert configs.unet_config(through_json(configs.unet_json(unet)), "x") == unet
    # A ControlNet's file does not say what it is not a copy of.
    ups = tuple(name.replace("Down", "Up") for name in unet.down_block_types[::-1])
    half = dataclasses.replace(unet, sample_size=64, out_channels=4, up_block_types=ups)
    control = ControlConfig(half, tuple(int(n) for n in rng.integers(1, 99, 4)))
    assert configs.control_config(through_json(configs.control_json(control)), "x") == control
    groups, scale = int(rng.integers(1, 9)), float(rng.uniform(0.1, 2))
    widths = tuple(groups * int(n) for n in rng.integers(1, 9, rng.integers(1, 6)))
    vae = VaeConfig(3, 3, widths, int(rng.integers(1, 4)), 16, groups, 99, scale)
    assert configs.vae_config(through_json(configs.vae_json(vae)), "x") == vae
    heads, act = int(rng.integers(1, 9)), str(rng.choice(["gelu", "quick_gelu"]))
    text = ClipTextConfig(99, 7 * heads, 11, 3, heads, 55, act, float(rng.uniform(0, 1)))
    assert configs.text_config(through_json(configs.text_json(text)), "x") == text
    fields = {
        "schedule": str(rng.choice(["linear", "scaled_linear", "cosine"])),
        "steps": int(rng.integers(2, 2000)),
        "beta_start": float(rng.uniform(0, 0.01)),
        "beta_end": float(rng.uniform(0.01, 1)),
        "zero_terminal_snr": bool(rng.integers(2)),
        "prediction": str(rng.choice(["epsilon", "v_prediction", "sample"])),
        "timestep_spacing": str(rng.choice(["leading", "trailing", "linspace"])),
        "steps_offset": int(rng.integers(3)),
        "set_alpha_to_one": bool(rng.integers(2)),
        "original_steps": 50,
    }
    assert (
        schedulers.diffusion_fields(through_json(schedulers.scheduler_json(fields)), "x") == fields
    )
    lcm = {"distilled_steps": 4, "distilled_sampler": "lcm", "original_steps": 40}
    written = through_json(schedulers.scheduler_json(fields | lcm))
    assert schedulers.distilled(written, reads_guidance=False) == (4, "lcm", 1.0)
    assert schedulers.diffusion_fields(written, "x")["original_steps"] == 40


@pytest.mark.parametrize(
    ("network", "fields"),
    [
        ("unet", {"only_cross_attention": [False] * 4, "transformer_layers_per_block": [1] * 4}),
        ("unet", {"mid_block_only_cross_attention": False, "cross_attention_norm": False}),
        ("unet", {"_name_or_path": "runwayml/stable-diffusion-v1-5", "_use_ema": True}),
        ("unet", {"a_field_to_come": None, "another": False, "norm_eps": 1e-5}),
        ("unet", {"_class_name": "FlaxUNet2DConditionModel", "class_embed_type": None}),
        ("unet", {"dropout": 0.1, "addition_time_embed_dim": 256, "resnet_out_scale_factor": 1}),
        ("unet", {"sample_size": None}),
        ("vae", {"latents_mean": None, "scaling_factor": 0.18215}),
        ("vae", {"shift_factor": None, "use_quant_conv": True, "mid_block_add_attention": True}),
        ("text", {"model_type": "clip_text", "dtype": "float16", "return_dict": False}),
        ("text", {"architectures": None, "use_cache": True, "tie_word_embeddings": True}),
        (
            "text",
            {"return_dict": True, "id2label": {"0": "A"}, "top_k": 50, "max_length": 20},
        ),
        ("control", {"up_block_types": UP, "out_channels": 4, "conditioning_channels": 3}),
        ("scheduler", {"thresholding": False, "timestep_spacing": None}),
    ],
)
def test_what_changes_nothing(network, fields):
    read, file = READERS[network]
    assert read(file | fields, "x") == read(file, "x")


@pytest.mark.parametrize("network", ["unet", "vae", "control"])
def test_a_height_and_a_width_are_one_size(network):
    read, file = READERS[network]
    assert read(file | {"sample_size": [64, 96]}, "x") == read(file | {"sample_size": 96}, "x")


@pytest.mark.parametrize(
    ("network", "field", "value"),
    [
        ("unet", "addition_embed_type", "text_time"),  # SDXL
        ("unet", "transformer_layers_per_block", [1, 2, 10]),
        ("unet", "class_embed_type", "timestep"),
        ("unet", "num_class_embeds", 1000),
        ("unet", "only_cross_attention", [True, True, True, False]),
        ("unet", "mid_block_type", None),
        ("unet", "num_attention_heads", 8),
        ("unet", "act_fn", "gelu"),
        ("unet", "a_field_to_come", 3),
        ("unet", "_class_name", "UNet2DModel"),
        ("unet", "down_block_types", [*DOWN[:3], "AttnDownBlock2D"]),
        ("unet", "block_out_channels", "320"),
        ("unet", "block_out_channels", 320),
        ("unet", "block_out_channels", [320, 640, 1280, "1280"]),
        ("unet", "layers_per_block", [2, 2, 2, 2]),
        ("unet", "cross_attention_dim", {"text": 768}),
        ("unet", "use_linear_projection", 1),
        ("unet", "norm_num_groups", 7),
        ("unet", "norm_num_groups", 0),
        ("unet", "attention_head_dim", [8, 8]),
        ("vae", "_class_name", "AutoencoderTiny"),
        ("vae", "block_out_channels", 128),
        ("vae", "down_block_types", ["DownEncoderBlock2D"] * 3),
        ("vae", "shift_factor", 0.0609),
        ("vae", "use_quant_conv", False),
        ("vae", "scaling_factor", "0.18215"),
        ("vae", "scaling_factor", 0),
        ("text", "architectures", ["CLIPTextModelWithProjection"]),
        ("text", "model_type", "t5"),
        ("text", "hidden_act", "relu"),
        ("text", "num_attention_heads", 7),
        ("text", "text_config", {"hidden_size": 768}),
        ("control", "_class_name", "UNet2DConditionModel"),
        ("control", "controlnet_conditioning_channel_order", "bgr"),
        ("control", "conditioning_channels", 1),
        ("control", "conditioning_embedding_out_channels", 16),
        ("control", "down_block_types", "DownBlock2D"),
        ("scheduler", "_class_name", "FlowMatchEulerDiscreteScheduler"),
        ("scheduler", "trained_betas", [0.1, 0.2]),
        ("scheduler", "beta_schedule", "laplace"),
        ("scheduler", "num_train_timesteps", "1000"),
        ("scheduler", "prediction_type", 1),
    ],
)
def test_what_is_refused(network, field, value):
    read, file = READERS[network]
    with pytest.raises(UserError) as error:
        read(file | {field: value}, "folder/config.json")
    said = str(error.value)
    name = {"_class_name": value if network == "scheduler" else field}.get(field, field)
    assert name in said and "folder/config.json" in said and "\n" not in said


@pytest.mark.parametrize(
    ("network", "field"),
    [
        ("scheduler", "trained_betas"),
        ("unet", "transformer_layers_per_block"),
        ("unet", "block_out_channels"),
        ("unet", "a_field_to_come"),
        ("vae", "latents_mean"),
        ("text", "architectures"),
        ("text", "hidden_size"),
    ],
)
def test_long_tables_are_not_printed_whole(network, field):
    read, file = READERS[network]
    for value in ([i / 7 for i in range(1000)], "x" * 9999):
        with pytest.raises(UserError) as error:
            read(file | {field: value}, "folder/config.json")
        assert field in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'"SD"', b"\xff\xfe{}", b"null"])
def test_files_that_are_no_json_object(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match=rf"{path} is no JSON .*download it again"):
        read_json(path)
    path.write_bytes(b'{"a": 1}')
    assert read_json(path) == {"a": 1}


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"config.json is missing; give a folder in diffusers'"):
        read_json(tmp_path / "config.json")
