"""The options of a sampling call: all settings except sketch, texts and seed."""

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from ragaf_jax.diffusion.noise_grid import SIGMAS, UNIFORM
from ragaf_jax.diffusion.samplers import SAMPLERS
from ragaf_jax.errors import UserError
from ragaf_jax.sampling.controls.settings import (
    EVEN,
    LARGEST_SCALE,
    ControlSettings,
    checked_controls,
    settings_of_sketch,
)
from ragaf_jax.sampling.lora.settings import Lora, Loras, as_loras
from ragaf_jax.sampling.micro_conditioning import checked_sizes


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a call. A new sampler or number of evaluations per step compiles again.

    An evaluation of the networks has 1 condition if both scales are 1, 2 if only `sketch_guidance`
    is 1, else 3.

    Attributes:
      steps: denoising steps of each stage.
      guidance: guidance scale of the text; 1 is the model without guidance.
      sketch_guidance: guidance scale of the sketch and its regions; 1 likewise.
      guidance_until: below this fraction of the timesteps both scales are 1.
      strength: noise added to the image that a stage starts from: 0 none, 1 pure noise.
      sketch_strength: factor on what the sketch branch adds to the UNet; 1 as in training.
      sketch_start, sketch_end, sketch_levels: of the sketch branch, as in `ControlSettings`.
      controls: settings of each further ControlNet; () has the defaults for all.
      sampler: a name in `diffusion.samplers.SAMPLERS`.
      stages: "both", "1" or "2" alone.
      sigmas: "uniform", at the spacing of the checkpoint's timesteps; or "karras" or "exponential",
        for samplers that have them.
      loras: files merged into the parameters, with strengths; a new file may compile once.
      clip_skip: number of the text encoder's last layers to skip; None: as in training.
      region_method: how region prompts act, one of `REGION_METHODS`. "ragaf": by a Stage 2 with
        RAGAF; "attention": in all stages, cells of a region attend to its prompt alone; "auto":
        by RAGAF if it is used, else by attention.
      region_base_ratio: weight of the prompt in the cross-attention of regions with their own
        prompt, 0 to 1, for "attention".
      region_end: share of a stage's steps after which all cells attend to the prompt alone, for
        "attention".
      original_size, target_size: "WIDTHxHEIGHT" in px, inputs of SDXL's UNet; None: the image's.
      crop_top_left: "TOP,LEFT" in px, likewise; None: 0,0, an uncropped image.
    """

    steps: int
    guidance: float
    sketch_guidance: float
    guidance_until: float
    strength: float
    sampler: str
    sketch_strength: float = 1.0
    stages: str = "both"
    loras: tuple[Lora, ...] = ()
    clip_skip: int | None = None
    sketch_start: float = 0.0
    sketch_end: float = 1.0
    sketch_levels: str = EVEN
    controls: tuple[ControlSettings, ...] = ()
    sigmas: str = UNIFORM
    region_method: str = "auto"
    region_base_ratio: float = 0.2
    region_end: float = 1.0
    original_size: str | None = None
    crop_top_left: str | None = None
    target_size: str | None = None


class OptionArguments(TypedDict, total=False):
    """Keyword arguments of a call: fields of `Options`, which has their defaults."""

    steps: int
    guidance: float
    sketch_guidance: float
    guidance_until: float
    strength: float
    sampler: str
    sketch_strength: float
    stages: Literal["both", "1", "2"]
    loras: Loras
    clip_skip: int
    sketch_start: float
    sketch_end: float
    sketch_levels: str
    controls: Sequence[ControlSettings | Mapping[str, Any]]
    sigmas: Literal["uniform", "karras", "exponential"]
    region_method: Literal["auto", "ragaf", "attention"]
    region_base_ratio: float
    region_end: float
    original_size: str
    crop_top_left: str
    target_size: str


SCALES = "guidance", "sketch_guidance", "sketch_strength"
FRACTIONS = (
    *("strength", "guidance_until", "sketch_start", "sketch_end"),
    *("region_base_ratio", "region_end"),
)

MAX_COUNT = 1000  # images of a call, which are held in memory until the last one is finished

REGION_METHODS = "auto", "ragaf", "attention"

STAGES = {"both": (1, 2), "1": (1,), "2": (2,)}


def make_options(
    sample: Mapping[str, Any], arguments: Mapping[str, Any], schedule_steps: int, stages: str
) -> Options:
    """Options from the arguments of a call and the defaults of a configuration.

    Args:
      sample: `config.sample`.
      arguments: fields of `Options`; None selects the default.
      schedule_steps: T.
      stages: default of `Options.stages`.

    Raises:
      UserError: a value out of its range.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    known = {field.name for field in dataclasses.fields(Options)}
    if unknown := sorted({*given} - known):
        raise UserError(
            f"There is no option {unknown[0]!r}; choose among {', '.join(sorted(known))}."
        )
    defaults = {name: value for name, value in sample.items() if name in known}
    fields = {"stages": stages, **defaults, **given}
    check_values(fields, schedule_steps)
    checked: dict[str, Any] = {x: int(fields[x]) for x in ("steps", "clip_skip") if x in fields}
    checked |= {"controls": checked_controls(fields.get("controls")), **checked_sizes(fields)}
    return Options(**{**fields, **checked, "loras": as_loras(fields.get("loras"))})


def check_values(fields: Mapping[str, Any], schedule_steps: int | None = None) -> None:
    """Refuses values out of their range, without a checkpoint.

    Args:
      fields: some fields of `Options`; None values are ignored.
      schedule_steps: T, where it is known.

    Raises:
      UserError: the first such value.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    for name in ("steps", "clip_skip", *SCALES, *FRACTIONS):
        if name in given and not isinstance(given[name], numbers.Real):
            raise UserError(f"{name} is {given[name]!r}; choose a number.")
    steps, most = given.get("steps", 1), schedule_steps or math.inf
    if not (1 <= steps <= most and steps % 1 == 0):
        upto = "or more" if schedule_steps is None else f"to {schedule_steps}"
        raise UserError(f"steps is {steps}; choose a whole number, 1 {upto}.")
    skip = given.get("clip_skip", 0)
    if not (skip >= 0 and skip % 1 == 0):
        raise UserError(f"clip_skip is {skip}; choose a whole number, 0 or more.")
    for name in FRACTIONS:
        if not 0 <= given.get(name, 0) <= 1:
            raise UserError(f"{name} is {given[name]}; choose 0 to 1.")
    for name in SCALES:
        if not abs(given.get(name, 0)) <= LARGEST_SCALE:
            raise UserError(
                f"{name} is {given[name]}; choose -{LARGEST_SCALE} to {LARGEST_SCALE}, usually 0 "
                "to 10."
            )
    choices = {"stages": tuple(STAGES), "sampler": tuple(SAMPLERS), "sigmas": SIGMAS}
    choices["region_method"] = REGION_METHODS
    for name, known in choices.items():
        if name in given and not (isinstance(given[name], str) and given[name] in known):
            raise UserError(f"{name} is {given[name]!r}; choose one of {', '.join(known)}.")
    settings_of_sketch(given)
    checked_controls(given.get("controls"))
    checked_sizes(given)


def check_count(count: Any) -> None:
    """Refuses a number of images that cannot be sampled."""
    if not (isinstance(count, numbers.Integral) and 1 <= int(count) <= MAX_COUNT):
        raise UserError(f"count is {count}; choose 1 to {MAX_COUNT} images.")


def setting_notices(settings: Mapping[str, Any], reads_guidance: bool = False) -> list[str]:
    """Unexpected effects of settings, one sentence each.

    Args:
      settings: the fields of `Options`, and negative prompts unless they are empty.
      reads_guidance: whether the UNet reads the guidance scale as an input (LCM).
    """
    text, sketch, strength = (settings[name] for name in SCALES)
    notices = []
    if reads_guidance and text < 1:
        notices.append(
            f"guidance is {text:g}, but the UNet reads it as an input and was trained with larger "
            "scales; choose 1 or more."
        )
    elif text == 0:
        notices.append(
            "guidance is 0, so the prompt has no effect; 1 is the model without guidance, which "
            "diffusers calls 0."
        )
    if sketch == 0:
        notices.append(
            "sketch_guidance is 0, so the sketch acts only through the guidance of the prompt; 1 "
            "is the model without guidance."
        )
    for name, what in (("guidance", "the prompt"), ("sketch_guidance", "the sketch")):
        if (scale := settings[name]) < 0 and not (reads_guidance and name == "guidance"):
            notices.append(f"{name} is {scale:g}, which guides the image away from {what}.")
    if strength == 0:
        notices.append(
            "sketch_strength is 0, so the sketch branch has no effect on the UNet; 1 is as in "
            "training."
        )
    if strength < 0:
        notices.append(
            f"sketch_strength is {strength:g}, which subtracts what the sketch branch adds; 1 is "
            "as in training."
        )
    for i, control in enumerate(settings.get("controls", ()), 1):
        if control["strength"] == 0:
            notices.append(f"The strength of control {i} is 0, so it has no effect.")
    negatives = {
        "negative_prompt": "negative prompt has",
        "region_negative_prompts": "negative prompts of regions have",
    }
    unguided = sketch == 1 and (text == 1 or reads_guidance)
    for subject in [negatives[name] for name in negatives if settings.get(name) and unguided]:
        why = "The UNet reads the guidance scale as an input" if reads_guidance else "guidance is 1"
        notices.append(f"{why}, so the {subject} no effect.")
    return notices


def check_seed(seed: Any) -> None:
    """Refuses anything but an integer from 0 to 2³² − 1."""
    if not (isinstance(seed, numbers.Integral) and 0 <= int(seed) < 2**32):
        raise UserError(f"The seed is {seed}; choose one from 0 to {2**32 - 1}.")
