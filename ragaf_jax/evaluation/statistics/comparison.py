"""Compares runs: differences on the same examples, with paired tests."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.registry import METRICS
from ragaf_jax.evaluation.statistics.paired import paired_difference
from ragaf_jax.evaluation.statistics.summary import Json, as_json

NUMBERS = "metrics.json"


class Difference(NamedTuple):
    """first − second on the examples that both have.

    Attributes:
      difference: the mean.
      low, high: its 95 % interval over drawings.
      p_value: of `paired_difference`, two-sided; not corrected for there being many metrics.
      examples: pairs.
    """

    difference: float
    low: float
    high: float
    p_value: float
    examples: int


def differences(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    keys: Sequence[str],
) -> dict[str, Difference]:
    """Of every metric that both runs have values of.

    Regions are numbered by the data's preparation: where two runs were shown others, what is
    measured of regions cannot be paired and is left out.

    Args:
      first, second: values by metric, as `summary.stored` gives them.
      keys: the drawings', of both.
    """
    found = {}
    for name in METRICS:
        if name not in first or name not in second:
            continue
        one, other = (_by_example(values[name]) for values in (first, second))
        if METRICS[name].needs == "attention" and one.keys() != other.keys():
            continue
        both = sorted(one.keys() & other.keys())
        if not both:
            continue
        paired = paired_difference(
            [one[at] for at in both],
            [other[at] for at in both],
            [keys[drawing] for drawing, _ in both],
            rng=np.random.default_rng(0),
        )
        found[name] = Difference(*paired.interval, paired.p_value, len(both))
    return found


def compared(values: Mapping[str, Mapping[str, Any]], other: Json, keys: Sequence[str]) -> Json:
    """The metrics of another evaluation, and what this one is ahead of it, by stage.

    Args:
      values: of this evaluation, by stage as `summary.stored` gives them.
      other: of `read_evaluation`.
      keys: the drawings'.
    """
    ahead = {
        stage: as_json(differences(ours, other["values"][stage], keys))
        for stage, ours in values.items()
    }
    return {"metrics": other["metrics"], "differences": ahead}


def read_evaluation(folder: Path, keys: Sequence[str], seed: int, size: int) -> Json:
    """What an evaluation wrote, once it is known to be of these drawings, their size and this seed.

    Raises:
      UserError: there is no such evaluation, it is older than this code, or of others.
    """
    file = folder / NUMBERS
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        its_keys, its_seed = found["values"]["keys"], found["seed"]
        its_size = found["image_size"]
    except OSError as error:
        raise UserError(
            f"There is no evaluation to compare with in {folder} ({file.name}: {error.strerror}); "
            "name the output folder of one that has ended."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{file} is no evaluation's, or that of an older version; evaluate that run again."
        ) from None
    if its_seed != seed:
        raise UserError(
            f"The evaluation in {folder} sampled with config.seed={its_seed} and this one with "
            f"{seed}; compare runs of one seed."
        )
    if its_size != size:
        raise UserError(
            f"The evaluation in {folder} is of pictures of {its_size} px and this one of {size}; "
            "compare runs at one size."
        )
    if its_keys != list(keys):
        others = len(set(its_keys) ^ set(keys))
        apart = f"{others} are in one of them alone" if others else "they are in another order"
        raise UserError(
            f"The evaluation in {folder} is of {len(its_keys)} drawings and this one of {len(keys)}"
            f", and {apart}; compare runs on the same data and config.evaluation_examples."
        )
    return found


def _by_example(values: Mapping[str, list]) -> dict[tuple[int, int], float]:
    """The value of every (drawing, part or region) that has one."""
    places = zip(values["drawing"], values["item"], strict=True)
    found = zip(places, values["value"], strict=True)
    return {place: value for place, value in found if value is not None}
