"""The options of a call: all settings but sketch, texts and seed."""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from ragaf_jax.diffusion.samplers import SAMPLERS
from ragaf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Options:
    """Choices of a call. `sampler` compiles anew, and so does another number of evaluations a step:
    one where both scales are 1, two where `sketch_guidance` is 1, else three.

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


class Asked(TypedDict, total=False):
    """Keyword arguments of a call: fields of `Options`; `config.sample` has the defaults."""

    steps: int
    guidance: float
    sketch_guidance: float
    guidance_until: float
    strength: float
    sampler: Literal["ddim", "dpm_solver_pp_2m", "unipc", "euler", "heun", "ddpm"]
    sketch_strength: float
    stages: Literal["both", "1", "2"]


NUMBERS = "steps", "guidance", "sketch_guidance", "guidance_until", "strength", "sketch_strength"

# Scales far beyond what makes a picture, and far from where one has no numbers any more.
LARGEST_SCALE = 100

MOST = 1000  # images of a call, which are all kept until the last is there

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
    check_values(fields, schedule_steps)
    return Options(**{**fields, "steps": int(fields["steps"])})


def check_values(fields: Mapping[str, Any], schedule_steps: int | None = None) -> None:
    """Refuses values out of their range, which needs no checkpoint.

    Args:
      fields: of `Options`, any of them; None counts as left out.
      schedule_steps: T, where it is known.

    Raises:
      UserError: the first such value.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    for name in NUMBERS:
        if name in given and not isinstance(given[name], numbers.Real):
            raise UserError(f"{name} is {given[name]!r}; choose a number.")
    steps, most = given.get("steps", 1), schedule_steps or math.inf
    if not (1 <= steps <= most and steps == int(steps)):
        upto = "or more" if schedule_steps is None else f"to {schedule_steps}"
        raise UserError(f"steps is {steps}; choose a whole number, 1 {upto}.")
    for name in ("strength", "guidance_until"):
        if not 0 <= given.get(name, 0) <= 1:
            raise UserError(f"{name} is {given[name]}; choose 0 to 1.")
    for name in ("guidance", "sketch_guidance", "sketch_strength"):
        if not abs(given.get(name, 0)) <= LARGEST_SCALE:
            raise UserError(
                f"{name} is {given[name]}; choose -{LARGEST_SCALE} to {LARGEST_SCALE}, usually 0 "
                "to 10."
            )
    for name, known in (("stages", tuple(STAGES)), ("sampler", tuple(SAMPLERS))):
        if name in given and given[name] not in known:
            raise UserError(f"{name} is {given[name]!r}; choose one of {', '.join(known)}.")


def check_count(count: Any) -> None:
    """Refuses a number of images that cannot be sampled."""
    if not (isinstance(count, numbers.Integral) and 1 <= int(count) <= MOST):
        raise UserError(f"count is {count}; choose 1 to {MOST} images.")


def setting_notices(settings: Mapping[str, Any]) -> list[str]:
    """Effects of settings that a user may not expect.

    Args:
      settings: the fields of `Options`; and "negative_prompt", unless it is empty.
    """
    notices = []
    text, sketch = settings["guidance"], settings["sketch_guidance"]
    strength = settings["sketch_strength"]
    if text == 0:
        notices.append(
            "guidance is 0, which leaves the prompt out; 1 is the model without guidance, which "
            "diffusers calls 0."
        )
    if sketch == 0:
        notices.append(
            "sketch_guidance is 0, which leaves the sketch out but for what the prompt makes of "
            "it; 1 is the model without guidance."
        )
    for name, scale, what in (
        ("guidance", text, "the prompt"),
        ("sketch_guidance", sketch, "the sketch"),
    ):
        if scale < 0:
            notices.append(f"{name} is {scale:g}, which guides the image away from {what}.")
    if strength == 0:
        notices.append(
            "sketch_strength is 0, so the UNet gets nothing from the sketch branch; 1 is as in "
            "training."
        )
    if strength < 0:
        notices.append(
            f"sketch_strength is {strength:g}, which subtracts what the sketch branch adds; 1 is "
            "as in training."
        )
    if settings.get("negative_prompt") and text == sketch == 1:
        notices.append("guidance is 1, at which the negative prompt has no effect.")
    return notices


def check_seed(seed: Any) -> None:
    """Refuses what is no seed."""
    if not (isinstance(seed, numbers.Integral) and 0 <= int(seed) < 2**32):
        raise UserError(f"The seed is {seed}; choose one from 0 to {2**32 - 1}.")
