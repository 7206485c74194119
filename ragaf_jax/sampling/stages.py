"""Trained stages, and the one compiled function that runs one or both of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, PRNGKeyArray, UInt8

from ragaf_jax.batch import Batch
from ragaf_jax.checkpoints.meta import Meta, check_stages_match
from ragaf_jax.checkpoints.reading import load_params
from ragaf_jax.diffusion.samplers import example_keys
from ragaf_jax.errors import UserError
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.model import Model, Params
from ragaf_jax.nets.ragaf import RagafTrace
from ragaf_jax.sampling.generate import generate, to_pixels
from ragaf_jax.sampling.process import Course, Process, Settings, process_of
from ragaf_jax.tokenizer import Tokenizer


class Drawn(NamedTuple):
    """Pictures in 0 … 255 and, of Stage 2, RAGAF's trace over `generate.TRACE_LEVELS`."""

    stage1: UInt8[Array, "b s s 3"]
    stage2: UInt8[Array, "b s s 3"] | None = None
    trace: RagafTrace | None = None


@dataclass(frozen=True)
class Stage:
    """One trained stage.

    Attributes:
      config: that of the run which trained it.
      tokenizer: that of the data it was trained on.
      model: its networks.
      params: their averaged parameters.
      step: updates that made them.
    """

    config: ml_collections.ConfigDict
    tokenizer: Tokenizer
    model: Model
    params: Params
    step: int

    @classmethod
    def restore(cls, workdir: Path, number: int, dtype: str | None = None) -> "Stage":
        """Stage `number` from its workdir alone.

        Args:
          workdir: its run's.
          number: 1 or 2.
          dtype: of the computation and of what is kept, "float32" or "bfloat16"; by default as the
            stage was trained, its averages in float32.

        Raises:
          UserError: no whole checkpoint, or the workdir is that of the other stage.
        """
        params, meta = load_params(workdir)
        config = ml_collections.ConfigDict(meta["config"])
        if config.stage != number:
            raise UserError(
                f"{workdir} holds Stage {config.stage}, expected Stage {number}; "
                "give the two workdirs in the right order."
            )
        if dtype is not None:
            config.model.dtype = dtype
            params = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(dtype)), params)
        tokenizer = Tokenizer.from_json(meta["tokenizer"])
        return cls(config, tokenizer, build_model(config), params, int(meta["step"]))

    @property
    def meta(self) -> Meta:
        """As checkpoints hold it."""
        return {"config": self.config.to_dict(), "tokenizer": self.tokenizer.to_json()}

    def process(self, sampler: str | None = None) -> Process:
        """How to sample it: as its config says, unless told otherwise."""
        return process_of(self.config, self.tokenizer, sampler)


def restore_both(stage1: Path, stage2: Path) -> tuple[Stage, Stage]:
    """Both stages from their workdirs.

    Raises:
      UserError: as `Stage.restore`, or the stages do not fit each other.
    """
    one, two = Stage.restore(stage1, 1), Stage.restore(stage2, 2)
    check_stages_match(one.meta, two.meta, str(stage1))
    return one, two


def settings_of(sample: Mapping[str, Any]) -> Settings:
    """The scales of the fields of `config.sample`."""
    chosen = {name: float(sample[name]) for name in Settings._fields if name in sample}
    by_sketch = chosen.pop("sketch_guidance")
    return Settings(sketch_guidance=None if by_sketch == 1 else by_sketch, **chosen)


Draw = Callable[[Params, Params, Batch, PRNGKeyArray, Settings, Course, Course], Drawn]


def make_draw(model1: Model, process1: Process, model2: Model, process2: Process) -> Draw:
    """The two-stage sampler: one compiled function of (params of 1, of 2, batch, key, settings,
    course of 1, of 2).

    Stage 2 begins from Stage 1's latents, noised to where its course begins. Changing scales,
    courses or key does not compile again.
    """

    @jax.jit
    def draw(
        params1: Params,
        params2: Params,
        batch: Batch,
        key: PRNGKeyArray,
        settings: Settings,
        course1: Course,
        course2: Course,
    ) -> Drawn:
        keys1, keys2 = (example_keys(x, len(batch.tokens)) for x in jax.random.split(key))
        coarse, _ = generate(model1, process1, params1, batch, keys1, settings, course1)
        latents, trace = generate(
            model2, process2, params2, batch, keys2, settings, course2, coarse
        )
        pictures = to_pixels(model1, params1, coarse), to_pixels(model2, params2, latents)
        return Drawn(*pictures, trace)

    return draw


DrawOne = Callable[
    [Params, Batch, PRNGKeyArray, Settings, Course],
    tuple[UInt8[Array, "b s s 3"], RagafTrace | None],
]


def make_draw_one(model: Model, process: Process) -> DrawOne:
    """The sampler of one stage from pure noise, compiled, to pixels and trace.

    The trace is there in Stage 2 only, and is as `generate` tells.
    """

    @jax.jit
    def draw(
        params: Params, batch: Batch, key: PRNGKeyArray, settings: Settings, course: Course
    ) -> tuple[Array, RagafTrace | None]:
        keys = example_keys(key, len(batch.tokens))
        latents, trace = generate(model, process, params, batch, keys, settings, course)
        return to_pixels(model, params, latents), trace

    return draw
