"""Configuration files by their --config value, and the default workdirs of their runs."""

import inspect
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from ragaf_jax.errors import UserError

_STAGE1, _STAGE2 = "stage1", "stage2"


def load_config(file: str, fields: Mapping[str, Any]) -> ConfigDict:
    """The configuration of "configs/stage1.py" or "configs/stage1.py:<dataset>".

    `fields` has values by their paths, which replace those of the file.

    Raises:
      UserError: there is no such file, or it has no such field.
    """
    path, colon, dataset = file.partition(":")
    try:
        get_config = runpy.run_path(path)["get_config"]
    except FileNotFoundError:
        raise UserError(f"There is no configuration file {path}.") from None
    config = get_config(dataset) if colon else get_config()
    known = flatten_dict(config.to_dict(), sep=".")
    if unknown := ", ".join(f"config.{name}" for name in fields if name not in known):
        raise UserError(f"{path} has no {unknown}; leave it out, or train each stage by itself.")
    config.update_from_flattened_dict(fields)
    return config


def stage1_file(file: str) -> str | None:
    """Stage 1's configs/stage1.py:<dataset> for configs/stage2.py:<dataset>; None for others."""
    path, colon, dataset = file.partition(":")
    name = _with_stage1(Path(path).name)
    return None if name is None else f"{Path(path).with_name(name)}{colon}{dataset}"


def default_workdir(file: str) -> Path:
    """The default workdir of a run: runs/<dataset>/<name of the file>.

    The dataset defaults to that of the file's `get_config`; without one it is omitted. So
    configs/stage1.py and configs/stage1.py:openmoji have runs/openmoji/stage1.
    """
    path, _, dataset = file.partition(":")
    dataset = dataset or _default_dataset(path)
    return Path("runs", dataset.replace("/", "_"), Path(path).stem)


def stage1_beside(workdir: Path) -> str:
    """Stage 1's workdir beside Stage 2's: runs/openmoji/stage1 for runs/openmoji/stage2.

    Empty if the folder's name has no "stage2".
    """
    name = _with_stage1(workdir.name)
    return "" if name is None else str(workdir.with_name(name))


def _with_stage1(name: str) -> str | None:
    return name.replace(_STAGE2, _STAGE1) if _STAGE2 in name else None


def _default_dataset(path: str) -> str:
    parameters = inspect.signature(runpy.run_path(path)["get_config"]).parameters.values()
    default = next((parameter.default for parameter in parameters), "")
    return default if isinstance(default, str) else ""
