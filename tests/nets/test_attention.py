"""Attention against float64 NumPy, forward and gradients, with tiles small enough to need many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragaf_jax.nets import attention as module
from ragaf_jax.nets.attention import attention, hide


def reference(q, k, v, bias, g):
    """Output and the gradients of (output · g).sum(), by hand in float64; bias is b|1 h|1 t s."""
    q, k, v, g = (x.astype(np.float64) for x in (q, k, v, g))
    scale = q.shape[-1] ** -0.5
    logits = np.einsum("bthd,bshd->bhts", q, k) * scale + (0.0 if bias is None else bias)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    dweights = np.einsum("bthd,bshd->bhts", g, v)
    dlogits = weights * (dweights - (dweights * weights).sum(-1, keepdims=True))
    gradients = [
        np.einsum("bhts,bshd->bthd", dlogits, k) * scale,
        np.einsum("bhts,bthd->bshd", dlogits, q) * scale,
        np.einsum("bhts,bthd->bshd", weights, g),
    ]
    if bias is not None:
        shared = tuple(axis for axis in (0, 1) if bias.shape[axis] == 1)
        gradients.append(dlogits.sum(shared, keepdims=True))
    return np.einsum("bhts,bshd->bthd", weights, v), gradients


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def inputs(rng, b, t, s, h, d, bias_shape):
    bias = None if bias_shape is None else normal(rng, *bias_shape, t, s)
    return normal(rng, b, t, h, d), normal(rng, b, s, h, d), normal(rng, b, s, h, d), bias


def check(rng, q, k, v, bias):
    g = normal(rng, *q.shape)
    expected, expected_gradients = reference(q, k, v, bias, g)
    arguments = [jnp.asarray(x) for x in (q, k, v, bias) if x is not None]
    out, pullback = jax.vjp(jax.jit(attention), *arguments)
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5)
    for gradient, e in zip(pullback(jnp.asarray(g)), expected_gradients, strict=True):
        assert gradient.shape == e.shape
        np.testing.assert_allclose(gradient, e, rtol=0, atol=2e-5 * np.abs(e).max())


BIASES = [None, (4, 1), (1, 1), (4, 3), (1, 3)]


@pytest.mark.parametrize("bias_shape", BIASES)
@pytest.mark.parametrize("tile", ["default", "groups", "blocks"])
def test_matches_numpy(rng, monkeypatch, tile, bias_shape):
    t, s = 37, 11
    if tile != "default":
        monkeypatch.setattr(module, "_MIN_TILE_ROWS", 5)
        # Two whole examples with their heads; or less than one row, so the minimum of rows counts.
        monkeypatch.setattr(module, "_TILE_BYTES", 2 * 4 * 3 * t * s if tile == "groups" else 1)
    check(rng, *inputs(rng, 4, t, s, 3, 6, bias_shape))


def test_tilings(monkeypatch):
    monkeypatch.setattr(module, "_TILE_BYTES", 4 * 1000)
    monkeypatch.setattr(module, "_MIN_TILE_ROWS", 4)
    assert module._tiling((6, 1, 10, 50)) == (3, 10)  # two examples of 500 scores a tile
    assert module._tiling((7, 1, 10, 50)) == (7, 10)  # no common divisor: one at a time
    assert module._tiling((6, 2, 30, 50)) == (6, 10)  # three blocks of an example
    assert module._tiling((1, 1, 31, 50)) == (1, 16)  # uneven: the second block is padded
    assert module._tiling((1, 1, 9, 5000)) == (1, 3)  # never fewer rows than the minimum allows


@pytest.mark.parametrize("bias_shape", [None, (4, 1)])
def test_accelerators_compute_the_same(rng, monkeypatch, bias_shape):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    check(rng, *inputs(rng, 4, 12, 7, 3, 8, bias_shape))


def test_hidden_keys_have_no_influence_and_no_gradient(rng):
    q, k, v, _ = inputs(rng, 2, 5, 8, 2, 4, None)
    visible = np.array([True] * 6 + [False] * 2)
    bias = jnp.broadcast_to(hide(jnp.asarray(visible)), (1, 1, 5, 8))
    out = attention(*map(jnp.asarray, (q, k, v)), bias)
    expected = attention(jnp.asarray(q), jnp.asarray(k[:, :6]), jnp.asarray(v[:, :6]))
    np.testing.assert_allclose(out, expected, atol=1e-6)

    def total(k, v):
        return jnp.square(attention(jnp.asarray(q), k, v, bias)).sum()

    for gradient in jax.jit(jax.grad(total, argnums=(0, 1)))(jnp.asarray(k), jnp.asarray(v)):
        assert not gradient[:, 6:].any()
        assert gradient[:, :6].any()


def test_large_logits_do_not_overflow(rng):
    q, k, v = (jnp.asarray(x) for x in inputs(rng, 2, 6, 5, 2, 4, None)[:3])
    raised = attention(q, k, v, jnp.full((1, 1, 6, 5), 1000.0))  # softmax ignores a common summand
    np.testing.assert_allclose(raised, attention(q, k, v), atol=1e-3)


def test_keeps_the_dtype(rng):
    q, k, v, bias = (jnp.asarray(x) for x in inputs(rng, 2, 6, 5, 2, 8, (2, 1)))
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    out = attention(*half, bias)
    assert out.dtype == jnp.bfloat16
    expected = attention(*(x.astype(jnp.float32) for x in half), bias)
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.02)
