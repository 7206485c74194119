"""Fields for runs from Stable Diffusion's weights, for both stages."""

from ml_collections import ConfigDict


def from_stable_diffusion(config: ConfigDict) -> ConfigDict:
    """`config` at 512 px from SD 1.5, training only the sketch branch and in Stage 2 RAGAF.

    The checkpoint determines the networks' sizes, the noise schedule and the tokenizer;
    `--config.init.checkpoint=` selects another one.
    """
    config.init.checkpoint = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    config.data.image_size = 512
    config.data.text_length = 77
    config.data.recolorings = 4  # 6,500 images of 512 px
    config.model.dtype = "bfloat16"
    config.train.trainable = ("control/.*",) if config.stage == 1 else ("control/.*", "ragaf/.*")
    config.train.frozen = (".*",)
    config.train.batch_size = 4
    config.train.read_examples = 0
    config.train.steps = 20000
    config.train.warmup_steps = 500
    config.train.learning_rate = 1e-5  # ControlNet's (Zhang et al. 2023, §4.1)
    config.train.text_dropout = 0.5  # §3.3: the sketch must suffice without text
    config.train.sketch_dropout = 0.0  # without the sketch branch the UNet is the original
    config.validate_every = config.sample_every = config.checkpoint_every = 1000
    # At most a step's batch at a time.
    config.validation_examples = config.sample_examples = 4
    config.sample.guidance = 7.5
    config.sample.guidance_until = 0.0
    config.sample.strength = 0.8
    return config


def from_sdxl(config: ConfigDict) -> ConfigDict:
    """`config` at about 1024² px from SDXL's base model; else as `from_stable_diffusion`."""
    from_stable_diffusion(config)
    config.init.checkpoint = "stabilityai/stable-diffusion-xl-base-1.0"
    config.data.image_size = 1024
    # Conditions are compared between images of one of a dozen sizes.
    config.validation_examples = 16 if config.data.buckets else 4
    config.sample.guidance = 5.0  # diffusers' default for SDXL
    return config


STARTS = {"_sd": from_stable_diffusion, "_sdxl": from_sdxl}


def with_start(config: ConfigDict, suffix: str) -> ConfigDict:
    """`config` from the Stable Diffusion that a suffix selects; "" changes nothing."""
    return STARTS[suffix](config) if suffix else config


def split_suffix(name: str) -> tuple[str, str]:
    """Splits a configuration's name into name and suffix: "coco" and "_sdxl", or ""."""
    suffix = next((suffix for suffix in STARTS if name.endswith(suffix)), "")
    return name.removesuffix(suffix), suffix
