"""A batch in parts is the batch at once, and a step without a number is none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import in_float64, random_batch, random_params, smallest_config, tiny_tokenizer
from jax.flatten_util import ravel_pytree

from ragaf_jax.batch import Batch
from ragaf_jax.losses.objective import objective_of
from ragaf_jax.losses.terms import TERMS
from ragaf_jax.nets.build import build_model
from ragaf_jax.training.accumulation import microbatches, value_and_gradient
from ragaf_jax.training.optim import optimizer
from ragaf_jax.training.setup import initial_state
from ragaf_jax.training.step import train_step


def configured():
    """Two trained networks of Stage 2 with few layers; 4 of 12 examples are denoised.

    In float64: normalisation makes some 10 times more of one part's last bits in float32.
    """
    config = smallest_config(2)
    # Two channels a group: in groups of one, normalisation takes every bias away again.
    config.model.unet.block_out_channels = (64,)
    config.model.dtype = "float64"
    config.train.read_examples, config.train.appearance_weight = 8, 0.3
    config.train.trainable, config.train.frozen = ("ragaf/.*", "control/.*"), (".*",)
    return config


@functools.cache
def step(parts):
    """A step in so many parts, compiled once for all tests."""
    config = configured()
    config.train.accumulation = parts
    objective, tx = objective_of(config, tiny_tokenizer()), optimizer(config.train)
    return jax.jit(functools.partial(train_step, build_model(config), tx, 0.999, objective))


@pytest.fixture(scope="module")
def drawn(seed):
    """A state and a batch."""
    rng, config = np.random.default_rng(seed), configured()
    with jax.enable_x64(True):
        model = build_model(config)
        params, batch = in_float64((random_params(model, rng), random_batch(rng, config, 12)))
        return initial_state(config, model, optimizer(config.train), params), batch


@pytest.fixture(scope="module")
def whole(drawn, seed):
    """A key, and the state and the numbers that the whole batch's step gives with it."""
    with jax.enable_x64(True):
        key = jax.random.key(seed)
        return key, *jax.device_get(step(1)(key, *drawn))


@pytest.fixture
def run(drawn):
    with jax.enable_x64(True):
        yield drawn


def test_parts_share_every_stretch_of_a_batch():
    examples = np.arange(12)
    assert microbatches(examples, 3).tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_a_sum_of_parts_against_numpy(rng):
    """The gradient of mean((x·w)²) is 2/n · xᵀ(x·w)."""
    x, w = rng.normal(size=(24, 5)), rng.normal(size=5)

    def loss_of(w, x):
        return jnp.square(x @ w).mean(), {"first": x[:, 0].mean()}

    for parts in (1, 2, 6, 24):
        (loss, means), gradient = value_and_gradient(loss_of, jnp.float32(w), jnp.float32(x), parts)
        np.testing.assert_allclose(loss, np.square(x @ w).mean(), rtol=1e-5)
        np.testing.assert_allclose(means["first"], x[:, 0].mean(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(gradient, 2 / 24 * x.T @ (x @ w), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [4, pytest.param(2, marks=pytest.mark.products)])
def test_a_step_in_parts_is_that_of_the_batch(run, whole, parts):
    """Its numbers, and its gradient, of which Adam's first averages are made."""
    key, after, expected = whole
    accumulated, found = step(parts)(key, *run)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-8, err_msg=name)
    gradient, ours = (ravel_pytree(x.opt_state)[0] for x in (after, accumulated))
    assert gradient.dtype == np.float64
    assert np.linalg.norm(ours - gradient) <= 1e-6 * np.linalg.norm(gradient)


def test_the_numbers_of_a_step(whole):
    _, after, whole = whole
    weights = configured().train
    # Every term, the appearance of read examples among them, with its weight.
    terms = sum(weights[term.weight] * whole[name] for name, term in TERMS.items())
    np.testing.assert_allclose(whole["loss"], whole["denoising"] + terms, rtol=1e-9)
    # Every quarter of the timesteps has one of the four examples; α and β sum to 1.
    np.testing.assert_allclose(whole["by_time"][:, 0], 0.25)
    np.testing.assert_allclose(whole["by_time"][:, 1].sum(), whole["denoising"], rtol=1e-5)
    np.testing.assert_allclose(whole["by_time"][:, 2:].sum(1), 0.25, rtol=1e-5)
    networks = [name.split("/")[1] for name in whole if name.startswith("grad_norm/")]
    assert set(networks) == set(after.trainable)
    squares = sum(whole[f"grad_norm/{name}"] ** 2 for name in networks)
    np.testing.assert_allclose(whole["grad_norm"] ** 2, squares, rtol=1e-5)


@pytest.mark.parametrize("field", ["image", "sketch"])
def test_a_step_without_a_number_changes_nothing_but_its_count(rng, run, field):
    state, batch = run
    value = np.array(getattr(batch, field))
    value[rng.integers(4), 3, 3, 0] = rng.choice([np.nan, np.inf])
    broken: Batch = batch._replace(**{field: value})
    key = jax.random.key(int(rng.integers(2**31)))
    after, scalars = step(1)(key, state, broken)
    assert scalars["skipped"] == 1 and after.step == 1
    for name in ("trainable", "ema", "opt_state", "frozen"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(state, name))
    for count in (2, 3):  # the first step's learning rate is 0
        after, scalars = step(1)(key, after, batch)
        assert scalars["skipped"] == 0 and after.step == count
    for name in ("trainable", "ema"):
        for a, b in zip(*(jax.tree.leaves(getattr(x, name)) for x in (after, state)), strict=True):
            assert np.isfinite(a).all() and (np.asarray(a) != np.asarray(b)).any()


def test_the_average_against_numpy_over_steps(rng, run):
    state, batch = run
    one, key = step(1), jax.random.key(int(rng.integers(2**31)))
    average = jax.tree.map(np.float64, state.ema)
    for t in range(3):
        state, _ = one(key, state, batch)
        decay = min(0.999, (1 + t) / (10 + t))
        average = jax.tree.map(
            lambda old, new, decay=decay: decay * old + (1 - decay) * np.float64(new),
            average,
            state.trainable,
        )
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (average, state.ema))
    assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(a)
