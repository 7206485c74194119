"""Trained stages, and the one compiled function that runs one or both of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
from jaxtyping import Array, PRNGKeyArray, UInt8

from ragaf_jax.batch import Batch
from ragaf_jax.errors import UserError
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.model import Model, Params
from ragaf_jax.nets.ragaf import RagafTrace
from ragaf_jax.sampling.generate import Process, Settings, generate, process_of, to_pixels
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training.checkpoint import load_params
from ragaf_jax.training.setup import Meta, check_stages_match


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
    def restore(cls, workdir: Path, number: int) -> "Stage":
        """Stage `number` from its workdir alone.

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
        tokenizer = Tokenizer.from_json(meta["tokenizer"])
        return cls(config, tokenizer, build_model(config), params, int(meta["step"]))

    @property
    def meta(self) -> Meta:
        """As checkpoints hold it."""
        return {"config": self.config.to_dict(), "tokenizer": self.tokenizer.to_json()}

    def process(self, sampler: str | None = None, steps: int | None = None) -> Process:
        """How to sample it: as its config says, unless told otherwise."""
        return process_of(self.config, self.tokenizer, sampler, steps)


def restore_both(stage1: Path, stage2: Path) -> tuple[Stage, Stage]:
    """Both stages from their workdirs.

    Raises:
      UserError: as `Stage.restore`, or the stages do not fit each other.
    """
    one, two = Stage.restore(stage1, 1), Stage.restore(stage2, 2)
    check_stages_match(one.meta, two.meta, str(stage1))
    return one, two


def settings_of(sample: Mapping[str, Any]) -> Settings:
    """Scales and strength of the fields of `config.sample`."""
    chosen = {name: float(sample[name]) for name in Settings._fields}
    by_sketch = chosen.pop("sketch_guidance")
    return Settings(sketch_guidance=None if by_sketch == 1 else by_sketch, **chosen)


Draw = Callable[[Params, Params, Batch, PRNGKeyArray, Settings], Drawn]


def make_draw(model1: Model, process1: Process, model2: Model, process2: Process) -> Draw:
    """The two-stage sampler: one compiled function of (params of 1, of 2, batch, key, settings).

    Stage 2 begins from Stage 1's latents, noised to `settings.strength`. Changing scales, strength
    or key does not compile again.
    """

    @jax.jit
    def draw(
        params1: Params, params2: Params, batch: Batch, key: PRNGKeyArray, settings: Settings
    ) -> Drawn:
        key1, key2 = jax.random.split(key)
        coarse, _ = generate(model1, process1, params1, batch, key1, settings)
        latents, trace = generate(model2, process2, params2, batch, key2, settings, coarse)
        pictures = to_pixels(model1, params1, coarse), to_pixels(model2, params2, latents)
        return Drawn(*pictures, trace)

    return draw


DrawOne = Callable[
    [Params, Batch, PRNGKeyArray, Settings], tuple[UInt8[Array, "b s s 3"], RagafTrace | None]
]


def make_draw_one(model: Model, process: Process) -> DrawOne:
    """The sampler of one stage from pure noise: (params, batch, key, settings) to pixels and trace.

    The trace is there in Stage 2 only, and is as `generate` tells.
    """

    @jax.jit
    def draw(
        params: Params, batch: Batch, key: PRNGKeyArray, settings: Settings
    ) -> tuple[Array, RagafTrace | None]:
        latents, trace = generate(model, process, params, batch, key, settings)
        return to_pixels(model, params, latents), trace

    return draw
