"""The inputs of the networks for one image: sketch, regions and texts."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from ragaf_jax.batch import Batch, ink_on_black, stacked
from ragaf_jax.framing import Size, Window
from ragaf_jax.graph.build import GraphConfig, RegionGraph, region_graph, trim_edges
from ragaf_jax.graph.padding import pad_graph
from ragaf_jax.graph.prepare import page_regions
from ragaf_jax.graph.regions import NECK_SPLITS, REGION_KINDS
from ragaf_jax.sampling.numbered import NumberedRegions
from ragaf_jax.sampling.options import Options
from ragaf_jax.sampling.prompts.embeddings import Embedding, Embeddings
from ragaf_jax.sampling.prompts.request_texts import encode_texts
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
      text: one example with region prompts, for RAGAF.
      mixed: returns the same for cross-attention that is restricted by region, as in
        `EncodedTexts`; None without region prompts.
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
    mixed: Callable[[], TextConditioning] | None
    without_region_text: TextConditioning
    graph: RegionGraph
    prompts: str
    pieces: list[str]
    embeddings: list[Embedding]
    notices: list[str]
    control_images: tuple[Float[np.ndarray, "1 h w 3"], ...] = ()

    def regional(self, by_ragaf: bool) -> TextConditioning:
        """The texts with region prompts, which act by RAGAF or by restricted cross-attention.

        Raises:
          UserError: too many tokens for restricted cross-attention.
        """
        return self.text if by_ragaf or self.mixed is None else self.mixed()

    @property
    def text_ids(self) -> Int[np.ndarray, " t"]:
        """The text of each token, as in `Text.ids`."""
        assert self.text.positive.ids is not None
        return np.asarray(self.text.positive.ids[0])

    @property
    def has_region_text(self) -> bool:
        """Whether some regions have their own prompts."""
        return bool(self.text.own.any())

    @property
    def all_regions_have_text(self) -> bool:
        """Whether all regions have their own prompts."""
        return bool(self.text.own[:, : len(self.graph.nodes)].all())


def recorded_settings(
    prompt: str,
    region_prompts: Mapping[int, str] | None,
    negative_prompt: str,
    region_negative_prompts: Mapping[int, str] | None,
    seed: int,
    count: int,
    options: Options,
    embeddings: Sequence[Embedding] = (),
) -> dict[str, Any]:
    """A call as metadata.json records it, without None and what has no effect.

    These are empty texts, an empty list of LoRAs and, without prompts of regions, their settings.
    """
    settings: dict[str, Any] = {"prompt": prompt}
    regional = {
        "region_prompts": region_prompts,
        "region_negative_prompts": region_negative_prompts,
    }
    for name, texts in regional.items():
        if texts:
            settings[name] = {str(i): texts[i] for i in sorted(texts)}
    if negative_prompt:
        settings["negative_prompt"] = negative_prompt
    if embeddings:
        settings["embeddings"] = [
            {"path": str(one.path.absolute()), "sha256": one.sha256} for one in embeddings
        ]
    chosen = {name: x for name, x in dataclasses.asdict(options).items() if x is not None}
    unused = [] if options.loras else ["loras"]
    if not any(regional.values()):
        unused += [name for name in chosen if name.startswith("region_")]
    for name in unused:
        del chosen[name]
    return {**settings, "seed": seed, "count": count, **chosen}


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
    region_negative_prompts: Mapping[int, str],
    stage: Stage,
    embeddings: Embeddings | None = None,
) -> Request:
    """Encodes sketch, regions and texts as inputs of the networks.

    A region attends to its own prompt, or to the main prompt if it has none; likewise for negative
    prompts. The syntax of all texts is that of `prompts.syntax`.

    Args:
      page: the sketch and its regions.
      prompt, negative_prompt: may be empty.
      region_prompts, region_negative_prompts: of some regions, by region number.
      stage: gives tokenizer and sizes.
      embeddings: textual inversions that texts may name.

    Raises:
      UserError: an unknown region number, an empty region prompt, wrong syntax, or too many tokens.
    """
    model = stage.model
    regions = page.numbered.regions
    texts = prompt, region_prompts, negative_prompt, region_negative_prompts
    found = encode_texts(page.numbered, *texts, stage, embeddings or {})
    graph_config = GraphConfig(**stage.config.data.graph)
    graph = trim_edges(region_graph(regions, graph_config), model.max_edges)
    batch = Batch(
        image=np.zeros((1, *page.sketch.shape, 3), np.float32),
        sketch=ink_on_black(page.sketch[None]),
        labels=regions.labels[None],
        graph=stacked([pad_graph(graph, model.max_regions, model.max_edges)]),
        text=found.alone.positive._replace(ids=None),
    )
    return Request(
        batch,
        found.packed,
        found.mixed,
        found.alone,
        graph,
        found.lines,
        found.pieces,
        found.embeddings,
        [*sketch_notices(page.given), *found.notices],
    )
