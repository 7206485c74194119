"""The sampler interface: coefficients of steps, the state between two steps, and the loop.

A sampler is `sampler(denoise, x, levels, keys) -> x at the last of the levels`, where
`denoise(x, level)` predicts x_0 at a noise level of each example. `Sampler.advance` runs some of
the steps. Their number and the levels are traced: one compilation serves every number of steps,
spacing, strength, guidance scale and seed. The caller adds the noise: `x` at the first level is
`alpha · x_start + sigma · noise`, or pure noise at strength 1.

Most steps evaluate `denoise` once (`one_evaluation`), others several times. `SamplerState.memory`
holds further arrays for the next step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ragaf_jax.diffusion.noise import folded, step_noise
from ragaf_jax.diffusion.schedule import NoiseLevels

Denoise = Callable[[Float[Array, "b *rest"], NoiseLevels], Float[Array, "b *rest"]]


class SamplerState(NamedTuple):
    """A sampler between two steps.

    Attributes:
      x: the noisy examples.
      x0: the latest prediction of the clean examples; zeros before the first step.
      step: number of completed steps.
      memory: `Sampler.memory` further arrays for the next step; each is x before the first step.
    """

    x: Float[Array, "b *rest"]
    x0: Float[Array, "b *rest"]
    step: Int[Array, ""]
    memory: tuple[Float[Array, "b *rest"], ...] = ()


@dataclass(frozen=True)
class Sampler:
    """A numerical method from noise to data.

    Attributes:
      coefficients: levels → arrays with an entry per step. An entry depends on no level after the
        end of its step.
      step: (denoise, state, (level, level'), noise, *entries of the step) → the state with x at
        level' instead of level; the loop counts the steps. Here `denoise(x, level)` has one level
        for all examples.
      title: its name on the page.
      memory: number of arrays of x's shape that a step passes to the next.
      noises: normal arrays that a step adds, 0, 1 or 2; `noise` is None, the array, or both.
      finite_snr: whether its scheduler in diffusers uses the schedule of `schedule.finite_snr`.
      spans_end: as in `Spacing`, of its scheduler in diffusers.
      continuous: as in `Spacing`, of its scheduler in diffusers.
      sigmas: whether its scheduler in diffusers has Karras and exponential sigmas.
    """

    coefficients: Callable[[NoiseLevels], tuple[Array, ...]]
    step: Callable[..., SamplerState]
    title: str
    memory: int = 0
    noises: int = 0
    finite_snr: bool = False
    spans_end: bool = False
    continuous: bool = False
    sigmas: bool = False

    def __call__(
        self,
        denoise: Denoise,
        x: Float[Array, "b *rest"],
        levels: NoiseLevels,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b *rest"]:
        """All steps from the first to the last level; `keys` as of `advance`."""
        return self.advance(denoise, self.begin(x), levels, keys, len(levels.t) - 1).x

    def begin(self, x: Float[Array, "b *rest"]) -> SamplerState:
        """The state before the first step."""
        return SamplerState(x, jnp.zeros_like(x), jnp.int32(0), (x,) * self.memory)

    def advance(
        self,
        denoise: Denoise,
        state: SamplerState,
        levels: NoiseLevels,
        keys: Key[Array, " b"] | None,
        until: int | Int[Array, ""],
    ) -> SamplerState:
        """The state after step `until`, at that level; later levels have no effect.

        Args:
          denoise: predicts x_0.
          state: before step `state.step`.
          levels: [steps + 1], of all steps; equal in every call.
          keys: one per example, for the noise of ancestral samplers, which depends on key and step.
          until: may be traced.
        """
        if levels.t.shape[0] == 1:  # no step
            return state
        coefficients = self.coefficients(levels)

        def denoise_at(x: Float[Array, "b *rest"], level: NoiseLevels) -> Float[Array, "b *rest"]:
            each = jax.tree.map(lambda entry: jnp.full(x.shape[0], entry), level)
            return denoise(x, each).astype(x.dtype)

        def body(k: int | Int[Array, ""], state: SamplerState) -> SamplerState:
            entries = [entry[k] for entry in coefficients]
            ends = [jax.tree.map(lambda entry, i=i: entry[i], levels) for i in (k, k + 1)]
            noise = self._noise(keys, k, state.x.shape[1:])
            after = self.step(denoise_at, state, ends, noise, *entries)
            after = after._replace(step=jnp.asarray(k + 1, jnp.int32))
            return jax.tree.map(lambda new, old: new.astype(old.dtype), after, state)

        return jax.lax.fori_loop(state.step, jnp.int32(until), body, state)

    def _noise(
        self,
        keys: Key[Array, " b"] | None,
        step: int | Int[Array, ""],
        shape: tuple[int, ...],
    ) -> Array | tuple[Array, Array] | None:
        if not self.noises:
            return None
        first = step_noise(keys, step, shape)
        # A step has the number of its key, and its second noise that key's number 1.
        return first if self.noises == 1 else (first, step_noise(folded(keys, step), 1, shape))


def one_evaluation(
    step: Callable[..., Float[Array, "b *rest"]],
) -> Callable[..., SamplerState]:
    """`Sampler.step` of a sampler that evaluates x_0 once, at the start of the step.

    Args:
      step: (x, x_0, x_0 of the previous step, noise, *entries of the step) → the next x.
    """

    def evaluated(denoise, state, ends, noise, *entries):
        x0 = denoise(state.x, ends[0])
        return state._replace(x=step(state.x, x0, state.x0, noise, *entries), x0=x0)

    return evaluated
