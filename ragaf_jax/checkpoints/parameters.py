"""A workdir with the averaged parameters alone, small enough to share.

Whatever reads a trained stage (sampling, evaluation, Stage 2) reads it as it reads any workdir.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

Tree = dict[str, Any]


def save_parameters(
    workdir: Path, params: Tree, meta: Tree, dtype: jax.typing.DTypeLike = np.float32
) -> None:
    """Writes `config.json` and one checkpoint that holds nothing but parameters.

    Args:
      workdir: an existing folder without checkpoints.
      params: all parameters, as `checkpoint.load_params` gives them.
      meta: as it gives it.
      dtype: of what is stored.
    """
    stored = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params)
    with ocp.CheckpointManager(workdir.absolute() / "checkpoints") as manager:
        manager.save(
            int(meta["step"]),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave({"ema": stored}), meta=ocp.args.JsonSave(meta)
            ),
        )
    # They name the folder in which it was written, and nothing reads them on a local disk.
    for note in workdir.rglob("commit_success.txt"):
        note.unlink()
    text = json.dumps(meta["config"], indent=1)
    (workdir / "config.json").write_text(f"{text}\n", encoding="utf-8")
