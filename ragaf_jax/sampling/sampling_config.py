"""The configuration of a stage's sampling: static fields, and inputs that compile once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Int

from ragaf_jax.batch import Text
from ragaf_jax.diffusion.build import schedule_of
from ragaf_jax.diffusion.samplers import SAMPLERS, spacing_of
from ragaf_jax.diffusion.schedule import CLEAN, Schedule, finite_snr
from ragaf_jax.diffusion.timesteps import Spacing, timestep_grid
from ragaf_jax.errors import UserError
from ragaf_jax.tokenizer import Tokenizer


class BranchScales(NamedTuple):
    """Scales of the sketch branch, or of another ControlNet; all are traced.

    Attributes:
      strengths: factor of each residual: those of the skips, then that of the mid block.
      unprompted: another factor in evaluations without the prompt.
      first, last: steps from `first` to before `last` have the residuals, others have none.
    """

    strengths: Float[Array, " r"]
    unprompted: float | Float[Array, ""]
    first: int | Int[Array, ""]
    last: int | Int[Array, ""]


class Scales(NamedTuple):
    """Scales of a call. Only a change between None and a number compiles again.

    Attributes:
      guidance: of the text; 1 is the model without guidance. None equals 1, and needs one
        evaluation of the networks per step.
      sketch_guidance: of the sketch and its regions; 1 is the model without guidance. None equals
        1, and needs two evaluations per step instead of three.
      guidance_until: below this fraction of T both scales are 1.
      sketch_strength: factor on what the sketch branch adds to the UNet; 1 as in training.
      branches: of the sketch branch, instead of `sketch_strength`, and of each further ControlNet.
    """

    guidance: float | Float[Array, ""] | None
    sketch_guidance: float | Float[Array, ""] | None
    guidance_until: float | Float[Array, ""] = 0.0
    sketch_strength: float | Float[Array, ""] = 1.0
    branches: tuple[BranchScales, ...] = ()


class TextConditioning(NamedTuple):
    """The texts of requests.

    Attributes:
      negative: the negative prompt.
      positive: the prompt with its start and end tokens, then region prompts, then padding; `ids`
        is 0 for the prompt and padding, i > 0 for a region prompt.
      region_text_ids: the only text that each region attends to.
    """

    negative: Text
    positive: Text
    region_text_ids: Int[Array, "b r"]


class TimestepGrid(NamedTuple):
    """The timesteps of a sampler; new values do not compile again.

    Attributes:
      timesteps: the evaluated timesteps, falling, then the end, repeated up to a fixed length.
      steps: number of evaluated timesteps.
    """

    timesteps: Int[Array, " times"]
    steps: int | Int[Array, ""]


@dataclass(frozen=True)
class SamplingConfig:
    """The static configuration of a stage's sampling.

    Attributes:
      schedule: noise of every timestep.
      prediction: the UNet's prediction type.
      sampler: a name in `diffusion.samplers.SAMPLERS`.
      spacing: of the evaluated timesteps.
      empty_text: the empty prompt, one row.
    """

    schedule: Schedule
    prediction: str
    sampler: str
    spacing: Spacing
    empty_text: Text

    def timestep_grid(self, steps: int, strength: float = 1.0) -> TimestepGrid:
        """Timesteps from pure noise, or from images noised to `strength` in 0 … 1; none for 0.

        Raises:
          UserError: more steps than the schedule has timesteps.
        """
        length = self.schedule.alpha.shape[0]
        grid = timestep_grid(length, steps, strength, self.spacing, length)
        if strength == 0:
            return TimestepGrid(jnp.full_like(grid, CLEAN), jnp.int32(0))
        return TimestepGrid(grid, jnp.int32(steps))


def sampling_config_of(
    config: ml_collections.ConfigDict, tokenizer: Tokenizer, sampler: str | None = None
) -> SamplingConfig:
    """The sampling configuration of a training configuration; `sampler` overrides its sampler.

    Raises:
      UserError: an unknown sampler, or an unknown spacing of timesteps.
    """
    name, fields = sampler or config.sample.sampler, config.diffusion
    if name not in SAMPLERS:
        raise UserError(f"The sampler is {name!r}; choose one of {', '.join(SAMPLERS)}.")
    spacing = spacing_of(
        name, fields.timestep_spacing, fields.steps_offset, fields.set_alpha_to_one
    )
    schedule = schedule_of(config)
    if fields.prediction == "v_prediction" and SAMPLERS[name].finite_snr:
        # As in diffusers. Prediction type "sample" is finite where alpha is 0.
        schedule = finite_snr(schedule)
    empty = Text(*tokenizer.encode([""], config.data.text_length))
    return SamplingConfig(schedule, fields.prediction, name, spacing, empty)


def scales_of(sample: Mapping[str, Any]) -> Scales:
    """The scales of `config.sample`, or of `Options` as a dictionary."""
    chosen = {name: float(sample[name]) for name in Scales._fields if name in sample}
    guidance, sketch_guidance = chosen.pop("guidance"), chosen.pop("sketch_guidance")
    by_sketch = None if sketch_guidance == 1 else sketch_guidance
    unguided = guidance == 1 and by_sketch is None
    return Scales(None if unguided else guidance, by_sketch, **chosen)
