"""Noise schedules: the share of data and of noise at each timestep."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ragaf_jax.errors import UserError

CLEAN = -1
"""The timestep of data without noise, at which samplers end."""


class Schedule(NamedTuple):
    """A variance-preserving diffusion: `x_t = alpha_t · x_0 + sigma_t · noise`, noise ~ N(0, 1).

    alpha: f32[T] in [0, 1), falling; 0 at T − 1 with zero terminal SNR.
    sigma: f32[T] in (0, 1], rising; `alpha² + sigma² = 1`.
    """

    alpha: Float[Array, "steps"]
    sigma: Float[Array, "steps"]


class NoiseLevels(NamedTuple):
    """Noise levels at which samplers evaluate the networks and end their steps.

    The levels of a grid [times], one level [], or those of examples [b]. They need not be those of
    a training timestep: Karras sigmas lie between them.

    Attributes:
      t: the networks' timesteps in 0 … T − 1, whole or fractional; `CLEAN` where sampling ends.
      alpha, sigma: `x = alpha · x_0 + sigma · noise`.
      between: the timestep with the mean log-SNR of this level and the next, for samplers that
        evaluate there.
    """

    t: Float[Array, "*n"]
    alpha: Float[Array, "*n"]
    sigma: Float[Array, "*n"]
    between: Float[Array, "*n"]


def make_schedule(
    name: str,
    steps: int = 1000,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    zero_terminal_snr: bool = False,
) -> Schedule:
    """The schedule of `steps` timesteps; the tables are computed in float64 and stored in float32.

    name: of the noise variances beta_t (`beta_start` and `beta_end` belong to the first two):
      "linear"         beta_t is linear from beta_start to beta_end (Ho et al. 2020, sec. 4);
      "scaled_linear"  √beta_t is linear (Rombach et al. 2022: Stable Diffusion);
      "cosine"         alpha_bar = cos² (Nichol & Dhariwal 2021, eq. 17), beta ≤ 0.999.
    zero_terminal_snr: shift and scale the alphas so that the last timestep is pure noise
      (Lin et al. 2023, algorithm 1). Not for ε-prediction: see `prediction.check_prediction`.

    Raises UserError for an unknown name, fewer than 2 steps, or betas outside 0 < start ≤ end < 1.
    """
    if steps < 2:
        raise UserError(f"schedule.steps is {steps}; a schedule needs 2 or more.")
    alpha = np.sqrt(np.cumprod(1.0 - _betas(name, steps, beta_start, beta_end)))
    if zero_terminal_snr:
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    sigma = np.sqrt(1.0 - alpha**2)
    return Schedule(jnp.asarray(alpha, jnp.float32), jnp.asarray(sigma, jnp.float32))


def _betas(name: str, steps: int, start: float, end: float) -> Float[np.ndarray, "steps"]:
    if name == "cosine":
        ends = np.arange(steps + 1) / steps
        alpha_bar = np.cos((ends + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    if not 0.0 < start <= end < 1.0:
        raise UserError(
            f"schedule betas are {start} to {end}; choose 0 < beta_start <= beta_end < 1."
        )
    if name == "linear":
        return np.linspace(start, end, steps)
    if name == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, steps) ** 2
    raise UserError(f'schedule.name is "{name}"; choose "linear", "scaled_linear" or "cosine".')


def finite_snr(schedule: Schedule) -> Schedule:
    """`schedule` with `alpha² = 2⁻²⁴` instead of 0 at the last timestep.

    diffusers' Euler, DPM-Solver++ and UniPC do this at zero terminal SNR, whose sigma/alpha is
    infinite. It changes x by up to 2⁻¹² in a step, and lets the second step of multistep samplers
    extrapolate from a finite log-SNR; otherwise it is first order.
    """
    alpha = np.array(schedule.alpha)  # on the host, so that it compiles nothing
    alpha[-1] = alpha[-1] or 2.0**-12
    return schedule._replace(alpha=jax.device_put(alpha))


def levels(
    schedule: Schedule, t: Int[Array, "*n"]
) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """(alpha, sigma) at timesteps t in −1 … T − 1, where −1 (`CLEAN`) gives (1, 0)."""
    # Index −1 reads the appended entry.
    return jnp.append(schedule.alpha, 1.0)[t], jnp.append(schedule.sigma, 0.0)[t]


def levels_like(
    schedule: Schedule, t: Int[Array, "b"], x: Float[Array, "b *rest"]
) -> tuple[Array, Array]:
    """`levels` at one timestep per example, shaped [b, 1, …] to multiply x."""
    return shaped_like(*levels(schedule, t), x)


def shaped_like(
    alpha: Float[Array, "b"], sigma: Float[Array, "b"], x: Float[Array, "b *rest"]
) -> tuple[Array, Array]:
    """A level of each example, shaped [b, 1, …] to multiply x."""
    shape = (alpha.shape[0],) + (1,) * (x.ndim - 1)
    return alpha.reshape(shape), sigma.reshape(shape)


def add_noise(
    schedule: Schedule,
    x0: Float[Array, "b *rest"],
    noise: Float[Array, "b *rest"],
    t: Int[Array, "b"],
) -> Float[Array, "b *rest"]:
    """`x_t = alpha_t · x_0 + sigma_t · noise` (Ho et al. 2020, eq. 4)."""
    alpha, sigma = levels_like(schedule, t, x0)
    return alpha * x0 + sigma * noise
