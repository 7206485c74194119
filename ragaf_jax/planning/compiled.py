"""A compiler's account of one program: memory, bytes moved, collectives, attention kernels."""

import contextlib
import math
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from ragaf_jax.errors import UserError
from ragaf_jax.planning.hlo import (
    Collective,
    attention_kernels,
    collectives,
    parse,
)
from ragaf_jax.planning.traffic import traffic
from ragaf_jax.runtime.targets import Target

# libtpu refuses a program that needs more memory than a chip has, in one of these sentences.
_NEEDED = (r"Used ([\d.]+)([KMGT]) of", r"total memory required for [^(]*\(([\d.]+)([KMGT])\)")
# Messages of JAX and XLA where cuDNN or NVIDIA's compiler is missing.
_MISSING = ("cuDNN not found", "Couldn't find a suitable version of")
_UNITS = {unit: 1024 ** (i + 1) for i, unit in enumerate("KMGT")}


class Account(NamedTuple):
    """What a program needs on one device.

    Attributes:
      argument_bytes: what is given to it.
      peak_bytes: arguments, results and temporary buffers, less what shares memory. If the
        compiler refuses the program because it needs too much, the size that the refusal states.
      seconds: how long tracing and compiling took.
      moved_bytes: read and written in the device's memory; None where that is not known.
      analysed_bytes: "bytes accessed" of XLA's cost analysis, on the chip too; None on a GPU.
      collectives: by kind; see `hlo.collectives`.
      attention: calls of attention kernels by name.
      instructions: of the program that read or write memory.
      results: the shapes of what it returns, with their shardings.
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
      jitted: what `jax.jit` returned.
      arguments: their shapes, with their shardings.
      mesh: of this machine's devices or of `target`'s.
      target: None for this machine's devices; then only memory is read.

    Raises:
      UserError: NVIDIA's libraries are missing.
    """
    begin = time.monotonic()
    platforms = None if target is None else (target.platform,)
    try:
        with jax.set_mesh(mesh), _kept_on_disk(target is None):
            lowered = jitted.trace(*arguments).lower(lowering_platforms=platforms)
            compiled = lowered.compile()
    except RuntimeError as problem:  # JAX's own errors are among these
        needed = refused_bytes(str(problem))
        if target is not None and needed is not None:
            return Account(_bytes_of(arguments), needed, time.monotonic() - begin)
        if target is not None and any(missing in str(problem) for missing in _MISSING):
            raise UserError(
                f"--target={target.name} is compiled with NVIDIA's cuDNN and nvcc, and one of them "
                "is not installed; run pip install -e '.[plan-cuda]'."
            ) from problem
        raise
    seconds = time.monotonic() - begin
    memory: Any = compiled.memory_analysis()
    peak = peak_bytes(memory)
    if target is None:
        return Account(memory.argument_size_in_bytes, peak, seconds)
    program = parse(compiled.as_text())
    read = traffic(program)
    # XLA's own account, which CUDA lacks, has what moves between a TPU's memory and the chip twice,
    # what moves on the chip too, and of loops the first round only.
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
def _kept_on_disk(kept: bool) -> Iterator[None]:
    """Lets JAX's cache keep programs if `kept`: it cannot read those for targets back."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    jax.config.update(name, before if kept else math.inf)
    try:
        yield
    finally:
        jax.config.update(name, before)


def peak_bytes(memory: Any) -> int:
    """Bytes of arguments, results and temporary buffers, less what shares memory.

    Args:
      memory: what `jax.stages.Compiled.memory_analysis()` returned.
    """
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def placed(shape: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """A shape with the place where the array of it is to lie."""
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def refused_bytes(message: str) -> int | None:
    """The memory that a program needs, as a refusing compiler states it; None of other errors."""
    found = [match for pattern in _NEEDED if (match := re.search(pattern, message))]
    if "RESOURCE_EXHAUSTED" not in message or not found:
        return None
    return int(float(found[0][1]) * _UNITS[found[0][2]])


def _bytes_of(arguments: tuple[Any, ...]) -> int:
    """Bytes of the arguments' shards on one device."""
    leaves = jax.tree.leaves(arguments)
    shards = [x.sharding.shard_shape(x.shape) if x.sharding else x.shape for x in leaves]
    return sum(math.prod(shard) * x.dtype.itemsize for x, shard in zip(leaves, shards, strict=True))
