"""A request for one image: sketch, regions and texts as inputs of the networks."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from ragaf_jax.batch import Batch, Text, ink_on_black
from ragaf_jax.errors import UserError
from ragaf_jax.graph.build import GraphConfig, RegionGraph, region_graph
from ragaf_jax.graph.padding import pad_graph, stack_graphs
from ragaf_jax.graph.prepare import sketch_regions
from ragaf_jax.graph.regions import NECK_SPLITS, REGION_KINDS
from ragaf_jax.graph.trimming import trim_edges
from ragaf_jax.images import Window
from ragaf_jax.nets.model import Model
from ragaf_jax.sampling.numbered import NumberedRegions
from ragaf_jax.sampling.options import Options
from ragaf_jax.sampling.sampling_config import TextConditioning
from ragaf_jax.sampling.sketch_notices import sketch_notices
from ragaf_jax.sketch_input import SketchInput
from ragaf_jax.tokenizer import Tokenizer

# What other programs read in a prompt: (word:1.3), [word], <lora:name:0.8>, BREAK.
_SYNTAX = re.compile(
    r"\([^()]*:\s*-?[0-9.]+\s*\)|\[[^\[\]]+\]|<(?:lora|lyco|hypernet|embedding)\b[^>]*>|\bBREAK\b"
)


class SketchPage(NamedTuple):
    """A sketch as a model takes it in.

    Attributes:
      page, lines, crop: as in `SketchInput`.
      sketch: the page at the model's size.
      numbered: its regions there, found or changed by the user.
      neck_splits: with which they were found; see `extract_regions`.
    """

    page: UInt8[np.ndarray, "page page"]
    lines: UInt8[np.ndarray, "h w"]
    crop: Window | None
    sketch: UInt8[np.ndarray, "s s"]
    numbered: NumberedRegions
    neck_splits: int | float = NECK_SPLITS

    @property
    def given(self) -> SketchInput:
        """The sketch as it was read, without its regions."""
        return SketchInput(self.page, self.lines, self.crop)


class Request(NamedTuple):
    """The inputs of the networks for one image, and what describes them.

    Attributes:
      batch: of one example, with the prompt alone; its image is blank.
      text: of one example, with region prompts.
      graph: of its regions, not padded.
      prompts: the prompt, and below it a line for each region prompt.
      pieces: the characters of each token of `text.positive`.
      notices: what of sketch and text the model cannot take in, as sentences.
    """

    batch: Batch
    text: TextConditioning
    graph: RegionGraph
    prompts: str
    pieces: list[str]
    notices: list[str]

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
        """Whether all regions have."""
        return bool(self.text.region_text_ids[:, : len(self.graph.nodes)].all())

    @property
    def without_region_text(self) -> TextConditioning:
        """The text without region prompts."""
        return self.text._replace(
            positive=self.batch.text._replace(ids=np.zeros_like(self.text.positive.ids)),
            region_text_ids=np.zeros_like(self.text.region_text_ids),
        )


def recorded_settings(
    prompt: str,
    region_prompts: Mapping[int, str] | None,
    negative_prompt: str,
    seed: int,
    count: int,
    options: Options,
) -> dict[str, Any]:
    """A request as metadata.json records it, which leaves empty texts out.

    Args:
      prompt, region_prompts, negative_prompt: as in `make_request`.
      seed: of the first image; the next ones have seed + 1 …
      count: images.
      options: of all.
    """
    settings: dict[str, Any] = {"prompt": prompt}
    if region_prompts:
        settings["region_prompts"] = {str(i): region_prompts[i] for i in sorted(region_prompts)}
    if negative_prompt:
        settings["negative_prompt"] = negative_prompt
    return {**settings, "seed": seed, "count": count, **dataclasses.asdict(options)}


def find_regions(
    given: SketchInput,
    model: Model,
    kind: str,
    graph_config: GraphConfig,
    neck_splits: int | float = NECK_SPLITS,
) -> SketchPage:
    """A page's regions, as for the training records, within the budget of a model.

    Args:
      given: its page is a square of at least the model's size.
      model: one of its nodes is padding.
      kind: a name in `REGION_KINDS`.
      graph_config: of the model's training records.
      neck_splits: as in `extract_regions`; regions of training records have the default.
    """
    usual = REGION_KINDS[kind]
    limit = min(usual.max_regions, model.max_regions - 1)
    found = sketch_regions(
        given.page,
        model.image_size,
        dataclasses.replace(usual, max_regions=limit),
        graph_config,
        model.max_edges,
        neck_splits,
    )
    return SketchPage(*given, found.sketch, NumberedRegions.of(found.regions), neck_splits)


def make_request(
    page: SketchPage,
    prompt: str,
    region_prompts: Mapping[int, str],
    negative_prompt: str,
    graph_config: GraphConfig,
    model: Model,
    tokenizer: Tokenizer,
) -> Request:
    """Sketch, regions and texts in the form that the networks take.

    In RAGAF a region attends to its own prompt alone, or else to the main prompt.

    Args:
      page: the sketch and its regions.
      prompt: may be empty.
      region_prompts: prompts of some regions, by region number.
      negative_prompt: may be empty.
      graph_config: of the model's training records.
      model: its sizes.
      tokenizer: of the model.

    Raises:
      UserError: a number that no region has, a phrase without words, or more of them than the model
        reads.
    """
    regions, numbers = page.numbered.regions, sorted(region_prompts)
    region_text_ids = np.zeros((1, model.max_regions), np.int32)
    for text, number in enumerate(numbers, 1):
        region_text_ids[0, page.numbered.id_of(number)] = text
    words = {number: region_prompts[number].strip() for number in numbers}
    for written in (prompt, negative_prompt, *words.values()):
        _check_text(written)
    packed = _packed(prompt, words, model.text_length, tokenizer)
    batch = Batch(
        image=np.zeros((1, *page.sketch.shape, 3), np.float32),
        sketch=ink_on_black(page.sketch[None]),
        labels=regions.labels[None],
        graph=stack_graphs(
            [
                pad_graph(
                    graph := trim_edges(region_graph(regions, graph_config), model.max_edges),
                    model.max_regions,
                    model.max_edges,
                )
            ]
        ),
        text=Text(*tokenizer.encode([prompt], model.text_length)),
    )
    negative = _packed(negative_prompt, {}, model.text_length, tokenizer)
    return Request(
        batch,
        TextConditioning(negative, packed, region_text_ids),
        graph,
        "\n".join([prompt.strip(), *(f"{number}: {words[number]}" for number in words)]),
        tokenizer.pieces(packed.tokens[0].tolist()),
        _notices(page, prompt, words, negative_prompt, model.text_length, tokenizer),
    )


def _check_text(text: str) -> None:
    """Refuses what a terminal or a page hands on where bytes were no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"The text {text[:40]!a} is no Unicode from character {error.start} on; write it "
            "in UTF-8."
        ) from None


def _packed(prompt: str, words: Mapping[int, str], length: int, tokenizer: Tokenizer) -> Text:
    """The prompt in one row and behind it, without a frame, the words of each region.

    Raises:
      UserError: a region without words, or more tokens than the model reads.
    """
    rows, masks = tokenizer.encode([prompt, *words.values()], length)
    tokens, mask, texts = rows[0], masks[0], np.zeros(length, np.int32)
    counts = [tokenizer.count(phrase)[0] - 2 for phrase in words.values()]
    end = int(mask.sum())
    whole = end + sum(counts)
    for text, (number, count) in enumerate(zip(words, counts, strict=True), 1):
        if not count:
            raise UserError(f"Region {number} is given no words; say what it is to be.")
        if end + count > length:
            raise UserError(
                f"The prompt and the words of its regions are {whole} tokens, and the model reads "
                f"{length}: those of region {number} would be lost. Shorten them."
            )
        place = slice(end, end + count)
        tokens[place], mask[place], texts[place] = rows[text][1 : 1 + count], True, text
        end += count
    return Text(tokens[None], mask[None], texts[None])


def _notices(
    sketch: SketchPage,
    prompt: str,
    words: Mapping[int, str],
    negative_prompt: str,
    length: int,
    tokenizer: Tokenizer,
) -> list[str]:
    notices = sketch_notices(sketch.given)
    texts = {"prompt": prompt, "negative prompt": negative_prompt}
    texts |= {f"text of region {number}": phrase for number, phrase in words.items()}
    for what, text in texts.items():
        if unknown := tokenizer.unknown_words(text):
            unread = ", ".join(dict.fromkeys(unknown))
            notices.append(f"The model does not know these words of the {what}: {unread}.")
        if found := [match[0] for match in _SYNTAX.finditer(text)]:
            notices.append(
                f"The {what} has {', '.join(dict.fromkeys(found))}, which the model reads as plain "
                "text: weights of words, LoRA tags and BREAK are not supported."
            )
        if tokenizer.count(text)[0] > length:
            notices.append(f"The {what} is longer than {length} tokens; its end was not read.")
    return notices
