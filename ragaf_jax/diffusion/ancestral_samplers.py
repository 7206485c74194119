"""Samplers that add noise in each step: solvers of the reverse SDE, and consistency models."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragaf_jax.diffusion.ode_samplers import PerStep, nth, second_order_coefficients, stacked
from ragaf_jax.diffusion.sampler_interface import Sampler, one_evaluation
from ragaf_jax.diffusion.schedule import NoiseLevels


def _ratios(levels: NoiseLevels) -> tuple[Float[Array, "steps"], Float[Array, "steps"]]:
    """σ'/σ, and r = σ'α / σα', the ratio of σ/α."""
    alpha, sigma = levels.alpha, levels.sigma
    keep = sigma[1:] / sigma[:-1]
    return keep, keep * alpha[:-1] / alpha[1:]


def _ancestral_coefficients(levels: NoiseLevels) -> PerStep:
    keep, ratio = _ratios(levels)
    fresh = (1 - ratio) * (1 + ratio)
    return keep * ratio, levels.alpha[1:] * fresh, levels.sigma[1:] * jnp.sqrt(fresh)


def _ancestral_step(x, x0, x0_before, noise, keep, take, spread):
    return keep * x + take * x0 + spread * noise


def _second_order_ancestral_coefficients(levels: NoiseLevels) -> PerStep:
    *_, extrapolation = second_order_coefficients(levels)
    return *_ancestral_coefficients(levels), extrapolation


def _second_order_ancestral_step(x, x0, x0_before, noise, keep, take, spread, extrapolation):
    return keep * x + take * (x0 + extrapolation * (x0 - x0_before)) + spread * noise


def _midpoint_coefficients(
    levels: NoiseLevels,
) -> tuple[
    Float[Array, "steps 2"],
    Float[Array, "steps 2"],
    Float[Array, "steps 2"],
    Float[Array, "steps 2"],
    Float[Array, "steps"],
    Int[Array, "steps"],
]:
    """(keep, take, spread) of both evaluations, (α, σ) between them, √r, number of evaluations.

    Between two levels, at their mean log-SNR, σ/α is √r of the first one's. From pure noise and
    into clean data there is no such level, and the step is an ancestral one.
    """
    alpha, sigma = levels.alpha, levels.sigma
    _, ratio = _ratios(levels)
    root = jnp.sqrt(ratio)
    signal, noise = alpha[1:] * alpha[:-1], sigma[1:] * sigma[:-1]
    middle = jnp.sqrt(signal / (signal + noise)), jnp.sqrt(noise / (signal + noise))
    half = middle[1] / sigma[:-1] * root, middle[0] * (1 - ratio), middle[1] * jnp.sqrt(1 - ratio)
    once = ratio == 0
    steps = zip(half, _ancestral_coefficients(levels), strict=True)
    keep, take, spread = (
        jnp.stack([jnp.where(once, whole, part), whole], 1) for part, whole in steps
    )
    return keep, take, spread, jnp.stack(middle, 1), root, jnp.where(once, 1, 2)


def _midpoint_step(denoise, state, ends, noise, keep, take, spread, middle, root, evaluations):
    first, second = noise
    # Both spans start at the same level, so the noise of the longer one contains the other's.
    noises = jnp.stack([first, (first + jnp.sqrt(root) * second) / jnp.sqrt(1 + root)])
    between = ends[0].between
    at = stacked([ends[0], NoiseLevels(between, middle[0], middle[1], between)])

    def evaluation(i, carry):
        x0 = denoise(carry[0], nth(at, i))
        x = keep[i] * state.x + take[i] * x0 + spread[i] * noises[i]
        return x.astype(state.x.dtype), x0

    x, x0 = jax.lax.fori_loop(0, evaluations, evaluation, (state.x, state.x0))
    return state._replace(x=x, x0=x0)


def _consistency_coefficients(levels: NoiseLevels) -> PerStep:
    """`x ← α' (c_skip · x + c_out · x_0) + σ' · noise`, with the boundary condition at timestep 0.

    c_skip = s²/((10t)² + s²) and c_out = 10t/√((10t)² + s²) with s = 0.5, the standard deviation of
    the data (Luo et al. 2023, eq. 9, with the scale 10 of their code).
    """
    t = 10 * levels.t[:-1]
    skip, out = 0.25 / (t**2 + 0.25), t / jnp.sqrt(t**2 + 0.25)
    moves = levels.t[1:] != levels.t[:-1]
    alpha, sigma = levels.alpha[1:], levels.sigma[1:]
    return (
        jnp.where(moves, alpha * skip, 1),
        jnp.where(moves, alpha * out, 0),
        jnp.where(moves, sigma, 0),
    )


ddpm = Sampler(_ancestral_coefficients, one_evaluation(_ancestral_step), "DDPM", noises=1)
"""Ancestral sampling (Ho et al. 2020, eq. 7): x' ~ q(x' | x, x_0); "fixed_small" in diffusers.

Steps `x ← σ'/σ r · x + α' (1 − r²) · x_0 + σ' √(1 − r²) · noise`, where `1 − r² = β/σ²` with
β = 1 − α²/α'², the variance between the two timesteps; r = σ'α / σα' is accurate in float32 at both
ends.
"""

euler_ancestral = dataclasses.replace(
    ddpm, title="Euler ancestral", finite_snr=True, continuous=True
)
"""Euler's method down to σ'²/σ of x/α, then noise up to σ' (k-diffusion, `sample_euler_ancestral`).

Its step is DDPM's; its timesteps and its schedule at zero terminal SNR are Euler's.
"""

dpm_solver_pp_2m_sde = Sampler(
    _second_order_ancestral_coefficients,
    one_evaluation(_second_order_ancestral_step),
    "DPM-Solver++ 2M SDE",
    noises=1,
    finite_snr=True,
    spans_end=True,
    sigmas=True,
)
"""SDE-DPM-Solver++(2M) (Lu et al. 2022, app. A), with the extrapolation of DPM-Solver++(2M)."""

dpm_solver_pp_sde = Sampler(
    _midpoint_coefficients,
    _midpoint_step,
    "DPM-Solver++ SDE",
    noises=2,
    continuous=True,
    sigmas=True,
)
"""DPM-Solver++(2S) for the SDE, at the mean log-SNR of a step (k-diffusion, `sample_dpmpp_sde`).

It evaluates x_0 twice per step, except from zero terminal SNR and into clean data. The noise of
both evaluations is that of one Brownian path in σ/α.
"""

lcm = Sampler(_consistency_coefficients, one_evaluation(_ancestral_step), "LCM", noises=1)
"""Multistep consistency sampling (Luo et al. 2023, algorithm 3): x_0, then noise to the next level.

Only for models that were distilled for it.
"""
