"""What metrics are computed from: images, ground truth, features of networks, attention, graphs."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import jraph
import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Real, UInt8
from tqdm import tqdm

from ragaf_jax.batch import Truth
from ragaf_jax.evaluation.metrics.attention import AttentionScores
from ragaf_jax.evaluation.metrics.edges import edge_f1
from ragaf_jax.evaluation.metrics.graph_statistics import GraphStatistics, graph_statistics
from ragaf_jax.evaluation.metrics.leakage import Leakage, leakage
from ragaf_jax.evaluation.metrics.sketch_fidelity import Extract, region_agreement
from ragaf_jax.evaluation.networks.chunks import over_chunks
from ragaf_jax.evaluation.networks.clip import ClipModel
from ragaf_jax.evaluation.networks.inception import inception
from ragaf_jax.weights.load import Tree

Pictures = UInt8[np.ndarray, "b s s 3"]


class Networks(NamedTuple):
    """Those whose weights are here; the fields of `config.metrics`."""

    inception: Tree | None = None
    lpips_alex: Tree | None = None
    lpips_vgg: Tree | None = None
    clip: ClipModel | None = None


class Features(NamedTuple):
    """What the networks that read one image compute of n images; None without the network."""

    pool: Float32[np.ndarray, "n 2048"] | None = None
    logits: Float32[np.ndarray, "n 1008"] | None = None
    clip: Float32[np.ndarray, "n d"] | None = None


def look(networks: Networks, pictures: Pictures) -> Features:
    """The features of n ≥ 1 pictures."""
    pool = logits = clip = None
    if networks.inception is not None:
        seen = over_chunks(functools.partial(inception, networks.inception), pictures)
        pool, logits = seen.features, seen.unbiased_logits
    if networks.clip is not None:
        clip = networks.clip.embed_images(pictures)
    return Features(pool, logits, clip)


class Values(NamedTuple):
    """One number for each of n drawings, or of n of their parts or regions.

    Attributes:
      value: nan or ∞ where it is not defined.
      drawing: index of the drawing.
      item: the part or region in it; 0 for a drawing as a whole.
      chance: what a blind guess would have; None where that is not known.
    """

    value: Float[np.ndarray, " n"]
    drawing: Int[np.ndarray, " n"]
    item: Int[np.ndarray, " n"]
    chance: Float[np.ndarray, " n"] | None = None


def of_drawings(values: Real[np.ndarray, " b"]) -> Values:
    """One value a drawing."""
    drawing = np.arange(len(values))
    return Values(values.astype(np.float64), drawing, np.zeros_like(drawing))


@dataclass(frozen=True)
class Examples:
    """B drawings with what is known of them; a metric reads the fields that it needs.

    What several metrics share is a cached property, computed when the first of them reads it.

    Attributes:
      truth: the ground truth.
      images: generated for the drawings of `truth`, in its order.
      extract: as in `sketch_fidelity.edge_maps`.
      networks: the pretrained ones.
      true: `look` of the true images.
      attention: of the drawings' regions.
      graph: the region graphs, with a leading batch axis.
    """

    truth: Truth
    images: Pictures | None = None
    extract: Extract | None = None
    networks: Networks = field(default_factory=Networks)
    true: Features = field(default_factory=Features)
    attention: AttentionScores | None = None
    graph: jraph.GraphsTuple | None = None

    def each(self, metric: Callable[..., float | tuple[float, ...]]) -> Float64[np.ndarray, "b *k"]:
        """`metric` of every image and its sketch."""
        assert self.images is not None
        pairs = zip(self.images, self.truth.sketch_u8, strict=True)
        count = len(self.images)
        bar = tqdm(pairs, metric.__name__, count, unit=" drawings", leave=False, delay=2)
        return np.array([metric(*pair) for pair in bar])

    @functools.cached_property
    def edges(self) -> Float64[np.ndarray, "b 3"]:
        """Precision, recall and F1 of each image's lines."""
        return self.each(edge_f1)

    @functools.cached_property
    def regions(self) -> Float64[np.ndarray, "b 2"]:
        """IoU and covering of the regions of each image with those of its sketch."""

        def agreement(*pair: np.ndarray) -> tuple[float, float]:
            scores = region_agreement(*pair)
            return scores.iou, scores.covering

        return self.each(agreement)

    @functools.cached_property
    def features(self) -> Features:
        """`look` of the images."""
        assert self.images is not None
        return look(self.networks, self.images)

    @functools.cached_property
    def parts(self) -> Leakage | None:
        """The colours of the parts; None where no colour is known that was asked of one."""
        if self.images is None or not parts_known(self.truth):
            return None
        return leakage(self.images, self.truth)

    @functools.cached_property
    def counts(self) -> GraphStatistics:
        """Regions and edges of each drawing."""
        assert self.graph is not None
        return graph_statistics(self.graph, self.truth.regions_found)


def parts_known(truth: Truth) -> bool:
    """Whether it is known of any part which colour was asked of it."""
    return bool((truth.true_colors >= 0).any())
