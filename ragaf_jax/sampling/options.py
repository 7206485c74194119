"""How pictures are to be drawn: every choice that is not sketch, words or seed."""

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any

from ragaf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Options:
    """Choices of a call. None of them compiles anew but `sampler`, and the first `sketch_guidance`
    that is not 1, as that takes a third evaluation of the networks.

    Attributes:
      steps: denoising steps of either stage.
      guidance: scale of the text; 1 is the plain conditional model.
      sketch_guidance: scale of the sketch and its regions; 1 likewise.
      guidance_until: below this share of the timesteps both scales count as 1.
      strength: how far a picture to begin from is noised, Stage 1's or a given one: 0 not at all, 1
        wholly.
      sketch_strength: of what the sketch branch adds to the UNet; 1 as in training.
      sampler: a name in `diffusion.samplers.SAMPLERS`.
      stages: "both", "1" or "2" alone.
    """

    steps: int
    guidance: float
    sketch_guidance: float
    guidance_until: float
    strength: float
    sampler: str
    sketch_strength: float = 1.0
    stages: str = "both"


NUMBERS = "steps", "guidance", "sketch_guidance", "guidance_until", "strength", "sketch_strength"

# Scales far beyond what makes a picture, and far from where one has no numbers any more.
LARGEST_SCALE = 100

STAGES = {"both": (1, 2), "1": (1,), "2": (2,)}


def chosen(
    sample: Mapping[str, Any], asked: Mapping[str, Any], schedule_steps: int, usual_stages: str
) -> Options:
    """What is asked for, and the rest as `config.sample` has it.

    Args:
      sample: the fields of `config.sample`.
      asked: fields of `Options`; those that are None are left to `sample`.
      schedule_steps: T.
      usual_stages: where nothing is asked.

    Raises:
      UserError: a value out of its range.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    known = {field.name for field in dataclasses.fields(Options)}
    usual = {name: value for name, value in sample.items() if name in known}
    fields = {"stages": usual_stages, **usual, **given}
    for name in NUMBERS:
        if name in fields and not isinstance(fields[name], numbers.Real):
            raise UserError(f"{name} is {fields[name]!r}; choose a number.")
    steps = fields["steps"]
    if not (1 <= steps <= schedule_steps and steps == int(steps)):
        raise UserError(f"steps is {steps}; choose a whole number, 1 to {schedule_steps}.")
    options = Options(**{**fields, "steps": int(steps)})
    for name in ("strength", "guidance_until"):
        value = getattr(options, name)
        if not 0 <= value <= 1:
            raise UserError(f"{name} is {value}; choose 0 to 1.")
    for name in ("guidance", "sketch_guidance", "sketch_strength"):
        value = getattr(options, name)
        if not abs(value) <= LARGEST_SCALE:
            raise UserError(
                f"{name} is {value}; choose -{LARGEST_SCALE} to {LARGEST_SCALE}, usually 0 to 10."
            )
    if options.stages not in tuple(STAGES):
        raise UserError(f"stages is {options.stages!r}; choose one of {', '.join(STAGES)}.")
    return options


def check_seed(seed: Any) -> None:
    """Refuses what is no seed."""
    if not (isinstance(seed, numbers.Integral) and 0 <= int(seed) < 2**32):
        raise UserError(f"The seed is {seed}; choose one from 0 to {2**32 - 1}.")
