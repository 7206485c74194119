"""Metrics by pretrained networks: loads those that are available, and scores images."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from ragaf_jax.batch import Truth
from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.metrics.clip_score import clip_scores
from ragaf_jax.evaluation.metrics.features import as_samples
from ragaf_jax.evaluation.metrics.frechet import frechet_distance
from ragaf_jax.evaluation.metrics.inception_score import inception_score
from ragaf_jax.evaluation.metrics.kernel import cmmd, polynomial_mmd2
from ragaf_jax.evaluation.networks.chunks import over_chunks
from ragaf_jax.evaluation.networks.clip import ClipModel
from ragaf_jax.evaluation.networks.inception import inception
from ragaf_jax.evaluation.networks.lpips import lpips
from ragaf_jax.evaluation.networks.weights import load_clip, load_inception, load_lpips
from ragaf_jax.evaluation.registry import METRICS, not_computed
from ragaf_jax.evaluation.scoring import Missing, Scores, attempted, of_drawings
from ragaf_jax.evaluation.statistics.set_intervals import SetInterval, set_interval
from ragaf_jax.weights.load import Tree

Pictures = UInt8[np.ndarray, "b s s 3"]

# Evaluations of a set's metric for its interval: 1000 halves of thousands of pictures take hours.
RESAMPLES = 200


class Networks(NamedTuple):
    """Those whose weights are here; the fields of `config.metrics`."""

    inception: Tree | None = None
    lpips_alex: Tree | None = None
    lpips_vgg: Tree | None = None
    clip: ClipModel | None = None


class Features(NamedTuple):
    """What n pictures are to the networks that look at one picture; None without the network."""

    pool: Float32[np.ndarray, "n 2048"] | None = None
    logits: Float32[np.ndarray, "n 1008"] | None = None
    clip: Float32[np.ndarray, "n d"] | None = None


def load_networks(fields: Mapping[str, str]) -> tuple[Networks, Missing]:
    """The networks of `config.metrics`, and of every metric that has to do without, why.

    Nothing is fetched: what a field names must be on this machine.
    """
    loaders: dict[str, Callable[[str], Any]] = {
        "inception": load_inception,
        "lpips_alex": functools.partial(load_lpips, net="alex"),
        "lpips_vgg": functools.partial(load_lpips, net="vgg"),
        "clip": load_clip,
    }
    found, missing = {}, Missing()
    for field, load in loaders.items():
        reason = (
            f"config.metrics.{field} is empty; give --config.metrics.{field}=<its weights>, "
            "of which docs/evaluation.md tells."
        )
        if fields[field]:
            try:
                found[field] = load(fields[field])
                continue
            except UserError as error:
                # The message begins with the names of all metrics of the network.
                reason = str(error).rpartition(" cannot be computed: ")[2]
        names = [name for name, metric in METRICS.items() if metric.weights == field]
        missing |= {name: not_computed(name, reason) for name in names}
    return Networks(**found), missing


def notices(fields: Mapping[str, str], missing: Missing) -> list[str]:
    """What to print of `missing`: one line for all fields that are empty, else its sentences.

    Args:
      fields: `config.metrics`.
      missing: as `load_networks` returns it.
    """
    unnamed = [name for name in missing if not fields[METRICS[name].weights]]
    others = list(dict.fromkeys(why for name, why in missing.items() if name not in unnamed))
    if not unnamed:
        return others
    titles = ", ".join(METRICS[name].title.partition(",")[0] for name in unnamed)
    return [f"Not computed without weights (docs/evaluation.md): {titles}.", *others]


def look(networks: Networks, pictures: Pictures) -> Features:
    """The features of n ≥ 1 pictures."""
    pool = logits = clip = None
    if networks.inception is not None:
        seen = over_chunks(functools.partial(inception, networks.inception), pictures)
        pool, logits = seen.features, seen.unbiased_logits
    if networks.clip is not None:
        clip = networks.clip.embed_images(pictures)
    return Features(pool, logits, clip)


def score_perception(
    networks: Networks, pictures: Pictures, features: Features, truth: Truth
) -> tuple[Scores, Missing]:
    """LPIPS against the true pictures and CLIP scores with the captions, where there are networks.

    features: of the pictures.
    """
    metrics: dict[str, Callable[[], np.ndarray]] = {}
    for name in ("lpips_alex", "lpips_vgg"):
        params = getattr(networks, name)
        if params is not None:
            distance = functools.partial(lpips, params)
            metrics[name] = functools.partial(over_chunks, distance, pictures, truth.image_u8)
    clip, seen = networks.clip, features.clip
    if clip is not None and seen is not None:
        metrics["clip_score"] = lambda: clip_scores(seen, clip.embed_texts(truth.captions))
    found, missing = attempted(metrics)
    return {name: of_drawings(values) for name, values in found.items()}, missing


def score_sets(features: Features, true: Features) -> tuple[dict[str, SetInterval], Missing]:
    """Metrics of all pictures together, with intervals of 95 % over drawings.

    Args:
      features: of the pictures.
      true: of the true pictures of the same drawings, which are drawn together with them.
    """
    metrics: dict[str, Callable[[], SetInterval]] = {}
    if features.pool is not None:
        metrics["fid"] = lambda: _interval(frechet_distance, features.pool, true.pool)
        metrics["kid"] = lambda: _interval(polynomial_mmd2, features.pool, true.pool)
        metrics["inception_score"] = lambda: _interval(_inception_score, features.logits)
    if features.clip is not None:
        metrics["cmmd"] = lambda: _interval(cmmd, features.clip, true.clip)
    return attempted(metrics)


def _interval(metric: Callable[..., float], *sets: Any) -> SetInterval:
    for examples in sets:
        as_samples(examples, least=4)  # halves have two: of one, no metric here is defined
    return set_interval(metric, *sets, rng=np.random.default_rng(0), resamples=RESAMPLES)


def _inception_score(logits: Float32[np.ndarray, "n 1008"]) -> float:
    """Over one run of all pictures: a tenth of them, as is usual of 50,000, would be a handful."""
    return inception_score(logits, rng=np.random.default_rng(0), splits=1).mean
