"""Intervals of metrics of whole sets: FID, KID, CMMD and the Inception score."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from ragaf_jax.evaluation.statistics.bootstrap import tail_beyond


class SetInterval(NamedTuple):
    """A metric of all examples and the confidence interval about it, `low` ≤ `high`."""

    value: float
    low: float
    high: float


def set_interval(
    metric: Callable[..., float],
    *sets: Shaped[np.ndarray, "n ..."],
    confidence: float = 0.95,
    rng: np.random.Generator,
    resamples: int = 1000,
) -> SetInterval:
    """The metric of whole sets, and an interval for what it is on average over sets of this size.

    By half-sampling (the jackknife that deletes half, Shao & Wu 1989; Politis & Romano 1994): the
    metric of random halves of the examples, drawn without replacement, spreads about its own mean
    as the metric of the whole spreads about its expectation. That spread is laid about the value
    of all examples.

    Not the bootstrap: examples drawn twice are to FID a set of fewer, and to the kernels of KID
    pairs at no distance, which moves the metric by more than its interval is wide. Of intervals
    said to be right 9 times in 10, for the FID of 40 examples with 60 features, the bootstrap's
    percentiles were right 1 time in 200 and these 19 times in 20. The mean of the halves is off
    too, FID's being higher for fewer examples; that is why only their spread is used. So the
    interval does not cover the FID of infinitely many examples. It says how much of a difference
    between two runs is the luck of which examples were drawn, if both are of one size.

    metric: of arrays with the same rows as `sets`. What it encloses is held fixed, and the interval
      is then that of the rest: `lambda fake: frechet_distance(fake, real)` takes the real set as
      given. A difference of two runs on the same examples is a metric too:
      `lambda a, b, real: frechet_distance(a, real) - frechet_distance(b, real)`.
    sets: row i of each belongs to example i; they are resampled together.
    confidence: the interval's coverage, in 0 … 1. rng: the source of the halves.
    resamples: evaluations of the metric on half of the examples, which is what this costs.

    With a single example the interval is the value itself: there is nothing to resample. Raises
    UserError for a confidence outside (0, 1).
    """
    tail, count = tail_beyond(confidence), len(sets[0])
    value = metric(*sets)
    kept = count // 2
    if kept == 0:
        return SetInterval(value, value, value)
    values = np.empty(resamples)
    for i in range(resamples):
        rows = rng.permutation(count) < kept
        values[i] = metric(*(examples[rows] for examples in sets))
    # The variance of a mean of k of n is that of all n times (n − k) / k: once, for a half.
    spread = (values - values.mean()) * np.sqrt(kept / (count - kept))
    below, above = np.quantile(spread, [tail, 1.0 - tail])
    return SetInterval(value, float(value - above), float(value - below))
