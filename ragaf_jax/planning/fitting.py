"""Chooses settings that keep a run within `config.memory_budget_gib`."""

from collections.abc import Callable, Mapping, Sequence

from ml_collections import ConfigDict

from ragaf_jax.caches import KINDS, cached_kinds
from ragaf_jax.errors import UserError
from ragaf_jax.nets.model import Model
from ragaf_jax.planning.plan import (
    GIB,
    cacheable,
    cheapest,
    configured,
    flags_of,
    largest,
    search,
    settings,
)
from ragaf_jax.runtime.processes import agreed
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training.adopt import with_fields
from ragaf_jax.training.caches import cache_keys
from ragaf_jax.training.state import TrainState


def fitted(config: ConfigDict, cached: Sequence[str] = ()) -> tuple[ConfigDict, str]:
    """`config` with the cheapest setting whose step keeps within `config.memory_budget_gib`.

    With buckets the steps of all sizes do.

    All settings compute the same update, so a run can be resumed with another one. Settings are
    compiled until one fits; with a budget of 0 `config` is unchanged.

    Args:
      config: with the sizes of its networks, as `adopt.adopted` returns it.
      cached: the kinds of caches that were prepared for this run. All usable ones are added to
        those of `config.data.cache`, because reading is cheaper than computing.

    Returns:
      The configuration, and a notice or "".

    Raises:
      UserError: no setting fits.
    """
    budget = config.memory_budget_gib
    if not budget:
        return config, ""
    usable = set(cached) & set(cacheable(config))
    used = usable | set(cached_kinds(config.data.cache, "config.data.cache"))
    cache = ",".join(kind for kind in KINDS if kind in used)
    plans = search(config, settings(config, (cache,)), budget * GIB)
    chosen = cheapest(plans, budget)
    if chosen is None:
        least = min(largest(plans).values(), key=lambda plan: plan.account.peak_bytes)
        raise UserError(
            f"config.memory_budget_gib is {budget:g} and a step needs at least "
            f"{least.account.peak_bytes / GIB:.2f} GiB, "
            f"{least.account.argument_bytes / GIB:.2f} of them for "
            f"parameters, average, optimiser and batch ({flags_of(least.setting, 'config.')}): "
            "prepare caches, choose a smaller config.train.batch_size or "
            'config.train.optimizer="adafactor", or train fewer parameters.'
        )
    return configured(config, chosen.setting), (
        f"{flags_of(chosen.setting, 'config.')}: a step needs "
        f"{chosen.account.peak_bytes / GIB:.2f} GiB of the {budget:g} of config.memory_budget_gib."
    )


def within_budget(
    config: ConfigDict,
    model: Model,
    state: TrainState,
    tokenizer: Tokenizer,
    prepared: Callable[[Mapping[str, str]], Sequence[str]],
) -> tuple[ConfigDict, str]:
    """`config` with a setting that keeps a step within its memory budget, if any; and a notice.

    Raises:
      UserError: no setting fits.
    """
    if not config.memory_budget_gib:
        return config, ""
    everything = with_fields(config, {"data.cache": ",".join(cacheable(config))})
    kinds = prepared(cache_keys(everything, model, state, tokenizer))
    return fitted(config, agreed(kinds))
