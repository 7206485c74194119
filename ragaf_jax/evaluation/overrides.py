"""Refuses command-line fields that evaluation takes from the checkpoint."""

import json
from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from ragaf_jax.checkpoints.meta import LATER_FIELDS
from ragaf_jax.errors import UserError

# What a command that samples from checkpoints reads of its own configuration.
_READ = ("stage1", "stage1_checkpoint", "data.dir", "seed", "evaluation_examples")
_READ_SECTIONS = ("sample", "metrics")


def check_overrides(overrides: Mapping[str, Any], trained: Mapping[str, Any], mode: str) -> None:
    """Refuses fields that would be ignored.

    Args:
      overrides: fields that were set on the command line, by their paths.
      trained: the configuration of the checkpoint, as nested dicts.
      mode: of the command.

    Raises:
      UserError: one that the checkpoint decides has another value than there.
    """
    flat = LATER_FIELDS | flatten_dict(dict(trained), sep=".")
    for name, value in overrides.items():
        if name in _READ or name.partition(".")[0] in _READ_SECTIONS:
            continue
        # JSON has made lists of the tuples of the one.
        if name in flat and json.dumps(flat[name]) != json.dumps(value):
            raise UserError(
                f"config.{name} is {value!r} and was {flat[name]!r} in training; --mode={mode} "
                "takes it from the checkpoint: leave it out."
            )
