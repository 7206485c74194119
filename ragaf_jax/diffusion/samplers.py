"""Samplers: ways from noise to data along the timesteps of a schedule.

A sampler is `sampler(denoise, x, schedule, timesteps, key) -> x at timesteps[-1]`, where
`denoise(x, t[b])` answers the network's x_0. Only the number of timesteps is static: one
compilation serves every strength, guidance scale and seed. Noise is added by the caller: `x` at
`timesteps[0]` is `add_noise(schedule, x_start, noise, timesteps[0])`, or pure noise at strength 1.

Every step goes to the next of `timesteps`, whatever follows: `sampler(…, timesteps[: k + 1], key)`
is x after k steps. Step by step they are the schedulers of diffusers, with the timesteps that
`spacing_of` chooses and, at zero terminal SNR, the schedule that `FINITE_SNR` tells of. One thing
is not theirs: diffusers' DDIM goes from t to t − ⌊T/N⌋, which is not the next timestep that it
evaluates in "linspace", in "trailing" of an N that does not divide T, and from an offset ≥ ⌊T/N⌋.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ragaf_jax.diffusion.schedule import Schedule, levels
from ragaf_jax.diffusion.timesteps import Spacing

Denoise = Callable[[Float[Array, "b *rest"], Int[Array, "b"]], Float[Array, "b *rest"]]


def ddim(
    denoise: Denoise,
    x: Float[Array, "b *rest"],
    schedule: Schedule,
    timesteps: Int[Array, "times"],
    key: PRNGKeyArray | None = None,
) -> Float[Array, "b *rest"]:
    """DDIM with η = 0 (Song et al. 2021, eq. 12): first order. Draws nothing from `key`."""

    def step(x, x0, x0_before, keep, take):
        return keep * x + take * x0

    return _loop(step, denoise, x, timesteps, _ode_coefficients(schedule, timesteps))


def euler(
    denoise: Denoise,
    x: Float[Array, "b *rest"],
    schedule: Schedule,
    timesteps: Int[Array, "times"],
    key: PRNGKeyArray | None = None,
) -> Float[Array, "b *rest"]:
    """Euler's method (Karras et al. 2022, algorithm 1 without its correction), which is DDIM.

    It solves for x/α as a function of σ/α, and so does DDIM (Song et al. 2021, eq. 13 and 14). Here
    x stays variance preserving: diffusers' is ours/α. Pure noise is N(0, 1) with any spacing, as is
    theirs in "leading"; in "trailing" and "linspace" theirs is N(0, σ²) of the first timestep.
    """
    return ddim(denoise, x, schedule, timesteps)


def dpm_solver_pp_2m(
    denoise: Denoise,
    x: Float[Array, "b *rest"],
    schedule: Schedule,
    timesteps: Int[Array, "times"],
    key: PRNGKeyArray | None = None,
) -> Float[Array, "b *rest"]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order. Draws nothing from `key`.

    The step into clean data is first order: it spans an infinite log-SNR.
    """
    alpha, sigma = levels(schedule, timesteps)
    log_snr = jnp.log(alpha) - jnp.log(sigma)
    span = jnp.diff(log_snr)
    before = jnp.concatenate([jnp.zeros(1, span.dtype), span[:-1]])
    # There is nothing to extrapolate from at the first step, nor after a step that stood still.
    usable = (before > 0) & jnp.isfinite(span)
    extrapolation = jnp.where(usable, span / (2 * jnp.where(usable, before, 1)), 0)

    def step(x, x0, x0_before, keep, take, extrapolation):
        return keep * x + take * (x0 + extrapolation * (x0 - x0_before))

    coefficients = *_ode_coefficients(schedule, timesteps), extrapolation
    return _loop(step, denoise, x, timesteps, coefficients)


def ddpm(
    denoise: Denoise,
    x: Float[Array, "b *rest"],
    schedule: Schedule,
    timesteps: Int[Array, "times"],
    key: PRNGKeyArray,
) -> Float[Array, "b *rest"]:
    """Ancestral sampling (Ho et al. 2020, eq. 7): x' ~ q(x' | x, x_0); "fixed_small" in diffusers.

    Steps `x ← σ'/σ r · x + α' (1 − r²) · x_0 + σ' √(1 − r²) · noise`, where `1 − r² = β/σ²` with
    β = 1 − α²/α'², the variance that lies between the two timesteps; r = σ'α / σα' keeps its digits
    in float32 at both ends. Noise per example depends on `key`, the step and the example's place.
    """
    alpha, sigma = levels(schedule, timesteps)
    keep = sigma[1:] / sigma[:-1]
    ratio = keep * alpha[:-1] / alpha[1:]
    fresh = (1 - ratio) * (1 + ratio)

    def step(x, x0, x0_before, keep, take, spread, number):
        noise = example_noise(jax.random.fold_in(key, number), x.shape[0], x.shape[1:])
        return keep * x + take * x0 + spread * noise

    numbers = jnp.arange(timesteps.shape[0] - 1)
    coefficients = keep * ratio, alpha[1:] * fresh, sigma[1:] * jnp.sqrt(fresh), numbers
    return _loop(step, denoise, x, timesteps, coefficients)


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


def example_noise(
    rng: PRNGKeyArray, count: int, shape: tuple[int, ...]
) -> Float[Array, "{count} *rest"]:
    """One draw an example, the same whatever the batch that the example is in."""
    keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(jnp.arange(count))
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


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


def _loop(
    step: Callable[..., Float[Array, "b *rest"]],
    denoise: Denoise,
    x: Float[Array, "b *rest"],
    timesteps: Int[Array, "times"],
    coefficients: tuple[Array, ...],
) -> Float[Array, "b *rest"]:
    """`x ← step(x, x_0, x_0 of the step before, *coefficients[k])` for each step k."""

    def body(carry, inputs):
        x, x0_before = carry
        t, *now = inputs
        x0 = denoise(x, jnp.full(x.shape[0], t)).astype(x.dtype)
        return (step(x, x0, x0_before, *now).astype(x.dtype), x0), None

    (x, _), _ = jax.lax.scan(body, (x, jnp.zeros_like(x)), (timesteps[:-1], *coefficients))
    return x
