"""The options of prepared records, their flags, and their parts of folder names and commands."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import UInt8
from ml_collections import ConfigDict

from ragaf_jax.framing import Size, bucket_name, nearest_bucket, parse_buckets
from ragaf_jax.graph.build import DEFAULT_GRAPH, GRAPH_KINDS, GraphConfig
from ragaf_jax.graph.prepare import SketchRegions, sketch_regions
from ragaf_jax.graph.regions import REGION_KINDS
from ragaf_jax.paths import PATH

FLAGS = flags.FLAGS

# Sides must be multiples of it for the networks of `configs/base.py`, which downsample images by 4
# and latents by 2.
SIDE_FACTOR = 8


@dataclasses.dataclass(frozen=True)
class Options:
    """How a dataset is prepared."""

    size: int  # side S of the images, px
    recolorings: int = 16  # records per drawing; only for openmoji/recolor
    limit: int = 0  # drawings or photos per split, in a fixed shuffled order; 0 for all
    root: Path | None = None  # the folder of the images as downloaded; only for scanned datasets
    sketch: str = "canny"  # the method that makes sketches from images, one of `sketch.METHODS`
    transform: str | None = None  # Sketchy's alignment; None for the first one found
    shards: str = ""  # a pattern of the shards to read; "" for all. See `shards.list_shards`
    regions: str = "strokes"  # the kind of regions, a name in `REGION_KINDS`
    graph: GraphConfig = DEFAULT_GRAPH  # which are connected; each graph has a separate folder
    buckets: tuple[Size, ...] = ()  # sizes of scanned images; (): squares. Separate folders too
    crop: bool = False  # whether images are cropped to their bucket; else they have white margins

    @property
    def cropped(self) -> bool:
        """Whether scanned images are cropped; squares always are."""
        return self.crop or not self.buckets

    def size_of(self, image: Size) -> Size:
        """The prepared size of an image of this height and width."""
        return nearest_bucket(image, self.buckets or ((self.size, self.size),))

    def sketch_regions(self, page: UInt8[np.ndarray, "h w"], size: Size) -> SketchRegions:
        """The sketch, regions and graph of a page for a size.

        The graph has all edges; readers trim them to their limit.
        """
        regions = REGION_KINDS[self.regions]
        return sketch_regions(page, size, regions, self.graph, regions.max_regions**2)


def define_data_flags() -> None:
    """Defines the flags that select prepared records, except --dataset."""
    flags.DEFINE(PATH, "data_dir", "data", "Folder of all datasets.")
    flags.DEFINE_integer("size", 64, "Side of the images, px; a multiple of 8.", lower_bound=32)
    flags.DEFINE_list(
        "buckets",
        [],
        "Sizes of photographs instead of squares, such as 512x512,576x448 (width first), or auto: "
        "see config.data.buckets.",
    )
    flags.DEFINE_integer(
        "recolorings", 16, "Records per drawing in openmoji/recolor.", lower_bound=1
    )
    flags.DEFINE_enum(
        "graph_kind", DEFAULT_GRAPH.kind, GRAPH_KINDS, "Edges, see config.data.graph.kind."
    )
    flags.DEFINE_integer(
        "graph_k", DEFAULT_GRAPH.k, "Neighbours per region for knn and hybrid.", lower_bound=1
    )
    flags.DEFINE_float(
        "graph_radius",
        DEFAULT_GRAPH.radius,
        "Largest distance for radius and hybrid, as a share of the page.",
        lower_bound=0,
    )


def chosen_options(**others: Any) -> Options:
    """The options that these flags select, and others.

    Raises:
      UserError: a number has no effect on the kind of graph, or a bucket does not fit `--size`.
    """
    graph = GraphConfig(FLAGS.graph_kind, FLAGS.graph_k, FLAGS.graph_radius)
    buckets = parse_buckets(FLAGS.buckets, FLAGS.size, SIDE_FACTOR, "--buckets")
    return Options(FLAGS.size, FLAGS.recolorings, graph=graph, buckets=buckets, **others)


def options_of(data: ConfigDict) -> Options:
    """The options of the records that `config.data` selects."""
    graph = GraphConfig(**data.graph)
    sizes = parse_buckets(data.buckets, data.image_size)
    return Options(
        data.image_size, data.recolorings, regions=data.regions, buckets=sizes, graph=graph
    )


def flags_of(graph: GraphConfig, buckets: Sequence[Size] = ()) -> str:
    """The flags that select buckets and a graph, each after a space; empty for the defaults."""
    sizes = f" --buckets={','.join(map(bucket_name, buckets))}" if buckets else ""
    return sizes + "".join(f" --graph_{name}={value}" for name, value in _changed(graph).items())


def suffix_of(graph: GraphConfig, buckets: Sequence[Size] = ()) -> str:
    """The suffix of the folder's name, such as "_3sizes-1b2a60f3_knn_k6"; empty for the defaults.

    The digits are a hash of the buckets, which `parse_buckets` has sorted.
    """
    digest = hashlib.blake2b(",".join(map(bucket_name, buckets)).encode(), digest_size=4)
    sizes = f"_{len(buckets)}sizes-{digest.hexdigest()}" if buckets else ""
    changed = _changed(graph)
    numbers = (f"_{name[0]}{changed[name]}" for name in ("k", "radius") if name in changed)
    return sizes + (f"_{graph.kind}{''.join(numbers)}" if changed else "")


def _changed(graph: GraphConfig) -> dict[str, Any]:
    default, fields = dataclasses.asdict(DEFAULT_GRAPH), dataclasses.asdict(graph)
    return {name: value for name, value in fields.items() if value != default[name]}
