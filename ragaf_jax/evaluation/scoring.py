"""Computes all metrics of the registry whose inputs are available."""

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.examples import Examples, Values, per_example
from ragaf_jax.evaluation.registry import METRICS, Metric, not_computed
from ragaf_jax.evaluation.statistics.bootstrap import Interval

# By metric, a name in `METRICS`; `Missing` has the reason why a metric was not computed.
Scores = dict[str, Values]
Missing = dict[str, str]


def score(examples: Examples) -> tuple[Scores, dict[str, Interval], Missing]:
    """Metrics per example, metrics of the whole set, and reasons why others were not computed.

    A metric whose input or network `examples` lacks is in none of the three.
    """
    scores, sets, missing = Scores(), {}, Missing()
    for name, metric in METRICS.items():
        if not _has_needs(metric, examples):
            continue
        try:
            found = metric.compute(examples)
        except UserError as error:
            missing[name] = not_computed(name, str(error))
            continue
        if isinstance(found, Interval):
            sets[name] = found
        elif found is not None:
            scores[name] = found if isinstance(found, Values) else per_example(found)
    return scores, sets, missing


def _has_needs(metric: Metric, examples: Examples) -> bool:
    network = getattr(examples.networks, metric.weights) if metric.weights else ()
    return network is not None and getattr(examples, metric.needs) is not None
