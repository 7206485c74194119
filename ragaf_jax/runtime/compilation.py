"""Compiler options of a training step."""

from importlib.metadata import PackageNotFoundError, version

import ml_collections

from ragaf_jax.runtime.devices import traced_device

# On a TPU v5e XLA copies operands to the chip's VMEM before they are used, the optimiser's too, and
# some of them for nothing. Without that a step of Stable Diffusion moves less and needs less memory
# (docs/performance.md).
_NO_PREFETCHES = {"xla_vf_vmem_max_outstanding_prefetches": "0"}
# Versions of libtpu that have this option; others would refuse to compile.
_WITH_PREFETCHES = "0.0.42."


def compiler_options(
    config: ml_collections.ConfigDict, device: tuple[str, str] | None = None
) -> dict[str, str]:
    """Options for `jax.jit` of a training step.

    XLA's CPU backend starts whatever is ready, breadth first, so that it has always something to do
    at once. What the backward pass is to compute again (`nets.blocks.REMAT`) is ready early, and is
    then kept all along: rematerialisation costs time and spares nothing. Where memory is asked for,
    by `config.model.remat` or a budget, operations come in an order that needs little of it. The
    numbers are the same, to the bit.

    Args:
      config: of the run.
      device: platform and kind of what the step is compiled for; None: as of `traced_device`.
    """
    platform, kind = traced_device() if device is None else device
    if kind == "TPU v5 lite" and _libtpu().startswith(_WITH_PREFETCHES):
        return _NO_PREFETCHES
    asked = config.model.remat != "none" or config.memory_budget_gib > 0
    if not asked or platform != "cpu":
        return {}
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def _libtpu() -> str:
    """The version of libtpu; empty where no package of it is installed."""
    try:
        return version("libtpu")
    except PackageNotFoundError:
        return ""
