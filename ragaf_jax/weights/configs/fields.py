"""Reads fields of JSON files with checked types."""

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragaf_jax.errors import UserError

Json = Mapping[str, Any]

# Fields with one number or one per level (1), and also one per level and layer (2), and their
# least number: some ControlNets of SDXL have transformers without blocks.
_NESTED = {
    "attention_head_dim": (1, 1),
    "transformer_layers_per_block": (2, 0),
    "reverse_transformer_layers_per_block": (2, 0),
}
# Values of fields that are null by default.
_EXAMPLES: Json = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "projection_dim": 1280,
    "reverse_transformer_layers_per_block": (10, 2, 1),
}

# Shortens values in errors, such as a table of a thousand numbers.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises UserError if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; give a folder in diffusers' layout.") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); download it again.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is no JSON object; download it again.")
    return value


def shown(value: Any) -> str:
    """The `repr` of a value for an error, shortened by "..."."""
    return _SHORT.repr(value)


def field(config: Json, name: str, default: Any, source: str) -> Any:
    """A field with the type of `default`, or `default` if it is missing."""
    value = config.get(name)
    if value is None:
        return default
    value = _tuples(value)
    default = _EXAMPLES.get(name) if default is None else default
    if not (_counts(value, *_NESTED[name]) if name in _NESTED else _alike(value, default)):
        example = list(default) if isinstance(default, tuple) else default
        raise UserError(
            f"{name} in {source} is {shown(config[name])}, expected a value such as {example!r}."
        )
    return float(value) if isinstance(default, float) else value


def _tuples(value: Any) -> Any:
    """The value with tuples for lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _counts(value: Any, depth: int, least: int) -> bool:
    """Whether the value is an integer from `least`, or tuples of such in up to `depth` levels."""
    if depth and isinstance(value, tuple):
        return all(_counts(x, depth - 1, least) for x in value)
    return type(value) is int and value >= least


def _alike(value: Any, default: Any) -> bool:
    """Whether the types are equal and the value is above 0, unless the default is not."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_alike(x, default[0]) for x in value)
    if isinstance(default, str | bool):
        return type(value) is type(default)
    numbers = (int,) if isinstance(default, int) else (int, float)
    return type(value) in numbers and (value > 0 or not default)
