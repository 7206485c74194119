"""Gradients of a batch that is processed in parts."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ragaf_jax.batch import Array
from ragaf_jax.runtime.sharding import scattered


def in_parts(tree: Any, parts: int) -> Any:
    """[b, …] → [parts, b / parts, …]; part i has every `parts`-th example from the i-th on.

    So each device, which holds examples that follow each other, has a share of every part, and
    nothing moves between devices.
    """

    def split(x: Array) -> Array:
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, tree)


def value_and_gradient(
    loss_of: Callable[[Any, Any], tuple[jax.Array, Any]], trainable: Any, examples: Any, parts: int
) -> tuple[tuple[jax.Array, Any], Any]:
    """What `jax.value_and_grad(loss_of, has_aux=True)` gives of all examples, part by part.

    Args:
      loss_of: the mean loss of some examples at given parameters, and a tree of means beside it.
      trainable: the parameters.
      examples: a tree of arrays [b, …].
      parts: static; divides b. The activations of one part at a time are kept.
    """
    both = jax.value_and_grad(loss_of, has_aux=True)

    @functools.partial(jax.jit, inline=True)  # traced once, though it is asked for its shapes first
    def gradient(trainable: Any, piece: Any) -> tuple[tuple[jax.Array, Any], Any]:
        value, gradients = both(trainable, piece)
        return value, scattered(gradients)

    if parts == 1:
        return gradient(trainable, examples)
    pieces = in_parts(examples, parts)
    shapes = jax.eval_shape(gradient, trainable, jax.tree.map(lambda x: x[0], pieces))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add(total: Any, piece: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(trainable, piece)), None

    total, _ = jax.lax.scan(add, zeros, pieces)
    return jax.tree.map(lambda x: x / parts, total)
