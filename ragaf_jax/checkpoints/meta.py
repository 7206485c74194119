"""The metadata of a checkpoint, and the check that two stages are compatible."""

from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from ragaf_jax.errors import UserError

# "config", "tokenizer" and "version" of a run.
Meta = Mapping[str, Any]


def check_stages_match(stage1: Meta, stage2: Meta, workdir: str) -> None:
    """Refuses two stages with different images, text, latents or vocabularies.

    Args:
      stage1, stage2: "config" and "tokenizer", as checkpoints hold them.
      workdir: of Stage 1.

    Raises:
      UserError: names the first field that differs.
    """
    shared = ("data.image_size", "data.text_length", "model.autoencoder", "model.haar_levels")
    flat1, flat2 = (flatten_dict(stage["config"], sep=".") for stage in (stage1, stage2))
    for name in shared:
        one, two = flat1[name], flat2[name]
        if one != two:
            raise UserError(
                f"config.{name} is {one} in Stage 1 ({workdir}) and {two} in Stage 2; they must be "
                "equal: train one of them again or choose another workdir."
            )
    if stage1["tokenizer"] != stage2["tokenizer"]:
        raise UserError(
            f"Stage 1 ({workdir}) and Stage 2 have different vocabularies; use two stages that "
            "were trained on the same data."
        )
