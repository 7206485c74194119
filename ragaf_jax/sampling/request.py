"""The inputs of the networks for one image: sketch, regions and texts."""

import contextlib
import dataclasses
import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from ragaf_jax.batch import Batch, ink_on_black, stacked
from ragaf_jax.errors import UserError
from ragaf_jax.framing import Size, Window
from ragaf_jax.graph.build import GraphConfig, RegionGraph, region_graph, trim_edges
from ragaf_jax.graph.padding import pad_graph
from ragaf_jax.graph.prepare import page_regions
from ragaf_jax.graph.regions import NECK_SPLITS, REGION_KINDS
from ragaf_jax.sampling.numbered import NumberedRegions
from ragaf_jax.sampling.options import Options
from ragaf_jax.sampling.prompts.embeddings import Embedding, Embeddings
from ragaf_jax.sampling.prompts.windows import Prompt, make_texts, read_prompt
from ragaf_jax.sampling.sampling_config import TextConditioning
from ragaf_jax.sampling.sketch_notices import sketch_notices
from ragaf_jax.sampling.stages import Stage
from ragaf_jax.sketch_input import SketchInput


class SketchPage(NamedTuple):
    """A sketch and its regions.

    Attributes:
      page, lines, crop, size: as in `SketchInput`.
      sketch: the page at the size of the image.
      numbered: regions at the size of the image, found or edited by the user.
      neck_splits: as in `extract_regions`, which found the regions.
    """

    page: UInt8[np.ndarray, "rows columns"]
    lines: UInt8[np.ndarray, "lines_h lines_w"]
    crop: Window | None
    size: Size
    sketch: UInt8[np.ndarray, "h w"]
    numbered: NumberedRegions
    neck_splits: int | float = NECK_SPLITS

    @property
    def given(self) -> SketchInput:
        """The sketch as it was read, without its regions."""
        return SketchInput(self.page, self.lines, self.crop, self.size)


class Request(NamedTuple):
    """The inputs of the networks for one image, and their description.

    Attributes:
      batch: one example with the prompt alone; its image is blank.
      text: one example with region prompts.
      without_region_text: the same without region prompts; of fewer tokens where each text has
        windows of its own.
      graph: of the regions, not padded.
      prompts: the prompt, followed by a line for each region prompt.
      pieces: the characters of each token of `text.positive`.
      embeddings: textual inversions of all texts.
      notices: losses of sketch and texts, as sentences.
      control_images: in [0, 1], of further ControlNets; () is the sketch for each.
    """

    batch: Batch
    text: TextConditioning
    without_region_text: TextConditioning
    graph: RegionGraph
    prompts: str
    pieces: list[str]
    embeddings: list[Embedding]
    notices: list[str]
    control_images: tuple[Float[np.ndarray, "1 h w 3"], ...] = ()

    @property
    def text_ids(self) -> Int[np.ndarray, " t"]:
        """The text of each token, as in `Text.ids`."""
        assert self.text.positive.ids is not None
        return np.asarray(self.text.positive.ids[0])

    @property
    def has_region_text(self) -> bool:
        """Whether some regions have their own prompts."""
        return bool(self.text.region_text_ids.any())

    @property
    def all_regions_have_text(self) -> bool:
        """Whether all regions have their own prompts."""
        return bool(self.text.region_text_ids[:, : len(self.graph.nodes)].all())


def recorded_settings(
    prompt: str,
    region_prompts: Mapping[int, str] | None,
    negative_prompt: str,
    seed: int,
    count: int,
    options: Options,
    embeddings: Sequence[Embedding] = (),
) -> dict[str, Any]:
    """A call as metadata.json records it, without None, empty texts, and an empty list of LoRAs."""
    settings: dict[str, Any] = {"prompt": prompt}
    if region_prompts:
        settings["region_prompts"] = {str(i): region_prompts[i] for i in sorted(region_prompts)}
    if negative_prompt:
        settings["negative_prompt"] = negative_prompt
    if embeddings:
        settings["embeddings"] = [
            {"path": str(one.path.absolute()), "sha256": one.sha256} for one in embeddings
        ]
    chosen = {name: x for name, x in dataclasses.asdict(options).items() if x is not None}
    if not options.loras:
        del chosen["loras"]
    return {**settings, "seed": seed, "count": count, **chosen}


def read_texts(
    prompt: str,
    region_prompts: Mapping[int, str],
    negative_prompt: str,
    stage: Stage,
    embeddings: Embeddings,
) -> dict[str, Prompt]:
    """The texts of a request by their names in errors: both prompts, then regions by number.

    Raises:
      UserError: a text with wrong syntax, or one that is not Unicode.
    """
    texts = {"prompt": prompt, "negative prompt": negative_prompt}
    texts |= {f"prompt of region {i}": region_prompts[i] for i in sorted(region_prompts)}
    prompts = {}
    for name, text in texts.items():
        _check_text(name, text)
        with _named(name):
            prompts[name] = read_prompt(text, stage.tokenizer, stage.model.text_length, embeddings)
    return prompts


def embeddings_of(prompts: Mapping[str, Prompt]) -> list[Embedding]:
    """The textual inversions that the texts name, each once."""
    return list({x.name: x for one in prompts.values() for x in one.embeddings}.values())


def find_regions(given: SketchInput, stage: Stage, neck_splits: int | float) -> SketchPage:
    """The regions of a page of at least the model's size, within its maximum number.

    They are found as in training records, which use the default `neck_splits`.
    """
    usual, model = REGION_KINDS[stage.config.data.regions], stage.model
    limit = min(usual.max_regions, model.max_regions - 1)  # one node is padding
    config = dataclasses.replace(usual, max_regions=limit)
    sketch, regions, _ = page_regions(given.page, given.size, config, neck_splits)
    return SketchPage(*given, sketch, NumberedRegions.of(regions), neck_splits)


def make_request(
    page: SketchPage,
    prompt: str,
    region_prompts: Mapping[int, str],
    negative_prompt: str,
    stage: Stage,
    embeddings: Embeddings | None = None,
) -> Request:
    """Encodes sketch, regions and texts as inputs of the networks.

    In RAGAF, a region attends to its own prompt alone, or to the main prompt if it has none. The
    syntax of all texts is that of `prompts.syntax`.

    Args:
      page: the sketch and its regions.
      prompt, negative_prompt: may be empty.
      region_prompts: prompts of some regions, by region number.
      stage: gives tokenizer and sizes.
      embeddings: textual inversions that texts may name.

    Raises:
      UserError: an unknown region number, an empty region prompt, wrong syntax, or too many tokens.
    """
    model, tokenizer = stage.model, stage.tokenizer
    _check_region_prompts(region_prompts)
    regions, numbers = page.numbered.regions, sorted(region_prompts)
    region_text_ids = np.zeros((1, model.max_regions), np.int32)
    for text_id, number in enumerate(numbers, 1):
        region_text_ids[0, page.numbered.id_of(number)] = text_id
    stripped = {number: region_prompts[number].strip() for number in numbers}
    prompts = read_texts(prompt, stripped, negative_prompt, stage, embeddings or {})
    main, negative, *regional = prompts.values()
    for number, one in zip(numbers, regional, strict=True):
        if not one.tokens:
            raise UserError(f"The prompt of region {number} is empty; describe the region.")
    sizes = tokenizer, model.text_length
    alone = make_texts(main, [], negative, *sizes)
    packed = make_texts(main, regional, negative, *sizes) if regional else alone
    graph_config = GraphConfig(**stage.config.data.graph)
    graph = trim_edges(region_graph(regions, graph_config), model.max_edges)
    batch = Batch(
        image=np.zeros((1, *page.sketch.shape, 3), np.float32),
        sketch=ink_on_black(page.sketch[None]),
        labels=regions.labels[None],
        graph=stacked([pad_graph(graph, model.max_regions, model.max_edges)]),
        text=alone.positive._replace(ids=None),
    )
    notices = [f"The {name} {x}" for name, one in prompts.items() for x in one.notices]
    return Request(
        batch,
        TextConditioning(packed.negative, packed.positive, region_text_ids),
        TextConditioning(alone.negative, alone.positive, np.zeros_like(region_text_ids)),
        graph,
        "\n".join([prompt.strip(), *(f"{number}: {text}" for number, text in stripped.items())]),
        packed.pieces,
        embeddings_of(prompts),
        [*sketch_notices(page.given), *notices],
    )


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Adds the name of a text to its errors."""
    try:
        yield
    except UserError as error:
        raise UserError(f"In the {name}: {error}") from None


def _check_region_prompts(given: Any) -> None:
    """Refuses anything but texts by region number."""
    known = isinstance(given, Mapping) and all(
        isinstance(number, numbers.Integral) and isinstance(text, str)
        for number, text in given.items()
    )
    if not known:
        raise UserError(
            f"region_prompts is {given!r}; give a text for each region number, such as "
            "{3: 'red brick wall'}."
        )


def _check_text(name: str, text: Any) -> None:
    """Refuses other types, and lone surrogates, which Python makes from bytes not in UTF-8."""
    if not isinstance(text, str):
        raise UserError(f"The {name} is {text!r}; give a text.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"The text {text[:40]!a} is not Unicode from character {error.start} on; write it "
            "in UTF-8."
        ) from None
