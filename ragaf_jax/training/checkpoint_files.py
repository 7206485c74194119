"""What lies in a folder of checkpoints: which of them are whole, and what they hold."""

import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from ragaf_jax.errors import UserError

logger = logging.getLogger(__name__)

Tree = dict[str, Any]
T = TypeVar("T")

# A damaged checkpoint shows as nearly any exception, a bare `Exception` from Orbax included. These
# are no fault of the checkpoint; RuntimeError is what JAX raises when a device is out of memory.
_NOT_DAMAGE = (UserError, RuntimeError, MemoryError, PermissionError)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, whole or damaged, newest first."""
    # Unfinished and set-aside ones have names that are no number.
    directories = [path for path in folder.glob("*") if path.name.isdecimal()]
    return sorted(directories, key=lambda path: int(path.name), reverse=True)


def newest_whole(folder: Path, read: Callable[[Path], T]) -> tuple[T | None, list[Path]]:
    """What `read` makes of the newest checkpoint that it can read, and the damaged ones before."""
    damaged: dict[Path, str] = {}
    for directory in checkpoints(folder):
        try:
            result = read(directory)
        except _NOT_DAMAGE:
            raise
        except Exception as problem:
            damaged[directory] = _reason(problem)
        else:
            for path, reason in damaged.items():
                logger.warning(
                    "checkpoint %s is damaged (%s): using %s instead", path, reason, directory
                )
            return result, list(damaged)
    if damaged:
        newest, reason = next(iter(damaged.items()))
        raise UserError(
            f"every checkpoint in {folder} is damaged (step {newest.name}: {reason}): "
            "bring one back from a copy, or delete the folder to train from the beginning"
        )
    return None, []


def only(folder: Path, step: int, read: Callable[[Path], T]) -> T:
    """What `read` makes of the checkpoint of one step.

    Raises:
      UserError: it is not there or it is damaged.
    """
    there = checkpoints(folder)
    directory = next((path for path in there if int(path.name) == step), None)
    if directory is None:
        steps = ", ".join(path.name for path in there) or "none"
        raise UserError(f"{folder} holds no checkpoint of step {step}: its steps are {steps}")
    try:
        return read(directory)
    except _NOT_DAMAGE:
        raise
    except Exception as problem:
        raise UserError(
            f"checkpoint {directory} is damaged ({_reason(problem)}): "
            "bring it back from a copy or use the newest"
        ) from problem


def place_at_fault(problem: BaseException) -> str | None:
    """What the system said when it refused to write, as "No space left on device"; else None."""
    link: BaseException | None = problem
    while link is not None:
        if isinstance(link, OSError):
            return link.strerror or str(link)
        # TensorStore raises ValueError for anything, with errno in its text.
        if code := re.search(r"os_error_code='(\d+)'", str(link)):
            return os.strerror(int(code[1]))
        link = link.__cause__
    return None


def _reason(problem: BaseException) -> str:
    """The first line of the exception that began it, short enough for a sentence."""
    while problem.__cause__:
        problem = problem.__cause__
    return f"{type(problem).__name__}: {problem}".splitlines()[0][:120]


def read_through(directory: Path, parts: tuple[str, ...] = ("",)) -> None:
    """Reads the stored arrays of some parts of the state once, and raises where it cannot.

    Orbax reads all arrays at once. When one fails it abandons the others, whose tracebacks then
    reach the terminal from other threads: so it is given whole checkpoints only.
    """
    base = {"driver": "file", "path": f"{directory}/state/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    names = [key.decode() for key in store.list().result()]
    if not names:
        raise FileNotFoundError(f"{directory}/state lists no arrays")
    for name in names:
        if name.endswith("/.zarray") and name.startswith(parts):
            spec = {
                "driver": "zarr",
                "kvstore": {"driver": "ocdbt", "base": base, "path": name.removesuffix(".zarray")},
                "fill_missing_data_reads": False,
            }
            tensorstore.open(spec, open=True).result().read().result()
    for file in (directory / "state" / "array_metadatas").glob("*"):
        json.loads(file.read_text())


def stored_structure(directory: Path) -> Tree:
    """The saved state as nested dicts and lists, with the arrays' metadata as leaves."""
    return ocp.PyTreeCheckpointHandler().metadata(directory / "state").tree


def restore_numpy(directory: Path, structure: Tree) -> Tree:
    """Restores a part of the saved state to the host, whatever devices it was saved from."""
    restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), structure)
    return ocp.PyTreeCheckpointHandler().restore(
        directory / "state",
        args=ocp.args.PyTreeRestore(
            item=structure, restore_args=restore_args, partial_restore=True
        ),
    )


def check_structure(directory: Path, stored: Tree, target: Any) -> None:
    """Refuses another model's state; Orbax itself would cast another dtype without a word."""
    there, here = _leaf_types(stored), _leaf_types(target)
    differing = sorted(name for name in there | here if there.get(name) != here.get(name))
    if not differing:
        return
    if "opt_state" not in stored:
        raise UserError(
            f"{directory} holds parameters alone, which can be sampled from but not trained on; "
            "begin another workdir: of Stage 2, with --config.stage1=<this one, if it is Stage 1>"
        )
    name = differing[0]
    raise UserError(
        f"{directory} was saved by another model or optimiser: {name} is "
        f"{there.get(name, 'missing')} there and {here.get(name, 'missing')} in this run "
        f"({len(differing)} of {len(there | here)} arrays differ); "
        "use the config that the workdir was trained with (its config.json) or another workdir"
    )


def _leaf_types(tree: Any) -> dict[str, str]:
    """`{"trainable/unet/conv_in/kernel": "float32[3,3,4,320]", …}`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
