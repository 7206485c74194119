"""The files of checkpoints: their completeness and contents."""

import json
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
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

# A damaged checkpoint raises nearly any exception, even a bare `Exception` from Orbax. These have
# other causes; JAX raises RuntimeError when a device is out of memory.
_NOT_DAMAGE = (UserError, RuntimeError, MemoryError, PermissionError)


def folder_of(workdir: Path) -> Path:
    """A run's folder of checkpoints; absolute, as Orbax requires."""
    return Path(workdir).absolute() / "checkpoints"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, complete or damaged, newest first."""
    # Unfinished and damaged checkpoints have names that are not numbers.
    directories = [path for path in folder.glob("*") if path.name.isdecimal()]
    return sorted(directories, key=lambda path: int(path.name), reverse=True)


def newest_whole(folder: Path, read: Callable[[Path], T]) -> tuple[T | None, list[Path]]:
    """The result of `read` for the newest complete checkpoint, and the newer damaged ones."""
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
            "restore one from a backup, or delete the folder to train from the start"
        )
    return None, []


def only(folder: Path, step: int, read: Callable[[Path], T]) -> T:
    """The result of `read` for the checkpoint of one step.

    Raises:
      UserError: it is missing or damaged.
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
            "restore it from a backup, or choose the newest with --checkpoint=newest"
        ) from problem


def system_error(problem: BaseException) -> str | None:
    """The system's reason for a failed write, such as "No space left on device"; else None."""
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
    """The first line of the original exception, cut to 120 characters."""
    while problem.__cause__:
        problem = problem.__cause__
    return f"{type(problem).__name__}: {problem}".splitlines()[0][:120]


def read_through(directory: Path, prefixes: tuple[str, ...] = ("",)) -> None:
    """Reads the stored arrays with these prefixes one by one, and raises for an unreadable one.

    Orbax reads all arrays at once. When one fails it abandons the others, and their tracebacks
    reach the terminal from other threads: so Orbax gets complete checkpoints only.
    """
    base, (_, names) = _base(directory), _stored_keys(directory)
    for name in names:
        if name.endswith("/.zarray") and name.startswith(prefixes):
            spec = {
                "driver": "zarr",
                "kvstore": {"driver": "ocdbt", "base": base, "path": name.removesuffix(".zarray")},
                "fill_missing_data_reads": False,
            }
            tensorstore.open(spec, open=True).result().read().result()
    for file in (directory / "state" / "array_metadatas").glob("*"):
        json.loads(file.read_text())


def check_written(directory: Path, types: dict[str, str]) -> str | None:
    """The fault of a checkpoint that was just saved, or None.

    Reads names, shapes, types and present chunks of all arrays, and the other items, but no array:
    `read_through` does. `types` are those of the saved state, from `types_of`.
    """
    try:
        store, names = _stored_keys(directory)
        keys = Counter(name.rpartition("/")[0] for name in names)
        saved = {name.replace("/", "."): kind for name, kind in types.items()}
        for path in sorted(keys | saved):
            if path not in keys or path not in saved:
                return f"{path} is {'unexpected' if path in keys else 'missing'}"
            array = json.loads(store.read(f"{path}/.zarray").result().value)
            kind = _type_name(np.dtype(array["dtype"]), array["shape"])
            if kind != saved[path]:
                return f"{path} is {kind} instead of {saved[path]}"
            sides = zip(array["shape"], array["chunks"], strict=True)
            expected = math.prod(-(-side // chunk) for side, chunk in sides)
            if keys[path] - 1 != expected:
                return f"{path} has {keys[path] - 1} of {expected} chunks"
        for item in ("data", "meta", "scores"):
            ocp.JsonCheckpointHandler().restore(directory / item)
    except _NOT_DAMAGE:
        raise
    except Exception as problem:
        return _reason(problem)
    return None


def _base(directory: Path) -> dict[str, str]:
    return {"driver": "file", "path": f"{directory}/state/"}


def _stored_keys(directory: Path) -> tuple[tensorstore.KvStore, list[str]]:
    """The store of a checkpoint's arrays and the names in it.

    Raises:
      FileNotFoundError: it is empty.
    """
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": _base(directory)}).result()
    names = [key.decode() for key in store.list().result()]
    if not names:
        raise FileNotFoundError(f"{directory}/state lists no arrays")
    return store, names


def stored_structure(directory: Path) -> Tree:
    """The saved state as nested dicts and lists, with the arrays' metadata as leaves."""
    return ocp.PyTreeCheckpointHandler().metadata(directory / "state").tree


def restore_numpy(directory: Path, structure: Tree) -> Tree:
    """Restores a subtree of the saved state to the host, independent of the saving devices."""
    restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), structure)
    return ocp.PyTreeCheckpointHandler().restore(
        directory / "state",
        args=ocp.args.PyTreeRestore(
            item=structure, restore_args=restore_args, partial_restore=True
        ),
    )


def check_structure(directory: Path, stored: Tree, target: Any) -> None:
    """Refuses the state of another model; Orbax itself casts another dtype silently."""
    there, here = types_of(stored), types_of(target)
    differing = sorted(name for name in there | here if there.get(name) != here.get(name))
    if not differing:
        return
    if "opt_state" not in stored:
        raise UserError(
            f"{directory} holds parameters without an optimiser state, so training cannot resume; "
            "give another workdir, for Stage 2 with --config.stage1=<this one, if it is Stage 1>"
        )
    name = differing[0]
    raise UserError(
        f"{directory} was saved by another model or optimiser: {name} is "
        f"{there.get(name, 'missing')} there and {here.get(name, 'missing')} in this run "
        f"({len(differing)} of {len(there | here)} arrays differ); "
        "use the config that the workdir was trained with (its config.json) or another workdir"
    )


def types_of(tree: Any) -> dict[str, str]:
    """`{"trainable/unet/conv_in/kernel": "float32[3,3,4,320]", …}`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): _type_name(leaf.dtype, leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _type_name(dtype: Any, shape: Sequence[int]) -> str:
    return f"{np.dtype(dtype).name}[{','.join(map(str, shape))}]"
