"""What one picture is asked for with, and what the networks are told of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from ragaf_jax.batch import Batch, ink_on_black
from ragaf_jax.errors import UserError
from ragaf_jax.graph.build import GraphConfig, RegionGraph, region_graph
from ragaf_jax.graph.padding import pad_graph, stack_graphs
from ragaf_jax.graph.prepare import sketch_regions
from ragaf_jax.graph.regions import REGION_KINDS
from ragaf_jax.graph.trimming import trim_edges
from ragaf_jax.nets.model import Model
from ragaf_jax.sampling.numbered import NumberedRegions
from ragaf_jax.sampling.process import Wishes
from ragaf_jax.tokenizer import Tokenizer


class SketchPage(NamedTuple):
    """A drawing as a model takes it in.

    Attributes:
      page: paper 255, ink 0, as it was read.
      sketch: the same at the model's size.
      numbered: its regions there, found or changed by the user.
    """

    page: UInt8[np.ndarray, "page page"]
    sketch: UInt8[np.ndarray, "s s"]
    numbered: NumberedRegions


class Told(NamedTuple):
    """What the networks are told of one request.

    Attributes:
      batch: of one example; there is no image yet.
      wishes: of one example.
      graph: of its regions, not padded.
      text: the prompt with the phrases of its regions behind it.
      pieces: the text of each token.
      notices: what of sketch and text the model cannot take in, as sentences.
    """

    batch: Batch
    wishes: Wishes
    graph: RegionGraph
    text: str
    pieces: list[str]
    notices: list[str]


def wording(
    prompt: str, region_prompts: Mapping[int, str] | None, negative_prompt: str
) -> dict[str, Any]:
    """The texts of a request as metadata have them; what is empty is left out."""
    words: dict[str, Any] = {"prompt": prompt}
    if region_prompts:
        words["region_prompts"] = {str(i): region_prompts[i] for i in sorted(region_prompts)}
    if negative_prompt:
        words["negative_prompt"] = negative_prompt
    return words


def find_regions(page: UInt8[np.ndarray, "page page"], model: Model, kind: str) -> SketchPage:
    """A page's regions, as for the training records, within the budget of a model.

    Args:
      page: a square of at least the model's size.
      model: one of its nodes is padding.
      kind: a name in `REGION_KINDS`.
    """
    usual = REGION_KINDS[kind]
    limit = min(usual.max_regions, model.max_regions - 1)
    found = sketch_regions(
        page,
        model.image_size,
        dataclasses.replace(usual, max_regions=limit),
        GraphConfig(),
        model.max_edges,
    )
    return SketchPage(page, found.sketch, NumberedRegions.of(found.regions))


def tell(
    drawing: SketchPage,
    prompt: str,
    region_prompts: Mapping[int, str],
    negative_prompt: str,
    model: Model,
    tokenizer: Tokenizer,
) -> Told:
    """Sketch, regions and texts in the form that the networks take.

    The phrase of a region is put behind the prompt, and is all that this region attends to; other
    regions attend to what they will.

    Args:
      drawing: the sketch.
      prompt: may be empty.
      region_prompts: words for some regions, by their numbers.
      negative_prompt: may be empty.
      model: its sizes.
      tokenizer: its words.

    Raises:
      UserError: a number that no region has, a phrase without words, or more of them than the model
        reads.
    """
    regions = drawing.numbered.regions
    text, pins = pinned(prompt, region_prompts, model.text_length, tokenizer)
    heard = np.ones((1, model.max_regions, model.text_length), bool)
    for number, tokens in pins.items():
        heard[0, drawing.numbered.id_of(number)] = tokens
    tokens, mask = tokenizer.encode([text], model.text_length)
    batch = Batch(
        image=np.zeros((1, *drawing.sketch.shape, 3), np.float32),
        sketch=ink_on_black(drawing.sketch[None]),
        labels=regions.labels[None],
        graph=stack_graphs(
            [
                pad_graph(
                    graph := trim_edges(region_graph(regions, GraphConfig()), model.max_edges),
                    model.max_regions,
                    model.max_edges,
                )
            ]
        ),
        tokens=tokens,
        token_mask=mask,
    )
    return Told(
        batch,
        Wishes(*tokenizer.encode([negative_prompt], model.text_length), heard),
        graph,
        text,
        tokenizer.pieces(tokens[0].tolist()),
        _notices(drawing.page, text, negative_prompt, model.text_length, tokenizer),
    )


def pinned(
    prompt: str, region_prompts: Mapping[int, str], length: int, tokenizer: Tokenizer
) -> tuple[str, dict[int, Bool[np.ndarray, " t"]]]:
    """The text with the regions' phrases behind the prompt, and which of its tokens each phrase is.

    Raises:
      UserError: a phrase without words, or one beyond the tokens that the model reads.
    """
    text, characters = prompt.strip(), dict[int, tuple[int, int]]()
    for number in sorted(region_prompts):
        phrase = region_prompts[number].strip()
        text += ", " if text else ""
        characters[number] = len(text), len(text) + len(phrase)
        text += phrase
    spans: Int[np.ndarray, "n 2"] = tokenizer.spans(text)
    pins = {}
    for number, (begin, end) in characters.items():
        inside = np.flatnonzero((spans[:, 0] < end) & (spans[:, 1] > begin))
        if not len(inside):
            raise UserError(f"Region {number} is given no words; say what it is to be.")
        if inside[-1] + 1 > length - 2:  # the frame takes the first and the last place
            raise UserError(
                f"The prompt and the words of its regions are {len(spans)} tokens, and the model "
                f"reads {length - 2}: those of region {number} would be lost. Shorten them."
            )
        pins[number] = np.isin(np.arange(length), inside + 1)
    return text, pins


def _notices(
    page: UInt8[np.ndarray, "page page"],
    text: str,
    negative_prompt: str,
    length: int,
    tokenizer: Tokenizer,
) -> list[str]:
    notices = []
    if page.min() == 255:
        notices.append("The sketch is blank: no line was found on it.")
    for what, words in (("prompt", text), ("negative prompt", negative_prompt)):
        if unknown := tokenizer.unknown_words(words):
            known = ", ".join(dict.fromkeys(unknown))
            notices.append(f"The model does not know these words of the {what}: {known}.")
        if tokenizer.count(words)[0] > length:
            notices.append(f"The {what} is longer than {length} tokens; its end was not read.")
    return notices
