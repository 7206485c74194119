"""Terminal messages at the start and end of a training run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from clu.parameter_overview import count_parameters
from ml_collections import ConfigDict

from ragaf_jax.checkpoints.meta import changed_fields
from ragaf_jax.errors import notify
from ragaf_jax.training.state import TrainState

# Longest list of changed fields.
_LISTED = 6


def announce(sentence: str) -> None:
    """Prints a line in the first process."""
    if jax.process_index() == 0:
        notify(sentence)


def announce_resume(
    workdir: Path, step: int, steps: int, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Announces that a run is resumed, and the fields that differ from those of its checkpoint.

    `before` and `now` are the configurations, as nested dicts.
    """
    if step >= steps:
        announce(
            f"{workdir} is already at step {step} of {steps} (config.train.steps): nothing to do."
        )
        return
    announce(f"Resuming {workdir} from step {step}, up to step {steps} (config.train.steps).")
    changed = changed_fields(before, now)
    for name, (old, new) in list(changed.items())[:_LISTED]:
        announce(f"  config.{name} is {json.dumps(new)} and was {json.dumps(old)}")
    if len(changed) > _LISTED:
        announce(f"  and {len(changed) - _LISTED} more fields differ from those of the checkpoint")


def announce_start(state: TrainState) -> None:
    """Announces the number of parameters and the compilation of the first step."""
    trained, frozen = (count_parameters(tree) / 1e6 for tree in (state.trainable, state.frozen))
    announce(f"{trained:.2f} M trainable parameters, {frozen:.2f} M frozen")
    announce(
        "Compiling the training step: up to a minute for a small model, several for Stable "
        "Diffusion, a few seconds with a filled compilation cache …"
    )


def announce_end(config: ConfigDict, workdir: Path, steps: int, seconds: float) -> None:
    """Announces steps and seconds since this start, and the command that samples from the run."""
    flags = f"--stage{config.stage}={workdir}"
    if config.stage == 2:
        flags = f"--stage1={config.stage1} {flags}"
    announce(f"Finished {steps} steps in {seconds:.0f} s: {workdir}")
    announce(
        f"To sample: python -m ragaf_jax.sample {flags} --sketch=<file> --prompt=<text> "
        "--output=<folder>"
    )
