"""The sampling loop: from conditions and noise to images, by one stage or both.

Command, page, notebook, training's sample grids, the condition response and the metrics all run it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from ragaf_jax.batch import Batch
from ragaf_jax.diffusion.sampler_interface import SamplerState
from ragaf_jax.nets.model import Params
from ragaf_jax.nets.ragaf import RagafTrace
from ragaf_jax.sampling.denoising import Denoising, KeyData
from ragaf_jax.sampling.sampling_config import BranchScales, Scales, TextConditioning
from ragaf_jax.sampling.stage_sampler import Pixels, StageSampler

Images = UInt8[np.ndarray, "b _ _ 3"]


class StageRun(NamedTuple):
    """One stage and its inputs.

    Attributes:
      number: 1 or 2.
      sampler: its compiled functions.
      params: its parameters.
      keys: `jax.random.key_data` of one key per example.
      text: texts of requests; None: the captions of the batch.
      blended: the same texts without region prompts, with which cells outside regions with their
        own text are sampled. None: `text` applies to all cells.
      branches: as in `Scales`.
      controls: images in [0, 1] of the model's further ControlNets.
      region_steps: as in `Scales`.
    """

    number: int
    sampler: StageSampler
    params: Params
    keys: KeyData
    text: TextConditioning | None = None
    blended: TextConditioning | None = None
    branches: tuple[BranchScales, ...] = ()
    controls: tuple[Float[Array, "b h w 3"], ...] = ()
    region_steps: int | None = None


class Progress(NamedTuple):
    """A completed step.

    Attributes:
      stage: 1 or 2.
      step, steps: denoising steps of this stage: completed, and in total.
      preview: decoded prediction of the clean latents; None without previews.
    """

    stage: int
    step: int
    steps: int
    preview: Images | None


class Finished(NamedTuple):
    """Images of b requests.

    Attributes:
      images: of the last stage.
      coarse: the images that Stage 2 started from, Stage 1's or given ones; None where Stage 2
        started from noise or did not run.
      trace: RAGAF's over `denoising.TRACE_LEVELS`; None without RAGAF or Stage 2.
    """

    images: Images
    coarse: Images | None
    trace: RagafTrace | None

    def part(self, some: slice) -> "Finished":
        """The images of some of the requests."""
        images, coarse = jax.tree.map(lambda x: x[some], (self.images, self.coarse))
        return Finished(images, coarse, jax.tree.map(lambda x: x[:, some], self.trace))


def sample_stages(
    runs: Sequence[StageRun],
    batch: Batch,
    scales: Scales,
    steps: int,
    strength: float = 1.0,
    images: Pixels | None = None,
    every: int | None = None,
    *,
    sigmas: str | None = None,
    preview: bool = False,
    trace: bool = True,
) -> Iterator[Progress | Finished]:
    """Samples a batch by each stage in turn; closing the iterator cancels.

    A stage starts from the latents of the stage before or from `images`, noised to `strength`.
    Without either it starts from pure noise. New values of scales, steps, strength, sigmas or keys
    do not compile again, unless a scale changes between None and a number. A new size of the images
    does.

    Args:
      runs: the stages in order.
      batch: sketches, regions and text, on the devices that share it; its images are not used.
      scales: of all steps.
      steps: of each stage.
      strength: in 0 … 1.
      images: to start from.
      every: steps between two `Progress`; None: no `Progress`.
      sigmas: one of `noise_grid.SIGMAS`; None: those of the stage's configuration.
      preview: whether each `Progress` has one; each takes a run of the decoder.
      trace: whether to compute RAGAF's trace, with a few evaluations of Stage 2; there is none if
        cross-attention is restricted by region.

    Yields:
      `Progress`, and at the end `Finished`.
    """
    latents = coarse = result = None
    pixels = images
    for run in runs:
        if run.number == 2 and pixels is not None:
            coarse = np.asarray(pixels)
        if latents is None and pixels is not None:
            latents = run.sampler.encode(run.params, pixels)
        start = 1.0 if latents is None else strength
        grid = run.sampler.sampling.timestep_grid(steps, start, sigmas)
        own = scales._replace(branches=run.branches, region_steps=run.region_steps)
        given = run.keys, own, grid
        denoising = _begin(run, batch, given, latents, run.text)
        blended = run.blended
        plain = None if blended is None else _begin(run, batch, given, latents, blended)
        count = int(grid.steps)
        reported = _reported(count, every)
        for until in reported if plain is None else range(1, count + 1):
            if plain is not None:
                plain = run.sampler.advance(run.params, plain, *given, until, plain.state)
            others = denoising if plain is None else plain
            denoising = run.sampler.advance(run.params, denoising, *given, until, others.state)
            if every is not None and until in reported:
                state = jax.block_until_ready(denoising.state)  # else progress is ahead of devices
                shown = np.asarray(run.sampler.decode(run.params, state.x0)) if preview else None
                yield Progress(run.number, until, count, shown)
        latents = denoising.state.x
        pixels = run.sampler.decode(run.params, latents)
        traced = trace and (run.text is None or run.text.mixture is None)
        result = run.sampler.trace(run.params, denoising, run.keys) if traced else None
    assert pixels is not None, "there is at least one stage"
    yield Finished(np.asarray(pixels), coarse, jax.tree.map(np.asarray, result))


def _begin(
    run: StageRun, batch: Batch, given: Any, latents: Any, text: TextConditioning | None
) -> Denoising:
    """The initial latents, with the sharding of later steps, so that steps compile once."""
    begun = run.sampler.begin(run.params, batch, *given, latents, text, run.controls)
    x, x0, step, memory = begun.state
    x0, memory = jax.device_put((x0, memory), x.sharding)
    return begun._replace(state=SamplerState(x, x0, step, memory))


def _reported(steps: int, every: int | None) -> list[int]:
    """The steps after which to report progress; without `every`, the last step."""
    if steps == 0:
        return []
    return [steps] if every is None else [*range(every, steps, every), steps]
