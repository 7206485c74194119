"""The format of records on disk, common to all datasets.

Records contain the pixels, the regions and their graph, which take milliseconds to compute. Flips
and the choice of captions are sampled at reading (`transforms`).
"""

import dataclasses
import importlib.metadata
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int, UInt8

from input_pipeline.datasets import registry
from input_pipeline.options import Options, suffix_of
from ragaf_jax.framing import Size, bucket_name
from ragaf_jax.graph.features import EDGE_FEATURES, NODE_FEATURES
from ragaf_jax.graph.prepare import SketchRegions
from ragaf_jax.graph.regions import REGION_KINDS

# Raised with every change that invalidates older folders or their regions.
FORMAT_VERSION = "1.1.0"
TOKENIZER_FILE = "tokenizer.json"
REJECTED_FILE = "rejected.jsonl"
SIZES_FILE = "sizes.json"  # of data with buckets: the bucket of every record, by split
SOURCES_FILE = "sources.jsonl"


def config_name(dataset: str, options: Options) -> str:
    """The name of a TFDS configuration and of its folder.

    Raises:
      UserError: no such dataset.
    """
    colorings = f"x{options.recolorings}" if registry.find(dataset).recolored else ""
    names = (dataset.partition("/")[2], f"{options.size}px", colorings)
    return "_".join(filter(None, names)) + suffix_of(options.graph, buckets_of(dataset, options))


def buckets_of(dataset: str, options: Options) -> tuple[Size, ...]:
    """The buckets of a dataset's images; none for images that are rendered as squares."""
    return options.buckets if registry.find(dataset).scan else ()


def folder(data_dir: Path, dataset: str, options: Options) -> Path:
    """The folder of a dataset in this format."""
    name = config_name(dataset, options)
    return data_dir / registry.builder_name(dataset) / name / FORMAT_VERSION


def features(size: int, buckets: Sequence[Size] = ()) -> tfds.features.FeaturesDict:
    """The features of a record with S = `size`, n regions, e edges and p true parts.

    With `buckets`, each record has one of these sizes, and `source_size` is the height and width of
    the image before preparation.

    `labels` is the region 0 … n-1 of each pixel. `true_labels` is 1 + the true part that covers
    most of the pixel, or 0 under ink and outside parts. `true_colors` is the colour of each part in
    the caption, an index into `ragaf_jax.palette.PALETTE`, or -1. Datasets without this ground
    truth have zeros and one -1. Examples of one drawing or photo share their `group`.
    `regions_found` counts the regions before `RegionConfig.max_regions` merged any.
    """

    def image(channels: int) -> tfds.features.Image:
        sides = (None, None) if buckets else (size, size)
        return tfds.features.Image(shape=(*sides, channels), encoding_format="png")

    def numbers(*shape: int | None, dtype: type) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=shape, dtype=dtype)

    further = {"source_size": numbers(2, dtype=np.int32)} if buckets else {}
    return tfds.features.FeaturesDict(
        {
            "image": image(3),
            "sketch": image(1),
            "labels": image(1),
            "nodes": numbers(None, len(NODE_FEATURES), dtype=np.float32),
            "edges": numbers(None, len(EDGE_FEATURES), dtype=np.float32),
            "senders": numbers(None, dtype=np.int32),
            "receivers": numbers(None, dtype=np.int32),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "category": tfds.features.Text(),
            "key": tfds.features.Text(),
            "group": tfds.features.Text(),
            "regions_found": tfds.features.Scalar(np.int32),
            "true_labels": image(1),
            "true_colors": numbers(None, dtype=np.int32),
            **further,
        }
    )


def metadata(dataset: str, options: Options, **facts: Any) -> dict[str, Any]:
    """The facts that must match the code which reads a folder, and further `facts`."""
    if packages := registry.find(dataset).packages:
        # Splits depend on drawings and names.
        facts["drawings"] = {name: importlib.metadata.version(name) for name in packages}
    if buckets := buckets_of(dataset, options):
        facts["buckets"] = [bucket_name(size) for size in buckets]
    return {
        "format": FORMAT_VERSION,
        "image_size": options.size,
        "regions": dataclasses.asdict(REGION_KINDS[options.regions]),
        "graph": dataclasses.asdict(options.graph),
        **facts,
    }


def encode(
    *,
    image: UInt8[np.ndarray, "h w 3"],
    sketch: SketchRegions,
    captions: Sequence[str],
    category: str,
    key: str,
    group: str,
    true_labels: UInt8[np.ndarray, "h w"] | None = None,
    true_colors: Int[np.ndarray, " p"] | None = None,
    source_size: Size | None = None,
) -> dict[str, Any]:
    """One record for TFDS, with images as PNG, because TFDS encodes arrays by TensorFlow.

    `source_size` is that of `features`, for data with buckets.
    """
    if true_labels is None or true_colors is None:
        true_labels, true_colors = np.zeros(image.shape[:2], np.uint8), np.array([-1])
    further = {} if source_size is None else {"source_size": np.array(source_size, np.int32)}
    return {
        "image": _png(cv2.cvtColor(image, cv2.COLOR_RGB2BGR)),
        "sketch": _png(sketch.sketch),
        "labels": _png(sketch.regions.labels.astype(np.uint8)),
        "nodes": sketch.graph.nodes,
        "edges": sketch.graph.edges,
        "senders": sketch.graph.senders,
        "receivers": sketch.graph.receivers,
        "captions": list(captions),
        "category": category,
        "key": key,
        "group": group,
        "regions_found": sketch.found,
        "true_labels": _png(true_labels),
        "true_colors": true_colors.astype(np.int32),
        **further,
    }


def _png(image: UInt8[np.ndarray, "..."]) -> io.BytesIO:
    return io.BytesIO(cv2.imencode(".png", image)[1].tobytes())
