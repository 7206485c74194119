"""Settings of the sketch branch and of other ControlNets: strength, steps and levels."""

import dataclasses
import numbers
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ragaf_jax.errors import UserError
from ragaf_jax.sampling.sampling_config import BranchScales

EVEN, GUESS = "even", "guess"
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_LEVELS = rf"{EVEN}|{GUESS}|{_NUMBER}(?:/{_NUMBER})+"
_SETTINGS = re.compile(rf"{_NUMBER}(?:,{_NUMBER}){{0,2}}(?:,(?:{_LEVELS}))?", re.IGNORECASE)
LARGEST_SCALE = 100  # far above useful scales, far below those that give NaN


@dataclasses.dataclass(frozen=True)
class ControlSettings:
    """How a ControlNet acts; new values do not compile again.

    Attributes:
      strength: factor on its residuals; 1 as in training.
      start, end: it acts in the steps between these shares of all steps, as diffusers'
        `control_guidance_start` and `control_guidance_end`. diffusers counts evaluations of the
        networks instead of steps; PNDM, Heun and SDE evaluate them more often than once per step.
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
    factors = _numbers(levels)
    if len(factors) != residuals:
        raise UserError(
            f"The levels {levels!r} are {len(factors)} numbers and the network has {residuals} "
            f"residuals; give {residuals} numbers, {EVEN!r} or {GUESS!r}."
        )
    return np.array(factors, np.float32)


def checked_settings(given: Any, name: str) -> ControlSettings:
    """The settings of a ControlNet, checked without a checkpoint.

    Args:
      given: `ControlSettings`, or some of its fields by name, as metadata.json has them.
      name: of the ControlNet in errors.

    Raises:
      UserError: another form, or the first setting out of its range.
    """
    usual = dataclasses.asdict(ControlSettings())
    found = vars(given) if isinstance(given, ControlSettings) else given
    if not isinstance(found, Mapping) or not {*found} <= {*usual}:
        raise UserError(
            f"The settings of {name} are {given!r}; give ControlSettings, or a mapping with some "
            f"of its fields {', '.join(usual)}."
        )
    fields = {**usual, **found}
    for what, most, expected in (
        ("strength", LARGEST_SCALE, f"{-LARGEST_SCALE} to {LARGEST_SCALE}, usually 0 to 2"),
        ("start", 1, "a share of the steps, 0 to 1"),
        ("end", 1, "a share of the steps, 0 to 1"),
    ):
        value, least = fields[what], -most if what == "strength" else 0
        known = isinstance(value, numbers.Real)
        if not (known and least <= value <= most):
            raise UserError(f"The {what} of {name} is {value!r}; choose {expected}.")
    if fields["start"] >= fields["end"]:
        raise UserError(
            f"The start of {name} is {fields['start']} and its end {fields['end']}, so that it "
            "acts in no step; choose a start below the end."
        )
    if not (isinstance(fields["levels"], str) and fields["levels"] in (EVEN, GUESS)):
        _numbers(fields["levels"])
    return ControlSettings(**fields)


def checked_controls(given: Any) -> tuple[ControlSettings, ...]:
    """The settings of each ControlNet from an argument of `Pipeline`; None: no settings.

    Raises:
      UserError: no sequence, or as `checked_settings`.
    """
    if given is None:
        return ()
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise UserError(
            f"controls is {given!r}; give a list of ControlSettings, one for each ControlNet."
        )
    return tuple(checked_settings(one, f"control {i}") for i, one in enumerate(given, 1))


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

    LEVELS are "even", "guess", or a factor for each residual, separated by slashes.
    What follows the last "=" are settings only if it has their form, so that paths may contain "=".
    """
    where, equals, rest = text.rpartition("=")
    if not equals or not _SETTINGS.fullmatch(rest):
        return ControlPlace(str(Path(text).expanduser()), ControlSettings())
    *shares, last = rest.lower().split(",")
    levels = {"levels": last.replace("/", ",")} if last in (EVEN, GUESS) or "/" in last else {}
    shares += [] if levels else [last]
    given = dict(zip(("strength", "start", "end"), map(float, shares), strict=False))
    return ControlPlace(str(Path(where).expanduser()), ControlSettings(**given, **levels))


def control_flag(where: str, settings: ControlSettings) -> str:
    """The value of --control, which `parse_control` parses."""
    levels = settings.levels.replace(" ", "").replace(",", "/")
    return f"{where}={settings.strength},{settings.start},{settings.end},{levels}"


def settings_of_sketch(options: Mapping[str, Any]) -> ControlSettings:
    """Those of the sketch branch among some fields of `Options`; others have their defaults.

    Raises:
      UserError: as `checked_settings`.
    """
    names = {
        "sketch_strength": "strength",
        "sketch_start": "start",
        "sketch_end": "end",
        "sketch_levels": "levels",
    }
    found = {ours: options[name] for name, ours in names.items() if options.get(name) is not None}
    return checked_settings(found, "the sketch branch")


def check_count(settings: Sequence[ControlSettings], controls: int) -> None:
    """Refuses another number of settings than of ControlNets."""
    if len(settings) != controls:
        raise UserError(
            f"There are settings for {len(settings)} ControlNets and {controls} are loaded; give "
            "settings for each, in their order."
        )


def _numbers(levels: Any) -> list[float]:
    try:
        factors = [float(number) for number in levels.split(",")]
    except (ValueError, TypeError, AttributeError):
        factors = [np.nan]
    if not np.isfinite(factors).all():
        raise UserError(
            f"The levels are {levels!r}; give {EVEN!r}, {GUESS!r} or a number for each residual, "
            "such as 0.5,0.5,1,1."
        )
    return factors
