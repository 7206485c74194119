"""Writes a data set to disk, once: `python -m input_pipeline.prepare --dataset=openmoji`.

    python -m input_pipeline.prepare --dataset=openmoji --data_dir=data          # both variants
    python -m input_pipeline.prepare --dataset=openmoji/recolor --size=128 --recolorings=32

A preparation that was interrupted leaves nothing that loads; the next one starts clean.
"""

import contextlib
import fcntl
import functools
import io
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import tensorflow_datasets as tfds
from absl import flags, logging

from input_pipeline import record_format
from input_pipeline.datasets import openmoji
from input_pipeline.records import RecordSource
from input_pipeline.tfds_writing import correct_tfds
from ragaf_jax.errors import UserError, run_cli

VARIANTS = {
    "openmoji": ("openmoji/plain", "openmoji/recolor"),
    "openmoji/plain": ("openmoji/plain",),
    "openmoji/recolor": ("openmoji/recolor",),
}

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", "openmoji", f"One of {', '.join(VARIANTS)}.")
flags.DEFINE_string("data_dir", "data", "Folder of all data sets.")
flags.DEFINE_integer("size", 64, "Side of the images, px.", lower_bound=32)
flags.DEFINE_integer("recolorings", 16, "Records of a drawing in openmoji/recolor.", lower_bound=1)
flags.DEFINE_integer("limit", 0, "Drawings a split, for a quick trial; 0: all.", lower_bound=0)
flags.DEFINE_integer("workers", 0, "Processes that draw; 0: one a core.", lower_bound=0)


def prepare(
    dataset: str, data_dir: Path, *, size: int, recolorings: int, limit: int = 0, workers: int = 1
) -> list[Path]:
    """Prepares every variant that `dataset` means and is not there yet; returns their folders.

    Raises:
      UserError: no such data set, another preparation is at work in `data_dir`, or a folder there
        was made with another `limit`.
    """
    if dataset not in VARIANTS:
        raise UserError(f"There is no data set {dataset!r}; choose one of {', '.join(VARIANTS)}.")
    tfds.disable_progress_bar()
    correct_tfds()
    names = VARIANTS[dataset]
    folders = {name: record_format.folder(data_dir, name, size, recolorings) for name in names}

    def missing() -> list[str]:
        return [name for name, folder in folders.items() if not folder.exists()]

    for name in set(names) - set(missing()):
        # Opening what is there already tells whether it is of use to this code.
        found = RecordSource(data_dir, name, "test", size, recolorings).metadata["limit"]
        if found != limit:
            raise UserError(
                f"{folders[name]} was prepared with --limit={found}, not {limit}; delete it or "
                "choose another --data_dir."
            )
    if not missing():  # a finished folder may be one that only others may write to
        return list(folders.values())
    with _alone_in(data_dir):
        # Spawned, because a fork would copy whatever threads of JAX are running.
        processes = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, processes, _start_worker) as pool:
            parallel_map = functools.partial(pool.map, chunksize=4)
            for name in missing():
                _write(openmoji.config(name, size, recolorings, limit), data_dir, parallel_map)
                RecordSource(data_dir, name, "test", size, recolorings)
    return list(folders.values())


def _write(config: openmoji.OpenmojiConfig, data_dir: Path, parallel_map: Callable) -> None:
    builder = openmoji.Openmoji(config=config, data_dir=os.fspath(data_dir))
    builder.map = parallel_map
    folder = Path(builder.data_dir)
    for leftover in folder.parent.glob(f"incomplete.*_{folder.name}"):
        shutil.rmtree(leftover)
    print(f"openmoji/{config.name}")
    # TFDS prints of downloads, of which there are none, and makes a folder for them.
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as downloads:
        builder.download_and_prepare(download_dir=downloads, file_format="array_record")


def _start_worker() -> None:
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the pool


@contextlib.contextmanager
def _alone_in(data_dir: Path) -> Iterator[None]:
    """Keeps a second preparation from taking the first one's unfinished folder for a leftover."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / ".prepare.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another preparation is at work in {data_dir}; wait for it or choose another "
                "--data_dir."
            ) from None
        yield


def main(argv: list[str]) -> None:
    """Prepares and says what is there."""
    del argv
    logging.set_verbosity(logging.ERROR)  # TFDS warns of configurations that are not its own
    start = time.monotonic()
    folders = prepare(
        FLAGS.dataset,
        Path(FLAGS.data_dir),
        size=FLAGS.size,
        recolorings=FLAGS.recolorings,
        limit=FLAGS.limit,
        workers=FLAGS.workers or len(os.sched_getaffinity(0)),
    )
    for folder in folders:
        info = tfds.builder_from_directory(os.fspath(folder)).info
        counts = ", ".join(f"{split.num_examples} {name}" for name, split in info.splits.items())
        print(f"{folder}: {counts} records, {info.dataset_size / 2**20:.0f} MiB")
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    run_cli(main)
