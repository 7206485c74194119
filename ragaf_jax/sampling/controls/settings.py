"""Settings of the sketch branch and of other ControlNets: strength, steps and levels."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ragaf_jax.errors import UserError
from ragaf_jax.sampling.sampling_config import BranchScales

EVEN, GUESS = "even", "guess"
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_SETTINGS = re.compile(rf"{_NUMBER}(?:,{_NUMBER}){{0,2}}(?:,(?:{EVEN}|{GUESS}))?", re.IGNORECASE)


@dataclass(frozen=True)
class ControlSettings:
    """How a ControlNet acts; new values do not compile again.

    Attributes:
      strength: factor on its residuals; 1 as in training.
      start, end: it acts in the steps between these shares of all steps, as diffusers'
        `control_guidance_start` and `control_guidance_end`.
      levels: a factor for each residual, from the finest skip to the mid block, separated by
        commas; "even" is 1 for all. "guess" is diffusers' `guess_mode`: from 0.1 to 1, and no
        residuals in evaluations without the prompt.
    """

    strength: int | float = 1.0
    start: int | float = 0.0
    end: int | float = 1.0
    levels: str = EVEN


def level_factors(levels: str, residuals: int) -> Float[np.ndarray, " {residuals}"]:
    """The factor of each residual.

    Raises:
      UserError: `levels` is neither a name nor as many numbers as the network has residuals.
    """
    if levels == EVEN:
        return np.ones(residuals, np.float32)
    if levels == GUESS:
        return np.logspace(-1, 0, residuals, dtype=np.float32)
    numbers = _numbers(levels)
    if len(numbers) != residuals:
        raise UserError(
            f"The levels {levels!r} are {len(numbers)} numbers and the network has {residuals} "
            f"residuals; give {residuals} numbers, {EVEN!r} or {GUESS!r}."
        )
    return np.array(numbers, np.float32)


def check_settings(settings: ControlSettings, name: str, largest: int | float) -> None:
    """Refuses settings out of their ranges, without a checkpoint.

    Args:
      settings: of the ControlNet.
      name: of the ControlNet in errors.
      largest: of the absolute strength.

    Raises:
      UserError: the first such setting.
    """
    strength, start, end = settings.strength, settings.start, settings.end
    if not abs(strength) <= largest:
        raise UserError(
            f"The strength of {name} is {strength}; choose {-largest} to {largest}, usually 0 to 2."
        )
    for what, share in (("start", start), ("end", end)):
        if not 0 <= share <= 1:
            raise UserError(
                f"The {what} of {name} is {share}; choose a share of the steps, 0 to 1."
            )
    if start >= end:
        raise UserError(
            f"The start of {name} is {start} and its end {end}, so that it acts in no step; choose "
            "a start below the end."
        )
    if settings.levels not in (EVEN, GUESS):
        _numbers(settings.levels)


def branch_scales(settings: ControlSettings, residuals: int, steps: int) -> BranchScales:
    """The scales of a network with `residuals` residuals in a stage of `steps` steps.

    Step i of N acts unless i/N is below `start` or (i + 1)/N above `end`, as in diffusers.
    """
    first = sum(i / steps < settings.start for i in range(steps))
    last = sum((i + 1) / steps <= settings.end for i in range(steps))
    strengths = np.float32(settings.strength) * level_factors(settings.levels, residuals)
    return BranchScales(strengths, 0.0 if settings.levels == GUESS else 1.0, first, last)


class ControlPlace(NamedTuple):
    """A folder, file or hub id of a ControlNet, and its settings in calls without any."""

    where: str
    settings: ControlSettings


def parse_control(text: str) -> ControlPlace:
    """Parses "PATH=STRENGTH,START,END,LEVELS"; only PATH is required.

    What follows the last "=" are settings only if it has their form, so that paths may contain "=".
    """
    where, equals, rest = text.rpartition("=")
    if not equals or not _SETTINGS.fullmatch(rest):
        return ControlPlace(str(Path(text).expanduser()), ControlSettings())
    *numbers, last = rest.lower().split(",")
    levels = {"levels": last} if last in (EVEN, GUESS) else {}
    numbers += [] if levels else [last]
    given = dict(zip(("strength", "start", "end"), map(float, numbers), strict=False))
    return ControlPlace(str(Path(where).expanduser()), ControlSettings(**given, **levels))


def settings_of_sketch(options: Mapping[str, Any]) -> ControlSettings:
    """Those of the sketch branch among some fields of `Options`; others have their defaults."""
    names = {
        "sketch_strength": "strength",
        "sketch_start": "start",
        "sketch_end": "end",
        "sketch_levels": "levels",
    }
    found = {ours: options[name] for name, ours in names.items() if options.get(name) is not None}
    return ControlSettings(**found)


def check_count(settings: Sequence[ControlSettings], controls: int) -> None:
    """Refuses another number of settings than of ControlNets."""
    if len(settings) != controls:
        raise UserError(
            f"There are settings for {len(settings)} ControlNets and {controls} are loaded; give "
            "settings for each, in their order."
        )


def _numbers(levels: str) -> list[float]:
    try:
        numbers = [float(number) for number in levels.split(",")]
    except ValueError:
        numbers = [np.nan]
    if not np.isfinite(numbers).all():
        raise UserError(
            f"The levels are {levels!r}; give {EVEN!r}, {GUESS!r} or a number for each residual, "
            "such as 0.5,0.5,1,1."
        )
    return numbers
