"""Paired comparison of two runs on the same examples."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.statistics.bootstrap import Interval, bootstrap_interval, group_numbers


class PairedDifference(NamedTuple):
    """The mean of first − second with its interval and p-value.

    p_value: two-sided, under the hypothesis that the runs are interchangeable; in 0 … 1.
    """

    interval: Interval
    p_value: float


def paired_difference(
    first: Float[np.ndarray, "n"] | Sequence[float],
    second: Float[np.ndarray, "m"] | Sequence[float],
    groups: Shaped[np.ndarray, "n"] | Sequence | None = None,
    *,
    rng: np.random.Generator,
    resamples: int = 10_000,
) -> PairedDifference:
    """Compares two runs' values on the same examples.

    The interval is the 95 % `bootstrap_interval` of the differences. The p-value is that of the
    sign-flip test (Fisher 1935, sec. 21). If the runs are interchangeable, both signs of a group's
    difference are equally likely; p is the share of random signs with a mean at least as far from
    0. The observed signs are included (Phipson & Smyth 2010), so p > 0.

    groups: the example of each value; values of one example are resampled together and have one
      sign. By default each value is its own group.
    resamples: of the interval and the test; the smallest p is 1 / (1 + resamples).

    Raises UserError if the numbers of values differ, and as `bootstrap_interval` does.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise UserError(
            f"the runs have {first.size} and {second.size} values; compare them on the same "
            "examples, in the same order."
        )
    difference = first - second
    interval = bootstrap_interval(difference, groups, rng=rng, resamples=resamples)
    sums = np.bincount(group_numbers(difference.size, groups), difference)
    flipped = np.empty(resamples)
    for i in range(resamples):
        flipped[i] = rng.choice((-1.0, 1.0), len(sums)) @ sums
    # The observed signs and their negation must count as extreme in spite of rounding.
    rounding = 1e-12 * np.abs(sums).sum()
    extreme = np.count_nonzero(np.abs(flipped) >= abs(sums.sum()) - rounding)
    return PairedDifference(interval, (1 + extreme) / (1 + resamples))
