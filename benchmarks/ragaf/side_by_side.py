"""A contact sheet of the variants' images of the same held-out examples.

    python -m benchmarks.ragaf.side_by_side without no_appearance full ink --recipe=openmoji \
        --output=docs/images/variants.png

Samples with the workdirs of `benchmarks.ragaf.run` in --folder, with the same seed.
"""

from pathlib import Path

import jax
import numpy as np
from absl import flags, logging
from PIL import Image
from tqdm import tqdm

from benchmarks.ragaf.variants import VARIANTS
from input_pipeline.configured import held_out_for
from ragaf_jax.errors import UserError, run_cli
from ragaf_jax.evaluation.sampled import sample_both
from ragaf_jax.figures.contact_sheet import SheetRow, contact_sheet
from ragaf_jax.runtime.compilation_cache import keep_compiled
from ragaf_jax.sampling.stages import restore_both
from ragaf_jax.training.adopt import with_fields

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("recipe", "quickstart", "The recipe.")
    flags.DEFINE_string("folder", "runs/ragaf", "Folder of the workdirs.")
    flags.DEFINE_integer("seed", 0, "Seed of the workdirs and images.")
    flags.DEFINE_string("output", "variants.png", "Output file.")


# The first SHOWN of AMONG test examples with at least COLORS colours in the caption.
SHOWN, COLORS, AMONG = 6, 3, 40


def main(argv: list[str]) -> None:
    """Samples the named variants and writes one sheet."""
    logging.set_verbosity(logging.WARNING)
    names = argv[1:]
    if not names or not set(names) <= set(VARIANTS):
        raise UserError(f"The variants are {names}; name some of {', '.join(VARIANTS)}.")
    keep_compiled()
    folder, seed = Path(FLAGS.folder).absolute() / FLAGS.recipe, FLAGS.seed
    columns, shown, truth = [], list[int](), None
    for name in tqdm(names, "variants"):
        one, two = restore_both(folder / f"stage1-{seed}", folder / f"{name}-{seed}")
        data = folder / f"data_{VARIANTS[name].regions}"
        fields = {"data.dir": str(data), "evaluation_examples": AMONG, "seed": seed}
        config = with_fields(two.config, fields)
        batch, truth = held_out_for(config, two.config, two.tokenizer)
        requested = (set(colors[colors >= 0].tolist()) for colors in truth.true_colors)
        shown = [i for i, colors in enumerate(requested) if len(colors) >= COLORS][:SHOWN]
        some = jax.tree.map(lambda x, shown=shown: x[np.array(shown)], batch)
        columns.append(sample_both(config, one, two, some)[1])
    assert truth is not None
    rows = [
        SheetRow(
            (truth.sketch_u8[i], *(images[row] for images in columns), truth.image_u8[i]),
            truth.captions[i],
        )
        for row, i in enumerate(shown)
    ]
    titles = "sketch", *(VARIANTS[name].about for name in names), "true"
    Image.fromarray(contact_sheet(rows, titles)).save(FLAGS.output)
    print(FLAGS.output)


if __name__ == "__main__":
    define_flags()
    run_cli(main)
