"""Restores trained stages from their workdirs."""

from dataclasses import dataclass
from pathlib import Path

import ml_collections

from ragaf_jax.checkpoints.choice import NEWEST
from ragaf_jax.checkpoints.meta import Meta, check_stages_match
from ragaf_jax.checkpoints.reading import load_params
from ragaf_jax.errors import UserError
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.model import Model, Params
from ragaf_jax.sampling.sampling_config import SamplingConfig, sampling_config_of
from ragaf_jax.tokenizer import Tokenizer


@dataclass(frozen=True)
class Stage:
    """One trained stage.

    Attributes:
      config: of its training run.
      tokenizer: of its training data.
      model: its networks.
      params: their averaged parameters.
      step: number of updates of the parameters.
    """

    config: ml_collections.ConfigDict
    tokenizer: Tokenizer
    model: Model
    params: Params
    step: int

    @classmethod
    def restore(
        cls, workdir: Path, number: int, dtype: str | None = None, checkpoint: str = NEWEST
    ) -> "Stage":
        """Restores Stage `number` from its workdir.

        Args:
          workdir: of its training run.
          number: 1 or 2.
          dtype: of computation and parameters, "float32" or "bfloat16"; default: computation as
            trained, parameters in float32.
          checkpoint: "newest", "best" or a step; see `reading.chosen_step`.

        Raises:
          UserError: no such checkpoint, or the workdir belongs to the other stage.
        """
        params, meta = load_params(workdir, checkpoint=checkpoint)
        config = ml_collections.ConfigDict(meta["config"])
        if config.stage != number:
            raise UserError(
                f"{workdir} holds Stage {config.stage}, expected Stage {number}; "
                "give the two workdirs in the right order."
            )
        if dtype is not None:
            config.model.dtype = dtype
        model = build_model(config)
        if dtype is not None:
            params = model.in_own_dtypes(params)
        tokenizer = Tokenizer.from_json(meta["tokenizer"])
        return cls(config, tokenizer, model, params, int(meta["step"]))

    @property
    def meta(self) -> Meta:
        """The metadata of a checkpoint."""
        return {"config": self.config.to_dict(), "tokenizer": self.tokenizer.to_json()}

    def sampling_config(self, sampler: str | None = None) -> SamplingConfig:
        """How to sample this stage; `sampler` overrides the config."""
        return sampling_config_of(self.config, self.tokenizer, sampler)


def restore_both(
    stage1: Path, stage2: Path, checkpoint1: str = NEWEST, checkpoint2: str = NEWEST
) -> tuple[Stage, Stage]:
    """Restores both stages, each from its workdir and checkpoint.

    Raises:
      UserError: as `Stage.restore`, or the stages do not fit each other.
    """
    one = Stage.restore(stage1, 1, checkpoint=checkpoint1)
    two = Stage.restore(stage2, 2, checkpoint=checkpoint2)
    check_stages_match(one.meta, two.meta, str(stage1))
    return one, two
