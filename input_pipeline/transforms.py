"""From a record to an example: random flips and captions, and the model's shapes."""

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
class RandomFlip(grain.RandomMapTransform):
    """Mirrors records of datasets with `Dataset.mirrors` with probability 1/2."""

    def random_map(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return mirror_record(record) if record["mirrors"] and rng.random() < 0.5 else record


@dataclasses.dataclass(frozen=True)
class ToExample(grain.RandomMapTransform):
    """Turns a record into a model input with one of its captions."""

    tokenizer: Tokenizer  # encodes captions
    text_length: int  # T, tokens per caption with start and end
    max_regions: int  # R, nodes of the padded graph, including at least one padding node
    max_edges: int  # E, edges of the padded graph; `trim_edges` removes excess ones

    def random_map(self, record: dict[str, Any], rng: np.random.Generator) -> Batch:
        return self.example(record, int(rng.integers(len(record["captions"]))))

    def example(self, record: dict[str, Any], caption: int = 0) -> Batch:
        """One example: a `Batch` without its leading axis.

        Raises:
          UserError: the graph has `max_regions` nodes or more, or more self loops than `max_edges`.
        """
        chosen = record["captions"][caption]
        tokens, mask = self.tokenizer.encode([chosen], self.text_length)
        states = pooled = None
        if "text_states" in record:
            states, pooled = record["text_states"][chosen]
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
