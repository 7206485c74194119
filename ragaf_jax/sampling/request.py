"""The inputs of the networks for one image: sketch, regions and texts."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from ragaf_jax.batch import Batch, Text, ink_on_black, stacked
from ragaf_jax.errors import UserError
from ragaf_jax.framing import Window
from ragaf_jax.graph.build import GraphConfig, RegionGraph, region_graph, trim_edges
from ragaf_jax.graph.padding import pad_graph
from ragaf_jax.graph.prepare import page_regions
from ragaf_jax.graph.regions import NECK_SPLITS, REGION_KINDS
from ragaf_jax.sampling.numbered import NumberedRegions
from ragaf_jax.sampling.options import Options
from ragaf_jax.sampling.sampling_config import TextConditioning
from ragaf_jax.sampling.sketch_notices import sketch_notices
from ragaf_jax.sampling.stages import Stage
from ragaf_jax.sketch_input import SketchInput
from ragaf_jax.tokenizer import Tokenizer

# Prompt syntax of other programs: (word:1.3), [word], <lora:name:0.8>, BREAK.
_SYNTAX = re.compile(
    r"\([^()]*:\s*-?[0-9.]+\s*\)|\[[^\[\]]+\]|<(?:lora|lyco|hypernet|embedding)\b[^>]*>|\bBREAK\b"
)


class SketchPage(NamedTuple):
    """A sketch and its regions.

    Attributes:
      page, lines, crop: as in `SketchInput`.
      sketch: the page at the model's size.
      numbered: regions at the model's size, found or edited by the user.
      neck_splits: as in `extract_regions`, which found the regions.
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
    """The inputs of the networks for one image, and their description.

    Attributes:
      batch: one example with the prompt alone; its image is blank.
      text: one example with region prompts.
      graph: of the regions, not padded.
      prompts: the prompt, followed by a line for each region prompt.
      pieces: the characters of each token of `text.positive`.
      notices: losses of sketch and texts, as sentences.
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
        """Whether all regions have their own prompts."""
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
    """A call as metadata.json records it, without empty texts."""
    settings: dict[str, Any] = {"prompt": prompt}
    if region_prompts:
        settings["region_prompts"] = {str(i): region_prompts[i] for i in sorted(region_prompts)}
    if negative_prompt:
        settings["negative_prompt"] = negative_prompt
    return {**settings, "seed": seed, "count": count, **dataclasses.asdict(options)}


def find_regions(given: SketchInput, stage: Stage, neck_splits: int | float) -> SketchPage:
    """The regions of a square page of at least the model's size, within its maximum number.

    They are found as in training records, which use the default `neck_splits`.
    """
    usual, model = REGION_KINDS[stage.config.data.regions], stage.model
    limit = min(usual.max_regions, model.max_regions - 1)  # one node is padding
    config = dataclasses.replace(usual, max_regions=limit)
    sketch, regions, _ = page_regions(given.page, model.image_size, config, neck_splits)
    return SketchPage(*given, sketch, NumberedRegions.of(regions), neck_splits)


def make_request(
    page: SketchPage,
    prompt: str,
    region_prompts: Mapping[int, str],
    negative_prompt: str,
    stage: Stage,
) -> Request:
    """Encodes sketch, regions and texts as inputs of the networks.

    In RAGAF, a region attends to its own prompt alone, or to the main prompt if it has none.

    Args:
      page: the sketch and its regions.
      prompt, negative_prompt: may be empty.
      region_prompts: prompts of some regions, by region number.
      stage: gives tokenizer and sizes.

    Raises:
      UserError: an unknown region number, an empty region prompt, or too many tokens.
    """
    model, tokenizer, length = stage.model, stage.tokenizer, stage.model.text_length
    regions, numbers = page.numbered.regions, sorted(region_prompts)
    region_text_ids = np.zeros((1, model.max_regions), np.int32)
    for text_id, number in enumerate(numbers, 1):
        region_text_ids[0, page.numbered.id_of(number)] = text_id
    stripped = {number: region_prompts[number].strip() for number in numbers}
    texts = {"prompt": prompt, "negative prompt": negative_prompt}
    texts |= {f"prompt of region {number}": text for number, text in stripped.items()}
    for text in texts.values():
        _check_text(text)
    packed = _packed(prompt, stripped, length, tokenizer)
    graph_config = GraphConfig(**stage.config.data.graph)
    graph = trim_edges(region_graph(regions, graph_config), model.max_edges)
    batch = Batch(
        image=np.zeros((1, *page.sketch.shape, 3), np.float32),
        sketch=ink_on_black(page.sketch[None]),
        labels=regions.labels[None],
        graph=stacked([pad_graph(graph, model.max_regions, model.max_edges)]),
        text=Text(*tokenizer.encode([prompt], length)),
    )
    negative = _packed(negative_prompt, {}, length, tokenizer)
    return Request(
        batch,
        TextConditioning(negative, packed, region_text_ids),
        graph,
        "\n".join([prompt.strip(), *(f"{number}: {text}" for number, text in stripped.items())]),
        tokenizer.pieces(packed.tokens[0].tolist()),
        [*sketch_notices(page.given), *_text_notices(texts, length, tokenizer)],
    )


def _check_text(text: str) -> None:
    """Refuses lone surrogates, which Python makes from bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"The text {text[:40]!a} is not Unicode from character {error.start} on; write it "
            "in UTF-8."
        ) from None


def _packed(
    prompt: str, region_prompts: Mapping[int, str], length: int, tokenizer: Tokenizer
) -> Text:
    """One row of tokens: the prompt, then each region prompt without start and end tokens.

    Raises:
      UserError: an empty region prompt, or more than `length` tokens.
    """
    rows, masks = tokenizer.encode([prompt, *region_prompts.values()], length)
    tokens, mask, ids = rows[0], masks[0], np.zeros(length, np.int32)
    counts = [tokenizer.count(text)[0] - 2 for text in region_prompts.values()]
    end = int(mask.sum())
    total = end + sum(counts)
    for text_id, (number, count) in enumerate(zip(region_prompts, counts, strict=True), 1):
        if not count:
            raise UserError(f"The prompt of region {number} is empty; describe the region.")
        if end + count > length:
            raise UserError(
                f"The prompt and the region prompts have {total} tokens and the model takes "
                f"{length}, which cuts the prompt of region {number}; shorten them."
            )
        span = slice(end, end + count)
        tokens[span], mask[span], ids[span] = rows[text_id][1 : 1 + count], True, text_id
        end += count
    return Text(tokens[None], mask[None], ids[None])


def _text_notices(texts: Mapping[str, str], length: int, tokenizer: Tokenizer) -> list[str]:
    notices = []
    for name, text in texts.items():
        if unknown := tokenizer.unknown_words(text):
            words = ", ".join(dict.fromkeys(unknown))
            notices.append(f"Unknown words of the {name}: {words}.")
        if found := [match[0] for match in _SYNTAX.finditer(text)]:
            notices.append(
                f"The {name} has {', '.join(dict.fromkeys(found))}, which is encoded as plain "
                "text: token weights, LoRA tags and BREAK are not supported."
            )
        if tokenizer.count(text)[0] > length:
            notices.append(f"The {name} is longer than {length} tokens; its end was cut off.")
    return notices
