"""Compiler options of a training step."""

from importlib.metadata import PackageNotFoundError, version

from ml_collections import ConfigDict

from ragaf_jax.runtime.devices import traced_device

# On a TPU v5e XLA prefetches operands to VMEM, including the optimiser's, and some are never used.
# Without prefetches a step of Stable Diffusion moves fewer bytes and needs less memory
# (docs/performance.md).
_NO_PREFETCHES = {"xla_vf_vmem_max_outstanding_prefetches": "0"}
# Versions of libtpu with this option; others refuse to compile.
_WITH_PREFETCHES = "0.0.42."


def compiler_options(config: ConfigDict, device: tuple[str, str] | None = None) -> dict[str, str]:
    """Options for `jax.jit` of a training step.

    XLA's CPU scheduler runs ready operations breadth-first, so rematerialised values
    (`nets.blocks.REMAT`) are recomputed early and stay alive, which costs time and saves no memory.
    With `config.model.remat` or a memory budget, these options order operations for low memory. The
    results are bit-identical.

    `device` has platform and kind of the device to compile for; None: `traced_device`.
    """
    platform, kind = traced_device() if device is None else device
    if kind == "TPU v5 lite" and _libtpu().startswith(_WITH_PREFETCHES):
        return _NO_PREFETCHES
    low_memory = config.model.remat != "none" or config.memory_budget_gib > 0
    if not low_memory or platform != "cpu":
        return {}
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def _libtpu() -> str:
    """The version of libtpu; empty if it is not installed."""
    try:
        return version("libtpu")
    except PackageNotFoundError:
        return ""
