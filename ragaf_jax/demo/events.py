"""The event handlers of the page."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ragaf_jax.demo.canvas import on_canvas, read_canvas, read_upload, upload_sketch
from ragaf_jax.demo.generation import Shown, generate, write_archive
from ragaf_jax.demo.layout import REGION_PROMPT, Example, Layout
from ragaf_jax.demo.number_fields import NECK_SPLITS_FIELD, checked_settings
from ragaf_jax.demo.session import Session
from ragaf_jax.errors import UserError
from ragaf_jax.graph.regions import NECK_SPLITS
from ragaf_jax.sampling.pipeline import Pipeline

QUEUED = "Queued …"

# Of events that change a session: one after the other, so that none undoes what another did.
IN_TURN: dict[str, Any] = {
    "concurrency_id": "session",
    "concurrency_limit": 1,
    "show_progress": "hidden",
}

# Gradio's canvas begins without a tool, and a mouse leaves nothing on it.
TAKE_BRUSH = """() => {
  const brush = () => document.querySelector('#canvas [aria-label="Brush"]');
  const timer = setInterval(() => {
    if (brush()) { clearInterval(timer); brush().click(); }
  }, 50);
}"""


def connect(
    page: gr.Blocks, pipeline: Pipeline, parts: Layout, examples: Sequence[Example]
) -> None:
    """Connects the components with functions; one visitor at a time samples."""
    page.load(None, js=TAKE_BRUSH)
    _connect_sketch(pipeline, parts, examples)
    _connect_regions(parts)
    _connect_generation(pipeline, parts)


def _connect_sketch(pipeline: Pipeline, parts: Layout, examples: Sequence[Example]) -> None:
    def change(value: dict[str, Any] | None, session: Session, neck_splits: float | None) -> Any:
        with _errors_shown():
            now = _read(pipeline, session, value, neck_splits)
        return gr.skip() if now is session else (now, *_shown_after(session, now), now.notice)

    def upload(path: str | None, neck_splits: float | None) -> tuple[Any, ...]:
        with _errors_shown():
            splits = _number(neck_splits)
            now = Session() if path is None else upload_sketch(pipeline, read_upload(path), splits)
        return on_canvas(now, pipeline.page_size), now, *_shown(now), now.notice

    def choose_example(neck_splits: float | None, place: gr.SelectData) -> tuple[Any, ...]:
        file, prompt = examples[place.index]
        return *upload(str(file), neck_splits), prompt

    regions = [*_region_outputs(parts), parts.status]
    inputs = [parts.canvas, parts.session, parts.neck_splits]
    for event in (parts.canvas.change, parts.neck_splits.submit, parts.neck_splits.blur):
        event(change, inputs, regions, **IN_TURN)
    uploaded = parts.upload.upload(
        upload, [parts.upload, parts.neck_splits], [parts.canvas, *regions], **IN_TURN
    )
    chosen = parts.examples.select(
        choose_example, parts.neck_splits, [parts.canvas, *regions, parts.prompt], **IN_TURN
    )
    for event in (uploaded, chosen):
        _clear_after_error(event, parts)


def _connect_regions(parts: Layout) -> None:
    def click(session: Session, place: gr.SelectData) -> tuple[Any, ...]:
        now, figure = session, session.figure
        if figure is not None:
            height, width = figure.shape[:2]
            now = now.click(place.index[0] / width, place.index[1] / height)
        return now, *_shown(now)

    def apply(session: Session, text: str) -> tuple[Any, ...]:
        with _errors_shown():
            now = session.apply(text)
        return now, *_shown(now)

    def merge(session: Session) -> tuple[Any, ...]:
        with _errors_shown():
            now = session.begin_merge()
        return now, *_shown_after(session, now)

    def unmerge(session: Session) -> tuple[Any, ...]:
        with _errors_shown():
            now = session.unmerge()
        return now, *_shown_after(session, now)

    text = [parts.session, parts.region_prompt]
    for event, function in (
        (parts.regions.select, click),
        (parts.merge.click, merge),
        (parts.unmerge.click, unmerge),
    ):
        event(function, parts.session, _region_outputs(parts), **IN_TURN)
    for event in (parts.apply.click, parts.region_prompt.submit):
        event(apply, text, _region_outputs(parts), **IN_TURN)


def _connect_generation(pipeline: Pipeline, parts: Layout) -> None:
    # Sessions whose sampling is to end. It ends itself, between two steps: an event that Gradio
    # ends may keep the one place in which is sampled.
    stopped: set[str | None] = set()

    def start(
        request: gr.Request,
        value: dict[str, Any] | None,
        session: Session,
        neck_splits: float | None,
    ) -> tuple[Any, ...]:
        stopped.discard(request.session_hash)
        # The canvas' last change may still be on its way.
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
            settings = dict(zip(parts.settings, (seed, *values), strict=True))
            settings = checked_settings(settings, pipeline.leading.config.diffusion.steps)
            for shown in generate(pipeline, session, prompt, negative_prompt, **settings):
                if request.session_hash in stopped:
                    stopped.discard(request.session_hash)
                    yield _outputs(shown._replace(status="Cancelled."), Path(folder))
                    return
                yield _outputs(shown, Path(folder))

    sampled = parts.generate.click(
        start,
        [parts.canvas, parts.session, parts.neck_splits],
        [*_region_outputs(parts), parts.status],
        **IN_TURN,
    ).then(
        sample,
        [parts.session, parts.prompt, parts.negative, *parts.settings.values()],
        [parts.status, parts.images, parts.coarse, parts.attention, parts.download],
        api_name="generate",
        concurrency_limit=1,
        show_progress="hidden",
    )
    _clear_after_error(sampled, parts)
    parts.cancel.click(stop, queue=False, show_progress="hidden")


def _clear_after_error(event: Any, parts: Layout) -> None:
    """The status of what was attempted goes; the error itself is shown on its own."""
    event.failure(lambda: "", None, parts.status, queue=False, show_progress="hidden")


def _outputs(shown: Shown, folder: Path) -> tuple[Any, ...]:
    """What a step shows, and at the end all files; those are written into the folder."""
    archive = None if shown.result is None else str(write_archive(shown.result, folder))
    return (
        shown.status,
        list(shown.images),
        list(shown.coarse),
        shown.attention,
        gr.update(value=archive, interactive=archive is not None),
    )


def _read(
    pipeline: Pipeline,
    session: Session,
    value: dict[str, Any] | None,
    neck_splits: float | None,
) -> Session:
    """The session with the values of the canvas and of the field for splits."""
    layers = None if value is None else value["composite"]
    return read_canvas(pipeline, session, layers, _number(neck_splits))


def _number(neck_splits: float | None) -> float:
    """Of an empty field, the default."""
    value = NECK_SPLITS_FIELD.checked(neck_splits)
    return NECK_SPLITS if value is None else value


def _region_outputs(parts: Layout) -> list[Any]:
    """The components of a session and of what `_shown` returns."""
    return [
        parts.session,
        parts.regions,
        parts.region_prompt,
        parts.region_prompts,
        parts.merge,
    ]


def _shown(session: Session) -> tuple[Any, ...]:
    """The regions, the field of the chosen region's prompt, all prompts, the button for merging."""
    chosen = session.chosen
    label = REGION_PROMPT if chosen is None else f"{REGION_PROMPT} (region {chosen})"
    merge = "Keep apart" if session.merging else "Merge"
    field = gr.update(label=label, value=session.prompt)
    return session.figure, field, _listed(session), gr.update(value=merge)


def _shown_after(before: Session, now: Session) -> tuple[Any, ...]:
    """The same, where a text that is being written for the chosen region stays."""
    figure, field, *others = _shown(now)
    if before.chosen is not None and now.chosen is not None:
        field = gr.update(label=field["label"])
    return figure, field, *others


def _listed(session: Session) -> str:
    """The prompts of regions, or what to do next, in Markdown."""
    if session.merging:
        return f"Click the region that is to be one with region {session.chosen}."
    prompts = (f"**{number}** {text}" for number, text in sorted(session.prompts.items()))
    return f"Region prompts: {' · '.join(prompts)}" if session.prompts else ""


@contextlib.contextmanager
def _errors_shown() -> Iterator[None]:
    """Shows a visitor's mistake as a sentence on the page."""
    try:
        yield
    except UserError as error:
        raise gr.Error(str(error), print_exception=False) from None
