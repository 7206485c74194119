"""Softmax attention and its gradients in float64 NumPy, and random arguments for it."""

import jax
import jax.numpy as jnp
import numpy as np


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


def check(attention, rng, q, k, v, bias):
    """Compares `attention` and its gradients with `reference`, to 2e-5 of the largest number."""
    g = normal(rng, *q.shape)
    expected, expected_gradients = reference(q, k, v, bias, g)
    arguments = [jnp.asarray(x) for x in (q, k, v, bias) if x is not None]
    out, pullback = jax.vjp(jax.jit(attention), *arguments)
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5)
    for gradient, e in zip(pullback(jnp.asarray(g)), expected_gradients, strict=True):
        assert gradient.shape == e.shape
        np.testing.assert_allclose(gradient, e, rtol=0, atol=2e-5 * np.abs(e).max())
