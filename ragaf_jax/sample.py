r"""Samples images from a sketch and a prompt, or from a folder of sketches.

    python -m ragaf_jax.sample --stage1=runs/om/stage1 --stage2=runs/om/stage2 \
        --sketch=dog.png --prompt="dog: large brown in the middle" \
        --output=outputs/dog --seed=42

    # Find the numbers of the regions, then write region prompts.
    … --sketch=house.png --regions-only --output=outputs/house
    … --sketch=house.png --prompt=house --output=outputs/house \
        --region 3="red brick wall" --region 5="oak door" --merge 2,7

    # Repeat an output with another seed.
    … --from=outputs/house/metadata.json --seed=7 --output=outputs/again

    # Add LoRA files, with strengths in UNet and text encoder.
    … --lora=style.safetensors=0.8,0.5 --lora=detail.safetensors=0.6

    # Print the vocabulary of the model.
    … --vocabulary

    # Sample a folder of sketches on all devices.
    … --sketches=sketches --prompts=prompts.csv --output=outputs

The output folder appears once it is complete. It contains sketch.png,
regions.png, region_graph.png, stage1_output.png, stage2_output.png,
stage2_upscaled.png, comparison.png, prompt.txt, metadata.json, regions.json and
labels.png. Stage 2 with RAGAF adds attention_maps.png and fusion.png. Images
have the sketch's proportions and the area at which the stages were trained:
64 × 64 px for pretrained/openmoji; --width and --height choose another size.
--upscale resamples them and overlays the sketch's lines.
"""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from absl import flags, logging

from ragaf_jax.errors import UserError, notify, run_cli
from ragaf_jax.folders import check_writable, whole_folder
from ragaf_jax.paths import PATH
from ragaf_jax.sampling.command import flag_checks, from_flags
from ragaf_jax.sampling.recorded import set_recorded_flags

FLAGS = flags.FLAGS
_COMPILING = "Compiling: 30 s or more, or a few seconds if it was compiled before …"


def define_flags() -> None:
    """Defines the flags of this command."""
    from_flags.define_stage_flags(None, alone="it samples from noise or --image")
    flags.adopt_module_key_flags(from_flags)  # else --help omits them
    for name, text in {
        "sketch": "Image of the sketch, dark on light or light on dark.",
        "output": "Output folder; an earlier output in it is replaced.",
        "labels": "Edited labels.png: each pixel is a region's number.",
        "image": "Image to start from instead of noise; see --strength.",
        "from": "metadata.json of an output to repeat; other flags override it.",
        "sketches": "Folder of sketches, instead of --sketch.",
        "prompts": "Prompts of --sketches: .txt, .csv, .jsonl; default: a .txt beside each sketch.",
    }.items():
        flags.DEFINE(PATH, name, None, text)
    for name, text in {
        "guidance": "Guidance scale of the text; default: the last stage's config.",
        "sketch_guidance": "Guidance scale of the sketch; default: the last stage's config.",
        "sketch_strength": "Scale of the sketch branch's output; 1 as in training.",
        "guidance_until": "Fraction of the timesteps below which both scales are 1.",
        "strength": "Noise added to a stage's starting image: 0 none, 1 pure noise.",
        "sketch_start": "Share of the steps before which the sketch branch has no effect.",
        "sketch_end": "Share of the steps after which the sketch branch has no effect.",
        "region_base_ratio": "Weight of the prompt in regions with their own, 0 … 1 (attention).",
        "region_end": "Share of the steps after which all cells attend to the prompt (attention).",
    }.items():
        flags.DEFINE_float(name, None, text)
    flags.DEFINE_string(
        "sketch_levels",
        None,
        "Factor of each of the sketch branch's residuals, finest first, such as 0.5,0.5,1,1; even: "
        "1 for all; guess: 0.1 to 1, and none without the prompt, as diffusers' guess mode.",
    )
    flags.DEFINE_multi_string(
        "control_image",
        [],
        "Image of the --control at the same place; empty or missing: the sketch.",
    )
    flags.DEFINE_string("prompt", None, "Description of the image; may be empty.")
    flags.DEFINE_string("negative_prompt", "", "What the image should not contain.")
    flags.DEFINE_multi_string("region", [], 'Prompt of one region, such as 3="red brick wall"')
    flags.DEFINE_multi_string("negative_region", [], "Negative prompt of one region: 3=windows")
    flags.DEFINE_enum(
        "region_method",
        None,
        ["auto", "ragaf", "attention"],
        "How region prompts act: by a trained RAGAF, or by cross-attention that is restricted by "
        "region, which needs no training; auto (default): by RAGAF if it is used.",
    )
    flags.DEFINE_multi_string("merge", [], "Regions to merge, such as 2,7")
    flags.DEFINE_float(
        "neck_splits",
        1.0,
        "How readily areas are split at narrow openings. 0: only closed outlines separate regions; "
        "1: as in training; larger values also split at wider openings.",
    )
    flags.DEFINE_bool("regions_only", False, "Writes the numbered regions and samples no image.")
    flags.DEFINE_integer("seed", 0, "The same seed and settings give the same image.")
    flags.DEFINE_integer("count", 1, "Number of images; their seeds are seed, seed + 1 …")
    flags.DEFINE_bool(
        "crop", True, "Crops the sketch to its ink where the ink spans less than half the page."
    )
    for name in ("width", "height"):
        flags.DEFINE_integer(
            name,
            None,
            f"{name.capitalize()} of the image, px; default: by the sketch's proportions, at about "
            "the area of the training images.",
        )
    flags.DEFINE_bool(
        "letterbox", False, "Centres the sketch on a square of the training images' size."
    )
    flags.DEFINE_integer(
        "upscale", 512, "Longer side, px, of an upscaled image with the sketch's lines; 0: none."
    )
    flags.DEFINE_enum(
        "stages", None, ["both", "1", "2"], "Stages that sample; default: all that are given."
    )
    flags.DEFINE_integer(
        "steps", None, "Denoising steps of each stage; default: the last stage's config."
    )
    flags.DEFINE_string(
        "sampler",
        None,
        "ddim, pndm, dpm_solver_pp_2m, dpm_solver_pp_2m_sde, dpm_solver_pp_sde, unipc, euler, "
        "euler_ancestral, heun, ddpm or lcm; default: the last stage's config.",
    )
    flags.DEFINE_enum(
        "sigmas",
        None,
        ["uniform", "karras", "exponential"],
        "Noise levels of the steps; default: the last stage's config.",
    )
    flags.DEFINE_integer(
        "clip_skip", None, "Last layers of the text encoder to skip; default: as in training."
    )
    for name, text in {
        "original_size": "Size before cropping, such as 1216x832, that SDXL's UNet reads; default: "
        "the image's.",
        "crop_top_left": "Top and left of the crop, px, that SDXL's UNet reads; default: 0,0.",
        "target_size": "Size of the image that SDXL's UNet reads; default: the image's.",
    }.items():
        flags.DEFINE_string(name, None, text)
    flags.DEFINE_integer(
        "per_device", 1, "Sketches that a device samples together; more are faster on a GPU."
    )
    flags.DEFINE_bool("vocabulary", False, "Prints the model's vocabulary and samples no image.")
    flags.register_multi_flags_validator(
        ["output", "vocabulary"],
        lambda given: given["vocabulary"] or given["output"] is not None,
        message="Flag --output must have a value other than None.",
    )


def main(argv: list[str]) -> None:
    """Samples one sketch or a folder of sketches."""
    if argv[1:]:
        raise UserError(
            f"The argument {argv[1]!r} is not a flag; put values with spaces in quotes."
        )
    logging.set_verbosity(logging.WARNING)  # Orbax logs every file that it opens
    if FLAGS.vocabulary:
        from_flags.print_vocabulary()
        return
    given = frozenset(name for name in FLAGS if FLAGS[name].present)  # without those of --from
    recorded_steps: dict[int, int] = {}
    if FLAGS["from"].value is not None:
        if FLAGS.sketches is not None:
            raise UserError("--from repeats one output and --sketches samples many; omit one.")
        recorded_steps = set_recorded_flags(FLAGS, Path(FLAGS["from"].value))
    if FLAGS.sketches is None and FLAGS.sketch is None:
        raise UserError("No sketch is given; give --sketch=<file> or --sketches=<folder>.")
    if FLAGS.stage1 is None and FLAGS.stage2 is None:
        raise UserError("No stage is given; give --stage1, --stage2 or both.")
    if FLAGS.sketches is not None:
        sample_folder(given)
    else:
        sample_sketch(given, recorded_steps)


def sample_sketch(given: Collection[str], recorded_steps: Mapping[int, int]) -> None:
    """Samples one sketch.

    Args:
      given: the names of the flags on the command line.
      recorded_steps: as `set_recorded_flags` returns them.
    """
    # Errors in the sketch and the flags are reported before JAX is imported.
    from ragaf_jax.images import read_grey, read_images
    from ragaf_jax.sampling.command.batch_requests import parse_merges, parse_regions
    from ragaf_jax.sampling.numbered import check_not_merged

    flag_checks.check_for_one(given)
    grey, region_prompts = read_grey(Path(FLAGS.sketch)), parse_regions(FLAGS.region)
    negatives = parse_regions(FLAGS.negative_region, "negative_region")
    merges = parse_merges(FLAGS.merge)
    check_not_merged({*region_prompts, *negatives}, merges)
    flag_checks.check_letterbox(FLAGS.width, FLAGS.height, FLAGS.letterbox)
    control_images = from_flags.control_images()
    image, *_ = read_images([FLAGS.image, *control_images], grey.shape, FLAGS.sketch)
    if FLAGS.prompt is None and not FLAGS.regions_only:
        raise UserError(
            "--prompt is missing; describe the image, or give --prompt= for an empty prompt."
        )
    from ragaf_jax.sampling.command.step_bar import step_bar
    from ragaf_jax.sampling.outputs import FILES, write_regions
    from ragaf_jax.sampling.recorded import (
        INPUT_FILES,
        check_weights,
        checkpoint_notices,
        file_facts,
    )
    from ragaf_jax.sampling.sketch_notices import sketch_notices

    from_flags.check_settings()
    checkpoint = from_flags.checkpoint_choice(recorded_steps)
    output = Path(FLAGS.output).resolve()
    check_writable(output, FILES)
    flag_checks.check_inputs_survive(
        output, {name: FLAGS[name].value for name in ("sketch", "image")}
    )
    for file in filter(None, FLAGS.control_image):
        flag_checks.check_inputs_survive(output, {"control_image": file})
    pipeline = from_flags.restore_pipeline(devices=1, per_device=1, checkpoint=checkpoint)
    if FLAGS["from"].value is not None:
        check_weights(Path(FLAGS["from"].value), pipeline.weight_facts(), given)
    steps = {number: stage.step for number, stage in pipeline.stages.items()}
    notify(*checkpoint_notices(recorded_steps, steps))
    sketch = pipeline.read(grey, **from_flags.framing_flags())
    page = pipeline.page(sketch, neck_splits=FLAGS.neck_splits)
    page = from_flags.with_edited_regions(pipeline, page, merges)
    files = file_facts({name: FLAGS[name].value for name in INPUT_FILES})  # all have been read
    if FLAGS.regions_only:
        with whole_folder(output) as folder:
            write_regions(folder, page)
        notify(*sketch_notices(page.given))
        print(FLAGS.output)
        return
    options = pipeline.options(**from_flags.option_flags())
    notify(*pipeline.lora_notices(options))
    notify(*flag_checks.unused_strength(given, options.stages, image is not None))
    notify(_COMPILING)
    with step_bar(pipeline.steps(options, FLAGS.count, image is not None)) as progress:
        result = pipeline(
            page,
            FLAGS.prompt,
            region_prompts,
            negative_prompt=FLAGS.negative_prompt,
            region_negative_prompts=negatives,
            seed=FLAGS.seed,
            count=FLAGS.count,
            image=image,
            control_images=control_images,
            progress=progress,
            **from_flags.option_flags(),
        )
    notify(*result.notices)
    facts: dict[str, Any] = {**files, "crop": FLAGS.crop, "upscale": FLAGS.upscale}
    facts |= {"merge": FLAGS.merge} if FLAGS.merge else {}
    result.save(output, facts | from_flags.stage_facts(pipeline), FLAGS.upscale)
    print(f"wrote {FLAGS.output}: {from_flags.image_sizes([page.size])}")


def sample_folder(given: Collection[str]) -> None:
    """Samples a folder of sketches on all devices; `given` is as in `sample_sketch`."""
    from ragaf_jax.sampling.command.batch_requests import read_requests, sketch_files

    flag_checks.check_for_batch(given)
    if FLAGS.regions_only:
        raise UserError("--regions-only is for one sketch; give --sketch instead of --sketches.")
    flag_checks.check_letterbox(FLAGS.width, FLAGS.height, FLAGS.letterbox)
    flag_checks.check_batch_output(Path(FLAGS.output), Path(FLAGS.sketches))
    from_flags.check_settings()
    checkpoint = from_flags.checkpoint_choice({})
    prompts = None if FLAGS.prompts is None else Path(FLAGS.prompts)
    requests = read_requests(Path(FLAGS.sketches), prompts)
    for name, reason in sketch_files(Path(FLAGS.sketches))[1].items():
        if Path(FLAGS.sketches, name).resolve() != Path(FLAGS.output).resolve():
            notify(f"skipped: {name} {reason}")
    pipeline = from_flags.restore_pipeline(
        devices=None, per_device=FLAGS.per_device, checkpoint=checkpoint
    )
    from ragaf_jax.sampling.command.many import batch_notices, run_batch

    options, output = pipeline.options(**from_flags.option_flags()), Path(FLAGS.output)
    unused = flag_checks.unused_strength(given, options.stages, has_image=False)
    about = pipeline.setting_notices(dataclasses.asdict(options))
    notify(*pipeline.lora_notices(options), *unused, *about)
    changes = {"upscale": FLAGS.upscale, "neck_splits": FLAGS.neck_splits}
    changes |= from_flags.framing_flags()
    facts = from_flags.stage_facts(pipeline)
    done = run_batch(pipeline, requests, output, options, FLAGS.seed, facts, **changes)
    notify(*batch_notices(done.notices))
    counts = f"{len(done.sampled)} sampled, {len(done.existing)} existed before"
    sizes = f": {from_flags.image_sizes(done.sizes)}" if done.sizes else ""
    print(f"{counts}: {FLAGS.output}{sizes}")
    if done.failed:
        notify(*(f"{name}: {why}" for name, why in done.failed.items()))
        raise UserError(
            f"{len(done.failed)} of {len(requests)} sketches could not be sampled; see above."
        )


if __name__ == "__main__":
    define_flags()
    run_cli(main)
