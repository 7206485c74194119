"""The ranges of a configuration's fields, checked before anything is read or written."""

import math

import ml_collections

from ragaf_jax.caches import cached_kinds
from ragaf_jax.errors import UserError

MOST = math.inf

# Least and greatest value of each number.
LIMITS = {
    "stage": (1, 2),
    "mesh.data": (-1, MOST),
    "mesh.fsdp": (-1, MOST),
    "data.recolorings": (1, MOST),
    "data.image_size": (8, MOST),
    "data.text_length": (3, MOST),  # a word in its frame
    "data.max_regions": (2, 256),  # labels are stored in eight bits
    "data.max_edges": (1, MOST),
    "data.augment.stroke_width": (0, 1),
    "data.augment.gaps": (0, 1),
    "data.augment.wobble": (0, 1),
    "data.augment.erasure": (0, 1),
    "data.augment.noise": (0, 1),
    "model.haar_levels": (1, MOST),
    "model.clip_skip": (0, MOST),
    "model.lora.rank": (1, MOST),
    "model.lora.dropout": (0, 0.99),
    "diffusion.steps_offset": (0, MOST),
    "train.steps": (1, MOST),
    "train.batch_size": (1, MOST),
    "train.accumulation": (1, MOST),
    "train.max_skipped": (1, MOST),
    "train.read_examples": (0, MOST),
    "train.learning_rate": (0, MOST),
    "train.warmup_steps": (0, MOST),
    "train.weight_decay": (0, MOST),
    "train.clip_norm": (0, MOST),
    "train.ema_decay": (0, 1),
    "train.text_dropout": (0, 1),
    "train.sketch_dropout": (0, 1),
    "train.appearance_weight": (0, MOST),
    "log_every": (1, MOST),
    "validate_every": (1, MOST),
    "validation_examples": (2, MOST),  # one is shown what belongs to the other
    "sample_every": (1, MOST),
    "sample_examples": (1, MOST),
    "checkpoint_every": (1, MOST),
    "response.every": (1, MOST),
    "response.examples": (2, MOST),
    "response.sample_steps": (1, MOST),
    "response.warn_after": (1, MOST),
    "evaluation_examples": (2, MOST),
    "keep_last": (1, MOST),
    "keep_best": (0, MOST),
    "keep_every": (0, MOST),
    "sample.guidance_until": (0, 1),
    "sample.strength": (0, 1),
}


def check_config(config: ml_collections.ConfigDict) -> None:
    """Refuses numbers out of their range.

    Raises:
      UserError: names the first field, its value and its range.
    """
    limits = {**LIMITS, "sample.steps": (1, config.diffusion.steps)}
    for name, (least, most) in limits.items():
        value = config
        for part in name.split("."):
            value = value[part]
        if not least <= value <= most:
            span = f"{least} or more" if most == MOST else f"from {least} to {most}"
            hint = "; to leave it out, choose more than train.steps" if "_every" in name else ""
            raise UserError(f"config.{name} is {value}; it must be {span}{hint}.")
    cached_kinds(config.data.cache, "config.data.cache")
    if config.stage == 1 and config.train.read_examples:
        raise UserError(
            f"config.train.read_examples is {config.train.read_examples} and Stage 1 has no RAGAF "
            "that could read them; set it to 0."
        )
