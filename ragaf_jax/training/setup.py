"""What a run is made of, from its configuration: objective, first parameters, first state."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax.traverse_util import flatten_dict

from ragaf_jax.diffusion.prediction import check_prediction
from ragaf_jax.diffusion.schedule import Schedule, make_schedule
from ragaf_jax.errors import UserError
from ragaf_jax.nets.model import Model, Params
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training.checkpoint import load_params
from ragaf_jax.training.objective import Objective
from ragaf_jax.training.optim import Optimizer
from ragaf_jax.training.partition import partition
from ragaf_jax.training.recorded import check_same_config
from ragaf_jax.training.state import TrainState

# What a checkpoint says of its run: "config", "tokenizer", "version".
Meta = Mapping[str, Any]


def schedule_of(config: ml_collections.ConfigDict) -> Schedule:
    """The noise schedule of `config.diffusion`, checked against what is predicted."""
    fields = config.diffusion
    schedule = make_schedule(
        fields.schedule,
        fields.steps,
        fields.beta_start,
        fields.beta_end,
        fields.zero_terminal_snr,
    )
    check_prediction(fields.prediction, schedule)
    return schedule


def objective_of(config: ml_collections.ConfigDict, tokenizer: Tokenizer) -> Objective:
    """What `config` asks to be minimised."""
    if tokenizer.vocab_size > config.model.text_encoder.vocab_size:
        raise UserError(
            f"The data's tokenizer has {tokenizer.vocab_size} words and "
            f"config.model.text_encoder.vocab_size is {config.model.text_encoder.vocab_size}; "
            "raise the latter."
        )
    tokens, mask = tokenizer.encode([""], config.data.text_length)
    return Objective(
        schedule=schedule_of(config),
        prediction=config.diffusion.prediction,
        min_snr_gamma=config.diffusion.min_snr_gamma,
        max_snr=config.diffusion.max_snr,
        text_dropout=config.train.text_dropout,
        sketch_dropout=config.train.sketch_dropout,
        appearance_weight=config.train.appearance_weight,
        denoised=config.train.batch_size,
        accumulation=config.train.accumulation,
        empty_tokens=tokens[0],
        empty_mask=mask[0],
    )


def load_stage1(config: ml_collections.ConfigDict, tokenizer: Tokenizer) -> Params:
    """The averaged parameters of the workdir `config.stage1`, checked to fit `config` and the data.

    Raises:
      UserError: no workdir named, no checkpoint in it, or one that does not fit.
    """
    if not config.stage1:
        raise UserError(
            "Stage 2 starts from a trained Stage 1 and config.stage1 is empty; "
            "give --config.stage1=<workdir of Stage 1>."
        )
    params, meta = load_params(Path(config.stage1))
    if meta["config"]["stage"] != 1:
        raise UserError(
            f"config.stage1={config.stage1} holds Stage {meta['config']['stage']}; "
            "give the workdir of Stage 1."
        )
    here = {"config": config.to_dict(), "tokenizer": tokenizer.to_json()}
    check_stages_match(meta, here, config.stage1)
    return params


def check_stages_match(stage1: Meta, stage2: Meta, workdir: str) -> None:
    """Refuses two stages whose pictures, text, latents or vocabularies differ.

    Args:
      stage1, stage2: "config" and "tokenizer", as checkpoints hold them.
      workdir: of Stage 1.

    Raises:
      UserError: names the first field that differs.
    """
    shared = ("data.image_size", "data.text_length", "model.autoencoder", "model.haar_levels")
    flat1, flat2 = (flatten_dict(stage["config"], sep=".") for stage in (stage1, stage2))
    for name in shared:
        one, two = flat1[name], flat2[name]
        if one != two:
            raise UserError(
                f"config.{name} is {one} in Stage 1 ({workdir}) and {two} in Stage 2; both stages "
                "must agree: train one of them again or choose another workdir."
            )
    if stage1["tokenizer"] != stage2["tokenizer"]:
        raise UserError(
            f"Stage 1 ({workdir}) and Stage 2 have different vocabularies; use two stages that "
            "were trained on the same data."
        )


def check_same_run(before: Meta, now: Meta, workdir: Path) -> None:
    """Refuses to resume a run with another model, noise schedule, data or vocabulary.

    Raises:
      UserError: names the fields that differ; see `check_same_config`.
    """
    check_same_config(before["config"], now["config"], workdir)
    if before["tokenizer"] != now["tokenizer"]:
        raise UserError(
            f"The vocabulary of the data is not the one that {workdir} was begun with; go on with "
            "the old data or begin another workdir."
        )


def initial_state(
    config: ml_collections.ConfigDict,
    model: Model,
    tx: Optimizer,
    params: Params,
) -> TrainState:
    """The state before the first step; the frozen part in the compute dtype.

    Raises:
      UserError: the autoencoder is to be trained.
    """
    trainable, frozen = partition(params, config.train.trainable, config.train.frozen)
    if "autoencoder" in trainable:
        raise UserError(
            f"config.train.trainable {tuple(config.train.trainable)} matches the autoencoder, which"
            " is not trained here; use patterns such as 'control/.*', and '.*' as frozen."
        )
    return TrainState.create(trainable, frozen, tx, jnp.dtype(config.model.dtype))


def abstract_state(config: ml_collections.ConfigDict, model: Model, tx: Optimizer) -> TrainState:
    """The shapes of `initial_state`'s arrays."""
    begin = functools.partial(initial_state, config, model, tx)
    return jax.eval_shape(begin, model.shapes())
