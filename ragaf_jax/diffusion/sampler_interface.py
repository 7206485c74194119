"""What a sampler is: coefficients of its steps, the state between two steps, and the loop.

A sampler is `sampler(denoise, x, schedule, timesteps, keys) -> x at timesteps[-1]`, where
`denoise(x, t[b])` predicts x_0. `Sampler.advance` makes a few of the steps. Their number is traced,
and so are the timesteps: one compilation serves every number of steps, strength, guidance scale and
seed. The caller adds the noise: `x` at `timesteps[0]` is
`add_noise(schedule, x_start, noise, timesteps[0])`, or pure noise at strength 1.

A step may evaluate `denoise` once, as most do (`one_evaluation`), or several times. What it carries
to the next step beside x and the latest x_0 is the `memory` of `SamplerState`.
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
      step: how many steps have been made.
      memory: what else the next step reads, `Sampler.memory` arrays; each is x before the first
        step.
    """

    x: Float[Array, "b *rest"]
    x0: Float[Array, "b *rest"]
    step: Int[Array, ""]
    memory: tuple[Float[Array, "b *rest"], ...] = ()


@dataclass(frozen=True)
class Sampler:
    """One way from noise to data.

    Attributes:
      coefficients: (schedule, timesteps) → arrays with an entry for each step. An entry depends on
        the timesteps up to the end of its step, and on none after it.
      step: (denoise, state, (t, t'), noise, *entries of the step) → the state with x at timestep t'
        instead of t; the loop counts the steps. Here `denoise(x, t)` takes one timestep for all
        examples.
      memory: how many arrays of x's shape a step leaves to the next.
      ancestral: whether steps add noise; others get None.
    """

    coefficients: Callable[..., tuple[Array, ...]]
    step: Callable[..., SamplerState]
    memory: int = 0
    ancestral: bool = False

    def __call__(
        self,
        denoise: Denoise,
        x: Float[Array, "b *rest"],
        schedule: Schedule,
        timesteps: Int[Array, "times"],
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b *rest"]:
        """All steps from timesteps[0] to timesteps[-1]; `keys` are those of `advance`."""
        begun = self.begin(x)
        return self.advance(denoise, begun, schedule, timesteps, keys, len(timesteps) - 1).x

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

        Args:
          denoise: predicts x_0.
          state: after some of the steps.
          schedule: noise of every timestep.
          timesteps: of all steps; the same in every call.
          keys: of an ancestral sampler, one an example: its noise depends on the key and the step.
          until: may be traced.
        """
        if timesteps.shape[0] == 1:  # there is no step
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


def one_evaluation(
    step: Callable[..., Float[Array, "b *rest"]],
) -> Callable[..., SamplerState]:
    """`Sampler.step` of a sampler that evaluates x_0 once, at the beginning of the step.

    Args:
      step: (x, x_0, x_0 of the step before, noise, *entries of the step) → the next x.
    """

    def evaluated(denoise, state, ends, noise, *entries):
        x0 = denoise(state.x, ends[0])
        return state._replace(x=step(state.x, x0, state.x0, noise, *entries), x0=x0)

    return evaluated
