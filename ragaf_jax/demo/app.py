"""The page: what is where, and what calls what."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ragaf_jax.demo.session import Session, begun, draw, flattened
from ragaf_jax.diffusion.samplers import SAMPLERS
from ragaf_jax.errors import UserError
from ragaf_jax.images import read_grey
from ragaf_jax.sampling.options import STAGES
from ragaf_jax.sampling.pipeline import Pipeline

# Fonts of the visitor's machine: the page loads nothing from elsewhere.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
CANVAS = 512
KEPT = 600, 3600  # s: every so often, uploads and pictures of such an age are deleted
TITLE = "RAGAF-JAX: from a sketch and words to a picture"

Example = tuple[Path, str]


def build(pipeline: Pipeline, examples: Sequence[Example] = ()) -> gr.Blocks:
    """The page of a pipeline.

    Args:
      pipeline: what draws; one visitor at a time.
      examples: sketches and prompts to begin with.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=KEPT) as page:
        gr.Markdown(f"# {TITLE}")
        session = gr.State(Session())
        with gr.Row():
            with gr.Column():
                gr.Markdown("**Draw**: take the brush at the left.")
                canvas = gr.Sketchpad(
                    show_label=False,
                    placeholder="",
                    canvas_size=(CANVAS, CANVAS),
                    fixed_canvas=True,
                    layers=False,
                    type="numpy",
                    brush=gr.Brush(default_size=6, colors=["#000000"], color_mode="fixed"),
                    elem_id="canvas",
                )
                upload = gr.File(label="or upload a drawing", type="filepath", elem_id="upload")
            with gr.Column():
                can = pipeline.binds_words
                said = ": click one, and say what it is to be" if can else ""
                gr.Markdown(f"**Its regions**{said}.")
                regions = gr.Image(
                    show_label=False,
                    buttons=[],
                    interactive=False,
                    format="png",
                    elem_id="regions",
                )
                with gr.Row(visible=can):
                    words = gr.Textbox(label="Words for a region", elem_id="words", scale=3)
                    speak = gr.Button("Say it", elem_id="speak", scale=1)
                spoken = gr.Markdown(Session().spoken, visible=can, elem_id="spoken")
            with gr.Column():
                prompt = gr.Textbox(label="Prompt", elem_id="prompt")
                negative = gr.Textbox(label="Not to be seen", elem_id="negative")
                with gr.Accordion("Settings", open=False):
                    fields = _settings(pipeline)
                with gr.Row():
                    start = gr.Button("Draw", variant="primary", elem_id="draw")
                    cancel = gr.Button("Cancel", elem_id="cancel")
                status = gr.Markdown("", elem_id="status")
        with gr.Row():
            stage1, stage2, attention = (
                gr.Image(label=label, interactive=False, format="png", elem_id=name)
                for label, name in (
                    ("Stage 1", "stage1"),
                    ("Stage 2", "stage2"),
                    ("What each region attended to", "attention"),
                )
            )
        gallery = gr.Gallery(
            [(str(file), text) for file, text in examples],
            label="Examples: click one",
            visible=bool(examples),
            columns=8,
            height=200,
            allow_preview=False,
            interactive=False,
            format="png",
            buttons=[],
            elem_id="examples",
        )

        def sketched(value: dict[str, Any] | None) -> tuple[Any, ...]:
            grey = None if value is None else flattened(value["composite"])
            return _begun(pipeline, grey)

        def uploaded(path: str | None) -> tuple[Any, ...]:
            with told():
                return _begun(pipeline, None if path is None else read_grey(path))

        def taken(place: gr.SelectData) -> tuple[Any, ...]:
            file, text = examples[place.index]
            return *uploaded(str(file)), text

        def clicked(now: Session, place: gr.SelectData) -> tuple[Any, ...]:
            figure = now.figure
            if figure is None:
                return now, gr.update()
            height, width = figure.shape[:2]
            now = now.choose(place.index[0] / width, place.index[1] / height)
            label = f"Words for region {now.chosen}"
            said = "" if now.chosen is None else now.words.get(now.chosen, "")
            return now, gr.update(label=label, value=said)

        def spoke(now: Session, phrase: str) -> tuple[Any, ...]:
            with told():
                now = now.speak(phrase)
            return now, now.spoken

        # Sessions whose drawing is to end. It ends itself, between two steps: what Gradio ends may
        # keep the one place in which is drawn.
        stopped: set[str | None] = set()

        def waits(request: gr.Request) -> str:
            stopped.discard(request.session_hash)
            return "Waiting for others …"

        def stops(request: gr.Request) -> None:
            stopped.add(request.session_hash)

        def drawn(
            request: gr.Request,
            now: Session,
            prompt: str,
            negative: str,
            seed: int | None,
            *values: Any,
        ) -> Iterator[tuple[Any, ...]]:
            asked = dict(zip(list(fields)[1:], values, strict=True))
            with told():
                for shown in draw(pipeline, now, prompt, negative, seed, **asked):
                    if request.session_hash in stopped:
                        stopped.discard(request.session_hash)
                        yield shown._replace(status="Cancelled.")
                        return
                    yield shown

        start_of = [session, regions, words, spoken]
        canvas.change(sketched, canvas, start_of, show_progress="hidden")
        upload.change(uploaded, upload, start_of, show_progress="hidden")
        gallery.select(taken, None, [*start_of, prompt], show_progress="hidden")
        regions.select(clicked, session, [session, words], show_progress="hidden")
        for event in (speak.click, words.submit):
            event(spoke, [session, words], [session, spoken], show_progress="hidden")
        waiting = start.click(waits, None, status, queue=False, show_progress="hidden")
        waiting.then(
            drawn,
            [session, prompt, negative, *fields.values()],
            [status, stage1, stage2, attention],
            concurrency_limit=1,
            show_progress="hidden",
        )
        cancel.click(stops, queue=False, show_progress="hidden")
    return page


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What a visitor got wrong is told in a sentence on the page."""
    try:
        yield
    except UserError as error:
        raise gr.Error(str(error), print_exception=False) from None


def _settings(pipeline: Pipeline) -> dict[str, Any]:
    """The seed, and the fields of `Options` with what they are by default."""
    usual, most = pipeline.options(), pipeline.leading.config.diffusion.steps
    stages = [name for name, needed in STAGES.items() if set(needed) <= set(pipeline.stages)]
    return {
        "seed": gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed"),
        "steps": gr.Slider(1, min(100, most), usual.steps, step=1, label="Steps"),
        "guidance": gr.Slider(0, 15, usual.guidance, label="Guidance by the words"),
        "sketch_guidance": gr.Slider(0, 5, usual.sketch_guidance, label="Guidance by the sketch"),
        "sketch_strength": gr.Slider(0, 2, usual.sketch_strength, label="Strength of the sketch"),
        "strength": gr.Slider(0, 1, usual.strength, label="How far Stage 1's picture is noised"),
        "sampler": gr.Dropdown(list(SAMPLERS), value=usual.sampler, label="Sampler"),
        "stages": gr.Radio(stages, value=usual.stages, label="Stages"),
    }


def _begun(pipeline: Pipeline, grey: np.ndarray | None) -> tuple[Any, ...]:
    """Session, regions, words and what is spoken, of a new sketch."""
    now = begun(pipeline, grey)
    return now, now.figure, gr.update(label="Words for a region", value=""), now.spoken
