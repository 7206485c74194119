"""The grid of noise levels of a sampler: timesteps of the schedule, or sigmas between them."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from ragaf_jax.diffusion.schedule import CLEAN, NoiseLevels, Schedule
from ragaf_jax.diffusion.timesteps import (
    CONSISTENCY,
    TRAILING,
    Spacing,
    consistency_timesteps,
    spaced,
    timestep_grid,
)
from ragaf_jax.errors import UserError

UNIFORM = "uniform"
SIGMAS = (UNIFORM, "karras", "exponential")

_RHO = 7  # Karras et al. 2022, sec. 3.2

_Grid = Float[np.ndarray, "n"]


def noise_grid(
    schedule: Schedule,
    steps: int,
    strength: float = 1.0,
    spacing: Spacing = TRAILING,
    sigmas: str = UNIFORM,
    room: int | None = None,
) -> tuple[NoiseLevels, int]:
    """The levels that a sampler evaluates, then its end, and their number without the end.

    Args:
      schedule: concrete arrays.
      steps: N.
      strength: in (0, 1].
      spacing: of the timesteps.
      sigmas: of sigma/alpha, as in diffusers. "uniform": at the spacing's timesteps, which
        `strength` scales towards 0; "karras": even in (sigma/alpha)^(1/7) (Karras et al. 2022,
        eq. 5); "exponential": even in log(sigma/alpha). Of these, `strength` skips the first ones.
      room: pads the grid to this number of steps by repeating the end; None: N.

    Raises UserError as `timestep_grid`, for an infinite sigma/alpha, or if no step is left.
    """
    length, room = len(schedule.alpha), room or steps
    if sigmas != UNIFORM:
        ratios, t = _spread(schedule, steps, spacing, sigmas)
        kept = int(steps * strength)
        if not kept:
            raise UserError(
                f"strength is {strength:g} and steps is {steps}; with {sigmas} sigmas that leaves "
                "no step: choose a greater strength or more steps."
            )
        return _with_end(schedule, t[-kept:], *_levels(ratios[-kept:]), spacing, room), kept
    if spacing.kind == CONSISTENCY:
        t = consistency_timesteps(length, steps, strength, spacing.original_steps)
    elif spacing.continuous and spacing.kind == "linspace":
        even = spaced(length, steps, spacing)
        t = np.maximum(strength * (even + 1) - 1, 0)
        # As in diffusers, sigma/alpha is linear between two timesteps.
        levels = _levels(np.interp(t, np.arange(length), _ratios(schedule)))
        return _with_end(schedule, t, *levels, spacing, room), steps
    else:
        t = np.asarray(timestep_grid(length, steps, strength, spacing, room))[:steps]
    alpha, sigma = np.asarray(schedule.alpha)[t], np.asarray(schedule.sigma)[t]
    return _with_end(schedule, t, alpha, sigma, spacing, room), steps


def levels_at(schedule: Schedule, t: Int[Any, "times"]) -> NoiseLevels:
    """The levels of concrete timesteps in −1 … T − 1, where −1 (`CLEAN`) is clean data."""
    t = np.asarray(t)
    alpha = np.append(np.asarray(schedule.alpha), 1).astype(schedule.alpha.dtype)
    sigma = np.append(np.asarray(schedule.sigma), 0).astype(schedule.sigma.dtype)
    return _with_between(schedule, t, alpha[t], sigma[t])


def _with_end(
    schedule: Schedule, t: Any, alpha: _Grid, sigma: _Grid, spacing: Spacing, room: int
) -> NoiseLevels:
    """The grid with its end, repeated up to `room` steps."""
    ends = [np.asarray(levels)[0] for levels in schedule]
    alpha_end, sigma_end = (1.0, 0.0) if spacing.clean_end else ends
    end = CLEAN, alpha_end, sigma_end
    padded = [
        np.concatenate([np.asarray(levels), np.full(room + 1 - len(t), last)])
        for levels, last in zip((t, alpha, sigma), end, strict=True)
    ]
    return _with_between(schedule, *padded)


def _with_between(schedule: Schedule, t: Any, alpha: Any, sigma: Any) -> NoiseLevels:
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.log(np.asarray(sigma, float)) - np.log(np.asarray(alpha, float))
        middle = (log_ratio[:-1] + log_ratio[1:]) / 2
    found = np.where(np.isfinite(middle), _timesteps(schedule, middle), t[:-1])
    # Cast on the host, so that new levels compile nothing.
    entries = t, alpha, sigma, np.append(found, t[-1])
    return jax.device_put(NoiseLevels(*(np.asarray(x, schedule.alpha.dtype) for x in entries)))


def _ratios(schedule: Schedule) -> _Grid:
    """σ/α of every timestep, in float64; infinite at zero terminal SNR."""
    with np.errstate(divide="ignore"):
        return np.asarray(schedule.sigma, float) / np.asarray(schedule.alpha, float)


def _levels(ratios: _Grid) -> tuple[_Grid, _Grid]:
    """(alpha, sigma) of σ/α; (0, 1) where it is infinite."""
    return 1 / np.sqrt(ratios**2 + 1), 1 / np.sqrt(ratios**-2.0 + 1)


def _timesteps(schedule: Schedule, log_ratio: _Grid) -> _Grid:
    """The timesteps of log(σ/α), interpolated between two timesteps and clipped to 0 … T − 1."""
    table = np.log(_ratios(schedule))
    return np.interp(log_ratio, np.where(np.isfinite(table), table, 1e3), np.arange(len(table)))


def _spread(schedule: Schedule, steps: int, spacing: Spacing, sigmas: str) -> tuple[_Grid, _Grid]:
    """σ/α by Karras's or the exponential formula, and the networks' timesteps."""
    ratios = _ratios(schedule)
    ends = ratios[[-1, 0]]
    if spacing.continuous:
        t = spaced(len(ratios), steps, spacing)
        t = t if spacing.kind == "linspace" else t.round()
        ends = np.interp(t[[0, -1]], np.arange(len(ratios)), ratios)
    if not np.isfinite(ends[0]):
        raise UserError(
            f"sigmas is {sigmas!r} and sampling starts at zero terminal SNR, where this sampler "
            "has no finite sigma; choose sigmas 'uniform', or another sampler such as "
            "dpm_solver_pp_2m."
        )
    if sigmas == "karras":
        first, last = ends ** (1 / _RHO)
        found = np.linspace(first, last, steps) ** _RHO
    elif sigmas == "exponential":
        first, last = np.log(ends)
        found = np.exp(np.linspace(first, last, steps))
    else:
        raise UserError(f"sigmas is {sigmas!r}; choose one of {', '.join(SIGMAS)}.")
    t = _timesteps(schedule, np.log(found))
    if not spacing.continuous:
        # By float32's rounding, diffusers truncates the greatest sigma to T − 2 for schedules other
        # than "linear".
        truncated = np.maximum(np.floor(t - 1e-4), 0)
        t = np.round(t) if sigmas == "karras" and spacing.rounds_karras else truncated
    return found, t
