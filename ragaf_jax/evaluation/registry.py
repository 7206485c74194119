"""The registry of metrics: names, units, better direction and computation."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from ragaf_jax.evaluation.examples import Values
from ragaf_jax.evaluation.metrics.clip_score import clip_scores
from ragaf_jax.evaluation.metrics.features import as_samples
from ragaf_jax.evaluation.metrics.frechet import frechet_distance
from ragaf_jax.evaluation.metrics.inception_score import inception_score
from ragaf_jax.evaluation.metrics.kernel import cmmd, polynomial_mmd2
from ragaf_jax.evaluation.metrics.similarity import ms_ssim, psnr, ssim
from ragaf_jax.evaluation.metrics.sketch_fidelity import edge_map_ssim, line_distance
from ragaf_jax.evaluation.networks.chunks import over_chunks
from ragaf_jax.evaluation.networks.lpips import lpips
from ragaf_jax.evaluation.statistics.bootstrap import Interval
from ragaf_jax.evaluation.statistics.set_intervals import set_interval
from ragaf_jax.graph.features import EDGE_KINDS

SKETCH = "Fidelity to the sketch"
LIKENESS = "Similarity to the true image"
CAPTION = "Agreement with the caption"
SETS = "Distribution of images against the true ones"
PARTS = "Colours of parts"
ATTENTION = "Attention of regions to their words"
GRAPHS = "Region graphs"

# Evaluations of a set metric for its interval; 1000 would take hours on thousands of images.
RESAMPLES = 200


class Metric(NamedTuple):
    """One metric.

    Attributes:
      title: its usual name, with the unit.
      better: "higher" or "lower"; "" if neither.
      section: of the report.
      compute: a function of `Examples`. It returns a number per example, `Values` of parts or
        regions, an `Interval`, or None if there is nothing to measure. It raises UserError if the
        metric is undefined.
      digits: after the decimal point.
      needs: the field of `Examples` that it requires: "images", "parts", "attention" or "graph".
      weights: the field of `config.metrics` with its network's weights; "" for none.
    """

    title: str
    better: str
    section: str
    compute: Callable[[Any], np.ndarray | Values | Interval | None]
    digits: int = 3
    needs: str = "images"
    weights: str = ""


def _edge_map_ssim(x: Any) -> np.ndarray:
    return edge_map_ssim(x.images, x.truth.image_u8, x.extract)


def _lpips(title: str, weights: str) -> Metric:
    def compute(x: Any) -> np.ndarray:
        distance = functools.partial(lpips, getattr(x.networks, weights))
        return over_chunks(distance, x.images, x.truth.image_u8)

    return Metric(title, "lower", LIKENESS, compute, weights=weights)


def _clip_score(x: Any) -> np.ndarray:
    return clip_scores(x.features.clip, x.networks.clip.embed_texts(x.truth.captions))


def _set_metric(
    title: str, better: str, digits: int, weights: str, feature: str, metric: Callable[..., float]
) -> Metric:
    """`metric` of a field of `Features` of the generated and the true images."""

    def compute(x: Any) -> Interval:
        sets = getattr(x.features, feature), getattr(x.true, feature)
        for rows in sets:
            as_samples(rows, least=4)  # so that half of them are two, as all metrics require
        return set_interval(metric, *sets, rng=np.random.default_rng(0), resamples=RESAMPLES)

    return Metric(title, better, SETS, compute, digits, weights=weights)


def _inception_score(
    logits: Float32[np.ndarray, "n 1008"], true: Float32[np.ndarray, "n 1008"]
) -> float:
    """One split, because the usual ten suit 50,000 images and would hold a few images here."""
    del true
    return inception_score(logits, rng=np.random.default_rng(0), splits=1).mean


def _part_metric(title: str, better: str, name: str, digits: int = 3) -> Metric:
    """The metric of a field of `Leakage`."""

    def compute(x: Any) -> Values:
        value, chance = getattr(x.parts, name), getattr(x.parts, f"{name}_chance", None)
        return Values(value.astype(np.float64), x.parts.drawing, x.parts.part, chance)

    return Metric(title, better, PARTS, compute, digits, "parts")


def _region_metric(title: str, name: str) -> Metric:
    """The metric of a field of `AttentionScores`."""

    def compute(x: Any) -> Values | None:
        value, chance = getattr(x.attention, name), getattr(x.attention, f"{name}_chance")
        if not len(value):
            return None
        return Values(value, x.attention.drawing, x.attention.region, chance)

    return Metric(title, "higher", ATTENTION, compute, needs="attention")


def _graph_metric(title: str, compute: Callable[[Any], np.ndarray | None]) -> Metric:
    return Metric(title, "", GRAPHS, compute, 1, "graph")


def _kind_metric(kind: str) -> Metric:
    column = EDGE_KINDS.index(kind)
    return _graph_metric(f"edges of kind {kind}", lambda x: x.counts.kinds[:, column])


METRICS = {
    "edge_f1": Metric("edge F1", "higher", SKETCH, lambda x: x.edges[:, 2]),
    "edge_precision": Metric("edge precision", "higher", SKETCH, lambda x: x.edges[:, 0]),
    "edge_recall": Metric("edge recall", "higher", SKETCH, lambda x: x.edges[:, 1]),
    "line_distance": Metric(
        "line distance (Chamfer), px", "lower", SKETCH, lambda x: x.each(line_distance)
    ),
    "edge_map_ssim": Metric("SSIM of edge maps (Canny)", "higher", SKETCH, _edge_map_ssim),
    "region_iou": Metric("region IoU", "higher", SKETCH, lambda x: x.regions[:, 0]),
    "region_covering": Metric("region covering", "higher", SKETCH, lambda x: x.regions[:, 1]),
    "ssim": Metric("SSIM", "higher", LIKENESS, lambda x: ssim(x.images, x.truth.image_u8)),
    "ms_ssim": Metric("MS-SSIM", "higher", LIKENESS, lambda x: ms_ssim(x.images, x.truth.image_u8)),
    "psnr": Metric("PSNR, dB", "higher", LIKENESS, lambda x: psnr(x.images, x.truth.image_u8), 2),
    "lpips_alex": _lpips("LPIPS (AlexNet)", "lpips_alex"),
    "lpips_vgg": _lpips("LPIPS (VGG)", "lpips_vgg"),
    "clip_score": Metric("CLIP score, 0 … 100", "higher", CAPTION, _clip_score, 2, weights="clip"),
    "fid": _set_metric("FID", "lower", 2, "inception", "pool", frechet_distance),
    "kid": _set_metric("KID", "lower", 4, "inception", "pool", polynomial_mmd2),
    "inception_score": _set_metric(
        "Inception score", "higher", 2, "inception", "logits", _inception_score
    ),
    "cmmd": _set_metric("CMMD", "lower", 3, "clip", "clip", cmmd),
    "color_accuracy": _part_metric("region colour accuracy", "higher", "right"),
    "color_difference": _part_metric("colour difference, ΔE2000", "lower", "difference", 2),
    "leak_near": _part_metric("colour leaked from an adjacent part", "lower", "near"),
    "leak_far": _part_metric("colour leaked from a part that is not adjacent", "lower", "far"),
    "attention_phrase": _region_metric("attention on the words about the part", "phrase"),
    "attention_color": _region_metric("attention on the part's colour word", "color"),
    "attention_pointing": _region_metric("pointing game", "pointing"),
    "graph_regions": _graph_metric("regions", lambda x: x.counts.regions),
    "graph_edges": _graph_metric("directed edges with self loops", lambda x: x.counts.edges),
    **{f"graph_{kind}": _kind_metric(kind) for kind in EDGE_KINDS},
    "graph_merged": _graph_metric("regions merged beyond the maximum", lambda x: x.counts.merged),
}


def not_computed(name: str, reason: str) -> str:
    """The sentence about a metric without a result."""
    return f"{METRICS[name].title.partition(',')[0]} is not computed: {reason}"
