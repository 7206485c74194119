"""Writes Stable Diffusion and a ControlNet as a Stage 1 workdir, untrained."""

import sys
from collections.abc import Collection
from pathlib import Path

from ml_collections import ConfigDict

from ragaf_jax.checkpoints.meta import meta_of
from ragaf_jax.checkpoints.parameters import save_parameters
from ragaf_jax.checkpoints.reading import load_meta
from ragaf_jax.errors import UserError
from ragaf_jax.folders import check_writable, whole_folder
from ragaf_jax.nets.build import build_model
from ragaf_jax.training.adopt import adopted
from ragaf_jax.training.initial import initial_params
from ragaf_jax.weights.pretrained import check_pretrained


def write_untrained(config: ConfigDict, workdir: Path, given: Collection[str] = ()) -> None:
    """Writes the weights of `config.init` as a workdir that holds only parameters.

    Args:
      config: of a Stage 1, with `init.checkpoint` and `init.control`.
      workdir: the new folder; it appears once it is complete.
      given: paths of fields that the command sets; see `adopted`. With "init.control" among them,
        the ControlNet may be "unet", without effect: the sketch then acts by its regions alone.

    Raises:
      UserError: another stage, no checkpoint or ControlNet given, weights that cannot be read or do
        not fit, or a folder that holds a run or cannot be written.
    """
    if config.stage != 1 or not config.init.checkpoint:
        raise UserError(
            f"A Stable Diffusion becomes a Stage 1; this is Stage {config.stage} with "
            f"config.init.checkpoint={config.init.checkpoint!r}: use configs/stage1.py:openmoji_sd "
            "with --config.init.checkpoint=<folder, file or hub id>."
        )
    if config.init.control == "unet" and "init.control" not in given:
        # Report a checkpoint of another model first: no ControlNet would help it.
        check_pretrained(config.init.checkpoint)
        raise UserError(
            "config.init.control is 'unet', a ControlNet without effect until it is trained; give "
            "a trained one, such as --config.init.control=lllyasviel/control_v11p_sd15_scribble "
            "for SD 1.5 or diffusers/controlnet-canny-sdxl-1.0 for SDXL, or "
            "--config.init.control=unet to sample from texts and regions alone."
        )
    workdir = workdir.resolve()
    if load_meta(workdir) is not None:
        raise UserError(f"{workdir} holds a run already; give a new folder.")
    check_writable(workdir, {"config.json", "checkpoints"})
    config, tokenizer = adopted(config, workdir, given)
    assert tokenizer is not None
    print("Reading the weights …", file=sys.stderr)
    model = build_model(config)
    params = model.in_own_dtypes(initial_params(config, model, None))
    with whole_folder(workdir) as folder:
        meta = meta_of(config, tokenizer) | {"step": 0}
        save_parameters(folder, params, meta, None)
    side = config.data.image_size
    print(f"{workdir}: {config.init.checkpoint} with {config.init.control}, {side} × {side} pixels")
    print(
        f"To sample: python -m ragaf_jax.sample --stage1={workdir} --sketch=<file> --prompt=<text> "
        "--output=<folder>"
    )
