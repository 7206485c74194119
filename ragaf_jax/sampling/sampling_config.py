"""The configuration of a stage's sampling: static fields, and inputs that compile once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ragaf_jax.batch import Array as AnyArray
from ragaf_jax.batch import Text
from ragaf_jax.diffusion.build import schedule_of
from ragaf_jax.diffusion.noise_grid import UNIFORM, levels_at, noise_grid
from ragaf_jax.diffusion.samplers import SAMPLERS, sampler_for, spacing_of
from ragaf_jax.diffusion.schedule import CLEAN, NoiseLevels, Schedule, finite_snr
from ragaf_jax.diffusion.timesteps import Spacing
from ragaf_jax.errors import UserError
from ragaf_jax.nets.unet import UNetConfig
from ragaf_jax.tokenizer import Tokenizer


class BranchScales(NamedTuple):
    """Scales of the sketch branch, or of another ControlNet, in a stage's steps; all are traced.

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
      branches: of the sketch branch and of each further ControlNet; (): factors of 1, as in
        training.
      embedded_guidance: of the text, as an input of the UNet (LCM), above `guidance_until`; None:
        an input of 0, as in training.
      region_steps: with `TextConditioning.mixture`, the number of steps whose cross-attention is
        restricted by region; later ones attend to the prompt alone. None: all.
    """

    guidance: float | Float[Array, ""] | None
    sketch_guidance: float | Float[Array, ""] | None
    guidance_until: float | Float[Array, ""] = 0.0
    branches: tuple[BranchScales, ...] = ()
    embedded_guidance: float | Float[Array, ""] | None = None
    region_steps: int | Int[Array, ""] | None = None


class RegionMixture(NamedTuple):
    """The weight of each of n texts in the cross-attention of each region; rows sum to 1."""

    positive: Float[Array, "b r n"]
    negative: Float[Array, "b r n"]


class TextConditioning(NamedTuple):
    """The texts of requests.

    Attributes:
      negative: the negative prompt, then negative prompts of regions.
      positive: the prompt with its start and end tokens, then region prompts, then padding; `ids`
        is 0 for the prompt and padding, i > 0 for a region prompt.
      region_text_ids, region_negative_ids: the only text of each that each region attends to, in
        RAGAF.
      mixture: for cross-attention that is restricted by region; positive and negative texts are
        then n of equal length. None: all cells attend to all tokens.
    """

    negative: Text
    positive: Text
    region_text_ids: Int[Array, "b r"]
    region_negative_ids: Int[Array, "b r"]
    mixture: RegionMixture | None = None

    @property
    def own(self) -> Bool[AnyArray, "b r"]:
        """Whether each region has a text of its own."""
        own = (self.region_text_ids > 0) | (self.region_negative_ids > 0)
        if self.mixture is not None:
            for weights in self.mixture:
                own |= weights[..., 0] < 1
        return own

    def with_base(self, ratio: float) -> "TextConditioning":
        """With this share of the prompts in the cross-attention of regions with their own text."""
        if self.mixture is None:
            return self

        def mixed(weights: Float[AnyArray, "b r n"]) -> Float[AnyArray, "b r n"]:
            prompt = np.eye(weights.shape[-1], dtype=np.float32)[0]
            return weights + np.float32(ratio) * (prompt - weights)

        return self._replace(mixture=RegionMixture(*map(mixed, self.mixture)))


class TimestepGrid(NamedTuple):
    """The noise levels of a sampler; new values do not compile again.

    Attributes:
      levels: the evaluated levels, falling, then the end, repeated up to a fixed length.
      steps: number of evaluated levels.
      start_scale: of pure noise, at the first level.
    """

    levels: NoiseLevels
    steps: int | Int[Array, ""]
    start_scale: Float[Array, ""]


@dataclass(frozen=True)
class SamplingConfig:
    """The static configuration of a stage's sampling.

    Attributes:
      schedule: noise of every timestep.
      prediction: the UNet's prediction type.
      sampler: a name in `diffusion.samplers.SAMPLERS`.
      spacing: of the evaluated timesteps.
      sigmas: of a call without its own, one of `noise_grid.SIGMAS`.
      empty_text: the empty prompt, one row.
    """

    schedule: Schedule
    prediction: str
    sampler: str
    spacing: Spacing
    sigmas: str
    empty_text: Text

    def timestep_grid(
        self, steps: int, strength: float = 1.0, sigmas: str | None = None
    ) -> TimestepGrid:
        """Levels from pure noise, or from images noised to `strength` in 0 … 1; none for 0.

        Args:
          steps: of `noise_grid`.
          strength: of `noise_grid`, or 0.
          sigmas: one of `noise_grid.SIGMAS`; None: those of this configuration.

        Raises:
          UserError: sigmas that the sampler does not have, or as `noise_grid`.
        """
        length, sigmas = self.schedule.alpha.shape[0], sigmas or self.sigmas
        sampler, schedule = SAMPLERS[self.sampler], self.schedule
        if sigmas != UNIFORM:
            if not sampler.sigmas:
                having = [name for name, other in SAMPLERS.items() if other.sigmas]
                raise UserError(
                    f"sigmas is {sigmas!r} and the sampler {self.sampler!r} only has 'uniform' "
                    f"ones; choose 'uniform', or a sampler of {', '.join(having)}."
                )
            if sampler.finite_snr:
                schedule = finite_snr(schedule)
        if strength == 0:
            clean = levels_at(schedule, np.full(length + 1, CLEAN))
            return TimestepGrid(clean, jnp.int32(0), jax.device_put(np.float32(1)))
        grid, count = noise_grid(schedule, steps, strength, self.spacing, sigmas, length)
        scaled = self.spacing.continuous and self.spacing.kind != "leading"
        start = np.float32(np.asarray(grid.sigma)[0] if scaled else 1)
        return TimestepGrid(grid, jnp.int32(count), jax.device_put(start))


def sampling_config_of(
    config: ml_collections.ConfigDict, tokenizer: Tokenizer, sampler: str | None = None
) -> SamplingConfig:
    """The sampling configuration of a training configuration; `sampler` overrides its sampler.

    Raises:
      UserError: an unknown sampler, or one that the network's prediction type excludes.
    """
    name, fields = sampler or config.sample.sampler, config.diffusion
    sampler_for(name, fields.prediction)
    spacing = spacing_of(
        name,
        fields.timestep_spacing,
        fields.steps_offset,
        fields.set_alpha_to_one,
        fields.original_steps,
        fields.schedule,
    )
    schedule = schedule_of(config)
    if fields.prediction == "v_prediction" and SAMPLERS[name].finite_snr:
        # As in diffusers. Prediction type "sample" is finite where alpha is 0.
        schedule = finite_snr(schedule)
    empty = Text(*tokenizer.encode([""], config.data.text_length))
    return SamplingConfig(schedule, fields.prediction, name, spacing, config.sample.sigmas, empty)


def scales_of(sample: Mapping[str, Any], unet: UNetConfig | None = None) -> Scales:
    """The scales of `config.sample`, or of `Options` as a dictionary.

    unet: of the stage; None: a UNet that does not read the guidance scale.
    """
    chosen = {name: float(sample[name]) for name in Scales._fields if name in sample}
    guidance, sketch_guidance = chosen.pop("guidance"), chosen.pop("sketch_guidance")
    by_sketch = None if sketch_guidance == 1 else sketch_guidance
    if unet is not None and unet.time_cond_proj_dim is not None:
        chosen["embedded_guidance"], guidance = guidance, 1.0
    unguided = guidance == 1 and by_sketch is None
    return Scales(None if unguided else guidance, by_sketch, **chosen)
