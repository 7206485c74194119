"""The layers compute what flax.linen's compute, with the same parameters and gradients."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamShapeError

from ragaf_jax.nets.layers import (
    Conv3x3,
    Dense,
    GroupNorm,
    TimestepEmbedding,
    timestep_embedding,
    upsample,
)


def normal(rng, *shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def agree(rng, ours, theirs, x, after=lambda y: y):
    """Same parameter tree; with random parameters, same output and same gradients."""
    shapes = jax.eval_shape(ours.init, jax.random.key(0), x)["params"]
    assert shapes == jax.eval_shape(theirs.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: normal(rng, *leaf.shape), shapes)
    g = normal(rng, *jax.eval_shape(ours.apply, {"params": params}, x).shape)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def run(module, after, params, x, g):
        out, pullback = jax.vjp(lambda p, x: after(module.apply({"params": p}, x)), params, x)
        return out, pullback(g)

    ours, theirs = run(ours, lambda y: y, params, x, g), run(theirs, after, params, x, g)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 4, 3)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_dense(rng, shape, use_bias):
    agree(rng, Dense(7, use_bias=use_bias), nn.Dense(7, use_bias=use_bias), normal(rng, *shape, 6))


def test_pointwise_dense_is_a_1x1_convolution(rng):
    agree(rng, Dense(7, pointwise=True), nn.Conv(7, (1, 1)), normal(rng, 2, 4, 3, 6))


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("groups, channels", [(32, 64), (32, 96), (4, 4), (1, 6)])
def test_group_norm(rng, groups, channels, silu):
    theirs = nn.GroupNorm(num_groups=groups, epsilon=1e-5)
    x = 3 * normal(rng, 2, 5, 3, channels) + 2
    agree(rng, GroupNorm(groups, silu=silu), theirs, x, nn.silu if silu else lambda y: y)


@pytest.mark.parametrize("outlier", [False, True])
@pytest.mark.parametrize("mean", [0.0, 3.0, 30.0, 100.0, 1000.0])
def test_group_norm_keeps_its_digits_at_large_means(rng, mean, outlier):
    """Against float64: E[x²] − E[x]² in float32 is wrong by 45 % where the mean is 1000."""
    x = mean + rng.standard_normal((2, 32, 32, 128))
    if outlier:  # among the pixels from which the shift is estimated
        x[:, 0, 0] = 0
    x = x.astype(np.float32)
    groups = np.float64(x).reshape(2, 32 * 32, 32, 4)
    moments = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    expected = ((groups - moments[0]) / np.sqrt(moments[1] + 1e-5)).reshape(x.shape)
    variables = {"params": {"scale": jnp.ones(128), "bias": jnp.zeros(128)}}
    found = jax.jit(GroupNorm(32).apply)(variables, x)
    # Three numbers of the mean's size are rounded: x · slope, what is added to it, and the mean.
    # PyTorch's error is 1e-6 at 30, and 4e-5 at 1000.
    rounding = 3 * 2**-24 * np.abs(x).max()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-6 + rounding)


@pytest.mark.parametrize("mean", [3.0, 30.0, 100.0, 300.0])
def test_group_norm_of_bfloat16_loses_less_than_rounding_has_lost(rng, mean):
    """Its sums are of x without a shift: their error beside that of rounding x."""
    exact = mean + rng.standard_normal((1, 32, 32, 64))
    x = jnp.asarray(exact, jnp.bfloat16)

    def norm(x):
        groups = np.float64(x).reshape(32 * 32, 32, 2)
        moments = groups.mean((0, 2), keepdims=True), groups.var((0, 2), keepdims=True)
        return ((groups - moments[0]) / np.sqrt(moments[1] + 1e-5)).reshape(x.shape)

    variables = {"params": {"scale": jnp.ones(64), "bias": jnp.zeros(64)}}
    found = jax.jit(GroupNorm(32).apply)(variables, x)
    error, rounding = (np.abs(a - norm(x)).max() for a in (found, norm(exact)))
    assert error < rounding / 50


@pytest.mark.parametrize(("dtype", "subtractions"), [(jnp.bfloat16, 0), (jnp.float32, 1)])
def test_group_norm_of_bfloat16_writes_no_shifted_copy(dtype, subtractions):
    """XLA would write x − shift to a GPU's memory: see docs/performance.md."""
    x = jax.ShapeDtypeStruct((1, 8, 8, 64), dtype)
    variables = {"params": {"scale": jnp.ones(64), "bias": jnp.zeros(64)}}
    program = jax.make_jaxpr(GroupNorm(32).apply)(variables, x)
    wide = [e for e in program.eqns if e.outvars[0].aval.size == 8 * 8 * 64]
    assert sum(equation.primitive.name == "sub" for equation in wide) == subtractions


def test_group_norm_of_a_constant_is_its_bias():
    x = jnp.full((1, 4, 4, 8), 1000.0)
    variables = {"params": {"scale": jnp.ones(8), "bias": jnp.arange(8.0)}}
    out = GroupNorm(4).apply(variables, x)
    np.testing.assert_allclose(out, jnp.broadcast_to(jnp.arange(8.0), out.shape), atol=1e-3)


@pytest.mark.parametrize("stride, padding", [(1, (1, 1)), (2, (1, 1)), (2, (0, 1))])
@pytest.mark.parametrize("use_bias", [True, False])
def test_conv3x3(rng, stride, padding, use_bias):
    ours = Conv3x3(5, stride, padding, use_bias)
    theirs = nn.Conv(5, (3, 3), stride, (padding, padding), use_bias=use_bias)
    agree(rng, ours, theirs, normal(rng, 2, 7, 6, 3))


@pytest.mark.parametrize("layer", [Dense(7), Conv3x3(7)])
def test_parameters_of_another_shape(rng, layer):
    x = normal(rng, 2, 6, 5, 3)
    params = jax.jit(layer.init)(jax.random.key(0), x)
    with pytest.raises(ScopeParamShapeError, match=r'"kernel".*2, 7\)'):
        layer.apply(params, x[..., :2])


@pytest.mark.parametrize("stride, sides", [(1, (5, 8)), (2, (3, 4))])
def test_conv_sides(stride, sides):
    conv = nn.Sequential([Conv3x3(3, name="conv", stride=stride)])
    out = jax.eval_shape(conv.init_with_output, jax.random.key(0), jnp.zeros((1, 5, 8, 2)))[0]
    assert out.shape == (1, *sides, 3)


@pytest.mark.parametrize("size", [(6, 10), (5, 10), (6, 9), (5, 9)])
def test_upsample_is_the_nearest_resize(rng, size):
    x = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, x.shape[1:3], strict=True))
    np.testing.assert_array_equal(upsample(jnp.asarray(x), size), x[:, rows][:, :, columns])


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("shift", [0, 1])
def test_timestep_embedding(rng, flip, shift):
    timesteps = rng.uniform(0, 1000, 5).astype(np.float32)
    angles = timesteps[:, None] * 1e4 ** (-np.arange(4) / (4 - shift))
    waves = [np.sin(angles), np.cos(angles)]
    expected = np.concatenate(waves[::-1] if flip else waves, -1)
    out = timestep_embedding(jnp.asarray(timesteps), 8, flip, shift)
    np.testing.assert_allclose(out, expected, atol=5e-4)  # float32 angles up to 1000


def test_timestep_embedding_of_zero_has_its_cosines_first():
    np.testing.assert_array_equal(
        timestep_embedding(jnp.zeros(1, jnp.int32), 6)[0], [1, 1, 1, 0, 0, 0]
    )


def test_computes_in_its_dtype_with_float32_parameters(rng):
    for module in (
        Dense(8, dtype=jnp.bfloat16),
        GroupNorm(4, dtype=jnp.bfloat16),
        TimestepEmbedding(8, dtype=jnp.bfloat16),
    ):
        out, variables = module.init_with_output(jax.random.key(0), normal(rng, 2, 8))
        assert out.dtype == jnp.bfloat16
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
