"""Compiler options of a training step."""

import jax
import ml_collections


def compiler_options(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Options for `jax.jit` of a training step.

    XLA's CPU backend starts whatever is ready, breadth first, so that it has always something to do
    at once. What the backward pass is to compute again (`nets.blocks.REMAT`) is ready early, and is
    then kept all along: rematerialisation costs time and spares nothing. Where memory is asked for,
    by `config.model.remat` or a budget, operations come in an order that needs little of it. The
    numbers are the same, to the bit.
    """
    asked = config.model.remat != "none" or config.memory_budget_gib > 0
    if not asked or jax.default_backend() != "cpu":
        return {}
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
