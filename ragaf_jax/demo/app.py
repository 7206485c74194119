"""The web page of a pipeline: its layout, connected with event handlers."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ragaf_jax.demo.canvas import (
    on_canvas,
    read_canvas,
    read_upload,
    resized_session,
    upload_sketch,
)
from ragaf_jax.demo.generation import Shown, generate, write_archive
from ragaf_jax.demo.layout import (
    CACHE_SECONDS,
    REGION_NEGATIVE,
    REGION_PROMPT,
    TITLE,
    Example,
    Layout,
    lay_out,
)
from ragaf_jax.demo.number_fields import (
    NECK_SPLITS_FIELD,
    NumberField,
    checked_settings,
    size_fields,
)
from ragaf_jax.demo.session import Session
from ragaf_jax.demo.sliders import with_networks
from ragaf_jax.errors import UserError
from ragaf_jax.graph.regions import NECK_SPLITS
from ragaf_jax.sampling.lora.settings import Lora, Loras
from ragaf_jax.sampling.pipeline import Pipeline

QUEUED = "Queued …"

# Events that change a session run one at a time, so that none overwrites another's change.
IN_TURN: dict[str, Any] = {
    "concurrency_id": "session",
    "concurrency_limit": 1,
    "show_progress": "hidden",
}

# Gradio's canvas starts without a tool, so the mouse would draw nothing.
SELECT_BRUSH = """() => {
  const brush = () => document.querySelector('#canvas [aria-label="Brush"]');
  const timer = setInterval(() => {
    if (brush()) { clearInterval(timer); brush().click(); }
  }, 50);
}"""


def build(
    pipeline: Pipeline, examples: Sequence[Example] = (), loras: Loras | None = None
) -> gr.Blocks:
    """Builds the page, with sliders for `loras`; one visitor samples at a time."""
    options = pipeline.options(loras=loras or ())
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=CACHE_SECONDS, fill_width=True
    ) as page:
        layout = lay_out(pipeline, examples, options)
        page.load(None, js=SELECT_BRUSH)
        _connect_sketch(pipeline, layout, examples)
        _connect_regions(layout)
        _connect_generation(pipeline, layout, options.loras)
    return page


def _connect_sketch(pipeline: Pipeline, layout: Layout, examples: Sequence[Example]) -> None:
    def change(value: dict[str, Any] | None, session: Session, neck_splits: float | None) -> Any:
        with _errors_shown():
            now = _read(pipeline, session, value, neck_splits)
        return gr.skip() if now is session else (now, *_shown_after(session, now), now.notice)

    fields = size_fields(pipeline.leading.model.sizes)

    def upload(path: str | None, neck_splits: float | None, *sides: float | None) -> Any:
        with _errors_shown():
            splits, (width, height) = _number(neck_splits), _sides(fields, sides)
            now = Session()
            if path is not None:
                now = upload_sketch(pipeline, read_upload(path), splits, width, height)
        return on_canvas(now), now, *_shown(now), now.notice

    def resize(session: Session, neck_splits: float | None, *sides: float | None) -> Any:
        with _errors_shown():
            splits, (width, height) = _number(neck_splits), _sides(fields, sides)
            now = resized_session(pipeline, session, width, height, splits)
        return gr.skip() if now is session else (on_canvas(now), now, *_shown(now), now.notice)

    def choose_example(
        neck_splits: float | None,
        width: float | None,
        height: float | None,
        place: gr.SelectData,
    ) -> tuple[Any, ...]:
        file, prompt = examples[place.index]
        return *upload(str(file), neck_splits, width, height), prompt

    regions = [*_region_outputs(layout), layout.status]
    inputs = [layout.canvas, layout.session, layout.neck_splits]
    for event in (layout.canvas.change, layout.neck_splits.submit, layout.neck_splits.blur):
        event(change, inputs, regions, **IN_TURN)
    placed, shown = [layout.neck_splits, layout.width, layout.height], [layout.canvas, *regions]
    uploaded = layout.upload.upload(upload, [layout.upload, *placed], shown, **IN_TURN)
    chosen = layout.examples.select(choose_example, placed, [*shown, layout.prompt], **IN_TURN)
    for event in (uploaded, chosen):
        _clear_after_error(event, layout)
    for field in (layout.width, layout.height):
        for event in (field.submit, field.blur):
            event(resize, [layout.session, *placed], shown, **IN_TURN)


def _connect_regions(layout: Layout) -> None:
    def click(session: Session, place: gr.SelectData) -> tuple[Any, ...]:
        now, figure = session, session.figure
        if figure is not None:
            height, width = figure.shape[:2]
            now = now.click(place.index[0] / width, place.index[1] / height)
        return now, *_shown(now)

    def apply(session: Session, text: str, negative: str) -> tuple[Any, ...]:
        with _errors_shown():
            now = session.apply(text, negative)
        return now, *_shown(now)

    def merge(session: Session) -> tuple[Any, ...]:
        with _errors_shown():
            now = session.begin_merge()
        return now, *_shown_after(session, now)

    def unmerge(session: Session) -> tuple[Any, ...]:
        with _errors_shown():
            now = session.unmerge()
        return now, *_shown_after(session, now)

    texts = [layout.session, layout.region_prompt, layout.region_negative]
    for event, function in (
        (layout.regions.select, click),
        (layout.merge.click, merge),
        (layout.unmerge.click, unmerge),
    ):
        event(function, layout.session, _region_outputs(layout), **IN_TURN)
    fields = layout.region_prompt, layout.region_negative
    for event in (layout.apply.click, *(field.submit for field in fields)):
        event(apply, texts, _region_outputs(layout), **IN_TURN)


def _connect_generation(pipeline: Pipeline, layout: Layout, loras: Sequence[Lora]) -> None:
    # Sessions that cancelled. Sampling stops itself between two steps, because an event that Gradio
    # cancels may keep its place in the queue.
    stopped: set[str | None] = set()

    def start(
        request: gr.Request,
        value: dict[str, Any] | None,
        session: Session,
        neck_splits: float | None,
    ) -> tuple[Any, ...]:
        stopped.discard(request.session_hash)
        # The last change event of the canvas may not have arrived yet.
        with _errors_shown():
            now = _read(pipeline, session, value, neck_splits)
        return now, *_shown_after(session, now), QUEUED

    def stop(request: gr.Request) -> None:
        stopped.add(request.session_hash)

    def sample(
        request: gr.Request,
        session: Session,
        prompt: str,
        negative_prompt: str,
        seed: float | None,
        *values: Any,
    ) -> Iterator[tuple[Any, ...]]:
        with tempfile.TemporaryDirectory() as folder, _errors_shown():
            settings = dict(zip(layout.settings, (seed, *values), strict=True))
            settings = with_networks(settings, loras, pipeline.controls)
            settings = checked_settings(settings, pipeline.leading.config.diffusion.steps)
            for shown in generate(pipeline, session, prompt, negative_prompt, **settings):
                if request.session_hash in stopped:
                    stopped.discard(request.session_hash)
                    yield _outputs(shown._replace(status="Cancelled."), Path(folder))
                    return
                yield _outputs(shown, Path(folder))

    sampled = layout.generate.click(
        start,
        [layout.canvas, layout.session, layout.neck_splits],
        [*_region_outputs(layout), layout.status],
        **IN_TURN,
    ).then(
        sample,
        [layout.session, layout.prompt, layout.negative, *layout.settings.values()],
        [layout.status, layout.images, layout.coarse, layout.attention, layout.download],
        api_name="generate",
        concurrency_limit=1,
        show_progress="hidden",
    )
    _clear_after_error(sampled, layout)
    layout.cancel.click(stop, queue=False, show_progress="hidden")


def _clear_after_error(event: Any, layout: Layout) -> None:
    """Clears the status after an error, which is shown separately."""
    event.failure(lambda: "", None, layout.status, queue=False, show_progress="hidden")


def _outputs(shown: Shown, folder: Path) -> tuple[Any, ...]:
    """Values of the components for one step; at the end, also writes the archive."""
    archive = None if shown.result is None else str(write_archive(shown.result, folder))
    download = gr.update(value=archive, interactive=archive is not None)
    return shown.status, list(shown.images), list(shown.coarse), shown.attention, download


def _read(
    pipeline: Pipeline, session: Session, value: dict[str, Any] | None, neck_splits: float | None
) -> Session:
    """The session with the current canvas and `neck_splits`."""
    layers = None if value is None else value["composite"]
    return read_canvas(pipeline, session, layers, _number(neck_splits))


def _number(neck_splits: float | None) -> float:
    """The value of the field; the default if it is empty."""
    value = NECK_SPLITS_FIELD.checked(neck_splits)
    return NECK_SPLITS if value is None else value


def _sides(fields: Mapping[str, NumberField], values: Sequence[float | None]) -> list[int | None]:
    """Width and height of the fields; None where one is 0 or empty."""
    pairs = zip(fields.values(), values, strict=True)
    return [field.checked(value) or None for field, value in pairs]


def _region_outputs(layout: Layout) -> list[Any]:
    """The components for a session and the values of `_shown`."""
    return [
        layout.session,
        layout.regions,
        layout.region_prompt,
        layout.region_negative,
        layout.region_prompts,
        layout.merge,
    ]


def _shown(session: Session) -> tuple[Any, ...]:
    """Values of the region figure, both text fields, the list of prompts and the merge button."""
    chosen = "" if session.chosen is None else f" (region {session.chosen})"
    merge = "Cancel merge" if session.merging else "Merge"
    prompt = gr.update(label=REGION_PROMPT + chosen, value=session.prompt)
    negative = gr.update(label=REGION_NEGATIVE + chosen, value=session.negative)
    return session.figure, prompt, negative, _listed(session), gr.update(value=merge)


def _shown_after(before: Session, now: Session) -> tuple[Any, ...]:
    """As `_shown`, but without replacing unsaved text of the chosen region."""
    figure, *fields, listed, merge = _shown(now)
    if before.chosen is not None and now.chosen is not None:
        fields = [gr.update(label=field["label"]) for field in fields]
    return figure, *fields, listed, merge


def _listed(session: Session) -> str:
    """The region prompts, or the next action, in Markdown."""
    if session.merging:
        return f"Click the region to merge with region {session.chosen}."
    listed = []
    for number in sorted({*session.prompts, *session.negatives}):
        text = f"**{number}** {session.prompts.get(number, '')}".rstrip()
        negative = session.negatives.get(number)
        listed.append(f"{text} (negative: {negative})" if negative else text)
    return f"Region prompts: {' · '.join(listed)}" if listed else ""


@contextlib.contextmanager
def _errors_shown() -> Iterator[None]:
    """Shows a `UserError` on the page."""
    try:
        yield
    except UserError as error:
        raise gr.Error(str(error), print_exception=False) from None
