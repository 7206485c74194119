"""Refuses command-line fields that the checkpoint determines."""

from collections.abc import Mapping
from typing import Any

from ragaf_jax.checkpoints.meta import changed_fields
from ragaf_jax.errors import UserError

# Fields of the command's own configuration that commands on checkpoints use.
_USED = ("stage1", "stage1_checkpoint", "data.dir", "seed", "evaluation_examples")
_USED_SECTIONS = ("sample", "metrics")


def check_overrides(overrides: Mapping[str, Any], trained: Mapping[str, Any], mode: str) -> None:
    """Refuses fields that would be ignored.

    overrides: fields that were set on the command line, by their paths. trained: the configuration
      of the checkpoint, as nested dicts.

    Raises:
      UserError: a field that the checkpoint determines has another value.
    """
    for name, (old, new) in changed_fields(trained, overrides).items():
        if name not in _USED and name.partition(".")[0] not in _USED_SECTIONS:
            raise UserError(
                f"config.{name} is {new!r} and was {old!r} in training; --mode={mode} "
                "takes it from the checkpoint: leave it out."
            )
