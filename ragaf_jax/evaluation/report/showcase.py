"""Contact sheets of held-out examples by two trained stages."""

from collections.abc import Callable
from pathlib import Path

import ml_collections
from PIL import Image

from ragaf_jax.batch import Batch, Truth
from ragaf_jax.checkpoints.choice import NEWEST
from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.report.illustrations import sheet
from ragaf_jax.evaluation.report.numbers import STAGES
from ragaf_jax.evaluation.sampled import sample_both
from ragaf_jax.folders import check_writable, whole_folder
from ragaf_jax.sampling.stages import restore_both
from ragaf_jax.tokenizer import Tokenizer

DRAWINGS, COLORINGS = "drawings.png", "colorings.png"


def showcase(
    config: ml_collections.ConfigDict,
    workdir: Path,
    open_shown: Callable[[ml_collections.ConfigDict, Tokenizer], tuple[Batch, Truth, int]],
    output: Path,
    checkpoint: str = NEWEST,
) -> None:
    """Draws held-out drawings and writes a contact sheet of them, and one of several colourings.

    Args:
      config: Stage 2's; `stage1`, `stage1_checkpoint`, `seed` and `sample` are used.
      workdir: Stage 2's.
      open_shown: gives, for the configuration and the vocabulary of Stage 2's checkpoint, examples
        of different drawings, behind them others that colour one drawing in several ways, and how
        many the former are.
      output: a folder to be written; an earlier output is replaced.
      checkpoint: of Stage 2: "newest", "best" or a step.

    Raises:
      UserError: no two stages that fit each other, no data, or a folder that cannot be written.
    """
    if config.stage != 2 or not config.stage1:
        raise UserError(
            f"Two stages draw, and this is Stage {config.stage} with config.stage1="
            f"{config.stage1!r}; use configs/stage2.py with --config.stage1=<workdir of Stage 1>."
        )
    output = output.resolve()
    check_writable(output, {DRAWINGS, COLORINGS})
    one, two = restore_both(Path(config.stage1), workdir, config.stage1_checkpoint, checkpoint)
    batch, truth, drawings = open_shown(two.config, two.tokenizer)
    pictures = dict(zip(STAGES, sample_both(config, one, two, batch), strict=True))
    sheets = {
        DRAWINGS: range(drawings),
        COLORINGS: range(drawings, len(truth.keys)),
    }
    with whole_folder(output) as folder:
        for name, examples in sheets.items():
            if examples:
                Image.fromarray(sheet(pictures, batch, truth, examples)).save(folder / name)
    for name, examples in sheets.items():
        if examples:
            print(output / name)
