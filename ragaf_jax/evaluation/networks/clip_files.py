"""Reads the JSON files that transformers writes beside CLIP's weights."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.networks.clip import DEVIATION, MEAN, ClipConfig, ClipVisionConfig
from ragaf_jax.nets.text.clip import ClipTextConfig
from ragaf_jax.weights.configs.fields import Json, field, read_json
from ragaf_jax.weights.configs.networks import text_config

_BICUBIC = 3  # Pillow's number


def clip_config(config: Json, source: str) -> ClipConfig:
    """The configuration in CLIPModel's config.json; errors name `source`.

    Raises:
      UserError: it is of another model, or a value is unsupported.
    """
    if config.get("model_type") != "clip":
        raise UserError(
            f"model_type in {source} is {config.get('model_type')!r}, expected 'clip': give the "
            "folder of a whole CLIPModel."
        )
    text, vision = _tower(config, "text", source), _tower(config, "vision", source)
    if field(vision, "num_channels", 3, source) != 3:
        raise UserError(f"num_channels in {source} is {vision['num_channels']}, expected 3.")
    # Most fields are common to all transformers models and unused by CLIP.
    known = {f.name for f in dataclasses.fields(ClipTextConfig)}
    try:
        return ClipConfig(
            text_config({name: text[name] for name in known & set(text)}, source),
            ClipVisionConfig(
                **{
                    f.name: field(vision, f.name, f.default, source)
                    for f in dataclasses.fields(ClipVisionConfig)
                }
            ),
            field(config, "projection_dim", ClipConfig.projection_dim, source),
            field(text, "eos_token_id", ClipConfig.eos_token_id, source),
        )
    except ValueError as error:
        raise UserError(f"{source} does not describe a network: {error}.") from None


def check_preprocessor(folder: Path, side: int) -> None:
    """Refuses a folder whose preprocessing differs from `clip.preprocess`.

    Raises:
      UserError: a field of its preprocessor_config.json differs.
    """
    file = folder / "preprocessor_config.json"
    if not file.exists():
        return
    config = read_json(file)
    expected: Mapping[str, tuple[Any, ...]] = {
        "do_resize": (True,),
        "do_center_crop": (True,),
        "do_normalize": (True,),
        "resample": (_BICUBIC,),
        "size": (side, {"shortest_edge": side}),
        "crop_size": (side, {"height": side, "width": side}),
        "image_mean": (list(MEAN),),
        "image_std": (list(DEVIATION),),
    }
    for name, accepted in expected.items():
        if name in config and config[name] not in accepted:
            raise UserError(
                f"{name} in {file} is {config[name]!r}, expected {accepted[-1]!r}; use a CLIP with "
                "the original preprocessing."
            )


def _tower(config: Json, name: str, source: str) -> Json:
    """One tower's fields; if the file has two versions, transformers uses the second."""
    older, newer = (config.get(f"{name}_config{end}") for end in ("", "_dict"))
    tower = (older or {}) if newer is None else newer
    if not isinstance(tower, Mapping):
        raise UserError(f"{name}_config in {source} is {tower!r}, expected an object.")
    return tower
