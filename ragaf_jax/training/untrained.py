"""A Stage 1 that nobody trained: a Stable Diffusion and its ControlNet, to be drawn with."""

import sys
from pathlib import Path

import ml_collections

from ragaf_jax import __version__
from ragaf_jax.errors import UserError
from ragaf_jax.folders import check_writable, whole_folder
from ragaf_jax.nets.build import build_model
from ragaf_jax.training.adopt import adopted
from ragaf_jax.training.initial import initial_params
from ragaf_jax.training.parameters import save_parameters


def adopt(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes the weights that `config.init` names as a workdir of parameters alone.

    Args:
      config: of a Stage 1, with `init.checkpoint`, and `init.control` unless the branch is to be
        the fresh one that says nothing.
      workdir: a folder to be written; it appears when all of it is there.

    Raises:
      UserError: another stage, no checkpoint named, weights that cannot be read or do not fit, or a
        folder that cannot be written.
    """
    if config.stage != 1 or not config.init.checkpoint:
        raise UserError(
            f"A Stable Diffusion becomes a Stage 1; this is Stage {config.stage} with "
            f"config.init.checkpoint={config.init.checkpoint!r}: use configs/stage1.py:openmoji_sd "
            "with --config.init.checkpoint=<folder, file or hub id>."
        )
    workdir = workdir.resolve()
    check_writable(workdir, {"config.json", "checkpoints"})
    config, tokenizer = adopted(config, workdir)
    assert tokenizer is not None
    print("Reading the weights …", file=sys.stderr)
    params = initial_params(config, build_model(config), None)
    meta = {
        "config": config.to_dict(),
        "tokenizer": tokenizer.to_json(),
        "version": __version__,
        "step": 0,
    }
    with whole_folder(workdir) as folder:
        save_parameters(folder, params, meta, config.model.dtype)
