"""What happens between page and pipeline: plain functions, which know nothing of the browser."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from ragaf_jax.errors import UserError
from ragaf_jax.graph.draw import draw_regions
from ragaf_jax.lettering import Picture, enlarge
from ragaf_jax.sampling.attention_figure import attention_maps
from ragaf_jax.sampling.drawn import Finished, result_of
from ragaf_jax.sampling.options import check_seed
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.request import SketchPage, wording
from ragaf_jax.sketch_input import read_sketch

# Least side of the pictures that are shown, px.
SHOWN = 256


class Session(NamedTuple):
    """What one visitor has done so far.

    Attributes:
      drawing: the sketch and its regions; None before anything is drawn.
      words: of regions, by their numbers.
      chosen: the number of the region that is spoken of; None where none is.
    """

    drawing: SketchPage | None = None
    words: Mapping[int, str] = {}
    chosen: int | None = None

    def choose(self, x: float, y: float) -> "Session":
        """The region at a place of the page, in shares of its sides, is spoken of."""
        if self.drawing is None:
            return self
        labels = self.drawing.numbered.regions.labels
        row, column = (min(int(share * len(labels)), len(labels) - 1) for share in (y, x))
        return self._replace(chosen=self.drawing.numbered.numbers[labels[row, column]])

    def speak(self, phrase: str) -> "Session":
        """The chosen region has these words; without any, it has none of its own.

        Raises:
          UserError: no region is chosen.
        """
        if self.chosen is None:
            raise UserError("No region is chosen; click one in the picture of the regions.")
        words = {number: said for number, said in self.words.items() if number != self.chosen}
        if phrase.strip():
            words[self.chosen] = phrase.strip()
        return self._replace(words=words)

    @property
    def figure(self) -> Picture | None:
        """The regions with their numbers."""
        if self.drawing is None:
            return None
        return draw_regions(self.drawing.page, *self.drawing.numbered)

    @property
    def spoken(self) -> str:
        """The words of regions, in Markdown."""
        if not self.words:
            return "No region has words of its own."
        return "\n".join(f"- **{number}**: {self.words[number]}" for number in sorted(self.words))


class Shown(NamedTuple):
    """What is on the page while it is drawn, and at the end.

    Attributes:
      status: where it stands, or what is to be noticed, in Markdown.
      stage1, stage2: pictures, or what is expected of them by now.
      attention: the heat maps.
    """

    status: str
    stage1: Picture | None = None
    stage2: Picture | None = None
    attention: Picture | None = None


def begun(pipeline: Pipeline, grey: UInt8[np.ndarray, "h w"] | None) -> Session:
    """A session with this sketch, without words; grey is dark on light, or light on dark."""
    if grey is None or grey.min() == grey.max():
        return Session()
    return Session(pipeline.page(read_sketch(grey, pipeline.page_size, crop=True)))


def flattened(layers: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w"]:
    """What a visitor has drawn, in RGBA, on white paper."""
    rgb, opacity = layers[..., :3].astype(np.float32), layers[..., 3:].astype(np.float32) / 255
    flat = rgb * opacity + 255 * (1 - opacity)
    return np.rint(flat @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)


def draw(
    pipeline: Pipeline,
    session: Session,
    prompt: str,
    negative_prompt: str,
    seed: int | None,
    **asked: Any,
) -> Iterator[Shown]:
    """Draws, and shows every step; who stops asking has cancelled it.

    Args:
      pipeline: the stages.
      session: sketch and words of regions.
      prompt, negative_prompt: may be empty.
      seed: as in `Pipeline`.
      **asked: fields of `Options`.

    Raises:
      UserError: there is no sketch, or a setting is out of its range.
    """
    if session.drawing is None:
        raise UserError("There is no sketch yet; draw one or upload a picture of one.")
    check_seed(seed)
    assert seed is not None
    drawing, options = session.drawing, pipeline.options(**asked)
    told = pipeline.tell(drawing, prompt, session.words, negative_prompt)
    pictures: dict[int, Picture] = {}
    yield Shown("Compiling, where this has not been drawn before …")
    for event in pipeline.stream([told], [seed], options, every=1):
        if isinstance(event, Finished):
            yield _finished(session, told, event, prompt, negative_prompt, seed, options)
            return
        if event.preview is not None:
            pictures[event.stage] = enlarge(event.preview[0], SHOWN)
        status = f"Stage {event.stage}, step {event.step} of {event.steps}"
        yield Shown(status, pictures.get(1), pictures.get(2))


def _finished(
    session: Session,
    told: Any,
    finished: Finished,
    prompt: str,
    negative_prompt: str,
    seed: int,
    options: Any,
) -> Shown:
    assert session.drawing is not None
    words = wording(prompt, session.words, negative_prompt)
    settings = {**words, "seed": seed, **dataclasses.asdict(options)}
    result = result_of(session.drawing, told, finished, settings, {})
    last = enlarge(result.images[0], SHOWN)
    first = None if result.coarse is None else enlarge(result.coarse[0], SHOWN)
    attention = None
    if result.attention is not None and result.fusion is not None:
        attention = attention_maps(
            result.sketch_page.page,
            result.regions.labels,
            result.attention[0],
            result.pieces,
            result.fusion[:, 0].mean(0),
            result.numbers,
            told.wishes.texts[0],
        )
    status = "\n\n".join(["Done.", *result.notices])
    if options.stages == "1":
        return Shown(status, last)
    return Shown(status, first, last, attention)
