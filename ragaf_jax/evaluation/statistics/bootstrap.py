"""Bootstrap confidence intervals of a mean."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from ragaf_jax.errors import UserError


class Interval(NamedTuple):
    """A mean, or a metric of a whole set, and its confidence interval, `low` ≤ `high`."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    values: Float[np.ndarray, "n"] | Sequence[float],
    groups: Shaped[np.ndarray, "n"] | Sequence | None = None,
    confidence: float = 0.95,
    *,
    rng: np.random.Generator,
    resamples: int = 10_000,
) -> Interval:
    """The mean of `values` and its percentile bootstrap interval (Efron & Tibshirani 1993, ch. 13).

    groups: the example of each value. Groups are resampled as a whole (cluster bootstrap; Davison &
      Hinkley 1997, sec. 3.8), because regions of one image are correlated and intervals that ignore
      this are too narrow. By default each value is its own group.
    confidence: the interval's coverage, in 0 … 1. rng: for the resamples.

    For a single group the interval is the mean itself. Raises UserError for no values, values that
    are not finite, a wrong number of groups, or a confidence outside (0, 1).
    """
    values = np.asarray(values, np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise UserError(
            f"an interval needs finite values; got {values.size}, "
            f"{np.count_nonzero(~np.isfinite(values))} of them not finite: remove those."
        )
    member, tail = group_numbers(values.size, groups), tail_beyond(confidence)
    sums, counts = np.bincount(member, values), np.bincount(member)
    means = np.empty(resamples)
    # One resample at a time, which bounds memory.
    for i in range(resamples):
        resample = rng.integers(len(sums), size=len(sums))
        means[i] = sums[resample].sum() / counts[resample].sum()
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def group_numbers(
    count: int, groups: Shaped[np.ndarray, "n"] | Sequence | None
) -> Int[np.ndarray, " n"]:
    """The group of each of `count` values, numbered from 0; by default each is its own.

    Raises UserError unless every value has a group.
    """
    groups = np.arange(count) if groups is None else np.asarray(groups)
    if groups.shape != (count,):
        raise UserError(f"{count} values have {groups.size} groups; give one group per value.")
    return np.unique(groups, return_inverse=True)[1]


def tail_beyond(confidence: float) -> float:
    """The probability on either side of an interval; UserError for a coverage outside (0, 1)."""
    if not 0.0 < confidence < 1.0:
        raise UserError(f"confidence is {confidence}; choose a number between 0 and 1, as 0.95.")
    return (1.0 - confidence) / 2
