"""Estimates with 95 % intervals over examples, in the form of metrics.json."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from ragaf_jax.evaluation.examples import Values
from ragaf_jax.evaluation.registry import not_computed
from ragaf_jax.evaluation.scoring import Missing, Scores
from ragaf_jax.evaluation.statistics.bootstrap import bootstrap_interval
from ragaf_jax.evaluation.statistics.fusion_balance import RegionBalance, balance

# What JSON can hold.
Json = dict[str, Any]


class Estimate(NamedTuple):
    """A number and the interval about it.

    Attributes:
      value: a mean over examples, or the metric of the whole set.
      low, high: its 95 % interval.
      examples: drawings, parts or regions that it is of.
      left_out: others, for which it is not defined.
      chance: the mean of what a blind guess would have; None where that is not known.
    """

    value: float
    low: float
    high: float
    examples: int
    left_out: int = 0
    chance: float | None = None


def estimate(values: Values) -> Estimate | None:
    """The mean of what is finite; None where nothing is."""
    finite = np.isfinite(values.value)
    if not finite.any():
        return None
    found = bootstrap_interval(
        values.value[finite], values.drawing[finite], rng=np.random.default_rng(0)
    )
    chance = None if values.chance is None else float(values.chance[finite].mean())
    return Estimate(*found, int(finite.sum()), int((~finite).sum()), chance)


def estimates(scores: Scores) -> tuple[dict[str, Estimate], Missing]:
    """Of every metric, and why there is none of the others."""
    found, missing = {}, {}
    for name, values in scores.items():
        estimated = estimate(values)
        if estimated is None:
            missing[name] = not_computed(
                name, f"none of {len(values.value)} examples has a defined value; look at them."
            )
        else:
            found[name] = estimated
    return found, missing


def fusion_summary(regions: RegionBalance, levels: Sequence[float]) -> Json:
    """α at each timestep, of "all" regions, the "background" and what is "drawn"; and the "levels".

    Of each kind, "regions" says how many there are, "alpha" has (mean, low, high) a level and "sd"
    the spread over regions; β is 1 − α. A kind that no drawing has is left out.
    """
    kinds: dict[str, Bool[np.ndarray, " n"]] = {
        "all": np.ones_like(regions.background),
        "background": regions.background,
        "drawn": ~regions.background,
    }
    found: Json = {"levels": list(levels)}
    for kind, chosen in kinds.items():
        spread = balance(regions.alpha[:, chosen])
        if spread is None:
            continue
        intervals = [
            bootstrap_interval(alpha, regions.drawing[chosen], rng=np.random.default_rng(0))
            for alpha in regions.alpha[:, chosen]
        ]
        found[kind] = {
            "regions": spread.regions,
            "alpha": [list(interval) for interval in intervals],
            "sd": spread.sd.tolist(),
        }
    return found


def spread(losses: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Over seeds: each loss's mean and spread (greatest less least), and its gap to the true one.

    Args:
      losses: one dict a seed, as `losses.validation.make_validate` gives them.
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


def listens(loss: Mapping[str, float], true: Mapping[str, float]) -> bool:
    """Whether a change of the conditions costs more than seeds differ; both are of `spread`."""
    return loss["gap"] > max(true["spread"], loss["spread"])


def stored(scores: Scores) -> Json:
    """The values by metric, as `comparison` reads them; None where a value is not finite."""
    return {
        name: {
            "drawing": values.drawing.tolist(),
            "item": values.item.tolist(),
            "value": [x if np.isfinite(x) else None for x in values.value.tolist()],
        }
        for name, values in scores.items()
    }


def as_json(found: Mapping[str, Any]) -> Json:
    """Of every metric, the fields of its `NamedTuple`."""
    return {name: value._asdict() for name, value in found.items()}


def by_drawing(values: Values, count: int) -> Float[np.ndarray, " {count}"]:
    """The mean value of each of `count` drawings; nan where one has none that is finite."""
    finite = np.isfinite(values.value)
    drawing = values.drawing[finite]
    sums = np.bincount(drawing, values.value[finite], count)
    numbers = np.bincount(drawing, minlength=count)
    return np.where(numbers > 0, sums / np.maximum(numbers, 1), np.nan)
