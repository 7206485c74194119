"""What regions hear: the words they may attend to, and nothing of those that they may not."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragaf_jax.nets.ragaf import TextAttention, TextConvolution

WIDTH, TEXT, REACH = 8, 6, 5
# The text of each token, -1 for none, and the text that each region attends to.
TOKENS, HEARERS = np.array([0, 0, 1, 1, 2, -1, -1]), np.array([0, 1, 2])


def random_params(rng, shapes):
    def draw(leaf):
        deviation = max(1, np.prod(leaf.shape[:-1])) ** -0.5
        return jnp.asarray(deviation * rng.standard_normal(leaf.shape), jnp.float32)

    return jax.tree.map(draw, shapes)


@pytest.fixture
def attend(rng):
    module = TextAttention(2, REACH, np.dtype("float32"))
    shapes = jax.eval_shape(
        module.init,
        jax.random.key(0),
        jnp.zeros((1, 3, WIDTH)),
        jnp.zeros((1, 7, TEXT)),
        jnp.ones((1, 1, 7), bool),
    )
    variables = {"params": random_params(rng, shapes["params"])}
    return lambda *given: module.apply(variables, *map(jnp.asarray, given))


def inputs(rng):
    states = rng.standard_normal((1, 7, TEXT)).astype(np.float32)
    return rng.standard_normal((1, 3, WIDTH)).astype(np.float32), states


def test_each_region_hears_its_text_as_if_it_were_alone(rng, attend):
    regions, states = inputs(rng)
    z, attention = attend(regions, states, (HEARERS[:, None] == TOKENS)[None])
    for text in HEARERS:
        places, hearing = np.flatnonzero(text == TOKENS), text == HEARERS
        alone, weights = attend(regions, states[:, places], np.ones((1, 1, len(places)), bool))
        np.testing.assert_allclose(z[:, hearing], alone[:, hearing], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            attention[:, hearing][..., places], weights[:, hearing], rtol=1e-5, atol=1e-5
        )
        assert (attention[:, hearing][..., text != TOKENS] == 0).all()


def test_one_text_for_all_is_the_same_however_it_is_said(rng, attend):
    regions, states = inputs(rng)
    allowed = (np.arange(7) < 5)[None, None]
    one = attend(regions, states, allowed)
    each = attend(regions, states, np.repeat(allowed, 3, 1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, each)


@pytest.mark.parametrize("length", [2, 7, 12])
def test_one_text_is_read_by_flax_s_convolution(rng, length):
    words = jnp.asarray(rng.standard_normal((2, length, TEXT)), jnp.float32)
    conv = nn.Conv(TEXT, (REACH,))
    variables = conv.init(jax.random.key(int(rng.integers(99))), words)
    variables["params"]["bias"] = jnp.asarray(rng.standard_normal(TEXT), jnp.float32)
    ours = TextConvolution(REACH, np.dtype("float32")).apply(
        variables, words, jnp.ones((2, 1, length), bool)
    )
    np.testing.assert_allclose(ours, conv.apply(variables, words), rtol=1e-5, atol=1e-5)
