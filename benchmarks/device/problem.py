"""The jobs of the device benchmark: Stable Diffusion 1.5 at 512 px, or a miniature for dry runs."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from benchmarks.comparison.problem import Job
from ragaf_jax.planning.compiled import peak_bytes

GIB = 2**30


def job_of(
    task: Literal["step", "sample"],
    stage: int,
    batch: int,
    tiny: bool,
    peer: Literal["ours", "torch"] = "ours",
) -> Job:
    """A job in bfloat16."""
    network, size = ("tiny", 64) if tiny else ("sd15", 512)
    return Job(peer, task, network, size, batch, "float32" if tiny else "bfloat16", stage=stage)


def random_weights(shapes: Mapping[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Random parameters of the given shapes that keep activations of order one.

    Kernels have variance 1 / inputs; scales are 1. All leaves are slices of one random vector,
    because initialisers of a thousand leaves compile for over a minute at Stable Diffusion's size.
    """
    largest = max(leaf.size for leaf in jax.tree.leaves(shapes))
    noise = jax.random.normal(key, (largest,))

    def leaf(path: tuple[Any, ...], shape: jax.ShapeDtypeStruct) -> Array:
        if path[-1].key == "scale":
            return jnp.ones(shape.shape, shape.dtype)
        inputs = max(1, shape.size // shape.shape[-1]) if shape.shape else 1
        deviation = inputs**-0.5 if len(shape.shape) > 1 else 0.02
        return (deviation * noise[: shape.size]).reshape(shape.shape).astype(shape.dtype)

    return jax.tree_util.tree_map_with_path(leaf, dict(shapes))


def random_key() -> PRNGKeyArray:
    """A key of the device's hardware generator, which compiles fast."""
    return jax.random.key(0, impl="rbg")


class Planned(NamedTuple):
    """The compiler's memory analysis of a program, per device.

    Attributes:
      peak: bytes of arguments, results and temporary buffers, without aliases.
      temporary: bytes of temporary buffers.
    """

    peak: int
    temporary: int


def planned(compiled: Any) -> Planned:
    """The compiler's memory analysis, as printed by `--mode=plan`."""
    memory = compiled.memory_analysis()
    return Planned(peak_bytes(memory), memory.temp_size_in_bytes)
