"""Checkpoints: what a run needs to go on, and what sampling or Stage 2 needs of it.

Every checkpoint `workdir/checkpoints/<step>/` holds three items: `state` (the `TrainState` arrays),
`data` (the state of the batch iterator) and `meta` (config, tokenizer, stage …: what rebuilds the
model without its config file). Orbax writes it in the background into a temporary folder and
renames it when it is whole, so an interrupted save leaves no checkpoint. What remains possible is
damage done later (a truncated copy, a file lost): readers then use the newest checkpoint that is
whole and say so.
"""

import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding

from ragaf_jax.errors import UserError
from ragaf_jax.training.checkpoint_files import (
    check_structure,
    checkpoints,
    newest_whole,
    read_through,
    restore_numpy,
    stored_structure,
)
from ragaf_jax.training.partition import merge

Tree = dict[str, Any]


class Restored(NamedTuple):
    """One whole checkpoint.

    Attributes:
      step: number of updates that made `state`.
      state: the pytree that was asked for, its leaves where their shardings say.
      data_state: what the batch iterator's `set_state` takes.
      meta: as it was saved.
    """

    step: int
    state: Any
    data_state: Tree
    meta: Tree


class Checkpointer:
    """Saves and restores the checkpoints of one workdir, for training.

    Args:
      workdir: the run's folder; `workdir/checkpoints` is made if missing.
      keep: how many of the newest checkpoints stay on disk.
    """

    def __init__(self, workdir: Path, keep: int = 3):
        self._folder = _folder(workdir)
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.LatestN(keep),
                cleanup_tmp_directories=True,
            ),
        )

    def save(self, step: int, state: Any, data_state: Tree, meta: Tree) -> None:
        """Copies `state` off the device and writes it in the background.

        The caller may donate the arrays of `state` once this returns. Saving the newest step again
        does nothing.

        Args:
          step: number of updates that made `state`.
          state: a pytree of arrays.
          data_state: JSON-able; only the first process's is written.
          meta: JSON-able.
        """
        if step == self._manager.latest_step():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave(data_state),
                meta=ocp.args.JsonSave(meta),
            ),
        )

    def restore_latest(self, abstract_state: Any) -> Restored | None:
        """The newest whole checkpoint, or None when the workdir has none.

        Damaged checkpoints newer than the one restored are renamed to `damaged-<step>`, because
        training will reach their steps again.

        Args:
          abstract_state: the wanted pytree, with `jax.ShapeDtypeStruct` (or arrays) as leaves;
            leaves without a sharding are put on the first device.

        Raises:
          UserError: every checkpoint is damaged, or the newest whole one was saved by a run of
            another model or optimiser.
        """
        target = jax.tree.map(_with_sharding, abstract_state)

        def read(directory: Path) -> Restored:
            read_through(directory)
            check_structure(directory, stored_structure(directory), target)
            items = self._manager.restore(
                int(directory.name),
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(target),
                    data=ocp.args.JsonRestore(),
                    meta=ocp.args.JsonRestore(),
                ),
            )
            return Restored(int(directory.name), items.state, items.data, items.meta)

        restored, damaged = newest_whole(self._folder, read)
        if damaged:
            self._set_aside(damaged)
        return restored

    def wait(self) -> None:
        """Returns when every save has reached the disk; raises what went wrong in one."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and frees the background threads."""
        self._manager.close()

    def _set_aside(self, damaged: list[Path]) -> None:
        if jax.process_index() == 0:
            for directory in damaged:
                aside = directory.with_name(f"damaged-{directory.name}")
                shutil.rmtree(aside, ignore_errors=True)  # the same step, damaged once before
                directory.rename(aside)
        multihost_utils.sync_global_devices("damaged checkpoints set aside")
        self._manager.reload()


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run has saved anything, whole or damaged."""
    return bool(checkpoints(_folder(workdir)))


def load_meta(workdir: Path) -> Tree | None:
    """`meta` of a run's newest checkpoint; None where there is none."""

    def read(directory: Path) -> Tree:
        return ocp.JsonCheckpointHandler().restore(directory / "meta")

    return newest_whole(_folder(workdir), read)[0]


def load_params(workdir: Path, which: Literal["ema", "trainable"] = "ema") -> tuple[Tree, Tree]:
    """The full parameters of a run's newest whole checkpoint, on the host.

    Reads only what it returns (no optimiser state) and changes nothing on disk, so it may be used
    on a run that is still training, and on other devices than the run's.

    Args:
      workdir: a run's folder.
      which: the averaged parameters, or the ones that the optimiser last wrote.

    Returns:
      The union of the run's frozen and `which` trees, a nested dict of NumPy arrays; and `meta`.

    Raises:
      UserError: there is no checkpoint, or every one is damaged.
    """

    def read(directory: Path) -> tuple[Tree, Tree]:
        read_through(directory, ("frozen.", f"{which}."))
        stored = stored_structure(directory)
        trees = restore_numpy(directory, {name: stored[name] for name in ("frozen", which)})
        meta = ocp.JsonCheckpointHandler().restore(directory / "meta")
        return merge(trees[which], trees["frozen"]), meta

    loaded, _ = newest_whole(_folder(workdir), read)
    if loaded is None:
        raise UserError(
            f"{workdir} holds no checkpoint (none in {_folder(workdir)}): "
            "train it with main.py or give another workdir"
        )
    return loaded


def _folder(workdir: Path) -> Path:
    return Path(workdir).absolute() / "checkpoints"  # Orbax wants absolute paths


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
