"""A sketch and a prompt to pictures, by two trained stages.

    python -m ragaf_jax.sample --stage1=runs/om/stage1 --stage2=runs/om/stage2 \
        --sketch=dog.png --prompt="dog: large brown in the middle" --output=outputs/dog --seed=42

The output folder appears when all of it is written: sketch.png, regions.png, region_graph.png,
stage1_output.png, stage2_output.png, comparison.png, prompt.txt, metadata.json and, of a Stage 2
with RAGAF, attention_maps.png.
"""

import sys
from pathlib import Path

from absl import flags, logging

from ragaf_jax.errors import run_cli
from ragaf_jax.folders import check_writable, whole_folder

FLAGS = flags.FLAGS
flags.DEFINE_string("stage1", None, "Workdir of Stage 1.")
flags.DEFINE_string("stage2", None, "Workdir of Stage 2.")
flags.DEFINE_string("sketch", None, "Any image of a drawing, dark on light or light on dark.")
flags.DEFINE_string("prompt", None, "What the picture is to show; may be empty.")
flags.DEFINE_string("output", None, "Folder to be written; an earlier output is replaced.")
flags.DEFINE_integer("seed", 0, "The same seed and settings give the same pictures.")
flags.DEFINE_integer("steps", None, "Denoising steps of either stage; default as Stage 2's config.")
flags.DEFINE_float("guidance", None, "Scale of the text; default as Stage 2's config.")
flags.DEFINE_float("sketch_guidance", None, "Scale of the sketch; default as Stage 2's config.")
flags.DEFINE_float("guidance_until", None, "Share of the timesteps below which scales are 1.")
flags.DEFINE_float("strength", None, "How far Stage 2 noises Stage 1's picture, 0 to 1.")
flags.DEFINE_string(
    "sampler", None, "ddim, dpm_solver_pp_2m, euler or ddpm; default as Stage 2's config."
)
REQUIRED = ("stage1", "stage2", "sketch", "prompt", "output")
flags.mark_flags_as_required(REQUIRED)


def main(argv: list[str]) -> None:
    """Reads, draws, writes."""
    del argv
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file it opens
    # What can be wrong with the sketch and the flags is said before JAX is loaded.
    from ragaf_jax.images import read_grey
    from ragaf_jax.sketch_input import to_page

    grey = read_grey(Path(FLAGS.sketch))
    from ragaf_jax.compilation_cache import keep_compiled
    from ragaf_jax.sampling.outputs import FILES, write_outputs
    from ragaf_jax.sampling.pipeline import Pipeline
    from ragaf_jax.training.heap import keep_freed_memory

    output = Path(FLAGS.output).resolve()
    check_writable(output, FILES)
    keep_compiled()
    keep_freed_memory()
    print("Reading both checkpoints …", file=sys.stderr)
    pipeline = Pipeline.restore(Path(FLAGS.stage1), Path(FLAGS.stage2))
    print("Compiling and drawing, half a minute or more …", file=sys.stderr)
    page = to_page(grey, pipeline.page_size)
    result = pipeline(
        page,
        FLAGS.prompt,
        seed=FLAGS.seed,
        steps=FLAGS.steps,
        guidance=FLAGS.guidance,
        sketch_guidance=FLAGS.sketch_guidance,
        guidance_until=FLAGS.guidance_until,
        strength=FLAGS.strength,
        sampler=FLAGS.sampler,
    )
    for notice in result.notices:
        print(notice, file=sys.stderr)
    stages = {"stage1": pipeline.stage1, "stage2": pipeline.stage2}
    facts = {
        name: {
            "workdir": FLAGS[name].value,
            "checkpoint_step": stage.step,
            "config": stage.config.to_dict(),
        }
        for name, stage in stages.items()
    }
    with whole_folder(output) as folder:
        write_outputs(folder, page, FLAGS.prompt, result, {"sketch": FLAGS.sketch, **facts})
    print(FLAGS.output)


if __name__ == "__main__":
    run_cli(main)
