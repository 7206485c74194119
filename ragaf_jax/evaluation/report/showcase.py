"""Contact sheets of held-out examples by two trained stages."""

from collections.abc import Callable
from pathlib import Path

import ml_collections
from PIL import Image

from ragaf_jax.batch import Batch, Truth
from ragaf_jax.checkpoints.choice import NEWEST
from ragaf_jax.evaluation.report.illustrations import sheet
from ragaf_jax.evaluation.report.numbers import STAGES
from ragaf_jax.evaluation.sampled import restore_stages, sample_both
from ragaf_jax.folders import check_writable, whole_folder
from ragaf_jax.tokenizer import Tokenizer

DRAWINGS, COLORINGS = "drawings.png", "colorings.png"


def showcase(
    config: ml_collections.ConfigDict,
    workdir: Path,
    open_shown: Callable[[ml_collections.ConfigDict, Tokenizer], tuple[Batch, Truth, int]],
    output: Path,
    checkpoint: str = NEWEST,
) -> None:
    """Samples held-out examples and writes contact sheets: one of sketches, one of colourings.

    Args:
      config: Stage 2's; `stage1`, `stage1_checkpoint`, `seed` and `sample` are used.
      workdir: Stage 2's.
      open_shown: takes the configuration and tokenizer of Stage 2's checkpoint. It returns examples
        with different sketches followed by colourings of one sketch, their ground truth, and the
        number of the former.
      output: the folder; an earlier output is replaced.
      checkpoint: of Stage 2: "newest", "best" or a step.

    Raises:
      UserError: the stages do not match, there is no data, or the folder is not writable.
    """
    output = output.resolve()
    check_writable(output, {DRAWINGS, COLORINGS})
    one, two = restore_stages(config, workdir, checkpoint, "Showcase")
    batch, truth, count = open_shown(two.config, two.tokenizer)
    by_stage = dict(zip(STAGES, sample_both(config, one, two, batch), strict=True))
    sheets = {DRAWINGS: range(count), COLORINGS: range(count, len(truth.keys))}
    sheets = {name: examples for name, examples in sheets.items() if examples}
    with whole_folder(output) as folder:
        for name, examples in sheets.items():
            Image.fromarray(sheet(by_stage, batch, truth, examples)).save(folder / name)
    print(*(output / name for name in sheets), sep="\n")
