"""Small parameters as a few arrays: nothing is lost, and updates are those of leaf by leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from ragaf_jax.training.bundles import bundle, unbundle


def random_tree(rng):
    """Two networks of random leaves, scalars and one large kernel among them."""
    flat = {("a", "large", "kernel"): (512, 513), ("a", "alpha"): (), ("b", "bias"): (5,)}
    for i in range(int(rng.integers(3, 20))):
        sides = tuple(int(n) for n in rng.integers(1, 9, int(rng.integers(0, 5))))
        flat[("ab"[i % 2], f"layer_{i}", "weight")] = sides
    leaves = {path: rng.standard_normal(shape).astype(np.float32) for path, shape in flat.items()}
    order = rng.permutation(len(leaves))
    return unflatten_dict({path: leaves[path] for path in [list(leaves)[i] for i in order]})


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_what_is_put_together_comes_apart_again(rng):
    tree = random_tree(rng)
    bundles = bundle(tree)
    same(unbundle(bundles, tree), tree)
    shuffled = jax.tree.map(lambda x: x, tree)  # JAX's order, which is not that of insertion
    same(bundle(shuffled), bundles)
    large = flatten_dict(bundles["a"]["large"])
    assert list(large) == [("large", "kernel")] and "large" not in bundles["b"]
    for name, network in tree.items():
        small = [x for x in jax.tree.leaves(network) if x.size < 1 << 18]
        for kind, belongs in (
            ("vectors", lambda x: x.ndim < 2),
            ("matrices", lambda x: x.ndim > 1),
        ):
            total = sum(x.size for x in small if belongs(x))
            assert (kind in bundles[name]) == (total > 0)
            if total:
                assert total <= bundles[name][kind].size < total + 3072
                assert bundles[name][kind].size % 3072 == 0
                assert bundles[name][kind].ndim == (1 if kind == "vectors" else 2)
    norm = optax.tree.norm(bundles)
    assert norm == pytest.approx(float(optax.tree.norm(tree)), rel=1e-5)


def test_updates_are_those_of_leaf_by_leaf(rng):
    params = random_tree(rng)
    chain = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(b2=0.99),
        optax.add_decayed_weights(0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
        optax.scale_by_learning_rate(0.01),
    )
    bundles = bundle(params)
    state, state_of_bundles = chain.init(params), chain.init(bundles)
    update = jax.jit(chain.update)
    for _ in range(3):
        gradients = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), params)
        expected, state = update(gradients, state, params)
        found, state_of_bundles = update(bundle(gradients), state_of_bundles, bundles)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-8),
            unbundle(found, params),
            expected,
        )
