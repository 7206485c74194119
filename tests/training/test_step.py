"""What one update is made of: dropout, averages, learning rate, precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import random_batch, random_params, tiny_config, tiny_tokenizer

from ragaf_jax.errors import UserError
from ragaf_jax.nets.build import build_model
from ragaf_jax.training.optim import OPTIMIZERS, learning_rate, optimizer
from ragaf_jax.training.setup import initial_state, objective_of
from ragaf_jax.training.state import ema_decay
from ragaf_jax.training.step import drop_text, dropped, train_step


@pytest.mark.parametrize(("text", "sketch"), [(0.1, 0.1), (0.3, 0.1), (0.05, 0.4), (0.0, 0.2)])
def test_conditions_are_dropped_at_their_rates_and_half_of_the_smaller_together(rng, text, sketch):
    config = tiny_config(1)
    config.train.text_dropout, config.train.sketch_dropout = text, sketch
    objective = objective_of(config, tiny_tokenizer())
    key = jax.random.key(int(rng.integers(2**31)))
    no_text, no_sketch = (np.asarray(x) for x in dropped(objective, key, 100_000))
    assert no_text.mean() == pytest.approx(text, abs=0.008)
    assert no_sketch.mean() == pytest.approx(sketch, abs=0.008)
    assert (no_text & no_sketch).mean() == pytest.approx(min(text, sketch) / 2, abs=0.008)


def test_dropped_text_is_the_empty_prompt(rng):
    config = tiny_config(1)
    objective = objective_of(config, tiny_tokenizer())
    batch = random_batch(rng, config)
    result = drop_text(objective, batch, jnp.array([True, False, True, False]))
    tokens, mask = tiny_tokenizer().encode([""], config.data.text_length)
    np.testing.assert_array_equal(result.tokens[0], tokens[0])
    np.testing.assert_array_equal(result.token_mask[2], mask[0])
    np.testing.assert_array_equal(result.tokens[1::2], batch.tokens[1::2])


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


def test_bfloat16_computes_with_float32_masters_and_keeps_what_is_frozen_small(rng):
    config = tiny_config(2)
    config.model.dtype = "bfloat16"
    config.train.trainable, config.train.frozen = ("ragaf/.*", "control/.*"), (".*",)
    model, tx = build_model(config), optimizer(config.train)
    params = random_params(model, rng)
    state = initial_state(config, model, tx, params)
    assert {x.dtype for x in jax.tree.leaves(state.frozen)} == {jnp.dtype("bfloat16")}
    wide = {x.dtype for x in jax.tree.leaves((state.trainable, state.ema))}
    assert wide == {jnp.dtype("float32")}
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.dtype == jnp.float32]
    assert len(moments) == 2 * len(jax.tree.leaves(state.trainable))
    batch = random_batch(rng, config, config.train.batch_size + config.train.read_examples)

    def loss(config, state):
        objective = objective_of(config, tiny_tokenizer())
        step = functools.partial(train_step, build_model(config), tx, 0.9, objective)
        after, scalars = jax.jit(step)(jax.random.key(1), state, batch)
        jax.tree.map(lambda a, b: np.testing.assert_equal(a.dtype, b.dtype), after, state)
        return float(scalars["loss"])

    narrow = loss(config, state)
    config.model.dtype = "float32"
    plain = loss(config, initial_state(config, model, tx, params))
    assert narrow == pytest.approx(plain, rel=0.03)


def test_the_optimisers_memory_and_their_first_step(rng):
    """Against optax's own AdamW, and Adafactor's equations in float64."""
    config = tiny_config(1).train
    config.update({"warmup_steps": 0, "steps": 10, "clip_norm": 1e9, "weight_decay": 0.1})
    kernel, bias = rng.normal(size=(128, 256)), rng.normal(size=3)
    params = {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}
    gradients = jax.tree.map(lambda x: jnp.float32(rng.normal(size=x.shape)), params)
    states, updates = {}, {}
    for name in OPTIMIZERS:
        config.optimizer = name
        tx = optimizer(config)
        states[name] = tx.init(params)
        updates[name], _ = tx.update(gradients, states[name], params)

    mask = {"kernel": True, "bias": False}
    theirs = optax.adamw(config.learning_rate, b2=0.99, weight_decay=0.1, mask=mask)
    expected, _ = theirs.update(gradients, theirs.init(params), params)
    for name in params:
        np.testing.assert_allclose(updates["adamw"][name], expected[name], rtol=1e-5, atol=1e-9)

    # At the first step the decay of the moments is 0 (Shazeer & Stern 2018, §7.2).
    square = np.float64(gradients["kernel"]) ** 2
    moment = square.mean(1, keepdims=True) * square.mean(0, keepdims=True) / square.mean()
    scaled = np.float64(gradients["kernel"]) / np.sqrt(moment)
    scaled /= max(1.0, np.sqrt(np.mean(scaled**2)))
    expected = -config.learning_rate * (scaled + 0.1 * kernel)
    np.testing.assert_allclose(updates["adafactor"]["kernel"], expected, rtol=1e-3, atol=1e-8)

    sizes = {name: sum(x.size for x in jax.tree.leaves(s)) for name, s in states.items()}
    assert sizes["adamw"] > 2 * kernel.size and sizes["adafactor"] < 0.05 * kernel.size


def test_an_unknown_optimiser():
    config = tiny_config(1).train
    config.optimizer = "adam8bit"
    with pytest.raises(UserError, match=r"optimizer is 'adam8bit'; choose one of adamw, adafactor"):
        optimizer(config)
