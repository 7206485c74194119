"""Trains or evaluates a stage: data and networks are wired together here, and nowhere else.

python main.py --config=configs/stage1.py:openmoji --workdir=runs/om/stage1
python main.py --mode=evaluate --config=configs/stage2.py:openmoji --workdir=runs/om/stage2
"""

import functools
from pathlib import Path

import jax
from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from input_pipeline.loader import (
    DevicePrefetcher,
    distinct_drawings,
    held_out_batch,
    train_iterator,
)
from input_pipeline.records import RecordSource
from ragaf_jax.batch import Batch, Truth
from ragaf_jax.errors import UserError, run_cli
from ragaf_jax.evaluation.evaluate import evaluate
from ragaf_jax.sampling.grid import make_grid
from ragaf_jax.training.loop import train
from ragaf_jax.training.writers import workdir_writer

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "configs/stage1.py or stage2.py, then :dataset.")
flags.DEFINE_string("workdir", None, "Checkpoints, logs and samples of this stage.")
flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")
flags.DEFINE_string("output", None, "evaluate: where to; default <workdir>/evaluation.")
flags.mark_flags_as_required(["config", "workdir"])


def loaded_config() -> ConfigDict:
    """The configuration that --config names; a file that is missing is only noticed here."""
    try:
        FLAGS.config.to_dict()
    except OSError:
        raise UserError(
            "There is no configuration file of the name that --config gives; use configs/stage1.py "
            "or configs/stage2.py, and after a colon the dataset."
        ) from None
    return FLAGS.config


def open_split(config: ConfigDict, split: str) -> RecordSource:
    """The records that `config.data` names."""
    data = config.data
    return RecordSource(data.dir, data.dataset, split, data.image_size, data.recolorings)


def shapes(config: ConfigDict) -> dict[str, int]:
    """The padded sizes of text and graph."""
    data = config.data
    return {name: data[name] for name in ("text_length", "max_regions", "max_edges")}


def held_out(config: ConfigDict, split: str, examples: int) -> tuple[Batch, Truth]:
    """Examples of different drawings, always the same."""
    source = open_split(config, split)
    return held_out_batch(source, distinct_drawings(source, examples), **shapes(config))


def train_stage(config: ConfigDict, workdir: Path) -> None:
    """Trains `config.stage` in `workdir`."""
    source = open_split(config, "train")
    processes = jax.process_count()
    examples = config.train.batch_size + config.train.read_examples
    if examples % processes:
        raise UserError(
            f"config.train.batch_size + read_examples is {examples}; it must be a multiple of the "
            f"{processes} processes."
        )
    iterator = train_iterator(
        source,
        examples // processes,
        config.seed,
        **shapes(config),
        process_index=jax.process_index(),
        process_count=processes,
    )
    validation, truth = held_out(config, "validation", config.validation_examples)
    make_writer = functools.partial(
        workdir_writer,
        workdir,
        config.train.steps,
        config.train.batch_size,
        wandb_project=config.wandb_project,
        config=config.to_dict(),
    )
    train(
        config,
        workdir,
        DevicePrefetcher(iterator, jax.device_put),
        validation,
        source.tokenizer,
        make_writer,
        make_grid(config, source.tokenizer, validation, truth),
    )


def main(argv: list[str]) -> None:
    """Runs the mode."""
    del argv
    logging.set_verbosity(logging.WARNING)
    config, workdir = loaded_config(), Path(FLAGS.workdir)
    if FLAGS.mode == "train":
        train_stage(config, workdir)
        return
    batch, truth = held_out(config, "test", config.evaluation_examples)
    output = Path(FLAGS.output) if FLAGS.output else workdir / "evaluation"
    evaluate(config, workdir, batch, truth, output)


if __name__ == "__main__":
    run_cli(main)
