"""What one update is made of: dropout, averages, learning rate, precision."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import random_batch, random_params, smallest_config, tiny_config, tiny_tokenizer

from ragaf_jax.conditioning import condition
from ragaf_jax.losses.objective import drop_text, dropped, objective_of, step_inputs
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.regions import place
from ragaf_jax.training.bundles import bundled, unbundled
from ragaf_jax.training.optim import OPTIMIZERS, learning_rate, optimizer
from ragaf_jax.training.setup import initial_state
from ragaf_jax.training.state import ema_decay
from ragaf_jax.training.step import train_step


def dropped_by_numpy(chance, text, sketch):
    """InstructPix2Pix, sec. 3.2.1: some lose their text alone, some both, some the sketch alone.

    Half of the smaller share loses both; each kind has an interval of the chances of its own.
    """
    both = min(text, sketch) / 2
    ends = np.cumsum([text - both, both, sketch - both])
    kind = np.searchsorted(ends, chance, side="right")
    return (kind == 0) | (kind == 1), (kind == 1) | (kind == 2)


def objective_with(config, text, sketch):
    config.train.text_dropout, config.train.sketch_dropout = text, sketch
    return objective_of(config, tiny_tokenizer())


def test_who_loses_what_against_numpy(rng):
    """For the same uniform numbers; over many, the rates are those of the configuration."""
    pairs = [(0.1, 0.1), (0.3, 0.1), (0.05, 0.4), (0.0, 0.2), (0.5, 0.0), (0.0, 0.0), (1.0, 0.0)]
    for text, sketch in [*pairs, tuple(rng.uniform(0, 0.6, 2))]:
        objective = objective_with(tiny_config(1), text, sketch)
        key = jax.random.key(int(rng.integers(2**31)))
        found = [np.asarray(x) for x in dropped(objective, key, 200_000)]
        chance = np.asarray(jax.random.uniform(key, (200_000,)))
        np.testing.assert_array_equal(found, dropped_by_numpy(chance, text, sketch))
        assert found[0].mean() == pytest.approx(text, abs=0.008)
        assert found[1].mean() == pytest.approx(sketch, abs=0.008)
        assert (found[0] & found[1]).mean() == pytest.approx(min(text, sketch) / 2, abs=0.008)


def test_no_random_number_of_a_step_is_used_twice(rng):
    """Noise that equals the draw of the latents could be predicted from the image."""
    config = tiny_config(2)
    objective, batch = objective_of(config, tiny_tokenizer()), random_batch(rng, config, 6)
    keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), 3)
    steps = [step_inputs(objective, key, batch)[0] for key in keys]
    used = [key for step in steps for key in (step.posterior, step.noise, step.dropout)]
    numbers = np.concatenate([jax.random.key_data(key) for key in used])
    assert len(np.unique(numbers, axis=0)) == len(numbers) == 3 * 3 * 4


@pytest.mark.parametrize("cached", [False, True])
def test_dropped_text_is_the_empty_prompt(rng, cached):
    """Its tokens and its mask, and its states where these come with the batch."""
    config = tiny_config(1)
    objective, batch = objective_of(config, tiny_tokenizer()), random_batch(rng, config)
    tokens, mask = tiny_tokenizer().encode([""], config.data.text_length)
    if cached:
        states = rng.standard_normal((5, *tokens.shape[1:], 16)).astype(np.float32)
        empty = objective.empty_text._replace(states=states[4:])
        objective = dataclasses.replace(objective, empty_text=empty)
        batch = batch._replace(text=batch.text._replace(states=jnp.bfloat16(states[:4])))
    lost = rng.permutation([True, False, True, False])
    expected = batch._replace(text=jax.tree.map(np.array, batch.text))
    expected.text.tokens[lost], expected.text.mask[lost] = tokens[0], mask[0]
    if cached:
        expected.text.states[lost] = states[4].astype(jnp.bfloat16)
    found = drop_text(objective, batch, jnp.asarray(lost))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(("text", "sketch"), [(1.0, 0.0), (0.0, 1.0)])
def test_a_step_drops_what_its_configuration_says(rng, text, sketch):
    """Of the examples that it denoises; those that RAGAF only reads keep all they have."""
    config = tiny_config(2)
    batch = random_batch(rng, config, 6)
    objective = objective_with(config, text, sketch)
    denoised, ragaf_only = step_inputs(objective, jax.random.key(int(rng.integers(2**31))), batch)
    np.testing.assert_array_equal(denoised.keep_sketch, np.full(4, 1 - sketch))
    kept = jax.tree.map(lambda x: x[:4], batch)
    expected = drop_text(objective, kept, jnp.full(4, text == 1))
    jax.tree.map(np.testing.assert_array_equal, denoised.batch, expected)
    jax.tree.map(
        np.testing.assert_array_equal, ragaf_only.batch, jax.tree.map(lambda x: x[4:], batch)
    )


def test_a_dropped_sketch_and_its_regions_are_not_seen(rng):
    """Nothing of them is left in what the networks are given, nor in what they predict."""
    config = smallest_config(2)
    model = build_model(config)
    params, batch = random_params(model, rng), random_batch(rng, config)
    keep = rng.permutation([1.0, 0.0, 1.0, 0.0]).astype(np.float32)
    other = random_batch(rng, config)._replace(text=batch.text)
    latents = rng.standard_normal((4, *model.latent_shape)).astype(np.float32)
    times = rng.uniform(0, 999, 4).astype(np.float32)

    @jax.jit
    def seen(batch, params, keep, latents, times):
        conditioning = condition(model, params, batch, keep)
        return conditioning, model.predict(params, latents, times, conditioning)[0]

    given = (params, keep, latents, times)
    (conditioning, prediction), (_, of_other) = seen(batch, *given), seen(other, *given)
    np.testing.assert_array_equal(conditioning.sketch, batch.sketch * keep[:, None, None, None])
    assert len(conditioning.regions.shares) == model.levels
    for level, shares in enumerate(conditioning.regions.shares):
        one_hot = np.eye(config.data.max_regions)[batch.labels]
        side = model.latent_shape[0] >> level
        step = config.data.image_size // side
        cells = one_hot.reshape(4, side, step, side, step, -1).mean((2, 4)).reshape(4, side**2, -1)
        np.testing.assert_allclose(shares, cells, atol=1e-6)
        signal = (jnp.ones((4, shares.shape[2], 1)), jnp.ones((4, shares.shape[2], 1)))
        placed = place(signal, shares, conditioning.regions.active).share
        np.testing.assert_allclose(placed, cells * keep[:, None, None], atol=1e-6)
    difference = np.abs(prediction - of_other).max((1, 2, 3))
    assert (difference[keep == 0] == 0).all() and (difference[keep == 1] > 1e-3).all()


def test_the_average_forgets_its_beginning():
    assert float(ema_decay(jnp.int32(0), 0.999)) == pytest.approx(0.1)
    assert float(ema_decay(jnp.int32(90), 0.999)) == pytest.approx(0.91)
    assert float(ema_decay(jnp.int32(10**6), 0.999)) == pytest.approx(0.999)


def test_the_learning_rate_warms_up_and_falls_to_a_hundredth():
    config = tiny_config(1).train
    config.steps, config.warmup_steps, config.learning_rate = 200, 20, 1e-3
    rate = learning_rate(config)
    assert float(rate(0)) == 0
    assert float(rate(10)) == pytest.approx(5e-4)
    assert float(rate(20)) == pytest.approx(1e-3)
    assert float(rate(110)) == pytest.approx((1e-3 + 1e-5) / 2, rel=1e-3)
    assert float(rate(200)) == pytest.approx(1e-5)
    assert float(rate(300)) == pytest.approx(1e-5)


def test_the_learning_rate_is_optaxs(rng):
    config = tiny_config(1).train
    for _ in range(5):
        config.steps, config.learning_rate = int(rng.integers(1, 300)), float(rng.uniform(1e-5, 1))
        config.warmup_steps = int(rng.integers(0, config.steps + 1))
        theirs = optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=config.learning_rate,
            warmup_steps=config.warmup_steps,
            decay_steps=max(config.steps, config.warmup_steps + 1),
            end_value=config.learning_rate / 100,
        )
        counts = jnp.arange(config.steps + 1)
        found, expected = (jax.vmap(rate)(counts) for rate in (learning_rate(config), theirs))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * config.learning_rate)


@pytest.mark.slow
def test_bfloat16_computes_with_float32_masters_and_keeps_what_is_frozen_small():
    """On one fixed batch: how near the losses of the two precisions are varies with the numbers."""
    config, rng = smallest_config(2), np.random.default_rng(0)
    config.model.dtype = "bfloat16"
    config.train.trainable, config.train.frozen = ("ragaf/.*", "control/.*"), (".*",)
    model, tx = build_model(config), optimizer(config.train)
    params = random_params(model, rng)
    state = initial_state(config, model, tx, params)
    assert {x.dtype for x in jax.tree.leaves(state.frozen)} == {jnp.dtype("bfloat16")}
    wide = {x.dtype for x in jax.tree.leaves((state.trainable, state.ema))}
    assert wide == {jnp.dtype("float32")}
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.dtype == jnp.float32]
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (moments, state.trainable)]
    # Two a parameter, and what fills up two bundles of a network.
    assert 2 * sizes[1] <= sizes[0] < 2 * (sizes[1] + 2 * 3072 * len(state.trainable))
    batch = random_batch(rng, config, config.train.batch_size + config.train.read_examples)

    def step(config):
        objective = objective_of(config, tiny_tokenizer())
        step = functools.partial(train_step, build_model(config), tx, 0.9, objective)
        return functools.partial(step, jax.random.key(1))

    after, scalars = jax.jit(step(config))(state, batch)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.dtype, b.dtype), after, state)
    config.model.dtype = "float32"
    # Of the loss alone, XLA compiles no more than it needs.
    plain = jax.jit(lambda *given: step(config)(*given)[1]["loss"])
    wide = initial_state(config, model, tx, params)
    assert float(scalars["loss"]) == pytest.approx(float(plain(wide, batch)), rel=0.03)


def test_the_optimisers_memory_and_their_first_step(rng):
    """Against optax's own AdamW, and Adafactor's equations in float64."""
    config = tiny_config(1).train
    config.update({"warmup_steps": 0, "steps": 10, "clip_norm": 1e9, "weight_decay": 0.1})
    kernel, bias = rng.normal(size=(128, 256)), rng.normal(size=3)
    params = {"net": {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}}
    gradients = jax.tree.map(lambda x: jnp.float32(rng.normal(size=x.shape)), params)
    states, updates = {}, {}
    for name in OPTIMIZERS:
        config.optimizer = name
        tx = optimizer(config)
        packed = bundled((params, gradients)) if tx.bundles else (params, gradients)
        states[name] = tx.rule.init(packed[0])
        found, _ = tx.rule.update(packed[1], states[name], packed[0])
        updates[name] = unbundled(found, params) if tx.bundles else found

    mask = {"net": {"kernel": True, "bias": False}}
    theirs = optax.adamw(config.learning_rate, b2=0.99, weight_decay=0.1, mask=mask)
    expected, _ = theirs.update(gradients, theirs.init(params), params)
    for name, leaf in expected["net"].items():
        np.testing.assert_allclose(updates["adamw"]["net"][name], leaf, rtol=1e-5, atol=1e-9)

    # At the first step the decay of the moments is 0 (Shazeer & Stern 2018, §7.2).
    square = np.float64(gradients["net"]["kernel"]) ** 2
    moment = square.mean(1, keepdims=True) * square.mean(0, keepdims=True) / square.mean()
    scaled = np.float64(gradients["net"]["kernel"]) / np.sqrt(moment)
    scaled /= max(1.0, np.sqrt(np.mean(scaled**2)))
    expected = -config.learning_rate * (scaled + 0.1 * kernel)
    found = updates["adafactor"]["net"]["kernel"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-8)

    sizes = {name: sum(x.size for x in jax.tree.leaves(s)) for name, s in states.items()}
    assert sizes["adamw"] > 2 * kernel.size and sizes["adafactor"] < 0.05 * kernel.size


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_reaches_no_weight(rng, monkeypatch, number):
    """Though the loss is finite."""
    config = smallest_config(1)
    model, tx = build_model(config), optimizer(config.train)
    state = initial_state(config, model, tx, random_params(model, rng))
    gradients = jax.tree.map(np.ones_like, state.trainable)
    jax.tree.leaves(gradients)[0].flat[0] = number
    loss = jnp.float32(1), {"denoising": jnp.float32(1)}
    monkeypatch.setattr("ragaf_jax.training.step.value_and_gradient", lambda *_: (loss, gradients))
    step = functools.partial(train_step, model, tx, 0.999, objective_of(config, tiny_tokenizer()))
    after, scalars = jax.jit(step)(jax.random.key(0), state, random_batch(rng, config))
    assert scalars["skipped"] == 1 and np.isfinite(scalars["loss"])
    for name in ("trainable", "ema", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(state, name))


def test_an_update_calls_no_functions_in_the_loops_over_parameters(rng):
    """When a compiled step is read back, each object that calls one waits for the next on the stack
    of one thread: a thousand overran it, and the process ended without a word.
    """
    config = tiny_config(2)
    model, tx = build_model(config), optimizer(config.train)
    params = random_params(model, rng)

    def update(gradients, state):
        updates, state = tx.rule.update(bundled(gradients), state, bundled(params))
        return unbundled(updates, params), state

    compiled = jax.jit(update).lower(params, tx.rule.init(bundled(params))).compile()
    calls = re.findall(r"= f32\[\S* (cosine|sine|power)\(", compiled.as_text())
    assert len(calls) < 20
