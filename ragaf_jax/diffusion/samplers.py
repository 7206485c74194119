"""Samplers: integrate from noise to data along the timesteps of a schedule.

A sampler is `sampler(denoise, x, schedule, timesteps, keys) -> x at timesteps[-1]`, where
`denoise(x, t[b])` answers the network's x_0. It may also be walked a few steps at a time, see
`Sampler.walk`; how many is traced, and so is what the timesteps are: one compilation serves every
number of steps, strength, guidance scale and seed. Noise is added by the caller: `x` at
`timesteps[0]` is `add_noise(schedule, x_start, noise, timesteps[0])`, or pure noise at strength 1.

Every step goes to the next of `timesteps`, whatever follows: `sampler(…, timesteps[: k + 1], keys)`
is x after k steps. Step by step they are the schedulers of diffusers, with the timesteps that
`spacing_of` chooses and, at zero terminal SNR, the schedule that `FINITE_SNR` tells of. One thing
is not theirs: diffusers' DDIM goes from t to t − ⌊T/N⌋, which is not the next timestep that it
evaluates in "linspace", in "trailing" of an N that does not divide T, and from an offset ≥ ⌊T/N⌋.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from ragaf_jax.diffusion.schedule import Schedule, levels
from ragaf_jax.diffusion.timesteps import Spacing

Denoise = Callable[[Float[Array, "b *rest"], Int[Array, "b"]], Float[Array, "b *rest"]]


class SamplerState(NamedTuple):
    """Where a sampler stands.

    Attributes:
      x: the noisy examples.
      x0: what the network answered at the step before; zeros at the beginning.
      step: how many steps have been made.
    """

    x: Float[Array, "b *rest"]
    x0: Float[Array, "b *rest"]
    step: Int[Array, ""]

    @classmethod
    def begin(cls, x: Float[Array, "b *rest"]) -> "SamplerState":
        """Before the first step."""
        return cls(x, jnp.zeros_like(x), jnp.int32(0))


@dataclass(frozen=True)
class Sampler:
    """One way from noise to data.

    Attributes:
      coefficients: of (schedule, timesteps), arrays with a number for each step.
      step: the next x, of (x, x_0, x_0 of the step before, noise, *numbers of the step).
      ancestral: whether steps draw noise; others are given None.
    """

    coefficients: Callable[..., tuple[Array, ...]]
    step: Callable[..., Float[Array, "b *rest"]]
    ancestral: bool = False

    def __call__(
        self,
        denoise: Denoise,
        x: Float[Array, "b *rest"],
        schedule: Schedule,
        timesteps: Int[Array, "times"],
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b *rest"]:
        """All steps from timesteps[0] to timesteps[-1]; `keys` as `walk` has them."""
        begun = SamplerState.begin(x)
        return self.advance(denoise, begun, schedule, timesteps, keys, len(timesteps) - 1).x

    def advance(
        self,
        denoise: Denoise,
        state: SamplerState,
        schedule: Schedule,
        timesteps: Int[Array, "times"],
        keys: Key[Array, " b"] | None,
        until: int | Int[Array, ""],
    ) -> SamplerState:
        """Goes on to step `until`, at timesteps[until]; what follows there is not read.

        Args:
          denoise: answers x_0.
          walk: where it stands.
          schedule: noise of every timestep.
          timesteps: the same in every part of the way.
          keys: of an ancestral sampler, one an example: what it draws depends on it and the step.
          until: may be traced.
        """
        if timesteps.shape[0] == 1:  # there already
            return state
        coefficients = self.coefficients(schedule, timesteps)

        def body(k: int | Int[Array, ""], state: SamplerState) -> SamplerState:
            x = state.x
            x0 = denoise(x, jnp.full(x.shape[0], timesteps[k])).astype(x.dtype)
            noise = step_noise(keys, k, x.shape[1:]) if self.ancestral else None
            now = [numbers[k] for numbers in coefficients]
            x = self.step(x, x0, state.x0, noise, *now).astype(x.dtype)
            return SamplerState(x, x0, jnp.asarray(k + 1, jnp.int32))

        return jax.lax.fori_loop(state.step, jnp.int32(until), body, state)


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


ddim = Sampler(_ode_coefficients, _ode_step)
"""DDIM with η = 0 (Song et al. 2021, eq. 12): first order."""

euler = ddim
"""Euler's method (Karras et al. 2022, algorithm 1 without its correction), which is DDIM.

It solves for x/α as a function of σ/α, and so does DDIM (Song et al. 2021, eq. 13 and 14). Here x
stays variance preserving: diffusers' is ours/α. Pure noise is N(0, 1) with any spacing, as is
theirs in "leading"; in "trailing" and "linspace" theirs is N(0, σ²) of the first timestep.
"""

dpm_solver_pp_2m = Sampler(_second_order_coefficients, _second_order_step)
"""DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order.

The step into clean data is first order: it spans an infinite log-SNR.
"""

ddpm = Sampler(_ancestral_coefficients, _ancestral_step, ancestral=True)
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


def example_keys(rng: PRNGKeyArray, count: int) -> Key[Array, "{count}"]:
    """A key an example, the same whatever the batch that the example is in."""
    return jax.vmap(lambda i: jax.random.fold_in(rng, i))(jnp.arange(count))


def example_noise(keys: Key[Array, " b"], shape: tuple[int, ...]) -> Float[Array, "b *rest"]:
    """One draw an example."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def folded(keys: Key[Array, " b"], number: int | Int[Array, ""]) -> Key[Array, " b"]:
    """`jax.random.fold_in` of one number into every example's key."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def step_noise(
    keys: Key[Array, " b"], step: int | Int[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "b *rest"]:
    """What an ancestral sampler adds to each example in a step, counted from 0."""
    return example_noise(folded(keys, step), shape)
