"""Loads the pretrained networks of metrics, and lists metrics whose network is missing."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.examples import Networks
from ragaf_jax.evaluation.networks.weights import load_clip, load_inception, load_lpips
from ragaf_jax.evaluation.registry import METRICS, not_computed
from ragaf_jax.evaluation.scoring import Missing


def load_networks(fields: Mapping[str, str]) -> tuple[Networks, Missing]:
    """The networks of `config.metrics`, and the reason for each metric without its network.

    Nothing is downloaded: the fields name local files.
    """
    loaders: dict[str, Callable[[str], Any]] = {
        "inception": load_inception,
        "lpips_alex": functools.partial(load_lpips, net="alex"),
        "lpips_vgg": functools.partial(load_lpips, net="vgg"),
        "clip": load_clip,
    }
    found, missing = {}, Missing()
    for field, load in loaders.items():
        reason = (
            f"config.metrics.{field} is empty; give --config.metrics.{field}=<weights>, "
            "see docs/evaluation.md."
        )
        if fields[field]:
            try:
                found[field] = load(fields[field])
                continue
            except UserError as error:
                # The message starts with the names of all metrics of the network.
                reason = str(error).rpartition(" cannot be computed: ")[2]
        names = [name for name, metric in METRICS.items() if metric.weights == field]
        missing |= {name: not_computed(name, reason) for name in names}
    return Networks(**found), missing


def notices(fields: Mapping[str, str], missing: Missing) -> list[str]:
    """The lines to print about the `missing` of `load_networks`: one for all empty fields, else
    one per reason.
    """
    unnamed = [name for name in missing if not fields[METRICS[name].weights]]
    others = list(dict.fromkeys(why for name, why in missing.items() if name not in unnamed))
    if not unnamed:
        return others
    titles = ", ".join(METRICS[name].title.partition(",")[0] for name in unnamed)
    return [f"Not computed without weights (docs/evaluation.md): {titles}.", *others]
