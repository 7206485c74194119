"""The options of prepared records, their flags, and their parts of folder names and commands."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import UInt8
from ml_collections import ConfigDict

from ragaf_jax.graph.build import DEFAULT_GRAPH, GRAPH_KINDS, GraphConfig
from ragaf_jax.graph.prepare import SketchRegions, sketch_regions
from ragaf_jax.graph.regions import REGION_KINDS
from ragaf_jax.paths import PATH

FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True)
class Options:
    """How a dataset is prepared."""

    size: int  # side S of the images, px
    recolorings: int = 16  # records per drawing; only for openmoji/recolor
    limit: int = 0  # drawings or photos per split, in a fixed shuffled order; 0 for all
    root: Path | None = None  # the folder of the images as downloaded; only for scanned datasets
    sketch: str = "canny"  # the method that makes sketches from images, one of `sketch.METHODS`
    transform: str | None = None  # Sketchy's alignment; None for the first one found
    regions: str = "strokes"  # the kind of regions, a name in `REGION_KINDS`
    graph: GraphConfig = DEFAULT_GRAPH  # which are connected; each graph has a separate folder

    def sketch_regions(self, page: UInt8[np.ndarray, "h w"]) -> SketchRegions:
        """A page's sketch, regions and graph with all edges, which readers trim to their limit."""
        regions = REGION_KINDS[self.regions]
        return sketch_regions(page, self.size, regions, self.graph, regions.max_regions**2)


def define_data_flags() -> None:
    """Defines the flags that select prepared records, except --dataset."""
    flags.DEFINE(PATH, "data_dir", "data", "Folder of all datasets.")
    flags.DEFINE_integer("size", 64, "Side of the images, px; a multiple of 8.", lower_bound=32)
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
      UserError: a number has no effect on the kind of graph.
    """
    graph = GraphConfig(FLAGS.graph_kind, FLAGS.graph_k, FLAGS.graph_radius)
    return Options(FLAGS.size, FLAGS.recolorings, graph=graph, **others)


def options_of(data: ConfigDict) -> Options:
    """The options of the records that `config.data` selects."""
    graph = GraphConfig(**data.graph)
    return Options(data.image_size, data.recolorings, regions=data.regions, graph=graph)


def flags_of(graph: GraphConfig) -> str:
    """The flags that select a graph, each after a space; empty for the default."""
    return "".join(f" --graph_{name}={value}" for name, value in _changed(graph).items())


def suffix_of(graph: GraphConfig) -> str:
    """The suffix of the folder's name, such as "_knn_k6"; empty for the default."""
    changed = _changed(graph)
    numbers = (f"_{name[0]}{changed[name]}" for name in ("k", "radius") if name in changed)
    return f"_{graph.kind}{''.join(numbers)}" if changed else ""


def _changed(graph: GraphConfig) -> dict[str, Any]:
    default, fields = dataclasses.asdict(DEFAULT_GRAPH), dataclasses.asdict(graph)
    return {name: value for name, value in fields.items() if value != default[name]}
