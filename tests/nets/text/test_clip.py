"""CLIP's text encoder: transformers' parameter tree, and its arithmetic against float64 NumPy."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import count, digest, parameter_shapes

from ragaf_jax.nets.text.clip import ClipText, ClipTextConfig

TINY = ClipTextConfig(
    vocab_size=23,
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=3,
    max_position_embeddings=9,
)


def test_parameter_tree_is_that_of_transformers():
    shapes = parameter_shapes(ClipText(ClipTextConfig()), ((1, 77), jnp.int32))
    assert count(shapes) == 123_060_480
    # The fingerprint of the names and shapes of transformers 4.57.1's FlaxCLIPTextModel.
    assert digest(shapes) == "8dcf6cf701cbb662"
    assert shapes["text_model/encoder/layers/11/self_attn/out_proj/kernel"] == (768, 768)


def layer_norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def reference(params, tokens, visible, config, activation):
    """One text: tokens (t,), visible (t, t)."""
    p = params["text_model"]
    table, places = (
        p["embeddings"][name]["embedding"] for name in ("token_embedding", "position_embedding")
    )
    x = table[tokens] + places[: len(tokens)]
    width = config.hidden_size // config.num_attention_heads
    for i in range(config.num_hidden_layers):
        layer = p["encoder"]["layers"][str(i)]
        y = layer_norm(x, layer["layer_norm1"])
        q, k, v = (dense(y, layer["self_attn"][f"{name}_proj"]) for name in "qkv")
        heads = []
        for head in range(config.num_attention_heads):
            part = slice(head * width, (head + 1) * width)
            logits = q[:, part] @ k[:, part].T / np.sqrt(width)
            weights = np.exp(logits) * visible
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
        x = x + dense(np.concatenate(heads, -1), layer["self_attn"]["out_proj"])
        y = dense(layer_norm(x, layer["layer_norm2"]), layer["mlp"]["fc1"])
        x = x + dense(activation(y), layer["mlp"]["fc2"])
    return layer_norm(x, p["final_layer_norm"])


ACTIVATIONS = {
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2))),
}


def random_variables(rng, config):
    shapes = jax.eval_shape(ClipText(config).init, jax.random.key(0), jnp.zeros((1, 9), jnp.int32))
    return jax.tree.map(
        lambda x: jnp.asarray(0.5 * rng.standard_normal(x.shape), jnp.float32), shapes
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_matches_numpy(rng, name, masked):
    config = dataclasses.replace(TINY, hidden_act=name)
    variables = random_variables(rng, config)
    tokens = rng.integers(0, 23, (2, 7))
    mask = np.arange(7) < np.array([[7], [4]]) if masked else np.ones((2, 7), bool)
    out = jax.jit(ClipText(config).apply)(
        variables, jnp.asarray(tokens), jnp.asarray(mask) if masked else None
    )
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    for i in range(2):
        visible = np.tril(np.ones((7, 7))) * mask[i]
        expected = reference(params, tokens[i], visible, config, ACTIVATIONS[name])
        np.testing.assert_allclose(out[i], expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_words_do_not_see_what_follows(rng):
    variables = random_variables(rng, TINY)
    tokens = rng.integers(0, 23, (1, 9))
    changed = tokens.copy()
    changed[0, 5] = (changed[0, 5] + 1) % 23
    before, after = (
        jax.jit(ClipText(TINY).apply)(variables, jnp.asarray(x)) for x in (tokens, changed)
    )
    np.testing.assert_allclose(after[:, :5], before[:, :5], atol=1e-5)
    assert (jnp.abs(after - before)[0, 5:].max(-1) > 1e-4).all()


def test_texts_packed_into_a_row_have_the_states_that_they_have_alone(rng):
    variables, encode = random_variables(rng, TINY), jax.jit(ClipText(TINY).apply)
    texts = jnp.array([[0, 0, 0, 1, 1, 2, 0, 0]])
    row = jnp.asarray(rng.integers(0, 23, (1, 8)))
    packed = encode(variables, row, None, texts)
    for text, places in enumerate(([0, 1, 2, 6, 7], [0, 3, 4], [0, 5])):
        alone = encode(variables, row[:, jnp.array(places)])
        mine = packed[:, jnp.array(places)]
        np.testing.assert_allclose(mine, alone, atol=1e-5, err_msg=str(text))
    one = encode(variables, row, None, jnp.zeros_like(texts))
    np.testing.assert_array_equal(one, encode(variables, row))


def test_too_long():
    with pytest.raises(ValueError, match="10 tokens, expected at most max_position_embeddings 9"):
        jax.eval_shape(ClipText(TINY).init, jax.random.key(0), jnp.zeros((1, 10), jnp.int32))


@pytest.mark.parametrize("field, value", [("hidden_act", "relu"), ("num_attention_heads", 5)])
def test_config_errors(field, value):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(TINY, **{field: value})
