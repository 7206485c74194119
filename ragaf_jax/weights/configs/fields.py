"""Reads fields of JSON files with checked types."""

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragaf_jax.errors import UserError

Json = Mapping[str, Any]

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
    value = tuple(value) if isinstance(value, list) else value
    # The only field with one number or one per level.
    levels = name == "attention_head_dim" and isinstance(value, tuple)
    if not _alike(value, (default,) if levels else default):
        example = list(default) if isinstance(default, tuple) else default
        raise UserError(
            f"{name} in {source} is {shown(config[name])}, expected a value such as {example!r}."
        )
    return float(value) if isinstance(default, float) else value


def _alike(value: Any, default: Any) -> bool:
    """Whether the types are equal and the value is above 0, unless the default is not."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_alike(x, default[0]) for x in value)
    if isinstance(default, str | bool):
        return type(value) is type(default)
    numbers = (int,) if isinstance(default, int) else (int, float)
    return type(value) in numbers and (value > 0 or not default)
