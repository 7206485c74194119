"""Bootstrap confidence intervals of a mean."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from ragaf_jax.errors import UserError


class Interval(NamedTuple):
    """A mean and the confidence interval about it, `low` ≤ `high`."""

    mean: float
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

    groups: which drawing each value belongs to. Whole drawings are then drawn with replacement, all
      their values at once (cluster bootstrap; Davison & Hinkley 1997, sec. 3.8): regions of one
      picture succeed and fail together, and an interval that took them for independent would be too
      narrow. Without groups every value stands alone.
    confidence: the interval's coverage, in 0 … 1. rng: the source of the resamples.

    With a single value or group the interval is the mean itself: there is nothing to resample.
    Raises UserError for no values, values that are not finite, a group for not every value, or a
    confidence outside (0, 1).
    """
    values = np.asarray(values, np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise UserError(
            f"an interval needs finite values; got {values.size}, "
            f"{np.count_nonzero(~np.isfinite(values))} of them not finite: leave those out."
        )
    member, tail = group_numbers(values.size, groups), tail_beyond(confidence)
    sums, counts = np.bincount(member, values), np.bincount(member)
    means = np.empty(resamples)
    # One resample at a time: all at once would be a table of resamples × groups.
    for i in range(resamples):
        drawn = rng.integers(len(sums), size=len(sums))
        means[i] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def group_numbers(
    count: int, groups: Shaped[np.ndarray, "n"] | Sequence | None
) -> Int[np.ndarray, " n"]:
    """The group of each of `count` values, numbered from 0; without groups each is its own.

    Raises UserError unless every value has a group.
    """
    groups = np.arange(count) if groups is None else np.asarray(groups)
    if groups.shape != (count,):
        raise UserError(f"{count} values have {groups.size} groups; give one to each.")
    return np.unique(groups, return_inverse=True)[1]


def tail_beyond(confidence: float) -> float:
    """The probability on either side of an interval; UserError for a coverage outside (0, 1)."""
    if not 0.0 < confidence < 1.0:
        raise UserError(f"confidence is {confidence}; choose a number between 0 and 1, say 0.95.")
    return (1.0 - confidence) / 2
