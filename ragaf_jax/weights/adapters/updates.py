"""Weight updates ΔW of adapters: LoRA, LoCon, LoHa, LoKr, whole tensors, and DoRA around them.

Matrices have PyTorch's order of axes: (out, in), and (out, in, height, width) for convolutions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# A matrix: (whole,), or (left, right) with left·right, or (left, core, right) of Tucker's form.
Factors = tuple[Float[Array | np.ndarray, "..."], ...]

_EPSILON = float(np.finfo(np.float32).eps)  # LyCORIS adds it to the norms


class Product(NamedTuple):
    """ΔW = scale · left·right (Hu et al. 2021, eq. 3), with a core LoCon's, whole a full update.

    Attributes:
      factors: of ΔW as a matrix (out, in · height · width).
      scale: alpha / rank.
      magnitude: DoRA's m, with as many axes as W; None without DoRA.
    """

    factors: Factors
    scale: Float[Array, ""]
    magnitude: Float[Array, "..."] | None = None


class Hadamard(NamedTuple):
    """LoHa (Yeh et al. 2023, §3.1): ΔW = scale · (first ⊙ second); fields as in `Product`."""

    first: Factors
    second: Factors
    scale: Float[Array, ""]
    magnitude: Float[Array, "..."] | None = None


class Kronecker(NamedTuple):
    """LoKr (Yeh et al. 2023, §3.2): ΔW = scale · (first ⊗ second); `first` has no window."""

    first: Factors
    second: Factors
    scale: Float[Array, ""]
    magnitude: Float[Array, "..."] | None = None


Adapter = Product | Hadamard | Kronecker


def update(adapter: Adapter, weight: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """ΔW at strength 1 for the tensor W = `weight`.

    With DoRA (Liu et al. 2024, eq. 5), the update is m · (W + ΔW) / ‖W + ΔW‖ − W. The norm is over
    the axes along which m has one entry.
    """
    match adapter:
        case Product():
            delta = _multiplied(adapter.factors)
        case Hadamard():
            delta = _multiplied(adapter.first) * _multiplied(adapter.second)
        case Kronecker():
            delta = jnp.kron(_multiplied(adapter.first), _multiplied(adapter.second))
    delta = adapter.scale * delta.reshape(weight.shape)
    if adapter.magnitude is None:
        return delta
    axes = tuple(i for i, size in enumerate(adapter.magnitude.shape) if size == 1)
    norm = jnp.sqrt(jnp.square(weight + delta).sum(axes, keepdims=True)) + _EPSILON
    return adapter.magnitude / norm * (weight + delta) - weight


def _multiplied(factors: Factors) -> Float[Array, "..."]:
    """The matrix of factors; with a core as (out, in · height · width)."""
    match jax.tree.map(jnp.asarray, factors):
        case (whole,):
            return whole
        case left, right:
            return left @ right
        case left, core, right:
            tensor = jnp.einsum("oi,ijhw,jn->onhw", left, core, right)
            return tensor.reshape(len(left), -1)
    raise AssertionError(len(factors))


@jax.jit
def added(
    total: Float[Array, "*shape"],
    leaf: Float[Array, "*shape"],
    adapter: Adapter,
    strength: Float[Array, ""],
) -> Float[Array, "*shape"]:
    """`total` + strength · ΔW for a parameter in Flax's order of axes, in float32.

    Args:
      total: the parameter with other adapters.
      leaf: the parameter W without adapters; a kernel if it has 2 or 4 axes.
      adapter: in PyTorch's order of axes.
      strength: traced, so that new values compile nothing.
    """
    with jax.default_matmul_precision("highest"):
        weight = _swapped(leaf.astype(jnp.float32), (3, 2, 0, 1))
        return total + strength * _swapped(update(adapter, weight), (2, 3, 1, 0))


def _swapped(kernel: Array, axes: tuple[int, ...]) -> Array:
    """A kernel with the other order of axes; other tensors are unchanged."""
    if kernel.ndim == 2:
        return kernel.T
    return kernel.transpose(axes) if kernel.ndim == 4 else kernel
