"""Random noise of examples, independent of their batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray


def example_keys(rng: PRNGKeyArray, count: int) -> Key[Array, "{count}"]:
    """A key per example; key i does not depend on `count`."""
    return jax.vmap(lambda i: jax.random.fold_in(rng, i))(jnp.arange(count))


def example_noise(keys: Key[Array, " b"], shape: tuple[int, ...]) -> Float[Array, "b *rest"]:
    """Normal noise for each example."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def folded(keys: Key[Array, " b"], number: int | Int[Array, ""]) -> Key[Array, " b"]:
    """`jax.random.fold_in` of a number into every example's key."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def step_noise(
    keys: Key[Array, " b"], step: int | Int[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "b *rest"]:
    """The noise of an ancestral sampler's step, counted from 0, for each example."""
    return example_noise(folded(keys, step), shape)
