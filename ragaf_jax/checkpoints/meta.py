"""The metadata of a checkpoint, and comparisons of two configurations."""

import json
from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from ragaf_jax import __version__
from ragaf_jax.errors import UserError
from ragaf_jax.tokenizer import Tokenizer

# "config", "tokenizer" and "version" of a run.
Meta = Mapping[str, Any]

# Fields that older checkpoints lack, with the values that their runs had.
LATER_FIELDS = {
    "init.ema": False,
    "init.vae": "",
    "data.buckets": (),
    "data.regions": "strokes",
    "data.graph.kind": "hybrid",
    "data.graph.k": 3,
    "data.graph.radius": 0.25,
    "data.mirror": "own",  # the earliest versions mirrored photographs too, and did not record it
    "data.tags.shuffle": False,
    "data.tags.dropout": 0.0,
    "data.tags.keep": 0,
    "model.text_encoder_2": {},
    "model.control": {},
    "diffusion.distilled_sampler": "euler",
    "diffusion.distilled_guidance": 1.0,
    "diffusion.original_steps": 50,
    "sample.sigmas": "uniform",
}


def meta_of(config: ConfigDict, tokenizer: Tokenizer) -> dict[str, Any]:
    """The metadata of a run."""
    return {"config": config.to_dict(), "tokenizer": tokenizer.to_json(), "version": __version__}


def with_later_fields(meta: Meta) -> dict[str, Any]:
    """`meta` as a checkpoint of today would have it."""
    config = flatten_dict(meta["config"], keep_empty_nodes=True, sep=".")
    sections = {name.rpartition(".")[0] for name in config}
    later = {name: x for name, x in LATER_FIELDS.items() if name not in config.keys() | sections}
    return {**meta, "config": unflatten_dict(config | later, sep=".")}


def changed_fields(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields of both configurations that differ, with both values, by their paths.

    Tuples equal lists, which JSON makes of them in checkpoints.
    Both are nested dicts, or dicts by paths.
    """
    one, two = (flatten_dict(dict(config), sep=".") for config in (before, now))
    return {
        name: (one[name], two[name])
        for name in two
        if name in one and json.dumps(one[name]) != json.dumps(two[name])
    }


def check_stages_match(stage1: Meta, stage2: Meta, workdir: str) -> None:
    """Refuses two stages with different images, text, latents or vocabularies.

    Args:
      stage1, stage2: "config" and "tokenizer", as checkpoints hold them.
      workdir: of Stage 1.

    Raises:
      UserError: names the first field that differs.
    """
    shared = (
        *("data.image_size", "data.text_length", "model.autoencoder", "model.haar_levels"),
        "model.unet.addition_embed_type",
    )
    flat1, flat2 = (flatten_dict(stage["config"], sep=".") for stage in (stage1, stage2))
    for name in shared:
        one, two = flat1.get(name), flat2.get(name)
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
