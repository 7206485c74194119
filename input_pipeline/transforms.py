"""From a record to an example: random captions, flips and tags, and the model's shapes."""

import dataclasses
from typing import Any

import grain.python as grain
import numpy as np
from jaxtyping import Float, UInt8

from input_pipeline.mirror import mirror_record
from ragaf_jax.batch import Batch, Text, ink_on_black
from ragaf_jax.framing import Size, place_inside
from ragaf_jax.graph.build import RegionGraph, trim_edges
from ragaf_jax.graph.padding import pad_graph
from ragaf_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class ChooseCaption(grain.RandomMapTransform):
    """Keeps one of a record's captions, each with the same probability."""

    def random_map(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        captions = record["captions"]
        return {**record, "captions": [captions[int(rng.integers(len(captions)))]]}


@dataclasses.dataclass(frozen=True)
class RandomFlip(grain.RandomMapTransform):
    """Mirrors records with `mirrors` with probability 1/2, if their captions permit it."""

    def random_map(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return mirror_record(record) if record["mirrors"] and rng.random() < 0.5 else record


@dataclasses.dataclass(frozen=True)
class VaryTags(grain.RandomMapTransform):
    """Shuffles and drops comma-separated tags of captions, as kohya's sd-scripts do."""

    shuffle: bool  # kohya's shuffle_caption: random order of the tags after the first `keep`
    dropout: float  # kohya's caption_tag_dropout_rate: probability of leaving out each of them
    keep: int  # kohya's keep_tokens

    def random_map(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        if not self.shuffle and not self.dropout:
            return record
        return {**record, "captions": [self._varied(text, rng) for text in record["captions"]]}

    def _varied(self, caption: str, rng: np.random.Generator) -> str:
        tags = [tag for text in caption.split(",") if (tag := text.strip())]
        kept, others = tags[: self.keep], tags[self.keep :]
        if self.shuffle:
            others = [others[i] for i in rng.permutation(len(others))]
        stays = rng.random(len(others)) >= self.dropout
        return ", ".join(kept + [tag for tag, stay in zip(others, stays, strict=True) if stay])


@dataclasses.dataclass(frozen=True)
class ToExample(grain.MapTransform):
    """Turns a record into a model input with its first caption."""

    tokenizer: Tokenizer  # encodes captions
    text_length: int  # T, tokens per caption with start and end
    max_regions: int  # R, nodes of the padded graph, including at least one padding node
    max_edges: int  # E, edges of the padded graph; `trim_edges` removes excess ones

    def map(self, record: dict[str, Any]) -> Batch:
        """One example: a `Batch` without its leading axis.

        Raises:
          UserError: the graph has `max_regions` nodes or more, or more self loops than `max_edges`.
        """
        caption = record["captions"][0]
        tokens, mask = self.tokenizer.encode([caption], self.text_length)
        states = pooled = None
        if "text_states" in record:
            states, pooled = record["text_states"][caption]
        graph = RegionGraph(*(record[name] for name in RegionGraph._fields))
        image = mean = std = None
        if "latents" in record:
            mean, std = np.split(record["latents"][0], 2, axis=-1)
        else:
            image = scaled(record["image"])
        return Batch(
            image=image,
            sketch=ink_on_black(record["sketch"][..., 0]),
            labels=record["labels"].astype(np.int32),
            graph=pad_graph(trim_edges(graph, self.max_edges), self.max_regions, self.max_edges),
            text=Text(tokens[0], mask[0], states=states, pooled=pooled),
            latent_mean=mean,
            latent_std=std,
            sizes=image_sizes(record),
        )


def image_sizes(record: dict[str, Any]) -> Float[np.ndarray, "6"]:
    """The sizes of an image that SDXL's networks read, see `nets.unet.AddedConditions`.

    The original size is that before preparation; where records lack it, the record's. The offsets
    are those of the part that `crop_to` kept, rounded to pixels of the image resized to cover the
    target, as in diffusers' `train_text_to_image_sdxl.py`. They are 0 for images with margins.
    """
    target: Size = record["sketch"].shape[:2]
    source: Size = tuple(record["source_size"].tolist()) if "source_size" in record else target
    top = left = 0
    if record["cropped"]:
        height, width, rows, columns = place_inside(*target, source)
        first = source[1] - columns.stop if record.get("mirrored", False) else columns.start
        top, left = round(rows.start * target[0] / height), round(first * target[1] / width)
    return np.array([*source, top, left, *target], np.float32)


def scaled(image: UInt8[np.ndarray, "*b h w 3"]) -> Float[np.ndarray, "*b h w 3"]:
    """Pixels 0 … 255 → [-1, 1]."""
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)
