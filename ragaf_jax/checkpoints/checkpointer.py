"""Saves and restores the checkpoints of a training run.

A checkpoint `workdir/checkpoints/<step>/` has four items: `state` (the `TrainState` arrays), `data`
(the state of the batch iterator), `meta` (config, tokenizer …, which rebuild the model without its
config file) and `scores` (measurements of its step). Orbax writes it in the background into a
temporary folder and renames it when it is complete. Older checkpoints are deleted only after it was
read back, so an interrupted or failed save leaves them unchanged. If a checkpoint is damaged later
(a truncated copy, a lost file), readers use the newest complete one and log a warning.
"""

import contextlib
import functools
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding

from ragaf_jax.checkpoints.files import (
    check_structure,
    check_written,
    checkpoints,
    folder_of,
    newest_whole,
    read_through,
    stored_structure,
    system_error,
    types_of,
)
from ragaf_jax.checkpoints.keeping import outdated, stored_scores
from ragaf_jax.checkpoints.meta import with_later_fields
from ragaf_jax.errors import UserError
from ragaf_jax.paths import check_no_pattern
from ragaf_jax.runtime.processes import agreed

logger = logging.getLogger(__name__)

Tree = dict[str, Any]

_LONG_WAIT = 1.0  # seconds
_DELETIONS, _PAUSE = 100, 0.1  # attempts to delete an unfinished checkpoint, seconds in between


class Restored(NamedTuple):
    """One complete checkpoint.

    Attributes:
      step: number of updates before `state`.
      state: the requested pytree, placed by its shardings.
      data_state: argument of the batch iterator's `set_state`.
      meta: as saved, with later fields.
    """

    step: int
    state: Any
    data_state: Tree
    meta: Tree


class OtherLayout(NamedTuple):
    """An alternative layout of the state in a checkpoint.

    Attributes:
      target: its shapes and shardings.
      convert: (state in this layout) → requested state.
    """

    target: Any
    convert: Callable[[Any], Any]


class Checkpointer:
    """Saves and restores the checkpoints of one workdir.

    Args:
      workdir: the run's folder; `workdir/checkpoints` is created if missing.
      keep_last: number of newest checkpoints to keep.
      keep_best: number of checkpoints with the greatest `best_metric` to keep.
      best_metric: a name among the saved `metrics`.
      keep_every: checkpoints at multiples of it are kept too; 0 for none.

    Raises:
      UserError: the folder cannot be created or written, here or in any later method.
    """

    def __init__(
        self,
        workdir: Path,
        keep_last: int = 3,
        keep_best: int = 0,
        best_metric: str = "",
        keep_every: int = 0,
    ):
        self._folder = folder_of(workdir)
        check_no_pattern(self._folder.parent, "the workdir")
        self._metric = best_metric
        self._scores = stored_scores(self._folder, best_metric)
        self._outdated = functools.partial(
            outdated, keep_last=keep_last, keep_best=keep_best, keep_every=keep_every
        )
        self._step = 0  # of the last save
        self._types: dict[str, str] | None = None  # of its arrays, until it was read back
        logging.getLogger("absl").addFilter(_keep_record)
        try:
            self._remove_unfinished()
            self._manager = ocp.CheckpointManager(self._folder)  # `wait` deletes older checkpoints
        except OSError as problem:
            raise UserError(
                f"{self._folder} cannot hold checkpoints ({problem.strerror}): "
                "make it a writable folder or give another workdir"
            ) from problem

    def save(
        self,
        step: int,
        state: Any,
        data_state: Tree,
        meta: Tree,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Copies `state` to the host and writes it in the background.

        Once this returns, the caller may donate the arrays of `state`. It first waits for the
        previous save, with a warning if that takes long. Saving the newest step again does nothing.

        Args:
          step: number of updates before `state`.
          state: a pytree of arrays.
          data_state, meta: JSON-able; only the first process's are written.
          metrics: measurements of this step, equal in all processes. Without a finite
            `best_metric` the checkpoint is never among the best.

        Raises:
          UserError: this save could not start, or the previous one failed.
        """
        start_time = time.monotonic()
        self.wait()
        if step == self._manager.latest_step():
            return
        if (waited := time.monotonic() - start_time) > _LONG_WAIT:
            logger.warning(
                "training waited %.0f s at step %d for the checkpoint of step %d to be written: "
                "raise config.checkpoint_every",
                *(waited, step, self._step),
            )
        measured = {name: float(v) for name, v in (metrics or {}).items() if math.isfinite(v)}
        self._step, self._types = step, types_of(state)
        if self._metric in measured:
            self._scores[step] = measured[self._metric]
        with self._explained():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=ocp.args.JsonSave(data_state),
                    meta=ocp.args.JsonSave(meta),
                    scores=ocp.args.JsonSave(measured),
                ),
            )

    def restore_latest(
        self, abstract_state: Any, other: OtherLayout | None = None
    ) -> Restored | None:
        """The newest complete checkpoint, or None when the workdir has none.

        Newer damaged checkpoints are renamed to `damaged-<step>`, because training will reach their
        steps again.

        Args:
          abstract_state: the requested pytree, with `jax.ShapeDtypeStruct` (or arrays) as leaves;
            leaves without a sharding are placed on the first device.
          other: another layout that the checkpoint may have; its state is converted.

        Raises:
          UserError: every checkpoint is damaged, or the newest complete one was saved by a run of
            another model or optimiser.
        """
        target = jax.tree.map(_with_sharding, abstract_state)
        if jax.process_count() > 1:
            self._set_aside(self._damaged(target, other))

        def read(directory: Path) -> Restored:
            layout = _checked_layout(directory, target, other)
            items = self._manager.restore(
                int(directory.name),
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(layout),
                    data=ocp.args.JsonRestore(),
                    meta=ocp.args.JsonRestore(),
                ),
            )
            state = items.state
            if other is not None and layout is other.target:
                state = other.convert(state)
            meta = with_later_fields(items.meta)
            return Restored(int(directory.name), state, items.data, meta)

        restored, damaged = newest_whole(self._folder, read)
        if damaged:
            self._set_aside(damaged)
        return restored

    def wait(self) -> None:
        """Waits until the last save is on disk, reads it back and deletes outdated checkpoints.

        Raises:
          UserError: it could not be written, or its files hold something else.
        """
        types, self._types = self._types, None
        with self._explained():
            self._manager.wait_until_finished()
        if types is None:
            return
        problem = None
        if jax.process_index() == 0:
            problem = check_written(self._folder / str(self._step), types)
        if (problem := agreed(problem)) is not None:
            raise UserError(
                f"the checkpoint of step {self._step} in {self._folder} cannot be read back "
                f"({problem}), so no older one was deleted: use another disk or workdir"
            )
        for step in self._outdated(self._manager.all_steps(), self._scores):
            self._manager.delete(step)

    def close(self) -> None:
        """Waits, as `wait` does, and frees the background threads."""
        try:
            self.wait()
        finally:
            with self._explained():
                self._manager.close()
            self._remove_unfinished()  # the threads of a failed save have ended

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns a write error of the system into a `UserError` and deletes the unfinished save."""
        try:
            yield
        except Exception as problem:
            reason = system_error(problem)
            if reason is None:
                raise
            with contextlib.suppress(Exception):  # other threads of the save may still run
                self._manager.wait_until_finished()
            self._remove_unfinished()
            left = checkpoints(self._folder)
            raise UserError(
                f"the checkpoint of step {self._step} could not be written to {self._folder} "
                f"({reason}): free space or make the folder writable, then start again; training "
                + (
                    f"resumes from the checkpoint of step {left[0].name}, which is complete"
                    if left
                    else "starts anew, because there is no checkpoint yet"
                )
            ) from problem

    def _remove_unfinished(self) -> None:
        """Deletes the files of an interrupted save; Orbax does it in a thread that may end later.

        Threads of a failed save may still write into the folder, so deletion is repeated.
        """
        if jax.process_index() == 0:
            for unfinished in self._folder.glob("*.orbax-checkpoint-tmp*"):
                for _ in range(_DELETIONS):
                    shutil.rmtree(unfinished, ignore_errors=True)
                    if not unfinished.exists():
                        break
                    time.sleep(_PAUSE)

    def _damaged(self, target: Any, other: OtherLayout | None) -> list[Path]:
        """The checkpoints that the first process cannot read; all processes skip the same ones.

        Raises:
          UserError: in all processes, the error of the first one.
        """

        def verify(directory: Path) -> None:
            _checked_layout(directory, target, other)
            for item in ("data", "meta"):
                ocp.JsonCheckpointHandler().restore(directory / item)

        found: Tree = {}
        if jax.process_index() == 0:
            try:
                _, damaged = newest_whole(self._folder, verify)
                found = {"damaged": [directory.name for directory in damaged]}
            except UserError as problem:
                found = {"refused": str(problem)}
        found = agreed(found)
        if "refused" in found:
            raise UserError(found["refused"])
        return [self._folder / name for name in found["damaged"]]

    def _set_aside(self, damaged: list[Path]) -> None:
        if jax.process_index() == 0:
            for directory in damaged:
                aside = directory.with_name(f"damaged-{directory.name}")
                shutil.rmtree(aside, ignore_errors=True)  # the same step, damaged earlier
                directory.rename(aside)
        for directory in damaged:
            self._scores.pop(int(directory.name), None)
        multihost_utils.sync_global_devices("damaged checkpoints set aside")
        self._manager.reload()


def _checked_layout(directory: Path, target: Any, other: OtherLayout | None) -> Any:
    """The layout of a complete checkpoint; all its arrays are read.

    Raises:
      UserError: it is neither of the two.
    """
    read_through(directory)
    stored = stored_structure(directory)
    if other is not None and types_of(stored) == types_of(other.target):
        return other.target
    check_structure(directory, stored, target)
    return target


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _keep_record(record: logging.LogRecord) -> bool:
    """False for Orbax's messages about long waits, and about errors that it raises as well."""
    repeated = record.levelno >= logging.ERROR or str(record.msg).startswith("Waiting for previous")
    return not (repeated and "orbax" in record.pathname)
