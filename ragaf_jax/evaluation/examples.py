"""Inputs of metrics: images, ground truth, features of networks, attention, graphs."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import jraph
import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Real
from tqdm import tqdm

from ragaf_jax.batch import Images, Truth
from ragaf_jax.evaluation.metrics.attention import AttentionScores
from ragaf_jax.evaluation.metrics.edges import edge_f1
from ragaf_jax.evaluation.metrics.graph_statistics import GraphStatistics, graph_statistics
from ragaf_jax.evaluation.metrics.leakage import Leakage, leakage
from ragaf_jax.evaluation.metrics.sketch_fidelity import Extract, region_agreement
from ragaf_jax.evaluation.networks.chunks import over_chunks
from ragaf_jax.evaluation.networks.clip import ClipModel
from ragaf_jax.evaluation.networks.inception import inception
from ragaf_jax.weights.load import Tree


class Networks(NamedTuple):
    """Pretrained networks by the fields of `config.metrics`; None without weights."""

    inception: Tree | None = None
    lpips_alex: Tree | None = None
    lpips_vgg: Tree | None = None
    clip: ClipModel | None = None


class Features(NamedTuple):
    """Features of n images by the networks of one image; None without the network."""

    pool: Float32[np.ndarray, "n 2048"] | None = None
    logits: Float32[np.ndarray, "n 1008"] | None = None
    clip: Float32[np.ndarray, "n d"] | None = None


def features_of(networks: Networks, images: Images) -> Features:
    """The features of n ≥ 1 images."""
    pool = logits = clip = None
    if networks.inception is not None:
        output = over_chunks(functools.partial(inception, networks.inception), images)
        pool, logits = output.features, output.unbiased_logits
    if networks.clip is not None:
        clip = networks.clip.embed_images(images)
    return Features(pool, logits, clip)


class Values(NamedTuple):
    """One number for each of n examples, parts or regions.

    Attributes:
      value: NaN or infinite where undefined.
      drawing: index of the example.
      item: id of the part or region; 0 for a whole example.
      chance: the expected value of a random guess; None where unknown.
    """

    value: Float[np.ndarray, " n"]
    drawing: Int[np.ndarray, " n"]
    item: Int[np.ndarray, " n"]
    chance: Float[np.ndarray, " n"] | None = None


def per_example(values: Real[np.ndarray, " b"]) -> Values:
    """`Values` of one number per example."""
    index = np.arange(len(values))
    return Values(values.astype(np.float64), index, np.zeros_like(index))


@dataclass(frozen=True)
class Examples:
    """B examples with all inputs of metrics; cached properties hold what several metrics share.

    Attributes:
      truth: the ground truth.
      images: generated images, in the order of `truth`.
      extract: as in `sketch_fidelity.edge_maps`.
      networks: pretrained networks.
      true: features of the true images.
      attention: scores of the examples' regions.
      graph: the region graphs, with a leading batch axis.
    """

    truth: Truth
    images: Images | None = None
    extract: Extract | None = None
    networks: Networks = field(default_factory=Networks)
    true: Features = field(default_factory=Features)
    attention: AttentionScores | None = None
    graph: jraph.GraphsTuple | None = None

    def each(self, metric: Callable[..., float | tuple[float, ...]]) -> Float64[np.ndarray, "b *k"]:
        """`metric` of each pair of image and sketch."""
        assert self.images is not None
        pairs = zip(self.images, self.truth.sketch_u8, strict=True)
        count = len(self.images)
        bar = tqdm(pairs, metric.__name__, count, unit=" examples", leave=False, delay=2)
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
        """Features of the images."""
        assert self.images is not None
        return features_of(self.networks, self.images)

    @functools.cached_property
    def parts(self) -> Leakage | None:
        """The colours of the parts; None if no requested colour is known."""
        if self.images is None or not parts_known(self.truth):
            return None
        return leakage(self.images, self.truth)

    @functools.cached_property
    def counts(self) -> GraphStatistics:
        """Regions and edges of each example."""
        assert self.graph is not None
        return graph_statistics(self.graph, self.truth.regions_found)


def parts_known(truth: Truth) -> bool:
    """Whether the requested colour of any part is known."""
    return bool((truth.true_colors >= 0).any())
