r"""Prepares datasets: writes their records to disk.

    python -m input_pipeline.prepare --dataset=openmoji  # both variants
    python -m input_pipeline.prepare --dataset=openmoji/recolor --size=128 \
        --recolorings=32
    python -m input_pipeline.prepare --dataset=sketchy --root=/data/sketchy \
        --size=256
    python -m input_pipeline.prepare --dataset=coco --root=/data/coco \
        --size=512 --sketch=hed
    python -m input_pipeline.prepare --dataset=folder/cats --root=~/cats \
        --size=512
    python -m input_pipeline.prepare --dataset=folder/cats --root=~/cats \
        --size=512 --buckets=auto --crop
    python -m input_pipeline.prepare --dataset=coco --root=/data/coco \
        --size=512 --beam_runner=DirectRunner \
        --beam_options=direct_num_workers=8

An interrupted preparation leaves no readable data; the next one starts anew.
"""

import os
import time
from pathlib import Path

import tensorflow_datasets as tfds
from absl import flags, logging

from input_pipeline import options, record_format
from input_pipeline.datasets.registry import DATASETS, NAMED, SEVERAL, find, names_of
from input_pipeline.extraction import sketch
from input_pipeline.preparation.preparing import Execution, prepare
from input_pipeline.records import RecordSource
from ragaf_jax.caches import cached_kinds
from ragaf_jax.errors import UserError, notify, run_cli
from ragaf_jax.folders import alone_in
from ragaf_jax.graph.regions import REGION_KINDS
from ragaf_jax.paths import PATH, check_no_pattern

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    variables = [f"${entry.root_variable}" for entry in DATASETS.values() if entry.root_variable]
    names = f"{', '.join((*SEVERAL, *DATASETS))}, or {NAMED}."
    flags.DEFINE_string("dataset", "openmoji", names)
    options.define_data_flags()
    flags.adopt_module_key_flags(options)  # else --help omits them
    root = f"Folder of the images as downloaded; default {' or '.join(variables)}."
    flags.DEFINE(PATH, "root", None, root)
    flags.DEFINE_enum(
        "sketch", "canny", sketch.METHODS, "Sketch extraction for datasets without sketches."
    )
    flags.DEFINE_enum(
        "regions",
        "strokes",
        REGION_KINDS,
        "Regions: areas that strokes enclose, components of the ink, or one for the whole page.",
    )
    flags.DEFINE_string(
        "transform", None, "Alignment of Sketchy's sketches, for example tx_000100000000."
    )
    flags.DEFINE_string(
        "shards",
        "",
        "Shards to read below --root, for example 'train-{00000..00031}.tar'; default: all.",
    )
    flags.DEFINE_bool(
        "crop",
        False,
        "Crop images to their bucket of --buckets; default: add white margins to images of other "
        "proportions.",
    )
    flags.DEFINE_integer(
        "limit", 0, "Drawings or photos per split, for quick trials; 0: all.", lower_bound=0
    )
    flags.DEFINE_float(
        "max_rejected", 0.01, "Maximum share of unusable examples.", lower_bound=0, upper_bound=1
    )
    flags.DEFINE_integer("workers", 0, "Processes; 0: one per core.", lower_bound=0)
    flags.DEFINE_string(
        "beam_runner", None, "Prepare as an Apache Beam pipeline, for example with DirectRunner."
    )
    flags.DEFINE_string("cache", "", "latents,text: also cache these outputs of frozen networks.")
    flags.DEFINE(PATH, "checkpoint", "", "Networks of --cache, as config.init.checkpoint.")
    flags.DEFINE_string("variant", "", "As config.init.variant.")
    flags.DEFINE(PATH, "vae", "", "As config.init.vae.")
    flags.DEFINE(
        PATH,
        "tokenizer",
        "openai/clip-vit-large-patch14",
        "For single-file checkpoints, as config.init.tokenizer.",
    )
    flags.DEFINE_integer("clip_skip", 0, "As config.model.clip_skip.", lower_bound=0)
    flags.DEFINE_string("beam_options", "", "Beam's flags, without dashes, separated by commas.")


def main(argv: list[str]) -> None:
    """Prepares datasets and prints their sizes."""
    del argv
    logging.set_verbosity(logging.ERROR)  # TFDS warns of configurations without registration
    factor = options.SIDE_FACTOR
    if FLAGS.size % factor:
        near = FLAGS.size - FLAGS.size % factor
        raise UserError(
            f"--size is {FLAGS.size}, which the networks cannot downsample; choose a multiple of "
            f"{factor}, such as {near} or {near + factor} (of 64 for Stable Diffusion)."
        )
    if FLAGS.crop and not FLAGS.buckets:
        raise UserError(
            "--crop is given without --buckets, and squares are always cropped from photographs; "
            f"leave it out, or give --buckets={FLAGS.size}x{FLAGS.size} or auto."
        )
    if FLAGS.shards and "shards" not in find(names_of(FLAGS.dataset)[0]).scan_options:
        raise UserError(
            f"--shards is {FLAGS.shards!r}, and {FLAGS.dataset} has no shards; leave it out."
        )
    if FLAGS.beam_options and not FLAGS.beam_runner:
        raise UserError(
            f"--beam_options is {FLAGS.beam_options!r} and --beam_runner is not given; give both, "
            "such as --beam_runner=DirectRunner, or neither."
        )
    square = [name for name in names_of(FLAGS.dataset) if not find(name).scan]
    if FLAGS.buckets and square:
        notify(f"The images of {' and '.join(square)} are squares; --buckets does not change them.")
    if not FLAGS.buckets and (cut := [x for x in names_of(FLAGS.dataset) if x not in square]):
        notify(
            f"The images of {' and '.join(cut)} are cropped to squares; --buckets=auto keeps all."
        )
    start = time.monotonic()
    data_dir = Path(FLAGS.data_dir)
    chosen = options.chosen_options(
        limit=FLAGS.limit,
        root=Path(FLAGS.root) if FLAGS.root else None,
        sketch=FLAGS.sketch,
        transform=FLAGS.transform,
        shards=FLAGS.shards,
        regions=FLAGS.regions,
        crop=FLAGS.crop,
    )
    check_no_pattern(data_dir, "--data_dir")
    kinds, pretrained = cached_kinds(FLAGS.cache, "--cache"), None
    if kinds:
        # Preparation without caches does not import JAX.
        from input_pipeline import cache

        pretrained = cache.open_checkpoint(FLAGS.checkpoint, FLAGS.variant, FLAGS.vae)
    folders = prepare(
        FLAGS.dataset,
        data_dir,
        chosen,
        Execution(
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
    for dataset in names_of(FLAGS.dataset) if kinds else ():
        source = RecordSource(data_dir, dataset, cache.SPLIT, chosen)
        with alone_in(data_dir, "preparation", "--data_dir"):
            caches = cache.build_caches(source, kinds, pretrained, FLAGS.tokenizer, FLAGS.clip_skip)
        for folder in caches:
            size = sum(file.stat().st_size for file in folder.iterdir())
            print(f"{folder}: {size / 2**20:.0f} MiB, {size / len(source):.0f} bytes a record")
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    define_flags()
    run_cli(main)
