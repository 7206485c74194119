r"""Exports a trained stage for diffusers, its LoRA alone, or all its parameters.

    python -m ragaf_jax.export --workdir=runs/sd/stage1 --format=diffusers \
        --output=exported
    python -m ragaf_jax.export --workdir=runs/om/stage1 --format=orbax \
        --dtype=bfloat16 --output=pretrained/openmoji/stage1

The output folder appears once it is complete. It has controlnet/, unet/ and
text_encoder/, where the stage has them also text_encoder_2/ (of SDXL), vae/,
lora/ and ragaf/, each with a README.md; tokenizer/, for SDXL also
tokenizer_2/, and scheduler/. controlnet.safetensors is the sketch branch of a
Stable Diffusion 1 or 2 in the original layout, for A1111 and ComfyUI. A
complete folder can be loaded by
`StableDiffusionControlNetPipeline.from_pretrained` or, of SDXL,
`StableDiffusionXLControlNetPipeline.from_pretrained`. With --format=orbax it
is a minimal workdir, for sampling, evaluation and the start of Stage 2.
"""

import json
import re
import sys
from pathlib import Path

import ml_collections
import numpy as np
from absl import flags, logging

from ragaf_jax.checkpoints.choice import NEWEST, check_choice
from ragaf_jax.checkpoints.parameters import save_parameters
from ragaf_jax.checkpoints.reading import load_params
from ragaf_jax.errors import UserError, run_cli
from ragaf_jax.folders import check_writable, whole_folder
from ragaf_jax.losses.terms import TERMS
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.text.sdxl import SdxlTextConfig
from ragaf_jax.partition import cast
from ragaf_jax.paths import PATH
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.weights.card import model_card
from ragaf_jax.weights.configs import schedulers
from ragaf_jax.weights.save import CONTROL_FILE, PARTS, pipeline_index, write_json, writers

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE(PATH, "workdir", None, "Workdir of the stage.")
    flags.DEFINE_enum(
        "format",
        "diffusers",
        ["diffusers", "kohya", "orbax"],
        "kohya: the LoRA alone; orbax: a workdir for RAGAF-JAX.",
    )
    flags.DEFINE(PATH, "output", None, "Output folder; an earlier export in it is replaced.")
    flags.DEFINE_string("checkpoint", NEWEST, "newest, best (by config.best_metric) or a step.")
    flags.DEFINE_list("parts", [], f"Some of {', '.join(PARTS.values())}; default: all.")
    flags.DEFINE_enum(
        "dtype", "float32", ["float32", "float16", "bfloat16"], "Of the stored parameters."
    )
    flags.DEFINE_bool("merge_lora", False, "Merges the LoRA into its networks.")
    flags.mark_flags_as_required(("workdir", "output"))


ENTRIES = {*PARTS.values(), "tokenizer", "tokenizer_2", "scheduler"}
ENTRIES |= {"model_index.json", "README.md", "config.json", "checkpoints"}
_WHOLE = ["vae", "text_encoder", "tokenizer", "unet", "controlnet", "scheduler"]
_WHOLE_XL = [*_WHOLE, "text_encoder_2", "tokenizer_2"]

USAGE = {
    "controlnet": "controlnet = diffusers.ControlNetModel.from_pretrained({path!r})",
    CONTROL_FILE: "controlnet = diffusers.ControlNetModel.from_single_file({path!r})",
    "unet": "unet = diffusers.UNet2DConditionModel.from_pretrained({path!r})",
    "vae": "vae = diffusers.AutoencoderKL.from_pretrained({path!r})",
    "text_encoder": "text_encoder = transformers.CLIPTextModel.from_pretrained({path!r})",
    "text_encoder_2": (
        "text_encoder_2 = transformers.CLIPTextModelWithProjection.from_pretrained({path!r})"
    ),
    "lora": "pipeline.load_lora_weights({path!r})  # into a pipeline of the adapted model",
    "ragaf": "tensors = safetensors.numpy.load_file('{path}/model.safetensors')",
}
STAGE = """import pathlib
from ragaf_jax.sampling.stages import Stage
stage = Stage.restore(pathlib.Path({path!r}), {number})"""
# Text states are zero in diffusers without a negative prompt, and here also with an empty one.
CALL_XL = """
# sketch: white lines on black; leave out an empty negative_prompt
image = pipeline(prompt, image=sketch, guidance_scale={guidance:g}{skip}).images[0]"""
DESCRIPTIONS = {
    "controlnet": "the sketch branch",
    CONTROL_FILE: "the sketch branch in the original layout, for A1111 and ComfyUI",
    "unet": "the denoising network",
    "vae": "the autoencoder between images and latents",
    "text_encoder": "CLIP's text transformer",
    "text_encoder_2": "OpenCLIP's text transformer with the projection of the pooled text",
    "lora": "low-rank adapters",
    "ragaf": "region-adaptive graph-attention fusion, with the names of RAGAF-JAX's modules",
}


# Logged metrics of the model; others describe the run.
_CARD = re.compile(rf"loss|denoising|{'|'.join(TERMS)}|validation/.*|response/(sketch|graph|text)")


def measured(workdir: Path, number: int, step: int) -> dict[str, float]:
    """The last metrics that Stage `number` logged up to a step, and those of its evaluation."""
    numbers: dict[str, float] = {}
    log = workdir / "logs" / "metrics.jsonl"
    if log.exists():
        for line in log.read_text().splitlines():
            logged = json.loads(line)
            if logged["step"] <= step:
                numbers |= {name: value for name, value in logged.items() if _CARD.fullmatch(name)}
    evaluation = workdir / "evaluation" / "metrics.json"
    if evaluation.exists():
        found = json.loads(evaluation.read_text())
        if found.get("steps", {}).get(f"stage {number}", step) != step:
            return numbers
        for stage, scores in found["metrics"].items():
            for name, estimate in scores.items():
                numbers[f"{stage}: {name}"] = estimate["value"]
    return numbers


def _pipeline_usage(path: str, kind: str, config: ml_collections.ConfigDict) -> str:
    """Python code that loads diffusers' pipeline of class `kind` and, of SDXL, calls it."""
    skip = f"clip_skip={config.model.clip_skip}" if config.model.clip_skip else ""
    if "XL" in kind:
        skip = f", {skip}" if skip else ""
        call = CALL_XL.format(guidance=config.sample.guidance, skip=skip)
    else:
        call = f"  # and in every call: {skip}" if skip else ""
    return f"pipeline = diffusers.{kind}.from_pretrained({path!r}){call}"


def main(argv: list[str]) -> None:
    """Exports the averaged parameters of a checkpoint."""
    del argv
    logging.set_verbosity(logging.WARNING)
    workdir, output = Path(FLAGS.workdir), Path(FLAGS.output).resolve()
    check_choice(FLAGS.checkpoint, "--checkpoint")
    check_writable(output, ENTRIES)
    print("Loading the checkpoint …", file=sys.stderr)
    params, meta = load_params(workdir, checkpoint=FLAGS.checkpoint)
    # Local paths are of no use to others.
    meta["config"]["stage1"], meta["config"]["data"]["dir"] = "", "data"

    number, step = meta["config"]["stage"], int(meta["step"])

    def card(title: str, parts: list[str], usage: str) -> str:
        metrics = measured(workdir, number, step)
        return model_card(title, parts, usage, meta["config"], step, metrics)

    if FLAGS.format == "orbax":
        if FLAGS.parts or FLAGS.merge_lora:
            raise UserError(
                "--format=orbax writes all parameters as they are; leave out --parts and "
                "--merge_lora."
            )
        usage = STAGE.format(path=output.name, number=number)
        with whole_folder(output) as folder:
            # A VAE that computes in float32 keeps it.
            upcast = meta["config"]["model"]["vae"].get("force_upcast", False)
            stored = {
                name: cast(tree, np.float32 if upcast and name == "autoencoder" else FLAGS.dtype)
                for name, tree in params.items()
            }
            save_parameters(folder, stored, meta, None)
            text = card(output.name, [f"Stage {number}, all parameters"], usage)
            (folder / "README.md").write_text(text)
        print(FLAGS.output)
        return
    config = ml_collections.ConfigDict(meta["config"])
    model = build_model(config)
    written = writers(model, params, FLAGS.dtype, FLAGS.format, FLAGS.merge_lora)
    made = {PARTS[name]: write for name, write in written.items()}
    if FLAGS.format == "kohya" and FLAGS.merge_lora:
        raise UserError(
            "--format=kohya writes the LoRA alone and --merge_lora leaves none; choose one of them."
        )
    everything = ["lora"] if FLAGS.format == "kohya" else list(made)
    parts = list(dict.fromkeys(FLAGS.parts or everything))
    if FLAGS.format == "kohya" and parts != ["lora"]:
        raise UserError(
            f"--format=kohya writes the LoRA alone and --parts has {', '.join(parts)}; leave one "
            "of them out."
        )
    if unknown := [name for name in parts if name not in made]:
        raise UserError(
            f"--parts has {', '.join(unknown)} and {workdir} has {', '.join(made)}; choose from "
            "the latter" + ("." if "lora" in made else "; a LoRA needs config.model.lora.patterns.")
        )

    encoders = model.text_encoder.config
    sdxl = encoders if isinstance(encoders, SdxlTextConfig) else None
    with whole_folder(output) as folder:
        for name in parts:
            print(f"Writing {name} …", file=sys.stderr)
            if name == CONTROL_FILE:
                made[name](folder / name)
                continue
            (folder / name).mkdir()
            made[name](folder / name)
            usage = USAGE[name].format(path=f"{output.name}/{name}")
            (folder / name / "README.md").write_text(card(name, [DESCRIPTIONS[name]], usage))
        scheduler = schedulers.scheduler_json(config.diffusion.to_dict())
        if FLAGS.format == "diffusers" and not FLAGS.parts:
            (folder / "scheduler").mkdir()
            write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
            tokenizer = Tokenizer.from_json(meta["tokenizer"])
            tokenizer.save_pretrained(folder / "tokenizer")
            if sdxl is not None:
                second = tokenizer.padded_with(sdxl.padding)
                second.save_pretrained(folder / "tokenizer_2")
        shown = {name: name if name == CONTROL_FILE else f"{name}/" for name in parts}
        lines = [f"`{shown[name]}`: {DESCRIPTIONS[name]}" for name in parts]
        usage = "\n".join(USAGE[name].format(path=f"{output.name}/{name}") for name in parts)
        whole = _WHOLE if sdxl is None else _WHOLE_XL
        if set(whole) <= {path.name for path in folder.iterdir()}:
            zeros = sdxl is None or sdxl.zero_empty
            index = pipeline_index(whole, scheduler["_class_name"], zeros)
            write_json(folder / "model_index.json", index)
            pipeline = _pipeline_usage(output.name, index["_class_name"], config)
            usage = f"{pipeline}\n\n# or each part alone\n{usage}"
        (folder / "README.md").write_text(card(output.name, lines, usage))
    print(FLAGS.output)


if __name__ == "__main__":
    define_flags()
    run_cli(main)
