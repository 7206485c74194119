"""The components of the page and their layout, without event handlers."""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from ragaf_jax.demo.canvas import canvas_size
from ragaf_jax.demo.number_fields import (
    NECK_SPLITS_FIELD,
    NumberField,
    number_fields,
    size_fields,
)
from ragaf_jax.demo.session import Session
from ragaf_jax.demo.sliders import Slider, control_sliders, lora_sliders
from ragaf_jax.diffusion.noise_grid import SIGMAS
from ragaf_jax.diffusion.samplers import SAMPLERS
from ragaf_jax.framing import Size
from ragaf_jax.graph.regions import NECK_SPLITS
from ragaf_jax.sampling.controls.settings import EVEN, GUESS
from ragaf_jax.sampling.micro_conditioning import SETTINGS
from ragaf_jax.sampling.options import REGION_METHODS, STAGES, Options
from ragaf_jax.sampling.pipeline import Pipeline

TITLE = "RAGAF-JAX"
REGION_PROMPT, REGION_NEGATIVE = "Region prompt", "Region negative prompt"
CACHE_SECONDS = 600, 3600  # interval and least age for deletion of uploads and images

# Label and hint of each of `SETTINGS`.
SIZE_FIELDS = {
    "original_size": ("Original size (width x height)", "as the image"),
    "crop_top_left": ("Crop (top,left)", "0,0"),
    "target_size": ("Target size (width x height)", "as the image"),
}
STAGE_NAMES = {"both": "Both", "1": "Stage 1", "2": "Stage 2"}
METHOD_NAMES = {"auto": "Automatic", "ragaf": "RAGAF", "attention": "Attention"}

# Images fill the height of the window.
SKETCH_HEIGHT, RESULT_HEIGHT = "calc(max(660px, 100vh) - 384px)", "calc(max(660px, 100vh) - 250px)"

# Options of components that show images.
IMAGE: dict[str, Any] = {"show_label": False, "interactive": False, "format": "png"}
RESULT = {**IMAGE, "height": RESULT_HEIGHT, "buttons": ["fullscreen", "download"]}

Example = tuple[Path, str]


class Layout(NamedTuple):
    """The components that `app` connects with functions."""

    session: gr.State
    canvas: gr.Sketchpad
    upload: gr.UploadButton
    examples: gr.Gallery
    regions: gr.Image
    region_prompt: gr.Textbox
    region_negative: gr.Textbox
    apply: gr.Button
    merge: gr.Button
    unmerge: gr.Button
    region_prompts: gr.Markdown
    prompt: gr.Textbox
    negative: gr.Textbox
    neck_splits: gr.Number
    width: gr.Number
    height: gr.Number
    settings: dict[str, Any]
    images: gr.Gallery
    coarse: gr.Gallery
    attention: gr.Image
    generate: gr.Button
    cancel: gr.Button
    download: gr.DownloadButton
    status: gr.Markdown


def lay_out(pipeline: Pipeline, examples: Sequence[Example], options: Options) -> Layout:
    """Creates all components within an open `gr.Blocks`."""
    side, with_ragaf = pipeline.leading.model.image_size, pipeline.has_ragaf
    gr.HTML(
        f"<b>{TITLE}</b> Sketch and text → image <span>native size {side} × {side} px</span>",
        elem_id="title",
        padding=False,
    )
    session = gr.State(Session())
    with gr.Row():
        with gr.Column(scale=8, min_width=560):
            with gr.Row():
                with gr.Column(min_width=270):
                    sketch = _sketch(canvas_size((side, side)), examples)
                    listed = gr.Markdown("", elem_id="region_prompts")
                with gr.Column(min_width=270):
                    regions = _regions()
            inputs = _inputs(pipeline, examples, options)
        with gr.Column(scale=5, min_width=320):
            results = _results(len(pipeline.stages) == 2, with_ragaf)
    return Layout(session=session, region_prompts=listed, **sketch, **regions, **inputs, **results)


def _heading(text: str) -> None:
    gr.HTML(f'<div class="heading">{text}</div>', padding=False)


def _sketch(size: Size, examples: Sequence[Example]) -> dict[str, Any]:
    _heading("Sketch: draw, upload or choose an example" if examples else "Sketch: draw or upload")
    canvas = gr.Sketchpad(
        label="Sketch",
        show_label=False,
        placeholder=" ",
        height=SKETCH_HEIGHT,
        canvas_size=size[::-1],
        fixed_canvas=False,  # the canvas takes the size of an uploaded sketch's page
        layers=False,
        transforms=(),
        type="numpy",
        format="png",
        brush=gr.Brush(default_size=6, colors=["#000000"], color_mode="fixed"),
        eraser=gr.Eraser(default_size=24),
        elem_id="canvas",
    )
    with gr.Row(elem_id="sources"):
        upload = gr.UploadButton(
            "Upload", type="filepath", size="sm", scale=1, min_width=80, elem_id="upload"
        )
        gallery = gr.Gallery(
            [str(file) for file, _ in examples],
            visible=bool(examples),
            columns=max(1, len(examples)),
            height=40,
            container=False,
            scale=5,
            min_width=200,
            allow_preview=False,
            buttons=[],
            elem_id="examples",
            **IMAGE,
        )
    return {"canvas": canvas, "upload": upload, "examples": gallery}


def _regions() -> dict[str, Any]:
    _heading("Regions: click one to describe it")
    parts: dict[str, Any] = {}
    parts["regions"] = gr.Image(height=SKETCH_HEIGHT, buttons=[], elem_id="regions", **IMAGE)
    with gr.Row():
        with gr.Column(scale=3, min_width=160, elem_id="region_texts"):
            for name, label, hint in (
                ("region_prompt", REGION_PROMPT, "select a region, then describe it"),
                ("region_negative", REGION_NEGATIVE, "what it should not contain"),
            ):
                parts[name] = gr.Textbox(
                    label=label, placeholder=hint, max_lines=1, min_width=160, elem_id=name
                )
        with gr.Column(scale=1, min_width=100, elem_id="region_buttons"):
            for name in ("apply", "merge", "unmerge"):
                parts[name] = gr.Button(name.capitalize(), size="sm", min_width=50, elem_id=name)
    return parts


def _inputs(pipeline: Pipeline, examples: Sequence[Example], options: Options) -> dict[str, Any]:
    words = pipeline.leading.tokenizer.words()
    names = ", ".join(one.name for one in pipeline.embeddings.values())
    known = f"Embeddings: {names}. " * bool(names) + " ".join(words or ())
    parts: dict[str, Any] = {}
    with gr.Tabs(elem_id="inputs"):
        with gr.Tab("Prompt"), gr.Row():
            example = f"for example: {examples[0][1]}" if examples else ""
            for name, label, hint in (
                ("prompt", "Prompt", example),
                ("negative", "Negative prompt", ""),
            ):
                parts[name] = gr.Textbox(
                    label=label, placeholder=hint, lines=3, max_lines=3, elem_id=name
                )
        with gr.Tab("Settings", render_children=True), gr.Row(elem_id="settings"):
            parts["settings"] = _settings(pipeline, options)
            for name, field in size_fields(pipeline.leading.model.sizes).items():
                parts[name] = _number(field, 0, elem_id=name)
        with gr.Tab("Regions", render_children=True), gr.Row(elem_id="region_settings"):
            parts["settings"] |= _region_settings(pipeline, options)
            parts["neck_splits"] = _number(NECK_SPLITS_FIELD, NECK_SPLITS, elem_id="neck_splits")
        with gr.Tab("Sketch branch", render_children=True), gr.Row(elem_id="sketch_settings"):
            parts["settings"] |= _sketch_settings(pipeline, options)
        sizes = gr.Tab("Sizes", visible=pipeline.reads_sizes, render_children=True)
        with sizes, gr.Row(elem_id="size_settings"):
            parts["settings"] |= _size_settings(options)
        with gr.Tab("LoRA", visible=bool(options.loras), render_children=True):
            notices = map(html.escape, pipeline.lora_notices(options))
            pairs = zip(notices, lora_sliders(options.loras), strict=True)
            parts["settings"] |= _sliders("loras", pairs)
        with gr.Tab("ControlNets", visible=bool(pipeline.controls), render_children=True):
            paths = (html.escape(one.files.where) for one in pipeline.controls)
            pairs = zip(paths, control_sliders(pipeline.controls), strict=True)
            parts["settings"] |= _sliders("controls", pairs)
        with gr.Tab("Vocabulary", visible=bool(known)):
            gr.HTML(html.escape(known), elem_id="words", padding=False)
    return parts


def _results(two_stages: bool, attention_maps: bool) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Tabs(elem_id="results"):
        with gr.Tab("Result"):
            parts["images"] = gr.Gallery(object_fit="contain", elem_id="result", **RESULT)
        with gr.Tab("Stage 1", visible=two_stages, render_children=True):
            parts["coarse"] = gr.Gallery(object_fit="contain", elem_id="stage1", **RESULT)
        with gr.Tab("Attention", visible=attention_maps, render_children=True):
            parts["attention"] = gr.Image(elem_id="attention", **RESULT)
    with gr.Row():
        parts["generate"] = gr.Button("Generate", variant="primary", scale=3, elem_id="generate")
        parts["cancel"] = gr.Button("Cancel", scale=1, min_width=80, elem_id="cancel")
        parts["download"] = gr.DownloadButton(
            "Download .zip", scale=2, min_width=120, interactive=False, elem_id="download"
        )
    parts["status"] = gr.Markdown("", elem_id="status")
    return parts


def _settings(pipeline: Pipeline, defaults: Options) -> dict[str, Any]:
    """Seed, number of images, and most fields of `Options` with their defaults."""
    fields = number_fields(pipeline.leading.config.diffusion.steps)
    stages = [name for name, needed in STAGES.items() if set(needed) <= set(pipeline.stages)]
    samplers = [(sampler.title, name) for name, sampler in SAMPLERS.items()]
    names = [(STAGE_NAMES[name], name) for name in stages]
    two, encoder = len(pipeline.stages) == 2, pipeline.leading.model.text_encoder
    deep = pipeline.leading.tokenizer.words() is None  # CLIP's, not a small one

    return {
        "seed": _number(fields["seed"], 0, elem_id="seed"),
        "count": _number(fields["count"], 1),
        "steps": _number(fields["steps"], defaults.steps),
        "sampler": gr.Dropdown(samplers, value=defaults.sampler, label="Sampler", min_width=130),
        "sigmas": gr.Dropdown(
            [(name.capitalize(), name) for name in SIGMAS],
            value=defaults.sigmas,
            label="Sigmas",
            min_width=130,
        ),
        "stages": gr.Dropdown(
            names, value=defaults.stages, label="Stages", visible=two, min_width=130
        ),
        "guidance": _number(fields["guidance"], defaults.guidance),
        "strength": _number(fields["strength"], defaults.strength, visible=two),
        "clip_skip": _number(fields["clip_skip"], encoder.clip_skip, visible=deep),
    }


def _region_settings(pipeline: Pipeline, defaults: Options) -> dict[str, Any]:
    """How region prompts act."""
    fields = number_fields(pipeline.leading.config.diffusion.steps)
    methods = [name for name in REGION_METHODS if name != "ragaf" or pipeline.has_ragaf]
    return {
        "region_method": gr.Dropdown(
            [(METHOD_NAMES[name], name) for name in methods],
            value=defaults.region_method,
            label="Region prompts by",
            min_width=130,
        ),
        "region_base_ratio": _number(fields["region_base_ratio"], defaults.region_base_ratio),
        "region_end": _number(fields["region_end"], defaults.region_end),
    }


def _sketch_settings(pipeline: Pipeline, defaults: Options) -> dict[str, Any]:
    """Guidance of the sketch; strength, steps and levels of its branch."""
    fields = number_fields(pipeline.leading.config.diffusion.steps)
    levels = [("as trained", EVEN), ("guess mode", GUESS)]
    return {
        "sketch_guidance": _number(fields["sketch_guidance"], defaults.sketch_guidance),
        "sketch_strength": _number(fields["sketch_strength"], defaults.sketch_strength),
        "sketch_start": _number(fields["sketch_start"], defaults.sketch_start),
        "sketch_end": _number(fields["sketch_end"], defaults.sketch_end),
        "sketch_levels": gr.Dropdown(levels, value=EVEN, label="Levels", min_width=130),
    }


def _size_settings(defaults: Options) -> dict[str, Any]:
    """The sizes that SDXL's UNet reads; empty fields have the image's."""
    found = {}
    for name in SETTINGS:
        label, hint = SIZE_FIELDS[name]
        value = getattr(defaults, name)
        found[name] = gr.Textbox(
            value, label=label, placeholder=hint, max_lines=1, min_width=130, elem_id=name
        )
    return found


def _sliders(name: str, groups: Iterable[tuple[str, Mapping[str, Slider]]]) -> dict[str, Any]:
    """The sliders of each network, below the HTML that describes it."""
    parts = {}
    with gr.Column(elem_id=name):
        for description, sliders in groups:
            gr.HTML(description, padding=False)
            with gr.Row():
                for name, (label, value, least, most) in sliders.items():
                    parts[name] = gr.Slider(
                        least, most, value, step=0.05, label=label, min_width=130, elem_id=name
                    )
    return parts


def _number(field: NumberField, value: int | float, **options: Any) -> gr.Number:
    """A field without Gradio's range check, which `NumberField.checked` replaces."""
    return gr.Number(value, label=field.label, step=field.step, min_width=130, **options)
