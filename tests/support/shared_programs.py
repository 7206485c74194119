"""What compiles, made once for all tests of a file: tracing and loading a step takes seconds."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import pytest

from ragaf_jax.training import loop


def shared(make: Callable[..., Any], key: Callable[..., object] = repr) -> Callable[..., Any]:
    """`make`, which compiles: where the key of its arguments is the same, it returns what it made.

    Args:
      make: returns a function that may be called again and again.
      key: of the tuple of arguments; by default their text, which is that of dataclasses.
    """
    made: dict[object, Any] = {}

    @functools.wraps(make)
    def once(*args: Any) -> Any:
        if (asked := key(args)) not in made:
            made[asked] = make(*args)
        return made[asked]

    return once


def share_training(patch: pytest.MonkeyPatch) -> None:
    """Lets runs of equal settings in this process share their programs and their first parameters.

    A run goes on in the program that it began with, which a new process would read from the cache.
    """
    start, starts = loop.initial_params, {}

    def initial_params(config, model, stage1, mesh):
        if stage1 is not None:
            return start(config, model, stage1, mesh)
        chosen = config.train.trainable, config.train.frozen
        asked = repr((config.seed, config.init, chosen, model, mesh))
        if asked not in starts:
            made = start(config, model, stage1, mesh)
            starts[asked] = jax.device_get(made), jax.tree.map(lambda x: x.sharding, made)
        return jax.device_put(*starts[asked])

    def settings(args):
        config, model, _, objective, _, mesh = args
        # NumPy abbreviates the objective's arrays.
        made = config.train, config.diffusion, config.data, config.memory_budget_gib
        return repr((*made, model, objective, mesh))

    patch.setattr(loop, "initial_params", initial_params)
    patch.setattr(loop, "jitted_step", shared(loop.jitted_step, settings))
    patch.setattr(loop, "make_validate", shared(loop.make_validate))
