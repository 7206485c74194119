"""Random noise of examples, which is independent of the batch that an example is in."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray


def example_keys(rng: PRNGKeyArray, count: int) -> Key[Array, "{count}"]:
    """A key an example, the same whatever the batch that the example is in."""
    return jax.vmap(lambda i: jax.random.fold_in(rng, i))(jnp.arange(count))


def example_noise(keys: Key[Array, " b"], shape: tuple[int, ...]) -> Float[Array, "b *rest"]:
    """One draw an example."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def folded(keys: Key[Array, " b"], number: int | Int[Array, ""]) -> Key[Array, " b"]:
    """`jax.random.fold_in` of one number into every example's key."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def step_noise(
    keys: Key[Array, " b"], step: int | Int[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "b *rest"]:
    """What an ancestral sampler adds to each example in a step, counted from 0."""
    return example_noise(folded(keys, step), shape)
