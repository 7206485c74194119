"""The timesteps of a sampler."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ragaf_jax.diffusion.schedule import CLEAN
from ragaf_jax.errors import UserError

SPACINGS = ("leading", "trailing", "linspace")
CONSISTENCY = "consistency"


class Spacing(NamedTuple):
    """The spacing of N timesteps in a schedule of T (Lin et al. 2023, table 2), as in diffusers.

    kind: "trailing"  T/N apart, from T − 1 down;
          "leading"   ⌊T/N⌋ apart, from 0 up, without T − 1, the noisiest;
          "linspace"  from T − 1 to 0, both included; for N = 1, only timestep 0;
          `CONSISTENCY`  those of LCM: evenly among the `original_steps` that it was distilled on.
    offset: added to every timestep of "leading".
    spans_end: "leading" and "linspace" space N + 1 timesteps and drop the last, so that N = 1
      starts at T/2 or T − 1 and not at 0.
    clean_end: whether the last step leads to `CLEAN`, else to timestep 0 and its noise.
    continuous: the convention of k-diffusion. Timesteps are not rounded. Pure noise of "trailing"
      and "linspace" has the first level's sigma. Karras and exponential sigmas span the noise of
      the spacing's timesteps; otherwise that of the whole schedule, with whole timesteps.
    rounds_karras: whether timesteps of Karras sigmas are rounded, or truncated as those of
      exponential sigmas; without effect if continuous.
    original_steps: of `CONSISTENCY`.
    """

    kind: str
    offset: int = 0
    spans_end: bool = False
    clean_end: bool = True
    continuous: bool = False
    rounds_karras: bool = True
    original_steps: int = 50


TRAILING = Spacing("trailing")


def timestep_grid(
    schedule_steps: int,
    steps: int,
    strength: float | Float[Array, ""] = 1.0,
    spacing: Spacing = TRAILING,
    room: int | None = None,
) -> Int[Array, "times"]:
    """`steps` decreasing timesteps, then the end: `CLEAN` or 0.

    schedule_steps: T.
    room: pads the grid to this number of steps by repeating the end; None: `steps`.
    strength: in (0, 1], may be traced; scales the timesteps towards 0, where diffusers skips the
      first ones. A small strength repeats timesteps; samplers do not move on a repeated one.

    Raises UserError unless 1 ≤ steps ≤ T, for an unknown spacing, or one beyond the schedule.
    """
    # On the host, so that a new number of steps compiles nothing.
    xp = np if isinstance(strength, float | int) else jnp
    # Strength scales the number of remaining timesteps, t + 1.
    left = spaced(schedule_steps, steps, spacing).astype(np.float32) + np.float32(1)
    evaluated = xp.maximum(xp.round(xp.float32(strength) * left).astype(np.int32) - 1, 0)
    ends = np.full((room or steps) + 1 - steps, CLEAN if spacing.clean_end else 0, np.int32)
    return jnp.asarray(xp.concatenate([evaluated, ends]))


def consistency_timesteps(
    schedule_steps: int, steps: int, strength: float, original_steps: int
) -> Int[np.ndarray, "{steps}"]:
    """The decreasing timesteps of LCM (Luo et al. 2023, sec. 4.3), as in diffusers.

    strength: in (0, 1]; the share of the `original_steps` to choose from.

    Raises UserError for more steps than there are to choose from.
    """
    if original_steps > schedule_steps:
        raise UserError(
            f"config.diffusion.original_steps is {original_steps} and the schedule has "
            f"{schedule_steps} timesteps; choose at most as many."
        )
    known = np.arange(1, int(original_steps * strength) + 1) * (schedule_steps // original_steps)
    if len(known) < steps:
        raise UserError(
            f"Sampler 'lcm' has {len(known)} timesteps at strength {strength:g}, of the "
            f"{original_steps} that the model was distilled on, and steps is {steps}; choose fewer "
            "steps or a greater strength."
        )
    chosen = np.floor(np.linspace(0, len(known), steps, endpoint=False)).astype(int)
    return known[::-1][chosen] - 1


def spaced(schedule_steps: int, steps: int, spacing: Spacing) -> Float[np.ndarray, "{steps}"]:
    """The timesteps at strength 1, before rounding; raises as `timestep_grid`."""
    if not 1 <= steps <= schedule_steps:
        raise UserError(
            f"sampling steps are {steps}; choose between 1 and the schedule's {schedule_steps}."
        )
    spread = steps + spacing.spans_end
    match spacing.kind:
        case "trailing":
            # [:steps], because arange may add one by rounding. Halves are rounded in float64 as in
            # diffusers; after scaling by strength they would be in float32.
            left = np.arange(schedule_steps, 0, -schedule_steps / steps)[:steps]
            return np.where(np.abs(left % 1 - 0.5) < 1e-6, np.round(left), left) - 1
        case "leading":
            apart = schedule_steps // spread
            first = apart * (spread - 1) + spacing.offset
            if apart == 0 or first >= schedule_steps:
                raise UserError(
                    f'{steps} steps of spacing "leading" with offset {spacing.offset} do not fit '
                    f"a schedule of {schedule_steps} timesteps; choose fewer steps, a smaller "
                    'offset or "trailing".'
                )
            return np.arange(first, first - apart * steps, -apart, dtype=float)
        case "linspace":
            even = np.linspace(0, schedule_steps - 1, spread)
            return (even if spacing.continuous else even.round())[::-1][:steps]
    raise UserError(f'timestep spacing is "{spacing.kind}"; choose one of {", ".join(SPACINGS)}.')
