"""PNDM with linear multistep steps alone, the sampler of Stable Diffusion 1 (Liu et al. 2022).

diffusers' PNDMScheduler with skip_prk_steps=True: a step applies DDIM to a combination of the
network's last outputs, an Adams–Bashforth formula of order 1 to 4. The first step is Heun's: it
evaluates a second time at its end, where the second step evaluates once more.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ragaf_jax.diffusion.ode_samplers import nth, stacked
from ragaf_jax.diffusion.sampler_interface import Sampler
from ragaf_jax.diffusion.schedule import NoiseLevels

# Weights of the newest output and those before it, by the number of earlier outputs (eq. 9).
_WEIGHTS = np.array(
    [
        [1, 0, 0, 0],
        [3 / 2, -1 / 2, 0, 0],
        [23 / 12, -16 / 12, 5 / 12, 0],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ]
)


def _coefficients(
    levels: NoiseLevels, keep: Array, take: Array, of_x: Array, of_x0: Array
) -> tuple[
    Float[Array, "steps"],
    Float[Array, "steps"],
    Float[Array, "steps 2 2"],
    Float[Array, "steps 4"],
    Int[Array, "steps"],
]:
    """(keep, take) of x and output, (of_x, of_x0) of the output at both ends, weights, evaluations.

    The output is `of_x · x + of_x0 · x_0` at each level, and the step `keep · x + take · output`.
    """
    step = jnp.arange(len(keep))
    output = jnp.stack([of_x, of_x0], 1)
    ends = jnp.stack([output[:-1], output[1:]], 1)
    weights = jnp.asarray(_WEIGHTS, keep.dtype)[jnp.minimum(step, len(_WEIGHTS) - 1)]
    # At the end of sampling the networks are not evaluated.
    twice = (step == 0) & (levels.t[1:] >= 0)
    return keep, take, ends, weights, jnp.where(twice, 2, 1)


def _noise_coefficients(levels: NoiseLevels) -> tuple[Array, ...]:
    """The output is ε = (x − α x_0)/σ."""
    alpha, sigma = levels.alpha, levels.sigma
    keep = alpha[1:] / alpha[:-1]
    inverse = 1 / jnp.where(sigma > 0, sigma, 1)
    return _coefficients(levels, keep, sigma[1:] - sigma[:-1] * keep, inverse, -alpha * inverse)


def _velocity_coefficients(levels: NoiseLevels) -> tuple[Array, ...]:
    """The output is v = (α x − x_0)/σ, so that a step rotates (x, v) by an angle."""
    alpha, sigma = levels.alpha, levels.sigma
    keep = alpha[1:] * alpha[:-1] + sigma[1:] * sigma[:-1]
    take = alpha[:-1] * sigma[1:] - sigma[:-1] * alpha[1:]
    inverse = 1 / jnp.where(sigma > 0, sigma, 1)
    return _coefficients(levels, keep, take, alpha * inverse, -inverse)


def _step(denoise, state, ends, noise, keep, take, output_of, weights, evaluations):
    at = stacked(ends)

    def evaluation(i, carry):
        x, _, first = carry
        x0 = denoise(x, nth(at, i))
        output = output_of[i, 0] * x + output_of[i, 1] * x0
        outputs = output, *state.memory
        multistep = sum(weight * past for weight, past in zip(weights, outputs, strict=True))
        combined = jnp.where(i == 0, multistep, (first + output) / 2)
        after = keep * state.x + take * combined
        return after.astype(x.dtype), x0, jnp.where(i == 0, output, first).astype(x.dtype)

    start = state.x, state.x0, state.x
    x, x0, output = jax.lax.fori_loop(0, evaluations, evaluation, start)
    return state._replace(x=x, x0=x0, memory=(output, *state.memory[:2]))


pndm = Sampler(_noise_coefficients, _step, "PNDM", memory=3)
"""For networks that predict ε."""

pndm_velocity = Sampler(_velocity_coefficients, _step, "PNDM", memory=3)
"""For networks that predict v, whose outputs diffusers combines."""
