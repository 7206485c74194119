"""Compares runs: differences on the same examples, with paired tests."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.registry import METRICS
from ragaf_jax.evaluation.statistics.paired import paired_difference
from ragaf_jax.evaluation.statistics.summary import NUMBERS, Json, as_json


class Difference(NamedTuple):
    """first − second on common examples.

    Attributes:
      difference: the mean.
      low, high: its 95 % interval over examples.
      p_value: of `paired_difference`, two-sided, without correction for multiple metrics.
      examples: number of pairs.
    """

    difference: float
    low: float
    high: float
    p_value: float
    examples: int


def differences(
    first: Mapping[str, Any], second: Mapping[str, Any], keys: Sequence[str]
) -> dict[str, Difference]:
    """The differences of all metrics that both runs have.

    Data preparation numbers the regions. If the runs used different regions, metrics of regions
    cannot be paired and are left out.

    first, second: results of `summary.stored`. keys: of the examples, which both runs share.
    """
    found = {}
    for name in METRICS:
        if name not in first or name not in second:
            continue
        one, other = (_by_example(values[name]) for values in (first, second))
        if METRICS[name].needs == "attention" and one.keys() != other.keys():
            continue
        common = sorted(one.keys() & other.keys())
        if not common:
            continue
        paired = paired_difference(
            [one[item] for item in common],
            [other[item] for item in common],
            [keys[example] for example, _ in common],
            rng=np.random.default_rng(0),
        )
        found[name] = Difference(*paired.interval, paired.p_value, len(common))
    return found


def compared(values: Mapping[str, Mapping[str, Any]], other: Json, keys: Sequence[str]) -> Json:
    """The metrics of another evaluation, and this evaluation's differences from it by stage.

    values: of this evaluation, results of `summary.stored` by stage.
    """
    by_stage = {
        stage: as_json(differences(ours, other["values"][stage], keys))
        for stage, ours in values.items()
    }
    return {"metrics": other["metrics"], "differences": by_stage}


def read_evaluation(
    folder: Path, keys: Sequence[str], seed: int, size: int, sizes: Mapping[str, int]
) -> Json:
    """Another evaluation's metrics.json.

    Args:
      folder: its output.
      keys, seed, size: of this one's examples, `config.seed`, and config.data.image_size.
      sizes: number of this one's examples by size, such as {"64x64": 144}.

    Raises:
      UserError: it is missing, of an older version, or of other examples, image size or seed.
    """
    file = folder / NUMBERS
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        its_keys, its_seed, its_size = found["values"]["keys"], found["seed"], found["image_size"]
    except OSError as error:
        raise UserError(
            f"There is no evaluation to compare with in {folder} ({file.name}: {error.strerror}); "
            "name the output folder of a finished one."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{file} is not of an evaluation by this version; evaluate that run again."
        ) from None
    if its_seed != seed:
        raise UserError(
            f"The evaluation in {folder} has config.seed={its_seed} and this one {seed}; "
            "compare runs with the same seed."
        )
    if its_size != size:
        raise UserError(
            f"The evaluation in {folder} has images of {its_size} px and this one of {size}; "
            "compare runs with the same size."
        )
    if its_keys != list(keys):
        others = len(set(its_keys) ^ set(keys))
        mismatch = f"{others} are in only one of them" if others else "their order differs"
        raise UserError(
            f"The evaluation in {folder} has {len(its_keys)} examples and this one {len(keys)}, "
            f"and {mismatch}; compare runs with the same data and config.evaluation_examples."
        )
    squares = {f"{size}x{size}": len(keys)}  # of versions without buckets
    if (its_sizes := found.get("sizes", squares)) != sizes:
        here, there = (", ".join(f"{n} of {x}" for x, n in y.items()) for y in (sizes, its_sizes))
        raise UserError(
            f"The evaluation in {folder} has images of other sizes ({there} px) than this one "
            f"({here} px); compare runs with the same config.data.buckets."
        )
    return found


def _by_example(values: Mapping[str, list]) -> dict[tuple[int, int], float]:
    """The finite values by (example, part or region)."""
    places = zip(values["drawing"], values["item"], strict=True)
    found = zip(places, values["value"], strict=True)
    return {place: value for place, value in found if value is not None}
