"""The samplers: ways from noise to data along the timesteps of a schedule.

Every step goes to the next of `timesteps`, whatever follows: `sampler(…, timesteps[: k + 1], keys)`
is x after k steps. Step by step they are the schedulers of diffusers, with the timesteps that
`spacing_of` chooses and, at zero terminal SNR, the schedule that `FINITE_SNR` tells of. One thing
is not theirs: diffusers' DDIM goes from t to t − ⌊T/N⌋, which is not the next timestep that it
evaluates in "linspace", in "trailing" of an N that does not divide T, and from an offset ≥ ⌊T/N⌋.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragaf_jax.diffusion.sampler_interface import Sampler, one_evaluation
from ragaf_jax.diffusion.schedule import Schedule, levels
from ragaf_jax.diffusion.timesteps import Spacing


def _ode_coefficients(
    schedule: Schedule, timesteps: Int[Array, "times"]
) -> tuple[Float[Array, "times-1"], Float[Array, "times-1"]]:
    """(keep, take) of `x ← σ'/σ · x + (α' − α σ'/σ) · x_0`.

    The exact solution for an x_0 that is constant over the step; `(α' − α σ'/σ) = α' (1 − e^−h)` in
    the log-SNR span h of Lu et al. 2022, eq. 9, in the form that stays finite at α = 0. Into clean
    data (α' = 1, σ' = 0) it answers x_0 itself.
    """
    alpha, sigma = levels(schedule, timesteps)
    keep = sigma[1:] / sigma[:-1]
    return keep, alpha[1:] - alpha[:-1] * keep


def _ode_step(x, x0, x0_before, noise, keep, take):
    return keep * x + take * x0


def _second_order_coefficients(
    schedule: Schedule, timesteps: Int[Array, "times"]
) -> tuple[Float[Array, "times-1"], ...]:
    alpha, sigma = levels(schedule, timesteps)
    log_snr = jnp.log(alpha) - jnp.log(sigma)
    span = jnp.diff(log_snr)
    before = jnp.concatenate([jnp.zeros(1, span.dtype), span[:-1]])
    # There is nothing to extrapolate from at the first step, nor after a step that stood still.
    usable = (before > 0) & jnp.isfinite(span)
    extrapolation = jnp.where(usable, span / (2 * jnp.where(usable, before, 1)), 0)
    return *_ode_coefficients(schedule, timesteps), extrapolation


def _second_order_step(x, x0, x0_before, noise, keep, take, extrapolation):
    return keep * x + take * (x0 + extrapolation * (x0 - x0_before))


def _ancestral_coefficients(
    schedule: Schedule, timesteps: Int[Array, "times"]
) -> tuple[Float[Array, "times-1"], ...]:
    alpha, sigma = levels(schedule, timesteps)
    keep = sigma[1:] / sigma[:-1]
    ratio = keep * alpha[:-1] / alpha[1:]
    fresh = (1 - ratio) * (1 + ratio)
    return keep * ratio, alpha[1:] * fresh, sigma[1:] * jnp.sqrt(fresh)


def _ancestral_step(x, x0, x0_before, noise, keep, take, spread):
    return keep * x + take * x0 + spread * noise


ddim = Sampler(_ode_coefficients, one_evaluation(_ode_step))
"""DDIM with η = 0 (Song et al. 2021, eq. 12): first order."""

euler = ddim
"""Euler's method (Karras et al. 2022, algorithm 1 without its correction), which is DDIM.

It solves for x/α as a function of σ/α, and so does DDIM (Song et al. 2021, eq. 13 and 14). Here x
stays variance preserving: diffusers' is ours/α. Pure noise is N(0, 1) with any spacing, as is
theirs in "leading"; in "trailing" and "linspace" theirs is N(0, σ²) of the first timestep.
"""

dpm_solver_pp_2m = Sampler(_second_order_coefficients, one_evaluation(_second_order_step))
"""DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order.

The step into clean data is first order: it spans an infinite log-SNR.
"""

ddpm = Sampler(_ancestral_coefficients, one_evaluation(_ancestral_step), ancestral=True)
"""Ancestral sampling (Ho et al. 2020, eq. 7): x' ~ q(x' | x, x_0); "fixed_small" in diffusers.

Steps `x ← σ'/σ r · x + α' (1 − r²) · x_0 + σ' √(1 − r²) · noise`, where `1 − r² = β/σ²` with
β = 1 − α²/α'², the variance that lies between the two timesteps; r = σ'α / σα' keeps its digits in
float32 at both ends.
"""

SAMPLERS = {"ddim": ddim, "dpm_solver_pp_2m": dpm_solver_pp_2m, "euler": euler, "ddpm": ddpm}
FINITE_SNR = ("dpm_solver_pp_2m", "euler")
"""Samplers whose schedulers in diffusers read the schedule as `schedule.finite_snr` answers it."""


def spacing_of(sampler: str, kind: str, offset: int, set_alpha_to_one: bool) -> Spacing:
    """What diffusers' scheduler for `sampler` makes of these fields of a scheduler_config.json.

    set_alpha_to_one: asked of DDIM alone; the others end in clean data (final_sigmas_type "zero").
    """
    return Spacing(
        kind,
        offset,
        spans_end=sampler == "dpm_solver_pp_2m",
        clean_end=set_alpha_to_one or sampler != "ddim",
    )
