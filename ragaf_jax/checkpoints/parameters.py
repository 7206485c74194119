"""Workdirs with only the averaged parameters, small enough to share.

Sampling, evaluation and Stage 2 read them like any workdir.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

Tree = dict[str, Any]


def save_parameters(
    workdir: Path, params: Tree, meta: Tree, dtype: jax.typing.DTypeLike | None = np.float32
) -> None:
    """Writes `config.json` and one checkpoint that holds only parameters.

    Args:
      workdir: an existing folder without checkpoints.
      params, meta: as `reading.load_params` returns them.
      dtype: of the stored parameters; None: each as it is.
    """
    stored = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params)
    with ocp.CheckpointManager(workdir.absolute() / "checkpoints") as manager:
        manager.save(
            int(meta["step"]),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave({"ema": stored}), meta=ocp.args.JsonSave(meta)
            ),
        )
    # These files name the folder that they were written in; on a local disk nothing reads them.
    for note in workdir.rglob("commit_success.txt"):
        note.unlink()
    text = json.dumps(meta["config"], indent=1)
    (workdir / "config.json").write_text(f"{text}\n", encoding="utf-8")
