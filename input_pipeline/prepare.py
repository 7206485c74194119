r"""Writes a data set to disk, once: `python -m input_pipeline.prepare --dataset=openmoji`.

    python -m input_pipeline.prepare --dataset=openmoji --data_dir=data          # both variants
    python -m input_pipeline.prepare --dataset=openmoji/recolor --size=128 --recolorings=32
    python -m input_pipeline.prepare --dataset=sketchy --root=/data/sketchy --size=256
    python -m input_pipeline.prepare --dataset=coco --root=/data/coco --size=512 --sketch=hed
    python -m input_pipeline.prepare --dataset=folder/cats --root=~/cats --size=512
    python -m input_pipeline.prepare --dataset=coco --root=/data/coco --size=512 \
        --beam_runner=FlinkRunner --beam_options=flink_master=localhost:8081

A preparation that was interrupted leaves nothing that loads; the next one starts clean.
"""

import contextlib
import dataclasses
import fcntl
import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import flags, logging

from input_pipeline import record_format, sketch
from input_pipeline.datasets import openmoji, photos
from input_pipeline.datasets.building import Builder
from input_pipeline.processes import mapping
from input_pipeline.records import RecordSource, read_metadata
from input_pipeline.tfds_writing import correct_tfds
from ragaf_jax.caches import cached_kinds
from ragaf_jax.errors import UserError, run_cli

# Names that stand for several data sets; any other one stands for itself.
SEVERAL = {"openmoji": ("openmoji/plain", "openmoji/recolor"), "both": ("sketchy", "coco")}
ROOT_VARIABLES = {"sketchy": "SKETCHY_ROOT", "coco": "COCO_ROOT"}
WORKER_MODULES = ("input_pipeline.datasets.openmoji", "input_pipeline.datasets.photos")

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "dataset",
    "openmoji",
    "openmoji, openmoji/plain, openmoji/recolor, sketchy, coco, both, folder or folder/<name>.",
)
flags.DEFINE_string("data_dir", "data", "Folder of all data sets.")
flags.DEFINE_string(
    "root", None, "Folder of the pictures as downloaded; default $SKETCHY_ROOT or $COCO_ROOT."
)
flags.DEFINE_integer("size", 64, "Side of the images, px.", lower_bound=32)
flags.DEFINE_integer("recolorings", 16, "Records of a drawing in openmoji/recolor.", lower_bound=1)
flags.DEFINE_enum(
    "sketch", "canny", sketch.METHODS, "How pictures become sketches where none were drawn."
)
flags.DEFINE_string("transform", None, "Alignment of Sketchy's sketches, such as tx_000100000000.")
flags.DEFINE_integer(
    "limit", 0, "Drawings or photos a split, for a quick trial; 0: all.", lower_bound=0
)
flags.DEFINE_float(
    "max_rejected", 0.01, "Share of broken examples at which to stop.", lower_bound=0, upper_bound=1
)
flags.DEFINE_integer("workers", 0, "Processes that draw; 0: one a core.", lower_bound=0)
flags.DEFINE_string(
    "beam_runner", None, "Prepare as an Apache Beam pipeline, for example with DirectRunner."
)
flags.DEFINE_string("cache", "", "latents,text: also compute what frozen networks say of them.")
flags.DEFINE_string("checkpoint", "", "These networks, as config.init.checkpoint.")
flags.DEFINE_string("variant", "", "As config.init.variant.")
flags.DEFINE_string(
    "tokenizer", "openai/clip-vit-large-patch14", "For a single file, as config.init.tokenizer."
)
flags.DEFINE_integer("clip_skip", 0, "As config.model.clip_skip.", lower_bound=0)
flags.DEFINE_string("beam_options", "", "Beam's own flags, without dashes, separated by commas.")


@dataclasses.dataclass(frozen=True)
class Options:
    """What a data set is made with.

    Attributes:
      size: side of the images, px.
      recolorings: records of a drawing; of openmoji/recolor only.
      limit: drawings or photos of each split; 0 takes all.
      root: the folder of the pictures; of sketchy, coco and folder only.
      sketch: how pictures become sketches, one of `sketch.METHODS`.
      transform: Sketchy's alignment; None for the first that is there.
    """

    size: int
    recolorings: int = 16
    limit: int = 0
    root: Path | None = None
    sketch: str = "canny"
    transform: str | None = None


@dataclasses.dataclass(frozen=True)
class Running:
    """How the work is done, which changes nothing in what is made.

    Attributes:
      workers: processes of this machine; 1 is this process.
      max_rejected: share of the examples that may be left out.
      beam_runner: the name of a Beam runner, which then does the work instead.
      beam_options: see `beam.options`.
    """

    workers: int = 1
    max_rejected: float = 0.01
    beam_runner: str | None = None
    beam_options: str = ""


def prepare(
    dataset: str, data_dir: Path, options: Options, running: Running = Running()
) -> list[Path]:
    """Prepares every data set that `dataset` means and that is not there yet; returns folders.

    Raises:
      UserError: no such data set, its pictures are not there or too many of them are broken,
        another preparation is at work in `data_dir`, or a folder there was made otherwise.
    """
    tfds.disable_progress_bar()
    correct_tfds()
    names = SEVERAL.get(dataset, (dataset,))
    folders = {
        name: record_format.folder(data_dir, name, options.size, options.recolorings)
        for name in names
    }
    missing = [name for name, folder in folders.items() if not folder.exists()]
    for name in set(names) - set(missing):
        _check_same(name, folders[name], options)
        # Opening what is there already tells whether it is of use to this code.
        RecordSource(data_dir, name, "test", options.size, options.recolorings)
    if not missing:  # a finished folder may be one that only others may write to
        return list(folders.values())
    builders = {name: _builder(name, data_dir, options) for name in missing}
    with _alone_in(data_dir), mapping(running.workers, WORKER_MODULES) as over_processes:
        for name, builder in builders.items():
            if folders[name].exists():  # another preparation was quicker
                continue
            builder.map, builder.max_rejected = over_processes, running.max_rejected
            builder.beam = running.beam_runner is not None
            _write(name, builder, running)
            RecordSource(data_dir, name, "test", options.size, options.recolorings)
    return list(folders.values())


def _builder(dataset: str, data_dir: Path, options: Options) -> Builder:
    name = dataset.split("/")[0]
    if name == "openmoji":
        return openmoji.Openmoji(
            config=openmoji.config(dataset, options.size, options.recolorings, options.limit),
            data_dir=os.fspath(data_dir),
        )
    return photos.BUILDERS[name](
        config=photos.config(
            dataset,
            options.size,
            root=_root(name, options.root),
            method=options.sketch,
            transform=options.transform,
            limit=options.limit,
        ),
        data_dir=os.fspath(data_dir),
    )


def _root(name: str, root: Path | None) -> Path:
    """The folder of the pictures: the one named, or that of the environment's variable."""
    variable = ROOT_VARIABLES.get(name)
    if root is None and variable and os.environ.get(variable):
        root = Path(os.environ[variable])
    if root is None:
        also = f", or in the variable {variable}" if variable else ""
        raise UserError(
            f"Where the pictures of {name} lie is not said: give --root=<folder>{also}."
        )
    root = root.expanduser()
    if not root.is_dir():
        raise UserError(f"There is no folder {root}, which is to hold the pictures of {name}.")
    return root.resolve()


def _check_same(dataset: str, folder: Path, options: Options) -> None:
    """Refuses to take what was prepared otherwise for what is asked for."""
    found = read_metadata(folder)
    asked: dict[str, Any] = {"limit": options.limit}
    if not dataset.startswith("openmoji"):
        asked["sketch"] = options.sketch
        if options.root is not None:
            asked["root"] = str(options.root.expanduser().resolve())
        if options.transform is not None:
            asked["transform"] = options.transform
    for name, value in asked.items():
        if name in found and found[name] != value:
            raise UserError(
                f"{folder} was prepared with --{name}={found[name]}, not {value}; delete it or "
                "choose another --data_dir."
            )


def _write(name: str, builder: Builder, running: Running) -> None:
    folder = Path(builder.data_dir)
    for leftover in folder.parent.glob(f"incomplete.*_{folder.name}"):
        shutil.rmtree(leftover)
    beam_config = {}
    if running.beam_runner is not None:
        beam_config = _beam_config(running)
    print(name)
    # TFDS prints of downloads, of which there are none, and makes a folder for them.
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as downloads:
        builder.download_and_prepare(
            download_dir=downloads,
            download_config=tfds.download.DownloadConfig(**beam_config),
            file_format="array_record",
        )


def _beam_config(running: Running) -> dict[str, Any]:
    try:
        from apache_beam.runners import create_runner

        from input_pipeline import beam
    except ImportError:
        raise UserError(
            "--beam_runner needs Apache Beam, which is not installed; run: pip install "
            "'ragaf-jax[beam]'"
        ) from None
    try:
        runner = create_runner(running.beam_runner)
    except ValueError as error:
        raise UserError(f"--beam_runner={running.beam_runner}: {error}.") from None
    return {"beam_runner": runner, "beam_options": beam.options(running.beam_options)}


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
    kinds, pretrained = cached_kinds(FLAGS.cache, "--cache"), None
    if kinds:
        # Here alone: networks come with JAX, which preparing does without.
        from input_pipeline import cache

        pretrained = cache.open_checkpoint(FLAGS.checkpoint, FLAGS.variant)
    folders = prepare(
        FLAGS.dataset,
        Path(FLAGS.data_dir),
        Options(
            size=FLAGS.size,
            recolorings=FLAGS.recolorings,
            limit=FLAGS.limit,
            root=Path(FLAGS.root) if FLAGS.root else None,
            sketch=FLAGS.sketch,
            transform=FLAGS.transform,
        ),
        Running(
            workers=FLAGS.workers or len(os.sched_getaffinity(0)),
            max_rejected=FLAGS.max_rejected,
            beam_runner=FLAGS.beam_runner,
            beam_options=FLAGS.beam_options,
        ),
    )
    for folder in folders:
        info = tfds.builder_from_directory(os.fspath(folder)).info
        counts = ", ".join(f"{split.num_examples} {name}" for name, split in info.splits.items())
        print(f"{folder}: {counts} records, {info.dataset_size / 2**20:.0f} MiB")
        rejected = folder / record_format.REJECTED_FILE
        if rejected.exists():
            print(f"{len(rejected.read_text().splitlines())} rejected: {rejected}")
    for dataset in SEVERAL.get(FLAGS.dataset, (FLAGS.dataset,)) if kinds else ():
        source = RecordSource(FLAGS.data_dir, dataset, cache.SPLIT, FLAGS.size, FLAGS.recolorings)
        with _alone_in(Path(FLAGS.data_dir)):
            caches = cache.build_caches(
                source,
                kinds,
                pretrained,
                tokenizer=FLAGS.tokenizer,
                clip_skip=FLAGS.clip_skip,
            )
        for folder in caches:
            size = sum(file.stat().st_size for file in folder.iterdir())
            print(f"{folder}: {size / 2**20:.0f} MiB, {size / len(source):.0f} bytes a record")
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    run_cli(main)
