"""Samplers without noise: solvers of the probability-flow ODE (Song et al. 2021, eq. 13)."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragaf_jax.diffusion.sampler_interface import Sampler, one_evaluation
from ragaf_jax.diffusion.schedule import NoiseLevels

PerStep = tuple[Float[Array, "steps"], ...]


def ode_coefficients(levels: NoiseLevels) -> PerStep:
    """(keep, take) of `x ← σ'/σ · x + (α' − α σ'/σ) · x_0`.

    The exact solution for an x_0 that is constant over the step; `(α' − α σ'/σ) = α' (1 − e^−h)` in
    the log-SNR span h of Lu et al. 2022, eq. 9, in the form that is finite at α = 0. The step into
    clean data (α' = 1, σ' = 0) gives x_0 itself.
    """
    alpha, sigma = levels.alpha, levels.sigma
    keep = sigma[1:] / sigma[:-1]
    return keep, alpha[1:] - alpha[:-1] * keep


def _ode_step(x, x0, x0_before, noise, keep, take):
    return keep * x + take * x0


def second_order_coefficients(levels: NoiseLevels) -> PerStep:
    """(keep, take, extrapolation) of `x ← keep · x + take · (x_0 + extrapolation · Δx_0)`.

    Δx_0 is the change of x_0 since the previous step.
    """
    alpha, sigma = levels.alpha, levels.sigma
    log_snr = jnp.log(alpha) - jnp.log(sigma)
    span = jnp.diff(log_snr)
    before = jnp.concatenate([jnp.zeros(1, span.dtype), span[:-1]])
    # The first step, and a step after a repeated timestep, cannot extrapolate.
    usable = (before > 0) & jnp.isfinite(span)
    extrapolation = jnp.where(usable, span / (2 * jnp.where(usable, before, 1)), 0)
    return *ode_coefficients(levels), extrapolation


def _second_order_step(x, x0, x0_before, noise, keep, take, extrapolation):
    return keep * x + take * (x0 + extrapolation * (x0 - x0_before))


def _heun_coefficients(
    levels: NoiseLevels,
) -> tuple[Float[Array, "steps 2"], Float[Array, "steps 2"], Int[Array, "steps"]]:
    """(keep, take) of both evaluations, and the number of evaluations of each step.

    The trapezoidal rule for x/α as a function of s = σ/α adds `α'/2 (s/s' − 1) · (x_0' − x_0)` to
    Euler's x', where x_0' is the prediction at x' and t'. That is infinite at α = 0 or σ' = 0: from
    pure noise and into clean data the step is Euler's.
    """
    alpha, sigma = levels.alpha, levels.sigma
    keep, take = ode_coefficients(levels)
    finite = (alpha[:-1] > 0) & (sigma[1:] > 0)
    ratio = sigma[:-1] * alpha[1:] / jnp.where(finite, alpha[:-1] * sigma[1:], 1)
    correction = jnp.where(finite, alpha[1:] * (ratio - 1) / 2, 0)
    evaluations = jnp.where(correction == 0, 1, 2)
    return jnp.stack([keep, jnp.ones_like(keep)], 1), jnp.stack([take, correction], 1), evaluations


def stacked(ends: Sequence[NoiseLevels]) -> NoiseLevels:
    """The levels at which a step evaluates, as one array per field."""
    return jax.tree.map(lambda *entries: jnp.stack(entries), *ends)


def nth(levels: NoiseLevels, i: int | Int[Array, ""]) -> NoiseLevels:
    """One of several levels."""
    return jax.tree.map(lambda entries: entries[i], levels)


def _heun_step(denoise, state, ends, noise, keep, take, evaluations):
    at = stacked(ends)

    def evaluation(i, carry):
        x, before = carry
        x0 = denoise(x, nth(at, i))
        return (keep[i] * x + take[i] * (x0 - i * before)).astype(x.dtype), x0

    # A loop, because two calls would compile the networks twice.
    x, x0 = jax.lax.fori_loop(0, evaluations, evaluation, (state.x, state.x0))
    return state._replace(x=x, x0=x0)


def _unipc_coefficients(levels: NoiseLevels) -> PerStep:
    """The coefficients of the predictor, and those of the previous step's corrector.

    With h the log-SNR span of a step and r its ratio to the span before, UniC of order 2 with
    B₂(h) = e^h − 1 is `σ'/σ · x + take · (x_0 + old · (x_0 − x_0 before) + new · (x_0' − x_0))`,
    where `old = g r²/(1 + r)`, `new = (1 + h g)/2 − g r/(1 + r)` and `g = (coth(h/2) − 2/h)/h`.
    """
    keep, take, extrapolation = second_order_coefficients(levels)
    alpha, sigma = levels.alpha, levels.sigma
    second = extrapolation > 0
    h = jnp.where(second, jnp.diff(jnp.log(alpha) - jnp.log(sigma)), 1)
    # Lambert's continued fraction has positive terms, so g is accurate at a small h.
    fraction = jnp.zeros_like(h)
    for odd in range(33, 3, -2):
        fraction = h**2 / 4 / (odd + fraction)
    g, r = 0.5 / (3 + fraction), 2 * extrapolation
    old = g * r**2 / (1 + r)
    new = jnp.where(second, (1 + h * g) / 2 - g * r / (1 + r), 0.5)

    def before(entries, first):
        return jnp.concatenate([jnp.full(1, first, entries.dtype), entries[:-1]])

    # The first step has no correction.
    corrector = before(keep, 1), before(take, 0), before(old, 0), before(new, 0)
    return keep, take, extrapolation, *corrector


def _unipc_step(
    denoise, state, ends, noise, keep, take, extrapolation, keep_before, take_before, old, new
):
    x_before, x0_older = state.memory  # corrected x, and x_0 of two steps before
    x0_before = state.x0
    x0 = denoise(state.x, ends[0])
    change = old * (x0_before - x0_older) + new * (x0 - x0_before)
    x = keep_before * x_before + take_before * (x0_before + change)
    after = keep * x + take * (x0 + extrapolation * (x0 - x0_before))
    return state._replace(x=after, x0=x0, memory=(x, x0_before))


ddim = Sampler(ode_coefficients, one_evaluation(_ode_step), "DDIM")
"""DDIM with η = 0 (Song et al. 2021, eq. 12): first order."""

euler = dataclasses.replace(ddim, title="Euler", finite_snr=True, continuous=True, sigmas=True)
"""Euler's method (Karras et al. 2022, algorithm 1 without its correction), which is DDIM.

Both solve for x/α as a function of σ/α (Song et al. 2021, eq. 13 and 14). Here x is variance
preserving; diffusers' x is x/α.
"""

dpm_solver_pp_2m = Sampler(
    second_order_coefficients,
    one_evaluation(_second_order_step),
    "DPM-Solver++ 2M",
    finite_snr=True,
    spans_end=True,
    sigmas=True,
)
"""DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order.

The step into clean data is first order: it spans an infinite log-SNR.
"""

heun = Sampler(_heun_coefficients, _heun_step, "Heun", continuous=True, sigmas=True)
"""Heun's method (Karras et al. 2022, algorithm 1 without noise): second order.

It evaluates x_0 twice per step. The steps into clean data and from zero terminal SNR, which
diffusers' scheduler does not support, are Euler's, with one evaluation.
"""

unipc = Sampler(
    _unipc_coefficients,
    _unipc_step,
    "UniPC",
    memory=2,
    finite_snr=True,
    spans_end=True,
    sigmas=True,
)
"""UniPC-2 with B₂(h), predicting x_0 (Zhao et al. 2023, algorithms 1 and 2): third order.

UniP-2, which equals DPM-Solver++(2M), predicts x; UniC-2 corrects it at the next step, with the x_0
evaluated there. The last x is not corrected, and the step into clean data is UniP-1.
"""
