r"""Images and statistics of prepared data, before training.

    python -m input_pipeline.inspect --dataset=openmoji/recolor --data_dir=data
    python -m input_pipeline.inspect --dataset=sketchy --size=256 --split=test \
        --examples=50
    python -m input_pipeline.inspect --dataset=coco --size=512 \
        --text_length=77 --tokenizer=stable-diffusion-v1-5/tokenizer

Writes index.html (one file, to be opened in a browser), contact_sheet.png and
statistics.json, and prints the statistics. A run's room for regions, edges and
tokens is that of `configs/base.py` unless the flags say otherwise.
"""

from pathlib import Path

from absl import flags, logging

from input_pipeline.datasets import registry
from input_pipeline.datasets.building import SPLITS
from input_pipeline.graph_options import chosen_graph, define_graph_flags, suffix_of
from input_pipeline.inspection.findings import FILES, Wanted, inspect, open_splits
from input_pipeline.inspection.page import markdown
from input_pipeline.inspection.statistics import Budgets
from ragaf_jax.errors import run_cli
from ragaf_jax.paths import PATH, check_no_pattern
from ragaf_jax.tokenizer import Tokenizer

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("dataset", None, f"{', '.join(registry.DATASETS)} or folder/<name>.")
    flags.DEFINE(PATH, "data_dir", "data", "Folder of all data sets.")
    flags.DEFINE_integer("size", 64, "Side of the images, px.", lower_bound=32)
    flags.DEFINE_integer(
        "recolorings", 16, "Records of a drawing in openmoji/recolor.", lower_bound=1
    )
    define_graph_flags()
    flags.DEFINE_enum("split", "train", SPLITS, "Where the examples to look at are drawn from.")
    flags.DEFINE_integer("examples", 24, "How many of them.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Decides which.", lower_bound=0)
    flags.DEFINE_integer("text_length", 40, "config.data.text_length of the run.", lower_bound=3)
    flags.DEFINE_integer("max_regions", 33, "config.data.max_regions of the run.", lower_bound=2)
    flags.DEFINE_integer(
        "max_edges",
        None,
        "config.data.max_edges of the run; default as in configs/.",
        lower_bound=1,
    )
    flags.DEFINE(
        PATH,
        "tokenizer",
        None,
        "The tokenizer/ of a Stable Diffusion, in place of the data's own words.",
    )
    flags.DEFINE(
        PATH, "output", None, "Folder to be written; default <data_dir>/inspect/<dataset>_<size>px."
    )
    flags.mark_flag_as_required("dataset")


def main(argv: list[str]) -> None:
    """Reads, counts, draws, writes."""
    del argv
    logging.set_verbosity(logging.ERROR)  # TFDS warns of configurations that are not its own
    data_dir = Path(FLAGS.data_dir)
    check_no_pattern(data_dir, "--data_dir")
    graph = chosen_graph()
    sources = open_splits(FLAGS.dataset, data_dir, FLAGS.size, FLAGS.recolorings, graph)
    name = f"{FLAGS.dataset.replace('/', '_')}_{FLAGS.size}px{suffix_of(graph)}"
    output = Path(FLAGS.output) if FLAGS.output else data_dir / "inspect" / name
    found = inspect(
        sources,
        Wanted(FLAGS.dataset, FLAGS.split, FLAGS.examples, FLAGS.seed),
        Budgets(
            FLAGS.text_length,
            FLAGS.max_regions,
            FLAGS.max_edges or registry.find(FLAGS.dataset).max_edges,
        ),
        output.resolve(),
        Tokenizer.from_pretrained(Path(FLAGS.tokenizer)) if FLAGS.tokenizer else None,
    )
    print(markdown(found), end="\n\n")
    for file in FILES:
        print(output / file)


if __name__ == "__main__":
    define_flags()
    run_cli(main)
