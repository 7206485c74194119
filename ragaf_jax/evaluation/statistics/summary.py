"""Estimates with 95 % intervals over examples, in the format of metrics.json."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ragaf_jax.evaluation.examples import Values
from ragaf_jax.evaluation.registry import not_computed
from ragaf_jax.evaluation.scoring import Missing, Scores
from ragaf_jax.evaluation.statistics.bootstrap import bootstrap_interval

NUMBERS = "metrics.json"
# A JSON object.
Json = dict[str, Any]


class Estimate(NamedTuple):
    """A metric and its interval.

    Attributes:
      value: a mean over examples, or the metric of the whole set.
      low, high: its 95 % interval.
      examples: number of examples, parts or regions.
      left_out: number of those with an undefined value.
      chance: the mean of random guesses; None where unknown.
    """

    value: float
    low: float
    high: float
    examples: int
    left_out: int = 0
    chance: float | None = None


def estimate(values: Values) -> Estimate | None:
    """The mean of the finite values; None without any."""
    finite = np.isfinite(values.value)
    if not finite.any():
        return None
    found = bootstrap_interval(
        values.value[finite], values.drawing[finite], rng=np.random.default_rng(0)
    )
    chance = None if values.chance is None else float(values.chance[finite].mean())
    return Estimate(*found, int(finite.sum()), int((~finite).sum()), chance)


def estimates(scores: Scores) -> tuple[dict[str, Estimate], Missing]:
    """Estimates by metric, and reasons for metrics without one."""
    found, missing = {}, {}
    for name, values in scores.items():
        estimated = estimate(values)
        if estimated is None:
            missing[name] = not_computed(
                name, f"it is undefined for all {len(values.value)} examples; check the images."
            )
        else:
            found[name] = estimated
    return found, missing


def spread(losses: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Each loss's mean and range over seeds, and its gap to the loss under true conditions.

    losses: results of `losses.validation.make_validate`, one per seed.
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


def responds(loss: Mapping[str, float], true: Mapping[str, float]) -> bool:
    """Whether changed conditions raise the loss by more than its range over seeds.

    loss, true: entries of `spread`.
    """
    return loss["gap"] > max(true["spread"], loss["spread"])


def stored(scores: Scores) -> Json:
    """The values by metric, as input of `comparison`; None for values that are not finite."""
    return {
        name: {
            "drawing": values.drawing.tolist(),
            "item": values.item.tolist(),
            "value": [x if np.isfinite(x) else None for x in values.value.tolist()],
        }
        for name, values in scores.items()
    }


def as_json(found: Mapping[str, Any]) -> Json:
    """The fields of each metric's `NamedTuple`."""
    return {name: value._asdict() for name, value in found.items()}


def by_example(values: Values, count: int) -> Float[np.ndarray, " {count}"]:
    """The mean finite value of each of `count` examples; NaN without any."""
    finite = np.isfinite(values.value)
    example = values.drawing[finite]
    sums = np.bincount(example, values.value[finite], count)
    numbers = np.bincount(example, minlength=count)
    return np.where(numbers > 0, sums / np.maximum(numbers, 1), np.nan)
