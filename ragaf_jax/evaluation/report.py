"""How good are the pictures of both stages? Numbers with intervals, and a contact sheet."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from ragaf_jax.batch import Truth
from ragaf_jax.evaluation.bootstrap import Interval, bootstrap_interval
from ragaf_jax.evaluation.colors import region_colors
from ragaf_jax.evaluation.edges import edge_f1

Pictures = UInt8[np.ndarray, "b s s 3"]


class Quality(NamedTuple):
    """What pictures of one stage score, with 95 % intervals over drawings.

    Attributes:
      edge_f1: agreement of the picture's lines with the sketch.
      color_accuracy: share of parts that have the colour that the caption gives them.
      parts: how many parts were judged.
    """

    edge_f1: Interval
    color_accuracy: Interval | None
    parts: int


def quality(pictures: Pictures, truth: Truth, seed: int = 0) -> Quality:
    """Scores `pictures` against what is true of them; `seed` is the bootstrap's."""
    rng = np.random.default_rng(seed)
    edges = [edge_f1(p, s)[2] for p, s in zip(pictures, truth.sketch_u8, strict=True)]
    hits, drawings = [], []
    for i, picture in enumerate(pictures):
        ink = truth.sketch_u8[i] < 200
        colors = region_colors(picture, truth.true_labels[i], truth.true_colors[i], ink)
        hits.extend((colors.requested == colors.obtained).astype(float))
        drawings.extend([i] * len(colors.part))
    return Quality(
        bootstrap_interval(edges, rng=rng),
        bootstrap_interval(hits, drawings, rng=rng) if hits else None,
        len(hits),
    )


def spread(losses: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Over seeds: each loss's mean and spread (greatest less least), and its gap to the true one.

    Args:
      losses: one dict a seed, as `training.monitor.make_validate` gives them.
    """
    result = {}
    for name in losses[0]:
        values = np.array([loss[name] for loss in losses])
        gap = values - np.array([loss["true"] for loss in losses])
        result[name] = {
            "mean": float(values.mean()),
            "spread": float(np.ptp(values)),
            "gap": float(gap.mean()),
        }
    return result


def sentences(
    qualities: Mapping[str, Quality], losses: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> list[str]:
    """The report in words, a line a finding.

    Args:
      qualities: by stage.
      losses: by stage, what `spread` gives.
    """
    lines = []
    for stage, scores in qualities.items():
        color = scores.color_accuracy
        lines.append(
            f"{stage}: edge F1 {_interval(scores.edge_f1)}"
            + (
                f", region color accuracy {_interval(color)} of {scores.parts} parts (chance 0.09)"
                if color
                else ""
            )
        )
    for stage, by_variant in losses.items():
        true = by_variant["true"]
        spread = true["spread"]
        lines.append(f"{stage}: validation loss {true['mean']:.4f}, spread over seeds {spread:.4f}")
        for variant, loss in by_variant.items():
            if variant == "true":
                continue
            heard = "listens" if loss["gap"] > max(spread, loss["spread"]) else "does not listen"
            lines.append(
                f"{stage}: with {variant.replace('_', ' ')} {loss['mean']:.4f}, "
                f"{loss['gap']:+.4f}: {heard}"
            )
    return lines


def _interval(interval: Interval) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
