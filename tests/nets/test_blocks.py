"""The spatial transformer and the ResNet block against float64 NumPy, region signal included."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragaf_jax.nets.blocks import (
    Context,
    RegionSignal,
    Resample,
    ResnetBlock,
    SpatialTransformer,
    mixed_attention,
)

GROUPS, HEADS = 3, 2


def normal(rng, *shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def random_variables(rng, module, *inputs):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda leaf: 0.5 * normal(rng, *leaf.shape), shapes)


def float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def dense(x, p):
    return x @ p["kernel"].reshape(p["kernel"].shape[-2:]) + p.get("bias", 0.0)


def normalize(x, axes, epsilon):
    x = x - x.mean(axes, keepdims=True)
    return x / np.sqrt((x**2).mean(axes, keepdims=True) + epsilon)


def layer_norm(x, p):
    return normalize(x, -1, 1e-5) * p["scale"] + p["bias"]


def group_norm(x, p, epsilon):
    grouped = x.reshape(*x.shape[:-1], GROUPS, -1)
    return normalize(grouped, (1, 2, 4), epsilon).reshape(x.shape) * p["scale"] + p["bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def attend(x, context, p, bias):
    q, k, v = (
        dense(y, p[name]).reshape(*y.shape[:2], HEADS, -1)
        for name, y in (("to_q", x), ("to_k", context), ("to_v", context))
    )
    logits = np.einsum("bthd,bshd->bhts", q, k) / np.sqrt(q.shape[-1]) + bias
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return dense(np.einsum("bhts,bshd->bthd", weights, v).reshape(x.shape), p["to_out_0"])


def transformer(x, text, region, p):
    y = group_norm(x, p["norm"], 1e-6).reshape(x.shape[0], -1, x.shape[-1])
    y = dense(y, p["proj_in"]) + region.share @ region.feature
    bias = (region.share @ region.logit_bias)[:, None]
    block = p["transformer_blocks_0"]
    normed = layer_norm(y, block["norm1"])
    y = y + attend(normed, normed, block["attn1"], 0.0)
    y = y + attend(layer_norm(y, block["norm2"]), text, block["attn2"], bias)
    hidden = dense(layer_norm(y, block["norm3"]), block["ff"]["net_0"]["proj"])
    value, gate = np.split(hidden, 2, -1)
    y = y + dense(value * gelu(gate), block["ff"]["net_2"])
    return x + dense(y, p["proj_out"]).reshape(x.shape)


# At 1e-3 the epsilon of a normalisation counts as much as the variance.
@pytest.mark.parametrize("linear, scale", [(False, 1), (True, 1e-3)])
def test_spatial_transformer(rng, linear, scale):
    module = SpatialTransformer(HEADS, linear, GROUPS)
    x, text = scale * normal(rng, 2, 4, 3, 6), normal(rng, 2, 5, 8)
    share = jax.nn.softmax(normal(rng, 2, 12, 4))
    region = RegionSignal(share, normal(rng, 2, 4, 6), normal(rng, 2, 4, 5))
    variables = random_variables(rng, module, x, Context(text), region)
    assert variables["params"]["proj_in"]["kernel"].ndim == (2 if linear else 4)
    out = jax.jit(module.apply)(variables, x, Context(text), region)
    expected = transformer(*float64((x, text, region, variables["params"])))
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def convolve(x, p):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    h, w = x.shape[1:3]
    return p["bias"] + sum(
        padded[:, i : i + h, j : j + w] @ p["kernel"][i, j] for i in range(3) for j in range(3)
    )


@pytest.mark.parametrize("channels, scale", [(6, 1e-3), (9, 1)])
def test_resnet_block(rng, channels, scale):
    module = ResnetBlock(channels, GROUPS)
    x, time = scale * normal(rng, 2, 4, 3, 6), normal(rng, 2, 7)
    variables = random_variables(rng, module, x, time)
    out = jax.jit(module.apply)(variables, x, time)
    x, time, p = float64((x, time, variables["params"]))
    assert ("conv_shortcut" in p) == (channels != 6)
    h = convolve(silu(group_norm(x, p["norm1"], 1e-5)), p["conv1"])
    h = h + dense(silu(time), p["time_emb_proj"])[:, None, None]
    h = convolve(silu(group_norm(h, p["norm2"], 1e-5)), p["conv2"])
    expected = h + (dense(x, p["conv_shortcut"]) if channels != 6 else x)
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_resample(rng):
    x = normal(rng, 1, 3, 5, 2)
    variables = random_variables(rng, Resample(4), x)
    kernels = float64(variables["params"]["conv"])
    full = convolve(float64(x), kernels)
    np.testing.assert_allclose(Resample(4).apply(variables, x), full[:, ::2, ::2], atol=1e-4)
    larger = float64(x).repeat(2, 1).repeat(2, 2)[:, :5]
    np.testing.assert_allclose(
        Resample(4).apply(variables, x, (5, 10)), convolve(larger, kernels), atol=1e-4
    )


@pytest.mark.parametrize("biased", [False, True])
def test_mixed_attention_is_the_mean_of_the_texts_each_alone(rng, biased):
    """By the shares of each cell, against NumPy in float64."""
    q, (k, v) = normal(rng, 2, 5, 2, 4), normal(rng, 2, 2, 3 * 7, 2, 4)
    bias = normal(rng, 2, 5, 3 * 7) if biased else None
    shares = jax.nn.softmax(3 * normal(rng, 2, 5, 3))
    found = mixed_attention(q, k, v, bias, shares)
    q, k, v, shares = map(float64, (q, k, v, shares))
    expected = np.zeros_like(q)
    for text in range(3):
        own = slice(7 * text, 7 * text + 7)
        logits = np.einsum("bphd,bthd->bhpt", q, k[:, own]) / 2
        logits += 0 if bias is None else float64(bias)[:, None, :, own]
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        alone = np.einsum("bhpt,bthd->bphd", weights, v[:, own])
        expected += shares[..., text, None, None] * alone
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
