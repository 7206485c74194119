"""Gradient accumulation over microbatches."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ragaf_jax.batch import Array
from ragaf_jax.runtime.sharding import scattered


def microbatches(tree: Any, count: int) -> Any:
    """[b, …] → [count, b / count, …]; microbatch i has every `count`-th example from example i.

    Each device holds consecutive examples, so it has a share of every microbatch and no data move
    between devices.
    """

    def split(x: Array) -> Array:
        return x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, tree)


def value_and_gradient(
    loss_of: Callable[[Any, Any], tuple[jax.Array, Any]], trainable: Any, examples: Any, count: int
) -> tuple[tuple[jax.Array, Any], Any]:
    """`jax.value_and_grad(loss_of, has_aux=True)` of all examples, accumulated over microbatches.

    Args:
      loss_of: (parameters, examples) → their mean loss and a tree of other means.
      trainable: the parameters.
      examples: a tree of arrays [b, …].
      count: static; number of microbatches, which divides b. Memory holds the activations of one.
    """
    both = jax.value_and_grad(loss_of, has_aux=True)

    @functools.partial(jax.jit, inline=True)  # `eval_shape` and `scan` share one trace
    def gradient(trainable: Any, microbatch: Any) -> tuple[tuple[jax.Array, Any], Any]:
        value, gradients = both(trainable, microbatch)
        return value, scattered(gradients)

    if count == 1:
        return gradient(trainable, examples)
    batches = microbatches(examples, count)
    shapes = jax.eval_shape(gradient, trainable, jax.tree.map(lambda x: x[0], batches))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add(total: Any, microbatch: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(trainable, microbatch)), None

    total, _ = jax.lax.scan(add, zeros, batches)
    return jax.tree.map(lambda x: x / count, total)
