"""The analysis of a compiled program: memory, bytes moved, collectives, attention kernels."""

import contextlib
import math
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from ragaf_jax.errors import UserError
from ragaf_jax.planning.hlo import Collective, attention_kernels, collectives, parse
from ragaf_jax.planning.traffic import traffic
from ragaf_jax.runtime.targets import Target

# libtpu's messages for a program that exceeds the memory of a chip.
_NEEDED = (r"Used ([\d.]+)([KMGT]) of", r"total memory required for [^(]*\(([\d.]+)([KMGT])\)")
# JAX's and XLA's messages for a missing cuDNN or NVIDIA compiler.
_MISSING = ("cuDNN not found", "Couldn't find a suitable version of")
_UNITS = {unit: 1024 ** (i + 1) for i, unit in enumerate("KMGT")}


class Account(NamedTuple):
    """The needs of a program on one device.

    Attributes:
      argument_bytes: of its arguments.
      peak_bytes: arguments, results and temporary buffers, less shared memory. If the compiler
        refuses the program because of its memory, the size in its message.
      seconds: duration of tracing and compilation.
      moved_bytes: read and written in the device's memory; None if unknown.
      analysed_bytes: "bytes accessed" of XLA's cost analysis, including on-chip memory; None on a
        GPU.
      collectives: by kind; see `hlo.collectives`.
      attention: calls of attention kernels by name.
      instructions: number of instructions that read or write memory.
      results: the shapes of its results, with their shardings.
    """

    argument_bytes: int
    peak_bytes: int
    seconds: float
    moved_bytes: float | None = None
    analysed_bytes: float | None = None
    collectives: Mapping[str, Collective] = {}
    attention: Mapping[str, int] = {}
    instructions: int = 0
    results: Any = None


def account(jitted: Any, arguments: tuple[Any, ...], mesh: Mesh, target: Target | None) -> Account:
    """Compiles a function for the devices of `mesh`.

    Args:
      jitted: a result of `jax.jit`.
      arguments: their shapes, with their shardings.
      mesh: of this machine's devices or of `target`'s.
      target: None for this machine's devices; then only memory is analysed.

    Raises:
      UserError: NVIDIA's libraries are missing.
    """
    start_time = time.monotonic()
    platforms = None if target is None else (target.platform,)
    try:
        with jax.set_mesh(mesh), _disk_cache(target is None):
            lowered = jitted.trace(*arguments).lower(lowering_platforms=platforms)
            compiled = lowered.compile()
    except RuntimeError as problem:  # the base of JAX's errors
        needed = refused_bytes(str(problem))
        if target is not None and needed is not None:
            return Account(_bytes_of(arguments), needed, time.monotonic() - start_time)
        if target is not None and any(missing in str(problem) for missing in _MISSING):
            raise UserError(
                f"--target={target.name} needs NVIDIA's cuDNN and nvcc to compile, and one of them "
                "is not installed; run pip install -e '.[plan-cuda]'."
            ) from problem
        raise
    seconds = time.monotonic() - start_time
    memory: Any = compiled.memory_analysis()
    peak = peak_bytes(memory)
    if target is None:
        return Account(memory.argument_size_in_bytes, peak, seconds)
    program = parse(compiled.as_text())
    read = traffic(program)
    # XLA's own analysis, which CUDA lacks, counts transfers between a TPU's memory and the chip
    # twice, includes transfers on the chip, and counts loops once.
    stated = (compiled.cost_analysis() or {}).get("bytes accessed")
    return Account(
        memory.argument_size_in_bytes,
        peak,
        seconds,
        float(read.moved_bytes),
        stated,
        collectives(program),
        attention_kernels(program),
        read.instructions,
        jax.tree.map(placed, lowered.out_info, compiled.output_shardings),
    )


@contextlib.contextmanager
def _disk_cache(enabled: bool) -> Iterator[None]:
    """Disables JAX's disk cache unless `enabled`: it cannot load programs for targets."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    jax.config.update(name, before if enabled else math.inf)
    try:
        yield
    finally:
        jax.config.update(name, before)


def peak_bytes(memory: Any) -> int:
    """Bytes of arguments, results and temporary buffers, less shared memory.

    `memory` is that of `jax.stages.Compiled.memory_analysis`.
    """
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def placed(shape: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """A shape with the sharding of its array."""
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def refused_bytes(message: str) -> int | None:
    """The memory that a refused program needs, by the compiler's message; None for other errors."""
    found = [match for pattern in _NEEDED if (match := re.search(pattern, message))]
    if "RESOURCE_EXHAUSTED" not in message or not found:
        return None
    return int(float(found[0][1]) * _UNITS[found[0][2]])


def _bytes_of(arguments: tuple[Any, ...]) -> int:
    """Bytes of the arguments' shards on one device."""
    leaves = jax.tree.leaves(arguments)
    shards = [x.sharding.shard_shape(x.shape) if x.sharding else x.shape for x in leaves]
    return sum(math.prod(shard) * x.dtype.itemsize for x, shard in zip(leaves, shards, strict=True))
