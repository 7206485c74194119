"""Deterministic samplers: solvers of the probability-flow ODE from noise to data.

A sampler is `sampler(denoise, x, schedule, timesteps) -> x_0`, where `denoise(x, t[b])` answers the
network's x_0. Only the number of timesteps is static: one compilation serves every strength,
guidance scale and seed. Noise is added by the caller: `x` at `timesteps[0]` is
`add_noise(schedule, x_start, noise, timesteps[0])`, or pure noise at strength 1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragaf_jax.diffusion.schedule import CLEAN, Schedule, levels
from ragaf_jax.errors import UserError

Denoise = Callable[[Float[Array, "b *rest"], Int[Array, "b"]], Float[Array, "b *rest"]]


def timestep_grid(
    schedule_steps: int, steps: int, strength: float | Float[Array, ""] = 1.0
) -> Int[Array, "{steps}+1"]:
    """`steps` timesteps from about strength · (T − 1) down, evenly, and then `CLEAN`.

    schedule_steps: T. strength: in (0, 1], may be traced; 1 starts at T − 1, the noisiest timestep,
      as "trailing" spacing does (Lin et al. 2023, sec. 3.3). A strength too small for `steps`
      different timesteps repeats some; samplers stand still on a repeated one.

    Raises UserError unless 1 ≤ steps ≤ T.
    """
    if not 1 <= steps <= schedule_steps:
        raise UserError(
            f"sampling steps are {steps}; choose between 1 and the schedule's {schedule_steps}."
        )
    left = jnp.arange(steps, 0, -1) * schedule_steps / steps
    evaluated = jnp.maximum(jnp.round(strength * left).astype(jnp.int32) - 1, 0)
    return jnp.append(evaluated, CLEAN)


def ddim(
    denoise: Denoise, x: Float[Array, "b *rest"], schedule: Schedule, timesteps: Int[Array, "times"]
) -> Float[Array, "b *rest"]:
    """DDIM with η = 0 (Song et al. 2021, eq. 12): first order. Ends at `timesteps[-1]`."""
    return _solve(denoise, x, schedule, timesteps, jnp.zeros(timesteps.shape[0] - 1))


def dpm_solver_pp_2m(
    denoise: Denoise, x: Float[Array, "b *rest"], schedule: Schedule, timesteps: Int[Array, "times"]
) -> Float[Array, "b *rest"]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order. Ends at `timesteps[-1]`.

    The step into clean data is first order: it spans an infinite log-SNR.
    """
    alpha, sigma = levels(schedule, timesteps)
    log_snr = jnp.log(alpha) - jnp.log(sigma)
    span = jnp.diff(log_snr)
    before = jnp.concatenate([jnp.zeros(1, span.dtype), span[:-1]])
    # There is nothing to extrapolate from at the first step, nor after a step that stood still.
    usable = (before > 0) & jnp.isfinite(span)
    extrapolation = jnp.where(usable, span / (2 * jnp.where(usable, before, 1)), 0)
    return _solve(denoise, x, schedule, timesteps, extrapolation)


SAMPLERS = {"ddim": ddim, "dpm_solver_pp_2m": dpm_solver_pp_2m}


def _solve(
    denoise: Denoise,
    x: Float[Array, "b *rest"],
    schedule: Schedule,
    timesteps: Int[Array, "times"],
    extrapolation: Float[Array, "intervals"],
) -> Float[Array, "b *rest"]:
    """Steps `x ← σ'/σ · x + (α' − α σ'/σ) · D`, D = x_0 + extrapolation · (x_0 − previous x_0).

    The exact solution for a D that is constant over the step; `(α' − α σ'/σ) = α' (1 − e^−h)` in
    the log-SNR span h of Lu et al. 2022, eq. 9, in the form that stays finite at α = 0. Into clean
    data (α' = 1, σ' = 0) it answers x_0 itself.
    """
    alpha, sigma = levels(schedule, timesteps)
    keep = sigma[1:] / sigma[:-1]
    take = alpha[1:] - alpha[:-1] * keep

    def step(carry, inputs):
        x, previous = carry
        t, keep, take, extrapolation = inputs
        x0 = denoise(x, jnp.full(x.shape[0], t)).astype(x.dtype)
        data = x0 + extrapolation * (x0 - previous)
        return (keep * x + take * data, x0), None

    coefficients = [c.astype(x.dtype) for c in (keep, take, extrapolation)]
    (x, _), _ = jax.lax.scan(step, (x, jnp.zeros_like(x)), (timesteps[:-1], *coefficients))
    return x
