"""Stage 1's parameters and the initial state of a configuration."""

import functools
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ragaf_jax.checkpoints.checkpointer import OtherLayout
from ragaf_jax.checkpoints.meta import Meta, check_stages_match, meta_of
from ragaf_jax.checkpoints.reading import chosen_step, load_params, saved_steps
from ragaf_jax.errors import UserError
from ragaf_jax.nets.model import Model, Params
from ragaf_jax.partition import partition
from ragaf_jax.runtime.sharding import with_shardings
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training.bundles import bundled, unbundled
from ragaf_jax.training.optim import Optimizer
from ragaf_jax.training.recorded import check_same_config
from ragaf_jax.training.state import TrainState


def check_start(config: ConfigDict, workdir: Path) -> None:
    """Refuses a Stage 2 without a start, before its data are read.

    Raises:
      UserError: neither `workdir` nor `config.stage1` holds a checkpoint.
    """
    if config.stage == 1 or saved_steps(workdir):
        return
    _check_named(config)
    workdir1 = Path(config.stage1)
    steps = saved_steps(workdir1)
    if not steps:
        raise UserError(
            f"Stage 2 starts from a trained Stage 1 and {config.stage1} holds no checkpoint; train "
            "Stage 1 first, both stages with --mode=both, or give another --config.stage1."
        )
    step = chosen_step(workdir1, config.stage1_checkpoint)
    if step is not None and step not in steps:
        raise UserError(
            f"config.stage1_checkpoint is {step}, and {workdir1} holds checkpoints of the steps "
            f"{', '.join(map(str, steps))}; choose one of them, newest or best."
        )


def _check_named(config: ConfigDict) -> None:
    if not config.stage1:
        raise UserError(
            "Stage 2 starts from a trained Stage 1 and config.stage1 is empty; "
            "give --config.stage1=<workdir of Stage 1>."
        )


def load_stage1(config: ConfigDict, tokenizer: Tokenizer) -> Params:
    """The averaged parameters of the workdir `config.stage1`, checked to fit `config` and the data.

    `config.stage1_checkpoint` selects the checkpoint.

    Raises:
      UserError: no workdir is given, it lacks the checkpoint, or that does not fit.
    """
    _check_named(config)
    params, meta = load_params(Path(config.stage1), checkpoint=config.stage1_checkpoint)
    if meta["config"]["stage"] != 1:
        raise UserError(
            f"config.stage1={config.stage1} holds Stage {meta['config']['stage']}; "
            "give the workdir of Stage 1."
        )
    check_stages_match(meta, meta_of(config, tokenizer), config.stage1)
    return params


def check_same_run(before: Meta, now: Meta, workdir: Path) -> None:
    """Refuses to resume a run with another model, noise schedule, data or vocabulary.

    Raises:
      UserError: names the fields that differ; see `check_same_config`.
    """
    check_same_config(before["config"], now["config"], workdir)
    if before["tokenizer"] != now["tokenizer"]:
        raise UserError(
            f"The vocabulary of the data differs from the one that {workdir} was started with; use "
            "the old data or another workdir."
        )


def initial_state(config: ConfigDict, model: Model, tx: Optimizer, params: Params) -> TrainState:
    """The state before the first step; the frozen part in the compute dtype.

    Raises:
      UserError: `train.trainable` matches the autoencoder.
    """
    trainable, frozen = partition(params, config.train.trainable, config.train.frozen)
    if "autoencoder" in trainable:
        raise UserError(
            f"config.train.trainable {tuple(config.train.trainable)} matches the autoencoder, which"
            " is always frozen; use patterns such as 'control/.*', and '.*' as config.train.frozen."
        )
    return TrainState.create(trainable, model.in_own_dtypes(frozen), tx)


def abstract_state(config: ConfigDict, model: Model, tx: Optimizer) -> TrainState:
    """The shapes of `initial_state`'s arrays."""
    create = functools.partial(initial_state, config, model, tx)
    return jax.eval_shape(create, model.shapes())


def other_layout(state: TrainState, tx: Optimizer) -> OtherLayout:
    """The layout of the optimiser's moments that this run does not use, and the conversion from it.

    Where each device has whole parameters, the moments are bundles (`bundles.bundled`). Where the
    mesh shards parameters along "fsdp", moments are trees like the parameters and sharded alike:
    bundling sharded arrays would move all of them between devices in each step. A checkpoint has
    the layout of the mesh that saved it. Older versions saved bundles from every mesh.

    Args:
      state: the run's shapes, with their shardings on one mesh.
      tx: the run's optimiser.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state.opt_state)

    def separate(opt_state: Any) -> Any:
        return unbundled(opt_state, state.trainable)

    there, back = (separate, bundled) if tx.bundles else (bundled, separate)

    def convert(stored: TrainState) -> TrainState:
        opt_state = jax.jit(back, out_shardings=shardings)(stored.opt_state)
        return stored.replace(opt_state=opt_state)

    shapes = with_shardings(state.step.sharding.mesh, jax.eval_shape(there, state.opt_state))
    return OtherLayout(state.replace(opt_state=shapes), convert)
