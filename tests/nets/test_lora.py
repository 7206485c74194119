"""LoRA beside the weights, merged into them, and what it leaves alone."""

import re

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from ragaf_jax.errors import UserError
from ragaf_jax.nets.layers import Conv3x3, Dense, GroupNorm
from ragaf_jax.nets.lora import LoraConfig, adapted, init_lora, merged

MODULES = ("conv", "pointwise", "cells/dense", "last")
CONFIG = LoraConfig(("unet/.*",), rank=3, alpha=5.0)


class Cells(nn.Module):
    """A dense on 3-D inputs."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        return nn.silu(Dense(7, dtype=self.dtype, name="dense")(x))


class Net(nn.Module):
    """One of each kind of module that can be adapted, and a norm, which cannot."""

    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        x = Conv3x3(6, name="conv", stride=2, padding=(0, 1), dtype=self.dtype)(x)
        x = GroupNorm(2, dtype=self.dtype, name="norm")(x)
        x = Dense(5, pointwise=True, dtype=self.dtype, name="pointwise")(x)
        cells = nn.remat(Cells) if self.remat else Cells
        x = cells(dtype=self.dtype, name="cells")(x.reshape(len(x), -1, 5))
        return Dense(4, dtype=self.dtype, name="last")(x)


NET = Net()


def draw(rng, tree):
    """Random numbers in place of every array; alphas, the scalars, stay."""
    flat = flatten_dict(tree, sep="/")
    for path, leaf in flat.items():
        if leaf.ndim:
            flat[path] = jnp.asarray(0.5 * rng.standard_normal(leaf.shape), leaf.dtype)
    return unflatten_dict(flat, sep="/")


@pytest.fixture
def params(rng):
    shapes = jax.eval_shape(NET.init, jax.random.key(0), jnp.zeros((1, 6, 6, 3)))["params"]
    return draw(rng, jax.tree.map(lambda x: jnp.ones(x.shape), shapes))


@pytest.fixture
def fresh(params):
    """Adapters that were not trained yet."""
    return init_lora(CONFIG, {"unet": params}, jax.random.key(0))["unet"]


@pytest.fixture
def lora(rng, fresh):
    return draw(rng, fresh)


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.standard_normal((2, 6, 6, 3)), jnp.float32)


def run(params, x, lora=None, net=NET, dropout=0.0, rng=None):
    with adapted(lora or {}, dropout, rng):
        return net.apply({"params": params}, x)


def update(lora, module):
    """(alpha / rank) · down·up of a module, in float64, of its kernel's shape."""
    flat = flatten_dict(lora, sep="/")
    down, up = (np.float64(flat[f"{module}/{name}"]) for name in ("down", "up"))
    scale = float(flat[f"{module}/alpha"]) / down.shape[-1]
    return scale * np.einsum("...r,rf->...f", down, up.reshape(up.shape[-2:]))


def test_at_the_start_nothing_changes(params, fresh, x):
    """Not by a bit."""
    adapters = flatten_dict(fresh, sep="/")
    assert {path.rpartition("/")[0] for path in adapters} == set(MODULES)
    assert all(np.any(leaf) == (not path.endswith("/up")) for path, leaf in adapters.items())
    np.testing.assert_array_equal(run(params, x, fresh), run(params, x))
    np.testing.assert_array_equal(run(merged(params, fresh), x), run(params, x))


def test_down_begins_like_a_layer_of_pytorch():
    """Uniform, of variance 1 / (3 fan_in)."""
    shapes = {"conv": {"kernel": jnp.zeros((3, 3, 50, 4))}, "dense": {"kernel": jnp.zeros((90, 4))}}
    lora = init_lora(LoraConfig(("unet/.*",), rank=64), {"unet": shapes}, jax.random.key(0))["unet"]
    for name, fan_in in (("conv", 450), ("dense", 90)):
        down = np.asarray(lora[name]["down"])
        assert np.abs(down).max() <= fan_in**-0.5
        np.testing.assert_allclose(down.var(), 1 / (3 * fan_in), rtol=0.1)


def test_beside_the_weights_is_as_merged_into_them(params, lora, x):
    both = jax.jit(run)(params, x, lora)
    np.testing.assert_allclose(both, run(merged(params, lora), x), rtol=2e-4, atol=2e-4)


def test_merging_changes_the_kernels_that_are_adapted(params, lora):
    before, after = (flatten_dict(tree, sep="/") for tree in (params, merged(params, lora)))
    for path, leaf in before.items():
        module, _, name = path.rpartition("/")
        change = update(lora, module) if name == "kernel" else 0
        np.testing.assert_allclose(after[path], leaf + change, rtol=0, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("module", MODULES)
def test_one_module_alone(params, lora, x, module):
    """Chosen by a pattern that covers its whole path; the others keep theirs."""
    chosen = init_lora(LoraConfig((f"unet/{module}",)), {"unet": params}, jax.random.key(0))["unet"]
    flat = flatten_dict(lora, sep="/")
    one = unflatten_dict({p: x for p, x in flat.items() if p.startswith(f"{module}/")}, sep="/")
    assert jax.tree.structure(chosen) == jax.tree.structure(one)
    out = run(params, x, one)
    np.testing.assert_allclose(out, run(merged(params, one), x), rtol=2e-4, atol=2e-4)
    assert np.abs(out - run(params, x)).max() > 0.01


def test_a_dense_in_float64(rng, params, lora):
    x = rng.standard_normal((2, 9, 5)).astype(np.float32)
    dense, adapter = params["cells"]["dense"], lora["cells"]["dense"]
    with adapted({"dense": adapter}):
        ours = Cells().apply({"params": {"dense": dense}}, jnp.asarray(x))
    kernel = np.float64(dense["kernel"]) + update({"dense": adapter}, "dense")
    hidden = np.float64(x) @ kernel + np.float64(dense["bias"])
    np.testing.assert_allclose(ours, hidden / (1 + np.exp(-hidden)), rtol=1e-4, atol=1e-5)


def test_a_convolution_in_float64(params, lora, x):
    net = nn.Sequential([Conv3x3(6, name="conv", stride=2, padding=(0, 1))])
    with adapted({"layers_0": lora["conv"]}):
        ours = net.apply({"params": {"layers_0": params["conv"]}}, x)
    kernel = np.float64(params["conv"]["kernel"]) + update(lora, "conv")
    padded = np.pad(np.float64(x), ((0, 0), (0, 1), (0, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
    expected = np.einsum("bhwcij,ijcf->bhwf", windows, kernel) + np.float64(params["conv"]["bias"])
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_alpha_over_rank(params, lora):
    """Rank 6 with three rows of zeros is rank 3 at half the strength."""
    last = lora["last"]
    padded = {
        "down": jnp.pad(last["down"], ((0, 0), (0, 3))),
        "up": jnp.pad(last["up"], ((0, 3), (0, 0))),
        "alpha": 2 * last["alpha"],
    }
    same = [merged(params, {"last": x})["last"]["kernel"] for x in (last, padded)]
    np.testing.assert_allclose(*same, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["plain", "remat", "checkpoint"])
def test_gradients(params, fresh, lora, x, form):
    """Of down once up is not zero; never of alpha, which is no parameter."""
    net = Net(remat=form == "remat")

    def loss(lora):
        return jnp.square(run(params, x, lora, net)).mean()

    gradient = jax.jit(jax.grad(jax.checkpoint(loss) if form == "checkpoint" else loss))
    for adapters, silent in ((lora, ("alpha",)), (fresh, ("alpha", "down"))):
        for path, leaf in flatten_dict(gradient(adapters), sep="/").items():
            assert np.any(leaf) == (path.rpartition("/")[2] not in silent), path
    # Along the gradient, the loss grows as it says.
    slope = gradient(lora)
    norm = optax.tree.norm(slope)
    step = jax.tree.map(lambda g: 1e-3 * g / norm, slope)
    ahead, behind = (loss(optax.tree.add_scale(lora, sign, step)) for sign in (1, -1))
    np.testing.assert_allclose((ahead - behind) / 2e-3, norm, rtol=0.05)


def test_dropout(rng, params, lora, x):
    """Of the inputs of down alone, kept in the mean, and none without random numbers."""
    one, two = jax.random.split(jax.random.key(int(rng.integers(2**31))))
    plain = run(params, x, lora)
    np.testing.assert_array_equal(run(params, x, lora, dropout=0.5), plain)
    np.testing.assert_array_equal(run(params, x, lora, dropout=0.0, rng=one), plain)
    dropped = run(params, x, lora, dropout=0.5, rng=one)
    np.testing.assert_array_equal(dropped, run(params, x, lora, dropout=0.5, rng=one))
    assert np.any(dropped != run(params, x, lora, dropout=0.5, rng=two))
    last = {"last": lora["last"]}  # after it, nothing that is not linear
    draws = jax.jit(jax.vmap(lambda key: run(params, x, last, dropout=0.3, rng=key)))
    drawn = np.asarray(draws(jax.random.split(one, 2000)))
    deviation = drawn.std(0) / 2000**0.5
    assert np.median(deviation) > 1e-3
    assert np.all(np.abs(drawn.mean(0) - run(params, x, last)) < 6 * deviation + 1e-4)


def test_bfloat16_weights_and_float32_adapters(params, lora, x):
    half = jax.tree.map(lambda leaf: np.asarray(leaf, jnp.bfloat16), params)
    out = jax.jit(lambda *given: run(*given, Net(jnp.bfloat16)))(half, x, lora)
    expected = run(params, x, lora)
    assert np.abs(np.float32(out) - expected).max() < 0.1 * np.abs(expected).max()
    dtypes = {x.dtype for x in jax.tree.leaves([out, jax.eval_shape(merged, half, lora)])}
    assert dtypes == {jnp.dtype("bfloat16")}


def test_nothing_is_left_behind(params, lora, x):
    plain = run(params, x)
    with pytest.raises(ZeroDivisionError), adapted(lora):
        raise ZeroDivisionError
    np.testing.assert_array_equal(run(params, x), plain)
    with pytest.raises(flax.errors.ScopeParamShapeError):
        run(params, x[..., :2], lora)
    np.testing.assert_array_equal(run(params, x), plain)


def test_what_cannot_be_adapted(params, lora, x):
    with pytest.raises(TypeError, match="norm is a GroupNorm, no dense or conv"):
        run(params, x, {"norm": lora["last"]})
    for pattern in ("unet", "unet/last/kernel", "unet/norm", "ragaf/last", "last"):
        tree = {"unet": params, "ragaf": params, "autoencoder": params}
        said = f"config.model.lora.patterns has {re.escape(repr(pattern))}, which matches no dense"
        with pytest.raises(UserError, match=said):
            init_lora(LoraConfig(("unet/last", pattern)), tree, jax.random.key(0))
    assert set(init_lora(LoraConfig((".*",)), tree, jax.random.key(0))) == {"unet"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rank": 0}, "lora.rank is 0, expected 1 or more"),
        ({"dropout": 1.0}, "lora.dropout is 1.0, expected 0 to below 1"),
        ({"dropout": -0.1}, "lora.dropout is -0.1"),
        ({"patterns": ("unet/(",)}, r"lora.patterns has 'unet/\(': .*unterminated"),
    ],
)
def test_settings_out_of_range(fields, said):
    with pytest.raises(ValueError, match=said):
        LoraConfig(**{"patterns": (".*",), **fields})
