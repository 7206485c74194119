r"""Shows images and statistics of prepared data before training.

    python -m input_pipeline.inspect --dataset=openmoji/recolor --data_dir=data
    python -m input_pipeline.inspect --dataset=sketchy --size=256 --split=test \
        --examples=50
    python -m input_pipeline.inspect --dataset=folder/cats --size=512 \
        --buckets=auto
    python -m input_pipeline.inspect --dataset=coco --size=512 \
        --text_length=77 --tokenizer=stable-diffusion-v1-5/tokenizer

Writes index.html (one file for a browser), contact_sheet.png and
statistics.json, and prints the statistics. The limits of regions, edges and
tokens are those of `configs/base.py` unless flags set others.
"""

from pathlib import Path

from absl import flags, logging

from input_pipeline import options, record_format
from input_pipeline.datasets import registry
from input_pipeline.datasets.building import SPLITS
from input_pipeline.inspection.findings import FILES, Selection, inspect, open_splits
from input_pipeline.inspection.page import markdown
from input_pipeline.inspection.statistics import Budgets
from ragaf_jax.errors import run_cli
from ragaf_jax.paths import PATH, check_no_pattern
from ragaf_jax.tokenizer import Tokenizer

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("dataset", None, f"{', '.join(registry.DATASETS)}, or {registry.NAMED}.")
    options.define_data_flags()
    flags.adopt_module_key_flags(options)  # else --help omits them
    flags.DEFINE_enum("split", "train", SPLITS, "Split of the examples.")
    flags.DEFINE_integer("examples", 24, "Number of random examples.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed that selects the examples.", lower_bound=0)
    flags.DEFINE_integer("text_length", 40, "config.data.text_length of the run.", lower_bound=3)
    flags.DEFINE_integer("max_regions", 33, "config.data.max_regions of the run.", lower_bound=2)
    flags.DEFINE_integer(
        "max_edges", None, "config.data.max_edges of the run; default in configs/.", lower_bound=1
    )
    flags.DEFINE(
        PATH,
        "tokenizer",
        None,
        "Folder tokenizer/ of a Stable Diffusion, instead of the data's vocabulary.",
    )
    flags.DEFINE(
        PATH,
        "output",
        None,
        "Output folder; default: <data_dir>/inspect/<dataset>_<size>px[_<buckets>][_<graph>].",
    )
    flags.mark_flag_as_required("dataset")


def main(argv: list[str]) -> None:
    """Runs the command."""
    del argv
    logging.set_verbosity(logging.ERROR)  # TFDS warns about configurations that it does not provide
    data_dir = Path(FLAGS.data_dir)
    check_no_pattern(data_dir, "--data_dir")
    chosen = options.chosen_options()
    sources = open_splits(FLAGS.dataset, data_dir, chosen)
    suffix = options.suffix_of(chosen.graph, record_format.buckets_of(FLAGS.dataset, chosen))
    name = f"{FLAGS.dataset.replace('/', '_')}_{FLAGS.size}px{suffix}"
    output = Path(FLAGS.output) if FLAGS.output else data_dir / "inspect" / name
    max_edges = FLAGS.max_edges or registry.find(FLAGS.dataset).max_edges
    found = inspect(
        sources,
        Selection(FLAGS.dataset, FLAGS.split, FLAGS.examples, FLAGS.seed),
        Budgets(FLAGS.text_length, FLAGS.max_regions, max_edges),
        output.resolve(),
        Tokenizer.from_pretrained(Path(FLAGS.tokenizer)) if FLAGS.tokenizer else None,
    )
    print(markdown(found), end="\n\n")
    for file in FILES:
        print(output / file)


if __name__ == "__main__":
    define_flags()
    run_cli(main)
