"""Chooses settings that keep a run within `config.memory_budget_gib`."""

from collections.abc import Callable, Mapping, Sequence

import ml_collections

from ragaf_jax.caches import KINDS, cached_kinds
from ragaf_jax.errors import UserError
from ragaf_jax.nets.model import Model
from ragaf_jax.planning.plan import (
    GIB,
    cacheable,
    cheapest,
    configured,
    flags_of,
    search,
    settings,
)
from ragaf_jax.runtime.processes import agreed
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training.adopt import with_fields
from ragaf_jax.training.caches import cache_keys
from ragaf_jax.training.state import TrainState


def fitted(
    config: ml_collections.ConfigDict, cached: Sequence[str] = ()
) -> tuple[ml_collections.ConfigDict, str]:
    """`config` with the cheapest setting whose step keeps within `config.memory_budget_gib`.

    The update is the same with each of them, so that a run may go on with another one. Compiles
    until one fits; nothing at all where the budget is 0.

    Args:
      config: with the sizes of its networks, as `adopt.adopted` gives it.
      cached: the kinds of caches that were prepared for this run. They are all taken where they can
        be, beside those that `config.data.cache` asks for: reading is cheaper than computing.

    Returns:
      The configuration, and what to say of it; as it is and "" where the budget is 0.

    Raises:
      UserError: nothing fits.
    """
    budget = config.memory_budget_gib
    if not budget:
        return config, ""
    taken = {
        *cached_kinds(config.data.cache, "config.data.cache"),
        *(kind for kind in cacheable(config) if kind in cached),
    }
    cache = ",".join(kind for kind in KINDS if kind in taken)
    plans = search(config, settings(config, (cache,)), budget * GIB)
    chosen = cheapest(plans, budget)
    if chosen is None:
        least = min(plans, key=lambda plan: plan.peak_bytes)
        raise UserError(
            f"config.memory_budget_gib is {budget:g} and a step needs {least.peak_bytes / GIB:.2f} "
            f"GiB at least, {least.state_bytes / GIB:.2f} of them for parameters, average, "
            f"optimiser and batch ({flags_of(least.setting)}): prepare caches, choose a smaller "
            'config.train.batch_size or config.train.optimizer="adafactor", or train less.'
        )
    return configured(config, chosen.setting), (
        f"{flags_of(chosen.setting)}: a step needs {chosen.peak_bytes / GIB:.2f} GiB of the "
        f"{budget:g} of config.memory_budget_gib."
    )


def within_budget(
    config: ml_collections.ConfigDict,
    model: Model,
    state: TrainState,
    tokenizer: Tokenizer,
    prepared: Callable[[Mapping[str, str]], Sequence[str]],
) -> tuple[ml_collections.ConfigDict, str]:
    """`config` with what keeps a step within its memory budget, if it has one; and what that is.

    Raises:
      UserError: nothing does.
    """
    if not config.memory_budget_gib:
        return config, ""
    everything = with_fields(config, {"data.cache": ",".join(cacheable(config))})
    kinds = prepared(cache_keys(everything, model, state, tokenizer))
    return fitted(config, agreed(kinds))
