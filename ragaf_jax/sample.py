r"""Samples images from a sketch and a prompt, or from many of them.

    python -m ragaf_jax.sample --stage1=runs/om/stage1 --stage2=runs/om/stage2 \
        --sketch=dog.png --prompt="dog: large brown in the middle" \
        --output=outputs/dog --seed=42

    # Look at the regions first, then speak of them.
    … --sketch=house.png --regions-only --output=outputs/house
    … --sketch=house.png --prompt=house --output=outputs/house \
        --region 3="red brick wall" --region 5="oak door" --merge 2,7

    # Again, of another seed.
    … --from=outputs/house/metadata.json --seed=7 --output=outputs/again

    # The words that the model knows.
    … --vocabulary

    # A folder each, on all devices.
    … --sketches=drawings --prompts=prompts.csv --output=outputs

An output folder appears when all of it is written: sketch.png, regions.png,
region_graph.png, stage1_output.png, stage2_output.png, stage2_upscaled.png,
comparison.png, prompt.txt, metadata.json, regions.json, labels.png and, of a
Stage 2 with RAGAF, attention_maps.png and fusion.png. Images have the size that
the stages were trained at: 64 × 64 pixels for those in pretrained/openmoji.
--upscale resamples them and lays the sketch's own lines over them.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from ragaf_jax.errors import UserError, notify, run_cli
from ragaf_jax.folders import check_writable, whole_folder
from ragaf_jax.paths import PATH
from ragaf_jax.sampling.recorded import set_recorded_flags

if TYPE_CHECKING:
    from ragaf_jax.sampling.pipeline import Pipeline
    from ragaf_jax.sampling.request import SketchPage

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE(
        PATH, "stage1", None, "Workdir of Stage 1; it draws alone where there is no Stage 2."
    )
    flags.DEFINE(PATH, "stage2", None, "Workdir of Stage 2; alone, it draws from noise or --image.")
    flags.DEFINE(PATH, "sketch", None, "Any image of a drawing, dark on light or light on dark.")
    flags.DEFINE_string("prompt", None, "What the picture is to show; may be empty.")
    flags.DEFINE_string("negative_prompt", "", "What it is not to show.")
    flags.DEFINE(PATH, "output", None, "Folder to be written; an earlier output is replaced.")
    flags.DEFINE_multi_string(
        "region", [], 'Words for one region: 3="red brick wall". May be repeated.'
    )
    flags.DEFINE_multi_string("merge", [], "Regions that become one, such as 2,7. May be repeated.")
    flags.DEFINE(PATH, "labels", None, "An edited labels.png: pixels are the numbers of regions.")
    flags.DEFINE_float(
        "neck_splits",
        1.0,
        "How eagerly areas are split at narrow openings. 0: only closed outlines separate regions; "
        "1: as in training; more: at wider ones, too.",
    )
    flags.DEFINE_bool("regions_only", False, "Writes the numbered regions, and draws nothing.")
    flags.DEFINE_integer("seed", 0, "The same seed and settings give the same pictures.")
    flags.DEFINE_integer("count", 1, "Pictures, of seed, seed + 1 …")
    flags.DEFINE(
        PATH, "image", None, "A picture to begin from instead of noise, as far as --strength."
    )
    flags.DEFINE_bool(
        "crop", True, "Crops a sketch to its ink where that is under half of its page."
    )
    flags.DEFINE_integer(
        "upscale", 512, "Side in pixels of an enlarged image with the sketch's own lines; 0: none."
    )
    flags.DEFINE_enum(
        "stages", None, ["both", "1", "2"], "Which draw; default those that are given."
    )
    flags.DEFINE_integer(
        "steps", None, "Denoising steps of either stage; default as Stage 2's config."
    )
    flags.DEFINE_float("guidance", None, "Scale of the text; default as Stage 2's config.")
    flags.DEFINE_float("sketch_guidance", None, "Scale of the sketch; default as Stage 2's config.")
    flags.DEFINE_float("sketch_strength", None, "Of what the sketch branch adds; 1 as in training.")
    flags.DEFINE_float("guidance_until", None, "Share of the timesteps below which scales are 1.")
    flags.DEFINE_float("strength", None, "How far a picture to begin from is noised, 0 to 1.")
    flags.DEFINE_string(
        "sampler",
        None,
        "ddim, dpm_solver_pp_2m, unipc, euler, heun or ddpm; default as Stage 2's config.",
    )
    flags.DEFINE_string(
        "checkpoint",
        None,
        "Of both stages: newest (the default), best (by config.best_metric) or a step. newest,4500 "
        "are Stage 1's and Stage 2's.",
    )
    flags.DEFINE_enum(
        "dtype", None, ["float32", "bfloat16"], "Of the computation; default as trained."
    )
    flags.DEFINE(
        PATH,
        "from",
        None,
        "A metadata.json, whose output is repeated; flags beside it override it.",
    )
    flags.DEFINE(PATH, "sketches", None, "A folder of sketches, instead of --sketch.")
    flags.DEFINE(
        PATH, "prompts", None, "Their prompts: .txt, .csv or .jsonl; default a .txt beside."
    )
    flags.DEFINE_integer("per_device", 1, "Sketches that a device draws together: faster on a GPU.")
    flags.DEFINE_bool(
        "vocabulary", False, "Prints the words that the model knows, and samples nothing."
    )
    flags.register_multi_flags_validator(
        ["output", "vocabulary"],
        lambda given: given["vocabulary"] or given["output"] is not None,
        message="Flag --output must have a value other than None.",
    )


COMPILING = "Compiling: half a minute or more, seconds where it was compiled before …"
OPTIONS = (
    *("steps", "guidance", "sketch_guidance", "sketch_strength", "guidance_until", "strength"),
    *("sampler", "stages"),
)


def main(argv: list[str]) -> None:
    """Reads, draws, writes."""
    if argv[1:]:
        raise UserError(f"{argv[1]!r} belongs to no flag; put quotes about words with spaces.")
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file it opens
    if FLAGS.vocabulary:
        print_vocabulary()
        return
    given = frozenset(name for name in FLAGS if FLAGS[name].present)  # without those of --from
    recorded_steps: dict[int, int] = {}
    if FLAGS["from"].value is not None:
        if FLAGS.sketches is not None:
            raise UserError("--from repeats one output and --sketches gives many; leave one out.")
        recorded_steps = set_recorded_flags(FLAGS, Path(FLAGS["from"].value))
    if FLAGS.sketches is None and FLAGS.sketch is None:
        raise UserError("There is nothing to draw; give --sketch=<file> or --sketches=<folder>.")
    if FLAGS.stage1 is None and FLAGS.stage2 is None:
        raise UserError("There is nothing to draw with; give --stage1, --stage2 or both.")
    if FLAGS.sketches is not None:
        draw_many(given)
    else:
        draw_one(given, recorded_steps)


def print_vocabulary() -> None:
    """The words of the stage whose vocabulary counts, the last."""
    from ragaf_jax.checkpoints.reading import load_meta
    from ragaf_jax.tokenizer import Tokenizer

    workdir = FLAGS.stage2 or FLAGS.stage1
    meta = None if workdir is None else load_meta(Path(workdir))
    if meta is None:
        raise UserError(
            f"--vocabulary prints the words of a checkpoint, and there is none in {workdir}; give "
            "the workdir of a stage by --stage1 or --stage2."
        )
    words = Tokenizer.from_json(meta["tokenizer"]).words()
    print("The model reads any text." if words is None else "\n".join(words))


def draw_one(given: Collection[str], recorded_steps: Mapping[int, int]) -> None:
    """Samples one sketch with all flags that it may have.

    Args:
      given: the names of the flags on the command line.
      recorded_steps: as `set_recorded_flags` returns them.
    """
    # What can be wrong with the sketch and the flags is said before JAX is loaded.
    from ragaf_jax.graph.regions import check_neck_splits
    from ragaf_jax.images import check_same_aspect, read_grey, read_rgb
    from ragaf_jax.sampling.command.flag_checks import (
        check_for_one,
        check_inputs_survive,
        unused_strength,
    )
    from ragaf_jax.sampling.command.tables import parse_merges, parse_regions
    from ragaf_jax.sampling.numbered import check_not_merged
    from ragaf_jax.sketch_input import read_sketch

    check_for_one(given)
    grey, region_prompts = read_grey(Path(FLAGS.sketch)), parse_regions(FLAGS.region)
    merges = parse_merges(FLAGS.merge)
    check_not_merged(region_prompts, merges)
    image = None if FLAGS.image is None else read_rgb(FLAGS.image)
    if image is not None:
        check_same_aspect(grey.shape, image.shape, Path(FLAGS.sketch), Path(FLAGS.image))
    if FLAGS.prompt is None and not FLAGS.regions_only:
        raise UserError(
            "--prompt is missing; say what the picture is to show, or --prompt= for nothing."
        )
    from ragaf_jax.figures.upscaled import check_upscale
    from ragaf_jax.sampling.command.step_bar import step_bar
    from ragaf_jax.sampling.options import check_count, check_seed, check_values
    from ragaf_jax.sampling.outputs import FILES, write_regions
    from ragaf_jax.sampling.recorded import INPUT_FILES, checkpoint_notices, file_facts
    from ragaf_jax.sampling.sketch_notices import sketch_notices

    check_values(asked())
    check_count(FLAGS.count)
    check_seed(FLAGS.seed)
    check_neck_splits(FLAGS.neck_splits)
    check_upscale(FLAGS.upscale)
    checkpoint = chosen_checkpoints(recorded_steps)
    output = Path(FLAGS.output).resolve()
    check_writable(output, FILES)
    check_inputs_survive(output, {name: FLAGS[name].value for name in ("sketch", "image")})
    pipeline = restored(devices=1, per_device=1, checkpoint=checkpoint)
    now = {number: stage.step for number, stage in pipeline.stages.items()}
    for notice in checkpoint_notices(recorded_steps, now):
        notify(notice)
    page = read_sketch(grey, pipeline.page_size, FLAGS.crop)
    drawing = changed(pipeline, pipeline.page(page, neck_splits=FLAGS.neck_splits), merges)
    files = file_facts({name: FLAGS[name].value for name in INPUT_FILES})  # all have been read
    if FLAGS.regions_only:
        with whole_folder(output) as folder:
            write_regions(folder, drawing)
        for notice in sketch_notices(drawing.given):
            notify(notice)
        print(FLAGS.output)
        return
    options = pipeline.options(**asked())
    for notice in unused_strength(given, options.stages, image is not None):
        notify(notice)
    notify(COMPILING)
    steps = pipeline.steps(options, FLAGS.count, image is not None)
    with step_bar(steps) as progress:
        result = pipeline(
            drawing,
            FLAGS.prompt,
            region_prompts,
            negative_prompt=FLAGS.negative_prompt,
            seed=FLAGS.seed,
            count=FLAGS.count,
            image=image,
            progress=progress,
            **asked(),
        )
    for notice in result.notices:
        notify(notice)
    facts: dict[str, Any] = {**files, "crop": FLAGS.crop, "upscale": FLAGS.upscale}
    facts |= {"merge": FLAGS.merge} if FLAGS.merge else {}
    result.save(output, facts | facts_of(pipeline), FLAGS.upscale)
    print(f"wrote {FLAGS.output}: {image_sizes(pipeline)}")


def draw_many(given: Collection[str]) -> None:
    """Samples a folder of sketches on all devices; `given` is as in `draw_one`."""
    from ragaf_jax.graph.regions import check_neck_splits
    from ragaf_jax.sampling.command.flag_checks import (
        check_batch_output,
        check_for_batch,
        unused_strength,
    )
    from ragaf_jax.sampling.command.tables import read_rows, sketch_files
    from ragaf_jax.sampling.options import check_seed, check_values, setting_notices

    check_for_batch(given)
    if FLAGS.regions_only:
        raise UserError("--regions-only is for one sketch; give --sketch.")
    check_batch_output(Path(FLAGS.output), Path(FLAGS.sketches))
    from ragaf_jax.figures.upscaled import check_upscale

    check_values(asked())
    check_seed(FLAGS.seed)
    check_neck_splits(FLAGS.neck_splits)
    check_upscale(FLAGS.upscale)
    checkpoint = chosen_checkpoints({})
    prompts = None if FLAGS.prompts is None else Path(FLAGS.prompts)
    rows = read_rows(Path(FLAGS.sketches), prompts)
    for name, reason in sketch_files(Path(FLAGS.sketches))[1].items():
        if Path(FLAGS.sketches, name).resolve() != Path(FLAGS.output).resolve():
            notify(f"skipped: {name} {reason}")
    pipeline = restored(devices=None, per_device=FLAGS.per_device, checkpoint=checkpoint)
    from ragaf_jax.sampling.command.many import batch_notices, run_batch

    options, output = pipeline.options(**asked()), Path(FLAGS.output)
    unused = unused_strength(given, options.stages, has_image=False)
    for notice in [*unused, *setting_notices(dataclasses.asdict(options))]:
        notify(notice)
    changes = {"crop": FLAGS.crop, "upscale": FLAGS.upscale, "neck_splits": FLAGS.neck_splits}
    done = run_batch(pipeline, rows, output, options, FLAGS.seed, facts_of(pipeline), **changes)
    for notice in batch_notices(done.notices):
        notify(notice)
    counts = f"{len(done.sampled)} drawn, {len(done.kept)} were there"
    print(f"{counts}: {FLAGS.output}: {image_sizes(pipeline)}")
    if done.failed:
        for name, why in done.failed.items():
            notify(f"{name}: {why}")
        raise UserError(f"{len(done.failed)} of {len(rows)} could not be drawn; see above.")


def chosen_checkpoints(recorded_steps: Mapping[int, int]) -> str:
    """The checkpoint of each stage: --checkpoint, else of the recorded step if it is kept.

    Args:
      recorded_steps: as `set_recorded_flags` returns them.

    Raises:
      UserError: --checkpoint names no checkpoint.
    """
    from ragaf_jax.checkpoints.choice import NEWEST, choices_of_stages
    from ragaf_jax.checkpoints.reading import saved_steps

    if FLAGS.checkpoint is not None:
        choices_of_stages(FLAGS.checkpoint)
        return FLAGS.checkpoint
    kept = {
        number: str(step)
        for number, step in recorded_steps.items()
        if step in saved_steps(Path(FLAGS[f"stage{number}"].value))
    }
    return ",".join(kept.get(number, NEWEST) for number in (1, 2))


def restored(devices: int | None, per_device: int, checkpoint: str) -> "Pipeline":
    """The stages that are given, of these checkpoints, on so many devices or on all."""
    import jax

    from ragaf_jax.runtime.gpu_memory import raise_share
    from ragaf_jax.runtime.heap import keep_freed_memory
    from ragaf_jax.sampling.pipeline import Pipeline

    raise_share()
    keep_freed_memory()
    notify("Reading the checkpoints …")
    where = {"devices": jax.devices()[:devices], "per_device": per_device}
    choices = {"dtype": FLAGS.dtype, "checkpoint": checkpoint}
    return Pipeline.restore(FLAGS.stage1, FLAGS.stage2, **choices, **where)


def changed(
    pipeline: "Pipeline", drawing: "SketchPage", merges: Sequence[Sequence[int]]
) -> "SketchPage":
    """The sketch with its regions as --labels and --merge (`merges`) have them."""
    from ragaf_jax.images import read_labels
    from ragaf_jax.sampling.numbered import merged, relabelled

    numbered = drawing.numbered
    if FLAGS.labels is not None:
        limit = pipeline.leading.model.max_regions - 1
        numbered = relabelled(numbered, read_labels(FLAGS.labels), limit)
    return drawing._replace(numbered=merged(numbered, merges) if merges else numbered)


def image_sizes(pipeline: "Pipeline") -> str:
    """The sizes of the images that are written, px."""
    side, larger = pipeline.leading.model.image_size, FLAGS.upscale
    native = f"{side} × {side} px images"
    return f"{native}, upscaled to {larger} px" if larger > side else native


def asked() -> dict[str, Any]:
    """The options as the flags have them."""
    return {name: FLAGS[name].value for name in OPTIONS}


def facts_of(pipeline: "Pipeline") -> dict[str, Any]:
    """Of the stages, for metadata.json."""
    dtype = {} if FLAGS.dtype is None else {"dtype": FLAGS.dtype}
    return dtype | {
        f"stage{i}": {
            "workdir": str(Path(FLAGS[f"stage{i}"].value).absolute()),
            "checkpoint_step": stage.step,
            "config": stage.config.to_dict(),
        }
        for i, stage in pipeline.stages.items()
    }


if __name__ == "__main__":
    define_flags()
    run_cli(main)
