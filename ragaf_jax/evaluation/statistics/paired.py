"""Paired comparison of two runs on the same examples."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.statistics.bootstrap import Interval, bootstrap_interval, group_numbers


class PairedDifference(NamedTuple):
    """The mean of first − second with its interval, and how often chance alone does as well.

    p_value: two-sided, of the hypothesis that the two runs are interchangeable; in 0 … 1.
    """

    interval: Interval
    p_value: float


def paired_difference(
    first: Float[np.ndarray, "n"] | Sequence[float],
    second: Float[np.ndarray, "m"] | Sequence[float],
    groups: Shaped[np.ndarray, "n"] | Sequence | None = None,
    confidence: float = 0.95,
    *,
    rng: np.random.Generator,
    resamples: int = 10_000,
) -> PairedDifference:
    """Compares two runs' values of the same examples, value by value.

    The interval is `bootstrap_interval` of the differences. The p-value is that of the sign-flip
    test (Fisher 1935, sec. 21): if the runs are interchangeable, the difference of a group is as
    likely to have the other sign, and p is the share of random signs that give a mean at least as
    far from 0. The signs that were observed count among them (Phipson & Smyth 2010), so p > 0.

    groups: which drawing each value belongs to; a drawing's values are resampled together and
      change their sign together. Without groups every value stands alone.
    resamples: of the interval and of the test; 1 / (1 + resamples) is the least p.

    Raises UserError where the runs have unlike numbers of values, and as `bootstrap_interval` does.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise UserError(
            f"the runs have {first.size} and {second.size} values; compare them on the same "
            "examples, in the same order."
        )
    difference = first - second
    interval = bootstrap_interval(difference, groups, confidence, rng=rng, resamples=resamples)
    sums = np.bincount(group_numbers(difference.size, groups), difference)
    flipped = np.empty(resamples)
    for i in range(resamples):
        flipped[i] = rng.choice((-1.0, 1.0), len(sums)) @ sums
    # All signs kept, and all turned, must count as extreme whatever order the sum was made in.
    rounding = 1e-12 * np.abs(sums).sum()
    extreme = np.count_nonzero(np.abs(flipped) >= abs(sums.sum()) - rounding)
    return PairedDifference(interval, (1 + extreme) / (1 + resamples))
