"""The sampler interface: coefficients of steps, the state between two steps, and the loop.

A sampler is `sampler(denoise, x, schedule, timesteps, keys) -> x at timesteps[-1]`, where
`denoise(x, t[b])` predicts x_0. `Sampler.advance` runs some of the steps. Their number and the
timesteps are traced: one compilation serves every number of steps, strength, guidance scale and
seed. The caller adds the noise: `x` at `timesteps[0]` is
`add_noise(schedule, x_start, noise, timesteps[0])`, or pure noise at strength 1.

Most steps evaluate `denoise` once (`one_evaluation`), others several times. `SamplerState.memory`
holds further arrays for the next step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ragaf_jax.diffusion.noise import step_noise
from ragaf_jax.diffusion.schedule import Schedule

Denoise = Callable[[Float[Array, "b *rest"], Int[Array, "b"]], Float[Array, "b *rest"]]


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
      coefficients: (schedule, timesteps) → arrays with an entry per step. An entry depends on no
        timestep after the end of its step.
      step: (denoise, state, (t, t'), noise, *entries of the step) → the state with x at timestep t'
        instead of t; the loop counts the steps. Here `denoise(x, t)` has one timestep for all
        examples.
      title: its name on the page.
      memory: number of arrays of x's shape that a step passes to the next.
      ancestral: whether steps add noise; else `noise` is None.
      finite_snr: whether its scheduler in diffusers uses the schedule of `schedule.finite_snr`.
      spans_end: as in `Spacing`, of its scheduler in diffusers.
    """

    coefficients: Callable[..., tuple[Array, ...]]
    step: Callable[..., SamplerState]
    title: str
    memory: int = 0
    ancestral: bool = False
    finite_snr: bool = False
    spans_end: bool = False

    def __call__(
        self,
        denoise: Denoise,
        x: Float[Array, "b *rest"],
        schedule: Schedule,
        timesteps: Int[Array, "times"],
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b *rest"]:
        """All steps from timesteps[0] to timesteps[-1]; `keys` as of `advance`."""
        state = self.begin(x)
        return self.advance(denoise, state, schedule, timesteps, keys, len(timesteps) - 1).x

    def begin(self, x: Float[Array, "b *rest"]) -> SamplerState:
        """The state before the first step."""
        return SamplerState(x, jnp.zeros_like(x), jnp.int32(0), (x,) * self.memory)

    def advance(
        self,
        denoise: Denoise,
        state: SamplerState,
        schedule: Schedule,
        timesteps: Int[Array, "times"],
        keys: Key[Array, " b"] | None,
        until: int | Int[Array, ""],
    ) -> SamplerState:
        """The state after step `until`, at timesteps[until]; later timesteps have no effect.

        `timesteps` are those of all steps, equal in every call; `until` may be traced. `keys` are
        one per example, for the noise of ancestral samplers, which depends on key and step.
        """
        if timesteps.shape[0] == 1:  # no step
            return state
        coefficients = self.coefficients(schedule, timesteps)

        def denoise_at(x: Float[Array, "b *rest"], t: Int[Array, ""]) -> Float[Array, "b *rest"]:
            return denoise(x, jnp.full(x.shape[0], t)).astype(x.dtype)

        def body(k: int | Int[Array, ""], state: SamplerState) -> SamplerState:
            noise = step_noise(keys, k, state.x.shape[1:]) if self.ancestral else None
            entries = [entry[k] for entry in coefficients]
            ends = timesteps[k], timesteps[k + 1]
            after = self.step(denoise_at, state, ends, noise, *entries)
            after = after._replace(step=jnp.asarray(k + 1, jnp.int32))
            return jax.tree.map(lambda new, old: new.astype(old.dtype), after, state)

        return jax.lax.fori_loop(state.step, jnp.int32(until), body, state)


def one_evaluation(step: Callable[..., Float[Array, "b *rest"]]) -> Callable[..., SamplerState]:
    """`Sampler.step` of a sampler that evaluates x_0 once, at the start of the step.

    step: (x, x_0, x_0 of the previous step, noise, *entries of the step) → the next x.
    """

    def evaluated(denoise, state, ends, noise, *entries):
        x0 = denoise(state.x, ends[0])
        return state._replace(x=step(state.x, x0, state.x0, noise, *entries), x0=x0)

    return evaluated
