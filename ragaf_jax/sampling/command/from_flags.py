"""Converts flags of `ragaf_jax.sample` to options, checkpoints, a pipeline and edited regions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from ragaf_jax.errors import UserError, notify
from ragaf_jax.paths import PATH
from ragaf_jax.sampling.recorded import OPTION_FLAGS

if TYPE_CHECKING:
    from ragaf_jax.sampling.pipeline import Pipeline
    from ragaf_jax.sampling.request import SketchPage

FLAGS = flags.FLAGS


def define_stage_flags(checkpoint: str | None) -> None:
    """Defines the flags of the stages to restore; `checkpoint` is the default of --checkpoint."""
    flags.DEFINE(PATH, "stage1", None, "Workdir of Stage 1; alone, its image is the result.")
    flags.DEFINE(PATH, "stage2", None, "Workdir of Stage 2; alone, it starts from noise.")
    flags.DEFINE_string(
        "checkpoint",
        checkpoint,
        "newest (default), best (by config.best_metric) or a step, for both stages; newest,4500 "
        "selects Stage 1's and Stage 2's.",
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


def option_flags() -> dict[str, Any]:
    """The fields of `Options` by name; None where a flag is not given."""
    return {name: FLAGS[name].value for name in OPTION_FLAGS}


def check_settings() -> None:
    """Refuses numbers out of their ranges and unknown names, without a checkpoint."""
    from ragaf_jax.figures.upscaled import check_upscale
    from ragaf_jax.graph.regions import check_neck_splits
    from ragaf_jax.sampling.options import check_count, check_seed, check_values

    check_values(option_flags())
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


def image_sizes(pipeline: "Pipeline") -> str:
    """The sizes of the written images, px, as a phrase."""
    side, larger = pipeline.leading.model.image_size, FLAGS.upscale
    native = f"{side} × {side} px images"
    return f"{native}, upscaled to {larger} px" if larger > side else native
