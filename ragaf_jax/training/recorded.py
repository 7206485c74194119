"""Compares a workdir's recorded configuration with that of the command.

`recorded` is the configuration in the checkpoint of `workdir`, as nested dicts; `given` has the
paths of the fields that the command sets.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ragaf_jax.checkpoints.meta import changed_fields
from ragaf_jax.errors import UserError
from ragaf_jax.training.adopt import with_fields
from ragaf_jax.training.announcing import announce
from ragaf_jax.training.config_files import stage1_beside

# Fields that affect no result: the location of the data, their caches, and rematerialisation.
_FREE = ("data.dir", "data.cache", "model.remat")

# Longest list of fields in an error.
_LISTED = 4


def check_same_config(before: Mapping[str, Any], now: Mapping[str, Any], workdir: Path) -> None:
    """Refuses to resume a run with another stage, model, noise schedule or data.

    Other fields, such as the learning rate, may change between starts.

    Raises:
      UserError: names the fields that differ.
    """
    if before["stage"] != now["stage"]:
        raise UserError(
            f"{workdir} holds Stage {before['stage']} and this configuration trains Stage "
            f"{now['stage']}; give Stage {now['stage']} another --workdir."
        )
    differing = [
        (name, json.dumps(old), json.dumps(new))
        for name, (old, new) in changed_fields(before, now).items()
        if name.partition(".")[0] in ("data", "model", "diffusion") and name not in _FREE
    ]
    if not differing:
        return
    (name, old, new), *others = differing
    sentence = f"config.{name} was {old} when {workdir} was started and is {new} now"
    for name, old, new in others[: _LISTED - 1]:
        sentence += f"; config.{name} was {old} and is {new} now"
    if (more := len(differing) - _LISTED) > 0:
        sentence += f"; and {more} more fields differ"
    raise UserError(
        f"{sentence}: repeat the command with the old values, or choose another --workdir."
    )


def with_stage1(
    config: ConfigDict, recorded: Mapping[str, Any] | None, given: Collection[str], workdir: Path
) -> ConfigDict:
    """`config` with a Stage 1 if it has none: the recorded one, or the one beside the workdir."""
    if config.stage != 2 or config.stage1:
        return config
    if recorded is not None and recorded.get("stage1") and Path(recorded["stage1"]).is_dir():
        fields = {"stage1": recorded["stage1"]}
        if "stage1_checkpoint" not in given:
            fields["stage1_checkpoint"] = recorded.get("stage1_checkpoint", "newest")
        why = f", as in the training of {workdir}"
    elif beside := stage1_beside(workdir):
        fields, why = {"stage1": beside}, ""
    else:
        return config
    announce(f"Stage 1 is {fields['stage1']}{why}; --config.stage1 selects another one.")
    return with_fields(config, fields)


def with_recorded_data_dir(
    config: ConfigDict, recorded: Mapping[str, Any], given: Collection[str], workdir: Path
) -> ConfigDict:
    """`config` with the `data.dir` of the run in `workdir`, unless the command sets it.

    If that folder no longer exists, `config` is unchanged and a notice names it.
    """
    folder = recorded["data"]["dir"]
    if "data.dir" in given or folder == config.data.dir:
        return config
    if not Path(folder).is_dir():
        announce(
            f"{workdir} was trained with the data in {folder}, which does not exist; "
            f"config.data.dir is {config.data.dir} instead."
        )
        return config
    announce(
        f"config.data.dir is {folder}, as in the training of {workdir}; --config.data.dir selects "
        "another folder."
    )
    return with_fields(config, {"data.dir": folder})
