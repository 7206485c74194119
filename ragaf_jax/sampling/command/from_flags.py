"""Converts flags of `ragaf_jax.sample` to options, checkpoints, a pipeline and edited regions."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from ragaf_jax.errors import UserError, notify
from ragaf_jax.paths import PATH
from ragaf_jax.sampling.recorded import OPTION_FLAGS

if TYPE_CHECKING:
    from ragaf_jax.framing import Size
    from ragaf_jax.sampling.controls.settings import ControlPlace
    from ragaf_jax.sampling.pipeline import Pipeline
    from ragaf_jax.sampling.request import SketchPage

FLAGS = flags.FLAGS

# Flags that are arguments of `Pipeline.read`.
FRAMING_FLAGS = "crop", "width", "height", "letterbox"


def define_stage_flags(checkpoint: str | None, alone: str = "it starts from noise") -> None:
    """Defines the flags of the stages to restore.

    Args:
      checkpoint: the default of --checkpoint.
      alone: what Stage 2 does without Stage 1.
    """
    flags.DEFINE(PATH, "stage1", None, "Workdir of Stage 1; alone, its image is the result.")
    flags.DEFINE(PATH, "stage2", None, f"Workdir of Stage 2; alone, {alone}.")
    flags.DEFINE_string(
        "checkpoint",
        checkpoint,
        "newest (default), best (by config.best_metric) or a step, for both stages; newest,4500 "
        "selects Stage 1's and Stage 2's.",
    )
    flags.DEFINE_multi_string(
        "lora",
        [],
        "LoRA file with strengths in UNet and text encoder, such as style.safetensors=0.8,0.5; one "
        "number is for both, the default 1; may be repeated.",
    )
    flags.DEFINE_multi(
        PATH,
        flags.ArgumentSerializer(),
        "embedding",
        [],
        "Textual inversion (.safetensors), or a folder of them, for prompts to name; repeatable.",
    )
    flags.DEFINE_enum(
        "dtype", None, ["float32", "bfloat16"], "Of the computation; default: as trained."
    )
    flags.DEFINE(PATH, "vae", None, "VAE in place of the stages' own: a folder, file or hub id.")
    flags.DEFINE_multi_string(
        "control",
        [],
        "ControlNet beside the sketch branch: PATH, PATH=STRENGTH or PATH=STRENGTH,START,END, with "
        "shares of the steps. A last ,guess scales its residuals as in diffusers' guess mode; "
        "factors of its residuals are separated by slashes.",
    )


def option_flags() -> dict[str, Any]:
    """The fields of `Options` by name; None where a flag is not given."""
    from ragaf_jax.sampling.lora.settings import parse_loras

    options = {name: FLAGS[name].value for name in OPTION_FLAGS}
    return options | {"loras": parse_loras(FLAGS.lora)}


def control_places() -> list["ControlPlace"]:
    """The ControlNets of --control."""
    from ragaf_jax.sampling.controls.settings import parse_control

    return [parse_control(text) for text in FLAGS.control]


def control_images() -> list[str | None]:
    """The files of --control_image, None for an empty value, which selects the sketch.

    Raises:
      UserError: more images than ControlNets.
    """
    if len(FLAGS.control_image) > len(FLAGS.control):
        raise UserError(
            f"--control_image is given {len(FLAGS.control_image)} times and --control "
            f"{len(FLAGS.control)} times; give at most one image for each ControlNet, in their "
            "order."
        )
    return [file or None for file in FLAGS.control_image]


def check_settings() -> None:
    """Refuses numbers out of their ranges and unknown names, without a checkpoint."""
    from ragaf_jax.figures.upscaled import check_upscale
    from ragaf_jax.graph.regions import check_neck_splits
    from ragaf_jax.sampling.options import check_count, check_seed, check_values

    check_values(option_flags() | {"controls": [place.settings for place in control_places()]})
    check_count(FLAGS.count)
    check_seed(FLAGS.seed)
    check_neck_splits(FLAGS.neck_splits)
    check_upscale(FLAGS.upscale)


def print_vocabulary() -> None:
    """Prints the vocabulary of the last given stage."""
    from ragaf_jax.checkpoints.reading import load_meta
    from ragaf_jax.tokenizer import Tokenizer

    workdir = FLAGS.stage2 or FLAGS.stage1
    meta = None if workdir is None else load_meta(Path(workdir))
    if meta is None:
        raise UserError(
            f"--vocabulary needs a checkpoint, and there is none in {workdir}; give the workdir of "
            "a stage by --stage1 or --stage2."
        )
    words = Tokenizer.from_json(meta["tokenizer"]).words()
    print("The model accepts any text." if words is None else "\n".join(words))


def checkpoint_choice(recorded_steps: Mapping[int, int]) -> str:
    """The checkpoints of both stages: --checkpoint, or the recorded steps that still exist.

    Raises:
      UserError: --checkpoint names no checkpoint.
    """
    from ragaf_jax.checkpoints.choice import NEWEST, choices_of_stages
    from ragaf_jax.checkpoints.reading import saved_steps

    if FLAGS.checkpoint is not None:
        choices_of_stages(FLAGS.checkpoint)
        return FLAGS.checkpoint
    existing = {
        number: str(step)
        for number, step in recorded_steps.items()
        if step in saved_steps(Path(FLAGS[f"stage{number}"].value))
    }
    return ",".join(existing.get(number, NEWEST) for number in (1, 2))


def restore_pipeline(devices: int | None, per_device: int, checkpoint: str) -> "Pipeline":
    """The given stages from these checkpoints, on the first `devices`; None: on all."""
    import jax

    from ragaf_jax.runtime.gpu_memory import raise_share
    from ragaf_jax.runtime.heap import keep_freed_memory
    from ragaf_jax.sampling.pipeline import Pipeline

    raise_share()
    keep_freed_memory()
    notify("Loading the checkpoints …")
    where = {"devices": jax.devices()[:devices], "per_device": per_device}
    choices = {"dtype": FLAGS.dtype, "checkpoint": checkpoint}
    choices |= {"vae": FLAGS.vae, "controls": control_places()}
    pipeline = Pipeline.restore(FLAGS.stage1, FLAGS.stage2, **choices, **where)
    load_embeddings(pipeline)
    return pipeline


def load_embeddings(pipeline: "Pipeline") -> None:
    """Loads the textual inversions of --embedding, and prints their names."""
    notify(*pipeline.load_embeddings(*FLAGS.embedding))
    if found := pipeline.embeddings.values():
        names = (f"{x.name} ({len(x.vectors)} vector{'s' * (len(x.vectors) > 1)})" for x in found)
        notify(f"Embeddings, for prompts to name: {', '.join(names)}.")


def with_edited_regions(
    pipeline: "Pipeline", page: "SketchPage", merges: Sequence[Sequence[int]]
) -> "SketchPage":
    """The page with the regions of --labels, merged by `merges`."""
    from ragaf_jax.images import read_labels
    from ragaf_jax.sampling.numbered import merged, relabelled

    numbered = page.numbered
    if FLAGS.labels is not None:
        limit = pipeline.leading.model.max_regions - 1
        numbered = relabelled(numbered, read_labels(FLAGS.labels), limit)
    return page._replace(numbered=merged(numbered, merges) if merges else numbered)


def stage_facts(pipeline: "Pipeline") -> dict[str, Any]:
    """Entries of metadata.json about the stages."""
    dtype = {} if FLAGS.dtype is None else {"dtype": FLAGS.dtype}
    return dtype | {
        f"stage{i}": {
            "workdir": str(Path(FLAGS[f"stage{i}"].value).absolute()),
            "checkpoint_step": stage.step,
            "config": stage.config.to_dict(),
        }
        for i, stage in pipeline.stages.items()
    }


def framing_flags() -> dict[str, Any]:
    """The arguments of `Pipeline.read`."""
    return {name: FLAGS[name].value for name in FRAMING_FLAGS}


def image_sizes(sizes: "Collection[Size]") -> str:
    """The heights and widths of the written images, px, as a phrase: width × height."""
    native = ", ".join(sorted(f"{width} × {height}" for height, width in {*sizes})[:3])
    native += f" and {more} more sizes" if (more := len({*sizes}) - 3) > 0 else ""
    larger = FLAGS.upscale > max((max(size) for size in sizes), default=FLAGS.upscale)
    return f"{native} px images" + (f", upscaled to {FLAGS.upscale} px" if larger else "")
