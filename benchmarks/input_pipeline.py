"""The loader's speed against the training step, and the scaling of preparation.

    python -m benchmarks.input_pipeline                       # all of it: 15 minutes on 2 cores
    python -m benchmarks.input_pipeline --only=loader         # 3 minutes
    python -m benchmarks.input_pipeline --json=results.json   # also writes JSON

Prints Markdown. Nothing else should run on the machine.
"""

import functools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags, logging
from tqdm import tqdm

from benchmarks.comparison.ours import training_step
from benchmarks.machine import cpu_model, versions
from benchmarks.preparing import memory_rows, scaling_rows
from benchmarks.report import Row, table, write_json
from configs import stage1, stage2
from input_pipeline.configured import open_split, shapes
from input_pipeline.extraction.augment import KINDS, AugmentSketch
from input_pipeline.loader import DevicePrefetcher, train_iterator
from input_pipeline.options import Options
from input_pipeline.preparation.preparing import Execution, prepare
from ragaf_jax.batch import Batch
from ragaf_jax.errors import run_cli
from ragaf_jax.losses.objective import objective_of
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.model import traced_init
from ragaf_jax.runtime.heap import keep_freed_memory
from ragaf_jax.runtime.sharding import make_mesh, put_batch

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_multi_enum(
        "only", [], ["loader", "scaling", "memory"], "What to measure; default: all."
    )
    flags.DEFINE_string("data_dir", None, "Folder of openmoji/recolor at 64 px; prepared if unset.")
    flags.DEFINE_integer("steps", 40, "Timed training steps.", lower_bound=5)
    flags.DEFINE_string("json", None, "Output file.")


WARM_UP = 4  # steps; the first compiles


def loader_row(stage: int, data_dir: Path, steps: int, augment: float) -> Row:
    """The loader alone, and with the training step of a quickstart's stage.

    Args:
      stage: 1 or 2.
      data_dir: contains openmoji/recolor at 64 px.
      steps: timed steps.
      augment: probability of each augmentation.
    """
    config = (stage1 if stage == 1 else stage2).get_config("quickstart")
    config.data.dir = str(data_dir)
    source = open_split(config.data, "train")
    examples = config.train.batch_size + config.train.read_examples
    open_batches = functools.partial(
        train_iterator,
        source,
        examples,
        config.seed,
        **shapes(config.data),
        augment=AugmentSketch(**dict.fromkeys(KINDS, augment)),
    )
    alone = _rate(open_batches(), seconds=10) * examples
    batches = DevicePrefetcher(open_batches(), functools.partial(put_batch, make_mesh(config)))
    model = build_model(config)
    params = traced_init(model, jax.random.key(0))
    step, _ = training_step(config, model, params, objective_of(config, source.tokenizer))
    waited, whole = [], []
    for i in tqdm(range(WARM_UP + steps), desc=f"stage {stage}", unit=" step"):
        begin = time.perf_counter()
        batch = next(batches)
        loaded = time.perf_counter()
        step(batch)
        if i >= WARM_UP:
            waited.append(loaded - begin)
            whole.append(time.perf_counter() - begin)
    consumed = examples / float(np.median(whole))
    return {
        "stage": stage,
        "augmented": augment,
        "examples a step": examples,
        "loader alone, examples/s": round(alone),
        "step consumes, examples/s": round(consumed, 1),
        "ratio": round(alone / consumed, 1),
        "waiting, % of the step": round(100 * sum(waited) / sum(whole), 3),
        "ms a step": round(1000 * float(np.median(whole)), 1),
    }


def _rate(batches: Iterator[Batch], seconds: float) -> float:
    """Batches per second."""
    for _ in range(8):  # fills the buffers
        next(batches)
    begin, count = time.perf_counter(), 0
    while time.perf_counter() < begin + seconds:
        next(batches)
        count += 1
    return count / (time.perf_counter() - begin)


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    logging.set_verbosity(logging.ERROR)
    keep_freed_memory(retires=True)
    chosen = FLAGS.only or ["loader", "scaling", "memory"]
    results: dict[str, Any] = {
        "machine": cpu_model(),
        "versions": versions("jax", "grain", "tensorflow-datasets"),
    }
    print(f"{results['machine']}\n")
    with tempfile.TemporaryDirectory() as folder:
        if "loader" in chosen:
            data = Path(FLAGS.data_dir or folder)
            prepare("openmoji/recolor", data, Options(64), Execution(workers=2))
            results["loader"] = [
                loader_row(stage, data, FLAGS.steps, augment)
                for stage, augment in ((1, 0.0), (1, 1.0), (2, 0.0))
            ]
        if "scaling" in chosen:
            results["scaling"] = scaling_rows(Path(folder))
        if "memory" in chosen:
            results["memory"] = memory_rows(Path(folder))
    for name in chosen:
        print(f"\n{name}\n\n{table(results[name])}")
    if FLAGS.json:
        write_json(Path(FLAGS.json), results)


if __name__ == "__main__":
    define_flags()
    run_cli(main)
