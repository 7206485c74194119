"""Reads parameters and metadata for sampling, evaluation, export and Stage 2."""

from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ragaf_jax.checkpoints.choice import BEST, NEWEST
from ragaf_jax.checkpoints.files import (
    checkpoints,
    folder_of,
    newest_whole,
    only,
    read_through,
    restore_numpy,
    stored_structure,
)
from ragaf_jax.checkpoints.keeping import best_of, stored_scores
from ragaf_jax.checkpoints.meta import with_later_fields
from ragaf_jax.errors import UserError
from ragaf_jax.partition import merge

Tree = dict[str, Any]


def saved_steps(workdir: Path) -> list[int]:
    """The steps of a run's checkpoints, complete or damaged, newest first."""
    return [int(directory.name) for directory in checkpoints(folder_of(workdir))]


def load_meta(workdir: Path) -> Tree | None:
    """`meta` of a run's newest checkpoint; None if it has none."""
    return newest_whole(folder_of(workdir), _read_meta)[0]


def _read_meta(directory: Path) -> Tree:
    return with_later_fields(ocp.JsonCheckpointHandler().restore(directory / "meta"))


def best_step(workdir: Path, metric: str) -> int | None:
    """The step of the checkpoint with the greatest `metric`; None if no checkpoint has it."""
    return next(iter(best_of(stored_scores(folder_of(workdir), metric), 1)), None)


def chosen_step(workdir: Path, checkpoint: str) -> int | None:
    """The step of the chosen checkpoint; None for the newest complete one.

    `checkpoint` is "newest"; "best", with the greatest `config.best_metric` of the run; or a step.

    Raises:
      UserError: the choice is "best", and no checkpoint has that metric.
    """
    if checkpoint == NEWEST:
        return None
    if checkpoint != BEST:
        return int(checkpoint)
    meta = load_meta(workdir)
    if meta is None:
        return None
    metric = meta["config"].get("best_metric", "")
    step = best_step(workdir, metric)
    if step is None:
        steps = ", ".join(map(str, saved_steps(workdir)))
        raise UserError(
            f"{folder_of(workdir)} has no best checkpoint, because {metric!r} (config.best_metric) "
            f"was measured at none of its steps; choose {NEWEST} or one of the steps {steps}."
        )
    return step


def load_params(
    workdir: Path, which: Literal["ema", "trainable"] = "ema", checkpoint: str = NEWEST
) -> tuple[Tree, Tree]:
    """All parameters of one of a run's checkpoints, on the host.

    It reads no optimiser state and writes nothing, so it works on a run that is still training, and
    on other devices than the run's.

    Args:
      workdir: a run's folder.
      which: the averaged parameters, or those of the optimiser.
      checkpoint: as in `chosen_step`; "newest" is the newest complete one.

    Returns:
      The union of the run's frozen and `which` trees, a nested dict of NumPy arrays; and `meta`.

    Raises:
      UserError: there is no checkpoint, or the chosen one or all of them are damaged.
    """

    def read(directory: Path) -> tuple[Tree, Tree]:
        read_through(directory, ("frozen.", f"{which}."))
        stored = stored_structure(directory)
        # `save_parameters` stores all of them in "ema", perhaps in 16 bits.
        trees = restore_numpy(directory, {k: stored[k] for k in ("frozen", which) if k in stored})
        trained = jax.tree.map(
            lambda x: np.asarray(x, jnp.promote_types(x.dtype, jnp.float32)), trees[which]
        )
        return merge(trained, trees.get("frozen", {})), _read_meta(directory)

    step = chosen_step(workdir, checkpoint)
    if step is not None:
        return only(folder_of(workdir), step, read)
    loaded, _ = newest_whole(folder_of(workdir), read)
    if loaded is None:
        raise UserError(
            f"{workdir} holds no checkpoint (none in {folder_of(workdir)}): "
            "train it with main.py or give another workdir"
        )
    return loaded
