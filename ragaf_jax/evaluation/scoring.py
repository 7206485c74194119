"""Computes every metric of the registry that has what it needs."""

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.examples import Examples, Values, of_drawings
from ragaf_jax.evaluation.registry import METRICS, Metric, not_computed
from ragaf_jax.evaluation.statistics.set_intervals import SetInterval

# By metric, each a name in `METRICS`; of what is missing, a sentence that says why.
Scores = dict[str, Values]
Missing = dict[str, str]


def score(examples: Examples) -> tuple[Scores, dict[str, SetInterval], Missing]:
    """The metrics of single drawings, those of all as a set, and why others are not computed.

    A metric without its part of `examples` or without its network is in none of the three.
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
        if isinstance(found, SetInterval):
            sets[name] = found
        elif found is not None:
            scores[name] = found if isinstance(found, Values) else of_drawings(found)
    return scores, sets, missing


def _has_needs(metric: Metric, examples: Examples) -> bool:
    network = getattr(examples.networks, metric.weights) if metric.weights else ()
    return network is not None and getattr(examples, metric.needs) is not None
